//! The layouts of basic header segments.
//!
//! Read and written in place by target and initiator. RFC 7143 section 11; the section of each is
//! beside it.

#![allow(
    missing_debug_implementations,
    reason = "helper types that the derives make of the fields"
)]

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a basic header segment.
pub const HEADER_BYTES: usize = 48;

/// The tag that names no task.
pub const RESERVED_TAG: u32 = u32::MAX;

/// Bits of a header's first two bytes.
pub mod flag {
    /// Delivered at once, out of the order of CmdSN (first byte).
    pub const IMMEDIATE: u8 = 0x40;
    /// The last PDU of a sequence; transit of a login.
    pub const FINAL: u8 = 0x80;
    /// More of the same text follows.
    pub const CONTINUE: u8 = 0x40;
    /// A command reads.
    pub const READ: u8 = 0x40;
    /// A command writes.
    pub const WRITE: u8 = 0x20;
    /// The target would have had more data, or wanted more.
    pub const OVERFLOW: u8 = 0x04;
    /// The target had less data, or wanted less.
    pub const UNDERFLOW: u8 = 0x02;
    /// A Data-In that carries the status.
    pub const STATUS: u8 = 0x01;
}

/// A length with its padding to four bytes.
pub const fn padded(len_bytes: usize) -> usize {
    len_bytes.next_multiple_of(4)
}

/// Three bytes of length.
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
pub struct U24([u8; 3]);

impl U24 {
    /// The value.
    pub const fn get(self) -> u32 {
        u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]])
    }
}

impl From<u32> for U24 {
    fn from(value: u32) -> U24 {
        let [high, rest @ ..] = value.to_be_bytes();
        assert_eq!(high, 0, "a data segment is shorter than 16 MiB");
        U24(rest)
    }
}

macro_rules! layouts {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, Default)]
            #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
            #[repr(C)]
            #[allow(missing_docs, reason = "the fields have the specification's names")]
            pub struct $name { $(pub $field: $kind,)* }
            const _: () = assert!(size_of::<$name>() == HEADER_BYTES);
        )*
    };
}

