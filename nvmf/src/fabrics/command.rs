//! Property Get, Property Set and Disconnect.
//!
//! Rare commands of connection set-up and tear-down. NVMe Base 2.0 sections 6.4 (Disconnect), 6.5
//! (Property Get) and 6.6 (Property Set); properties are the registers of `bdev::nvme::register`.

use super::connect::{FABRICS_FLAGS, FABRICS_OPCODE};
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::opcode::FabricsType;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only record format of Disconnect.
pub const DISCONNECT_RECORD_FORMAT: u16 = 0;

const SIZE_MASK: u8 = 0b111;

/// Size of a property (ATTRIB bits 2:0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertySize {
    /// 4 bytes.
    Four,
    /// 8 bytes.
    Eight,
}

impl PropertySize {
    /// The size of an ATTRIB field; `None` for a reserved one.
    pub const fn from_field(field: u8) -> Option<Self> {
        match field & SIZE_MASK {
            0 => Some(Self::Four),
            1 => Some(Self::Eight),
            _ => None,
        }
    }

    /// The ATTRIB field.
    pub const fn field(self) -> u8 {
        match self {
            Self::Four => 0,
            Self::Eight => 1,
        }
    }
}

/// A submission queue entry seen as Property Get or Property Set.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PropertyCommand {
    /// [`FABRICS_OPCODE`].
    pub opcode: u8,
    /// Data pointer format in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub command_id: U16,
    /// Property Get or Property Set.
    pub fabrics_type: u8,
    /// Reserved.
    pub reserved_5: [u8; 35],
    /// ATTRIB: size of the property; see [`PropertySize`].
    pub attributes: u8,
    /// Reserved.
    pub reserved_41: [u8; 3],
    /// OFST: which property, an offset of `bdev::nvme::register`.
    pub offset: U32,
    /// VALUE of a Property Set.
    pub value: U64,
    /// Reserved.
    pub reserved_56: [u8; 8],
}

const _: () = assert!(size_of::<PropertyCommand>() == size_of::<SubmissionEntry>());

impl PropertyCommand {
    fn new(kind: FabricsType, command_id: u16, offset: u32, size: PropertySize) -> Self {
        Self {
            opcode: FABRICS_OPCODE,
            flags: FABRICS_FLAGS,
            command_id: U16::new(command_id),
            fabrics_type: kind.value(),
            reserved_5: [0; 35],
            attributes: size.field(),
            reserved_41: [0; 3],
            offset: U32::new(offset),
            value: U64::ZERO,
            reserved_56: [0; 8],
        }
    }

    /// Asks for a property.
    pub fn get(command_id: u16, offset: u32, size: PropertySize) -> Self {
        Self::new(FabricsType::PropertyGet, command_id, offset, size)
    }

    /// Sets a property.
    pub fn set(command_id: u16, offset: u32, size: PropertySize, value: u64) -> Self {
        let command = Self::new(FabricsType::PropertySet, command_id, offset, size);
        Self { value: U64::new(value), ..command }
    }

    /// Sees an entry as Property Get or Property Set; `None` if it is another command.
    pub fn of(entry: &SubmissionEntry) -> Option<&Self> {
        let command: &Self = zerocopy::transmute_ref!(entry);
        let is_property = matches!(
            FabricsType::try_from(command.fabrics_type),
            Ok(FabricsType::PropertyGet | FabricsType::PropertySet)
        );
        (command.opcode == FABRICS_OPCODE && is_property).then_some(command)
    }

    /// The command as a submission queue entry.
    pub fn entry(&self) -> SubmissionEntry {
        zerocopy::transmute!(*self)
    }

    /// Size of the property; `None` for a reserved one.
    pub const fn size(&self) -> Option<PropertySize> {
        PropertySize::from_field(self.attributes)
    }
}

/// A submission queue entry seen as Disconnect.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DisconnectCommand {
    /// [`FABRICS_OPCODE`].
    pub opcode: u8,
    /// Data pointer format in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub command_id: U16,
    /// Disconnect.
    pub fabrics_type: u8,
    /// Reserved.
    pub reserved_5: [u8; 35],
    /// RECFMT, [`DISCONNECT_RECORD_FORMAT`].
    pub record_format: U16,
    /// Reserved.
    pub reserved_42: [u8; 22],
}

const _: () = assert!(size_of::<DisconnectCommand>() == size_of::<SubmissionEntry>());

impl DisconnectCommand {
    /// Deletes the I/O queue that it is sent on.
    pub fn new(command_id: u16) -> Self {
        Self {
            opcode: FABRICS_OPCODE,
            flags: FABRICS_FLAGS,
            command_id: U16::new(command_id),
            fabrics_type: FabricsType::Disconnect.value(),
            reserved_5: [0; 35],
            record_format: U16::new(DISCONNECT_RECORD_FORMAT),
            reserved_42: [0; 22],
        }
    }

    /// Sees an entry as Disconnect; `None` if it is another command.
    pub fn of(entry: &SubmissionEntry) -> Option<&Self> {
        let command: &Self = zerocopy::transmute_ref!(entry);
        let is_disconnect = command.fabrics_type == FabricsType::Disconnect.value();
        (command.opcode == FABRICS_OPCODE && is_disconnect).then_some(command)
    }

    /// The command as a submission queue entry.
    pub fn entry(&self) -> SubmissionEntry {
        zerocopy::transmute!(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dwords_are_those_of_the_specification() {
        let entry = PropertyCommand::set(1, 0x14, PropertySize::Four, 0x0046_0001).entry();
        assert_eq!((entry.cdw10.get(), entry.cdw11.get()), (0, 0x14));
        assert_eq!(entry.cdw12.get(), 0x0046_0001);
        assert_eq!(entry.fabrics_type(), 0x00);
        let entry = PropertyCommand::get(1, 0x00, PropertySize::Eight).entry();
        assert_eq!((entry.cdw10.get(), entry.fabrics_type()), (1, 0x04));
    }

    #[test]
    fn only_two_sizes_are_not_reserved() {
        assert_eq!(PropertySize::from_field(0), Some(PropertySize::Four));
        assert_eq!(PropertySize::from_field(1), Some(PropertySize::Eight));
        for field in 2..=7 {
            assert_eq!(PropertySize::from_field(field), None);
        }
    }

    #[test]
    fn each_command_is_seen_only_as_itself() {
        let get = PropertyCommand::get(1, 0, PropertySize::Four).entry();
        let disconnect = DisconnectCommand::new(1).entry();
        assert!(PropertyCommand::of(&get).is_some());
        assert!(PropertyCommand::of(&disconnect).is_none());
        assert!(DisconnectCommand::of(&disconnect).is_some());
        assert!(DisconnectCommand::of(&get).is_none());
        let mut other = get;
        other.opcode = 0x02;
        assert!(PropertyCommand::of(&other).is_none());
    }

    proptest! {
        #[test]
        fn a_property_reads_as_it_was_written(command_id: u16, offset: u32, value: u64) {
            let command = PropertyCommand::set(command_id, offset, PropertySize::Eight, value);
            let entry = command.entry();
            prop_assert_eq!(PropertyCommand::of(&entry), Some(&command));
            prop_assert_eq!(command.value.get(), value);
            prop_assert_eq!(command.size(), Some(PropertySize::Eight));
        }
    }
}
