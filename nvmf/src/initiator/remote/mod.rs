//! A namespace of a remote target as a block device: connected, watched, and connected again.
//!
//! One controller a device and process. Its admin queue belongs to a [`Supervisor`], which
//! connects, keeps alive, hears of changes, aborts, resets and reconnects; supervisors run on one
//! control thread of the process ([`hub`]), or are polled by a test or the simulator. Each core
//! that opens the device has one I/O queue of that controller ([`queue_pair`]), joined at its first
//! I/O. A connection that breaks, on whatever core, ends the controller for all: what was in flight
//! ends with a path status, and a new session begins under the next number ([`bdev::session`]).
//!
//! Where the subsystem is, is said by the options or found out ([`super::discovery`]); a session's
//! address belongs to what its queues need to join.
//!
//! After each reconnect the namespace is compared with what was opened ([`known`]); another one is
//! refused. Whether the target was restarted in between is known of our own targets, which say
//! which run they are; any other counts as restarted.
//!
//! Reservations are commands of I/O queues and no I/O: the supervisor sends them ([`reserve`]).
//!
//! NVMe Base 2.0 sections 3.5 (initialisation), 3.9 (keep alive), 5.2 (events), 8.1 (ANA).

mod attic;
mod device;
mod event;
mod hub;
mod known;
mod options;
mod queue_pair;
mod reserve;
mod route;
mod shared;
mod supervisor;
mod watch;

pub use device::{OpenRemoteError, Opening, RemoteDevice};
pub use event::{LossReason, Mismatch, RemoteEvent};
pub use options::{
    ABORT_GRACE, IO_TIMEOUT_DEFAULT, IO_TIMEOUT_MAX, IO_TIMEOUT_MIN, JOIN_TIMEOUT, RECONNECT_FIRST,
    RECONNECT_LONGEST, RemoteOptions, WAIT_MAX, WhenLost,
};
pub use reserve::REQUESTS_MAX;
pub use supervisor::Supervisor;
