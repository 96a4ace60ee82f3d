//! Whether what was written to a block and read from it could have happened one after the other.
//!
//! A block is a register. Writes have values of their own, so the question is answered without a
//! search (Gibbons and Korach, "Testing Shared Memories", 1997): a write and the reads that
//! returned its value are a cluster; its zone goes from the first end to the last beginning of any
//! of them. A zone that runs forward is a time in which the block had that value throughout; so no
//! two of these may overlap, and no other cluster may lie in one with all that it is. That finds
//! stale reads, lost writes, and values that come back.
//!
//! When all power is lost, a block comes back as the last value that is durable for certain, or as
//! any that may have come after it. With that a new history begins, which must be possible with one
//! of these at its beginning.
//!
//! Writes of zeroes share their value. Those acknowledged are clusters without reads, and a read
//! of zeroes is given to the only one that it can be from; where there are several it is let pass.

use std::collections::BTreeMap;

use super::content::Stamp;

/// A moment of a run: hosts' submissions and completions, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// After all moments.
const NEVER: Moment = Moment(u64::MAX);
/// Before all of them.
const BEGINNING: Moment = Moment(0);

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet, or with an error, or its host is gone: it may be done at any time, or never.
    Unknown,
    /// Well.
    Acknowledged(Moment),
}

#[derive(Clone, Copy, Debug)]
struct Cluster {
    stamp: Stamp,
    began: Moment,
    outcome: Outcome,
    /// First end and last beginning of the write and its reads.
    first_end: Moment,
    last_begin: Moment,
    is_read: bool,
    /// A loss of power does not undo it.
    is_durable: bool,
}

impl Cluster {
    fn new(stamp: Stamp, began: Moment) -> Cluster {
        let (outcome, is_read, is_durable) = (Outcome::Unknown, false, false);
        Cluster { stamp, began, outcome, first_end: NEVER, last_begin: began, is_read, is_durable }
    }

    /// There from the beginning.
    fn first(stamp: Stamp) -> Cluster {
        let mut first = Cluster::new(stamp, BEGINNING);
        first.outcome = Outcome::Acknowledged(BEGINNING);
        first.first_end = BEGINNING;
        first
    }

    fn ended(&self) -> Moment {
        match self.outcome {
            Outcome::Unknown => NEVER,
            Outcome::Acknowledged(at) => at,
        }
    }

    /// It has been there for certain.
    fn is_certain(&self) -> bool {
        self.is_read || self.outcome != Outcome::Unknown
    }

    fn read(&mut self, began: Moment, ended: Moment) {
        self.is_read = true;
        self.first_end = self.first_end.min(ended);
        self.last_begin = self.last_begin.max(began);
    }
}

/// What a history breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// A value before its write.
    #[error("write {0:?} was read before it was submitted, or never was")]
    FromNowhere(Stamp),
    /// A read of zeroes that no write left.
    #[error("zeroes were read from {began:?} to {ended:?}, when other data was there")]
    Zeroes {
        /// Begin of the read.
        began: Moment,
        /// End of the read.
        ended: Moment,
    },
    /// Two values of before a loss of power.
    #[error("after a loss of power, {other:?} was read, and a block cannot have been {one:?} too")]
    Two {
        /// What it was.
        one: Stamp,
        /// What else was read.
        other: Stamp,
    },
    /// Two values that were both there all the time, or one inside the time of the other.
    #[error("writes {one:?} and {other:?} cannot be put in an order: {why}")]
    Order {
        /// One of them.
        one: Stamp,
        /// The other.
        other: Stamp,
        /// When each was there.
        why: String,
    },
}

/// The history of a block.
#[derive(Clone, Debug)]
pub struct Register {
    written: BTreeMap<Stamp, Cluster>,
    /// Clusters of zeroes: the beginning, and every write of zeroes.
    zeroes: Vec<Cluster>,
    zero_reads: Vec<(Moment, Moment)>,
    /// What may have been there when power came back; empty where it never went, and zeroes were.
    candidates: Vec<Stamp>,
    /// Whichever it is, it is durable by now.
    is_first_durable: bool,
}

/// Names a write to its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteName {
    /// One with a value of its own.
    Data(Stamp),
    /// One of zeroes, by its number, which its blocks do not carry.
    Zeroes(Stamp),
}

impl Default for Register {
    fn default() -> Self {
        Register::new()
    }
}

