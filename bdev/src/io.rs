//! One I/O as every layer sees it: a Copy value of one cache line (ARCHITECTURE 3).
//!
//! Built by a front door, submitted down through [`crate::QueuePair`]s by value, and answered by a
//! [`Completion`] that names it by its token. All lengths are in blocks of the device.

use std::ptr::NonNull;

use reactor::dma::Segment;

use crate::nvme::status::Status;

/// A logical block address: a block's number on its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// Names an I/O between the layer that submitted it and the one that completes it. Chosen by the
/// submitter (slot and generation), opaque below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    /// Fill the memory from the blocks.
    Read,
    /// Write the memory to the blocks.
    Write,
    /// Make every write that has completed durable. Has neither blocks nor memory.
    Flush,
    /// Make the blocks read as zeroes.
    WriteZeroes,
    /// Make the blocks read as zeroes and give their space back where there is any to give.
    Unmap,
    /// Compare the memory with the blocks; differing is [`Status::COMPARE_FAILURE`].
    Compare,
    /// Compare with the first half of the memory and, where equal, write the second half: both or
    /// neither, and no other write of these blocks in between.
    CompareAndWrite,
    /// Find out whether the blocks can be read: it ends as a read of them would, and hands up
    /// nothing of them.
    Verify,
}

impl Operation {
    /// All of them, for tests and tables.
    pub const ALL: [Operation; 8] = [
        Operation::Read,
        Operation::Write,
        Operation::Flush,
        Operation::WriteZeroes,
        Operation::Unmap,
        Operation::Compare,
        Operation::CompareAndWrite,
        Operation::Verify,
    ];

    /// Bytes of memory that the operation carries for `blocks` blocks.
    pub fn memory_bytes(self, blocks: u32, block_bytes: u32) -> u64 {
        let bytes = u64::from(blocks) * u64::from(block_bytes);
        match self {
            Operation::Read | Operation::Write | Operation::Compare => bytes,
            Operation::CompareAndWrite => 2 * bytes,
            Operation::Flush | Operation::WriteZeroes | Operation::Unmap | Operation::Verify => 0,
        }
    }

    /// True when it changes what the device holds.
    pub fn changes_blocks(self) -> bool {
        matches!(
            self,
            Operation::Write
                | Operation::WriteZeroes
                | Operation::Unmap
                | Operation::CompareAndWrite
        )
    }
}

/// Properties of a single I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IoFlags(u8);

impl IoFlags {
    /// None.
    pub const NONE: IoFlags = IoFlags(0);
    /// Force unit access: durable before it completes.
    pub const FUA: IoFlags = IoFlags(1);
    /// The submitter of a read understands [`Completion::zeroes`].
    pub const ACCEPT_ZEROES: IoFlags = IoFlags(2);

    /// True when all of `other` is set.
    pub const fn contains(self, other: IoFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: IoFlags) -> IoFlags {
        IoFlags(self.0 | other.0)
    }

    /// These, but not `other`.
    #[must_use]
    pub const fn without(self, other: IoFlags) -> IoFlags {
        IoFlags(self.0 & !other.0)
    }
}

/// The memory of an I/O: nothing, one segment inline, or an array of segments.
#[derive(Clone, Copy, Debug)]
pub enum Memory {
    /// No memory.
    None,
    /// One contiguous piece.
    One(Segment),
    /// Several, in order; the submitter keeps the array until completion.
    Many(SegmentArray),
}

/// Pointer to, and count of, segments that the submitter keeps until the I/O completes.
#[derive(Clone, Copy, Debug)]
pub struct SegmentArray {
    first: NonNull<Segment>,
    count: u32,
}

impl Memory {
    /// Memory of several segments.
    ///
    /// # Safety
    /// The array must stay where it is, unchanged, until the I/O has completed.
    pub unsafe fn many(segments: &[Segment]) -> Memory {
        let count = u32::try_from(segments.len()).expect("an I/O has few segments");
        Memory::Many(SegmentArray { first: NonNull::from(segments).cast(), count })
    }

