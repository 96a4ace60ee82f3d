//! Identify Namespace (CNS 00h, 08h and, for the NVM command set, 05h).
//!
//! NVM Command Set 1.0 sections 4.1.5.1 and 4.1.5.3, NVMe Base 2.0 section 5.17.2.8.

use super::IDENTIFY_BYTES;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of fields of [`IdentifyNamespace`] and [`IndependentIdentifyNamespace`].
pub mod namespace_field {
    /// NSFEAT: thin provisioning.
    pub const THIN: u8 = 1 << 0;
    /// NSFEAT: the namespace's own atomic write units are valid.
    pub const OWN_ATOMICS: u8 = 1 << 1;
    /// NSFEAT: the UID reuse bit, NGUID and EUI64 are never reused.
    pub const UID_NOT_REUSED: u8 = 1 << 3;
    /// NSFEAT: write granularity and alignment, deallocate likewise, are valid.
    pub const OPTIMAL_SIZES: u8 = 1 << 4;
    /// FLBAS: the low four bits of the format index.
    pub const FORMAT_INDEX_LOW: u8 = 0x0f;
    /// FLBAS: the upper two bits of the format index, at 6:5.
    pub const FORMAT_INDEX_HIGH: u8 = 0x60;
    /// NMIC: may be attached to more than one controller.
    pub const SHARED: u8 = 1 << 0;
    /// RESCAP: reservations persist through power loss.
    pub const PERSIST_THROUGH_POWER_LOSS: u8 = 1 << 0;
    /// RESCAP: all six reservation types.
    pub const ALL_RESERVATION_TYPES: u8 = 0b0111_1110;
    /// RESCAP: Ignore Existing Key as of NVMe 1.3.
    pub const IGNORE_EXISTING_KEY_1_3: u8 = 1 << 7;
    /// DLFEAT: deallocated blocks read as zeroes.
    pub const DEALLOCATED_READS_ZERO: u8 = 0b001;
    /// DLFEAT: Write Zeroes may deallocate.
    pub const WRITE_ZEROES_DEALLOCATES: u8 = 1 << 3;
    /// NSATTR: write protected.
    pub const WRITE_PROTECTED: u8 = 1 << 0;
    /// NSTAT: ready.
    pub const READY: u8 = 1 << 0;
}

/// An LBA format.
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
pub struct LbaFormat {
    /// MS: bytes of metadata a block.
    pub metadata_bytes: U16,
    /// LBADS: bytes of data a block, as a power of two.
    pub data_shift: u8,
    /// RP: relative performance, 0 is best.
    pub relative_performance: u8,
}

/// Identify Namespace (CNS 00h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE.
    pub size_blocks: U64,
    /// NCAP.
    pub capacity_blocks: U64,
    /// NUSE.
    pub used_blocks: U64,
    /// NSFEAT; see [`namespace_field`].
    pub features: u8,
    /// NLBAF: number of LBA formats, 0's based.
    pub lba_formats: u8,
    /// FLBAS: index of the LBA format in use.
    pub formatted_lba: u8,
    /// MC.
    pub metadata: u8,
    /// DPC.
    pub protection: u8,
    /// DPS.
    pub protection_settings: u8,
    /// NMIC; see [`namespace_field`].
    pub multi_path: u8,
    /// RESCAP; see [`namespace_field`].
    pub reservations: u8,
    /// FPI.
    pub format_progress: u8,
    /// DLFEAT; see [`namespace_field`].
    pub deallocate: u8,
    /// NAWUN, blocks, 0's based.
    pub atomic_write: U16,
    /// NAWUPF, blocks, 0's based.
    pub atomic_write_power_fail: U16,
    /// NACWU, blocks, 0's based.
    pub atomic_compare_write: U16,
    /// NABSN.
    pub atomic_boundary_size: U16,
    /// NABO.
    pub atomic_boundary_offset: U16,
    /// NABSPF.
    pub atomic_boundary_power_fail: U16,
    /// NOIOB: boundary that I/O should not cross, in blocks.
    pub optimal_boundary_blocks: U16,
    /// NVMCAP.
    pub capacity_bytes: [u8; 16],
    /// NPWG, blocks, 0's based.
    pub write_granularity: U16,
    /// NPWA, blocks, 0's based.
    pub write_alignment: U16,
    /// NPDG, blocks, 0's based.
    pub deallocate_granularity: U16,
    /// NPDA, blocks, 0's based.
    pub deallocate_alignment: U16,
    /// NOWS, blocks, 0's based.
    pub optimal_write_size: U16,
    /// MSSRL.
    pub copy_source_blocks_max: U16,
    /// MCL.
    pub copy_blocks_max: U32,
    /// MSRC, 0's based.
    pub copy_ranges_max: u8,
    /// Reserved.
    pub reserved_81: [u8; 11],
    /// ANAGRPID.
    pub ana_group_id: U32,
    /// Reserved.
    pub reserved_96: [u8; 3],
    /// NSATTR; see [`namespace_field`].
    pub attributes: u8,
    /// NVMSETID.
    pub nvm_set_id: U16,
    /// ENDGID.
    pub endurance_group_id: U16,
    /// NGUID, big endian.
    pub nguid: [u8; 16],
    /// EUI64, big endian.
    pub eui64: [u8; 8],
    /// LBA formats.
    pub lba_format: [LbaFormat; 64],
    /// Vendor specific.
    pub vendor: [u8; 3712],
}

