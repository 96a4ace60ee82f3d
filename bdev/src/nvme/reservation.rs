//! Reservation commands: typed views of a submission entry, their data, and the report.
//!
//! Read by the target and built by the initiator, off the hot path. What the commands mean is in
//! `crate::reservation`. NVMe Base 2.0 sections 7.2 (Acquire), 7.3 (Register), 7.4 (Release) and
//! 7.5 (Report); the features are in section 5.27.1, the log page in section 5.16.1.

use super::command::SubmissionEntry;
use super::opcode::NvmOpcode;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// RREGA of Reservation Register.
pub mod register_action {
    /// Register the new key.
    pub const REGISTER: u8 = 0;
    /// Unregister.
    pub const UNREGISTER: u8 = 1;
    /// Replace the current key with the new one.
    pub const REPLACE: u8 = 2;
}

/// RACQA of Reservation Acquire.
pub mod acquire_action {
    /// Acquire.
    pub const ACQUIRE: u8 = 0;
    /// Preempt.
    pub const PREEMPT: u8 = 1;
    /// Preempt, and abort the commands of the preempted.
    pub const PREEMPT_AND_ABORT: u8 = 2;
}

/// RRELA of Reservation Release.
pub mod release_action {
    /// Release.
    pub const RELEASE: u8 = 0;
    /// Release and unregister everyone.
    pub const CLEAR: u8 = 1;
}

/// CPTPL of Reservation Register.
pub mod persistence_change {
    /// Leave it.
    pub const KEEP: u8 = 0;
    /// Lost with power.
    pub const OFF: u8 = 2;
    /// Kept through a loss of power.
    pub const ON: u8 = 3;
}

/// Bits of [`super::feature::RESERVATION_MASK`]: events that are not to be reported.
pub mod mask {
    /// REGPRE: registration preempted.
    pub const REGISTRATION_PREEMPTED: u32 = 1 << 1;
    /// RESREL: reservation released.
    pub const RESERVATION_RELEASED: u32 = 1 << 2;
    /// RESPRE: reservation preempted.
    pub const RESERVATION_PREEMPTED: u32 = 1 << 3;
    /// All that have a meaning.
    pub const ALL: u32 = REGISTRATION_PREEMPTED | RESERVATION_RELEASED | RESERVATION_PREEMPTED;
}

/// Bit 0 of [`super::feature::RESERVATION_PERSISTENCE`] (PTPL).
pub const PERSISTENCE_ON: u32 = 1 << 0;
/// Bit 0 of dword 11 of [`super::feature::HOST_IDENTIFIER`] (EXHID): the identifier has 128 bits.
pub const HOST_IDENTIFIER_EXTENDED: u32 = 1 << 0;
/// Length of an extended host identifier.
pub const HOST_IDENTIFIER_EXTENDED_BYTES: usize = 16;
/// Length of a host identifier that is not extended. Not over fabrics.
pub const HOST_IDENTIFIER_BYTES: usize = 8;

/// RCSTS: the host of the entry holds the reservation.
pub const HOLDER: u8 = 1 << 0;
/// CNTLID of an entry whose host has no controller now.
pub const NO_CONTROLLER: u16 = 0xffff;

/// Data of Reservation Register (section 7.3).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RegisterData {
    /// CRKEY.
    pub current_key: U64,
    /// NRKEY.
    pub new_key: U64,
}

/// Data of Reservation Acquire (section 7.2).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AcquireData {
    /// CRKEY.
    pub current_key: U64,
    /// PRKEY.
    pub preempt_key: U64,
}

/// Data of Reservation Release (section 7.4).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReleaseData {
    /// CRKEY.
    pub current_key: U64,
}

/// Header of the reservation status, as far as both forms have it (section 7.5).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct StatusHeader {
    /// GEN.
    pub generation: U32,
    /// RTYPE, 0 for no reservation.
    pub kind: u8,
    /// REGCTL: entries that follow.
    pub entries: U16,
    /// Reserved.
    pub reserved_7: [u8; 2],
    /// PTPLS.
    pub persistence: u8,
    /// Reserved.
    pub reserved_10: [u8; 14],
}

/// Header of the extended reservation status.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ExtendedStatusHeader {
    /// What both forms have.
    pub common: StatusHeader,
    /// Reserved.
    pub reserved_24: [u8; 40],
}

/// Registered controller data structure, of which the header is followed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RegisteredController {
    /// CNTLID, or [`NO_CONTROLLER`].
    pub controller_id: U16,
    /// RCSTS: [`HOLDER`] or nothing.
    pub status: u8,
    /// Reserved.
    pub reserved_3: [u8; 5],
    /// HOSTID.
    pub host_id: [u8; HOST_IDENTIFIER_BYTES],
    /// RKEY.
    pub key: U64,
}