    /// The segments in order.
    pub fn segments(&self) -> &[Segment] {
        match self {
            Memory::None => &[],
            Memory::One(segment) => std::slice::from_ref(segment),
            // SAFETY: `many` promised that the array stays unchanged until completion, and only
            // the layer that holds the I/O, before completion, looks at it.
            Memory::Many(array) => unsafe {
                std::slice::from_raw_parts(array.first.as_ptr(), array.count as usize)
            },
        }
    }

    /// Length over all segments, in bytes.
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        match self {
            Memory::None => 0,
            Memory::One(segment) => u64::from(segment.len_bytes()),
            Memory::Many(_) => {
                self.segments().iter().map(|segment| u64::from(segment.len_bytes())).sum()
            }
        }
    }
}

/// One I/O.
#[derive(Clone, Copy, Debug)]
pub struct Io {
    /// What to do.
    pub operation: Operation,
    /// How.
    pub flags: IoFlags,
    /// Number of blocks; zero for a flush only.
    pub blocks: u32,
    /// First block.
    pub lba: Lba,
    /// Name for the completion.
    pub token: Token,
    /// Where the data is, or goes.
    pub memory: Memory,
}

const _: () = assert!(size_of::<Io>() <= 64, "an I/O fits a cache line");
const _: () = assert!(size_of::<Completion>() <= 16);

impl Io {
    /// A read into one segment.
    pub fn read(lba: Lba, blocks: u32, segment: Segment, token: Token) -> Io {
        Io::with_memory(Operation::Read, lba, blocks, Memory::One(segment), token)
    }

    /// A write from one segment.
    pub fn write(lba: Lba, blocks: u32, segment: Segment, token: Token) -> Io {
        Io::with_memory(Operation::Write, lba, blocks, Memory::One(segment), token)
    }

    /// A flush.
    pub fn flush(token: Token) -> Io {
        Io::with_memory(Operation::Flush, Lba(0), 0, Memory::None, token)
    }

    /// Any operation, without flags.
    pub fn with_memory(
        operation: Operation,
        lba: Lba,
        blocks: u32,
        memory: Memory,
        token: Token,
    ) -> Io {
        Io { operation, flags: IoFlags::NONE, blocks, lba, token, memory }
    }

    /// True when every block of it lies on a device of `device_blocks` blocks.
    pub fn fits(&self, device_blocks: u64) -> bool {
        match self.lba.0.checked_add(u64::from(self.blocks)) {
            Some(end) => end <= device_blocks,
            None => false,
        }
    }
}

/// The end of an I/O. The device touches its memory no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The token of the I/O.
    pub token: Token,
    /// How it ended.
    pub status: Status,
    /// A read that found only zeroes and left the memory alone: the reader supplies them. Only
    /// ever set for a read with [`IoFlags::ACCEPT_ZEROES`]. It saves filling a buffer that the
    /// front door would only copy from, and tells a rebuild of a hole.
    pub zeroes: bool,
}

impl Completion {
    /// An end with this status.
    pub fn new(token: Token, status: Status) -> Completion {
        Completion { token, status, zeroes: false }
    }
}

/// Completions on their way up: a list of fixed capacity, reused pass after pass.
#[derive(Debug)]
pub struct Completions {
    list: Vec<Completion>,
}

/// Completions that one poll hands up at most.
pub const COMPLETIONS_PER_POLL: usize = 256;

impl Default for Completions {
    fn default() -> Self {
        Self::new()
    }
}

impl Completions {
    /// An empty list with room for [`COMPLETIONS_PER_POLL`].
    pub fn new() -> Self {
        Completions { list: Vec::with_capacity(COMPLETIONS_PER_POLL) }
    }

    /// How many more fit.
    #[inline]
    pub fn room(&self) -> usize {
        COMPLETIONS_PER_POLL - self.list.len()
    }

    /// Adds one. A device looks at [`Completions::room`] first; there being none is its error.
    #[inline]
    pub fn push(&mut self, completion: Completion) {
        assert!(self.room() > 0, "a poll hands up no more completions than there is room for");
        self.list.push(completion);
    }

    /// Adds several, for which there is room.
    #[inline]
    pub fn extend(&mut self, completions: &[Completion]) {
        let fits = completions.len() <= self.room();
        assert!(fits, "a poll hands up no more completions than there is room for");
        self.list.extend_from_slice(completions);
    }

