//! Opcodes of the admin, NVM and fabrics command sets.
//!
//! Only those that a target or host of this project meets; any other byte is an invalid opcode to
//! it. NVMe Base 2.0 sections 5 (admin) and 6 (fabrics), NVM Command Set 1.0 section 3.

/// An opcode that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown opcode {0:#04x}")]
pub struct UnknownOpcode(pub u8);

/// Opcode of every fabrics command; its type is in byte 4 of the entry.
pub const FABRICS: u8 = 0x7f;

macro_rules! opcodes {
    (
        $(#[$of:meta])*
        $name:ident { $($variant:ident = $value:literal, $text:literal;)* }
    ) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $(
                #[doc = concat!($text, " (", stringify!($value), ").")]
                $variant = $value,
            )*
        }

        impl $name {
            /// Every one that is known.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The value on the wire.
            pub const fn value(self) -> u8 {
                self as u8
            }

            /// The specification's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = UnknownOpcode;

            fn try_from(value: u8) -> Result<Self, UnknownOpcode> {
                match value {
                    $($value => Ok(Self::$variant),)*
                    other => Err(UnknownOpcode(other)),
                }
            }
        }
    };
}

opcodes! {
    /// Commands of an admin queue.
    AdminOpcode {
        DeleteSubmissionQueue = 0x00, "Delete I/O Submission Queue";
        CreateSubmissionQueue = 0x01, "Create I/O Submission Queue";
        GetLogPage = 0x02, "Get Log Page";
        DeleteCompletionQueue = 0x04, "Delete I/O Completion Queue";
        CreateCompletionQueue = 0x05, "Create I/O Completion Queue";
        Identify = 0x06, "Identify";
        Abort = 0x08, "Abort";
        SetFeatures = 0x09, "Set Features";
        GetFeatures = 0x0a, "Get Features";
        AsyncEventRequest = 0x0c, "Asynchronous Event Request";
        NamespaceManagement = 0x0d, "Namespace Management";
        FirmwareCommit = 0x10, "Firmware Commit";
        FirmwareDownload = 0x11, "Firmware Image Download";
        SelfTest = 0x14, "Device Self-test";
        NamespaceAttachment = 0x15, "Namespace Attachment";
        KeepAlive = 0x18, "Keep Alive";
        DirectiveSend = 0x19, "Directive Send";
        DirectiveReceive = 0x1a, "Directive Receive";
        DoorbellBufferConfig = 0x7c, "Doorbell Buffer Config";
        Fabrics = 0x7f, "Fabrics Commands";
        FormatNvm = 0x80, "Format NVM";
        SecuritySend = 0x81, "Security Send";
        SecurityReceive = 0x82, "Security Receive";
        Sanitize = 0x84, "Sanitize";
        GetLbaStatus = 0x86, "Get LBA Status";
    }
}

opcodes! {
    /// Commands of an I/O queue with the NVM command set.
    NvmOpcode {
        Flush = 0x00, "Flush";
        Write = 0x01, "Write";
        Read = 0x02, "Read";
        WriteUncorrectable = 0x04, "Write Uncorrectable";
        Compare = 0x05, "Compare";
        WriteZeroes = 0x08, "Write Zeroes";
        DatasetManagement = 0x09, "Dataset Management";
        Verify = 0x0c, "Verify";
        ReservationRegister = 0x0d, "Reservation Register";
        ReservationReport = 0x0e, "Reservation Report";
        ReservationAcquire = 0x11, "Reservation Acquire";
        ReservationRelease = 0x15, "Reservation Release";
        Copy = 0x19, "Copy";
        Fabrics = 0x7f, "Fabrics Commands";
    }
}

opcodes! {
    /// Types of fabrics commands.
    FabricsType {
        PropertySet = 0x00, "Property Set";
        Connect = 0x01, "Connect";
        PropertyGet = 0x04, "Property Get";
        AuthenticationSend = 0x05, "Authentication Send";
        AuthenticationReceive = 0x06, "Authentication Receive";
        Disconnect = 0x08, "Disconnect";
    }
}

/// Which way the data of a command goes: the two lowest bits of an opcode or fabrics type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataDirection {
    /// No data.
    None,
    /// Host to controller.
    ToController,
    /// Controller to host.
    ToHost,
    /// Both ways; no command here does.
    Both,
}

/// The data direction of an opcode or fabrics type.
pub const fn data_direction(opcode: u8) -> DataDirection {
    match opcode & 0b11 {
        0 => DataDirection::None,
        1 => DataDirection::ToController,
        2 => DataDirection::ToHost,
        _ => DataDirection::Both,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_convert_both_ways_and_no_others() {
        for value in 0..=u8::MAX {
            if let Ok(opcode) = AdminOpcode::try_from(value) {
                assert_eq!(opcode.value(), value);
            }
            if let Ok(opcode) = NvmOpcode::try_from(value) {
                assert_eq!(opcode.value(), value);
            }
            if let Ok(opcode) = FabricsType::try_from(value) {
                assert_eq!(opcode.value(), value);
            }
        }
        assert_eq!(AdminOpcode::try_from(0x03), Err(UnknownOpcode(0x03)));
        let known = (0..=u8::MAX).filter(|value| NvmOpcode::try_from(*value).is_ok()).count();
        assert_eq!(known, NvmOpcode::ALL.len());
    }

    #[test]
    fn the_direction_is_in_the_opcode() {
        assert_eq!(data_direction(NvmOpcode::Flush.value()), DataDirection::None);
        assert_eq!(data_direction(NvmOpcode::Write.value()), DataDirection::ToController);
        assert_eq!(data_direction(NvmOpcode::Read.value()), DataDirection::ToHost);
        assert_eq!(data_direction(NvmOpcode::WriteZeroes.value()), DataDirection::None);
        assert_eq!(data_direction(AdminOpcode::Identify.value()), DataDirection::ToHost);
        assert_eq!(data_direction(FabricsType::Connect.value()), DataDirection::ToController);
    }
}
