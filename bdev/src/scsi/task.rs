//! Work on the blocks: one command, one I/O after the other.
//!
//! A front door makes a [`Task`] of a [`Medium`] once the data from the initiator is in its buffer,
//! submits what a [`Step`] says, and comes back with the status, until there is a verdict. On the
//! core that has the command. Only what SCSI has and a queue pair has not takes more than one step:
//! patterns, verification, ORWRITE, lists. SBC-3 section 5.

use reactor::dma::pool::LARGEST_BUFFER_BYTES;

use super::command::{ByteCheck, Same, Space};
use super::sense::{Sense, SenseCode, SenseKey};
use super::status::{ScsiStatus, Verdict, verdict_of};
use super::unmap;
use crate::io::{IoFlags, Lba, Operation};
use crate::nvme::status::Status;

/// Bytes of the buffer beside the data, for tasks that need one.
pub const SCRATCH_BYTES: u32 = 64 << 10;

/// Bytes of a piece: data longer than this is in several buffers, each but the last of so many.
pub const PIECE_BYTES: u32 = LARGEST_BUFFER_BYTES;
/// Buffers of one command.
pub const PIECES_MAX: usize = 8;
/// Longest transfer of a command.
pub const TRANSFER_BYTES_MAX: u32 = PIECE_BYTES * PIECES_MAX as u32;

/// Blocks that one I/O makes zeroes of.
const ZERO_BLOCKS_MAX: u64 = 1 << 31;

/// How often an ORWRITE begins again because somebody wrote in between.
const RETRIES_MAX: u16 = 1000;

/// What kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Nothing,
    Verify(ByteCheck),
    /// VERIFY without data, by a device that has it; by any other it is read.
    VerifyByDevice,
    WriteAndVerify,
    WriteSame(Same, Space),
    CompareAndWrite,
    OrWrite,
    Unmap,
}

/// Work on the blocks, as it was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    pub(super) kind: Kind,
    pub(super) lba: Lba,
    pub(super) blocks: u64,
    pub(super) flags: IoFlags,
    pub(super) block_bytes: u32,
    pub(super) device_blocks: u64,
    pub(super) atomic_blocks: u32,
    pub(super) data_bytes: u32,
}

impl Medium {
    /// Bytes that the initiator gets.
    #[inline]
    pub fn data_in_bytes(&self) -> u32 {
        if self.kind == Kind::Read { self.data_bytes } else { 0 }
    }

    /// Bytes that come from the initiator.
    #[inline]
    pub fn data_out_bytes(&self) -> u32 {
        if self.kind == Kind::Read { 0 } else { self.data_bytes }
    }

    /// Bytes of a second buffer that the task needs.
    #[inline]
    pub fn scratch_bytes(&self) -> u32 {
        match self.kind {
            Kind::Verify(ByteCheck::Medium | ByteCheck::One)
            | Kind::WriteSame(Same::Block, _)
            | Kind::CompareAndWrite
            | Kind::OrWrite => SCRATCH_BYTES,
            _ => 0,
        }
    }

    /// The initiator offers so many bytes, which are others than the command takes: as many whole
    /// blocks of them are written. A command that cannot be done in part is refused, and so is a
    /// COMPARE AND WRITE of any other length, whose one byte of blocks may have been cut.
    pub fn fit(&mut self, offered_bytes: u32) -> Result<(), Sense> {
        let is_enough = offered_bytes >= self.data_bytes;
        match self.kind {
            Kind::CompareAndWrite => Err(Sense::invalid_cdb(13)),
            Kind::Read => Ok(()),
            _ if is_enough => Ok(()),
            Kind::Write | Kind::WriteAndVerify => {
                let blocks = offered_bytes / self.block_bytes;
                self.blocks = u64::from(blocks);
                self.data_bytes = blocks * self.block_bytes;
                Ok(())
            }
            Kind::Unmap => {
                self.data_bytes = offered_bytes;
                Ok(())
            }
            _ => Err(Sense::illegal(SenseCode::INFORMATION_UNIT_ERROR)),
        }
    }
}

/// A part of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Of the data, within one piece.
    Data {
        /// Its first byte.
        offset_bytes: u32,
        /// Its length.
        len_bytes: u32,
    },
    /// Of the second buffer, from its start.
    Scratch {
        /// Its length.
        len_bytes: u32,
    },
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An I/O.
    Submit {
        /// What to do.
        operation: Operation,
        /// How.
        flags: IoFlags,
        /// First block.
        lba: Lba,
        /// Number of blocks.
        blocks: u32,
        /// Its memory.
        part: Option<Part>,
    },
    /// It is over.
    Done(Verdict),
}

/// Where a task with several kinds of step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Second,
}

/// A command at work.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    medium: Medium,
    done_blocks: u64,
    /// Blocks of the I/O under way.
    piece_blocks: u32,
    stage: Stage,
    /// Ranges of an UNMAP, and the one under way; of ORWRITE, how often it began again.
    ranges: u16,
    index: u16,
}

