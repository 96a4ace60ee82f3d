//! CRC32C header and data digests.
//!
//! Used for every PDU of a connection that negotiated digests, on the core that owns it. The work
//! is done by crc-fast, whose one-shot call neither allocates nor locks: its only shared state is
//! the detected processor features, one acquire load after the first call. NVMe/TCP Transport 1.0
//! section 3.3.1.1; the test vectors are those of RFC 3720 appendix B.4.

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// Length of a header or data digest on the wire.
pub const DIGEST_BYTES: usize = 4;

const INITIAL: u32 = u32::MAX;

/// The CRC32C of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// A CRC32C over data that comes in pieces.
///
/// Four bytes and `Copy`, so that it fits a request slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u32);

impl Digest {
    /// The digest of no bytes yet.
    pub const fn new() -> Self {
        Self(INITIAL)
    }

    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut digest = crc_fast::Digest::new_with_init_state(Crc32Iscsi, u64::from(self.0));
        digest.update(bytes);
        let crc = u32::try_from(digest.finalize()).expect("a CRC32C has 32 bits");
        self.0 = !crc;
    }

    /// The CRC32C of everything added.
    pub const fn value(self) -> u32 {
        !self.0
    }

    /// The digest field: the value in little-endian order.
    pub const fn to_wire(self) -> [u8; DIGEST_BYTES] {
        self.value().to_le_bytes()
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_command_of_rfc_3720() -> [u8; 48] {
        let mut pdu = [0u8; 48];
        pdu[..2].copy_from_slice(&[0x01, 0xc0]);
        pdu[16] = 0x14;
        pdu[22] = 0x04;
        pdu[27] = 0x14;
        pdu[31] = 0x18;
        pdu[32] = 0x28;
        pdu[40] = 0x02;
        pdu
    }

    /// Bit by bit, from the definition: reflected polynomial 0x1edc6f41.
    fn crc32c_by_definition(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn the_vectors_of_rfc_3720_come_out() {
        let ascending: [u8; 32] = core::array::from_fn(|i| i.to_le_bytes()[0]);
        let mut descending = ascending;
        descending.reverse();
        assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[0xff; 32]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(crc32c(&ascending).to_le_bytes(), [0x4e, 0x79, 0xdd, 0x46]);
        assert_eq!(crc32c(&descending).to_le_bytes(), [0x5c, 0xdb, 0x3f, 0x11]);
        assert_eq!(crc32c(&read_command_of_rfc_3720()).to_le_bytes(), [0x56, 0x3a, 0x96, 0xd9]);
    }

    #[test]
    fn the_digest_of_nothing_is_zero() {
        assert_eq!(crc32c(&[]), 0);
        assert_eq!(Digest::new().value(), 0);
    }

    proptest! {
        #[test]
        fn every_length_agrees_with_the_definition(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            prop_assert_eq!(crc32c(&bytes), crc32c_by_definition(&bytes));
        }

        #[test]
        fn pieces_give_the_digest_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
            cuts in proptest::collection::vec(0usize..2048, 0..6),
        ) {
            let mut cuts = cuts;
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut digest = Digest::new();
            let mut start = 0;
            for cut in cuts {
                let end = cut.min(bytes.len());
                digest.update(&bytes[start..end]);
                start = end;
            }
            prop_assert_eq!(digest.value(), crc32c(&bytes));
            prop_assert_eq!(digest.to_wire(), crc32c(&bytes).to_le_bytes());
        }
    }
}
