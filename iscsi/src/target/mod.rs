//! The iSCSI target: one [`TargetCore`] a reactor, which together serve the targets.
//!
//! How it is built, after the model of `nvmf::target`. Every core runs the whole path for the
//! connections that it was given: the stream is framed in `receive`, requests are taken in
//! `command`, `data` and `manage`, I/O goes to the core's own queue pair of the unit ([`roots`]),
//! answers are built in `respond` and sent in `send` with one gathered call. What a CDB means is
//! `bdev::scsi`'s; data goes from the socket into the buffer that the device writes from, and from
//! the buffer that it has read into to the socket. A session has one connection; which sessions
//! there are is known to all cores by [`sessions`], asked at login and at the end only.
//!
//! RFC 7143, error recovery level 0.

mod command;
mod connection;
pub mod core;
mod data;
pub mod description;
mod manage;
mod receive;
mod respond;
mod roots;
mod send;
mod sessions;
mod slot;
#[cfg(test)]
mod tests;

pub use core::{Message, TargetCore};
pub use description::{Initiators, Target, TargetDescription};
pub use sessions::Sessions;