impl Register {
    /// Zeroes, which have always been there.
    pub fn new() -> Register {
        Register {
            written: BTreeMap::new(),
            zeroes: vec![Cluster::first(Stamp::ZERO)],
            zero_reads: Vec::new(),
            candidates: Vec::new(),
            is_first_durable: true,
        }
    }

    fn cluster(&mut self, name: WriteName) -> Option<&mut Cluster> {
        match name {
            WriteName::Data(stamp) => self.written.get_mut(&stamp),
            WriteName::Zeroes(stamp) => self.zeroes.iter_mut().find(|known| known.stamp == stamp),
        }
    }

    /// A write is submitted.
    pub fn begin_write(&mut self, name: WriteName, at: Moment) {
        match name {
            WriteName::Data(stamp) => drop(self.written.insert(stamp, Cluster::new(stamp, at))),
            WriteName::Zeroes(stamp) => self.zeroes.push(Cluster::new(stamp, at)),
        }
    }

    /// A write has ended well.
    pub fn acknowledge(&mut self, name: WriteName, at: Moment) {
        let cluster = self.cluster(name).expect("a write that ends has begun");
        cluster.outcome = Outcome::Acknowledged(at);
        cluster.first_end = cluster.first_end.min(at);
    }

    /// A write that has ended well is durable.
    pub fn make_durable(&mut self, name: WriteName) {
        self.cluster(name).expect("a write that ends has begun").is_durable = true;
    }

    /// A flush that began at this moment has ended well.
    pub fn flushed(&mut self, began: Moment) {
        self.is_first_durable = true;
        for known in self.written.values_mut().chain(&mut self.zeroes) {
            known.is_durable |= known.ended() < began;
        }
    }

    /// All power is lost. What has happened until now must have been possible.
    pub fn lose_power(&mut self) -> Result<(), Impossible> {
        self.check()?;
        let all = || self.written.values().chain(&self.zeroes);
        let is_overwritten =
            |known: &Cluster| all().any(|other| other.is_durable && other.began > known.first_end);
        let is_first = |known: &&Cluster| self.candidates.contains(&known.stamp);
        let may_be = |known: &&Cluster| {
            !is_first(known) && !is_overwritten(known) && known.began > BEGINNING
        };
        let written = self.written.values().filter(may_be).map(|known| known.stamp);
        let zeroes = self.zeroes.iter().filter(may_be).map(|_| Stamp::ZERO);
        let mut candidates: Vec<Stamp> = written.chain(zeroes).collect();
        let first = match self.candidates.is_empty() {
            true => vec![Stamp::ZERO],
            false => self.candidates.clone(),
        };
        let is_read = |stamp: &Stamp| self.written.get(stamp).is_some_and(|known| known.is_read);
        let known = first.iter().copied().find(is_read).filter(|_| self.is_first_durable);
        if !all().any(|other| other.is_durable && other.began > BEGINNING) {
            candidates.extend(known.map_or(first, |known| vec![known]));
        }
        candidates.sort_unstable();
        candidates.dedup();
        let begun = |stamp: &Stamp| (*stamp, Cluster::new(*stamp, BEGINNING));
        *self = Register {
            written: candidates.iter().filter(|one| **one != Stamp::ZERO).map(begun).collect(),
            zeroes: Vec::new(),
            zero_reads: Vec::new(),
            candidates,
            is_first_durable: false,
        };
        Ok(())
    }

    /// As if this had been there when power came back.
    fn begun_with(&self, first: Stamp) -> Result<Register, Impossible> {
        let mut register = self.clone();
        register.candidates.clear();
        for other in self.candidates.iter().filter(|other| **other != first) {
            let gone = register.written.remove(other);
            if gone.is_some_and(|gone| gone.is_read) {
                return Err(Impossible::Two { one: first, other: *other });
            }
        }
        match register.written.get_mut(&first) {
            Some(known) => {
                known.outcome = Outcome::Acknowledged(BEGINNING);
                known.first_end = BEGINNING;
            }
            None => register.zeroes.push(Cluster::first(Stamp::ZERO)),
        }
        Ok(register)
    }

    /// A read that returned a value.
    pub fn read(&mut self, value: Stamp, began: Moment, ended: Moment) -> Result<(), Impossible> {
        if value == Stamp::ZERO {
            self.zero_reads.push((began, ended));
            return Ok(());
        }
        match self.written.get_mut(&value) {
            Some(cluster) if cluster.began < ended => cluster.read(began, ended),
            _ => return Err(Impossible::FromNowhere(value)),
        }
        Ok(())
    }

