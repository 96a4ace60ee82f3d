//! How a command ends, and what a device's status means to a SCSI initiator.
//!
//! The command layer makes a [`Verdict`] of everything; the front door sends it. SAM-5 section 5.3
//! (status codes), SPC-4 section 4.5.6 (sense keys).

use super::sense::{Sense, SenseCode, SenseKey};
use crate::nvme::status::Status;

/// A status code (SAM-5 table 35).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ScsiStatus {
    /// Done.
    Good = 0x00,
    /// See the sense data.
    CheckCondition = 0x02,
    /// Come again.
    Busy = 0x08,
    /// A reservation is in the way.
    ReservationConflict = 0x18,
    /// No more commands fit.
    TaskSetFull = 0x28,
    /// Another initiator aborted it.
    TaskAborted = 0x40,
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its status.
    pub status: ScsiStatus,
    /// Why, where the status is CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Bytes of the buffer that go to the initiator.
    pub data_bytes: u32,
}

impl Verdict {
    /// Done, with nothing to send.
    pub const GOOD: Verdict = Verdict::of(ScsiStatus::Good);

    /// A status alone.
    pub const fn of(status: ScsiStatus) -> Verdict {
        Verdict { status, sense: None, data_bytes: 0 }
    }

    /// Done, with data.
    pub const fn data(data_bytes: u32) -> Verdict {
        Verdict { data_bytes, ..Verdict::GOOD }
    }

    /// Failed, for this reason.
    pub const fn check(sense: Sense) -> Verdict {
        Verdict { sense: Some(sense), ..Verdict::of(ScsiStatus::CheckCondition) }
    }
}

impl From<Sense> for Verdict {
    fn from(sense: Sense) -> Verdict {
        Verdict::check(sense)
    }
}

/// What a device's status is to an initiator.
pub fn verdict_of(status: Status) -> Verdict {
    let status = Status::from_code(status.code());
    if status == Status::SUCCESS {
        return Verdict::GOOD;
    }
    let sense = match status {
        Status::RESERVATION_CONFLICT => return Verdict::of(ScsiStatus::ReservationConflict),
        Status::COMMAND_INTERRUPTED => return Verdict::of(ScsiStatus::Busy),
        Status::LBA_OUT_OF_RANGE => Sense::illegal(SenseCode::LBA_OUT_OF_RANGE),
        Status::INVALID_OPCODE => Sense::illegal(SenseCode::INVALID_OPCODE),
        Status::INVALID_FIELD | Status::ATOMIC_WRITE_UNIT_EXCEEDED => {
            Sense::illegal(SenseCode::INVALID_FIELD_IN_CDB)
        }
        Status::COMPARE_FAILURE => Sense::new(SenseKey::Miscompare, SenseCode::MISCOMPARE),
        Status::UNRECOVERED_READ_ERROR => {
            Sense::new(SenseKey::MediumError, SenseCode::UNRECOVERED_READ)
        }
        Status::WRITE_FAULT => Sense::new(SenseKey::MediumError, SenseCode::WRITE_ERROR),
        Status::NAMESPACE_WRITE_PROTECTED | Status::WRITE_TO_READ_ONLY_RANGE => {
            Sense::new(SenseKey::DataProtect, SenseCode::WRITE_PROTECTED)
        }
        Status::CAPACITY_EXCEEDED => {
            Sense::new(SenseKey::DataProtect, SenseCode::SPACE_ALLOCATION_FAILED)
        }
        Status::NAMESPACE_NOT_READY
        | Status::ANA_INACCESSIBLE
        | Status::ANA_TRANSITION
        | Status::ANA_PERSISTENT_LOSS
        | Status::INTERNAL_PATH_ERROR => Sense::new(SenseKey::NotReady, SenseCode::NOT_READY),
        Status::ABORT_REQUESTED
        | Status::ABORTED_BY_HOST
        | Status::ABORTED_SQ_DELETION
        | Status::ABORTED_PREEMPT
        | Status::TRANSIENT_TRANSPORT_ERROR => {
            Sense::new(SenseKey::AbortedCommand, SenseCode::NONE)
        }
        _ => Sense::new(SenseKey::HardwareError, SenseCode::INTERNAL_FAILURE),
    };
    Verdict::check(sense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_is_said_in_the_words_of_scsi() {
        let key = |status| verdict_of(status).sense.map(|sense| sense.key);
        assert_eq!(verdict_of(Status::SUCCESS), Verdict::GOOD);
        assert_eq!(key(Status::COMPARE_FAILURE), Some(SenseKey::Miscompare));
        assert_eq!(key(Status::LBA_OUT_OF_RANGE), Some(SenseKey::IllegalRequest));
        assert_eq!(key(Status::UNRECOVERED_READ_ERROR), Some(SenseKey::MediumError));
        assert_eq!(key(Status::INTERNAL_ERROR), Some(SenseKey::HardwareError));
        let conflict = verdict_of(Status::RESERVATION_CONFLICT);
        assert_eq!(conflict, Verdict::of(ScsiStatus::ReservationConflict));
    }
}
