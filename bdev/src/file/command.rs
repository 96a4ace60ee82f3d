//! What a queue pair asks the kernel for, and what takes it there.
//!
//! Used by [`super::queue_pair`] on the core's thread, implemented by the two kernel interfaces.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use reactor::Cx;
use reactor::slab::SlotId;
use reactor::socket::readiness::DESCRIPTOR_KEY;

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

/// Who tells the core of results while it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// A descriptor in the core's epoll set, which fires edge by edge.
    Descriptor,
    /// Nobody: the network of this context watches no descriptors.
    Nobody,
}

impl Watch {
    /// Has the core's network watch a descriptor.
    pub(crate) fn begin(cx: &mut Cx, descriptor: BorrowedFd<'_>) -> Watch {
        match cx.network.watch(descriptor, DESCRIPTOR_KEY) {
            Ok(()) => Watch::Descriptor,
            Err(_) => Watch::Nobody,
        }
    }
}

/// One core's way into the kernel for one file.
///
/// The memory of a command is the kernel's from `push` until the command was reaped, and whoever
/// pushes completes no I/O before. A port that is dropped first waits for what the kernel has.
pub(crate) trait Port: Debug {
    /// Most commands that may be pushed and not reaped.
    fn capacity(&self) -> u32;

    /// True when a command can be pushed; may enter the kernel to make room for it.
    fn make_room(&mut self) -> bool;

    /// Puts a command in line, for which there is room. `id.index` is below the depth that the
    /// port was opened with, and each identifier has one command at a time.
    fn push(&mut self, id: SlotId, command: Command<'_>);

    /// Gives the kernel what is in line, now or at the next `reap`.
    fn enter(&mut self);

    /// True when something in line has not been given to the kernel, or a result is there that
    /// has only to be fetched.
    fn has_work(&self) -> bool;

    /// Appends at most `room` results.
    fn reap(&mut self, results: &mut Vec<Reaped>, room: usize);

    /// Asks for an end of a command, where the interface has such a thing. Its result still comes.
    fn cancel(&mut self, id: SlotId);

    /// Who wakes the core for a result, once [`Port::arm`] was called.
    fn watch(&self) -> Watch;

    /// Makes the descriptor fire at the next result; false when one is there already.
    fn arm(&mut self) -> bool;
}
