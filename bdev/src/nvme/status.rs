//! The status of a completed command: NVMe status code type and status code as they are.
//!
//! Re-exported as `bdev::Status`, the result of every I/O in every layer. Plain `Copy` data of two
//! bytes, used on every thread. NVMe Base 2.0 section 3.3.3.2.1 (status field) and the tables of
//! generic, command specific, media and path related status values there; fabrics values are in
//! section 3.3.3.2.1.2 and NVM command set values in NVM Command Set 1.0 section 3.1.1.

use core::fmt;

/// Bits of the stored value: the wire field without its phase bit.
const CODE_MASK: u16 = 0x07ff;
const TYPE_SHIFT: u32 = 8;
const RETRY_DELAY_SHIFT: u32 = 11;
const RETRY_DELAY_MASK: u16 = 0b11;
const MORE: u16 = 1 << 13;
const DO_NOT_RETRY: u16 = 1 << 14;

/// Largest command retry delay index that the field can carry.
pub const RETRY_DELAY_INDEX_MAX: u8 = 3;

/// Status of a completed command: code type and code, and the More and Do Not Retry bits.
///
/// Two values are equal only if their bits are too; [`Status::has_code`] compares without them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(u16);

/// What a status code belongs to (NVMe Base 2.0 section 3.3.3.2.1, status code type).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusCodeType {
    /// Generic to all commands.
    Generic,
    /// Meaning depends on the command.
    CommandSpecific,
    /// Media or data integrity error.
    MediaError,
    /// The path to the namespace, not the namespace, is at fault.
    Path,
    /// A reserved type, 4 to 6.
    Reserved(u8),
    /// Vendor specific.
    Vendor,
}

macro_rules! statuses {
    ($($(#[$extra:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!($text, " (code type and code ", stringify!($code), ").")]
                $(#[$extra])*
                pub const $name: Self = Self($code);
            )*
        }

        /// The specification's name of a code; the first of those that share a value.
        const fn name_of(code: u16) -> Option<&'static str> {
            #[allow(unreachable_patterns, reason = "fabrics and NVM share command specific codes")]
            match code {
                $($code => Some($text),)*
                _ => None,
            }
        }

        #[cfg(test)]
        const NAMED: &[(Status, &str)] = &[$((Status::$name, $text),)*];
    };
}