/// What a task's processor looks at: the data from the initiator, and the second buffer.
pub struct Buffers<'a> {
    /// The pieces of the data from the initiator; none where the task has none.
    pub data: &'a [&'a [u8]],
    /// Empty where it needs none.
    pub scratch: &'a mut [u8],
}

impl Buffers<'_> {
    /// The data of a command that has no more than a piece.
    fn first(&self) -> &[u8] {
        self.data.first().copied().unwrap_or(&[])
    }
}

impl std::fmt::Debug for Buffers<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Buffers").finish_non_exhaustive()
    }
}

impl Task {
    /// Begins; the data is there.
    pub fn begin(medium: Medium, buffers: &mut Buffers<'_>) -> (Task, Step) {
        let mut task = Task {
            medium,
            done_blocks: 0,
            piece_blocks: 0,
            stage: Stage::First,
            ranges: 0,
            index: 0,
        };
        match medium.kind {
            Kind::Unmap => match unmap::check(buffers.first(), medium.device_blocks) {
                Ok(ranges) => task.ranges = ranges,
                Err(sense) => return (task, Step::Done(sense.into())),
            },
            Kind::Verify(ByteCheck::One) | Kind::WriteSame(Same::Block, _) => {
                if task.is_zeroes(buffers) {
                    task.medium.kind = match medium.kind {
                        Kind::WriteSame(_, space) => Kind::WriteSame(Same::Zeroes, space),
                        kind => kind,
                    };
                }
                task.repeat_block(buffers);
            }
            _ => {}
        }
        let step = task.next(buffers);
        (task, step)
    }

    /// The I/O of the last step has ended.
    pub fn completed(&mut self, status: Status, buffers: &mut Buffers<'_>) -> Step {
        if status != Status::SUCCESS {
            return self.failed(status, buffers);
        }
        match (self.medium.kind, self.stage) {
            (Kind::WriteAndVerify, Stage::First) => {
                self.stage = Stage::Second;
                return self.piece(Operation::Compare);
            }
            (Kind::OrWrite, Stage::First) => return self.merge(buffers),
            // What was found to differ was read.
            (Kind::CompareAndWrite, Stage::Second) => return self.difference(buffers),
            _ => {}
        }
        self.stage = Stage::First;
        self.done_blocks += u64::from(self.piece_blocks);
        self.index += u16::from(self.medium.kind == Kind::Unmap);
        self.next(buffers)
    }

    fn failed(&mut self, status: Status, buffers: &mut Buffers<'_>) -> Step {
        let is_different = status == Status::COMPARE_FAILURE;
        match self.medium.kind {
            Kind::CompareAndWrite if is_different && self.stage == Stage::First => {
                self.stage = Stage::Second;
                let len_bytes = self.piece_blocks * self.medium.block_bytes;
                self.submit(Operation::Read, Some(Part::Scratch { len_bytes }))
            }
            Kind::OrWrite if is_different => {
                self.stage = Stage::First;
                self.index += 1;
                if self.index > RETRIES_MAX {
                    return Step::Done(Verdict::of(ScsiStatus::Busy));
                }
                self.next(buffers)
            }
            _ => Step::Done(verdict_of(status)),
        }
    }

    /// The next step of a task that has nothing under way.
    fn next(&mut self, buffers: &mut Buffers<'_>) -> Step {
        let medium = self.medium;
        let left = medium.blocks - self.done_blocks.min(medium.blocks);
        if medium.kind == Kind::Unmap {
            return self.next_range(buffers);
        }
        if medium.kind == Kind::Flush && self.piece_blocks == 0 {
            // Any number that is not zero says that it was sent.
            self.piece_blocks = 1;
            return Step::Submit {
                operation: Operation::Flush,
                flags: IoFlags::NONE,
                lba: Lba(0),
                blocks: 0,
                part: None,
            };
        }
        if left == 0 || matches!(medium.kind, Kind::Nothing | Kind::Flush) {
            return Step::Done(Verdict::data(medium.data_in_bytes()));
        }
        let scratch_blocks = u64::from(SCRATCH_BYTES / medium.block_bytes);
        let limit = match medium.kind {
            Kind::Verify(ByteCheck::Medium | ByteCheck::One) => scratch_blocks,
            Kind::WriteSame(Same::Block, _) => scratch_blocks,
            Kind::WriteSame(Same::Zeroes, _) => ZERO_BLOCKS_MAX,
            Kind::OrWrite => {
                let within = self.offset_bytes() % PIECE_BYTES;
                let piece_blocks = u64::from((PIECE_BYTES - within) / medium.block_bytes);
                u64::from(medium.atomic_blocks).min(scratch_blocks / 2).min(piece_blocks)
            }
            Kind::Read | Kind::Write | Kind::WriteAndVerify | Kind::Verify(ByteCheck::Each) => {
                u64::from(PIECE_BYTES / medium.block_bytes)
            }
            _ => u64::from(u32::MAX),
        };
        self.piece_blocks = u32::try_from(left.min(limit)).expect("a limit has 32 bits");
        let scratch = Part::Scratch { len_bytes: self.scratch_bytes(limit) };
        match medium.kind {
            Kind::Read => self.piece(Operation::Read),
            Kind::Write | Kind::WriteAndVerify => self.piece(Operation::Write),
            Kind::Verify(ByteCheck::Each) => self.piece(Operation::Compare),
            Kind::CompareAndWrite => {
                let len_bytes = medium.data_bytes;
                let part = Part::Data { offset_bytes: 0, len_bytes };
                self.submit(Operation::CompareAndWrite, Some(part))
            }
            Kind::Verify(ByteCheck::Medium) => self.submit(Operation::Read, Some(scratch)),
            Kind::VerifyByDevice => self.submit(Operation::Verify, None),
            Kind::Verify(ByteCheck::One) => self.submit(Operation::Compare, Some(scratch)),
            Kind::WriteSame(Same::Block, _) => self.submit(Operation::Write, Some(scratch)),
            Kind::WriteSame(Same::Zeroes, Space::Keep) => self.submit(Operation::WriteZeroes, None),
            Kind::WriteSame(Same::Zeroes, Space::GiveBack) => self.submit(Operation::Unmap, None),
            Kind::OrWrite => self.submit(Operation::Read, Some(scratch)),
            Kind::Nothing | Kind::Flush | Kind::Unmap => unreachable!("dealt with above"),
        }
    }

