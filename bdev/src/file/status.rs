//! From the system's errors to statuses: the one translation for files and block devices.
//!
//! Called by the queue pair, on the core's thread, for the result of one command.

use nix::errno::Errno;

use crate::io::Operation;
use crate::nvme::status::Status;

/// The status of an operation that ended with `errno`.
pub(crate) fn status_of(errno: Errno, operation: Operation) -> Status {
    match errno {
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => Status::CAPACITY_EXCEEDED,
        Errno::EROFS | Errno::EPERM | Errno::EACCES => Status::NAMESPACE_WRITE_PROTECTED,
        Errno::ECANCELED | Errno::EINTR => Status::ABORT_REQUESTED,
        Errno::ENXIO | Errno::ENODEV | Errno::ENOMEDIUM => Status::NAMESPACE_NOT_READY,
        // What the block layer says of a range reserved by another host.
        Errno::EBADE => Status::RESERVATION_CONFLICT,
        Errno::EIO | Errno::ENODATA | Errno::EREMOTEIO | Errno::ETIMEDOUT | Errno::EILSEQ => {
            media_error(operation)
        }
        _ => Status::INTERNAL_ERROR,
    }
}

/// The status of an operation that the medium failed.
pub(crate) fn media_error(operation: Operation) -> Status {
    match operation {
        Operation::Read | Operation::Compare | Operation::Verify => Status::UNRECOVERED_READ_ERROR,
        _ => Status::WRITE_FAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_status_that_is_none_of_success() {
        let cases = [
            (Errno::EIO, Operation::Read, Status::UNRECOVERED_READ_ERROR),
            (Errno::EIO, Operation::Write, Status::WRITE_FAULT),
            (Errno::EIO, Operation::Flush, Status::WRITE_FAULT),
            (Errno::ENOSPC, Operation::Write, Status::CAPACITY_EXCEEDED),
            (Errno::ENXIO, Operation::Read, Status::NAMESPACE_NOT_READY),
            (Errno::ECANCELED, Operation::Read, Status::ABORT_REQUESTED),
            (Errno::EBADE, Operation::Write, Status::RESERVATION_CONFLICT),
        ];
        for (errno, operation, status) in cases {
            assert_eq!(status_of(errno, operation), status, "{errno} of {operation:?}");
        }
        for raw in 1..200 {
            assert!(!status_of(Errno::from_raw(raw), Operation::Write).is_success());
        }
    }
}
