//! Local NVMe drives, driven from this process: the kernel is only asked for the mapping.
//!
//! How it is built, from the drive up:
//!
//! * [`platform`] is the seam to the machine: where the registers are, how a region of memory is
//!   shown to the device, who is told of its interrupts, how it is reset and cut off. [`vfio`] is
//!   the real one, with [`address`] and [`sigbus`]; `software` is a controller in this process,
//!   for tests, the simulator and measurements. Registers and queues are memory in both, read and
//!   written by the same few instructions ([`bar`], [`memory`]), so that the seam is crossed for
//!   none of an I/O's steps.
//! * [`admin`] sends one admin command at a time; [`bring_up`] takes a controller from reset to
//!   ready with its I/O queues made; [`identity`] is what it said of itself, validated.
//! * `reserve` sends reservation commands for whoever fences other hosts off.
//! * [`supervisor`] has a control thread for each controller: it owns the admin queue, takes events
//!   (errors, health, removal), aborts what is late and resets what hangs. Nothing of an I/O goes
//!   through it.
//! * [`queue_pair`] is a core's [`crate::QueuePair`] over one I/O queue pair ([`ring`]): PRP lists
//!   ([`prp`]) from memory of its own, one doorbell a flush, one a batch of completions.
//! * [`device`] is one namespace of a [`controller`] as a [`crate::BlockDevice`].
//!
//! Who may touch what. All I/O queues are made when the controller is attached; a core that opens
//! a queue pair takes a free one ([`port`]) and shares with the supervisor a few atomic words. The
//! supervisor changes the controller's [`port::Phase`]: *live*; *halted* while it resets, when
//! every open queue pair first says that it has stopped; or *dead*. After a halt a queue pair
//! starts over with empty rings and what it had in flight is sent again, or failed, as the
//! [`Options`] say; one with nothing in flight is not waited for, and starts over when it next has.
//! Nothing in flight is given back before the device can no longer reach its memory: the controller
//! was seen disabled, or its IOMMU mappings are gone.
//!
//! Sleep. A queue's vector has no eventfd while its core polls, so the kernel takes no interrupt;
//! `arm` gives it one, looks at the ring once more, and the first poll after takes it away again.
//! VFIO offers no mask for a vector of MSI-X, and the controller's own mask registers must not be
//! used with MSI-X (NVMe Base 2.0 section 3.1.3.3).
//!
//! What the device writes is not trusted: completions are copied once and checked (phase, command,
//! generation), Identify data is bounded, and a device that breaks the protocol is reset, and given
//! up when it does so again.

mod address;
pub mod admin;
mod ana;
mod attached;
pub mod bar;
pub mod bring_up;
mod cdev;
#[cfg(test)]
mod chaos_tests;
mod commands;
pub mod controller;
pub mod device;
mod encode;
mod error;
mod event;
#[cfg(test)]
mod fault_tests;
mod hold;
pub mod identity;
mod layout;
pub mod memory;
pub mod numa;
mod options;
pub mod platform;
pub mod port;
mod prp;
pub mod queue_pair;
#[cfg(test)]
mod region_tests;
mod regions;
mod reserve;
#[cfg(test)]
mod reserve_tests;
mod ring;
mod sigbus;
#[cfg(test)]
mod sleep_tests;
#[cfg(any(test, feature = "software-nvme"))]
pub mod software;
mod spare;
#[cfg(test)]
mod stepped;
pub mod supervisor;
#[cfg(test)]
mod supervisor_tests;
#[cfg(test)]
mod tests;
mod vfio;

pub use attached::{open, share};
pub use controller::Controller;
pub use device::PcieDevice;
pub use error::PcieError;
pub use event::{ControllerEvent, EventCounts, Listener, ResetReason, listen};
pub use options::{Options, Recovery};
