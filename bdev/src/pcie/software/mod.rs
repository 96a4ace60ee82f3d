//! An NVMe controller in this process, for tests, the simulator and measurements.
//!
//! Its registers are ordinary memory that the driver reads and writes as it would a drive's, so it
//! notices a doorbell when it is stepped: by the test itself ([`SoftwareController::step`]), by the
//! driver's own pauses while it waits for an admin command, or by a thread
//! ([`SoftwareController::run`]). It keeps to NVMe Base 2.0 and the NVM Command Set 1.0 as far as
//! the driver goes, checks what the driver does ([`SoftwareController::violations`]), and
//! misbehaves when told to ([`faults`]).
//!
//! [`host`] is the driver's memory as the device reaches it: only what was mapped, at addresses
//! that are not the process's own; its blocks are its own, or a [`Medium`]'s.
//! [`core`] has the registers and queues, [`admin`] and [`io`] the
//! commands, [`platform`] the seam that the driver holds.

mod admin;
mod core;
pub mod faults;
mod host;
mod io;
mod medium;
mod platform;
mod reserve;
mod runner;

pub use core::Counts;
pub use faults::Fault;
pub use medium::{Medium, MediumCommand, MediumEnd};
pub use platform::SoftwareController;
pub use runner::Runner;

use uuid::Uuid;

use crate::nvme::log_page::AnaState;

/// A namespace of a software controller.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceConfig {
    /// Bytes a block, 512 to 4096.
    pub block_bytes: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// Its identity.
    pub uuid: Option<Uuid>,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// It is.
    Present,
    /// It is not.
    Absent,
}

/// In which order commands end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they came, each in the step that sees it.
    Arrival,
    /// By chance, some later than others; the seed repeats it.
    Shuffled(u64),
}

/// What a software controller is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// Namespaces, numbered from 1.
    pub namespaces: Vec<NamespaceConfig>,
    /// I/O queue pairs that it grants.
    pub queues: u16,
    /// Largest queue.
    pub queue_entries_max: u16,
    /// MDTS: longest transfer, as a shift of 4 KiB; 0 for no limit.
    pub transfer_shift: u8,
    /// VSL: longest Verify, as a shift of 4 KiB; 0 for no limit.
    pub verify_shift: u8,
    /// Doorbells in memory.
    pub shadow_doorbells: Feature,
    /// A volatile write cache.
    pub write_cache: Feature,
    /// Write Zeroes, Compare, Verify, Dataset Management.
    pub optional_commands: Feature,
    /// Write Zeroes deallocates, and what is deallocated reads as zeroes.
    pub zeroing_unmap: Feature,
    /// Reservations of its first namespace.
    pub reservations: Feature,
    /// ANA groups and how it reaches them; none where it does not report that.
    pub access: Vec<(u32, AnaState)>,
    /// Interrupt vectors.
    pub vectors: u16,
    /// Steps from CC.EN to CSTS.RDY.
    pub ready_steps: u32,
    /// In which order commands end.
    pub order: Order,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            namespaces: vec![NamespaceConfig { block_bytes: 512, blocks: 1000, uuid: None }],
            queues: 4,
            queue_entries_max: 256,
            transfer_shift: 5,
            verify_shift: 6,
            shadow_doorbells: Feature::Absent,
            write_cache: Feature::Present,
            optional_commands: Feature::Present,
            zeroing_unmap: Feature::Present,
            reservations: Feature::Absent,
            access: Vec::new(),
            vectors: 8,
            ready_steps: 2,
            order: Order::Arrival,
        }
    }
}
