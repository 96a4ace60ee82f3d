//! Command and response capsules.
//!
//! The command capsule is what starts every I/O, the response capsule what ends it; both are on
//! the hot path of the core that owns the connection. NVMe/TCP Transport 1.0 sections 3.6.2.6 and
//! 3.6.2.7, figures 24 and 25.

use super::framing::Framing;
use super::header::CommonHeader;
use super::kind::PduKind;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::completion::CompletionEntry;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header of a command capsule.
pub const COMMAND_CAPSULE_BYTES: usize = 72;
/// Length of the header of a response capsule.
pub const RESPONSE_CAPSULE_BYTES: usize = 24;
/// In-capsule data that an admin queue must take, and the most that it may: figure 11.
pub const ADMIN_CAPSULE_DATA_BYTES_MAX: u32 = 8192;

/// CapsuleCmd: a command and, after header digest and padding, its in-capsule data (figure 24).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CommandCapsule {
    /// Common header.
    pub header: CommonHeader,
    /// The command.
    pub command: SubmissionEntry,
}

const _: () = assert!(size_of::<CommandCapsule>() == COMMAND_CAPSULE_BYTES);

impl CommandCapsule {
    /// A capsule with `data_bytes` of in-capsule data, 0 for none.
    pub fn new(command: SubmissionEntry, data_bytes: u32, framing: Framing) -> Self {
        Self { header: CommonHeader::new(PduKind::CommandCapsule, framing, data_bytes), command }
    }
}

/// CapsuleResp: a completion (figure 25).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ResponseCapsule {
    /// Common header.
    pub header: CommonHeader,
    /// The completion.
    pub completion: CompletionEntry,
}

const _: () = assert!(size_of::<ResponseCapsule>() == RESPONSE_CAPSULE_BYTES);

impl ResponseCapsule {
    /// A capsule around a completion.
    pub fn new(completion: CompletionEntry, framing: Framing) -> Self {
        Self { header: CommonHeader::new(PduKind::ResponseCapsule, framing, 0), completion }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::framing::Digests;

    #[test]
    fn a_capsule_without_data_has_no_data_offset_and_no_data_digest() {
        let digests = Digests { header: true, data: true };
        let framing = Framing { digests, ..Framing::default() };
        let capsule = CommandCapsule::new(SubmissionEntry::new(2, 1, 1), 0, framing);
        assert_eq!(capsule.header.as_bytes(), [0x04, 0x01, 72, 0, 76, 0, 0, 0]);
    }

    #[test]
    fn a_capsule_with_data_counts_digests_and_data() {
        let digests = Digests { header: true, data: true };
        let framing = Framing { digests, ..Framing::default() };
        let capsule = CommandCapsule::new(SubmissionEntry::new(1, 1, 1), 4096, framing);
        let [a, b, c, d] = (76u32 + 4096 + 4).to_le_bytes();
        assert_eq!(capsule.header.as_bytes(), [0x04, 0x03, 72, 76, a, b, c, d]);
    }
}
