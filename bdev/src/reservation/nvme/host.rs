//! The host's side: requests as NVMe commands, and a report read.
//!
//! Called by drivers of devices that keep reservations themselves. What a device says is untrusted:
//! a report is read as far as it goes. NVMe Base 2.0 sections 7.2 to 7.5.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::nvme::command::SubmissionEntry;
use crate::nvme::reservation::{
    AcquireData, ExtendedRegisteredController, ExtendedStatusHeader, HOLDER, RegisterData,
    ReleaseData, ReportForm, acquire_action, persistence_change, register_action, release_action,
};
use crate::reservation::command::{Command, KeyCheck, PersistenceChange, PreemptMode};
use crate::reservation::device::{Report, Reported, Request};
use crate::reservation::kind::ReservationType;
use crate::reservation::registrant::Key;

/// Bytes that a report is asked for: room for [`ENTRIES_MAX`] registrants.
pub const REPORT_BYTES: u32 = 4096;

/// Registrants that a report is read of; more are not seen.
pub const ENTRIES_MAX: usize = (REPORT_BYTES as usize - size_of::<ExtendedStatusHeader>())
    / size_of::<ExtendedRegisteredController>();

/// Most bytes that a command carries.
pub const COMMAND_BYTES_MAX: usize = size_of::<RegisterData>();

const _: () = assert!(size_of::<AcquireData>() <= COMMAND_BYTES_MAX);

/// The data of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandData {
    /// Sent to the device: the first so many of these bytes.
    Sent([u8; COMMAND_BYTES_MAX], usize),
    /// So many bytes come from the device; see [`Report::from_nvme`].
    Received(u32),
}

impl Request {
    /// The command and its data, for a namespace; its identifier is 0. Nothing for what is no
    /// command but a feature: [`Command::SetPersistence`].
    pub fn to_nvme(self, namespace_id: u32) -> Option<(SubmissionEntry, CommandData)> {
        match self {
            Request::Report => {
                let dwords = REPORT_BYTES / 4;
                let form = ReportForm::Extended;
                let entry = SubmissionEntry::reservation_report(0, namespace_id, dwords, form);
                Some((entry, CommandData::Received(REPORT_BYTES)))
            }
            Request::Change(command) => change(command, namespace_id),
        }
    }
}

fn change(command: Command, namespace_id: u32) -> Option<(SubmissionEntry, CommandData)> {
    let register = |action, current: KeyCheck, key: Key, persistence| {
        let change = change_of(persistence);
        let entry = SubmissionEntry::reservation_register(0, namespace_id, action, change);
        let (entry, current) = match current {
            KeyCheck::Is(key) => (entry, key),
            KeyCheck::Ignore => (entry.with_reservation_key_ignored(), Key::ZERO),
        };
        let (current_key, new_key) = (U64::new(current.0), U64::new(key.0));
        (entry, sent(&RegisterData { current_key, new_key }))
    };
    let acquire = |action, current: Key, target: Key, kind: ReservationType| {
        let code = kind.nvme_code();
        let entry = SubmissionEntry::reservation_acquire(0, namespace_id, action, code);
        let (current_key, preempt_key) = (U64::new(current.0), U64::new(target.0));
        (entry, sent(&AcquireData { current_key, preempt_key }))
    };
    let release = |action, current: Key, kind| {
        let entry = SubmissionEntry::reservation_release(0, namespace_id, action, kind);
        (entry, sent(&ReleaseData { current_key: U64::new(current.0) }))
    };
    Some(match command {
        Command::Register { key, persistence } => {
            register(register_action::REGISTER, KeyCheck::Is(Key::ZERO), key, persistence)
        }
        Command::Replace { current, key, persistence } => {
            register(register_action::REPLACE, current, key, persistence)
        }
        Command::Unregister { current, persistence } => {
            register(register_action::UNREGISTER, current, Key::ZERO, persistence)
        }
        Command::Acquire { current, kind } => {
            acquire(acquire_action::ACQUIRE, current, Key::ZERO, kind)
        }
        Command::Preempt { current, target, kind, mode } => {
            let action = match mode {
                PreemptMode::Finish => acquire_action::PREEMPT,
                PreemptMode::Abort => acquire_action::PREEMPT_AND_ABORT,
            };
            acquire(action, current, target, kind)
        }
        Command::Release { current, kind } => {
            release(release_action::RELEASE, current, kind.nvme_code())
        }
        Command::Clear { current } => release(release_action::CLEAR, current, 0),
        Command::SetPersistence(_) => return None,
    })
}