statuses! {
    SUCCESS = 0x000, "Successful Completion";
    INVALID_OPCODE = 0x001, "Invalid Command Opcode";
    INVALID_FIELD = 0x002, "Invalid Field in Command";
    COMMAND_ID_CONFLICT = 0x003, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0x004, "Data Transfer Error";
    ABORTED_POWER_LOSS = 0x005, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0x006, "Internal Error";
    ABORT_REQUESTED = 0x007, "Command Abort Requested";
    ABORTED_SQ_DELETION = 0x008, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = 0x009, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = 0x00a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE_OR_FORMAT = 0x00b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = 0x00c, "Command Sequence Error";
    INVALID_SGL_SEGMENT_DESCRIPTOR = 0x00d, "Invalid SGL Segment Descriptor";
    INVALID_SGL_DESCRIPTOR_COUNT = 0x00e, "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = 0x00f, "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = 0x010, "Metadata SGL Length Invalid";
    SGL_DESCRIPTOR_TYPE_INVALID = 0x011, "SGL Descriptor Type Invalid";
    INVALID_USE_OF_CMB = 0x012, "Invalid Use of Controller Memory Buffer";
    PRP_OFFSET_INVALID = 0x013, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x014, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0x015, "Operation Denied";
    SGL_OFFSET_INVALID = 0x016, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT_FORMAT = 0x018, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = 0x019, "Keep Alive Timer Expired";
    KEEP_ALIVE_TIMEOUT_INVALID = 0x01a, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT = 0x01b, "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = 0x01c, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0x01d, "Sanitize In Progress";
    SGL_DATA_BLOCK_GRANULARITY_INVALID = 0x01e, "SGL Data Block Granularity Invalid";
    COMMAND_NOT_SUPPORTED_IN_CMB = 0x01f, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = 0x020, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0x021, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0x022, "Transient Transport Error";
    PROHIBITED_BY_LOCKDOWN = 0x023, "Command Prohibited by Command and Feature Lockdown";
    ADMIN_COMMAND_MEDIA_NOT_READY = 0x024, "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = 0x080, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0x081, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0x082, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0x083, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0x084, "Format In Progress";

    COMPLETION_QUEUE_INVALID = 0x100, "Completion Queue Invalid";
    INVALID_QUEUE_ID = 0x101, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 0x102, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 0x103, "Abort Command Limit Exceeded";
    ASYNC_EVENT_LIMIT_EXCEEDED = 0x105, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 0x106, "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = 0x107, "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = 0x108, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = 0x109, "Invalid Log Page";
    INVALID_FORMAT = 0x10a, "Invalid Format";
    FIRMWARE_NEEDS_CONVENTIONAL_RESET = 0x10b, "Firmware Activation Requires Conventional Reset";
    INVALID_QUEUE_DELETION = 0x10c, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = 0x10d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 0x10e, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 0x10f, "Feature Not Namespace Specific";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x110, "Firmware Activation Requires NVM Subsystem Reset";
    FIRMWARE_NEEDS_CONTROLLER_RESET = 0x111, "Firmware Activation Requires Controller Level Reset";
    FIRMWARE_MAXIMUM_TIME_VIOLATION = 0x112, "Firmware Activation Requires Maximum Time Violation";
    FIRMWARE_ACTIVATION_PROHIBITED = 0x113, "Firmware Activation Prohibited";
    OVERLAPPING_RANGE = 0x114, "Overlapping Range";
    NAMESPACE_INSUFFICIENT_CAPACITY = 0x115, "Namespace Insufficient Capacity";
    NAMESPACE_ID_UNAVAILABLE = 0x116, "Namespace Identifier Unavailable";
    NAMESPACE_ALREADY_ATTACHED = 0x118, "Namespace Already Attached";
    NAMESPACE_IS_PRIVATE = 0x119, "Namespace Is Private";
    NAMESPACE_NOT_ATTACHED = 0x11a, "Namespace Not Attached";
    THIN_PROVISIONING_NOT_SUPPORTED = 0x11b, "Thin Provisioning Not Supported";
    CONTROLLER_LIST_INVALID = 0x11c, "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = 0x11d, "Device Self-test In Progress";
    BOOT_PARTITION_WRITE_PROHIBITED = 0x11e, "Boot Partition Write Prohibited";
    INVALID_CONTROLLER_ID = 0x11f, "Invalid Controller Identifier";
    INVALID_SECONDARY_CONTROLLER_STATE = 0x120, "Invalid Secondary Controller State";
    INVALID_CONTROLLER_RESOURCE_COUNT = 0x121, "Invalid Number of Controller Resources";
    INVALID_RESOURCE_ID = 0x122, "Invalid Resource Identifier";
    SANITIZE_PROHIBITED_WITH_PMR = 0x123,
        "Sanitize Prohibited While Persistent Memory Region is Enabled";
    ANA_GROUP_ID_INVALID = 0x124, "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = 0x125, "ANA Attach Failed";
    INSUFFICIENT_CAPACITY = 0x126, "Insufficient Capacity";
    NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED = 0x127, "Namespace Attachment Limit Exceeded";
    PROHIBITION_NOT_SUPPORTED = 0x128, "Prohibition of Command Execution Not Supported";
    COMMAND_SET_NOT_SUPPORTED = 0x129, "I/O Command Set Not Supported";
    COMMAND_SET_NOT_ENABLED = 0x12a, "I/O Command Set Not Enabled";
    COMMAND_SET_COMBINATION_REJECTED = 0x12b, "I/O Command Set Combination Rejected";
    INVALID_COMMAND_SET = 0x12c, "Invalid I/O Command Set";
    IDENTIFIER_UNAVAILABLE = 0x12d, "Identifier Unavailable";

    CONFLICTING_ATTRIBUTES = 0x180, "Conflicting Attributes";
    INVALID_PROTECTION_INFORMATION = 0x181, "Invalid Protection Information";
    WRITE_TO_READ_ONLY_RANGE = 0x182, "Attempted Write to Read Only Range";
    COMMAND_SIZE_LIMIT_EXCEEDED = 0x183, "Command Size Limit Exceeded";
    /// Of a Connect command; Conflicting Attributes of a data set management command.
    CONNECT_INCOMPATIBLE_FORMAT = 0x180, "Connect Incompatible Format";
    /// Of a Connect command; shares its code with an NVM command set value.
    CONNECT_CONTROLLER_BUSY = 0x181, "Connect Controller Busy";
    /// Of a Connect command; the first result dword says which parameter.
    CONNECT_INVALID_PARAMETERS = 0x182, "Connect Invalid Parameters";
    /// Of a Connect command; shares its code with an NVM command set value.
    CONNECT_RESTART_DISCOVERY = 0x183, "Connect Restart Discovery";
    CONNECT_INVALID_HOST = 0x184, "Connect Invalid Host";
    INVALID_QUEUE_TYPE = 0x185, "Invalid Queue Type";
    DISCOVER_RESTART = 0x190, "Discover Restart";
    AUTHENTICATION_REQUIRED = 0x191, "Authentication Required";

    WRITE_FAULT = 0x280, "Write Fault";
    UNRECOVERED_READ_ERROR = 0x281, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 0x282, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK_ERROR = 0x283, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK_ERROR = 0x284, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 0x285, "Compare Failure";
    ACCESS_DENIED = 0x286, "Access Denied";
    DEALLOCATED_OR_UNWRITTEN = 0x287, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_CHECK_ERROR = 0x288, "End-to-End Storage Tag Check Error";

    INTERNAL_PATH_ERROR = 0x300, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 0x301, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 0x302, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 0x303, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 0x360, "Controller Pathing Error";
    HOST_PATHING_ERROR = 0x370, "Host Pathing Error";
    ABORTED_BY_HOST = 0x371, "Command Aborted By Host";
}

