//! NVM commands: typed views of a submission entry, and its construction.
//!
//! Read by the target's hot path and built by the initiator's and the PCIe driver's. Whether a
//! range is inside a namespace is for the caller, who knows the namespace. NVM Command Set 1.0
//! section 3.2.

use super::command::SubmissionEntry;
use super::opcode::NvmOpcode;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most ranges of a Dataset Management command.
pub const DATASET_RANGES_MAX: usize = 256;
/// Length of one range of a Dataset Management command.
pub const DATASET_RANGE_BYTES: usize = 16;
/// Most blocks of a command whose count is a 0's based 16-bit field.
pub const BLOCKS_MAX: u32 = 1 << 16;

const COUNT_MASK: u32 = 0xffff;
const RANGE_COUNT_MASK: u32 = 0xff;

/// Bits of command dword 12 of Read, Write, Compare, Write Zeroes and Verify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferFlags(u32);

impl TransferFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Limited retry (LR).
    pub const LIMITED_RETRY: Self = Self(1 << 31);
    /// Force unit access (FUA): durable, or read from what is durable.
    pub const FORCE_UNIT_ACCESS: Self = Self(1 << 30);
    /// Write Zeroes may deallocate (DEAC).
    pub const DEALLOCATE: Self = Self(1 << 25);

    /// The flags as they stand in dword 12.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Protection information field (PRINFO, bits 29:26): action and checks.
    pub const fn protection(self) -> u8 {
        ((self.0 >> 26) & 0xf).to_le_bytes()[0]
    }

    /// Directive type (DTYPE, bits 23:20), 0 for none.
    pub const fn directive_type(self) -> u8 {
        ((self.0 >> 20) & 0xf).to_le_bytes()[0]
    }
}

/// Bits of command dword 11 of Dataset Management.
pub mod dataset_attribute {
    /// The host will read the ranges as a whole (IDR).
    pub const INTEGRAL_READ: u32 = 1 << 0;
    /// The host will write the ranges as a whole (IDW).
    pub const INTEGRAL_WRITE: u32 = 1 << 1;
    /// The ranges may be deallocated (AD).
    pub const DEALLOCATE: u32 = 1 << 2;
}

/// One range of a Dataset Management command (NVM Command Set 1.0 section 3.2.3).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct DatasetRange {
    /// Hints about access; may be ignored.
    pub context_attributes: U32,
    /// Length in logical blocks, not 0's based.
    pub blocks: U32,
    /// First logical block.
    pub starting_lba: U64,
}

const _: () = assert!(size_of::<DatasetRange>() == DATASET_RANGE_BYTES);

impl DatasetRange {
    /// A range without hints.
    pub const fn new(starting_lba: u64, blocks: u32) -> Self {
        Self {
            context_attributes: U32::ZERO,
            blocks: U32::new(blocks),
            starting_lba: U64::new(starting_lba),
        }
    }
}

impl SubmissionEntry {
    /// First logical block of a command that names a range (SLBA, dwords 10 and 11).
    pub fn starting_lba(&self) -> u64 {
        u64::from(self.cdw11.get()) << 32 | u64::from(self.cdw10.get())
    }

    /// Blocks of a command that names a range, 1 to [`BLOCKS_MAX`] (NLB, dword 12, 0's based).
    pub fn block_count(&self) -> u32 {
        (self.cdw12.get() & COUNT_MASK) + 1
    }

    /// Flags of a command that names a range (dword 12).
    pub fn transfer_flags(&self) -> TransferFlags {
        TransferFlags(self.cdw12.get() & !COUNT_MASK)
    }

    /// Number of ranges of a Dataset Management command, 1 to [`DATASET_RANGES_MAX`].
    pub fn dataset_range_count(&self) -> usize {
        let count = (self.cdw10.get() & RANGE_COUNT_MASK).to_le_bytes()[0];
        usize::from(count) + 1
    }

    /// Bits of [`dataset_attribute`] of a Dataset Management command.
    pub fn dataset_attributes(&self) -> u32 {
        self.cdw11.get()
    }

    /// A command that names a range of blocks: Read, Write, Compare, Write Zeroes, Verify or
    /// Write Uncorrectable. Its data pointer is still to be set, where it has data.
    ///
    /// # Panics
    /// If `blocks` is not 1 to [`BLOCKS_MAX`]: the splitter above keeps to that.
    pub fn for_range(
        opcode: NvmOpcode,
        command_id: u16,
        namespace_id: u32,
        range: BlockRange,
        flags: TransferFlags,
    ) -> Self {
        assert!((1..=BLOCKS_MAX).contains(&range.blocks), "a command has 1 to 65536 blocks");
        let mut entry = Self::new(opcode.value(), command_id, namespace_id);
        let [low, high]: [U32; 2] = zerocopy::transmute!(U64::new(range.starting_lba));
        entry.cdw10 = low;
        entry.cdw11 = high;
        entry.cdw12 = U32::new((range.blocks - 1) | flags.0);
        entry
    }

