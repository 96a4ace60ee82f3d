//! The SGL descriptor, and what it says after decoding.
//!
//! Over fabrics every command carries exactly one in its data pointer; an NVMe over PCIe driver
//! may use them in place of PRPs. Plain data for any thread. NVMe Base 2.0 section 4.1.2 (SGL
//! descriptors); NVMe/TCP Transport 1.0 section 3.3.2 and figure 14 for the two types that TCP
//! allows.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of an SGL descriptor.
pub const SGL_DESCRIPTOR_BYTES: usize = 16;

const TYPE_SHIFT: u32 = 4;
const SUBTYPE_MASK: u8 = 0x0f;

const TYPE_DATA_BLOCK: u8 = 0x0;
const TYPE_BIT_BUCKET: u8 = 0x1;
const TYPE_SEGMENT: u8 = 0x2;
const TYPE_LAST_SEGMENT: u8 = 0x3;
const TYPE_KEYED_DATA_BLOCK: u8 = 0x4;
const TYPE_TRANSPORT_DATA_BLOCK: u8 = 0x5;

const SUBTYPE_ADDRESS: u8 = 0x0;
const SUBTYPE_OFFSET: u8 = 0x1;
const SUBTYPE_TRANSPORT: u8 = 0xa;
const SUBTYPE_INVALIDATE_KEY: u8 = 0xf;

/// An SGL descriptor as on the wire; byte 15 holds type and subtype.
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
pub struct SglDescriptor {
    /// Address or offset, by subtype.
    pub address: U64,
    /// Length in bytes; a keyed descriptor uses the lower three bytes only.
    pub length: U32,
    /// Reserved, or byte 3 of the length and the key of a keyed descriptor.
    pub specific: [u8; 3],
    /// Descriptor type in the upper, subtype in the lower four bits.
    pub identifier: u8,
}

const _: () = assert!(size_of::<SglDescriptor>() == SGL_DESCRIPTOR_BYTES);

/// What an SGL descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sgl {
    /// Data at an address in the host's memory.
    DataBlock {
        /// First byte.
        address: u64,
        /// Length in bytes.
        length: u32,
    },
    /// Data inside the command capsule.
    InCapsule {
        /// First byte, counted from the start of the in-capsule data.
        offset: u64,
        /// Length in bytes.
        length: u32,
    },
    /// Data that the transport moves on its own (TCP: C2HData, or R2T and H2CData).
    TransportDataBlock {
        /// Length in bytes of the command data buffer.
        length: u32,
    },
    /// Data behind a remote key (RDMA).
    KeyedDataBlock {
        /// First byte.
        address: u64,
        /// Length in bytes, 24 bits.
        length: u32,
        /// Remote key.
        key: u32,
        /// Whether the key is to be invalidated once the command completes.
        invalidate: bool,
    },
    /// Data to be thrown away.
    BitBucket {
        /// Length in bytes.
        length: u32,
    },
    /// More descriptors at an address or offset.
    Segment {
        /// First byte of the descriptors.
        address: u64,
        /// Length in bytes of the descriptors.
        length: u32,
        /// Whether no further segment follows.
        last: bool,
    },
    /// A type or subtype that is reserved, vendor specific or not known here.
    Unknown {
        /// Type and subtype as they came.
        identifier: u8,
    },
}

impl SglDescriptor {
    /// Data in the host's memory.
    pub const fn data_block(address: u64, length: u32) -> Self {
        Self::of(address, length, TYPE_DATA_BLOCK << TYPE_SHIFT | SUBTYPE_ADDRESS)
    }

    /// Data in the capsule, from `offset` of the in-capsule data on.
    pub const fn in_capsule(offset: u64, length: u32) -> Self {
        Self::of(offset, length, TYPE_DATA_BLOCK << TYPE_SHIFT | SUBTYPE_OFFSET)
    }

    /// Data that the transport moves on its own.
    pub const fn transport_data_block(length: u32) -> Self {
        Self::of(0, length, TYPE_TRANSPORT_DATA_BLOCK << TYPE_SHIFT | SUBTYPE_TRANSPORT)
    }

    /// More descriptors in the host's memory, none after them.
    pub const fn last_segment(address: u64, length: u32) -> Self {
        Self::of(address, length, TYPE_LAST_SEGMENT << TYPE_SHIFT | SUBTYPE_ADDRESS)
    }

