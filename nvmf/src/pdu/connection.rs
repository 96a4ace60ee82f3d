//! ICReq and ICResp: the exchange that sets a connection up.
//!
//! Once a connection, on the core that owns it. NVMe/TCP Transport 1.0 sections 3.1, 3.6.2.2 and
//! 3.6.2.3, figures 20 and 21.

use super::framing::{DataAlignment, Digests, Framing};
use super::header::CommonHeader;
use super::kind::PduKind;
use super::terminate::{FatalErrorStatus, TermReason, field};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of ICReq and of ICResp.
pub const INITIALIZE_BYTES: usize = 128;
/// The PDU format version that this specification defines.
pub const FORMAT_VERSION: u16 = 0;
/// Least MAXH2CDATA that a controller may offer.
pub const DATA_BYTES_MAX_LEAST: u32 = 4096;

const HEADER_DIGEST: u8 = 1 << 0;
const DATA_DIGEST: u8 = 1 << 1;
const DWORD_BYTES: u32 = 4;

/// ICReq: what the host asks for (figure 20).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct InitializeRequest {
    /// Common header.
    pub header: CommonHeader,
    /// PFV.
    pub format_version: U16,
    /// HPDA: alignment of data towards the host.
    pub data_alignment: u8,
    /// DGST: digests asked for.
    pub digests: u8,
    /// MAXR2T: outstanding R2Ts a command, 0's based.
    pub ready_to_transfer_max: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

/// ICResp: what the connection will have (figure 21).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct InitializeResponse {
    /// Common header.
    pub header: CommonHeader,
    /// PFV.
    pub format_version: U16,
    /// CPDA: alignment of data towards the controller.
    pub data_alignment: u8,
    /// DGST: digests enabled.
    pub digests: u8,
    /// MAXH2CDATA: largest data of an H2CData PDU, in bytes.
    pub data_bytes_max: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

const _: () = assert!(size_of::<InitializeRequest>() == INITIALIZE_BYTES);
const _: () = assert!(size_of::<InitializeResponse>() == INITIALIZE_BYTES);

/// What a valid ICReq asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostParameters {
    /// Alignment of data towards the host.
    pub data_alignment: DataAlignment,
    /// Digests asked for.
    pub digests: Digests,
    /// Outstanding R2Ts a command, 1 and more. A field of all ones saturates.
    pub ready_to_transfer_max: u32,
}

/// What a valid ICResp grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerParameters {
    /// Alignment of data towards the controller.
    pub data_alignment: DataAlignment,
    /// Digests enabled.
    pub digests: Digests,
    /// Largest data of an H2CData PDU in bytes, a multiple of 4.
    pub data_bytes_max: u32,
}

impl Digests {
    const fn to_field(self) -> u8 {
        (if self.header { HEADER_DIGEST } else { 0 }) | (if self.data { DATA_DIGEST } else { 0 })
    }

    const fn from_field(field: u8) -> Self {
        Self { header: field & HEADER_DIGEST != 0, data: field & DATA_DIGEST != 0 }
    }

    /// The digests that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { header: self.header && other.header, data: self.data && other.data }
    }
}

fn check_common(version: u16, alignment: u8) -> Result<DataAlignment, TermReason> {
    if version != FORMAT_VERSION {
        return Err(TermReason::new(FatalErrorStatus::UnsupportedParameter, field::PFV));
    }
    DataAlignment::from_field(alignment).ok_or(TermReason::invalid_field(field::DATA_ALIGNMENT))
}

impl InitializeRequest {
    /// The request of a host.
    pub fn new(parameters: HostParameters) -> Self {
        Self {
            header: CommonHeader::new(PduKind::InitializeRequest, Framing::default(), 0),
            format_version: U16::new(FORMAT_VERSION),
            data_alignment: parameters.data_alignment.field(),
            digests: parameters.digests.to_field(),
            ready_to_transfer_max: U32::new(parameters.ready_to_transfer_max.saturating_sub(1)),
            reserved: [0; 112],
        }
    }

    /// Checks what the host asks for. Reserved bits are ignored.
    ///
    /// # Errors
    /// The reason for a termination request.
    pub fn check(&self) -> Result<HostParameters, TermReason> {
        Ok(HostParameters {
            data_alignment: check_common(self.format_version.get(), self.data_alignment)?,
            digests: Digests::from_field(self.digests),
            ready_to_transfer_max: self.ready_to_transfer_max.get().saturating_add(1),
        })
    }
}

impl InitializeResponse {
    /// The response of a controller.
    pub fn new(parameters: ControllerParameters) -> Self {
        debug_assert!(parameters.data_bytes_max >= DATA_BYTES_MAX_LEAST);
        debug_assert!(parameters.data_bytes_max.is_multiple_of(DWORD_BYTES));
        Self {
            header: CommonHeader::new(PduKind::InitializeResponse, Framing::default(), 0),
            format_version: U16::new(FORMAT_VERSION),
            data_alignment: parameters.data_alignment.field(),
            digests: parameters.digests.to_field(),
            data_bytes_max: U32::new(parameters.data_bytes_max),
            reserved: [0; 112],
        }
    }

