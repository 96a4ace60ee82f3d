//! The completion queue entry: 16 bytes that end one command.
//!
//! Written by targets, read by initiators and the NVMe over PCIe driver, on any thread. NVMe Base
//! 2.0 section 3.3.3.2.

use super::status::Status;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a completion queue entry.
pub const COMPLETION_ENTRY_BYTES: usize = 16;

const PHASE: u16 = 1;

/// A completion queue entry as on the wire (NVMe Base 2.0 section 3.3.3.2, common layout).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct CompletionEntry {
    /// Dwords 0 and 1, command specific.
    pub result: [U32; 2],
    /// How far the submission queue has been consumed.
    pub queue_head: U16,
    /// Submission queue of the command; reserved over fabrics.
    pub queue_id: U16,
    /// As the host chose it in the submission.
    pub command_id: U16,
    /// Status and phase bit; see [`CompletionEntry::status`].
    pub status_field: U16,
}

const _: () = assert!(size_of::<CompletionEntry>() == COMPLETION_ENTRY_BYTES);

impl CompletionEntry {
    /// An entry as it goes over fabrics: no phase bit and no queue identifier.
    pub fn new(command_id: u16, queue_head: u16, status: Status) -> Self {
        Self {
            queue_head: U16::new(queue_head),
            command_id: U16::new(command_id),
            status_field: U16::new(status.to_wire(false)),
            ..Self::default()
        }
    }

    /// The same entry with dword 0 as its result.
    #[must_use]
    pub fn with_result(mut self, dword0: u32) -> Self {
        self.result = [U32::new(dword0), U32::ZERO];
        self
    }

    /// The same entry with dwords 0 and 1 as its result.
    #[must_use]
    pub fn with_result_wide(mut self, value: u64) -> Self {
        self.result = zerocopy::transmute!(value.to_le_bytes());
        self
    }

    /// Dword 0 of the result.
    pub fn result(&self) -> u32 {
        self.result[0].get()
    }

    /// Dwords 0 and 1 of the result as one value.
    pub fn result_wide(&self) -> u64 {
        u64::from_le_bytes(zerocopy::transmute!(self.result))
    }

    /// How the command ended.
    pub fn status(&self) -> Status {
        Status::from_wire(self.status_field.get())
    }

    /// The phase bit, which tells a new entry in a completion queue in memory from an old one.
    pub fn phase(&self) -> bool {
        self.status_field.get() & PHASE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let status = Status::INVALID_FIELD.with_do_not_retry();
        let entry = CompletionEntry::new(0x1234, 0x0056, status).with_result(0x0102_0304);
        let expected = [4, 3, 2, 1, 0, 0, 0, 0, 0x56, 0, 0, 0, 0x34, 0x12, 0x04, 0x80];
        assert_eq!(entry.as_bytes(), expected);
    }

    #[test]
    fn the_phase_bit_is_apart_from_the_status() {
        let mut entry = CompletionEntry::new(1, 1, Status::WRITE_FAULT);
        assert!(!entry.phase());
        entry.status_field = U16::new(Status::WRITE_FAULT.to_wire(true));
        assert!(entry.phase());
        assert_eq!(entry.status(), Status::WRITE_FAULT);
    }

    proptest! {
        #[test]
        fn results_come_back_as_given(narrow: u32, wide: u64) {
            let entry = CompletionEntry::new(0, 0, Status::SUCCESS);
            prop_assert_eq!(entry.with_result(narrow).result(), narrow);
            prop_assert_eq!(entry.with_result(narrow).result_wide(), u64::from(narrow));
            prop_assert_eq!(entry.with_result_wide(wide).result_wide(), wide);
        }
    }
}