layouts! {
    /// What all have in common (11.2.1).
    BasicHeader {
        opcode: u8, flags: u8, specific: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, rest: [u8; 28],
    }
    /// SCSI Command (11.3).
    ScsiCommand {
        opcode: u8, flags: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, expected_bytes: U32, command_sn: U32, expected_stat_sn: U32, cdb: [u8; 16],
    }
    /// SCSI Response (11.4).
    ScsiResponse {
        opcode: u8, flags: u8, response: u8, status: u8, ahs_words: u8, data_bytes: U24,
        reserved: [u8; 8], task_tag: U32, snack_tag: U32, stat_sn: U32, expected_command_sn: U32,
        max_command_sn: U32, expected_data_sn: U32, bidirectional_residual: U32, residual: U32,
    }
    /// Task Management Function Request (11.5).
    TaskManagementRequest {
        opcode: u8, function: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, referenced_tag: U32, command_sn: U32, expected_stat_sn: U32,
        referenced_command_sn: U32, expected_data_sn: U32, reserved_end: [u8; 8],
    }
    /// Task Management Function Response (11.6).
    TaskManagementResponse {
        opcode: u8, flags: u8, response: u8, reserved: u8, ahs_words: u8, data_bytes: U24,
        reserved_lun: [u8; 8], task_tag: U32, reserved_tag: [u8; 4], stat_sn: U32,
        expected_command_sn: U32, max_command_sn: U32, reserved_end: [u8; 12],
    }
    /// SCSI Data-Out (11.7).
    DataOut {
        opcode: u8, flags: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, transfer_tag: U32, reserved_sn: [u8; 4], expected_stat_sn: U32,
        reserved_middle: [u8; 4], data_sn: U32, offset_bytes: U32, reserved_end: [u8; 4],
    }
    /// SCSI Data-In (11.7).
    DataIn {
        opcode: u8, flags: u8, reserved: u8, status: u8, ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, transfer_tag: U32, stat_sn: U32, expected_command_sn: U32,
        max_command_sn: U32, data_sn: U32, offset_bytes: U32, residual: U32,
    }
    /// Ready To Transfer (11.8).
    ReadyToTransfer {
        opcode: u8, flags: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, transfer_tag: U32, stat_sn: U32, expected_command_sn: U32,
        max_command_sn: U32, transfer_sn: U32, offset_bytes: U32, desired_bytes: U32,
    }
    /// Text Request (11.10).
    TextRequest {
        opcode: u8, flags: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, transfer_tag: U32, command_sn: U32, expected_stat_sn: U32,
        reserved_end: [u8; 16],
    }
    /// Text Response (11.11).
    TextResponse {
        opcode: u8, flags: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, transfer_tag: U32, stat_sn: U32, expected_command_sn: U32,
        max_command_sn: U32, reserved_end: [u8; 12],
    }
    /// Login Request (11.12).
    LoginRequest {
        opcode: u8, flags: u8, version_max: u8, version_min: u8, ahs_words: u8, data_bytes: U24,
        isid: [u8; 6], tsih: U16, task_tag: U32, connection_id: U16, reserved: [u8; 2],
        command_sn: U32, expected_stat_sn: U32, reserved_end: [u8; 16],
    }
    /// Login Response (11.13).
    LoginResponse {
        opcode: u8, flags: u8, version_max: u8, version_active: u8, ahs_words: u8,
        data_bytes: U24, isid: [u8; 6], tsih: U16, task_tag: U32, reserved: [u8; 4], stat_sn: U32,
        expected_command_sn: U32, max_command_sn: U32, status_class: u8, status_detail: u8,
        reserved_end: [u8; 10],
    }
    /// Logout Request (11.14).
    LogoutRequest {
        opcode: u8, reason: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24,
        reserved_lun: [u8; 8], task_tag: U32, connection_id: U16, reserved_cid: [u8; 2],
        command_sn: U32, expected_stat_sn: U32, reserved_end: [u8; 16],
    }
    /// Logout Response (11.15).
    LogoutResponse {
        opcode: u8, flags: u8, response: u8, reserved: u8, ahs_words: u8, data_bytes: U24,
        reserved_lun: [u8; 8], task_tag: U32, reserved_tag: [u8; 4], stat_sn: U32,
        expected_command_sn: U32, max_command_sn: U32, reserved_middle: [u8; 4],
        time_to_wait_s: U16, time_to_retain_s: U16, reserved_end: [u8; 4],
    }
    /// Reject (11.17).
    Reject {
        opcode: u8, flags: u8, reason: u8, reserved: u8, ahs_words: u8, data_bytes: U24,
        reserved_lun: [u8; 8], task_tag: U32, reserved_tag: [u8; 4], stat_sn: U32,
        expected_command_sn: U32, max_command_sn: U32, data_sn: U32, reserved_end: [u8; 8],
    }
    /// NOP-Out (11.18).
    NopOut {
        opcode: u8, flags: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, transfer_tag: U32, command_sn: U32, expected_stat_sn: U32,
        reserved_end: [u8; 16],
    }
    /// NOP-In (11.19).
    NopIn {
        opcode: u8, flags: u8, reserved: [u8; 2], ahs_words: u8, data_bytes: U24, lun: U64,
        task_tag: U32, transfer_tag: U32, stat_sn: U32, expected_command_sn: U32,
        max_command_sn: U32, reserved_end: [u8; 12],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bytes_hold_what_fits_them() {
        for value in [0, 1, 0x1_0203, 0xff_ffff] {
            assert_eq!(U24::from(value).get(), value);
        }
    }

    #[test]
    #[should_panic(expected = "shorter than 16 MiB")]
    fn three_bytes_hold_no_more() {
        let _ = U24::from(0x100_0000);
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let mut bytes = [0_u8; HEADER_BYTES];
        bytes[5..8].copy_from_slice(&[1, 2, 3]);
        bytes[20..24].copy_from_slice(&[0, 0, 2, 0]);
        bytes[32] = 0x28;
        let command = ScsiCommand::read_from_bytes(&bytes).unwrap();
        assert_eq!(command.data_bytes.get(), 0x1_0203);
        assert_eq!((command.expected_bytes.get(), command.cdb[0]), (512, 0x28));
        let logout = LogoutResponse { time_to_wait_s: 7.into(), ..LogoutResponse::default() };
        assert_eq!(logout.as_bytes()[41], 7);
        let response = LoginResponse { status_class: 2, ..LoginResponse::default() };
        assert_eq!(response.as_bytes()[36], 2);
    }
}
