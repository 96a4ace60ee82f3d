//! The admin side of a controller: every command of the admin queue but Connect, answered from
//! data alone.
//!
//! [`AdminController`] is the state of one controller. It lives beside the connection of its admin
//! queue, on that core, off the path of I/O, so it may allocate (bounded). It has no socket, no
//! thread and no clock; the connection hands in commands and time, and acts on the [`Effect`].
//! [`connect`] judges a Connect command before there is a controller. NVMe Base 2.0 chapters 3, 5
//! and 6, NVM Command Set 1.0, NVMe/TCP Transport 1.0.

mod changed_namespaces;
pub mod connect;
pub mod controller;
pub mod discovery;
pub mod error_log;
mod events;
mod features;
mod identify;
mod identify_controller;
mod identify_namespace;
mod keep_alive;
mod log_page;
mod properties;
#[cfg(test)]
mod tests;
pub mod transfer;

pub use connect::{
    ConnectRequest, FlowControl, Refusal, RequestedController, check_connect, connect_transfer,
};
pub use controller::{
    AdminController, AdminInput, AdminOutcome, ControllerOptions, Effect, HeldCompletion,
};
pub use discovery::{Directory, DirectoryEntry};
pub use error_log::ErrorReport;

pub use properties::{ControllerState, QUIESCE_TIMEOUT};
pub use transfer::{Direction, Placement, Transfer, transfer_of};
