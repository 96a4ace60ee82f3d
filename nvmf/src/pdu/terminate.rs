//! Termination requests: how an end that found a fatal error says so before it closes.
//!
//! Rare by nature; built on the core that owns the connection. NVMe/TCP Transport 1.0 sections 3.5,
//! 3.6.2.4 and 3.6.2.5, figures 22 and 23.

use super::framing::Framing;
use super::header::CommonHeader;
use super::kind::{PduKind, Role};
use core::fmt;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Largest length of a termination request.
pub const TERM_REQUEST_BYTES_MAX: u32 = 152;
/// Length of the header of a termination request.
pub const TERM_REQUEST_HEADER_BYTES: usize = 24;
/// Most bytes of the offending header that a termination request carries.
pub const TERM_REQUEST_DATA_BYTES_MAX: usize = 128;

/// Offsets of header fields in bytes, as the fatal error information names them.
pub mod field {
    /// PDU type.
    pub const TYPE: u32 = 0;
    /// FLAGS.
    pub const FLAGS: u32 = 1;
    /// HLEN.
    pub const HLEN: u32 = 2;
    /// PDO.
    pub const PDO: u32 = 3;
    /// PLEN.
    pub const PLEN: u32 = 4;
    /// PFV of ICReq and ICResp.
    pub const PFV: u32 = 8;
    /// HPDA of ICReq, CPDA of ICResp.
    pub const DATA_ALIGNMENT: u32 = 10;
    /// DGST of ICReq and ICResp.
    pub const DIGESTS: u32 = 11;
    /// MAXR2T of ICReq, MAXH2CDATA of ICResp.
    pub const MAXIMUM: u32 = 12;
    /// CCCID of H2CData, C2HData and R2T.
    pub const COMMAND_ID: u32 = 8;
    /// TTAG of H2CData and R2T.
    pub const TRANSFER_TAG: u32 = 10;
    /// DATAO of H2CData and C2HData, R2TO of R2T.
    pub const DATA_OFFSET: u32 = 12;
    /// DATAL of H2CData and C2HData, R2TL of R2T.
    pub const DATA_LENGTH: u32 = 16;
}

/// The fatal error status of a termination request (FES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FatalErrorStatus {
    /// 01h: a header field is invalid; the information is its offset.
    InvalidHeaderField,
    /// 02h: a PDU came that was not due.
    SequenceError,
    /// 03h: the header digest does not match; the information is the digest received.
    HeaderDigestError,
    /// 04h: data outside its command data buffer or R2T.
    DataOutOfRange,
    /// 05h: more data than MAXH2CDATA or, found by a host, more R2Ts than MAXR2T.
    DataLimitExceeded,
    /// 06h: a parameter is not supported; the information is its offset.
    UnsupportedParameter,
    /// A reserved value, only ever received.
    Reserved(u16),
}

impl FatalErrorStatus {
    /// The value on the wire.
    pub const fn value(self) -> u16 {
        match self {
            Self::InvalidHeaderField => 1,
            Self::SequenceError => 2,
            Self::HeaderDigestError => 3,
            Self::DataOutOfRange => 4,
            Self::DataLimitExceeded => 5,
            Self::UnsupportedParameter => 6,
            Self::Reserved(value) => value,
        }
    }

    /// The status of a value on the wire.
    pub const fn from_value(value: u16) -> Self {
        match value {
            1 => Self::InvalidHeaderField,
            2 => Self::SequenceError,
            3 => Self::HeaderDigestError,
            4 => Self::DataOutOfRange,
            5 => Self::DataLimitExceeded,
            6 => Self::UnsupportedParameter,
            other => Self::Reserved(other),
        }
    }
}

impl fmt::Display for FatalErrorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidHeaderField => f.write_str("invalid PDU header field"),
            Self::SequenceError => f.write_str("PDU sequence error"),
            Self::HeaderDigestError => f.write_str("header digest error"),
            Self::DataOutOfRange => f.write_str("data transfer out of range"),
            Self::DataLimitExceeded => f.write_str("data transfer or R2T limit exceeded"),
            Self::UnsupportedParameter => f.write_str("unsupported parameter"),
            Self::Reserved(value) => write!(f, "reserved fatal error status {value:#x}"),
        }
    }
}

/// Why a connection is terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermReason {
    /// Fatal error status.
    pub status: FatalErrorStatus,
    /// Fatal error information: a field's offset, a digest, or 0, by status.
    pub information: u32,
}

