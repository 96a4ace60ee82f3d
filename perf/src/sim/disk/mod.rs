//! A simulated disk: what keeps blocks, loses some of them, and answers late, wrongly or never.
//!
//! [`Platter`] is the disk itself and outlives everything that uses it; [`Disk`] is the device by
//! which a nexus has it open, with queue pairs of [`queue_pair`]. Time comes from the run, which
//! calls [`Platter::advance`] whenever the clock has moved. [`Drive`] is another device of one:
//! an NVMe drive that the real driver drives.

mod device;
mod drive;
mod gate;
mod image;
mod platter;
mod queue_pair;
#[cfg(test)]
mod tests;

pub use device::Disk;
pub use drive::Drive;
pub use gate::{Check, Party};
pub use image::Image;
pub use platter::{Counts, Faults, Latency, Platter, SharedPlatter};
