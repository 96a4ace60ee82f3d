//! What a subsystem lets a host have: queue sizes, transfer sizes, counts.
//!
//! Chosen when a subsystem is made, read-only afterwards, shared by all cores. Each bound is a
//! constant here; [`TargetLimits::check`] holds a configuration to them.

use reactor::dma::pool::LARGEST_BUFFER_BYTES;

/// Fewest entries of a queue (NVMe Base 2.0 section 3.3.3.1: SQSIZE of at least 1, zero-based).
pub const QUEUE_ENTRIES_MIN: u16 = 2;
/// Most entries of an I/O queue that may be configured.
pub const QUEUE_ENTRIES_LIMIT: u16 = 1024;
/// Entries of an I/O queue unless configured.
pub const QUEUE_ENTRIES_DEFAULT: u16 = 128;
/// Most entries of an admin queue. The discovery log names it as well; the least that the
/// specification allows there is 32 (NVMe Base 2.0 section 5.16.1.23).
pub const ADMIN_QUEUE_ENTRIES_MAX: u16 = 128;
/// Most I/O queues of a controller that may be configured, and the default.
pub const IO_QUEUES_LIMIT: u16 = 128;
/// The page size that MDTS counts in: CAP.MPSMIN of 0.
pub const PAGE_BYTES: u32 = 4096;
/// Largest data transfer of a command unless configured.
pub const TRANSFER_BYTES_DEFAULT: u32 = 128 * 1024;
/// Largest data transfer that may be configured: a command has one buffer.
pub const TRANSFER_BYTES_LIMIT: u32 = LARGEST_BUFFER_BYTES;
/// In-capsule data of an I/O command unless configured.
pub const IN_CAPSULE_BYTES_DEFAULT: u32 = 4096;
/// Most in-capsule data of an I/O command that may be configured.
pub const IN_CAPSULE_BYTES_LIMIT: u32 = 64 * 1024;
/// Unit of the capsule sizes in Identify Controller.
pub const CAPSULE_UNIT_BYTES: u32 = 16;
/// In-capsule data of a command on the admin queue, fixed by NVMe/TCP Transport 1.0 section 3.3.2.
pub const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;
/// Most data of each half of a fused compare and write: one buffer has both, and behind the first
/// all that a capsule may bring.
pub const COMPARE_AND_WRITE_BYTES_MAX: u32 = LARGEST_BUFFER_BYTES / 2;
const _: () = assert!(COMPARE_AND_WRITE_BYTES_MAX + IN_CAPSULE_BYTES_LIMIT <= LARGEST_BUFFER_BYTES);
/// Largest Verify, as a power of two of pages, which is how VSL says it: 32 MiB, the most that the
/// 16 bits of NLB can say in blocks of 512 bytes.
pub const VERIFY_PAGES_SHIFT: u8 = 13;
/// Largest Verify in bytes.
pub const VERIFY_BYTES_MAX: u64 = (PAGE_BYTES as u64) << VERIFY_PAGES_SHIFT;
/// Most source ranges of a Copy.
pub const COPY_RANGES_MAX: u32 = 64;
/// Bytes at the start of a Copy's buffer for its list of ranges.
pub const COPY_LIST_BYTES: u32 = 4096;
/// Most data of a Copy, and of each of its ranges: what fits its buffer behind the list.
pub const COPY_BYTES_MAX: u32 = LARGEST_BUFFER_BYTES - COPY_LIST_BYTES;
/// Most namespaces of a subsystem: what a changed namespace list can name (NVMe Base 2.0 section
/// 5.16.1.5), and an ANA log of so many still fits any host's transfer size.
pub const NAMESPACES_LIMIT: u32 = 1024;
/// Asynchronous event requests that a controller holds; one more is refused.
pub const ASYNC_EVENTS_MAX: u8 = 4;
/// Abort commands of I/O commands that a controller has under way at once; one more is refused.
pub const ABORTS_MAX: u8 = 4;
/// Unit of the keep alive timer in units of 100 ms, as KAS says it: one second.
pub const KEEP_ALIVE_GRANULARITY: u16 = 10;

/// What a subsystem lets a host have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetLimits {
    /// Most entries of an I/O queue, [`QUEUE_ENTRIES_MIN`] to [`QUEUE_ENTRIES_LIMIT`].
    pub queue_entries_max: u16,
    /// Most I/O queues of a controller, 1 to [`IO_QUEUES_LIMIT`].
    pub io_queues_max: u16,
    /// Largest data transfer of a command in bytes: a power of two, [`PAGE_BYTES`] to
    /// [`TRANSFER_BYTES_LIMIT`].
    pub transfer_bytes_max: u32,
    /// Most in-capsule data of an I/O command in bytes, a multiple of [`CAPSULE_UNIT_BYTES`] up to
    /// [`IN_CAPSULE_BYTES_LIMIT`].
    pub in_capsule_bytes: u32,
}