impl TermReason {
    /// A reason of a status and its information.
    pub const fn new(status: FatalErrorStatus, information: u32) -> Self {
        Self { status, information }
    }

    /// An invalid header field at an offset of [`field`].
    pub const fn invalid_field(offset: u32) -> Self {
        Self::new(FatalErrorStatus::InvalidHeaderField, offset)
    }
}

impl fmt::Display for TermReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.status.fmt(f)?;
        match self.status {
            FatalErrorStatus::InvalidHeaderField | FatalErrorStatus::UnsupportedParameter => {
                write!(f, " at offset {}", self.information)
            }
            FatalErrorStatus::HeaderDigestError => {
                write!(f, ", received {:#010x}", self.information)
            }
            _ => Ok(()),
        }
    }
}

/// The header of H2CTermReq and C2HTermReq (figures 22 and 23).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct TermRequest {
    /// Common header.
    pub header: CommonHeader,
    /// FES.
    pub status: U16,
    /// FEI.
    pub information: U32,
    /// Reserved.
    pub reserved: [u8; 10],
}

const _: () = assert!(size_of::<TermRequest>() == TERM_REQUEST_HEADER_BYTES);

impl TermRequest {
    /// The reason that the peer gave.
    pub fn reason(&self) -> TermReason {
        TermReason::new(FatalErrorStatus::from_value(self.status.get()), self.information.get())
    }
}

/// Writes the termination request of `sender` and gives its length in bytes.
///
/// `offending` is the header that was being processed, as far as it was received; what exceeds
/// [`TERM_REQUEST_DATA_BYTES_MAX`] is left out.
pub fn write_term_request(
    sender: Role,
    reason: TermReason,
    offending: &[u8],
    out: &mut [u8; TERM_REQUEST_BYTES_MAX as usize],
) -> usize {
    let offending = &offending[..offending.len().min(TERM_REQUEST_DATA_BYTES_MAX)];
    let kind = match sender {
        Role::Host => PduKind::HostTermRequest,
        Role::Controller => PduKind::ControllerTermRequest,
    };
    let length = TERM_REQUEST_HEADER_BYTES + offending.len();
    let mut header = CommonHeader::new(kind, Framing::default(), 0);
    header.pdu_bytes = U32::new(u32::try_from(length).expect("at most 152 bytes"));
    let request = TermRequest {
        header,
        status: U16::new(reason.status.value()),
        information: U32::new(reason.information),
        reserved: [0; 10],
    };
    out[..TERM_REQUEST_HEADER_BYTES].copy_from_slice(request.as_bytes());
    out[TERM_REQUEST_HEADER_BYTES..length].copy_from_slice(offending);
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_reason_and_header_at_the_offsets_of_the_specification() {
        let mut out = [0xee; TERM_REQUEST_BYTES_MAX as usize];
        let reason = TermReason::invalid_field(field::PLEN);
        let offending = [1, 2, 3, 4, 5, 6, 7, 8];
        let length = write_term_request(Role::Controller, reason, &offending, &mut out);
        assert_eq!(length, 32);
        let expected = [3, 0, 24, 0, 32, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(out[..24], expected);
        assert_eq!(out[24..32], offending);
        let request = TermRequest::ref_from_bytes(&out[..24]).unwrap();
        assert_eq!(request.reason(), reason);
    }

    #[test]
    fn an_offending_header_is_cut_at_128_bytes() {
        let mut out = [0; TERM_REQUEST_BYTES_MAX as usize];
        let reason = TermReason::new(FatalErrorStatus::SequenceError, 0);
        for (given, kept) in [(128, 128), (129, 128), (0, 0)] {
            let length = write_term_request(Role::Host, reason, &vec![7; given], &mut out);
            assert_eq!(length, TERM_REQUEST_HEADER_BYTES + kept);
            assert_eq!(out[0], PduKind::HostTermRequest.pdu_type());
        }
    }

    #[test]
    fn every_status_value_survives_a_round_trip() {
        for value in 0..=u16::MAX {
            assert_eq!(FatalErrorStatus::from_value(value).value(), value);
        }
    }

    #[test]
    fn a_reason_says_what_its_information_means() {
        let digest = TermReason::new(FatalErrorStatus::HeaderDigestError, 0xabc);
        assert_eq!(digest.to_string(), "header digest error, received 0x00000abc");
        let invalid = TermReason::invalid_field(field::HLEN);
        assert_eq!(invalid.to_string(), "invalid PDU header field at offset 2");
    }
}
