//! Get LBA Status: a host asks which blocks of a namespace are allocated, and its device answers.
//!
//! * [`command`]: what a command asks, and the list that it is answered with;
//! * [`known`]: what a namespace knows, and the thread that asks a device which blocks;
//! * [`looks`]: the looks that a core waits for;
//! * `asking`: from a command to its answer.
//!
//! The command is announced where the device of every namespace of the subsystem knows, and exists
//! nowhere else. Off the path of I/O. NVM Command Set 1.0 section 4.2.1.

mod asking;
pub(super) mod command;
pub mod known;
pub(super) mod looks;
#[cfg(test)]
mod tests;

pub use known::KnownAllocation;
