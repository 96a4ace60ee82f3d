//! The initiator as a block device's queue pair: I/Os become NVMe commands over one connection.
//!
//! One a core and namespace, made by [`super::Connector`]. On the core's hot path: no allocation,
//! one gathered send a flush, one or two receives a poll.
//!
//! Once the connection has ended (an error, or `abort_all`) everything in flight completes with a
//! path status, credits are zero, and what is submitted all the same is accepted and completes
//! with that status too; the owner connects anew. Compare-and-write is a fused pair, which takes
//! two commands and so two credits: it is submitted by [`InitiatorQueuePair::submit_fused`] only,
//! and as an I/O refused as an invalid opcode, as the limits say.

use std::task::Poll;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::nvm_command::{BlockRange, DatasetRange, TransferFlags, dataset_attribute};
use bdev::nvme::opcode::NvmOpcode;
use bdev::reservation::device::Abilities;
use bdev::{
    Busy, Completion, Completions, Geometry, Io, IoFlags, Limits, Operation, QueuePair, Status,
    Token, legality,
};
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, Wake};
use zerocopy::IntoBytes;

use super::error::{ConnectError, ConnectionError};
use super::join::Join;
use super::queue::{Command, CommandData, INLINE_BYTES, Queue, Remains};
use super::request::AbortState;
use crate::pdu::DataRange;

/// How a namespace is told to let blocks read as zeroes and give up their space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmapCommand {
    /// Write Zeroes with the deallocate bit: the blocks read as zeroes whatever the target does
    /// about the space.
    WriteZeroes,
    /// Dataset Management, which a target is free to ignore: [`Limits::unmap_zeroes`] is false, so
    /// that a layer above who needs zeroes writes them.
    DatasetManagement,
}

/// What an I/O queue pair must know of its namespace.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceView {
    /// Identifier of the namespace.
    pub namespace_id: u32,
    /// Its size.
    pub geometry: Geometry,
    /// What one command may be like.
    pub limits: Limits,
    /// How to unmap.
    pub unmap: UnmapCommand,
    /// Blocks that a fused compare and write may have; 0 when there is none.
    pub fused_blocks: u32,
    /// What it can do about reservations.
    pub reservations: Abilities,
}

/// A queue of a remote namespace.
#[derive(Debug)]
pub struct InitiatorQueuePair {
    queue: Queue,
    namespace: NamespaceView,
    /// While the queue is being connected.
    join: Option<Join>,
    /// In-capsule data that the controller takes once connected.
    capsule_data_bytes_max: u32,
}

impl InitiatorQueuePair {
    /// A queue pair whose queue is on its way. It has no credits until it has joined.
    pub(super) fn joining(
        join: Join,
        queue: Queue,
        namespace: NamespaceView,
        capsule_data_bytes_max: u32,
    ) -> Self {
        Self { queue, namespace, join: Some(join), capsule_data_bytes_max }
    }

    /// Whether the queue takes commands, or has failed since.
    pub(super) fn is_joined(&self) -> bool {
        self.join.is_none()
    }

    /// Goes on connecting the queue; gives why it cannot be had.
    pub(super) fn poll_join(&mut self, cx: &mut Cx) -> Option<ConnectError> {
        let join = self.join.as_mut()?;
        let Poll::Ready(joined) = join.poll(cx, &mut self.queue) else { return None };
        match joined {
            Ok(_) => {
                self.join = None;
                self.queue.set_capsule_data_bytes_max(self.capsule_data_bytes_max);
                None
            }
            Err(error) => {
                self.close(cx);
                Some(error)
            }
        }
    }

    /// Closes the connection and gives back what belongs to the core; what was in flight is still
    /// handed up by `poll`. Dropping it instead closes the socket too, but loses the socket's key
    /// and a buffer to the core for good.
    pub fn close(&mut self, cx: &mut Cx) {
        self.queue.abort(cx);
        if let Some(mut join) = self.join.take() {
            join.release(cx);
            // The Connect command is nobody's I/O.
            while self.queue.take_ended().is_some() {}
        }
    }