/// Registered controller extended data structure.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ExtendedRegisteredController {
    /// CNTLID, or [`NO_CONTROLLER`].
    pub controller_id: U16,
    /// RCSTS: [`HOLDER`] or nothing.
    pub status: u8,
    /// Reserved.
    pub reserved_3: [u8; 5],
    /// RKEY.
    pub key: U64,
    /// HOSTID.
    pub host_id: [u8; HOST_IDENTIFIER_EXTENDED_BYTES],
    /// Reserved.
    pub reserved_32: [u8; 32],
}

/// Reservation notification log page (80h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct NotificationLog {
    /// Counts notifications from 1, lost ones too; 0 in an empty page. Wraps to 1.
    pub count: U64,
    /// What happened; see [`notification_type`].
    pub notification: u8,
    /// Pages that wait behind this one; 255 if there are more.
    pub available: u8,
    /// Reserved.
    pub reserved_10: [u8; 2],
    /// Namespace that it happened to.
    pub namespace_id: U32,
    /// Reserved.
    pub reserved_16: [u8; 48],
}

/// Values of [`NotificationLog::notification`].
pub mod notification_type {
    /// An empty page: nothing waits.
    pub const EMPTY: u8 = 0;
    /// Registration preempted.
    pub const REGISTRATION_PREEMPTED: u8 = 1;
    /// Reservation released.
    pub const RESERVATION_RELEASED: u8 = 2;
    /// Reservation preempted.
    pub const RESERVATION_PREEMPTED: u8 = 3;
}

const _: () = assert!(size_of::<RegisterData>() == 16);
const _: () = assert!(size_of::<AcquireData>() == 16);
const _: () = assert!(size_of::<ReleaseData>() == 8);
const _: () = assert!(size_of::<StatusHeader>() == 24);
const _: () = assert!(size_of::<ExtendedStatusHeader>() == 64);
const _: () = assert!(size_of::<RegisteredController>() == 24);
const _: () = assert!(size_of::<ExtendedRegisteredController>() == 64);
const _: () = assert!(size_of::<NotificationLog>() == 64);

/// Form of a reservation report (EDS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportForm {
    /// With host identifiers of 64 bits. A host that has one of 128 bits, as over fabrics every
    /// host has, gets `HOST_ID_INCONSISTENT_FORMAT` instead.
    Compact,
    /// With host identifiers of 128 bits.
    Extended,
}

const ACTION_MASK: u8 = 0b111;
const IGNORE_KEY: u32 = 1 << 3;
const PERSISTENCE_SHIFT: u32 = 30;
const KIND_SHIFT: u32 = 8;
const EXTENDED: u32 = 1 << 0;

impl SubmissionEntry {
    /// RREGA, RACQA or RRELA, by the command (dword 10).
    pub fn reservation_action(&self) -> u8 {
        self.cdw10.get().to_le_bytes()[0] & ACTION_MASK
    }

    /// IEKEY: the existing key does not matter (dword 10).
    pub fn ignores_reservation_key(&self) -> bool {
        self.cdw10.get() & IGNORE_KEY != 0
    }

    /// RTYPE of Acquire and Release (dword 10).
    pub fn reservation_kind(&self) -> u8 {
        self.cdw10.get().to_le_bytes()[1]
    }

    /// CPTPL of Register, one of [`persistence_change`] or the reserved value 1 (dword 10).
    pub fn persistence_change(&self) -> u8 {
        (self.cdw10.get() >> PERSISTENCE_SHIFT).to_le_bytes()[0]
    }

    /// Bytes that a Reservation Report asks for (NUMD, dword 10, a 0's based count of dwords).
    pub fn reservation_report_bytes(&self) -> u64 {
        (u64::from(self.cdw10.get()) + 1) * 4
    }

    /// Form that a Reservation Report asks for (EDS, dword 11).
    pub fn reservation_report_form(&self) -> ReportForm {
        match self.cdw11.get() & EXTENDED {
            0 => ReportForm::Compact,
            _ => ReportForm::Extended,
        }
    }

    /// A Reservation Register command; its data is a [`RegisterData`].
    pub fn reservation_register(
        command_id: u16,
        namespace_id: u32,
        action: u8,
        persistence: u8,
    ) -> Self {
        let mut entry = Self::new(NvmOpcode::ReservationRegister.value(), command_id, namespace_id);
        let persistence = u32::from(persistence) << PERSISTENCE_SHIFT;
        entry.cdw10 = U32::new(u32::from(action & ACTION_MASK) | persistence);
        entry
    }

    /// The same command without a look at the existing key.
    #[must_use]
    pub fn with_reservation_key_ignored(mut self) -> Self {
        self.cdw10 = U32::new(self.cdw10.get() | IGNORE_KEY);
        self
    }