    /// Whether there is an order.
    pub fn check(&self) -> Result<(), Impossible> {
        let mut result = match self.candidates.is_empty() {
            true => self.check_order(),
            false => Ok(()),
        };
        for first in &self.candidates {
            result = self.begun_with(*first).and_then(|register| register.check_order());
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn check_order(&self) -> Result<(), Impossible> {
        let mut zeroes = self.zeroes.clone();
        for (began, ended) in &self.zero_reads {
            let possible = |cluster: &&mut Cluster| {
                cluster.began < *ended && !self.is_overwritten(cluster, *began)
            };
            let mut candidates = zeroes.iter_mut().filter(possible);
            match (candidates.next(), candidates.next()) {
                (None, _) => return Err(Impossible::Zeroes { began: *began, ended: *ended }),
                (Some(only), None) => only.read(*began, *ended),
                (Some(_), Some(_)) => {}
            }
        }
        let certain = self.written.values().chain(&zeroes).filter(|known| known.is_certain());
        check_zones(&certain.collect::<Vec<_>>())
    }

    /// Another write came after this one for certain, and ended before `by`.
    fn is_overwritten(&self, cluster: &Cluster, by: Moment) -> bool {
        let all = self.written.values().chain(&self.zeroes);
        let mut others = all.filter(|other| other.stamp != cluster.stamp);
        others.any(|other| other.began > cluster.ended() && other.ended() < by)
    }
}

fn check_zones(clusters: &[&Cluster]) -> Result<(), Impossible> {
    let mut forward: Vec<&&Cluster> =
        clusters.iter().filter(|known| known.first_end < known.last_begin).collect();
    forward.sort_by_key(|known| known.first_end);
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_begin {
            return Err(disorder(pair[0], pair[1]));
        }
    }
    for backward in clusters.iter().filter(|known| known.first_end >= known.last_begin) {
        let around = |known: &&&&Cluster| {
            known.first_end < backward.last_begin && backward.first_end < known.last_begin
        };
        if let Some(known) = forward.iter().find(around) {
            return Err(disorder(known, backward));
        }
    }
    Ok(())
}

fn disorder(one: &Cluster, other: &Cluster) -> Impossible {
    let zone = |known: &Cluster| {
        let (began, end) = (known.began.0, known.outcome);
        format!("{began} to {end:?}, first end {}, last begin {}", known.first_end.0, {
            known.last_begin.0
        })
    };
    let why = format!("{}; {}", zone(one), zone(other));
    Impossible::Order { one: one.stamp, other: other.stamp, why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;

    fn wrote(register: &mut Register, stamp: u64, began: u64, ended: u64) {
        let name = WriteName::Data(Stamp(stamp));
        register.begin_write(name, Moment(began));
        register.acknowledge(name, Moment(ended));
    }

    fn read(register: &mut Register, stamp: u64, began: u64, ended: u64) {
        register.read(Stamp(stamp), Moment(began), Moment(ended)).unwrap();
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut register = Register::new();
        wrote(&mut register, 1, 1, 2);
        wrote(&mut register, 2, 3, 4);
        read(&mut register, 2, 5, 6);
        assert_eq!(register.check(), Ok(()));
        read(&mut register, 1, 7, 8);
        assert!(matches!(register.check(), Err(Impossible::Order { .. })));
    }

    #[test]
    fn a_lost_write_is_found_also_when_zeroes_come_back() {
        let mut register = Register::new();
        read(&mut register, 0, 1, 2);
        wrote(&mut register, 1, 3, 4);
        assert_eq!(register.check(), Ok(()));
        read(&mut register, 0, 5, 6);
        assert!(matches!(register.check(), Err(Impossible::Zeroes { .. })));
    }

    #[test]
    fn new_then_old_is_found_though_both_writes_were_in_flight() {
        let mut register = Register::new();
        wrote(&mut register, 1, 1, 20);
        wrote(&mut register, 2, 2, 21);
        read(&mut register, 1, 3, 4);
        read(&mut register, 2, 5, 6);
        assert_eq!(register.check(), Ok(()));
        read(&mut register, 1, 7, 8);
        assert!(matches!(register.check(), Err(Impossible::Order { .. })));
    }

    #[test]
    fn a_write_that_failed_may_be_there_or_not_but_not_go_away_again() {
        let mut register = Register::new();
        wrote(&mut register, 1, 1, 2);
        register.begin_write(WriteName::Data(Stamp(2)), Moment(3));
        read(&mut register, 1, 4, 5);
        read(&mut register, 2, 6, 7);
        assert_eq!(register.check(), Ok(()));
        read(&mut register, 1, 8, 9);
        assert!(register.check().is_err());
    }

    #[test]
    fn what_was_not_written_yet_cannot_be_read() {
        let mut register = Register::new();
        wrote(&mut register, 1, 5, 6);
        let early = register.read(Stamp(1), Moment(2), Moment(3));
        assert_eq!(early, Err(Impossible::FromNowhere(Stamp(1))));
        assert!(register.read(Stamp(7), Moment(8), Moment(9)).is_err());
    }

    #[test]
    fn a_write_of_zeroes_is_a_write() {
        let mut register = Register::new();
        wrote(&mut register, 1, 1, 2);
        let zeroes = WriteName::Zeroes(Stamp(2));
        register.begin_write(zeroes, Moment(3));
        register.acknowledge(zeroes, Moment(4));
        read(&mut register, 0, 5, 6);
        assert_eq!(register.check(), Ok(()));
        read(&mut register, 1, 7, 8);
        assert!(register.check().is_err());
    }

    #[test]
    fn a_loss_of_power_takes_what_was_not_flushed_and_nothing_else() {
        let begin = || {
            let mut register = Register::new();
            wrote(&mut register, 1, 1, 2);
            register.flushed(Moment(3));
            wrote(&mut register, 2, 3, 4);
            wrote(&mut register, 3, 5, 6);
            register.lose_power().unwrap();
            register
        };
        for survivor in 1..=3 {
            let mut register = begin();
            read(&mut register, survivor, 7, 8);
            read(&mut register, survivor, 9, 10);
            assert_eq!(register.check(), Ok(()), "{survivor}");
        }
        let mut flips = begin();
        read(&mut flips, 3, 7, 8);
        read(&mut flips, 2, 9, 10);
        assert!(flips.check().is_err());
        let mut lost = begin();
        read(&mut lost, 0, 7, 8);
        assert!(lost.check().is_err());
    }

    #[test]
    fn what_was_there_after_a_loss_of_power_stays_once_it_was_flushed() {
        let twice = |is_flushed: bool| {
            let mut register = Register::new();
            wrote(&mut register, 1, 1, 2);
            wrote(&mut register, 2, 3, 4);
            register.lose_power().unwrap();
            read(&mut register, 2, 5, 6);
            if is_flushed {
                register.flushed(Moment(7));
            }
            register.lose_power().unwrap();
            register.read(Stamp(1), Moment(8), Moment(9)).and_then(|()| register.check())
        };
        assert_eq!(twice(false), Ok(()));
        assert!(twice(true).is_err());
    }

    #[test]
    fn a_write_of_zeroes_that_is_durable_leaves_nothing_older() {
        let mut register = Register::new();
        wrote(&mut register, 1, 1, 2);
        let zeroes = WriteName::Zeroes(Stamp(2));
        register.begin_write(zeroes, Moment(3));
        register.acknowledge(zeroes, Moment(4));
        register.make_durable(zeroes);
        register.lose_power().unwrap();
        read(&mut register, 0, 5, 6);
        assert_eq!(register.check(), Ok(()));
        assert!(register.read(Stamp(1), Moment(7), Moment(8)).is_err());
    }

    /// Histories of a real register, each operation taking effect at once somewhere between its
    /// begin and its end: all must pass.
    #[test]
    fn what_a_real_register_does_is_possible() {
        let step = (any::<bool>(), 0_u64..40, 0_u64..40, 0_u64..40);
        let steps = prop::collection::vec(step, 1..30);
        TestRunner::default()
            .run(&steps, |steps| {
                let mut history: Vec<(u64, u64, u64, bool)> = Vec::new();
                for (number, (is_write, at, before, after)) in (0..).zip(steps) {
                    // Moments are unique: scaled, and told apart by the step's number.
                    let scale = |time: u64| 1 + time * 1_000 + number * 3;
                    let effect = scale(at) + 1;
                    let (begin, end) = (scale(at.saturating_sub(before)), scale(at + after) + 2);
                    history.push((effect, begin, end, is_write));
                }
                history.sort_unstable();
                let (mut register, mut value, mut next) = (Register::new(), 0, 1);
                for (_, begin, end, is_write) in &history {
                    if *is_write {
                        wrote(&mut register, next, *begin, *end);
                        (value, next) = (next, next + 1);
                    } else {
                        read(&mut register, value, *begin, *end);
                    }
                }
                prop_assert_eq!(register.check(), Ok(()));
                Ok(())
            })
            .unwrap();
    }
}
