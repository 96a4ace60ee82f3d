//! Get LBA Status: a typed view of the command, and the list that answers it.
//!
//! Read by the target, off the hot path. NVM Command Set 1.0 section 4.2.1. The action that asks
//! for allocated blocks is of a later revision (technical proposal 4165).

use super::command::SubmissionEntry;
use super::opcode::AdminOpcode;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Largest length of the answer in bytes: a 32-bit count of dwords, 0's based.
pub const ANSWER_BYTES_MAX: u64 = (1 << 32) * 4;

/// ATYPE: what is asked for.
pub mod action {
    /// Blocks that are allocated.
    pub const ALLOCATED: u8 = 0x02;
    /// Blocks that may be unrecoverable: those known, and those that a scan finds.
    pub const SCAN: u8 = 0x10;
    /// Blocks that may be unrecoverable, as far as they are known.
    pub const TRACKED: u8 = 0x11;
}

/// CMPC: how far the answer goes.
pub mod completion_condition {
    /// Nothing is said of it.
    pub const UNKNOWN: u8 = 0;
    /// There are more descriptors than were asked for, or the look did not come to the end.
    pub const INCOMPLETE: u8 = 1;
    /// It is all there is of the range.
    pub const COMPLETE: u8 = 2;
}

/// A Get LBA Status command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLbaStatus {
    /// SLBA: the first block.
    pub lba: u64,
    /// RL: number of blocks, 0 for all up to the end of the namespace.
    pub blocks: u16,
    /// ATYPE: see [`action`].
    pub action: u8,
    /// MNDW: most bytes of the answer, a multiple of 4, 4 to [`ANSWER_BYTES_MAX`].
    pub bytes: u64,
}

/// What comes before the descriptors (LBA Status Descriptor List).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LbaStatusHeader {
    /// NLSD: number of descriptors that follow.
    pub descriptors: U32,
    /// CMPC: see [`completion_condition`].
    pub completion_condition: u8,
    /// Reserved.
    pub reserved_5: [u8; 3],
}

/// Neighbouring blocks of one status (LBA Status Descriptor).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LbaStatusDescriptor {
    /// DSLBA: the first block.
    pub lba: U64,
    /// NLB: how many.
    pub blocks: U32,
    /// Reserved.
    pub reserved_12: u8,
    /// More of the status; 0.
    pub status: u8,
    /// Reserved.
    pub reserved_14: [u8; 2],
}

const _: () = assert!(size_of::<LbaStatusHeader>() == 8);
const _: () = assert!(size_of::<LbaStatusDescriptor>() == 16);

impl SubmissionEntry {
    /// Reads a Get LBA Status command.
    pub fn get_lba_status(&self) -> GetLbaStatus {
        let [blocks_low, blocks_high, _, action] = self.cdw13.get().to_le_bytes();
        GetLbaStatus {
            lba: u64::from(self.cdw11.get()) << 32 | u64::from(self.cdw10.get()),
            blocks: u16::from_le_bytes([blocks_low, blocks_high]),
            action,
            bytes: (u64::from(self.cdw12.get()) + 1) * 4,
        }
    }

    /// Builds a Get LBA Status command. Its data is still to be described.
    ///
    /// # Panics
    /// If the length is no multiple of 4, is 0 or exceeds [`ANSWER_BYTES_MAX`].
    pub fn for_lba_status(command_id: u16, namespace_id: u32, asked: GetLbaStatus) -> Self {
        assert!(asked.bytes.is_multiple_of(4), "the answer is read in dwords");
        let last_dword = (asked.bytes / 4).checked_sub(1);
        let last_dword = last_dword.and_then(|last| u32::try_from(last).ok());
        let last_dword = last_dword.expect("a length of 4 bytes to 16 GiB");
        let mut entry = Self::new(AdminOpcode::GetLbaStatus.value(), command_id, namespace_id);
        [entry.cdw10, entry.cdw11] = zerocopy::transmute!(asked.lba.to_le_bytes());
        entry.cdw12 = U32::new(last_dword);
        entry.cdw13 = U32::new(u32::from(asked.action) << 24 | u32::from(asked.blocks));
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::offset_of;

    #[test]
    fn dwords_and_offsets_are_those_of_the_specification() {
        let asked = GetLbaStatus { lba: 0x1_0000_0008, blocks: 0x102, action: 0x10, bytes: 4096 };
        let entry = SubmissionEntry::for_lba_status(1, 1, asked);
        assert_eq!(entry.opcode, 0x86);
        assert_eq!((entry.cdw10.get(), entry.cdw11.get()), (8, 1));
        assert_eq!((entry.cdw12.get(), entry.cdw13.get()), (1023, 0x1000_0102));
        assert_eq!(offset_of!(LbaStatusHeader, completion_condition), 4);
        assert_eq!(offset_of!(LbaStatusDescriptor, blocks), 8);
        assert_eq!(offset_of!(LbaStatusDescriptor, status), 13);
    }

    #[test]
    #[should_panic(expected = "4 bytes to 16 GiB")]
    fn a_longer_answer_is_not_asked_for() {
        let asked = GetLbaStatus { lba: 0, blocks: 0, action: 2, bytes: ANSWER_BYTES_MAX + 4 };
        let _ = SubmissionEntry::for_lba_status(1, 1, asked);
    }

    proptest! {
        #[test]
        fn a_command_reads_as_it_was_built(
            lba: u64,
            blocks: u16,
            action: u8,
            dwords in 1u64..=1 << 32,
        ) {
            let asked = GetLbaStatus { lba, blocks, action, bytes: dwords * 4 };
            prop_assert_eq!(SubmissionEntry::for_lba_status(1, 1, asked).get_lba_status(), asked);
        }
    }
}
