//! The layouts of command descriptor blocks.
//!
//! Read by [`super::command`], built by tests and initiators. SPC-4 section 4.2, SBC-3 section 5;
//! the table of each is beside it.

#![allow(
    missing_debug_implementations,
    reason = "helper types that the derives make of the fields"
)]

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, Unaligned};

macro_rules! layouts {
    ($($(#[$meta:meta])* $name:ident, $len:literal { $($field:ident: $kind:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, FromBytes, Immutable, Unaligned)]
            #[repr(C)]
            #[allow(missing_docs, reason = "the fields have the specification's names")]
            pub struct $name { $(pub $field: $kind,)* }
            const _: () = assert!(size_of::<$name>() == $len);
        )*
    };
}

layouts! {
    /// READ (6) and WRITE (6): SBC-3 tables 60 and 95.
    Transfer6, 6 { opcode: u8, lba_high: u8, lba: U16, length: u8, control: u8, }
    /// READ (10) and its likes: SBC-3 table 61.
    Transfer10, 10 { opcode: u8, flags: u8, lba: U32, group: u8, length: U16, control: u8, }
    /// READ (12) and its likes: SBC-3 table 63.
    Transfer12, 12 { opcode: u8, flags: u8, lba: U32, length: U32, group: u8, control: u8, }
    /// READ (16) and its likes: SBC-3 table 64.
    Transfer16, 16 { opcode: u8, flags: u8, lba: U64, length: U32, group: u8, control: u8, }
    /// INQUIRY: SPC-4 table 172.
    Inquiry, 6 { opcode: u8, flags: u8, page: u8, allocation: U16, control: u8, }
    /// MODE SENSE (6) and MODE SELECT (6): SPC-4 tables 187 and 183.
    Mode6, 6 { opcode: u8, flags: u8, page: u8, subpage: u8, length: u8, control: u8, }
    /// MODE SENSE (10) and MODE SELECT (10): SPC-4 tables 190 and 185.
    Mode10, 10 {
        opcode: u8, flags: u8, page: u8, subpage: u8, reserved: [u8; 3], length: U16, control: u8,
    }
    /// PERSISTENT RESERVE OUT: SPC-4 table 216.
    ReserveOut, 10 {
        opcode: u8, action: u8, kind: u8, reserved: [u8; 2], length: U32, control: u8,
    }
    /// REPORT SUPPORTED OPERATION CODES and its likes: SPC-4 table 276.
    Report12, 12 {
        opcode: u8, action: u8, options: u8, wanted_opcode: u8, wanted_action: U16,
        allocation: U32, reserved: u8, control: u8,
    }
}

/// UNMAP in a WRITE SAME.
pub const WRITE_SAME_UNMAP: u8 = 0x08;
/// NDOB in a WRITE SAME (16): there is no data, the blocks become zeroes.
pub const WRITE_SAME_NO_DATA: u8 = 0x01;
/// Force unit access.
pub const FUA: u8 = 0x08;
/// IMMED: answer before it is done.
pub const IMMEDIATE: u8 = 0x02;
