//! Reservations as NVMe spells them: commands read, refusals as statuses, the report, the log.
//!
//! Called by the target on a namespace's home core; [`host`] is the other side. The data of a
//! command has been received whole; whether its length is the right one is for the transport. NVMe
//! Base 2.0 sections 7.2 to 7.5.

pub mod host;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::command::{Command, KeyCheck, Persistence, PersistenceChange, PreemptMode};
use super::kind::ReservationType;
use super::outcome::{Event, Refusal};
use super::registrant::{Key, RegistrantId};
use super::state::{Registration, Reservations};
use crate::nvme::command::SubmissionEntry;
use crate::nvme::opcode::NvmOpcode;
use crate::nvme::reservation::{
    AcquireData, ExtendedRegisteredController, ExtendedStatusHeader, HOLDER, NO_CONTROLLER,
    NotificationLog, RegisterData, RegisteredController, ReleaseData, ReportForm, StatusHeader,
    acquire_action, mask, notification_type, persistence_change, register_action, release_action,
};
use crate::nvme::status::Status;

/// A controller and the host that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostController {
    /// The host.
    pub host: RegistrantId,
    /// The controller.
    pub controller_id: u16,
}

impl Command {
    /// The command of an entry and its data; or the status that it fails with.
    pub fn from_nvme(entry: &SubmissionEntry, data: &[u8]) -> Result<Self, Status> {
        match NvmOpcode::try_from(entry.opcode) {
            Ok(NvmOpcode::ReservationRegister) => register(entry, data),
            Ok(NvmOpcode::ReservationAcquire) => acquire(entry, data),
            Ok(NvmOpcode::ReservationRelease) => release(entry, data),
            _ => Err(Status::INVALID_OPCODE),
        }
    }
}

