//! From a PDU's header struct to the bytes that go out before its data, and the digest check of
//! those that came in.
//!
//! Called on the hot path, once a PDU, by the core that owns the connection; writes into a slot of
//! the connection and allocates nothing. NVMe/TCP Transport 1.0 sections 3.3 and 3.3.1.1.

use super::capsule::{CommandCapsule, ResponseCapsule};
use super::connection::{InitializeRequest, InitializeResponse};
use super::data::{C2hData, H2cData, ReadyToTransfer};
use super::digest::{DIGEST_BYTES, crc32c};
use super::framing::DATA_OFFSET_BYTES_MAX;
use super::header::{CommonHeader, PduHeader};
use super::kind::Flags;
use super::terminate::{FatalErrorStatus, TermReason};
use zerocopy::{Immutable, IntoBytes};

/// Room for any header with digest and padding. The most that precedes data is a command capsule's
/// header and digest, 76 bytes, rounded up to the alignment of 72.
pub const HEADER_SLOT_BYTES: usize = DATA_OFFSET_BYTES_MAX as usize;

/// A header struct that can be sent; only the structs of this module's siblings are.
pub trait Header: IntoBytes + Immutable + sealed::Sealed {
    /// The common header that it starts with.
    fn common(&self) -> &CommonHeader;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! headers {
    ($($name:ty),*) => {$(
        impl sealed::Sealed for $name {}
        impl Header for $name {
            fn common(&self) -> &CommonHeader {
                &self.header
            }
        }
    )*};
}

headers!(
    InitializeRequest,
    InitializeResponse,
    CommandCapsule,
    ResponseCapsule,
    H2cData,
    C2hData,
    ReadyToTransfer
);

/// Writes a header, its digest if its flags say so, and the padding up to its data; gives the
/// number of bytes written, which is where the data goes, or ends the PDU.
#[inline]
pub fn write_header<H: Header>(header: &H, out: &mut [u8; HEADER_SLOT_BYTES]) -> usize {
    let bytes = header.as_bytes();
    let common = header.common();
    let mut length = bytes.len();
    out[..length].copy_from_slice(bytes);
    if Flags(common.flags).has(Flags::HEADER_DIGEST) {
        out[length..length + DIGEST_BYTES].copy_from_slice(&crc32c(bytes).to_le_bytes());
        length += DIGEST_BYTES;
    }
    let data_offset = usize::from(common.data_offset);
    if data_offset > length {
        // What the peer receives must be bytes that we wrote, not what the slot held before.
        out[length..data_offset].fill(0);
        length = data_offset;
    }
    length
}

/// Checks the header digest of a received PDU; passes if it has none.
///
/// `bytes` starts with the PDU and holds at least its header and header digest.
///
/// # Errors
/// The reason for a termination request, with the digest received.
#[inline]
pub fn verify_header_digest(parts: &PduHeader, bytes: &[u8]) -> Result<(), TermReason> {
    if parts.header_digest_bytes == 0 {
        return Ok(());
    }
    let (header, rest) = bytes.split_at(usize::from(parts.header_bytes));
    let received = rest.first_chunk::<DIGEST_BYTES>().map(|digest| u32::from_le_bytes(*digest));
    let received = received.expect("the framer waits for the header digest");
    if received == crc32c(header) {
        Ok(())
    } else {
        Err(TermReason::new(FatalErrorStatus::HeaderDigestError, received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::data::DataRange;
    use crate::pdu::framing::{DataAlignment, Digests, Framing};
    use crate::pdu::header::{Phase, Rules, decode};
    use crate::pdu::kind::{PduKind, Role};
    use bdev::nvme::command::SubmissionEntry;
    use bdev::nvme::completion::CompletionEntry;
    use proptest::prelude::*;

    fn framings() -> impl Strategy<Value = Framing> {
        (any::<bool>(), any::<bool>(), 0u8..=31).prop_map(|(header, data, field)| Framing {
            digests: Digests { header, data },
            data_alignment: DataAlignment::from_field(field).unwrap(),
        })
    }

    fn rules(receiver: Role, framing: Framing) -> Rules {
        let phase = Phase::Connected;
        Rules { receiver, phase, framing, capsule_data_bytes_max: 8192, data_bytes_max: 1 << 20 }
    }

    /// Encodes, decodes under the same framing, and checks what any header must satisfy.
    fn round_trip<H: Header>(header: &H, kind: PduKind, framing: Framing, data_bytes: u32) {
        let mut slot = [0xee; HEADER_SLOT_BYTES];
        let length = write_header(header, &mut slot);
        let rules = rules(kind.receiver(), framing);
        let parts = decode(slot.first_chunk().unwrap(), &rules).unwrap();
        assert_eq!(parts.kind, kind);
        assert_eq!(parts.data_bytes, data_bytes);
        assert_eq!(usize::from(parts.data_offset), length);
        let before = u32::from(parts.data_offset);
        let after = u32::from(parts.data_digest_bytes);
        assert_eq!(parts.pdu_bytes, before + data_bytes + after);
        assert_eq!(parts.data_digest_bytes > 0, framing.digests.data && data_bytes > 0);
        assert_eq!(verify_header_digest(&parts, &slot), Ok(()));
        assert_eq!(&slot[..usize::from(parts.header_bytes)], header.as_bytes());
        let padding = usize::from(parts.header_bytes + parts.header_digest_bytes)..length;
        assert!(slot[padding].iter().all(|byte| *byte == 0));
        if parts.header_digest_bytes > 0 {
            slot[9] ^= 0x10;
            let error = verify_header_digest(&parts, &slot).unwrap_err();
            assert_eq!(error.status, FatalErrorStatus::HeaderDigestError);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(
            framing in framings(),
            command_id: u16,
            transfer_tag: u16,
            offset: u32,
            length in 1u32..=1 << 20,
            capsule_data_bytes in 0u32..=8192,
        ) {
            let command = SubmissionEntry::new(1, command_id, 1);
            let capsule = CommandCapsule::new(command, capsule_data_bytes, framing);
            round_trip(&capsule, PduKind::CommandCapsule, framing, capsule_data_bytes);
            let completion = CompletionEntry::new(command_id, 3, bdev::Status::SUCCESS);
            let response = ResponseCapsule::new(completion, framing);
            round_trip(&response, PduKind::ResponseCapsule, framing, 0);
            let range = DataRange { offset, length };
            let to_host = C2hData::new(command_id, range, Flags::LAST, framing);
            round_trip(&to_host, PduKind::C2hData, framing, length);
            let from_host = H2cData::new(command_id, transfer_tag, range, Flags::LAST, framing);
            round_trip(&from_host, PduKind::H2cData, framing, length);
            let ready = ReadyToTransfer::new(command_id, transfer_tag, range, framing);
            round_trip(&ready, PduKind::ReadyToTransfer, framing, 0);
        }
    }
}
