//! Closing a volume cleanly: nothing in flight, nothing marked, and every member says so
//! (replica-truth rule 15).

use reactor::Cx;

use super::{Home, Step};
use crate::child::FaultReason;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// It is not being closed.
    No,
    /// I/O is to end and marks are to go.
    Clearing,
    /// The labels are being written.
    Asked,
    /// They say so.
    Done,
}

impl Home {
    /// Begins to close the volume: I/O that comes waits, and fails with a path error in the end. A
    /// rebuild is given up. It is closed when [`Home::is_closed`]; regions that are to be made
    /// equal are copied first.
    pub fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Clearing;
        }
    }

    /// True when the volume was closed, and every member says so.
    pub fn is_closed(&self) -> bool {
        self.closing == Closing::Done
    }

    pub(super) fn go_on_closing(&mut self, cx: &mut Cx) {
        if self.closing != Closing::Clearing {
            return;
        }
        if self.stops.unassembled {
            // Nothing was opened, so there is nothing to be closed.
            return self.closed();
        }
        if self.unequal > 0 {
            // Copies are made while the volume runs.
            return;
        }
        self.stop(|stops| stops.by_operator = true);
        if self.step != Step::Idle || !self.are_drained(self.stopped_since) {
            return;
        }
        for target in self.nexus.view().targets {
            self.lose_target(cx, target, FaultReason::RebuildFailed);
        }
        if self.clear_all() {
            self.closing = Closing::Asked;
            self.truth.begin_close(cx);
        }
    }

    pub(super) fn closed(&mut self) {
        self.closing = Closing::Done;
        self.stop(|stops| stops.ended = true);
    }
}
