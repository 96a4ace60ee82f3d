//! The NVMe-oF/TCP target: one [`TargetCore`] a reactor, which together serve the subsystems.
//!
//! How it is built. Every core runs the whole path for the connections that it was given: the
//! stream is parsed in [`receive`], a command planned in [`command`], an I/O submitted to the
//! core's own queue pair of the namespace ([`root`]), the answer built in [`respond`] and sent in
//! [`send`] with one gathered call a connection and pass. Nothing on that path is shared between
//! cores. What is, has one home: the first core keeps the [`home::Home`], which gives out
//! controller ids and knows which queues exist; the others ask it by [`message::Message`] when a
//! host connects or goes away. The state of a controller lives beside its admin queue
//! ([`admin`]), on whichever core has that connection.
//!
//! Governed by NVMe Base 2.0, NVMe over Fabrics and the NVMe/TCP Transport 1.0 specification.

mod abort;
#[cfg(test)]
mod abort_tests;
pub mod admin;
mod admin_command;
#[cfg(test)]
mod admin_command_tests;
pub mod allocation;
mod answers;
mod apply;
#[cfg(test)]
mod apply_tests;
mod buffers;
mod closing;
mod command;
mod command_ids;
mod connection;
pub mod core;
mod core_state;
mod data_pointer;
pub mod description;
mod dispatch;
mod fused;
#[cfg(test)]
mod fused_tests;
#[cfg(any(test, fuzzing))]
pub mod harness;
mod home;
#[cfg(any(test, fuzzing))]
pub mod hostile;
mod io_command;
pub mod limits;
mod message;
pub mod namespace;
mod pace;
mod receive;
mod request;
pub mod reservation;
#[cfg(test)]
mod reset_tests;
mod respond;
mod root;
pub mod roots;
mod send;
#[cfg(test)]
mod session_tests;
pub mod statistics;
#[cfg(test)]
mod step_tests;
mod steps;
pub mod subsystem;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transfer_tests;
mod work_list;

pub use apply::ApplyError;
pub use core::TargetCore;
pub use description::{DigestPolicy, Portal, PortalId, SubsystemId, TargetDescription};
pub use message::Message;