    /// Sends what is submitted from now on to another namespace of the subsystem, which has the
    /// same geometry and limits.
    pub fn turn_to_namespace(&mut self, namespace_id: u32) {
        self.namespace.namespace_id = namespace_id;
    }

    /// The namespace behind it.
    pub fn namespace(&self) -> &NamespaceView {
        &self.namespace
    }

    /// Why the connection ended, once it has.
    pub fn failure(&self) -> Option<ConnectionError> {
        self.queue.failure()
    }

    /// Submits a compare-and-write that the caller found legal; false when there is no room for its
    /// two commands.
    pub(super) fn submit_fused(&mut self, cx: &mut Cx, io: &Io) -> bool {
        let range = BlockRange { starting_lba: io.lba.0, blocks: io.blocks };
        let half_bytes = u64::from(io.blocks) * u64::from(self.namespace.geometry.block_bytes);
        let length = u32::try_from(half_bytes).expect("within the limits of an atomic write");
        let access = if io.flags.contains(IoFlags::FUA) {
            TransferFlags::FORCE_UNIT_ACCESS
        } else {
            TransferFlags::NONE
        };
        let halves = [
            (NvmOpcode::Compare, TransferFlags::NONE, FUSE_FIRST, 0),
            (NvmOpcode::Write, access, FUSE_SECOND, length),
        ];
        let pair = halves.map(|(opcode, flags, fuse, offset)| {
            let namespace_id = self.namespace.namespace_id;
            let mut entry = SubmissionEntry::for_range(opcode, 0, namespace_id, range, flags);
            entry.flags |= fuse;
            let data = CommandData::Part(io.memory, DataRange { offset, length });
            Command { entry, data, token: io.token.0 }
        });
        self.queue.submit_fused(pair, cx.now())
    }

    /// Submits a command that is no I/O, and sends it; false when there is no room. On a queue that
    /// has no other.
    pub(super) fn submit_command(&mut self, cx: &mut Cx, command: Command) -> bool {
        let is_accepted = self.queue.submit(command, cx.now());
        self.queue.flush(cx);
        is_accepted
    }

    /// How a command ended that is no I/O.
    pub(super) fn poll_command(&mut self, cx: &mut Cx) -> Option<Status> {
        self.queue.poll(cx);
        self.queue.take_ended().map(|ended| ended.status)
    }

    /// A command that was submitted by `before`, for the admin queue to abort; each once.
    pub(super) fn take_late(&mut self, before: Nanos) -> Option<u16> {
        self.queue.take_late(before, AbortState::NotAsked)
    }

    /// Whether a command that is being aborted was submitted by `before`.
    pub(super) fn is_stuck(&mut self, before: Nanos) -> bool {
        self.queue.take_late(before, AbortState::Asked).is_some()
    }

    /// I/Os accepted and not handed up yet: a fused pair is one.
    pub(super) fn inflight_ios(&self) -> u32 {
        self.queue.inflight() - self.queue.fused_in_flight()
    }

    /// What has ended, however much it is; of a queue that is closed.
    pub(super) fn take_all_ended(&mut self) -> impl Iterator<Item = Completion> {
        std::iter::from_fn(|| {
            let ended = self.queue.take_ended()?;
            Some(Completion::new(Token(ended.token), ended.status))
        })
    }

    /// When it must be polled next while it joins.
    pub(super) fn joining_wake(&self) -> Wake {
        if self.queue.has_work() { Wake::Now } else { Wake::Descriptor }
    }

    /// As [`Queue::leave`].
    pub(super) fn leave(&mut self) -> (Option<Remains>, Option<DmaBuffer>) {
        (self.queue.leave(), self.join.take().and_then(Join::into_data))
    }