    /// A Flush command.
    pub fn flush(command_id: u16, namespace_id: u32) -> Self {
        Self::new(NvmOpcode::Flush.value(), command_id, namespace_id)
    }

    /// A Dataset Management command. Its data is `ranges` [`DatasetRange`]s.
    ///
    /// # Panics
    /// If `ranges` is not 1 to [`DATASET_RANGES_MAX`].
    pub fn dataset_management(
        command_id: u16,
        namespace_id: u32,
        ranges: usize,
        attributes: u32,
    ) -> Self {
        let last = ranges.checked_sub(1).and_then(|last| u8::try_from(last).ok());
        let last = last.expect("a command has 1 to 256 ranges");
        let mut entry = Self::new(NvmOpcode::DatasetManagement.value(), command_id, namespace_id);
        entry.cdw10 = U32::new(u32::from(last));
        entry.cdw11 = U32::new(attributes);
        entry
    }
}

/// Blocks that a command names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First logical block.
    pub starting_lba: u64,
    /// Number of logical blocks.
    pub blocks: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(blocks: u32) -> SubmissionEntry {
        let range = BlockRange { starting_lba: 0x1_0000_0002, blocks };
        SubmissionEntry::for_range(NvmOpcode::Write, 7, 1, range, TransferFlags::NONE)
    }

    #[test]
    fn dwords_are_those_of_the_specification() {
        let range = BlockRange { starting_lba: 0x1_0000_0002, blocks: 8 };
        let flags = TransferFlags::FORCE_UNIT_ACCESS.with(TransferFlags::LIMITED_RETRY);
        let entry = SubmissionEntry::for_range(NvmOpcode::Read, 7, 1, range, flags);
        assert_eq!(entry.opcode, 0x02);
        assert_eq!(entry.cdw10.get(), 2);
        assert_eq!(entry.cdw11.get(), 1);
        assert_eq!(entry.cdw12.get(), 0xc000_0007);
        let trim = SubmissionEntry::dataset_management(7, 1, 3, dataset_attribute::DEALLOCATE);
        assert_eq!((trim.opcode, trim.cdw10.get(), trim.cdw11.get()), (0x09, 2, 4));
        assert_eq!(SubmissionEntry::flush(7, 1).opcode, 0);
    }

    #[test]
    fn the_most_blocks_fit() {
        assert_eq!(write(BLOCKS_MAX).block_count(), BLOCKS_MAX);
        assert_eq!(write(BLOCKS_MAX).cdw12.get(), 0xffff);
        assert_eq!(write(1).block_count(), 1);
    }

    #[test]
    #[should_panic(expected = "1 to 65536 blocks")]
    fn one_block_more_is_refused() {
        let _ = write(BLOCKS_MAX + 1);
    }

    #[test]
    #[should_panic(expected = "1 to 65536 blocks")]
    fn no_block_is_refused() {
        let _ = write(0);
    }

    #[test]
    fn the_most_ranges_fit() {
        let entry = SubmissionEntry::dataset_management(7, 1, DATASET_RANGES_MAX, 0);
        assert_eq!(entry.dataset_range_count(), DATASET_RANGES_MAX);
    }

    #[test]
    #[should_panic(expected = "1 to 256 ranges")]
    fn one_range_more_is_refused() {
        let _ = SubmissionEntry::dataset_management(7, 1, DATASET_RANGES_MAX + 1, 0);
    }

    #[test]
    fn protection_and_directive_have_their_bits() {
        let mut entry = write(1);
        entry.cdw12 = U32::new(0xb << 26 | 0x5 << 20);
        assert_eq!(entry.transfer_flags().protection(), 0xb);
        assert_eq!(entry.transfer_flags().directive_type(), 0x5);
    }

    proptest! {
        #[test]
        fn a_range_reads_as_it_was_given(starting_lba: u64, blocks in 1..=BLOCKS_MAX) {
            let range = BlockRange { starting_lba, blocks };
            let flags = TransferFlags::DEALLOCATE;
            let entry = SubmissionEntry::for_range(NvmOpcode::WriteZeroes, 0, 1, range, flags);
            prop_assert_eq!(entry.starting_lba(), starting_lba);
            prop_assert_eq!(entry.block_count(), blocks);
            prop_assert_eq!(entry.transfer_flags(), flags);
        }

        #[test]
        fn any_entry_reads_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 64)) {
            let entry = SubmissionEntry::read_from_bytes(&bytes).unwrap();
            prop_assert!((1..=BLOCKS_MAX).contains(&entry.block_count()));
            prop_assert!((1..=DATASET_RANGES_MAX).contains(&entry.dataset_range_count()));
        }
    }
}