impl IdentifyNamespace {
    /// Index of the LBA format in use, 0 to 63.
    pub const fn format_index(&self) -> u8 {
        let low = self.formatted_lba & namespace_field::FORMAT_INDEX_LOW;
        let high = self.formatted_lba & namespace_field::FORMAT_INDEX_HIGH;
        low | high >> 1
    }

    /// The LBA format in use.
    pub fn format(&self) -> LbaFormat {
        self.lba_format[usize::from(self.format_index())]
    }
}

/// Identify Namespace independent of command sets (CNS 08h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IndependentIdentifyNamespace {
    /// NSFEAT, common part.
    pub features: u8,
    /// NMIC.
    pub multi_path: u8,
    /// RESCAP.
    pub reservations: u8,
    /// FPI.
    pub format_progress: u8,
    /// ANAGRPID.
    pub ana_group_id: U32,
    /// NSATTR.
    pub attributes: u8,
    /// Reserved.
    pub reserved_9: u8,
    /// NVMSETID.
    pub nvm_set_id: U16,
    /// ENDGID.
    pub endurance_group_id: U16,
    /// NSTAT; see [`namespace_field`].
    pub status: u8,
    /// Reserved.
    pub reserved_15: [u8; 4081],
}

/// Identify Namespace of the NVM command set (CNS 05h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct NvmIdentifyNamespace {
    /// LBSTM: storage tag mask.
    pub storage_tag_mask: U64,
    /// PIC: protection information capabilities.
    pub protection: u8,
    /// Reserved.
    pub reserved_9: [u8; 3],
    /// ELBAF: extensions of the LBA formats.
    pub extended_formats: [U32; 64],
    /// Reserved.
    pub reserved_268: [u8; 3828],
}

const _: () = assert!(size_of::<LbaFormat>() == 4);
const _: () = assert!(size_of::<IdentifyNamespace>() == IDENTIFY_BYTES);
const _: () = assert!(size_of::<IndependentIdentifyNamespace>() == IDENTIFY_BYTES);
const _: () = assert!(size_of::<NvmIdentifyNamespace>() == IDENTIFY_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use zerocopy::FromZeros;

    #[test]
    fn fields_are_at_the_offsets_of_the_specification() {
        assert_eq!(offset_of!(IdentifyNamespace, features), 24);
        assert_eq!(offset_of!(IdentifyNamespace, formatted_lba), 26);
        assert_eq!(offset_of!(IdentifyNamespace, multi_path), 30);
        assert_eq!(offset_of!(IdentifyNamespace, reservations), 31);
        assert_eq!(offset_of!(IdentifyNamespace, deallocate), 33);
        assert_eq!(offset_of!(IdentifyNamespace, optimal_boundary_blocks), 46);
        assert_eq!(offset_of!(IdentifyNamespace, capacity_bytes), 48);
        assert_eq!(offset_of!(IdentifyNamespace, write_granularity), 64);
        assert_eq!(offset_of!(IdentifyNamespace, copy_source_blocks_max), 74);
        assert_eq!(offset_of!(IdentifyNamespace, ana_group_id), 92);
        assert_eq!(offset_of!(IdentifyNamespace, attributes), 99);
        assert_eq!(offset_of!(IdentifyNamespace, nguid), 104);
        assert_eq!(offset_of!(IdentifyNamespace, eui64), 120);
        assert_eq!(offset_of!(IdentifyNamespace, lba_format), 128);
        assert_eq!(offset_of!(IdentifyNamespace, vendor), 384);
        assert_eq!(offset_of!(IndependentIdentifyNamespace, status), 14);
        assert_eq!(offset_of!(NvmIdentifyNamespace, extended_formats), 12);
    }

    #[test]
    fn every_format_index_names_a_format() {
        let mut namespace = IdentifyNamespace::new_zeroed();
        namespace.lba_format[0x13].data_shift = 12;
        namespace.formatted_lba = 0x23;
        assert_eq!(namespace.format_index(), 0x13);
        assert_eq!(namespace.format().data_shift, 12);
        for value in 0..=u8::MAX {
            namespace.formatted_lba = value;
            assert!(namespace.format_index() < 64);
            let _ = namespace.format();
        }
    }
}