    fn command(&self, io: &Io) -> Result<Command, Status> {
        let NamespaceView { namespace_id, geometry, limits, .. } = &self.namespace;
        legality::check(io, geometry, limits)?;
        let ranged = |opcode, flags| {
            let range = BlockRange { starting_lba: io.lba.0, blocks: io.blocks };
            SubmissionEntry::for_range(opcode, 0, *namespace_id, range, flags)
        };
        let access = if io.flags.contains(IoFlags::FUA) {
            TransferFlags::FORCE_UNIT_ACCESS
        } else {
            TransferFlags::NONE
        };
        let (entry, data) = match io.operation {
            Operation::Read => (ranged(NvmOpcode::Read, access), CommandData::ToHost(io.memory)),
            Operation::Write => {
                (ranged(NvmOpcode::Write, access), CommandData::ToController(io.memory))
            }
            Operation::Compare => {
                let entry = ranged(NvmOpcode::Compare, TransferFlags::NONE);
                (entry, CommandData::ToController(io.memory))
            }
            Operation::WriteZeroes => {
                (ranged(NvmOpcode::WriteZeroes, access), CommandData::Nothing)
            }
            Operation::Unmap => match self.namespace.unmap {
                UnmapCommand::WriteZeroes => {
                    let flags = access.with(TransferFlags::DEALLOCATE);
                    (ranged(NvmOpcode::WriteZeroes, flags), CommandData::Nothing)
                }
                UnmapCommand::DatasetManagement => deallocate(io, *namespace_id),
            },
            Operation::Flush => (SubmissionEntry::flush(0, *namespace_id), CommandData::Nothing),
            Operation::CompareAndWrite | Operation::Verify => return Err(Status::INVALID_OPCODE),
        };
        Ok(Command { entry, data, token: io.token.0 })
    }
}

/// FUSE of the first half of a pair (NVMe Base 2.0 figure 86).
const FUSE_FIRST: u8 = 0b01;
/// FUSE of the second.
const FUSE_SECOND: u8 = 0b10;

fn deallocate(io: &Io, namespace_id: u32) -> (SubmissionEntry, CommandData) {
    let range = DatasetRange::new(io.lba.0, io.blocks);
    let mut bytes = [0; INLINE_BYTES];
    bytes.copy_from_slice(range.as_bytes());
    let deallocate = dataset_attribute::DEALLOCATE;
    let entry = SubmissionEntry::dataset_management(0, namespace_id, 1, deallocate);
    (entry, CommandData::Inline(bytes))
}

impl QueuePair for InitiatorQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.join.is_some() {
            return Err(Busy);
        }
        match self.command(&io) {
            Ok(command) if self.queue.submit(command, cx.now()) => Ok(()),
            Err(status) if self.queue.inflight() < self.queue.depth() => {
                self.queue.refuse(io.token.0, status);
                Ok(())
            }
            Ok(_) | Err(_) => Err(Busy),
        }
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.queue.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        if self.join.is_some() {
            // What is wrong is remembered as the failure of the connection.
            let _ = self.poll_join(cx);
            return 0;
        }
        self.queue.poll(cx);
        let mut count = 0;
        while completions.room() > 0
            && let Some(ended) = self.queue.take_ended()
        {
            completions.push(Completion::new(Token(ended.token), ended.status));
            count += 1;
        }
        count
    }

    fn credits(&self) -> u32 {
        if self.join.is_some() { 0 } else { self.queue.credits() }
    }

    fn inflight(&self) -> u32 {
        if self.join.is_some() { 0 } else { self.queue.inflight() }
    }

    /// Closes the connection: the target can touch no memory of this host, so everything ends at
    /// once, as aborted by the host.
    fn abort_all(&mut self, cx: &mut Cx) {
        self.close(cx);
    }

    fn wake(&self) -> Wake {
        if self.queue.inflight() == 0 && self.join.is_none() {
            // The end of an idle connection is seen by the next I/O, or by the keep alive.
            Wake::Never
        } else if self.queue.has_work() {
            Wake::Now
        } else {
            Wake::Descriptor
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        !self.queue.is_pending(cx)
    }
}