/// Which limit is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// See [`TargetLimits::queue_entries_max`].
    #[error("queue size of {0} entries, not 2 to 1024")]
    QueueEntries(u16),
    /// See [`TargetLimits::io_queues_max`].
    #[error("{0} I/O queues, not 1 to 128")]
    IoQueues(u16),
    /// See [`TargetLimits::transfer_bytes_max`].
    #[error(
        "largest transfer of {0} bytes, not a power of two from 4096 to {TRANSFER_BYTES_LIMIT}"
    )]
    Transfer(u32),
    /// See [`TargetLimits::in_capsule_bytes`].
    #[error("in-capsule data of {0} bytes, not a multiple of 16 up to 65536")]
    InCapsule(u32),
}

impl Default for TargetLimits {
    fn default() -> Self {
        Self {
            queue_entries_max: QUEUE_ENTRIES_DEFAULT,
            io_queues_max: IO_QUEUES_LIMIT,
            transfer_bytes_max: TRANSFER_BYTES_DEFAULT,
            in_capsule_bytes: IN_CAPSULE_BYTES_DEFAULT,
        }
    }
}

impl TargetLimits {
    /// Holds every limit to its range.
    pub fn check(&self) -> Result<(), LimitError> {
        if !(QUEUE_ENTRIES_MIN..=QUEUE_ENTRIES_LIMIT).contains(&self.queue_entries_max) {
            return Err(LimitError::QueueEntries(self.queue_entries_max));
        }
        if !(1..=IO_QUEUES_LIMIT).contains(&self.io_queues_max) {
            return Err(LimitError::IoQueues(self.io_queues_max));
        }
        let transfer = self.transfer_bytes_max;
        let in_range = (PAGE_BYTES..=TRANSFER_BYTES_LIMIT).contains(&transfer);
        if !transfer.is_power_of_two() || !in_range {
            return Err(LimitError::Transfer(transfer));
        }
        let in_capsule = self.in_capsule_bytes;
        if !in_capsule.is_multiple_of(CAPSULE_UNIT_BYTES) || in_capsule > IN_CAPSULE_BYTES_LIMIT {
            return Err(LimitError::InCapsule(in_capsule));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: fn() -> TargetLimits = TargetLimits::default;

    #[test]
    fn the_defaults_are_legal() {
        assert_eq!(DEFAULT().check(), Ok(()));
    }

    #[test]
    fn queue_sizes_are_legal_up_to_both_ends() {
        let with = |queue_entries_max| TargetLimits { queue_entries_max, ..DEFAULT() }.check();
        assert_eq!(with(2), Ok(()));
        assert_eq!(with(1), Err(LimitError::QueueEntries(1)));
        assert_eq!(with(1024), Ok(()));
        assert_eq!(with(1025), Err(LimitError::QueueEntries(1025)));
    }

    #[test]
    fn queue_counts_are_legal_up_to_both_ends() {
        let with = |io_queues_max| TargetLimits { io_queues_max, ..DEFAULT() }.check();
        assert_eq!(with(1), Ok(()));
        assert_eq!(with(0), Err(LimitError::IoQueues(0)));
        assert_eq!(with(128), Ok(()));
        assert_eq!(with(129), Err(LimitError::IoQueues(129)));
    }

    #[test]
    fn transfer_sizes_are_powers_of_two_up_to_both_ends() {
        let with = |transfer_bytes_max| TargetLimits { transfer_bytes_max, ..DEFAULT() }.check();
        assert_eq!(with(4096), Ok(()));
        assert_eq!(with(2048), Err(LimitError::Transfer(2048)));
        assert_eq!(with(1 << 17), Ok(()));
        assert_eq!(with(1 << 18), Err(LimitError::Transfer(1 << 18)));
        assert_eq!(with(12288), Err(LimitError::Transfer(12288)));
    }

    #[test]
    fn in_capsule_sizes_are_whole_units_up_to_the_limit() {
        let with = |in_capsule_bytes| TargetLimits { in_capsule_bytes, ..DEFAULT() }.check();
        assert_eq!(with(0), Ok(()));
        assert_eq!(with(65536), Ok(()));
        assert_eq!(with(65552), Err(LimitError::InCapsule(65552)));
        assert_eq!(with(4097), Err(LimitError::InCapsule(4097)));
    }
}