    /// Bytes of the piece, where it fits the second buffer.
    fn scratch_bytes(&self, limit_blocks: u64) -> u32 {
        let fits = limit_blocks <= u64::from(SCRATCH_BYTES / self.medium.block_bytes);
        if fits { self.piece_blocks * self.medium.block_bytes } else { 0 }
    }

    fn next_range(&mut self, buffers: &mut Buffers<'_>) -> Step {
        while self.index < self.ranges {
            let range = unmap::range_at(buffers.first(), self.index);
            if range.blocks > 0 {
                let (flags, part) = (IoFlags::NONE, None);
                let unmap::Range { lba, blocks } = range;
                return Step::Submit { operation: Operation::Unmap, flags, lba, blocks, part };
            }
            self.index += 1;
        }
        Step::Done(Verdict::GOOD)
    }

    /// Where the data of the piece begins.
    fn offset_bytes(&self) -> u32 {
        let done_blocks = u32::try_from(self.done_blocks).expect("a transfer has few blocks");
        done_blocks * self.medium.block_bytes
    }

    /// An I/O of the piece's blocks and data.
    fn piece(&mut self, operation: Operation) -> Step {
        let len_bytes = self.piece_blocks * self.medium.block_bytes;
        let part = Part::Data { offset_bytes: self.offset_bytes(), len_bytes };
        self.submit(operation, Some(part))
    }

    fn submit(&mut self, operation: Operation, part: Option<Part>) -> Step {
        let lba = Lba(self.medium.lba.0 + self.done_blocks);
        let flags = match operation {
            Operation::Write | Operation::CompareAndWrite => self.medium.flags,
            _ => IoFlags::NONE,
        };
        Step::Submit { operation, flags, lba, blocks: self.piece_blocks, part }
    }

    /// ORWRITE: the blocks were read; they are written with the operand's bits, if nobody has
    /// written in between.
    fn merge(&mut self, buffers: &mut Buffers<'_>) -> Step {
        let len = (self.piece_blocks * self.medium.block_bytes) as usize;
        let from = self.offset_bytes();
        let within = (from % PIECE_BYTES) as usize;
        let operand = &buffers.data[(from / PIECE_BYTES) as usize][within..within + len];
        let (read, merged) = buffers.scratch.split_at_mut(len);
        for ((merged, read), operand) in merged.iter_mut().zip(read).zip(operand) {
            *merged = *read | operand;
        }
        self.stage = Stage::Second;
        let len_bytes = 2 * self.piece_blocks * self.medium.block_bytes;
        self.submit(Operation::CompareAndWrite, Some(Part::Scratch { len_bytes }))
    }

    /// COMPARE AND WRITE: says which byte differs, if it still does.
    fn difference(&mut self, buffers: &mut Buffers<'_>) -> Step {
        let data = buffers.first();
        let expected = &data[..data.len() / 2];
        let mut pairs = expected.iter().zip(buffers.scratch.iter());
        let sense = Sense::new(SenseKey::Miscompare, SenseCode::MISCOMPARE);
        let sense = match pairs.position(|(one, other)| one != other) {
            Some(offset) => sense.with_information(offset as u64),
            None => sense,
        };
        Step::Done(sense.into())
    }

    fn is_zeroes(&self, buffers: &Buffers<'_>) -> bool {
        buffers.first().iter().all(|byte| *byte == 0)
    }

    /// Fills the second buffer with the one block of the data.
    fn repeat_block(&self, buffers: &mut Buffers<'_>) {
        let block = self.medium.block_bytes as usize;
        let block = buffers.data.first().and_then(|data| data.get(..block)).unwrap_or(&[]);
        if block.is_empty() {
            return;
        }
        for place in buffers.scratch.chunks_exact_mut(block.len()) {
            place.copy_from_slice(block);
        }
    }
}
