//! A core's way to one child: its queue pair, and what the core knows of it.

use std::sync::Arc;

use bdev::session::Sessions;
use bdev::{Busy, Completions, Io, Lba, OpenError, QueuePair, Token};
use reactor::{Cx, Nanos};

use crate::planted::{self, Bug};
use crate::view::{ChildDevice, Locality};

/// Weight of the past in the moving average of latencies: one part in eight is new.
const AVERAGE_SHIFT: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) queue_pair: Box<dyn QueuePair>,
    data_start_blocks: u64,
    /// Of the child, see [`crate::view::View::incarnations`].
    pub(super) incarnation: u32,
    pub(super) locality: Locality,
    /// I/Os at the child that have not come back.
    pub(super) outstanding: u32,
    /// Moving average of the time that reads took.
    average: Nanos,
    /// It was asked to end what it has, and has not yet.
    pub(super) is_aborting: bool,
    sessions: Option<Arc<Sessions>>,
    /// Of its device, up to the run that is known to hold what the others hold.
    restarts: u64,
}

impl Port {
    pub(super) fn open(
        cx: &mut Cx,
        child: &ChildDevice,
        incarnation: u32,
        depth: u32,
    ) -> Result<Port, OpenError> {
        Ok(Port {
            queue_pair: child.device.open_queue_pair(cx, depth)?,
            data_start_blocks: child.data_start_blocks,
            incarnation,
            locality: child.locality,
            outstanding: 0,
            average: Nanos(0),
            is_aborting: false,
            sessions: child.sessions.clone(),
            restarts: child.restarts,
        })
    }

    /// I/Os that it takes now.
    pub(super) fn credits(&self) -> u32 {
        self.queue_pair.credits()
    }

    /// Submits an I/O of the volume under a token of the mirror.
    #[inline]
    pub(super) fn submit(&mut self, cx: &mut Cx, io: &Io, token: Token) -> Result<(), Busy> {
        // Copied field by field. Were it changed and then copied whole, in fewer instructions, the
        // copy would wait for the change to reach the cache: 2 ns a child.
        let lba = Lba(io.lba.0 + self.data_start_blocks);
        self.queue_pair.submit(cx, Io { lba, token, ..*io })?;
        self.outstanding += 1;
        Ok(())
    }

    /// Takes what has come back into an empty list.
    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) {
        let count = self.queue_pair.poll(cx, completions);
        debug_assert_eq!(count, completions.as_slice().len());
        self.outstanding -= u32::try_from(count).expect("a poll hands up few");
    }

    /// True when its device may have lost what it had acknowledged (replica-truth rule 25). To be
    /// asked after a poll: what came back may be of the new run.
    #[inline]
    pub(super) fn has_restarted(&self) -> bool {
        let restarts = self.restarts;
        self.sessions.as_ref().is_some_and(|sessions| sessions.restarts() != restarts)
            && !planted::is(Bug::RestartUnnoticed)
    }

    /// It is used all the same, as there is no better one.
    pub(super) fn accept_restart(&mut self) {
        self.restarts = self.sessions.as_ref().map_or(0, |sessions| sessions.restarts());
    }

    /// A read came back after `time`.
    #[inline]
    pub(super) fn note_latency(&mut self, time: Nanos) {
        let average = self.average.0;
        self.average = Nanos(average - (average >> AVERAGE_SHIFT) + (time.0 >> AVERAGE_SHIFT));
    }

    /// Lets the average fade, so that a child that was slow is tried again.
    pub(super) fn fade(&mut self) {
        self.average = Nanos(self.average.0 - (self.average.0 >> AVERAGE_SHIFT));
    }

    /// Expected wait of a read: the lower the better.
    #[inline]
    pub(super) fn cost(&self) -> u64 {
        self.average.0.saturating_add(1).saturating_mul(u64::from(self.outstanding) + 1)
    }

    /// Asks for an end of what it has, once.
    pub(super) fn abort(&mut self, cx: &mut Cx) {
        if self.outstanding > 0 && !self.is_aborting {
            self.is_aborting = true;
            self.queue_pair.abort_all(cx);
        }
    }
}
