//! CRC32C of headers and data.
//!
//! Used for every PDU of a connection that negotiated digests, on its core. RFC 7143 section 13.1;
//! the vectors of the test are those of its appendix B.4 (as in RFC 3720).

/// Length of a digest on the wire.
pub const DIGEST_BYTES: usize = 4;

/// The digest of `bytes`, as it is sent: least significant byte first.
#[inline]
pub fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

/// The digest of data and of the padding that follows it.
pub fn padded_digest(data: &[u8]) -> [u8; DIGEST_BYTES] {
    let padding = data.len().next_multiple_of(4) - data.len();
    if padding == 0 {
        return digest(data);
    }
    let mut running = Running::new();
    running.update(data);
    running.padded(data.len())
}

/// A digest of data that comes in pieces.
#[derive(Debug)]
pub struct Running(crc_fast::Digest);

impl Running {
    /// Of no bytes yet.
    pub fn new() -> Running {
        Running(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added, `len_bytes` in all, and of the padding behind it.
    pub fn padded(mut self, len_bytes: usize) -> [u8; DIGEST_BYTES] {
        let padding = len_bytes.next_multiple_of(4) - len_bytes;
        self.0.update(&[0; 3][..padding]);
        u32::try_from(self.0.finalize()).expect("a CRC32C has 32 bits").to_le_bytes()
    }
}

impl Default for Running {
    fn default() -> Running {
        Running::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_specification_come_out() {
        assert_eq!(digest(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(digest(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(digest(&ascending), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn padding_is_part_of_the_data() {
        assert_eq!(padded_digest(&[1, 2, 3, 4, 5]), digest(&[1, 2, 3, 4, 5, 0, 0, 0]));
        assert_eq!(padded_digest(&[1, 2, 3, 4]), digest(&[1, 2, 3, 4]));
    }
}
