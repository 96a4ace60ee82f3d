//! The common header of every PDU, and the one place where it is checked.
//!
//! [`decode`] is called by the framer with the first eight bytes of each PDU, before a further byte
//! is waited for; what it accepts tells exactly where the PDU's parts are, what it refuses carries
//! the reason for the termination request. Total, without allocation. NVMe/TCP Transport 1.0
//! section 3.6.2.1, figures 19 to 28, and section 3.5 on fatal errors.
//!
//! Fields are looked at in the order of their offsets, because the error information has to name
//! the lowest offset in error. Reserved flags are refused; a reserved PDO is ignored.

use super::framing::Framing;
use super::kind::{Flags, PduKind, Role};
use super::terminate::{FatalErrorStatus, TERM_REQUEST_BYTES_MAX, TermReason, field};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the common header.
pub const COMMON_HEADER_BYTES: usize = 8;

/// The common header as on the wire (figure 19).
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
pub struct CommonHeader {
    /// Kind of PDU.
    pub pdu_type: u8,
    /// Flags, by kind.
    pub flags: u8,
    /// HLEN: length in bytes of the header without its digest.
    pub header_bytes: u8,
    /// PDO: where the data starts, in bytes from the start of the PDU.
    pub data_offset: u8,
    /// PLEN: length in bytes of the whole PDU.
    pub pdu_bytes: U32,
}

const _: () = assert!(size_of::<CommonHeader>() == COMMON_HEADER_BYTES);

impl CommonHeader {
    /// The header of a PDU of `kind` with `data_bytes` of data, laid out by `framing`.
    ///
    /// # Panics
    /// If the PDU would exceed 4 GiB, which no I/O comes near.
    pub(super) fn new(kind: PduKind, framing: Framing, data_bytes: u32) -> Self {
        let unpadded = kind.header_bytes() + framing.header_digest_bytes(kind);
        let (data_offset, pdu_bytes) = if data_bytes == 0 {
            (0, u32::from(unpadded))
        } else {
            let data_offset = framing.data_offset(kind);
            let around = u32::from(data_offset) + u32::from(framing.data_digest_bytes(kind));
            (data_offset, data_bytes.checked_add(around).expect("a PDU is shorter than 4 GiB"))
        };
        Self {
            pdu_type: kind.pdu_type(),
            flags: framing.flags(kind, data_bytes).0,
            header_bytes: kind.header_bytes(),
            data_offset,
            pdu_bytes: U32::new(pdu_bytes),
        }
    }
}

/// How far the connection is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// ICReq or ICResp is due.
    Initializing,
    /// ICReq and ICResp have been exchanged.
    Connected,
}

/// What the receiver of a PDU demands of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who receives.
    pub receiver: Role,
    /// How far the connection is set up.
    pub phase: Phase,
    /// Digests, and the data alignment that the receiver asked for.
    pub framing: Framing,
    /// Largest in-capsule data in bytes that the controller takes. Does not matter to a host.
    pub capsule_data_bytes_max: u32,
    /// Largest data of an H2CData PDU (MAXH2CDATA) or, to a host, of a C2HData PDU, in bytes.
    pub data_bytes_max: u32,
}

/// A header that was accepted: where the parts of the PDU are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PduHeader {
    /// What it is.
    pub kind: PduKind,
    /// Its flags, consistent with kind and rules.
    pub flags: Flags,
    /// Length in bytes of the header without digest.
    pub header_bytes: u8,
    /// Length in bytes of the header digest, which follows the header: 0 or 4.
    pub header_digest_bytes: u8,
    /// Where the data starts, in bytes from the start of the PDU; without data where it ends.
    pub data_offset: u8,
    /// Length in bytes of the data digest, which follows the data: 0 or 4.
    pub data_digest_bytes: u8,
    /// Length in bytes of the data; 0 if there is none.
    pub data_bytes: u32,
    /// Length in bytes of the whole PDU.
    pub pdu_bytes: u32,
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A fatal error, to be answered with a termination request.
    #[error("refused PDU: {0}")]
    Terminate(TermReason),
    /// A malformed termination request: section 3.5 has it ignored and the connection closed.
    #[error("malformed termination request")]
    Close,
}

const fn invalid(offset: u32) -> HeaderError {
    HeaderError::Terminate(TermReason::new(FatalErrorStatus::InvalidHeaderField, offset))
}

