//! Reservations of a software controller: one more place where the state machine of
//! [`crate::reservation`] is at home, with a second host that tests speak for.

use super::core::Core;
use crate::io::Operation;
use crate::nvme::command::SubmissionEntry;
use crate::nvme::opcode::NvmOpcode;
use crate::nvme::status::Status;
use crate::reservation::nvme::HostController;
use crate::reservation::{Access, Command, Registrant, RegistrantId};

/// Bytes that any of the commands carries at most.
const DATA_BYTES: usize = 16;

impl Core {
    /// Carries out a reservation command of the driver's host; nothing for any other.
    pub(super) fn reserve(&mut self, entry: &SubmissionEntry) -> Option<Result<(), Status>> {
        let opcode = NvmOpcode::try_from(entry.opcode).ok()?;
        let is_change = matches!(
            opcode,
            NvmOpcode::ReservationRegister
                | NvmOpcode::ReservationAcquire
                | NvmOpcode::ReservationRelease
        );
        if !is_change && opcode != NvmOpcode::ReservationReport {
            return None;
        }
        if self.config.reservations == super::Feature::Absent {
            return Some(Err(Status::INVALID_OPCODE));
        }
        Some(match is_change {
            true => self.change_reservation(entry),
            false => self.report_reservation(entry),
        })
    }

    fn driver(&self) -> Option<RegistrantId> {
        RegistrantId::nvme(self.host_id)
    }

    fn change_reservation(&mut self, entry: &SubmissionEntry) -> Result<(), Status> {
        let data = self.read_host(entry.prp(), DATA_BYTES)?;
        let command = Command::from_nvme(entry, &data)?;
        let driver = self.driver().ok_or(Status::INVALID_FIELD)?;
        self.change_as(driver, command)
    }

    /// The same in the name of any host.
    pub(super) fn change_as(&mut self, id: RegistrantId, command: Command) -> Result<(), Status> {
        let done = self.reservations.apply(&Registrant::unnamed(id), command);
        done.map(|_| ()).map_err(|refusal| refusal.nvme_status())
    }

    fn report_reservation(&mut self, entry: &SubmissionEntry) -> Result<(), Status> {
        let controllers: Vec<HostController> = self
            .reservations
            .registrations()
            .iter()
            .zip(1..)
            .map(|(one, controller_id)| HostController { host: one.registrant.id, controller_id })
            .collect();
        let form = entry.reservation_report_form();
        let mut report = self.reservations.nvme_report(&controllers, form);
        report.truncate(usize::try_from(entry.reservation_report_bytes()).unwrap_or(0));
        self.write_host(entry.prp(), &report)
    }

    /// Whether the driver's host may do this now.
    pub(super) fn may(&self, opcode: NvmOpcode) -> Result<(), Status> {
        let operation = match opcode {
            NvmOpcode::Read | NvmOpcode::Compare | NvmOpcode::Verify => Operation::Read,
            _ => Operation::Write,
        };
        let table = self.reservations.access_table();
        let access = match self.driver() {
            Some(driver) => table.access(&driver, operation),
            None => table.grant_of_nobody().access(crate::reservation::AccessClass::of(operation)),
        };
        match access {
            Access::Allowed => Ok(()),
            Access::Conflict => Err(Status::RESERVATION_CONFLICT),
        }
    }
}
