//! Makes I/Os fail by rule, for tests of everything above a device.
//!
//! A decorator: without rules it is the device inside. An I/O either fails before the device sees
//! it, or is done and then said to have failed, as when a reply is lost. Not for speed: the I/Os
//! marked to fail are kept in a list that is searched.

use std::sync::Arc;

use reactor::{Cx, Wake};

use crate::below::Below;
use crate::device::{BlockDevice, OpenError};
use crate::io::{Completion, Completions, Io, Token};
use crate::nvme::status::Status;
use crate::queue_pair::{Busy, QueuePair};
use crate::rules::{Follower, RuleSet, Rules};
use crate::wrapper::Wrapper;

/// How an I/O fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// With this status, and the device never sees it.
    Before(Status),
    /// With this status, after the device has done it.
    After(Status),
}

/// A device with faults.
#[derive(Debug)]
pub struct Fault {
    inner: Arc<dyn BlockDevice>,
    rules: Arc<Rules<Failure>>,
}

impl Fault {
    /// Wraps a device.
    pub fn new(inner: Arc<dyn BlockDevice>, rules: RuleSet<Failure>) -> Fault {
        Fault { inner, rules: Rules::new(rules) }
    }

    /// Puts other rules in force, from any thread.
    pub fn set_rules(&self, rules: RuleSet<Failure>) {
        self.rules.exchange(rules);
    }
}

impl Wrapper for Fault {
    fn inner(&self) -> &dyn BlockDevice {
        &*self.inner
    }

    fn open_wrapped(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let inner = self.inner.open_queue_pair(cx, depth)?;
        Ok(Box::new(FaultQueuePair {
            below: Below::new(inner, depth),
            follower: Follower::new(self.rules.clone()),
            marked: Vec::with_capacity(depth as usize),
        }))
    }
}

#[derive(Debug)]
struct FaultQueuePair {
    below: Below,
    follower: Follower<Failure>,
    /// In flight below, to fail once they are done.
    marked: Vec<(Token, Status)>,
}

impl QueuePair for FaultQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        match self.follower.decide(&io) {
            Some(Failure::Before(status)) => {
                self.below.push(Completion::new(io.token, status));
                return Ok(());
            }
            Some(Failure::After(status)) => self.marked.push((io.token, status)),
            None => {}
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
            let failed = place.map(|place| self.marked.swap_remove(place).1);
            self.below.push(match failed {
                Some(status) if completion.status.is_success() => {
                    Completion::new(completion.token, status)
                }
                _ => completion,
            });
        }
        self.below.hand_up(completions)
    }

    fn credits(&self) -> u32 {
        self.below.queue_pair.credits().saturating_sub(self.below.ready())
    }

    fn inflight(&self) -> u32 {
        self.below.queue_pair.inflight() + self.below.ready()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.below.queue_pair.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.below.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.below.arm(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Geometry;
    use crate::io::{Lba, Operation};
    use crate::rules::{Count, Match, Rule};
    use crate::{Malloc, laws};

    fn disk() -> Arc<dyn BlockDevice> {
        let geometry = Geometry { block_bytes: 512, blocks: 300 };
        Arc::new(Malloc::new("malloc0", geometry, None).unwrap())
    }

    fn run(cx: &mut Cx, queue_pair: &mut dyn QueuePair, io: Io) -> Status {
        queue_pair.submit(cx, io).unwrap();
        assert_eq!(queue_pair.inflight(), 1);
        let mut completions = Completions::new();
        assert_eq!(queue_pair.poll(cx, &mut completions), 1);
        completions.as_slice()[0].status
    }

    /// What is read after a first write that failed so.
    fn first_write_fails(failure: Failure) -> u8 {
        let (mut cx, _) = reactor::cx::test_context();
        let count = Count::First(1);
        let meets = Match { count, ..Match::default() };
        let rules = RuleSet { rules: vec![Rule { meets, effect: failure }], seed: 0 };
        let fault = Fault::new(disk(), rules);
        let mut queue_pair = fault.open_queue_pair(&mut cx, 2).unwrap();
        let buffer = cx.dma.take(512).unwrap();
        let segment = buffer.segment(512);
        segment.write(0, &[9; 512]);
        let write = Io::write(Lba(1), 1, segment, Token(1));
        assert_eq!(run(&mut cx, &mut *queue_pair, write), Status::WRITE_FAULT);
        let read = Io::with_memory(Operation::Read, Lba(1), 1, write.memory, Token(2));
        assert_eq!(run(&mut cx, &mut *queue_pair, read), Status::SUCCESS);
        buffer.bytes(1)[0]
    }

    #[test]
    fn a_fault_before_keeps_the_io_from_the_device() {
        assert_eq!(first_write_fails(Failure::Before(Status::WRITE_FAULT)), 0);
    }

    #[test]
    fn a_fault_after_comes_from_a_device_that_did_the_io() {
        assert_eq!(first_write_fails(Failure::After(Status::WRITE_FAULT)), 9);
    }

    #[test]
    fn a_device_without_faults_keeps_the_laws() {
        let make = |_: &mut Cx| -> Arc<dyn BlockDevice> {
            Arc::new(Fault::new(disk(), RuleSet::default()))
        };
        laws::check(make, laws::Options::default());
    }
}
