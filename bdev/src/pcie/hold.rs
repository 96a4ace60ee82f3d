//! What this process holds of a PCI function over VFIO: a device of a group, or a device file.
//!
//! Kept by [`super::vfio`] behind its lock, and given up as a whole: once it is dropped the kernel
//! has the function back. A container and a group, or an address space, for each controller, so
//! that nothing of one can be reached by another.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioOps};

use super::cdev::{self, Cdev};
use super::error::PcieError;

/// The two ways to hold a function.
enum Way {
    // The device goes before its container.
    Group { device: VfioDevice, container: Arc<VfioContainer> },
    Cdev(Cdev),
}

/// A function that is held.
pub(super) struct Hold {
    way: Way,
    /// The device's descriptor once more, for its configuration space and its interrupts.
    file: File,
}

impl Hold {
    /// Takes the function that sysfs has at `device`: through its group, or where the kernel has
    /// no groups through its own file.
    ///
    /// # Errors
    ///
    /// VFIO refuses it; each with what to do about it where something can be done.
    pub(super) fn take(device: &Path, address: &str) -> Result<Hold, PcieError> {
        if let Some(file) = cdev::instead_of_group(Path::new("/"), device) {
            let cdev = Cdev::open(&file, address)?;
            let file = cdev.device().try_clone().map_err(no_descriptor)?;
            return Ok(Hold { way: Way::Cdev(cdev), file });
        }
        let container = VfioContainer::new(None).map_err(|error| explain(error, address))?;
        let container = Arc::new(container);
        let operations: Arc<dyn VfioOps> = container.clone();
        let device =
            VfioDevice::new(device, operations, false).map_err(|error| explain(error, address))?;
        // SAFETY: the device has its descriptor open while it is borrowed here.
        let borrowed = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
        let file = borrowed.try_clone_to_owned().map(File::from).map_err(no_descriptor)?;
        Ok(Hold { way: Way::Group { device, container }, file })
    }

    /// The device's descriptor.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Offset in the device's file, and length, of one of its regions.
    ///
    /// # Errors
    ///
    /// It has none of this number.
    pub(super) fn region(&self, index: u32) -> io::Result<(u64, u64)> {
        match &self.way {
            Way::Group { device, .. } => {
                Ok((device.get_region_offset(index), device.get_region_size(index)))
            }
            Way::Cdev(cdev) => cdev.region(index),
        }
    }

    /// How many interrupts it has of an index.
    pub(super) fn interrupts(&self, index: u32) -> u32 {
        match &self.way {
            Way::Group { device, .. } => device.get_irq_info(index).map_or(0, |info| info.count),
            Way::Cdev(cdev) => cdev.interrupts(index),
        }
    }

    /// Shows memory to the device.
    ///
    /// # Safety
    /// The memory stays mapped for as long as the device knows it, and no reference to it is made
    /// while the device may use it.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses.
    pub(super) unsafe fn map(
        &self,
        address: u64,
        len_bytes: usize,
        memory: *mut u8,
    ) -> io::Result<()> {
        match &self.way {
            // SAFETY: as the caller promises.
            Way::Group { container, .. } => unsafe {
                container.vfio_dma_map(address, len_bytes, memory).map_err(other)
            },
            // SAFETY: as the caller promises.
            Way::Cdev(cdev) => unsafe { cdev.map(address, len_bytes, memory) },
        }
    }

    /// Takes memory away from the device.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses.
    pub(super) fn unmap(&self, address: u64, len_bytes: usize) -> io::Result<()> {
        match &self.way {
            Way::Group { container, .. } => {
                container.vfio_dma_unmap(address, len_bytes).map_err(other)
            }
            Way::Cdev(cdev) => cdev.unmap(address, len_bytes),
        }
    }
}

fn other(error: VfioError) -> io::Error {
    io::Error::other(error.to_string())
}

fn no_descriptor(source: io::Error) -> PcieError {
    PcieError::System { what: "no descriptor", source }
}

/// What VFIO's refusal means.
fn explain(error: VfioError, address: &str) -> PcieError {
    let address = address.to_owned();
    match error {
        VfioError::OpenContainer(source) => {
            PcieError::Permission { path: String::from("/dev/vfio/vfio"), source }
        }
        VfioError::OpenGroup(source, group) => match source.raw_os_error() {
            Some(libc::EBUSY) => PcieError::InUse { address },
            _ => PcieError::Permission { path: format!("/dev/vfio/{group}"), source },
        },
        VfioError::GroupViable => PcieError::SharedGroup {
            address,
            group: String::from("of it"),
            others: String::from("devices of the kernel"),
        },
        VfioError::ContainerSetIOMMU(source) => PcieError::System {
            what: "the IOMMU cannot be used (without interrupt remapping it takes \
                   vfio_iommu_type1.allow_unsafe_interrupts=1)",
            source: io::Error::from_raw_os_error(source.errno()),
        },
        other => PcieError::System {
            what: "VFIO refuses the device",
            source: io::Error::other(other.to_string()),
        },
    }
}
