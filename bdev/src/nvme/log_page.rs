//! Log pages: their identifiers and layouts.
//!
//! Filled by targets, read by hosts, on the admin queue only. NVMe Base 2.0 section 5.16.1. The
//! discovery log, which exists only over fabrics, is in crate `nvmf`.

use super::command::SUBMISSION_ENTRY_BYTES;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// 00h: supported log pages.
pub const SUPPORTED: u8 = 0x00;
/// 01h: error information.
pub const ERROR: u8 = 0x01;
/// 02h: SMART and health information.
pub const SMART: u8 = 0x02;
/// 03h: firmware slots.
pub const FIRMWARE_SLOT: u8 = 0x03;
/// 04h: namespaces that changed.
pub const CHANGED_NAMESPACES: u8 = 0x04;
/// 05h: commands supported and effects.
pub const COMMAND_EFFECTS: u8 = 0x05;
/// 06h: device self-test.
pub const SELF_TEST: u8 = 0x06;
/// 0Ch: asymmetric namespace access.
pub const ANA: u8 = 0x0c;
/// 12h: supported and effects of feature identifiers.
pub const FEATURE_EFFECTS: u8 = 0x12;
/// 70h: discovery.
pub const DISCOVERY: u8 = 0x70;
/// 80h: reservation notification.
pub const RESERVATION_NOTIFICATION: u8 = 0x80;

/// Most identifiers of the changed namespace list.
pub const CHANGED_NAMESPACES_MAX: usize = 1024;
/// What stands alone in the list when more have changed than fit.
pub const CHANGED_NAMESPACES_OVERFLOW: u32 = 0xffff_ffff;

/// ANA log specific field: leave out the namespaces of each group (RGO).
pub const ANA_GROUPS_ONLY: u8 = 1 << 0;

/// An entry of the error information log (01h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ErrorEntry {
    /// Number of the error since the controller was made, 0 in an unused entry.
    pub error_count: U64,
    /// Queue of the command.
    pub queue_id: U16,
    /// Command identifier.
    pub command_id: U16,
    /// Status field of the command, with phase.
    pub status_field: U16,
    /// Byte (7:0) and bit (10:8) of the command that is in error; FFFFh if none is.
    pub parameter_location: U16,
    /// First block in error.
    pub lba: U64,
    /// Namespace.
    pub namespace_id: U32,
    /// Log page with more, if any.
    pub vendor_log: u8,
    /// Transport type.
    pub transport_type: u8,
    /// Reserved.
    pub reserved_30: [u8; 2],
    /// Command specific.
    pub command_specific: U64,
    /// Transport specific.
    pub transport_specific: U16,
    /// Reserved.
    pub reserved_42: [u8; 22],
}

/// Bits of [`SmartLog::critical_warning`].
pub mod critical_warning {
    /// Spare below its threshold.
    pub const SPARE: u8 = 1 << 0;
    /// Temperature outside its thresholds.
    pub const TEMPERATURE: u8 = 1 << 1;
    /// Reliability is degraded.
    pub const RELIABILITY: u8 = 1 << 2;
    /// Media is read-only.
    pub const READ_ONLY: u8 = 1 << 3;
    /// The backup of volatile memory has failed.
    pub const VOLATILE_BACKUP: u8 = 1 << 4;
}

/// A 128-bit little-endian counter of the SMART log.
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
#[repr(transparent)]
pub struct Counter([u8; 16]);

impl Counter {
    /// A counter of a value.
    pub const fn new(value: u128) -> Self {
        Self(value.to_le_bytes())
    }

    /// The value.
    pub const fn get(self) -> u128 {
        u128::from_le_bytes(self.0)
    }
}

/// SMART and health information (02h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SmartLog {
    /// Bits of [`critical_warning`].
    pub critical_warning: u8,
    /// Composite temperature.
    pub temperature_kelvin: U16,
    /// Available spare in percent.
    pub spare_percent: u8,
    /// Threshold of the spare in percent.
    pub spare_threshold_percent: u8,
    /// Life used in percent, may exceed 100.
    pub used_percent: u8,
    /// Critical warnings of endurance groups.
    pub endurance_group_warning: u8,
    /// Reserved.
    pub reserved_7: [u8; 25],
    /// Read, in units of 1000 times 512 bytes, rounded up.
    pub data_units_read: Counter,
    /// Written, likewise.
    pub data_units_written: Counter,
    /// Read commands.
    pub read_commands: Counter,
    /// Write commands.
    pub write_commands: Counter,
    /// Time with I/O outstanding, in minutes.
    pub busy_minutes: Counter,
    /// Power cycles.
    pub power_cycles: Counter,
    /// Hours powered on.
    pub power_on_hours: Counter,
    /// Power losses without shutdown.
    pub unsafe_shutdowns: Counter,
    /// Unrecovered data integrity errors.
    pub media_errors: Counter,
    /// Entries ever written to the error log.
    pub error_entries: Counter,
    /// Time above the warning temperature, in minutes.
    pub warning_temperature_minutes: U32,
    /// Time above the critical temperature, in minutes.
    pub critical_temperature_minutes: U32,
    /// Temperature sensors, 0 where there is none.
    pub sensor_kelvin: [U16; 8],
    /// Thermal management transitions and total times in seconds.
    pub thermal_management: [U32; 4],
    /// Reserved.
    pub reserved_232: [u8; 280],
}

