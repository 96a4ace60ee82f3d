//! The errors that a controller's commands met, newest first: log page 01h.
//!
//! Kept beside the admin queue; the cores of the I/O queues report by message, each within a
//! budget, so that a host that does everything wrong costs the others nothing. What is beyond the
//! budget is counted and not listed. NVMe Base 2.0 section 5.16.1.2 and figure 201.

use std::collections::VecDeque;

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::log_page::ErrorEntry;
use bdev::nvme::status::StatusCodeType;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Errors that are listed; older ones are forgotten.
pub const ERROR_ENTRIES: u8 = 64;

/// Parameter error location of an error that is at no particular byte.
const NO_LOCATION: u16 = 0xffff;
/// TRTYPE of TCP.
const TRANSPORT_TCP: u8 = 3;
/// Dwords 10 and 11 of these commands are not a block.
const FIRST_BLOCK_UNKNOWN: u64 = 0;

/// A command that was answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// Queue id.
    pub queue_id: u16,
    /// Command id.
    pub command_id: u16,
    /// Its status.
    pub status: Status,
    /// First block, for a command of an I/O queue.
    pub lba: u64,
    /// Its namespace.
    pub namespace_id: u32,
    /// So many more before it were not reported.
    pub unlisted: u32,
}

impl ErrorReport {
    /// The report of a command, if its status is one that is logged: not what the host has asked
    /// for (aborts), nor what is of the path and not of the command.
    pub fn of(queue_id: u16, command: &SubmissionEntry, status: Status) -> Option<ErrorReport> {
        let of_host = [Status::ABORT_REQUESTED, Status::ABORTED_SQ_DELETION];
        let is_logged = !status.is_success()
            && status.code_type() != StatusCodeType::Path
            && !of_host.iter().any(|other| status.has_code(*other));
        let lba = match queue_id {
            0 => FIRST_BLOCK_UNKNOWN,
            _ => u64::from(command.cdw10.get()) | u64::from(command.cdw11.get()) << 32,
        };
        is_logged.then(|| ErrorReport {
            queue_id,
            command_id: command.command_id.get(),
            status,
            lba,
            namespace_id: command.namespace_id.get(),
            unlisted: 0,
        })
    }
}

/// The last errors of a controller.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    /// Newest first.
    entries: VecDeque<ErrorEntry>,
    count: u64,
}

impl ErrorLog {
    /// Adds an error.
    pub fn add(&mut self, report: &ErrorReport) {
        self.count += 1 + u64::from(report.unlisted);
        self.entries.truncate(usize::from(ERROR_ENTRIES) - 1);
        let mut entry = ErrorEntry::new_zeroed();
        entry.error_count = U64::new(self.count);
        entry.queue_id = U16::new(report.queue_id);
        entry.command_id = U16::new(report.command_id);
        entry.status_field = U16::new(report.status.to_wire(false));
        entry.parameter_location = U16::new(NO_LOCATION);
        entry.lba = U64::new(report.lba);
        entry.namespace_id = U32::new(report.namespace_id);
        entry.transport_type = TRANSPORT_TCP;
        self.entries.push_front(entry);
    }

    /// Errors since the controller was made.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The whole page; unused entries are zero.
    pub fn page(&self) -> Vec<u8> {
        let mut page: Vec<u8> =
            self.entries.iter().flat_map(|entry| entry.as_bytes().iter().copied()).collect();
        page.resize(usize::from(ERROR_ENTRIES) * size_of::<ErrorEntry>(), 0);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    fn report(command_id: u16) -> ErrorReport {
        let mut command = SubmissionEntry::new(0x02, command_id, 5);
        command.cdw10.set(7);
        ErrorReport::of(3, &command, Status::LBA_OUT_OF_RANGE).unwrap()
    }

    fn entries(log: &ErrorLog) -> Vec<ErrorEntry> {
        let page = log.page();
        page.chunks_exact(64).map(|bytes| ErrorEntry::read_from_bytes(bytes).unwrap()).collect()
    }

    #[test]
    fn the_newest_error_is_first_and_the_oldest_is_forgotten() {
        let mut log = ErrorLog::default();
        for command_id in 0..=u16::from(ERROR_ENTRIES) {
            log.add(&report(command_id));
        }
        let entries = entries(&log);
        assert_eq!(entries.len(), 64);
        assert_eq!((entries[0].error_count.get(), entries[0].command_id.get()), (65, 64));
        assert_eq!((entries[63].error_count.get(), entries[63].command_id.get()), (2, 1));
        assert_eq!((entries[0].queue_id.get(), entries[0].namespace_id.get()), (3, 5));
        assert_eq!((entries[0].lba.get(), entries[0].status_field.get()), (7, 0x80 << 1));
    }

    #[test]
    fn unused_entries_are_zero_and_unlisted_errors_count() {
        let mut log = ErrorLog::default();
        log.add(&ErrorReport { unlisted: 9, ..report(1) });
        assert_eq!(log.count(), 10);
        assert_eq!(entries(&log)[1], ErrorEntry::new_zeroed());
    }

    #[test]
    fn what_the_host_asked_for_and_what_is_of_the_path_is_not_logged() {
        let command = SubmissionEntry::new(0x02, 1, 1);
        let logged = |status| ErrorReport::of(1, &command, status).is_some();
        assert!(logged(Status::COMPARE_FAILURE));
        assert!(!logged(Status::SUCCESS));
        assert!(!logged(Status::ANA_INACCESSIBLE));
        assert!(!logged(Status::ABORT_REQUESTED.with_do_not_retry()));
    }
}
