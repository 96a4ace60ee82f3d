//! What a queue pair asks the kernel for, and what takes it there.
//!
//! Used by [`super::queue_pair`] on the core's thread, implemented by the two kernel interfaces.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use reactor::slab::SlotId;

use super::range::RangeMode;
use crate::parts::Parts;

/// One request. Offsets and lengths are in bytes and lie within the signed 64 bits of a file.
#[derive(Clone, Debug)]
pub(crate) enum Command<'a> {
    /// Fill the memory.
    Read { offset_bytes: u64, memory: Parts<'a> },
    /// Write the memory.
    Write { offset_bytes: u64, memory: Parts<'a>, durability: Durability },
    /// Make durable what was written.
    Sync,
    /// Make a range read as zeroes.
    Range { mode: RangeMode, offset_bytes: u64, len_bytes: u64 },
}

/// When a write has to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// With the next sync.
    Later,
    /// Before it completes (`RWF_DSYNC`).
    AtOnce,
}

/// The end of a command: which, and what the kernel returned (bytes, or an error negated).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub(crate) id: SlotId,
    pub(crate) result: i32,
}

/// One core's way into the kernel for one file.
///
/// The memory of a command is the kernel's from `push` until the command was reaped, and whoever
/// pushes completes no I/O before. A port that is dropped first waits for what the kernel has.
pub(crate) trait Port: Debug {
    /// Most commands that may be pushed and not reaped.
    fn capacity(&self) -> u32;

    /// Puts a command in line. `id.index` is below the depth that the port was opened with, and
    /// each identifier has one command at a time.
    fn push(&mut self, id: SlotId, command: Command<'_>);

    /// Gives the kernel what is in line: one system call, none when there is nothing.
    fn enter(&mut self);

    /// True when the kernel refused, for now, to take all that is in line.
    fn has_unsent(&self) -> bool;

    /// Appends at most `room` results.
    fn reap(&mut self, results: &mut Vec<Reaped>, room: usize);

    /// Asks for an end of a command, where the interface has such a thing. Its result still comes.
    fn cancel(&mut self, id: SlotId);

    /// Becomes readable, edge by edge, when a result is there and [`Port::arm`] was called.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Makes the descriptor fire at the next result; false when one is there already.
    fn arm(&mut self) -> bool;
}
