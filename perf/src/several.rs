//! Several subsystems of one target as one source, and I/Os that take turns over their namespaces.
//!
//! Belongs to the load's core. For `run --serve --subsystems N --namespaces M`: the connections are
//! dealt to the subsystems in turn, and each sends its I/Os to namespaces 1 to M in turn. All
//! namespaces are alike, so that one geometry is that of all.

use bdev::{Busy, Completions, Io, QueuePair};
use nvmf::initiator::{ConnectOptions, InitiatorQueuePair};
use reactor::{Cx, Wake};

use crate::harness::RunError;
use crate::source::{Opened, Remote};

/// The subsystems that a core loads.
#[derive(Debug)]
pub struct Several {
    remotes: Vec<Remote>,
    opened: Vec<Option<Opened>>,
    namespaces: u32,
}

impl Several {
    /// These subsystems, each with as many namespaces.
    pub fn new(subsystems: Vec<ConnectOptions>, namespaces: u32) -> Several {
        let remotes: Vec<Remote> =
            subsystems.into_iter().map(|options| Remote::Named(Box::new(options))).collect();
        let opened = remotes.iter().map(|_| None).collect();
        Several { remotes, opened, namespaces }
    }

    /// Goes on with opening; none until all are.
    pub fn poll_open(
        &mut self,
        cx: &mut Cx,
        connections: u32,
        depth: u32,
    ) -> Result<Option<Opened>, RunError> {
        let count = u32::try_from(self.remotes.len()).unwrap_or(u32::MAX).max(1);
        for (place, remote) in (0..).zip(&mut self.remotes) {
            let dealt = connections / count + u32::from(place < connections % count);
            let opened = &mut self.opened[place as usize];
            if opened.is_none() && dealt > 0 {
                *opened = remote.poll_open(cx, dealt, depth, self.namespaces)?;
                if opened.is_none() {
                    return Ok(None);
                }
            }
        }
        let mut all = self.opened.iter_mut().filter_map(Option::take);
        let Some(mut first) = all.next() else { return Ok(None) };
        all.for_each(|other| first.queue_pairs.extend(other.queue_pairs));
        Ok(Some(first))
    }

    /// Keeps what is behind the queue pairs alive; once a pass.
    pub fn poll(&mut self, cx: &mut Cx) -> Result<(), RunError> {
        self.remotes.iter_mut().try_for_each(|remote| remote.poll(cx))
    }

    /// Ends what is behind the queue pairs.
    pub fn close(&mut self, cx: &mut Cx) {
        self.remotes.iter_mut().for_each(|remote| remote.close(cx));
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        self.remotes.iter().fold(Wake::Never, |wake, remote| wake.soonest(remote.wake()))
    }

    /// False when there is something that no poll has seen.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        self.remotes.iter_mut().all(|remote| remote.arm(cx))
    }
}

/// A queue of a subsystem whose I/Os go to its namespaces in turn.
#[derive(Debug)]
pub struct TakingTurns {
    queue_pair: InitiatorQueuePair,
    namespaces: u32,
    last: u32,
}

impl TakingTurns {
    /// I/Os to namespaces 1 to `namespaces`, which are alike.
    pub fn new(queue_pair: InitiatorQueuePair, namespaces: u32) -> TakingTurns {
        TakingTurns { queue_pair, namespaces, last: 0 }
    }
}

impl QueuePair for TakingTurns {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        self.last = if self.last == self.namespaces { 1 } else { self.last + 1 };
        self.queue_pair.turn_to_namespace(self.last);
        self.queue_pair.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.queue_pair.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.queue_pair.poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.queue_pair.credits()
    }

    fn inflight(&self) -> u32 {
        self.queue_pair.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.queue_pair.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.queue_pair.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.queue_pair.arm(cx)
    }
}
