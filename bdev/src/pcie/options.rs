//! What a controller's user decides, and the limits that have names.

use std::time::Duration;

/// Entries of an I/O submission or completion queue, a power of two; fewer where the controller
/// allows no more. One entry stays free, so a queue has one command less in the device.
pub const QUEUE_ENTRIES: u16 = 256;

/// Entries of the admin queues.
pub const ADMIN_ENTRIES: u16 = 32;

/// I/O queue pairs of one controller at most: more cores than that share no device.
pub const QUEUES_MAX: u16 = 64;

/// Longest transfer of one command: no front door's buffer is larger than half of it, and its list
/// of pages stays small.
pub const TRANSFER_BYTES_MAX: u32 = 256 << 10;

/// The memory page that the controller is told to use (CC.MPS 0).
pub const PAGE_BYTES: u32 = 4096;

/// Namespaces of one controller that are looked at.
pub const NAMESPACES_MAX: usize = 128;

/// Times that one I/O is sent again after a reset before it fails.
pub const RETRIES_MAX: u8 = 3;

/// Resets in a row without an I/O completing in between before a controller is given up.
pub const RESETS_MAX: u32 = 3;

/// Regions of memory that one controller can be shown.
pub const REGIONS_MAX: usize = 256;

/// Asynchronous event requests that wait in the controller at most.
pub const EVENT_REQUESTS_MAX: u8 = 4;

/// Events that wait to be taken; later ones are counted and dropped.
pub const EVENTS_MAX: usize = 64;

/// What becomes of I/O in flight when its controller is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// It is sent again, at most [`RETRIES_MAX`] times.
    Retry,
    /// It fails with a path error, for a layer above that knows another path.
    Fail,
}

/// How a controller is used.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// I/O queue pairs to ask for: one for each core.
    pub queues: u16,
    /// An I/O that takes longer is aborted.
    pub io_timeout: Duration,
    /// If the abort does not end it within this time, the controller is reset.
    pub abort_timeout: Duration,
    /// An admin command that takes longer means a reset.
    pub admin_timeout: Duration,
    /// An open queue pair that does not answer a halt in this time is not waited for: the
    /// controller is given up.
    pub halt_timeout: Duration,
    /// How often the supervisor looks whether the controller is still there and well.
    pub health_interval: Duration,
    /// What becomes of I/O in flight at a reset, where a device does not say it of its own.
    pub recovery: Recovery,
    /// Who this host is towards drives that keep reservations; without it they are not used.
    pub host_id: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            queues: 4,
            // The kernel's drivers wait as long for an I/O; slow drives at garbage collection
            // take seconds.
            io_timeout: Duration::from_secs(30),
            abort_timeout: Duration::from_secs(5),
            admin_timeout: Duration::from_secs(60),
            halt_timeout: Duration::from_secs(5),
            health_interval: Duration::from_secs(1),
            recovery: Recovery::Retry,
            host_id: None,
        }
    }
}
