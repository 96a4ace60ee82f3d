//! Which I/Os a fault or a delay meets: by operation, place, number and chance.
//!
//! A device holds [`Rules`], which a control thread may exchange at any time; each queue pair
//! follows a snapshot with counters and random numbers of its own ([`Follower`]), so that cores
//! share nothing but a version number that is read. From one seed a queue pair always takes the
//! same decisions; its random numbers are apart from everybody else's.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reactor::random::Random;

use crate::device::OperationSet;
use crate::io::Io;

/// Which of the I/Os that fit are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// All.
    Always,
    /// The first so many on each queue pair.
    First(u64),
    /// Every so-manieth on each queue pair: with 3 the third, the sixth and so on. Zero is none.
    Every(u64),
}

/// Which I/Os are met. All conditions must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// Operations.
    pub operations: OperationSet,
    /// Blocks, one of which the I/O must have. A flush, which has none, is met by any range.
    pub lbas: Range<u64>,
    /// Which of those that fit operation and range.
    pub count: Count,
    /// Probability, 0.0 to 1.0, for each of those.
    pub probability: f64,
}

impl Default for Match {
    /// Every I/O.
    fn default() -> Match {
        Match {
            operations: OperationSet::ALL,
            lbas: 0..u64::MAX,
            count: Count::Always,
            probability: 1.0,
        }
    }
}

impl Match {
    fn fits(&self, io: &Io) -> bool {
        let end = io.lba.0.saturating_add(u64::from(io.blocks));
        let inside = io.blocks == 0 || (io.lba.0 < self.lbas.end && self.lbas.start < end);
        self.operations.contains(io.operation) && inside
    }
}

/// What a rule does to the I/Os that it meets.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule<E> {
    /// Which.
    pub meets: Match,
    /// What happens to them.
    pub effect: E,
}

/// The rules of a device and the seed of its chances.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSet<E> {
    /// In order: the first that meets an I/O decides.
    pub rules: Vec<Rule<E>>,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl<E> Default for RuleSet<E> {
    fn default() -> Self {
        RuleSet { rules: Vec::new(), seed: 0 }
    }
}

/// Rules in force, to be exchanged by a control thread.
#[derive(Debug)]
pub(crate) struct Rules<E> {
    version: AtomicU64,
    current: Mutex<Arc<RuleSet<E>>>,
}

impl<E> Rules<E> {
    pub(crate) fn new(set: RuleSet<E>) -> Arc<Rules<E>> {
        Arc::new(Rules { version: AtomicU64::new(0), current: Mutex::new(Arc::new(set)) })
    }

    /// Puts others in force; each queue pair follows at its next I/O, and counts from zero.
    pub(crate) fn exchange(&self, set: RuleSet<E>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
        // Release, partner: the acquire load in `Follower::decide`.
        self.version.fetch_add(1, Ordering::Release);
    }

    fn snapshot(&self) -> Arc<RuleSet<E>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A queue pair's view of the rules.
#[derive(Debug)]
pub(crate) struct Follower<E> {
    rules: Arc<Rules<E>>,
    version: u64,
    set: Arc<RuleSet<E>>,
    /// By rule: I/Os that fitted.
    fitted: Vec<u64>,
    pub(crate) random: Random,
}

impl<E: Clone> Follower<E> {
    pub(crate) fn new(rules: Arc<Rules<E>>) -> Follower<E> {
        // Acquire, partner: the release in `exchange`. Read first: at worst one exchange too many
        // is noticed later.
        let version = rules.version.load(Ordering::Acquire);
        let set = rules.snapshot();
        let (fitted, random) = (vec![0; set.rules.len()], Random::new(set.seed));
        Follower { rules, version, set, fitted, random }
    }

    /// The effect of the first rule that meets the I/O.
    pub(crate) fn decide(&mut self, io: &Io) -> Option<E> {
        // Acquire, partner: the release in `exchange`.
        if self.rules.version.load(Ordering::Acquire) != self.version {
            *self = Follower::new(self.rules.clone());
        }
        for (rule, fitted) in self.set.rules.iter().zip(&mut self.fitted) {
            if !rule.meets.fits(io) {
                continue;
            }
            *fitted += 1;
            let counts = match rule.meets.count {
                Count::Always => true,
                Count::First(count) => *fitted <= count,
                Count::Every(count) => fitted.checked_rem(count) == Some(0),
            };
            if counts && self.random.chance(rule.meets.probability) {
                return Some(rule.effect.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Lba, Memory, Operation, Token};

    fn io(operation: Operation, lba: u64, blocks: u32) -> Io {
        Io::with_memory(operation, Lba(lba), blocks, Memory::None, Token(0))
    }

    fn follower(meets: Match, seed: u64) -> Follower<()> {
        let rules = vec![Rule { meets, effect: () }];
        Follower::new(Rules::new(RuleSet { rules, seed }))
    }

    fn hits(meets: Match, seed: u64) -> Vec<usize> {
        let mut follower = follower(meets, seed);
        let io = io(Operation::Read, 0, 1);
        (1..=12).filter(|_| follower.decide(&io).is_some()).collect()
    }

    #[test]
    fn the_first_so_many_or_every_so_manieth_are_met() {
        let count = |count| Match { count, ..Match::default() };
        assert_eq!(hits(count(Count::Always), 0).len(), 12);
        assert_eq!(hits(count(Count::First(2)), 0), [1, 2]);
        assert_eq!(hits(count(Count::Every(5)), 0), [5, 10]);
        assert_eq!(hits(count(Count::Every(0)), 0), [0; 0]);
    }

    #[test]
    fn chances_repeat_with_the_seed() {
        let chance = |probability| Match { probability, ..Match::default() };
        assert_eq!(hits(chance(0.5), 3), hits(chance(0.5), 3));
        assert_ne!(hits(chance(0.5), 3), hits(chance(0.5), 4));
        assert_eq!(hits(chance(0.0), 3), [0; 0]);
    }

    #[test]
    fn operation_and_range_must_fit() {
        let none = OperationSet::ALL.without(Operation::Write);
        let meets = Match { operations: none, lbas: 10..20, ..Match::default() };
        let mut follower = follower(meets, 0);
        let mut met =
            |operation, lba, blocks| follower.decide(&io(operation, lba, blocks)).is_some();
        assert!(met(Operation::Read, 10, 1) && met(Operation::Read, 19, 5));
        assert!(met(Operation::Read, 5, 6) && met(Operation::Flush, 0, 0));
        assert!(!met(Operation::Read, 5, 5) && !met(Operation::Read, 20, 1));
        assert!(!met(Operation::Write, 10, 1));
    }

    #[test]
    fn exchanged_rules_are_followed_at_the_next_io() {
        let rules = Rules::new(RuleSet::default());
        let mut follower = Follower::new(rules.clone());
        let read = io(Operation::Read, 0, 1);
        assert_eq!(follower.decide(&read), None);
        let rule = Rule { meets: Match::default(), effect: 7 };
        rules.exchange(RuleSet { rules: vec![rule], seed: 0 });
        assert_eq!(follower.decide(&read), Some(7));
    }
}