fn change_of(persistence: PersistenceChange) -> u8 {
    match persistence {
        PersistenceChange::Keep => persistence_change::KEEP,
        PersistenceChange::Off => persistence_change::OFF,
        PersistenceChange::On => persistence_change::ON,
    }
}

fn sent(data: &(impl IntoBytes + Immutable)) -> CommandData {
    let data = data.as_bytes();
    let mut bytes = [0; COMMAND_BYTES_MAX];
    bytes[..data.len()].copy_from_slice(data);
    CommandData::Sent(bytes, data.len())
}

impl Report {
    /// Reads the data of an extended report; nothing where not even its header is there.
    pub fn from_nvme(bytes: &[u8]) -> Option<Report> {
        let (header, mut rest) = ExtendedStatusHeader::read_from_prefix(bytes).ok()?;
        let mut registrants = Vec::new();
        for _ in 0..usize::from(header.common.entries.get()).min(ENTRIES_MAX) {
            let Ok((entry, after)) = ExtendedRegisteredController::read_from_prefix(rest) else {
                break;
            };
            rest = after;
            registrants.push(Reported {
                host_id: entry.host_id,
                key: Key(entry.key.get()),
                is_holder: entry.status & HOLDER != 0,
            });
        }
        Some(Report {
            generation: header.common.generation.get(),
            kind: ReservationType::from_nvme_code(header.common.kind),
            is_persistent: header.common.persistence & 1 != 0,
            registrants,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reservation::command::Persistence;
    use crate::reservation::registrant::{Registrant, RegistrantId};
    use crate::reservation::state::Reservations;

    const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

    fn commands() -> Vec<Command> {
        let (current, key, target) = (Key(1), Key(2), Key(3));
        let persistence = PersistenceChange::On;
        vec![
            Command::Register { key, persistence },
            Command::Replace { current: KeyCheck::Is(current), key, persistence },
            Command::Replace { current: KeyCheck::Ignore, key, persistence },
            Command::Unregister { current: KeyCheck::Is(current), persistence },
            Command::Acquire { current, kind: KIND },
            Command::Preempt { current, target, kind: KIND, mode: PreemptMode::Finish },
            Command::Preempt { current, target, kind: KIND, mode: PreemptMode::Abort },
            Command::Release { current, kind: KIND },
            Command::Clear { current },
        ]
    }

    #[test]
    fn a_target_reads_each_command_as_it_was_meant() {
        for command in commands() {
            let (entry, data) = Request::Change(command).to_nvme(7).unwrap();
            let CommandData::Sent(bytes, len) = data else { panic!("{command:?} carries data") };
            assert_eq!(entry.namespace_id.get(), 7);
            assert_eq!(Command::from_nvme(&entry, &bytes[..len]), Ok(command));
        }
        let feature = Command::SetPersistence(PersistenceChange::On);
        assert_eq!(Request::Change(feature).to_nvme(7), None);
    }

    #[test]
    fn a_report_reads_as_it_was_written_and_as_far_as_it_goes() {
        let mut state = Reservations::new(Persistence::Off);
        let host = |number| Registrant::unnamed(RegistrantId::nvme([number; 16]).unwrap());
        for number in 1..=2 {
            let (key, persistence) = (Key(u64::from(number)), PersistenceChange::Keep);
            let _ = state.apply(&host(number), Command::Register { key, persistence }).unwrap();
        }
        let _ = state.apply(&host(2), Command::Acquire { current: Key(2), kind: KIND }).unwrap();
        let bytes = state.nvme_report(&[], ReportForm::Extended);
        let report = Report::from_nvme(&bytes).unwrap();
        let entry = |number: u8, is_holder| Reported {
            host_id: [number; 16],
            key: Key(u64::from(number)),
            is_holder,
        };
        assert_eq!(report.registrants, [entry(1, false), entry(2, true)]);
        assert_eq!((report.kind, report.is_persistent), (Some(KIND), false));
        let cut = Report::from_nvme(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(cut.registrants, [entry(1, false)]);
        assert_eq!(Report::from_nvme(&bytes[..63]), None);
    }
}
