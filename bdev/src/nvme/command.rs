//! The submission queue entry: 64 bytes that name one command.
//!
//! Built by initiators and by the NVMe over PCIe driver, read in place from a received capsule by
//! targets; typed views of it are in `nvm_command` and `admin_command`, and those of fabrics
//! commands in crate `nvmf`. Plain data for any thread. NVMe Base 2.0 section 3.3.3.1.

use super::sgl::SglDescriptor;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a submission queue entry.
pub const SUBMISSION_ENTRY_BYTES: usize = 64;
/// Namespace identifier that stands for every namespace.
pub const NAMESPACE_ID_ALL: u32 = 0xffff_ffff;

const FUSE_MASK: u8 = 0b11;
const TRANSFER_SHIFT: u32 = 6;

/// A submission queue entry as on the wire (NVMe Base 2.0 section 3.3.3.1, common command format).
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
pub struct SubmissionEntry {
    /// What to do; see `opcode`.
    pub opcode: u8,
    /// Fused operation (bits 1:0) and data pointer format (bits 7:6).
    pub flags: u8,
    /// Chosen by the host; comes back in the completion.
    pub command_id: U16,
    /// Namespace, 0 if the command has none. A fabrics command has its type in the lowest byte.
    pub namespace_id: U32,
    /// Command specific.
    pub cdw2: U32,
    /// Command specific.
    pub cdw3: U32,
    /// Metadata pointer.
    pub metadata_pointer: U64,
    /// Two PRP entries or one SGL descriptor, by the data pointer format.
    pub data_pointer: [u8; 16],
    /// Command specific.
    pub cdw10: U32,
    /// Command specific.
    pub cdw11: U32,
    /// Command specific.
    pub cdw12: U32,
    /// Command specific.
    pub cdw13: U32,
    /// Command specific.
    pub cdw14: U32,
    /// Command specific.
    pub cdw15: U32,
}

const _: () = assert!(size_of::<SubmissionEntry>() == SUBMISSION_ENTRY_BYTES);
const _: () = assert!(core::mem::offset_of!(SubmissionEntry, data_pointer) == 24);
const _: () = assert!(core::mem::offset_of!(SubmissionEntry, cdw10) == 40);

/// Whether a command is half of a fused pair (FUSE, flags bits 1:0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// A command of its own.
    Normal,
    /// First of the pair: the compare of a compare and write.
    First,
    /// Second of the pair: its write.
    Second,
    /// The reserved value 3.
    Reserved,
}

/// How the data pointer is to be read (PSDT, flags bits 7:6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPointerFormat {
    /// Two PRP entries. Not allowed over fabrics.
    Prp,
    /// One SGL descriptor, metadata in one contiguous buffer.
    Sgl,
    /// One SGL descriptor, metadata pointed to by an SGL too.
    SglWithMetadataSgl,
    /// The reserved value 3.
    Reserved,
}

impl DataPointerFormat {
    const fn bits(self) -> u8 {
        match self {
            Self::Prp => 0,
            Self::Sgl => 1,
            Self::SglWithMetadataSgl => 2,
            Self::Reserved => 3,
        }
    }
}

impl SubmissionEntry {
    /// An entry with an opcode, everything else zero.
    pub fn new(opcode: u8, command_id: u16, namespace_id: u32) -> Self {
        Self {
            opcode,
            command_id: U16::new(command_id),
            namespace_id: U32::new(namespace_id),
            ..Self::default()
        }
    }

    /// The same entry with its data described by an SGL descriptor.
    #[must_use]
    pub fn with_sgl(mut self, descriptor: SglDescriptor) -> Self {
        let format = DataPointerFormat::Sgl.bits() << TRANSFER_SHIFT;
        self.flags = self.flags & !(0b11 << TRANSFER_SHIFT) | format;
        self.data_pointer = zerocopy::transmute!(descriptor);
        self
    }

    /// The same entry with its data described by two PRP entries, each an address in the device's
    /// view or, the second, of a PRP list.
    #[must_use]
    pub fn with_prp(mut self, prp: [u64; 2]) -> Self {
        self.flags &= !(0b11 << TRANSFER_SHIFT);
        self.data_pointer = zerocopy::transmute!(prp.map(U64::new));
        self
    }

    /// Whether the command is half of a fused pair.
    pub const fn fuse(&self) -> Fuse {
        match self.flags & FUSE_MASK {
            0 => Fuse::Normal,
            1 => Fuse::First,
            2 => Fuse::Second,
            _ => Fuse::Reserved,
        }
    }

    /// How the data pointer is to be read.
    pub const fn data_pointer_format(&self) -> DataPointerFormat {
        match self.flags >> TRANSFER_SHIFT {
            0 => DataPointerFormat::Prp,
            1 => DataPointerFormat::Sgl,
            2 => DataPointerFormat::SglWithMetadataSgl,
            _ => DataPointerFormat::Reserved,
        }
    }

    /// The data pointer as an SGL descriptor, whatever its format is said to be.
    pub fn sgl(&self) -> SglDescriptor {
        zerocopy::transmute!(self.data_pointer)
    }

    /// The data pointer as two PRP entries, whatever its format is said to be.
    pub fn prp(&self) -> [u64; 2] {
        let entries: [U64; 2] = zerocopy::transmute!(self.data_pointer);
        entries.map(U64::get)
    }

    /// The type of a fabrics command: byte 4, the lowest of the namespace identifier.
    pub fn fabrics_type(&self) -> u8 {
        self.namespace_id.as_bytes()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::sgl::Sgl;
    use proptest::prelude::*;

    #[test]
    fn flags_hold_fuse_and_data_pointer_format() {
        let mut entry = SubmissionEntry::new(0x01, 7, 1);
        assert_eq!(entry.fuse(), Fuse::Normal);
        assert_eq!(entry.data_pointer_format(), DataPointerFormat::Prp);
        entry.flags = 0b1000_0010;
        assert_eq!(entry.fuse(), Fuse::Second);
        assert_eq!(entry.data_pointer_format(), DataPointerFormat::SglWithMetadataSgl);
        entry.flags = 0b1100_0011;
        assert_eq!(entry.fuse(), Fuse::Reserved);
        assert_eq!(entry.data_pointer_format(), DataPointerFormat::Reserved);
        entry.flags = 0b0000_0001;
        assert_eq!(entry.fuse(), Fuse::First);
    }

    #[test]
    fn a_data_pointer_keeps_the_fuse_bits() {
        let mut entry = SubmissionEntry::new(0x01, 7, 1);
        entry.flags = 0b01;
        let entry = entry.with_sgl(SglDescriptor::in_capsule(0, 512));
        assert_eq!(entry.flags, 0b0100_0001);
        assert_eq!(entry.with_prp([1, 2]).flags, 0b01);
    }

    #[test]
    fn the_fabrics_type_is_byte_four() {
        let mut bytes = [0u8; SUBMISSION_ENTRY_BYTES];
        bytes[4] = 0x08;
        assert_eq!(SubmissionEntry::read_from_bytes(&bytes).unwrap().fabrics_type(), 0x08);
    }

    proptest! {
        #[test]
        fn data_pointers_come_back_as_given(address: u64, second: u64, length: u32) {
            let entry = SubmissionEntry::new(2, 0, 1);
            let with_sgl = entry.with_sgl(SglDescriptor::data_block(address, length));
            prop_assert_eq!(with_sgl.sgl().decode(), Sgl::DataBlock { address, length });
            prop_assert_eq!(entry.with_prp([address, second]).prp(), [address, second]);
        }
    }
}
