//! Reservation commands as the planner sees them, and what each I/O command needs.
//!
//! Plain total functions. NVMe Base 2.0 sections 7.2 to 7.5, and section 8.19 (figure of command
//! behavior in the presence of a reservation).

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::opcode::NvmOpcode;
use bdev::nvme::reservation::{AcquireData, RegisterData, ReleaseData, ReportForm};
use bdev::reservation::keeper::Request;
use bdev::reservation::{Access, AccessClass, Command, Grant, Registrant, RegistrantId};

use crate::target::request::{Action, Plan, Transfer};

/// Whether a command of an I/O queue is about reservations.
#[inline]
pub fn is_reservation(opcode: u8) -> bool {
    const OPCODES: [NvmOpcode; 4] = [
        NvmOpcode::ReservationRegister,
        NvmOpcode::ReservationReport,
        NvmOpcode::ReservationAcquire,
        NvmOpcode::ReservationRelease,
    ];
    OPCODES.iter().any(|one| *one as u8 == opcode)
}

/// Plans a reservation command of a host. `transfer_bytes_max` is the controller's MDTS.
pub fn plan(
    command: &SubmissionEntry,
    host: Option<RegistrantId>,
    transfer_bytes_max: u32,
) -> Plan {
    let len_bytes = match NvmOpcode::try_from(command.opcode) {
        Ok(NvmOpcode::ReservationRegister) => size_of::<RegisterData>(),
        Ok(NvmOpcode::ReservationAcquire) => size_of::<AcquireData>(),
        Ok(NvmOpcode::ReservationRelease) => size_of::<ReleaseData>(),
        Ok(NvmOpcode::ReservationReport) => return report(command, transfer_bytes_max),
        _ => return Plan::fail(Status::INVALID_OPCODE.with_do_not_retry()),
    };
    if host.is_none() {
        // Without an identifier nobody could tell its controllers from another host's.
        return Plan::fail(Status::COMMAND_SEQUENCE_ERROR.with_do_not_retry());
    }
    let len_bytes = u32::try_from(len_bytes).expect("16 bytes at most");
    Plan { action: Action::Reservation, transfer: Transfer::FromHost(len_bytes) }
}

/// Over fabrics every host identifier has 128 bits, so that the compact form is not for us (section
/// 7.5, EDS).
fn report(command: &SubmissionEntry, transfer_bytes_max: u32) -> Plan {
    if command.reservation_report_form() == ReportForm::Compact {
        return Plan::fail(Status::HOST_ID_INCONSISTENT_FORMAT.with_do_not_retry());
    }
    let len_bytes = u32::try_from(command.reservation_report_bytes()).ok();
    match len_bytes.filter(|len_bytes| *len_bytes <= transfer_bytes_max) {
        Some(len_bytes) => {
            Plan { action: Action::Reservation, transfer: Transfer::ToHost(len_bytes) }
        }
        None => Plan::fail(Status::INVALID_FIELD.with_do_not_retry()),
    }
}

/// What the keeper is asked by a command that was planned here and whose data has come.
pub fn request(
    command: &SubmissionEntry,
    host: Option<RegistrantId>,
    data: &[u8],
) -> Result<Request, Status> {
    if NvmOpcode::try_from(command.opcode) == Ok(NvmOpcode::ReservationReport) {
        return Ok(Request::Look);
    }
    let id = host.ok_or(Status::COMMAND_SEQUENCE_ERROR)?;
    let command = Command::from_nvme(command, data)?;
    Ok(Request::Change { from: Registrant::unnamed(id), command })
}

/// Whether a grant lets a command pass. Asked for commands of hosts whose rights are limited.
#[cold]
pub fn may_go(grant: Grant, opcode: u8) -> bool {
    access_class(opcode).is_none_or(|class| grant.access(class) == Access::Allowed)
}

/// The right that an I/O command needs; `None` for those that need none.
fn access_class(opcode: u8) -> Option<AccessClass> {
    match NvmOpcode::try_from(opcode) {
        Ok(NvmOpcode::Read | NvmOpcode::Compare | NvmOpcode::Verify) => Some(AccessClass::Read),
        Ok(
            NvmOpcode::Flush
            | NvmOpcode::Write
            | NvmOpcode::WriteUncorrectable
            | NvmOpcode::WriteZeroes
            | NvmOpcode::DatasetManagement
            | NvmOpcode::Copy,
        ) => Some(AccessClass::Write),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::nvme::command::SubmissionEntry;

    const HOST: Option<RegistrantId> = Some(RegistrantId::scsi([1; 16]));
    const MDTS_BYTES: u32 = 4096;

    fn report_of(dwords: u32, form: ReportForm) -> Plan {
        plan(&SubmissionEntry::reservation_report(1, 1, dwords, form), HOST, MDTS_BYTES)
    }

    #[test]
    fn a_report_is_as_long_as_asked_up_to_the_largest_transfer() {
        for dwords in [1, 1024] {
            let transfer = Transfer::ToHost(dwords * 4);
            let expected = Plan { action: Action::Reservation, transfer };
            assert_eq!(report_of(dwords, ReportForm::Extended), expected);
        }
        let invalid = Plan::fail(Status::INVALID_FIELD.with_do_not_retry());
        for dwords in [1025, u32::MAX] {
            assert_eq!(report_of(dwords, ReportForm::Extended), invalid);
        }
    }

    #[test]
    fn a_report_with_short_host_identifiers_is_refused() {
        let refused = Plan::fail(Status::HOST_ID_INCONSISTENT_FORMAT.with_do_not_retry());
        assert_eq!(report_of(16, ReportForm::Compact), refused);
    }

    #[test]
    fn a_host_without_an_identifier_may_look_and_not_touch() {
        let register = SubmissionEntry::reservation_register(1, 1, 0, 0);
        let refused = Plan::fail(Status::COMMAND_SEQUENCE_ERROR.with_do_not_retry());
        assert_eq!(plan(&register, None, MDTS_BYTES), refused);
        assert_eq!(plan(&register, HOST, MDTS_BYTES).transfer, Transfer::FromHost(16));
        let look = SubmissionEntry::reservation_report(1, 1, 16, ReportForm::Extended);
        assert_eq!(plan(&look, None, MDTS_BYTES).transfer, Transfer::ToHost(64));
    }

    #[test]
    fn every_command_has_the_class_of_the_specification() {
        for opcode in 0..=u8::MAX {
            let expected = match opcode {
                0x02 | 0x05 | 0x0c => Some(AccessClass::Read),
                0x00 | 0x01 | 0x04 | 0x08 | 0x09 | 0x19 => Some(AccessClass::Write),
                _ => None,
            };
            assert_eq!(access_class(opcode), expected, "{opcode:#x}");
            assert_eq!(is_reservation(opcode), matches!(opcode, 0x0d | 0x0e | 0x11 | 0x15));
        }
    }
}
