//! The seam between the driver and the machine.
//!
//! Implemented over VFIO for drives, and by the software controller. Called by control threads
//! and the supervisor, and by a core only when it opens a queue pair or is about to sleep: nothing
//! of an I/O crosses it, so it may be `dyn`.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use reactor::Nanos;
use reactor::dma::Region;

use super::bar::Bar;
use super::numa::Node;

/// A region as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The device's address of its first byte, aligned to 2 MiB.
    pub address: u64,
    /// Length in bytes.
    pub len_bytes: usize,
}

/// Who is told when a vector fires.
#[derive(Clone, Copy, Debug)]
pub enum Notify<'a> {
    /// Nobody: what fires is kept by the device until somebody is.
    Nobody,
    /// This eventfd.
    Eventfd(BorrowedFd<'a>),
}

/// A PCI function with an NVMe controller, and this process's hold on it.
pub trait Platform: Debug + Send + Sync {
    /// Where the registers are, for as long as the platform lives.
    fn bar(&self) -> Bar;

    /// Shows a region, which is never unmapped from the process, to the device.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses: too many mappings, too little memory that may be locked.
    fn map(&self, region: &Region) -> io::Result<Mapping>;

    /// Takes a region away from the device.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses, and the device still has it.
    fn unmap(&self, mapping: Mapping) -> io::Result<()>;

    /// Takes everything away from the device: afterwards it can reach no memory of the process,
    /// whatever it does, until something is mapped again.
    ///
    /// # Errors
    ///
    /// A mapping that could not be taken away.
    fn revoke(&self) -> io::Result<()>;

    /// How many interrupt vectors there are; vector 0 is the admin queue's.
    fn vectors(&self) -> u16;

    /// Says who is told of a vector. What fired while nobody was is told at once.
    ///
    /// # Errors
    ///
    /// The system refuses.
    fn notify(&self, vector: u16, whom: Notify<'_>) -> io::Result<()>;

    /// Resets the function from outside.
    ///
    /// # Errors
    ///
    /// The device or the system has no such reset.
    fn reset(&self) -> io::Result<()>;

    /// True when the system wants the device back (it is being unplugged or unbound).
    fn is_wanted_back(&self) -> bool {
        false
    }

    /// Fires when the answer of [`Platform::is_wanted_back`] changes; none when it never does.
    fn removal(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Gives the function back to the system: after this its registers read as all ones, and it can
    /// be neither mapped for nor told of. After [`Platform::revoke`].
    ///
    /// # Errors
    ///
    /// Memory is still mapped for it, or its registers cannot be put away.
    fn surrender(&self) -> io::Result<()> {
        Ok(())
    }

    /// The NUMA node of the device, where its queues are to be.
    fn node(&self) -> Option<Node> {
        None
    }

    /// A clock for deadlines of control threads.
    fn now(&self) -> Nanos;

    /// Lets a little time pass between two looks at a register.
    fn pause(&self);
}