/// Checks the common header of a PDU and finds its parts.
///
/// # Errors
/// [`HeaderError::Terminate`] with the fatal error status and the offset of the first field in
/// error, or [`HeaderError::Close`] for a termination request that is itself malformed.
#[inline]
pub fn decode(bytes: &[u8; COMMON_HEADER_BYTES], rules: &Rules) -> Result<PduHeader, HeaderError> {
    let header: CommonHeader = zerocopy::transmute!(*bytes);
    let kind = check_kind(&header, rules)?;
    if kind.is_term_request() {
        return term_request(kind, &header);
    }
    check_flags(kind, &header, rules)?;
    if header.header_bytes != kind.header_bytes() {
        return Err(invalid(field::HLEN));
    }
    let header_digest_bytes = rules.framing.header_digest_bytes(kind);
    let unpadded = kind.header_bytes() + header_digest_bytes;
    let pdu_bytes = header.pdu_bytes.get();
    let mut parts = PduHeader {
        kind,
        flags: Flags(header.flags),
        header_bytes: kind.header_bytes(),
        header_digest_bytes,
        data_offset: unpadded,
        data_digest_bytes: 0,
        data_bytes: 0,
        pdu_bytes,
    };
    let is_bare = pdu_bytes == u32::from(unpadded);
    if !kind.has_data() {
        return if is_bare { Ok(parts) } else { Err(invalid(field::PLEN)) };
    }
    if kind == PduKind::CommandCapsule && is_bare {
        return Ok(parts);
    }
    parts.data_offset = check_data_offset(&header, unpadded, rules.framing)?;
    parts.data_digest_bytes = rules.framing.data_digest_bytes(kind);
    if parts.data_digest_bytes > 0 && !parts.flags.has(Flags::DATA_DIGEST) {
        return Err(invalid(field::FLAGS));
    }
    let around = u32::from(parts.data_offset) + u32::from(parts.data_digest_bytes);
    match pdu_bytes.checked_sub(around) {
        None | Some(0) => return Err(invalid(field::PLEN)),
        Some(data_bytes) => parts.data_bytes = data_bytes,
    }
    check_data_length(&parts, rules)?;
    Ok(parts)
}

fn check_kind(header: &CommonHeader, rules: &Rules) -> Result<PduKind, HeaderError> {
    let kind = PduKind::from_type(header.pdu_type).ok_or(invalid(field::TYPE))?;
    if kind.receiver() != rules.receiver {
        return Err(invalid(field::TYPE));
    }
    let in_sequence = match rules.phase {
        Phase::Initializing => kind.is_initialize(),
        Phase::Connected => !kind.is_initialize(),
    };
    if in_sequence || kind.is_term_request() {
        Ok(kind)
    } else {
        Err(HeaderError::Terminate(TermReason::new(FatalErrorStatus::SequenceError, 0)))
    }
}

fn check_flags(kind: PduKind, header: &CommonHeader, rules: &Rules) -> Result<(), HeaderError> {
    let flags = Flags(header.flags);
    let digests = rules.framing.digests;
    let reserved = !kind.flags_allowed().has(flags);
    let header_digest =
        flags.has(Flags::HEADER_DIGEST) != (rules.framing.header_digest_bytes(kind) > 0);
    let data_digest_unasked = flags.has(Flags::DATA_DIGEST) && !digests.data;
    // A command capsule without data needs no data digest flag; `decode` looks at one with data.
    let data_digest_missing = kind.has_data()
        && kind != PduKind::CommandCapsule
        && digests.data
        && !flags.has(Flags::DATA_DIGEST);
    let success_too_early = flags.has(Flags::SUCCESS) && !flags.has(Flags::LAST);
    if reserved || header_digest || data_digest_unasked || data_digest_missing || success_too_early
    {
        return Err(invalid(field::FLAGS));
    }
    Ok(())
}

fn check_data_offset(
    header: &CommonHeader,
    unpadded: u8,
    framing: Framing,
) -> Result<u8, HeaderError> {
    if header.pdu_bytes.get() < u32::from(unpadded) {
        return Err(invalid(field::PLEN));
    }
    let offset = header.data_offset;
    if offset < unpadded || !offset.is_multiple_of(framing.data_alignment.bytes()) {
        return Err(invalid(field::PDO));
    }
    Ok(offset)
}

fn check_data_length(parts: &PduHeader, rules: &Rules) -> Result<(), HeaderError> {
    match parts.kind {
        PduKind::CommandCapsule if parts.data_bytes > rules.capsule_data_bytes_max => {
            Err(invalid(field::PLEN))
        }
        PduKind::H2cData if parts.data_bytes > rules.data_bytes_max => {
            Err(HeaderError::Terminate(TermReason::new(FatalErrorStatus::DataLimitExceeded, 0)))
        }
        PduKind::C2hData if parts.data_bytes > rules.data_bytes_max => {
            Err(HeaderError::Terminate(TermReason::new(FatalErrorStatus::DataOutOfRange, 0)))
        }
        _ => Ok(()),
    }
}

fn term_request(kind: PduKind, header: &CommonHeader) -> Result<PduHeader, HeaderError> {
    let header_bytes = kind.header_bytes();
    let pdu_bytes = header.pdu_bytes.get();
    let data_bytes = pdu_bytes.checked_sub(u32::from(header_bytes)).ok_or(HeaderError::Close)?;
    if header.header_bytes != header_bytes || pdu_bytes > TERM_REQUEST_BYTES_MAX {
        return Err(HeaderError::Close);
    }
    Ok(PduHeader {
        kind,
        flags: Flags::NONE,
        header_bytes,
        header_digest_bytes: 0,
        data_offset: header_bytes,
        data_digest_bytes: 0,
        data_bytes,
        pdu_bytes,
    })
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