/// Firmware slots (03h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Slot active now (2:0) and after the next reset (6:4).
    pub active: u8,
    /// Reserved.
    pub reserved_1: [u8; 7],
    /// Revisions in ASCII, zero for an empty slot.
    pub revisions: [[u8; 8]; 7],
    /// Reserved.
    pub reserved_64: [u8; 448],
}

/// Namespaces that changed since the log was last read (04h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ChangedNamespaceLog {
    /// Identifiers in ascending order, ended by a zero unless full.
    pub ids: [U32; CHANGED_NAMESPACES_MAX],
}

/// Bits of an entry of [`CommandEffectsLog`].
pub mod effect {
    /// The command is supported.
    pub const SUPPORTED: u32 = 1 << 0;
    /// It may change data.
    pub const CHANGES_DATA: u32 = 1 << 1;
    /// It may change a namespace's capabilities.
    pub const CHANGES_NAMESPACE: u32 = 1 << 2;
    /// It may change which namespaces there are.
    pub const CHANGES_INVENTORY: u32 = 1 << 3;
    /// It may change the controller's capabilities.
    pub const CHANGES_CONTROLLER: u32 = 1 << 4;
}

/// Commands supported and effects (05h), indexed by opcode.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CommandEffectsLog {
    /// Admin commands.
    pub admin: [U32; 256],
    /// I/O commands.
    pub io: [U32; 256],
    /// Reserved.
    pub reserved: [u8; 2048],
}

/// Header of the ANA log (0Ch); group descriptors follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AnaHeader {
    /// Changes with every change of the log.
    pub change_count: U64,
    /// Group descriptors that follow.
    pub groups: U16,
    /// Reserved.
    pub reserved: [u8; 6],
}

/// A group descriptor of the ANA log; the group's namespace identifiers follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AnaGroup {
    /// Group identifier.
    pub id: U32,
    /// Namespace identifiers that follow.
    pub namespaces: U32,
    /// The log's change count when this group last changed.
    pub change_count: U64,
    /// State of the group; see [`AnaState`].
    pub state: u8,
    /// Reserved.
    pub reserved: [u8; 15],
}

/// How a controller can reach the namespaces of an ANA group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AnaState {
    /// At its best.
    Optimized = 0x01,
    /// With a cost.
    NonOptimized = 0x02,
    /// Not at present.
    Inaccessible = 0x03,
    /// Never again.
    PersistentLoss = 0x04,
    /// Between two states.
    Change = 0x0f,
}

impl AnaState {
    /// The value on the wire.
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// The state of a value; bits 7:4 are reserved and ignored.
    pub const fn from_value(value: u8) -> Option<Self> {
        Some(match value & 0x0f {
            0x01 => Self::Optimized,
            0x02 => Self::NonOptimized,
            0x03 => Self::Inaccessible,
            0x04 => Self::PersistentLoss,
            0x0f => Self::Change,
            _ => return None,
        })
    }
}

const _: () = assert!(size_of::<ErrorEntry>() == SUBMISSION_ENTRY_BYTES);
const _: () = assert!(size_of::<SmartLog>() == 512);
const _: () = assert!(size_of::<FirmwareSlotLog>() == 512);
const _: () = assert!(size_of::<ChangedNamespaceLog>() == 4096);
const _: () = assert!(size_of::<CommandEffectsLog>() == 4096);
const _: () = assert!(size_of::<AnaHeader>() == 16);
const _: () = assert!(size_of::<AnaGroup>() == 32);

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_are_at_the_offsets_of_the_specification() {
        assert_eq!(offset_of!(SmartLog, data_units_read), 32);
        assert_eq!(offset_of!(SmartLog, power_on_hours), 128);
        assert_eq!(offset_of!(SmartLog, error_entries), 176);
        assert_eq!(offset_of!(SmartLog, warning_temperature_minutes), 192);
        assert_eq!(offset_of!(SmartLog, sensor_kelvin), 200);
        assert_eq!(offset_of!(SmartLog, thermal_management), 216);
        assert_eq!(offset_of!(ErrorEntry, lba), 16);
        assert_eq!(offset_of!(ErrorEntry, command_specific), 32);
        assert_eq!(offset_of!(CommandEffectsLog, io), 1024);
        assert_eq!(offset_of!(AnaGroup, state), 16);
    }

    #[test]
    fn ana_states_convert_both_ways_and_no_others() {
        for value in 0..=0x0f {
            match AnaState::from_value(value) {
                Some(state) => assert_eq!(state.value(), value),
                None => assert!(matches!(value, 0 | 5..=14)),
            }
        }
        assert_eq!(AnaState::from_value(0xf1), Some(AnaState::Optimized));
    }

    #[test]
    fn counters_hold_128_bits() {
        assert_eq!(Counter::new(u128::MAX).get(), u128::MAX);
        assert_eq!(Counter::new(1).as_bytes()[0], 1);
    }
}
