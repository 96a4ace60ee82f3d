//! Sense data: why a command ended in CHECK CONDITION, in either of its two formats.
//!
//! Made by every module of the command layer, encoded by the front door when it answers. SPC-4
//! section 4.5 (figures of fixed and descriptor format), section 4.5.6 (sense keys), annex D
//! (additional sense codes).

/// Longest sense data that is made here: descriptor format with both of its descriptors.
pub const SENSE_BYTES_MAX: usize = 28;

/// Bytes of sense data in fixed format (SPC-4 table 53).
const FIXED_BYTES: usize = 18;
/// Header of descriptor format, and its information and sense-key specific descriptors.
const DESCRIPTOR_HEADER_BYTES: usize = 8;
const INFORMATION_BYTES: usize = 12;
const SPECIFIC_BYTES: usize = 8;

const CURRENT_FIXED: u8 = 0x70;
const CURRENT_DESCRIPTOR: u8 = 0x72;
/// INFORMATION is valid, in the first byte of the fixed format and the third of its descriptor.
const VALID: u8 = 0x80;
/// The sense-key specific bytes are valid, and the error is in the CDB.
const SPECIFIC_VALID: u8 = 0x80;
const IN_CDB: u8 = 0x40;
const BIT_VALID: u8 = 0x08;

/// What kind of condition (SPC-4 table 57).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// The unit cannot be reached.
    NotReady = 0x2,
    /// The medium is at fault.
    MediumError = 0x3,
    /// The unit is at fault.
    HardwareError = 0x4,
    /// The command is wrong.
    IllegalRequest = 0x5,
    /// Something has happened that the initiator has not been told of.
    UnitAttention = 0x6,
    /// The medium may not be written.
    DataProtect = 0x7,
    /// A copy ended before its end.
    CopyAborted = 0xa,
    /// The command was given up; it may be tried again.
    AbortedCommand = 0xb,
    /// What was compared differs.
    Miscompare = 0xe,
}

/// An additional sense code and its qualifier, as `code << 8 | qualifier` (SPC-4 annex D).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SenseCode(pub u16);

macro_rules! codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl SenseCode {
            $(
                #[doc = concat!($text, ".")]
                pub const $name: SenseCode = SenseCode($code);
            )*
        }
    };
}

codes! {
    NONE = 0x0000, "No additional sense information";
    NOT_READY = 0x0400, "Logical unit not ready, cause not reportable";
    NOT_READY_STOPPED = 0x0402, "Logical unit not ready, initializing command required";
    WRITE_ERROR = 0x0c00, "Write error";
    INFORMATION_UNIT_ERROR = 0x0e03, "Invalid field in command information unit";
    CRC_ERROR = 0x4703, "Information unit CRC error detected";
    UNRECOVERED_READ = 0x1100, "Unrecovered read error";
    PARAMETER_LIST_LENGTH = 0x1a00, "Parameter list length error";
    MISCOMPARE = 0x1d00, "Miscompare during verify operation";
    INVALID_OPCODE = 0x2000, "Invalid command operation code";
    LBA_OUT_OF_RANGE = 0x2100, "Logical block address out of range";
    INVALID_FIELD_IN_CDB = 0x2400, "Invalid field in CDB";
    UNIT_NOT_SUPPORTED = 0x2500, "Logical unit not supported";
    INVALID_FIELD_IN_PARAMETERS = 0x2600, "Invalid field in parameter list";
    INVALID_RELEASE = 0x2604, "Invalid release of persistent reservation";
    WRITE_PROTECTED = 0x2700, "Write protected";
    SOFTWARE_WRITE_PROTECTED = 0x2702, "Logical unit software write protected";
    SPACE_ALLOCATION_FAILED = 0x2707, "Space allocation failed write protect";
    POWER_ON = 0x2900, "Power on, reset, or bus device reset occurred";
    RESET = 0x2903, "Bus device reset function occurred";
    NEXUS_LOSS = 0x2907, "I_T nexus loss occurred";
    MODE_PARAMETERS_CHANGED = 0x2a01, "Mode parameters changed";
    RESERVATIONS_PREEMPTED = 0x2a03, "Reservations preempted";
    RESERVATIONS_RELEASED = 0x2a04, "Reservations released";
    REGISTRATIONS_PREEMPTED = 0x2a05, "Registrations preempted";
    CAPACITY_CHANGED = 0x2a09, "Capacity data has changed";
    COMMAND_SEQUENCE = 0x2c00, "Command sequence error";
    COMMANDS_CLEARED = 0x2f00, "Commands cleared by another initiator";
    SAVING_NOT_SUPPORTED = 0x3900, "Saving parameters not supported";
    LUNS_CHANGED = 0x3f0e, "Reported LUNs data has changed";
    INTERNAL_FAILURE = 0x4400, "Internal target failure";
    INSUFFICIENT_REGISTRATIONS = 0x5504, "Insufficient registration resources";
    TOO_MUCH_UNSOLICITED = 0x0c0d, "Write error, not enough unsolicited data";
}

/// Where in the CDB or in the parameters a field is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldPointer {
    /// A byte of the CDB, and one of its bits where that is known.
    Cdb {
        /// The byte.
        byte: u16,
        /// The most significant bit of the field.
        bit: Option<u8>,
    },
    /// A byte of the parameter list.
    Parameters(u16),
}

impl FieldPointer {
    /// The three sense-key specific bytes (SPC-4 table 60).
    fn bytes(self) -> [u8; 3] {
        let (flags, byte) = match self {
            FieldPointer::Cdb { byte, bit: Some(bit) } => (IN_CDB | BIT_VALID | bit & 7, byte),
            FieldPointer::Cdb { byte, bit: None } => (IN_CDB, byte),
            FieldPointer::Parameters(byte) => (0, byte),
        };
        let [high, low] = byte.to_be_bytes();
        [SPECIFIC_VALID | flags, high, low]
    }
}

