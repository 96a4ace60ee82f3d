//! What the status of a child's completion means for the child.

use bdev::Status;

/// See [`judge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done, or compared and found different: the answer.
    Answered,
    /// Refused without effect, for a reason that may lie in the I/O or the volume. The host's, when
    /// every child says so.
    Refused,
    /// Failed: by this child, or on the way to it.
    Failed,
}

/// Refusals: the child has done nothing, and would refuse again.
const REFUSALS: [Status; 13] = [
    Status::INVALID_OPCODE,
    Status::INVALID_FIELD,
    Status::INVALID_SGL_SEGMENT_DESCRIPTOR,
    Status::INVALID_SGL_DESCRIPTOR_COUNT,
    Status::DATA_SGL_LENGTH_INVALID,
    Status::ATOMIC_WRITE_UNIT_EXCEEDED,
    Status::OPERATION_DENIED,
    Status::SGL_OFFSET_INVALID,
    Status::NAMESPACE_WRITE_PROTECTED,
    Status::LBA_OUT_OF_RANGE,
    Status::CAPACITY_EXCEEDED,
    Status::RESERVATION_CONFLICT,
    Status::ACCESS_DENIED,
];

/// Judges a completion.
pub(super) fn judge(status: Status) -> Verdict {
    if status.is_success() || status.has_code(Status::COMPARE_FAILURE) {
        return Verdict::Answered;
    }
    match REFUSALS.iter().any(|refusal| status.has_code(*refusal)) {
        true => Verdict::Refused,
        false => Verdict::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_refusals_and_failures_are_told_apart_whatever_their_other_bits() {
        assert_eq!(judge(Status::SUCCESS), Verdict::Answered);
        assert_eq!(judge(Status::COMPARE_FAILURE), Verdict::Answered);
        assert_eq!(judge(Status::RESERVATION_CONFLICT.with_do_not_retry()), Verdict::Refused);
        for status in [Status::WRITE_FAULT, Status::ABORT_REQUESTED, Status::INTERNAL_PATH_ERROR] {
            assert_eq!(judge(status), Verdict::Failed);
        }
    }
}