    /// Checks what the controller grants to a host that asked for `asked`. Reserved bits are
    /// ignored. A limit below [`DATA_BYTES_MAX_LEAST`] is refused: Linux does so too, and with a
    /// limit of zero no write could end.
    ///
    /// # Errors
    /// The reason for a termination request.
    pub fn check(&self, asked: Digests) -> Result<ControllerParameters, TermReason> {
        let data_alignment = check_common(self.format_version.get(), self.data_alignment)?;
        let digests = Digests::from_field(self.digests);
        if digests.and(asked) != digests {
            return Err(TermReason::invalid_field(field::DIGESTS));
        }
        let data_bytes_max = self.data_bytes_max.get();
        if data_bytes_max < DATA_BYTES_MAX_LEAST || !data_bytes_max.is_multiple_of(DWORD_BYTES) {
            return Err(TermReason::invalid_field(field::MAXIMUM));
        }
        Ok(ControllerParameters { data_alignment, digests, data_bytes_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::framing::DATA_ALIGNMENT_FIELD_MAX;
    use proptest::prelude::*;

    const BOTH: Digests = Digests { header: true, data: true };

    fn request() -> InitializeRequest {
        InitializeRequest::new(HostParameters {
            data_alignment: DataAlignment::DWORD,
            digests: BOTH,
            ready_to_transfer_max: 1,
        })
    }

    fn response() -> InitializeResponse {
        InitializeResponse::new(ControllerParameters {
            data_alignment: DataAlignment::DWORD,
            digests: BOTH,
            data_bytes_max: DATA_BYTES_MAX_LEAST,
        })
    }

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let expected = [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
        assert_eq!(request().as_bytes()[..16], expected);
        let expected = [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 3, 0, 16, 0, 0];
        assert_eq!(response().as_bytes()[..16], expected);
    }

    #[test]
    fn another_format_version_is_unsupported() {
        let mut other = request();
        other.format_version = U16::new(1);
        let error = other.check().unwrap_err();
        assert_eq!(error, TermReason::new(FatalErrorStatus::UnsupportedParameter, 8));
    }

    #[test]
    fn an_alignment_past_the_largest_is_invalid() {
        let mut other = request();
        other.data_alignment = DATA_ALIGNMENT_FIELD_MAX;
        assert_eq!(other.check().unwrap().data_alignment.bytes(), 128);
        other.data_alignment = DATA_ALIGNMENT_FIELD_MAX + 1;
        assert_eq!(other.check(), Err(TermReason::invalid_field(10)));
    }

    #[test]
    fn a_digest_that_was_not_asked_for_is_refused() {
        assert_eq!(response().check(BOTH).unwrap().digests, BOTH);
        for asked in [Digests::default(), Digests { header: true, data: false }] {
            assert_eq!(response().check(asked), Err(TermReason::invalid_field(11)));
        }
    }

    #[test]
    fn the_data_limit_has_a_least_and_a_granularity() {
        let with = |bytes| {
            let mut other = response();
            other.data_bytes_max = U32::new(bytes);
            other.check(BOTH).map(|parameters| parameters.data_bytes_max)
        };
        assert_eq!(with(DATA_BYTES_MAX_LEAST), Ok(DATA_BYTES_MAX_LEAST));
        assert_eq!(with(DATA_BYTES_MAX_LEAST - 4), Err(TermReason::invalid_field(12)));
        assert_eq!(with(DATA_BYTES_MAX_LEAST + 1), Err(TermReason::invalid_field(12)));
    }

    #[test]
    fn the_number_of_r2ts_is_counted_from_one_and_saturates() {
        let mut other = request();
        assert_eq!(other.check().unwrap().ready_to_transfer_max, 1);
        other.ready_to_transfer_max = U32::new(u32::MAX);
        assert_eq!(other.check().unwrap().ready_to_transfer_max, u32::MAX);
    }

    proptest! {
        #[test]
        fn what_is_encoded_checks_to_the_same(
            field in 0..=DATA_ALIGNMENT_FIELD_MAX,
            header: bool,
            data: bool,
            count in 1..=u32::MAX,
            dwords in 1024u32..=u32::MAX / 4,
        ) {
            let data_alignment = DataAlignment::from_field(field).unwrap();
            let digests = Digests { header, data };
            let host = HostParameters { data_alignment, digests, ready_to_transfer_max: count };
            prop_assert_eq!(InitializeRequest::new(host).check(), Ok(host));
            let data_bytes_max = dwords * 4;
            let controller = ControllerParameters { data_alignment, digests, data_bytes_max };
            let response = InitializeResponse::new(controller);
            prop_assert_eq!(response.check(digests), Ok(controller));
        }

        #[test]
        fn any_bytes_are_checked_without_panic(bytes: [u8; 32]) {
            let mut pdu = [0; INITIALIZE_BYTES];
            pdu[..32].copy_from_slice(&bytes);
            let _ = InitializeRequest::read_from_bytes(&pdu).unwrap().check();
            let _ = InitializeResponse::read_from_bytes(&pdu).unwrap().check(BOTH);
        }
    }
}
