//! The seam that every layer of the I/O path is built on: submit entries, poll completions.
//!
//! Laws, checked for every implementation by [`crate::laws`]:
//! every accepted token completes exactly once; nothing completes inside `submit`; no order is
//! promised; credits never lie; a token completes only when the device can no longer touch its
//! memory, aborted or not; a read that succeeded wrote all of its memory, or said `zeroes`.

use std::fmt::Debug;

use reactor::{Cx, Wake};

use crate::io::{Completions, Io};

/// The queue pair has no credit for another I/O: try again after a completion. Not an error, and
/// never a completion status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// One core's way into one device. All calls are on that core's thread.
pub trait QueuePair: Debug {
    /// Accepts an I/O, or refuses it for now; never completes it. `Err(Busy)` only when
    /// [`QueuePair::credits`] is zero. A legal I/O of any size takes one credit; an illegal one
    /// (out of range, wrong length of memory, unsupported) is accepted and completes with its
    /// error.
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy>;

    /// Rings the doorbell, or sends: once a pass, after the submissions.
    fn flush(&mut self, cx: &mut Cx);

    /// Hands up completions by value, as many as there are and as there is room for; returns how
    /// many. May submit downward (a retry, a second step), never upward.
    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize;

    /// How many I/Os would be accepted now.
    fn credits(&self) -> u32;

    /// How many were accepted and have not completed.
    fn inflight(&self) -> u32;

    /// Asks for everything in flight to end soon. Each I/O still completes, once, through `poll`:
    /// with success if it was done, with an abort status otherwise.
    fn abort_all(&mut self, cx: &mut Cx);

    /// When it must be polled next.
    fn wake(&self) -> Wake;

    /// Makes its descriptor fire; false when something is there already.
    fn arm(&mut self, cx: &mut Cx) -> bool;
}