/// Which format an initiator is to get: D_SENSE of the control mode page, DESC of REQUEST SENSE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenseFormat {
    /// Response code 70h.
    #[default]
    Fixed,
    /// Response code 72h.
    Descriptor,
}

/// A condition to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Its kind.
    pub key: SenseKey,
    /// What exactly.
    pub code: SenseCode,
    /// INFORMATION: an address, or the offset of the first byte that differs.
    pub information: Option<u64>,
    /// Which field is invalid.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// A condition without more to say of it.
    pub const fn new(key: SenseKey, code: SenseCode) -> Sense {
        Sense { key, code, information: None, field: None }
    }

    /// The command is wrong.
    pub const fn illegal(code: SenseCode) -> Sense {
        Sense::new(SenseKey::IllegalRequest, code)
    }

    /// A field of the CDB is invalid, from its byte `byte` on.
    pub const fn invalid_cdb(byte: u16) -> Sense {
        let field = Some(FieldPointer::Cdb { byte, bit: None });
        Sense { field, ..Sense::illegal(SenseCode::INVALID_FIELD_IN_CDB) }
    }

    /// A field of the parameter list is invalid, from its byte `byte` on.
    pub const fn invalid_parameter(byte: u16) -> Sense {
        let field = Some(FieldPointer::Parameters(byte));
        Sense { field, ..Sense::illegal(SenseCode::INVALID_FIELD_IN_PARAMETERS) }
    }

    /// With INFORMATION.
    #[must_use]
    pub const fn with_information(self, information: u64) -> Sense {
        Sense { information: Some(information), ..self }
    }

    /// The bytes in a format, and how many they are.
    pub fn encode(&self, format: SenseFormat) -> ([u8; SENSE_BYTES_MAX], usize) {
        let mut bytes = [0; SENSE_BYTES_MAX];
        let len = match format {
            SenseFormat::Fixed => self.encode_fixed(&mut bytes),
            SenseFormat::Descriptor => self.encode_descriptors(&mut bytes),
        };
        (bytes, len)
    }

    fn encode_fixed(&self, bytes: &mut [u8]) -> usize {
        bytes[0] = CURRENT_FIXED;
        // An address beyond 32 bits has no place in this format (SPC-4 section 4.5.3).
        if let Some(information) = self.information.and_then(|long| u32::try_from(long).ok()) {
            bytes[0] |= VALID;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[2] = self.key as u8;
        bytes[7] = (FIXED_BYTES - 8) as u8;
        bytes[12..14].copy_from_slice(&self.code.0.to_be_bytes());
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&field.bytes());
        }
        FIXED_BYTES
    }

    fn encode_descriptors(&self, bytes: &mut [u8]) -> usize {
        bytes[0] = CURRENT_DESCRIPTOR;
        bytes[1] = self.key as u8;
        bytes[2..4].copy_from_slice(&self.code.0.to_be_bytes());
        let mut at = DESCRIPTOR_HEADER_BYTES;
        if let Some(information) = self.information {
            bytes[at] = 0;
            bytes[at + 1] = (INFORMATION_BYTES - 2) as u8;
            bytes[at + 2] = VALID;
            bytes[at + 4..at + 12].copy_from_slice(&information.to_be_bytes());
            at += INFORMATION_BYTES;
        }
        if let Some(field) = self.field {
            bytes[at] = 2;
            bytes[at + 1] = (SPECIFIC_BYTES - 2) as u8;
            bytes[at + 4..at + 7].copy_from_slice(&field.bytes());
            at += SPECIFIC_BYTES;
        }
        bytes[7] = (at - DESCRIPTOR_HEADER_BYTES) as u8;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format_has_its_fields_where_the_book_has_them() {
        let sense = Sense::new(SenseKey::Miscompare, SenseCode::MISCOMPARE).with_information(515);
        let (bytes, len) = sense.encode(SenseFormat::Fixed);
        assert_eq!(len, 18);
        assert_eq!(&bytes[..8], &[0xf0, 0, 0x0e, 0, 0, 2, 3, 10]);
        assert_eq!(&bytes[12..14], &[0x1d, 0]);
    }

    #[test]
    fn descriptor_format_has_a_descriptor_for_what_is_known() {
        let plain = Sense::illegal(SenseCode::INVALID_OPCODE).encode(SenseFormat::Descriptor);
        assert_eq!((&plain.0[..8], plain.1), (&[0x72, 5, 0x20, 0, 0, 0, 0, 0][..], 8));
        let (bytes, len) = Sense::invalid_cdb(3).encode(SenseFormat::Descriptor);
        assert_eq!((len, bytes[7]), (16, 8));
        assert_eq!(&bytes[8..16], &[2, 6, 0, 0, 0xc0, 0, 3, 0]);
        let full = Sense::invalid_cdb(3).with_information(u64::MAX);
        assert_eq!(full.encode(SenseFormat::Descriptor).1, SENSE_BYTES_MAX);
    }

    #[test]
    fn information_beyond_32_bits_is_left_out_of_fixed_format_only() {
        let with =
            |information| Sense::illegal(SenseCode::LBA_OUT_OF_RANGE).with_information(information);
        assert_eq!(with(u64::from(u32::MAX)).encode(SenseFormat::Fixed).0[0], 0xf0);
        assert_eq!(with(1 << 32).encode(SenseFormat::Fixed).0[0], 0x70);
        let (bytes, _) = with(1 << 32).encode(SenseFormat::Descriptor);
        assert_eq!(&bytes[8..20], &[0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    }
}
