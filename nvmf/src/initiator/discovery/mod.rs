//! Discovery as a client: at which addresses a subsystem is, from what discovery controllers say.
//!
//! [`Discovery`] asks one controller after the other, and those that they refer to, until one names
//! the subsystem; [`reader`] has one connection and reads one log. One-shot: connected, read, left.
//! Driven by its owner's polls like a [`super::Connector`], on the thread of the admin queues; it
//! never blocks. Every record is untrusted. NVMe Base 2.0 sections 3.1.2.3 and 5.16.1.23, NVMe/TCP
//! Transport 1.0 section 3.6.

mod reader;
mod walk;

pub use walk::{CONTROLLERS_MAX, Discovery, PORTALS_MAX};

/// Most records that are read of a log: as many as our own target has at most.
pub const RECORDS_MAX: u64 = 4096;
/// How often a log that changed while it was read is begun anew.
pub const READS_MAX: u32 = 8;