fn register(entry: &SubmissionEntry, data: &[u8]) -> Result<Command, Status> {
    let data: RegisterData = read(data)?;
    let key = Key(data.new_key.get());
    let persistence = match entry.persistence_change() {
        persistence_change::KEEP => PersistenceChange::Keep,
        persistence_change::OFF => PersistenceChange::Off,
        persistence_change::ON => PersistenceChange::On,
        _ => return Err(Status::INVALID_FIELD),
    };
    let current = if entry.ignores_reservation_key() {
        KeyCheck::Ignore
    } else {
        KeyCheck::Is(Key(data.current_key.get()))
    };
    match entry.reservation_action() {
        register_action::REGISTER => Ok(Command::Register { key, persistence }),
        register_action::UNREGISTER => Ok(Command::Unregister { current, persistence }),
        register_action::REPLACE => Ok(Command::Replace { current, key, persistence }),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn acquire(entry: &SubmissionEntry, data: &[u8]) -> Result<Command, Status> {
    let data: AcquireData = read(data)?;
    refuse_ignored_key(entry)?;
    let current = Key(data.current_key.get());
    let target = Key(data.preempt_key.get());
    let kind = kind_of(entry)?;
    match entry.reservation_action() {
        acquire_action::ACQUIRE => Ok(Command::Acquire { current, kind }),
        acquire_action::PREEMPT => {
            Ok(Command::Preempt { current, target, kind, mode: PreemptMode::Finish })
        }
        acquire_action::PREEMPT_AND_ABORT => {
            Ok(Command::Preempt { current, target, kind, mode: PreemptMode::Abort })
        }
        _ => Err(Status::INVALID_FIELD),
    }
}

fn release(entry: &SubmissionEntry, data: &[u8]) -> Result<Command, Status> {
    let data: ReleaseData = read(data)?;
    refuse_ignored_key(entry)?;
    let current = Key(data.current_key.get());
    match entry.reservation_action() {
        release_action::RELEASE => Ok(Command::Release { current, kind: kind_of(entry)? }),
        release_action::CLEAR => Ok(Command::Clear { current }),
        _ => Err(Status::INVALID_FIELD),
    }
}

/// Since NVMe 1.3 IEKEY is an invalid field of Acquire and Release (sections 7.2 and 7.4).
fn refuse_ignored_key(entry: &SubmissionEntry) -> Result<(), Status> {
    if entry.ignores_reservation_key() { Err(Status::INVALID_FIELD) } else { Ok(()) }
}

fn kind_of(entry: &SubmissionEntry) -> Result<ReservationType, Status> {
    ReservationType::from_nvme_code(entry.reservation_kind()).ok_or(Status::INVALID_FIELD)
}

fn read<T: FromBytes>(data: &[u8]) -> Result<T, Status> {
    match T::read_from_prefix(data) {
        Ok((data, _)) => Ok(data),
        Err(_) => Err(Status::DATA_SGL_LENGTH_INVALID),
    }
}

impl Refusal {
    /// The status that a command fails with.
    pub const fn nvme_status(self) -> Status {
        match self {
            Self::Conflict => Status::RESERVATION_CONFLICT,
            Self::ZeroKey
            | Self::ZeroPreemptKey
            | Self::ReleaseType
            | Self::PersistenceUnsupported => Status::INVALID_FIELD,
            // No status names this one.
            Self::TooManyRegistrants => Status::INTERNAL_ERROR,
        }
    }
}

impl Event {
    /// Its type in the reservation notification log page.
    pub const fn nvme_type(self) -> u8 {
        match self {
            Self::RegistrationPreempted => notification_type::REGISTRATION_PREEMPTED,
            Self::ReservationReleased => notification_type::RESERVATION_RELEASED,
            Self::ReservationPreempted => notification_type::RESERVATION_PREEMPTED,
        }
    }

    /// Whether a host that has set this notification mask does not want to hear of it.
    pub const fn is_masked_by(self, value: u32) -> bool {
        let bit = match self {
            Self::RegistrationPreempted => mask::REGISTRATION_PREEMPTED,
            Self::ReservationReleased => mask::RESERVATION_RELEASED,
            Self::ReservationPreempted => mask::RESERVATION_PREEMPTED,
        };
        value & bit != 0
    }

    /// A log page that tells of it. `available` pages wait behind it.
    pub fn log_page(self, count: u64, available: usize, namespace_id: u32) -> NotificationLog {
        NotificationLog {
            count: U64::new(count),
            notification: self.nvme_type(),
            available: u8::try_from(available).unwrap_or(u8::MAX),
            reserved_10: [0; 2],
            namespace_id: U32::new(namespace_id),
            reserved_16: [0; 48],
        }
    }
}

impl Reservations {
    /// The data of a Reservation Report: a header and an entry for each controller of each
    /// registrant, or for the registrant alone if it has none now. The caller cuts it to what the
    /// host asked for and fills with zeroes what the host asked for beyond it.
    ///
    /// A registrant of another protocol is an entry too: its key and its hold are as real.
    pub fn nvme_report(&self, controllers: &[HostController], form: ReportForm) -> Vec<u8> {
        let mut entries: Vec<(u16, &Registration)> = Vec::new();
        for registration in self.registrations() {
            let id = registration.registrant.id;
            let own = controllers.iter().filter(|controller| controller.host == id);
            let before = entries.len();
            entries.extend(own.map(|controller| (controller.controller_id, registration)));
            if entries.len() == before {
                entries.push((NO_CONTROLLER, registration));
            }
        }
        // The count on the wire has 16 bits, and no subsystem more controllers.
        entries.truncate(usize::from(u16::MAX));
        let common = StatusHeader {
            generation: U32::new(self.generation()),
            kind: self.reservation().map_or(0, |held| held.kind.nvme_code()),
            entries: U16::new(u16::try_from(entries.len()).expect("truncated above")),
            reserved_7: [0; 2],
            persistence: u8::from(self.persistence() == Persistence::On),
            reserved_10: [0; 14],
        };
        let mut bytes = match form {
            ReportForm::Compact => common.as_bytes().to_vec(),
            ReportForm::Extended => {
                ExtendedStatusHeader { common, reserved_24: [0; 40] }.as_bytes().to_vec()
            }
        };
        for (controller_id, registration) in entries {
            self.push_entry(&mut bytes, controller_id, registration, form);
        }
        bytes
    }

    fn push_entry(
        &self,
        bytes: &mut Vec<u8>,
        controller_id: u16,
        registration: &Registration,
        form: ReportForm,
    ) {
        let id = registration.registrant.id;
        let controller_id = U16::new(controller_id);
        let status = if self.is_holder(&id) { HOLDER } else { 0 };
        let key = U64::new(registration.key.0);
        let host_id = id.bytes();
        match form {
            ReportForm::Compact => {
                let (host_id, _) = host_id.split_first_chunk().expect("8 of 16 bytes");
                let (host_id, reserved_3) = (*host_id, [0; 5]);
                let entry =
                    RegisteredController { controller_id, status, reserved_3, host_id, key };
                bytes.extend_from_slice(entry.as_bytes());
            }
            ReportForm::Extended => {
                let entry = ExtendedRegisteredController {
                    controller_id,
                    status,
                    reserved_3: [0; 5],
                    key,
                    host_id,
                    reserved_32: [0; 32],
                };
                bytes.extend_from_slice(entry.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests;
