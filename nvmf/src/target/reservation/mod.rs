//! Reservations wired into the target: from a host's command to the rights of every queue.
//!
//! The machine, the [`bdev::reservation::Keeper`] and the access tables are bdev's and know no
//! NVMe. Here is what a target adds:
//!
//! * `asking`: from a command to its answer, by way of the home core;
//! * [`command`]: which commands there are, what data they carry, and which class of access each
//!   I/O command needs;
//! * [`kept`]: what a namespace starts with, and the thread that stores its record;
//! * [`keeping`]: the keeper on the home core, with those who ask;
//! * [`rights`]: the tables on each core, the right of each queue, what a core does about a new
//!   table;
//! * [`notifications`]: log page 80h of a controller and its masks.
//!
//! On the path of an I/O there is one test of a bit, in the queue's way to the namespace: when its
//! plan is made, and again before it goes to the device. NVMe Base 2.0 sections 7.2 to 7.5 and
//! 8.19.

mod asking;
pub(super) mod command;
pub(super) mod keeping;
pub mod kept;
pub(super) mod notifications;
pub(super) mod rights;
#[cfg(test)]
mod tests;

pub use kept::{KeptReservations, SaveFailures};
