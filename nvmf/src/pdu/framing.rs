//! How the PDUs of one direction of a connection are laid out: digests and data alignment.
//!
//! Decided by the ICReq/ICResp exchange and constant from then on. Used by the encoders, which
//! compute flags, PDO and PLEN from it, and by the decoder, which demands the same of the peer.
//! NVMe/TCP Transport 1.0 sections 3.3 and 3.3.1.1.

use super::digest::DIGEST_BYTES;
use super::kind::{Flags, PduKind};

/// Largest HPDA or CPDA value, 0's based in dwords: an alignment of 128 bytes.
pub const DATA_ALIGNMENT_FIELD_MAX: u8 = 31;

/// Largest data offset that an encoder comes to, over all kinds and framings.
pub const DATA_OFFSET_BYTES_MAX: u8 = 144;

const DWORD_BYTES: u8 = 4;

/// Which digests the connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// A header digest in every PDU but termination requests.
    pub header: bool,
    /// A data digest in every PDU that carries data.
    pub data: bool,
}

/// What data offsets of a direction are a multiple of: 4 to 128 bytes, in dwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DataAlignment(u8);

impl DataAlignment {
    /// No more than what every data offset must have.
    pub const DWORD: Self = Self(0);

    /// From the wire's HPDA or CPDA field, 0's based in dwords; `None` past
    /// [`DATA_ALIGNMENT_FIELD_MAX`].
    pub const fn from_field(field: u8) -> Option<Self> {
        if field <= DATA_ALIGNMENT_FIELD_MAX { Some(Self(field)) } else { None }
    }

    /// The wire's HPDA or CPDA field.
    pub const fn field(self) -> u8 {
        self.0
    }

    /// The alignment in bytes.
    pub const fn bytes(self) -> u8 {
        (self.0 + 1) * DWORD_BYTES
    }
}

/// Layout of the PDUs of one direction.
///
/// The default is that of a connection before ICReq and ICResp: no digests, no alignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// Digests, the same in both directions.
    pub digests: Digests,
    /// HPDA towards the host, CPDA towards the controller.
    pub data_alignment: DataAlignment,
}

impl Framing {
    /// Length of the header digest of a kind: 0 or 4 bytes.
    pub const fn header_digest_bytes(self, kind: PduKind) -> u8 {
        if self.digests.header && kind.has_header_digest() { DIGEST_BYTES as u8 } else { 0 }
    }

    /// Length of the data digest of a PDU with data: 0 or 4 bytes.
    pub const fn data_digest_bytes(self, kind: PduKind) -> u8 {
        if self.digests.data && kind.has_data() { DIGEST_BYTES as u8 } else { 0 }
    }

    /// The digest flags of a PDU with `data_bytes` of data, 0 for none.
    pub(super) const fn flags(self, kind: PduKind, data_bytes: u32) -> Flags {
        let mut flags = Flags::NONE;
        if self.header_digest_bytes(kind) > 0 {
            flags = flags.with(Flags::HEADER_DIGEST);
        }
        if data_bytes > 0 && self.data_digest_bytes(kind) > 0 {
            flags = flags.with(Flags::DATA_DIGEST);
        }
        flags
    }

    /// Where the data of a kind starts, in bytes from the start of the PDU: at most
    /// [`DATA_OFFSET_BYTES_MAX`].
    pub const fn data_offset(self, kind: PduKind) -> u8 {
        let unaligned = kind.header_bytes() + self.header_digest_bytes(kind);
        unaligned.next_multiple_of(self.data_alignment.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_come_out() {
        let aligned = |field| Framing {
            data_alignment: DataAlignment::from_field(field).unwrap(),
            ..Framing::default()
        };
        // Figures 8 and 9: 24 bytes of header, 64 and 16 bytes of alignment, no header digest.
        assert_eq!(aligned(0x0f).data_offset(PduKind::H2cData), 64);
        assert_eq!(aligned(0x03).data_offset(PduKind::C2hData), 32);
    }

    #[test]
    fn the_largest_alignment_is_128_bytes() {
        let alignment = DataAlignment::from_field(DATA_ALIGNMENT_FIELD_MAX).unwrap();
        assert_eq!(alignment.bytes(), 128);
        assert_eq!(DataAlignment::from_field(DATA_ALIGNMENT_FIELD_MAX + 1), None);
    }

    #[test]
    fn every_framing_has_an_aligned_data_offset_within_the_largest() {
        let mut largest = 0;
        for field in 0..=DATA_ALIGNMENT_FIELD_MAX {
            for header in [false, true] {
                let data_alignment = DataAlignment::from_field(field).unwrap();
                let digests = Digests { header, data: false };
                let framing = Framing { digests, data_alignment };
                for kind in [PduKind::CommandCapsule, PduKind::H2cData, PduKind::C2hData] {
                    let offset = framing.data_offset(kind);
                    let least = kind.header_bytes() + framing.header_digest_bytes(kind);
                    assert_eq!(offset % data_alignment.bytes(), 0);
                    assert!(offset >= least && offset - least < data_alignment.bytes());
                    largest = largest.max(offset);
                }
            }
        }
        assert_eq!(largest, DATA_OFFSET_BYTES_MAX);
    }
}
