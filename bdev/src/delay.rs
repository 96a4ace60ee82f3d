//! Makes I/Os late by rule, for tests of timeouts, aborts and order.
//!
//! A decorator: the device inside does the I/O at once, its completion is held back until the time
//! has come, counted from submission on the core's clock (virtual in tests and in the simulator).
//! Not for speed: the I/Os to hold are kept in lists that are searched.

use std::sync::Arc;

use reactor::{Cx, Nanos, Wake};

use crate::below::Below;
use crate::device::{BlockDevice, OpenError};
use crate::io::{Completion, Completions, Io, Token};
use crate::queue_pair::{Busy, QueuePair};
use crate::rules::{Follower, RuleSet, Rules};
use crate::wrapper::Wrapper;

/// How late an I/O is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// This much.
    Fixed(Nanos),
    /// Any time from `least` to `most`, each as likely.
    Uniform {
        /// Shortest time.
        least: Nanos,
        /// Longest time, not below `least`.
        most: Nanos,
    },
}

/// A device with delays.
#[derive(Debug)]
pub struct Delay {
    inner: Arc<dyn BlockDevice>,
    rules: Arc<Rules<Lateness>>,
}

impl Delay {
    /// Wraps a device.
    pub fn new(inner: Arc<dyn BlockDevice>, rules: RuleSet<Lateness>) -> Delay {
        Delay { inner, rules: Rules::new(rules) }
    }

    /// Puts other rules in force, from any thread. What is held back stays so.
    pub fn set_rules(&self, rules: RuleSet<Lateness>) {
        self.rules.exchange(rules);
    }
}

impl Wrapper for Delay {
    fn inner(&self) -> &dyn BlockDevice {
        &*self.inner
    }

    fn open_wrapped(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let inner = self.inner.open_queue_pair(cx, depth)?;
        Ok(Box::new(DelayQueuePair {
            below: Below::new(inner, depth),
            follower: Follower::new(self.rules.clone()),
            marked: Vec::with_capacity(depth as usize),
            held: Vec::with_capacity(depth as usize),
        }))
    }
}

#[derive(Debug)]
struct DelayQueuePair {
    below: Below,
    follower: Follower<Lateness>,
    /// In flight below, and when they may complete.
    marked: Vec<(Token, Nanos)>,
    /// Done below, and when they are handed up.
    held: Vec<(Nanos, Completion)>,
}

impl DelayQueuePair {
    fn held(&self) -> u32 {
        u32::try_from(self.held.len()).expect("no more than the depth")
    }

    /// Puts what has come due by `now` in line, the earliest first.
    fn release(&mut self, now: Nanos) {
        while let Some(place) = earliest(&self.held).filter(|place| self.held[*place].0 <= now) {
            let (_, completion) = self.held.swap_remove(place);
            self.below.push(completion);
        }
    }
}

fn earliest(held: &[(Nanos, Completion)]) -> Option<usize> {
    (0..held.len()).min_by_key(|place| held[*place].0)
}

impl QueuePair for DelayQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        let lateness = self.follower.decide(&io).map(|lateness| match lateness {
            Lateness::Fixed(time) => time,
            Lateness::Uniform { least, most } => {
                let span = (most - least).0.saturating_add(1);
                least + Nanos(self.follower.random.below(span))
            }
        });
        if let Some(time) = lateness {
            self.marked.push((io.token, cx.now() + time));
        }
        let accepted = self.below.queue_pair.submit(cx, io);
        assert!(accepted.is_ok(), "a queue pair with credits accepts an I/O");
        Ok(())
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.below.queue_pair.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.below.poll(cx);
        while let Some(completion) = self.below.next_polled() {
            let place = self.marked.iter().position(|(token, _)| *token == completion.token);
            match place.map(|place| self.marked.swap_remove(place).1) {
                Some(time) => self.held.push((time, completion)),
                None => self.below.push(completion),
            }
        }
        self.release(cx.now());
        self.below.hand_up(completions)
    }

    fn credits(&self) -> u32 {
        self.below.queue_pair.credits().saturating_sub(self.below.ready() + self.held())
    }

    fn inflight(&self) -> u32 {
        self.below.queue_pair.inflight() + self.below.ready() + self.held()
    }

    /// What is held back is done and ends at once; what is not done ends without delay.
    fn abort_all(&mut self, cx: &mut Cx) {
        self.marked.clear();
        self.release(Nanos(u64::MAX));
        self.below.queue_pair.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        match earliest(&self.held) {
            Some(place) => self.below.wake().soonest(Wake::At(self.held[place].0)),
            None => self.below.wake(),
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.below.arm(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Geometry;
    use crate::nvme::status::Status;
    use crate::rules::{Match, Rule};
    use crate::{Malloc, laws};

    fn delayed(lateness: Lateness, probability: f64) -> Arc<dyn BlockDevice> {
        let geometry = Geometry { block_bytes: 512, blocks: 300 };
        let disk = Arc::new(Malloc::new("malloc0", geometry, None).unwrap());
        let meets = Match { probability, ..Match::default() };
        let rules = RuleSet { rules: vec![Rule { meets, effect: lateness }], seed: 1 };
        Arc::new(Delay::new(disk, rules))
    }

    #[test]
    fn a_completion_comes_when_its_time_has_come_and_not_before() {
        let (mut cx, hand) = reactor::cx::test_context();
        let device = delayed(Lateness::Fixed(Nanos(100)), 1.0);
        let mut queue_pair = device.open_queue_pair(&mut cx, 2).unwrap();
        queue_pair.submit(&mut cx, Io::flush(Token(1))).unwrap();
        let mut completions = Completions::new();
        assert_eq!(queue_pair.poll(&mut cx, &mut completions), 0);
        assert_eq!((queue_pair.inflight(), queue_pair.credits()), (1, 1));
        assert_eq!(queue_pair.wake(), Wake::At(Nanos(100)));
        for (step, expected) in [(99, 0), (1, 1)] {
            hand.advance(Nanos(step));
            cx.advance_clock();
            assert_eq!(queue_pair.poll(&mut cx, &mut completions), expected);
        }
        assert_eq!(queue_pair.wake(), Wake::Never);
    }

    #[test]
    fn an_abort_ends_the_wait() {
        let (mut cx, _) = reactor::cx::test_context();
        let device = delayed(Lateness::Fixed(Nanos::from_secs(100)), 1.0);
        let mut queue_pair = device.open_queue_pair(&mut cx, 2).unwrap();
        queue_pair.submit(&mut cx, Io::flush(Token(1))).unwrap();
        let mut completions = Completions::new();
        assert_eq!(queue_pair.poll(&mut cx, &mut completions), 0);
        queue_pair.submit(&mut cx, Io::flush(Token(2))).unwrap();
        queue_pair.abort_all(&mut cx);
        assert_eq!(queue_pair.poll(&mut cx, &mut completions), 2);
        let ended = completions.as_slice();
        assert_eq!(ended[0], Completion::new(Token(1), Status::SUCCESS));
        assert_eq!(ended[1], Completion::new(Token(2), Status::ABORT_REQUESTED));
    }

    #[test]
    fn a_device_with_delays_keeps_the_laws() {
        let lateness = Lateness::Uniform { least: Nanos(0), most: Nanos::from_millis(5) };
        laws::check(|_| delayed(lateness, 0.7), laws::Options::default());
    }
}