impl Status {
    /// A status of code type and code, as `type << 8 | code`; bits above the type are dropped.
    pub const fn from_code(code: u16) -> Self {
        Self(code & CODE_MASK)
    }

    /// Code type and code as `type << 8 | code`, without the More and Do Not Retry bits.
    pub const fn code(self) -> u16 {
        self.0 & CODE_MASK
    }

    /// The status code alone, as in the low byte of [`Status::code`].
    pub const fn status_code(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// The status code type.
    pub const fn code_type(self) -> StatusCodeType {
        match self.code() >> TYPE_SHIFT {
            0 => StatusCodeType::Generic,
            1 => StatusCodeType::CommandSpecific,
            2 => StatusCodeType::MediaError,
            3 => StatusCodeType::Path,
            7 => StatusCodeType::Vendor,
            other => StatusCodeType::Reserved(other.to_le_bytes()[0]),
        }
    }

    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }

    /// Whether both have the same code type and code, whatever their other bits.
    pub const fn has_code(self, other: Self) -> bool {
        self.code() == other.code()
    }

    /// The same status, telling the host that a retry of the command would fail too.
    #[must_use]
    pub const fn with_do_not_retry(self) -> Self {
        Self(self.0 | DO_NOT_RETRY)
    }

    /// Whether a retry of the command is expected to fail.
    pub const fn do_not_retry(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    /// The same status, telling the host that the error log has more about it.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// Whether the error log has more about it.
    pub const fn more(self) -> bool {
        self.0 & MORE != 0
    }

    /// Which command retry delay time of Identify Controller to wait: 0 none, or 1 to 3.
    pub const fn retry_delay_index(self) -> u8 {
        ((self.0 >> RETRY_DELAY_SHIFT) & RETRY_DELAY_MASK).to_le_bytes()[0]
    }

    /// The same status with a command retry delay, 0 to [`RETRY_DELAY_INDEX_MAX`].
    ///
    /// # Panics
    /// If `index` is larger, which is an error of the caller.
    #[must_use]
    pub const fn with_retry_delay_index(self, index: u8) -> Self {
        assert!(index <= RETRY_DELAY_INDEX_MAX);
        let cleared = self.0 & !(RETRY_DELAY_MASK << RETRY_DELAY_SHIFT);
        Self(cleared | (index as u16) << RETRY_DELAY_SHIFT)
    }

    /// The upper 16 bits of completion dword 3. Over fabrics the phase bit is always clear.
    pub const fn to_wire(self, phase: bool) -> u16 {
        self.0 << 1 | phase as u16
    }

    /// Reads the upper 16 bits of completion dword 3; the phase bit is dropped.
    pub const fn from_wire(field: u16) -> Self {
        Self(field >> 1)
    }

    /// The specification's name of the code, if it is one of the constants here. Of a code that
    /// fabrics and NVM commands share it is the NVM command's.
    pub const fn name(self) -> Option<&'static str> {
        name_of(self.code())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "status code {:#05x}", self.code())?,
        }
        if self.do_not_retry() {
            f.write_str(" (do not retry)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({:#05x}: {self})", self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_wire_value_survives_a_round_trip() {
        for wire in 0..=u16::MAX {
            let phase = wire & 1 != 0;
            assert_eq!(Status::from_wire(wire).to_wire(phase), wire);
        }
    }

    #[test]
    fn wire_bits_are_where_the_specification_puts_them() {
        assert_eq!(Status::COMPARE_FAILURE.to_wire(false), 0x285 << 1);
        assert_eq!(Status::SUCCESS.to_wire(true), 1);
        assert_eq!(Status::SUCCESS.with_do_not_retry().to_wire(false), 0x8000);
        assert_eq!(Status::SUCCESS.with_more().to_wire(false), 0x4000);
        assert_eq!(Status::SUCCESS.with_retry_delay_index(3).to_wire(false), 0x3000);
    }

    #[test]
    fn bits_beside_the_code_do_not_change_it() {
        let status = Status::LBA_OUT_OF_RANGE.with_do_not_retry().with_more();
        assert_eq!(status.code(), 0x080);
        assert!(status.has_code(Status::LBA_OUT_OF_RANGE));
        assert_ne!(status, Status::LBA_OUT_OF_RANGE);
        assert!(!status.is_success());
        assert!(Status::SUCCESS.with_more().is_success());
    }

    #[test]
    fn code_types_cover_all_eight_values() {
        let of = |code_type: u16| Status::from_code(code_type << 8).code_type();
        assert_eq!(of(0), StatusCodeType::Generic);
        assert_eq!(of(1), StatusCodeType::CommandSpecific);
        assert_eq!(of(2), StatusCodeType::MediaError);
        assert_eq!(of(3), StatusCodeType::Path);
        assert_eq!(of(5), StatusCodeType::Reserved(5));
        assert_eq!(of(7), StatusCodeType::Vendor);
    }

    #[test]
    fn every_constant_but_a_shared_one_displays_its_own_name() {
        for (status, text) in NAMED {
            let shared = text.starts_with("Connect") && status.code() <= 0x183;
            assert_eq!(status.to_string() == *text, !shared, "{text}");
        }
        assert_eq!(Status::from_code(0x7ff).to_string(), "status code 0x7ff");
        let fatal = Status::INVALID_FIELD.with_do_not_retry();
        assert_eq!(fatal.to_string(), "Invalid Field in Command (do not retry)");
    }

    #[test]
    fn the_largest_retry_delay_is_carried() {
        let status = Status::COMMAND_INTERRUPTED.with_retry_delay_index(RETRY_DELAY_INDEX_MAX);
        assert_eq!(status.retry_delay_index(), RETRY_DELAY_INDEX_MAX);
        assert_eq!(status.with_retry_delay_index(0), Status::COMMAND_INTERRUPTED);
    }

    #[test]
    #[should_panic(expected = "RETRY_DELAY_INDEX_MAX")]
    fn a_retry_delay_past_the_largest_is_refused() {
        let _ = Status::COMMAND_INTERRUPTED.with_retry_delay_index(RETRY_DELAY_INDEX_MAX + 1);
    }

    proptest! {
        #[test]
        fn a_code_comes_back_as_it_was_given(code in 0u16..=CODE_MASK) {
            prop_assert_eq!(Status::from_code(code).code(), code);
        }
    }
}
