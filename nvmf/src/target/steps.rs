//! Commands of several I/Os, one of them at the device at a time: deallocate, verify and copy.
//!
//! A step that ends begins the next; the slot's `range_index` and `done_blocks` say how far it is.
//! One at a time, so that a long command takes no more of the device than any other, and so that a
//! token names one I/O. NVM Command Set 1.0 sections 3.2.2 (Copy), 3.2.3 (Dataset Management) and
//! 3.2.5 (Verify).

use bdev::{Geometry, IoFlags, Lba, Memory, Operation, Status};
use reactor::slab::SlotId;

use super::connection::Connection;
use super::io_command::{self, RANGE_BYTES};
use super::limits::{COPY_BYTES_MAX, COPY_LIST_BYTES};
use super::receive::Step;
use super::request::{PlannedCopy, PlannedIo};

/// The namespace is gone.
const GONE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry();

impl Connection {
    /// Unmaps the next range of a dataset management command, or answers it after the last.
    pub(super) fn deallocate(&mut self, step: &mut Step<'_>, slot: u16, root: SlotId, ranges: u16) {
        let Some(geometry) = step.core.roots.get(root).map(|at| at.geometry) else {
            return self.fail(step, slot, GONE);
        };
        loop {
            let request = &mut self.requests[usize::from(slot)];
            if request.range_index == ranges {
                return self.complete(step, slot, Status::SUCCESS, 0);
            }
            let at = usize::from(request.range_index) * RANGE_BYTES as usize;
            let buffer = request.buffer.as_ref().expect("its data was received");
            let bytes = buffer.bytes(u32::from(ranges) * RANGE_BYTES)[at..].first_chunk();
            let (blocks, lba) = io_command::range(bytes.expect("the buffer has every range"));
            request.range_index += 1;
            if blocks == 0 {
                continue;
            }
            if !is_inside(lba, blocks, &geometry) {
                return self.fail(step, slot, Status::LBA_OUT_OF_RANGE.with_do_not_retry());
            }
            let operation = Operation::Unmap;
            let io = PlannedIo { root, operation, flags: IoFlags::NONE, lba, blocks };
            return self.submit_io(step, slot, io, Memory::None);
        }
    }

    /// Reads the next piece of what is verified, or answers after the last. What a device says is
    /// zeroes it need not write out: nobody looks.
    pub(super) fn verify(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        whole: PlannedIo,
        block_bytes: u32,
    ) {
        let request = &mut self.requests[usize::from(slot)];
        let left = whole.blocks - request.done_blocks;
        if left == 0 {
            return self.complete(step, slot, Status::SUCCESS, 0);
        }
        let buffer = request.buffer.as_ref().expect("it was equipped");
        let blocks = left.min(buffer.len_bytes() / block_bytes);
        let memory = Memory::One(buffer.segment(blocks * block_bytes));
        let lba = Lba(whole.lba.0 + u64::from(request.done_blocks));
        request.done_blocks += blocks;
        self.submit_io(step, slot, PlannedIo { lba, blocks, ..whole }, memory);
    }

    /// Reads the next source range, then writes all that was read at once, then answers. As nothing
    /// is written before everything was read, ranges may overlap as they like: each block gets what
    /// its source held before. Dword 0 of a failure is the lowest range that was not copied, which
    /// is the first: all of them are, or none.
    pub(super) fn copy(&mut self, step: &mut Step<'_>, slot: u16, copy: PlannedCopy) {
        let begun = self.requests[usize::from(slot)].range_index;
        if begun > copy.ranges {
            return self.complete(step, slot, Status::SUCCESS, 0);
        }
        if begun == 0
            && let Err(status) = self.check_copy(step, slot, &copy)
        {
            return self.fail(step, slot, status);
        }
        let (io, memory) = self.copy_step(slot, copy, begun);
        self.requests[usize::from(slot)].range_index += 1;
        self.submit_io(step, slot, io, memory);
    }

    /// The read of a copy's range of this index, or after the last its write.
    fn copy_step(&mut self, slot: u16, copy: PlannedCopy, index: u16) -> (PlannedIo, Memory) {
        let PlannedCopy { root, ranges, flags, lba, block_bytes, .. } = copy;
        let source = (index < ranges).then(|| self.source_range(slot, &copy, index));
        let request = &mut self.requests[usize::from(slot)];
        let room = request.buffer.as_ref().expect("its data was received");
        let room = room.segment(COPY_LIST_BYTES + COPY_BYTES_MAX);
        match source {
            Some((lba, blocks)) => {
                let from = COPY_LIST_BYTES + request.done_blocks * block_bytes;
                request.done_blocks += blocks;
                let (operation, flags) = (Operation::Read, IoFlags::NONE);
                let io = PlannedIo { root, operation, flags, lba, blocks };
                (io, Memory::One(room.part(from, blocks * block_bytes)))
            }
            None => {
                let blocks = request.done_blocks;
                let io = PlannedIo { root, operation: Operation::Write, flags, lba, blocks };
                (io, Memory::One(room.part(COPY_LIST_BYTES, blocks * block_bytes)))
            }
        }
    }

    /// Holds the ranges of a copy to the limits of Identify Namespace, and to the device.
    fn check_copy(&self, step: &Step<'_>, slot: u16, copy: &PlannedCopy) -> Result<(), Status> {
        let geometry = step.core.roots.get(copy.root).map(|at| at.geometry).ok_or(GONE)?;
        let outside = Status::LBA_OUT_OF_RANGE.with_do_not_retry();
        let blocks_max = COPY_BYTES_MAX / copy.block_bytes;
        let mut total_blocks = 0;
        for index in 0..copy.ranges {
            let (lba, blocks) = self.source_range(slot, copy, index);
            // MSSRL equals MCL: a single range may be all of the copy.
            if blocks > blocks_max - total_blocks {
                return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_do_not_retry());
            }
            if !is_inside(lba, blocks, &geometry) {
                return Err(outside);
            }
            total_blocks += blocks;
        }
        if is_inside(copy.lba, total_blocks, &geometry) { Ok(()) } else { Err(outside) }
    }

    fn source_range(&self, slot: u16, copy: &PlannedCopy, index: u16) -> (Lba, u32) {
        let buffer = self.requests[usize::from(slot)].buffer.as_ref();
        let list = buffer.expect("its data was received").bytes(COPY_LIST_BYTES);
        let at = usize::from(index) * usize::from(copy.range_bytes);
        io_command::source_range(list[at..].first_chunk().expect("the list has every range"))
    }
}

fn is_inside(lba: Lba, blocks: u32, geometry: &Geometry) -> bool {
    lba.0.checked_add(u64::from(blocks)).is_some_and(|end| end <= geometry.blocks)
}
