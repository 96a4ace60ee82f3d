//! What every wrapper has below it: a queue pair, and completions that wait to be handed up.
//!
//! Owned by a wrapper (fault, delay, split, emulate), on the core's thread. The queue pair below is
//! polled into a list of the wrapper's own, as the wrapper changes, holds or joins what comes; what
//! it decides goes through `ready`, so that a caller with little room loses nothing.

use std::collections::VecDeque;

use reactor::{Cx, Wake};

use crate::io::{COMPLETIONS_PER_POLL, Completion, Completions};
use crate::queue_pair::QueuePair;

/// See the module.
#[derive(Debug)]
pub(crate) struct Below {
    pub(crate) queue_pair: Box<dyn QueuePair>,
    polled: Completions,
    /// Taken from `polled`, of which it has the capacity.
    arrived: VecDeque<Completion>,
    ready: VecDeque<Completion>,
}

impl Below {
    /// Room for `depth` completions that wait.
    pub(crate) fn new(queue_pair: Box<dyn QueuePair>, depth: u32) -> Below {
        let ready = VecDeque::with_capacity(depth as usize);
        let arrived = VecDeque::with_capacity(COMPLETIONS_PER_POLL);
        Below { queue_pair, polled: Completions::new(), arrived, ready }
    }

    /// Polls; what came is then taken with [`Below::next_polled`].
    pub(crate) fn poll(&mut self, cx: &mut Cx) {
        self.queue_pair.poll(cx, &mut self.polled);
        self.arrived.extend(self.polled.drain());
    }

    /// Takes one of what the last poll brought, in order. All is to be taken before
    /// the next poll.
    pub(crate) fn next_polled(&mut self) -> Option<Completion> {
        self.arrived.pop_front()
    }

    /// Puts a completion in line to be handed up.
    pub(crate) fn push(&mut self, completion: Completion) {
        self.ready.push_back(completion);
    }

    /// Hands up as many as there is room for.
    pub(crate) fn hand_up(&mut self, completions: &mut Completions) -> usize {
        let count = self.ready.len().min(completions.room());
        for completion in self.ready.drain(..count) {
            completions.push(completion);
        }
        count
    }

    /// How many are in line.
    pub(crate) fn ready(&self) -> u32 {
        u32::try_from(self.ready.len()).expect("no more than the depth")
    }

    /// When the queue pair below, or what is in line, wants to be polled.
    pub(crate) fn wake(&self) -> Wake {
        if self.ready.is_empty() { self.queue_pair.wake() } else { Wake::Now }
    }

    /// Arms the queue pair below, unless something is in line.
    pub(crate) fn arm(&mut self, cx: &mut Cx) -> bool {
        self.ready.is_empty() && self.queue_pair.arm(cx)
    }
}