    /// Empties it.
    #[inline]
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Those collected.
    #[inline]
    pub fn as_slice(&self) -> &[Completion] {
        &self.list
    }

    /// Takes them out, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Completion> {
        self.list.drain(..)
    }
}

/// Completions that wait in a queue pair to be handed up, as many at most as its depth. Unlike a
/// vector it has no way to grow, which costs instructions even where it is never gone.
#[derive(Debug)]
pub struct Waiting {
    list: Box<[Completion]>,
    len: usize,
}

impl Waiting {
    /// An empty list with room for `depth`.
    pub fn new(depth: u32) -> Waiting {
        let empty = Completion::new(Token(0), Status::SUCCESS);
        Waiting { list: vec![empty; depth as usize].into_boxed_slice(), len: 0 }
    }

    /// Adds one.
    ///
    /// # Panics
    ///
    /// When the depth is reached: the I/O was accepted without a credit.
    #[inline]
    pub fn push(&mut self, completion: Completion) {
        self.list[self.len] = completion;
        self.len += 1;
    }

    /// How many wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when none does.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Hands up as many as there is room for, in order. Returns how many.
    #[inline]
    pub fn hand_up(&mut self, completions: &mut Completions) -> usize {
        let count = self.len.min(completions.room());
        completions.extend(&self.list[..count]);
        if count < self.len {
            self.list.copy_within(count..self.len, 0);
        }
        self.len -= count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_that_wait_are_handed_up_in_order_as_there_is_room() {
        let depth = COMPLETIONS_PER_POLL as u32 + 2;
        let mut waiting = Waiting::new(depth);
        (0..u64::from(depth)).for_each(|token| {
            waiting.push(Completion::new(Token(token), Status::SUCCESS));
        });
        let mut completions = Completions::new();
        let mut tokens = Vec::new();
        for count in [COMPLETIONS_PER_POLL, 2, 0] {
            assert_eq!(waiting.hand_up(&mut completions), count);
            tokens.extend(completions.drain().map(|completion| completion.token.0));
        }
        assert!(waiting.is_empty() && tokens == (0..u64::from(depth)).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn one_more_than_the_depth_cannot_wait() {
        let mut waiting = Waiting::new(1);
        (0..2).for_each(|token| waiting.push(Completion::new(Token(token), Status::SUCCESS)));
    }

    #[test]
    fn an_io_must_end_on_its_device() {
        let io = |lba, blocks| {
            Io::with_memory(Operation::WriteZeroes, Lba(lba), blocks, Memory::None, Token(0))
        };
        assert!(io(9, 1).fits(10));
        assert!(!io(9, 2).fits(10));
        assert!(!io(u64::MAX, 1).fits(u64::MAX));
    }

    #[test]
    fn compare_and_write_carries_two_halves() {
        assert_eq!(Operation::CompareAndWrite.memory_bytes(2, 512), 2048);
        assert_eq!(Operation::Unmap.memory_bytes(2, 512), 0);
        assert_eq!(Operation::Verify.memory_bytes(2, 512), 0);
    }

    #[test]
    #[should_panic(expected = "no more completions")]
    fn more_completions_than_there_is_room_for_are_a_bug() {
        let mut completions = Completions::new();
        for token in 0..=COMPLETIONS_PER_POLL as u64 {
            completions.push(Completion::new(Token(token), Status::SUCCESS));
        }
    }

    #[test]
    fn several_completions_fill_the_room_to_the_last() {
        let mut completions = Completions::new();
        let many = [Completion::new(Token(1), Status::SUCCESS); COMPLETIONS_PER_POLL];
        completions.extend(&many[1..]);
        completions.extend(&many[..1]);
        assert_eq!((completions.room(), completions.as_slice().len()), (0, COMPLETIONS_PER_POLL));
        completions.clear();
        assert_eq!(completions.room(), COMPLETIONS_PER_POLL);
    }

    #[test]
    #[should_panic(expected = "no more completions")]
    fn several_completions_that_do_not_fit_are_a_bug() {
        let mut completions = Completions::new();
        completions.extend(&[Completion::new(Token(1), Status::SUCCESS); COMPLETIONS_PER_POLL + 1]);
    }
}