    /// A Reservation Acquire command; its data is an [`AcquireData`].
    pub fn reservation_acquire(command_id: u16, namespace_id: u32, action: u8, kind: u8) -> Self {
        Self::reservation(NvmOpcode::ReservationAcquire, command_id, namespace_id, action, kind)
    }

    /// A Reservation Release command; its data is a [`ReleaseData`].
    pub fn reservation_release(command_id: u16, namespace_id: u32, action: u8, kind: u8) -> Self {
        Self::reservation(NvmOpcode::ReservationRelease, command_id, namespace_id, action, kind)
    }

    fn reservation(
        opcode: NvmOpcode,
        command_id: u16,
        namespace_id: u32,
        action: u8,
        kind: u8,
    ) -> Self {
        let mut entry = Self::new(opcode.value(), command_id, namespace_id);
        let kind = u32::from(kind) << KIND_SHIFT;
        entry.cdw10 = U32::new(u32::from(action & ACTION_MASK) | kind);
        entry
    }

    /// A Reservation Report command for `dwords` dwords.
    ///
    /// # Panics
    /// If `dwords` is zero: the count on the wire is 0's based.
    pub fn reservation_report(
        command_id: u16,
        namespace_id: u32,
        dwords: u32,
        form: ReportForm,
    ) -> Self {
        let mut entry = Self::new(NvmOpcode::ReservationReport.value(), command_id, namespace_id);
        let last = dwords.checked_sub(1).expect("a report has at least one dword");
        entry.cdw10 = U32::new(last);
        entry.cdw11 = U32::new(match form {
            ReportForm::Compact => 0,
            ReportForm::Extended => EXTENDED,
        });
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_are_at_the_offsets_of_the_specification() {
        assert_eq!(offset_of!(StatusHeader, kind), 4);
        assert_eq!(offset_of!(StatusHeader, entries), 5);
        assert_eq!(offset_of!(StatusHeader, persistence), 9);
        assert_eq!(offset_of!(RegisteredController, host_id), 8);
        assert_eq!(offset_of!(RegisteredController, key), 16);
        assert_eq!(offset_of!(ExtendedRegisteredController, key), 8);
        assert_eq!(offset_of!(ExtendedRegisteredController, host_id), 16);
        assert_eq!(offset_of!(NotificationLog, notification), 8);
        assert_eq!(offset_of!(NotificationLog, available), 9);
        assert_eq!(offset_of!(NotificationLog, namespace_id), 12);
        assert_eq!(offset_of!(RegisterData, new_key), 8);
        assert_eq!(offset_of!(AcquireData, preempt_key), 8);
    }

    #[test]
    fn dwords_are_those_of_the_specification() {
        let action = register_action::REPLACE;
        let entry = SubmissionEntry::reservation_register(7, 1, action, persistence_change::ON)
            .with_reservation_key_ignored();
        assert_eq!((entry.opcode, entry.cdw10.get()), (0x0d, 0xc000_000a));
        assert_eq!(entry.reservation_action(), action);
        assert_eq!(entry.persistence_change(), persistence_change::ON);
        assert!(entry.ignores_reservation_key());

        let action = acquire_action::PREEMPT_AND_ABORT;
        let entry = SubmissionEntry::reservation_acquire(7, 1, action, 6);
        assert_eq!((entry.opcode, entry.cdw10.get()), (0x11, 0x0602));
        assert_eq!((entry.reservation_action(), entry.reservation_kind()), (action, 6));
        assert!(!entry.ignores_reservation_key());

        let entry = SubmissionEntry::reservation_release(7, 1, release_action::CLEAR, 0);
        assert_eq!((entry.opcode, entry.cdw10.get()), (0x15, 0x0001));
    }

    #[test]
    fn a_report_has_one_dword_to_all_that_a_count_can_say() {
        for (dwords, bytes) in [(1, 4), (1024, 4096), (u32::MAX, 4 * u64::from(u32::MAX))] {
            let form = ReportForm::Extended;
            let entry = SubmissionEntry::reservation_report(7, 1, dwords, form);
            assert_eq!(entry.opcode, 0x0e);
            assert_eq!(entry.reservation_report_bytes(), bytes);
            assert_eq!(entry.reservation_report_form(), form);
        }
        let entry = SubmissionEntry::reservation_report(7, 1, 1, ReportForm::Compact);
        assert_eq!(entry.reservation_report_form(), ReportForm::Compact);
    }

    #[test]
    #[should_panic(expected = "at least one dword")]
    fn a_report_of_nothing_is_refused() {
        let _ = SubmissionEntry::reservation_report(7, 1, 0, ReportForm::Compact);
    }
}
