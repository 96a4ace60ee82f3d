//! What happened in a run, in order: a hash by which two runs of a seed are compared, and on
//! request the lines themselves.
//!
//! Every part of a run writes to one trace, cloned freely; all on one thread. The lock is there
//! because devices are shared by type, and nobody waits for it.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reactor::Nanos;

/// Lines that are kept for a run that fails.
pub const LINES_KEPT: usize = 400;

/// FNV-1a, 64 bits: the offset and the prime of its authors.
const HASH_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const HASH_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Whether lines are made of events at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Only the hash.
    None,
    /// The last [`LINES_KEPT`] are kept.
    Kept,
    /// Printed as they come.
    Printed,
}

#[derive(Debug)]
struct Inner {
    hash: u64,
    events: u64,
    now: Nanos,
    lines: Lines,
    kept: VecDeque<String>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<Inner>>);

impl Trace {
    /// An empty trace.
    pub fn new(lines: Lines) -> Trace {
        let kept = VecDeque::new();
        let inner = Inner { hash: HASH_OFFSET, events: 0, now: Nanos(0), lines, kept };
        Trace(Arc::new(Mutex::new(inner)))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the time at which events happen from now on.
    pub fn set_now(&self, now: Nanos) {
        self.inner().now = now;
    }

    /// Adds an event: a word for its kind and up to three numbers.
    pub fn note(&self, kind: &'static str, numbers: [u64; 3]) {
        let mut inner = self.inner();
        let mut hash = inner.hash;
        let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(HASH_PRIME);
        kind.bytes().for_each(&mut add);
        inner.now.0.to_le_bytes().into_iter().for_each(&mut add);
        numbers.iter().flat_map(|number| number.to_le_bytes()).for_each(&mut add);
        inner.hash = hash;
        inner.events += 1;
        if inner.lines == Lines::None {
            return;
        }
        let micros = inner.now.0 as f64 / 1e3;
        let [one, two, three] = numbers;
        let line = format!("{micros:14.3} us  {kind:24} {one:>6} {two:>8} {three:>8}");
        inner.keep(line);
    }

    /// Adds words for a reader, where lines are made; not part of the hash.
    pub fn say(&self, words: impl FnOnce() -> String) {
        let mut inner = self.inner();
        if inner.lines != Lines::None {
            let line = format!("{:17}  {}", "", words());
            inner.keep(line);
        }
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.inner().hash
    }

    /// How many there were.
    pub fn events(&self) -> u64 {
        self.inner().events
    }

    /// The last lines, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        self.inner().kept.iter().cloned().collect()
    }
}

impl Inner {
    fn keep(&mut self, line: String) {
        if self.lines == Lines::Printed {
            println!("{line}");
            return;
        }
        if self.kept.len() == LINES_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_part_of_an_event_and_on_their_order() {
        let hash = |events: &[(u64, &'static str, u64)]| {
            let trace = Trace::new(Lines::None);
            for (at, kind, number) in events {
                trace.set_now(Nanos(*at));
                trace.note(kind, [*number, 0, 0]);
            }
            trace.hash()
        };
        let base = hash(&[(1, "a", 1), (2, "b", 2)]);
        assert_eq!(base, hash(&[(1, "a", 1), (2, "b", 2)]));
        assert_ne!(base, hash(&[(1, "a", 1), (3, "b", 2)]));
        assert_ne!(base, hash(&[(1, "a", 1), (2, "c", 2)]));
        assert_ne!(base, hash(&[(1, "a", 1), (2, "b", 3)]));
        assert_ne!(base, hash(&[(2, "b", 2), (1, "a", 1)]));
    }

    #[test]
    fn as_many_lines_as_the_limit_are_kept_and_no_more() {
        let trace = Trace::new(Lines::Kept);
        (0..=LINES_KEPT as u64).for_each(|number| trace.note("event", [number, 0, 0]));
        let lines = trace.last_lines();
        assert_eq!(lines.len(), LINES_KEPT);
        assert!(lines[0].contains("event") && lines[0].split_whitespace().any(|word| word == "1"));
    }
}