    const fn of(address: u64, length: u32, identifier: u8) -> Self {
        Self { address: U64::new(address), length: U32::new(length), specific: [0; 3], identifier }
    }

    /// What the descriptor says. Total: unknown types come back as [`Sgl::Unknown`].
    pub fn decode(&self) -> Sgl {
        let address = self.address.get();
        let length = self.length.get();
        let subtype = self.identifier & SUBTYPE_MASK;
        match (self.identifier >> TYPE_SHIFT, subtype) {
            (TYPE_DATA_BLOCK, SUBTYPE_ADDRESS) => Sgl::DataBlock { address, length },
            (TYPE_DATA_BLOCK, SUBTYPE_OFFSET) => Sgl::InCapsule { offset: address, length },
            (TYPE_TRANSPORT_DATA_BLOCK, SUBTYPE_TRANSPORT) => Sgl::TransportDataBlock { length },
            (TYPE_BIT_BUCKET, SUBTYPE_ADDRESS) => Sgl::BitBucket { length },
            (TYPE_SEGMENT, SUBTYPE_ADDRESS) => Sgl::Segment { address, length, last: false },
            (TYPE_LAST_SEGMENT, SUBTYPE_ADDRESS) => Sgl::Segment { address, length, last: true },
            (TYPE_KEYED_DATA_BLOCK, SUBTYPE_ADDRESS | SUBTYPE_INVALIDATE_KEY) => {
                let [low, middle, high, key0] = length.to_le_bytes();
                let [key1, key2, key3] = self.specific;
                Sgl::KeyedDataBlock {
                    address,
                    length: u32::from_le_bytes([low, middle, high, 0]),
                    key: u32::from_le_bytes([key0, key1, key2, key3]),
                    invalidate: subtype == SUBTYPE_INVALIDATE_KEY,
                }
            }
            _ => Sgl::Unknown { identifier: self.identifier },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_two_descriptors_of_tcp_have_the_identifiers_of_the_specification() {
        assert_eq!(SglDescriptor::in_capsule(0, 512).identifier, 0x01);
        assert_eq!(SglDescriptor::transport_data_block(512).identifier, 0x5a);
    }

    #[test]
    fn a_keyed_descriptor_has_a_24_bit_length_and_a_32_bit_key() {
        let mut bytes = [0u8; SGL_DESCRIPTOR_BYTES];
        bytes[8..11].copy_from_slice(&[0xff, 0xff, 0xff]);
        bytes[11..15].copy_from_slice(&0x1234_5678u32.to_le_bytes());
        bytes[15] = 0x4f;
        let descriptor = SglDescriptor::read_from_bytes(&bytes).unwrap();
        let expected = Sgl::KeyedDataBlock {
            address: 0,
            length: 0x00ff_ffff,
            key: 0x1234_5678,
            invalidate: true,
        };
        assert_eq!(descriptor.decode(), expected);
    }

    #[test]
    fn a_transport_block_of_another_subtype_is_unknown() {
        let mut descriptor = SglDescriptor::transport_data_block(4096);
        descriptor.identifier = 0x5b;
        assert_eq!(descriptor.decode(), Sgl::Unknown { identifier: 0x5b });
    }

    proptest! {
        #[test]
        fn constructors_decode_to_what_was_given(address: u64, length: u32) {
            let of = |descriptor: SglDescriptor| descriptor.decode();
            prop_assert_eq!(
                of(SglDescriptor::data_block(address, length)),
                Sgl::DataBlock { address, length }
            );
            prop_assert_eq!(
                of(SglDescriptor::in_capsule(address, length)),
                Sgl::InCapsule { offset: address, length }
            );
            prop_assert_eq!(
                of(SglDescriptor::transport_data_block(length)),
                Sgl::TransportDataBlock { length }
            );
            prop_assert_eq!(
                of(SglDescriptor::last_segment(address, length)),
                Sgl::Segment { address, length, last: true }
            );
        }

        #[test]
        fn any_bytes_decode(bytes: [u8; SGL_DESCRIPTOR_BYTES]) {
            let _ = SglDescriptor::read_from_bytes(&bytes).unwrap().decode();
        }
    }
}
