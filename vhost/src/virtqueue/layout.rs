//! How a split virtqueue lies in memory: descriptors, flags, sizes.
//!
//! Virtio 1.2 section 2.7. Plain data; nothing here touches memory.

/// Largest ring: what the specification allows (section 2.7) is 32768, QEMU makes 1024 at most.
pub const RING_SIZE_MAX: u16 = 1024;

/// Most descriptors of a chain that are followed. Guests are told to use fewer (`seg_max`).
pub const CHAIN_DESCRIPTORS_MAX: u16 = 128;

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: u32 = 16;
/// Alignment of the descriptor table, in bytes.
pub const DESCRIPTORS_ALIGN_BYTES: usize = 16;
/// Alignment of the available ring, in bytes.
pub const AVAILABLE_ALIGN_BYTES: usize = 2;
/// Alignment of the used ring, in bytes.
pub const USED_ALIGN_BYTES: usize = 4;

/// The chain goes on at `next` (`VIRTQ_DESC_F_NEXT`).
pub const FLAG_NEXT: u16 = 1;
/// The device writes (`VIRTQ_DESC_F_WRITE`).
pub const FLAG_WRITE: u16 = 2;
/// The buffer holds descriptors (`VIRTQ_DESC_F_INDIRECT`).
pub const FLAG_INDIRECT: u16 = 4;

/// In the used ring: no kick is wanted (`VIRTQ_USED_F_NO_NOTIFY`).
pub const USED_NO_NOTIFY: u16 = 1;
/// In the available ring: no call is wanted (`VIRTQ_AVAIL_F_NO_INTERRUPT`).
pub const AVAILABLE_NO_INTERRUPT: u16 = 1;

/// A descriptor, copied out of the guest's memory: figure `struct virtq_desc`, section 2.7.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Its length in bytes.
    pub len_bytes: u32,
    /// `FLAG_…`.
    pub flags: u16,
    /// The next of the chain, with [`FLAG_NEXT`].
    pub next: u16,
}

impl Descriptor {
    /// Takes apart the two words of a descriptor.
    pub fn from_words(words: [u64; 2]) -> Descriptor {
        let [address, rest] = words.map(u64::from_le);
        Descriptor {
            address,
            len_bytes: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

/// Bytes of the descriptor table of a ring.
pub fn descriptors_bytes(size: u16) -> u64 {
    u64::from(DESCRIPTOR_BYTES) * u64::from(size)
}

/// Bytes of the available ring, `used_event` included.
pub fn available_bytes(size: u16) -> u64 {
    6 + 2 * u64::from(size)
}

/// Bytes of the used ring, `avail_event` included.
pub fn used_bytes(size: u16) -> u64 {
    6 + 8 * u64::from(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_taken_apart_as_the_specification_lays_it_out() {
        let bytes: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 3, 0, 5, 1];
        let words = [0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()));
        let expected = Descriptor {
            address: 0x0807_0605_0403_0201,
            len_bytes: 0x0c0b_0a09,
            flags: FLAG_NEXT | FLAG_WRITE,
            next: 0x0105,
        };
        assert_eq!(Descriptor::from_words(words), expected);
    }
}
