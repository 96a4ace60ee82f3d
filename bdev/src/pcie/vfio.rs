//! A drive over VFIO: the real platform.
//!
//! A container and a group for each controller, so that nothing of one can be reached by another.
//! Regions get device addresses of this module's own, from 4 GiB up, clear of the window that
//! interrupts are sent to; physical addresses are never known. Opened on control threads; vectors
//! are given and taken by cores that go to sleep. Kernel documentation `driver-api/vfio`.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use reactor::Nanos;
use reactor::dma::Region;
use reactor::dma::region::HUGE_PAGE_BYTES;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError, VfioOps};

use super::bar::Bar;
use super::error::PcieError;
use super::platform::{Mapping, Notify, Platform};
use super::sigbus::Guard;

/// First address of the device's.
const FIRST_ADDRESS: u64 = 1 << 32;
/// How long a pause between two looks at a register is.
const PAUSE: Duration = Duration::from_micros(100);
/// Longest BAR that is mapped: registers and doorbells are at its start.
const BAR_BYTES_MAX: u64 = 1 << 20;
/// Shortest BAR with registers and a doorbell.
const BAR_BYTES_MIN: u64 = 0x2000;

// VFIO's numbers of what a PCI device has (`linux/vfio.h`).
const REGION_BAR0: u32 = 0;
const REGION_CONFIG: u32 = 7;
const IRQ_MSIX: u32 = 2;
const IRQ_REQUEST: u32 = 4;
const IRQ_DATA_EVENTFD: u32 = 1 << 2;
const IRQ_ACTION_TRIGGER: u32 = 1 << 5;
/// Words before the eventfds of `struct vfio_irq_set`.
const IRQ_HEADER_WORDS: usize = 5;
/// Most vectors that are asked for: a queue each, and the admin queue's.
const VECTORS_MAX: u32 = super::options::QUEUES_MAX as u32 + 1;

/// Command register of the configuration space, and its bits.
const PCI_COMMAND: u64 = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;

nix::ioctl_write_ptr_bad!(set_irqs, nix::request_code_none!(b';', 110), u32);
nix::ioctl_none_bad!(reset_device, nix::request_code_none!(b';', 111));

/// A PCI function that is bound to vfio-pci.
pub struct Vfio {
    device: VfioDevice,
    container: Arc<VfioContainer>,
    /// The device's descriptor once more, to read and write its configuration space.
    file: File,
    config_offset: u64,
    bar: Bar,
    _guard: Guard,
    vectors: u16,
    wanted_back: EventFd,
    next_address: AtomicU64,
    mappings: Mutex<Vec<Mapping>>,
    started: Instant,
}

impl std::fmt::Debug for Vfio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vfio").field("bar", &self.bar).field("vectors", &self.vectors).finish()
    }
}

impl Vfio {
    /// Opens the function that sysfs has at `device`, which was checked ([`super::address`]).
    ///
    /// # Errors
    ///
    /// VFIO refuses it; each with what to do about it where something can be done.
    pub fn open(device: &Path, address: &str) -> Result<Vfio, PcieError> {
        let container = VfioContainer::new(None).map_err(|error| explain(error, address))?;
        let container = Arc::new(container);
        let operations: Arc<dyn VfioOps> = container.clone();
        let device =
            VfioDevice::new(device, operations, false).map_err(|error| explain(error, address))?;
        // SAFETY: the device has its descriptor open while it is borrowed here.
        let borrowed = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
        let file =
            borrowed.try_clone_to_owned().map(File::from).map_err(system("no descriptor"))?;
        let config_offset = device.get_region_offset(REGION_CONFIG);
        enable_bus(&file, config_offset).map_err(system("the PCI command register"))?;
        let (bar, guard) = map_bar(&device, &file)?;
        let vectors = device.get_irq_info(IRQ_MSIX).map_or(0, |info| info.count);
        let vectors = u16::try_from(vectors.min(VECTORS_MAX)).expect("few vectors");
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wanted_back =
            EventFd::from_flags(flags).map_err(io::Error::from).map_err(system("no descriptor"))?;
        let opened = Vfio {
            device,
            container,
            file,
            config_offset,
            bar,
            _guard: guard,
            vectors,
            wanted_back,
            next_address: AtomicU64::new(FIRST_ADDRESS),
            mappings: Mutex::new(Vec::new()),
            started: Instant::now(),
        };
        opened.start_interrupts().map_err(system("the interrupts of the device"))?;
        Ok(opened)
    }

    /// Turns MSI-X on, with nobody told of any vector; and has us told when we are to leave.
    fn start_interrupts(&self) -> io::Result<()> {
        if self.vectors > 0 {
            let nobody = vec![-1; usize::from(self.vectors)];
            self.set_eventfds(IRQ_MSIX, 0, &nobody)?;
        }
        if self.device.get_irq_info(IRQ_REQUEST).is_some_and(|info| info.count > 0) {
            self.set_eventfds(IRQ_REQUEST, 0, &[self.wanted_back.as_fd().as_raw_fd()])?;
        }
        Ok(())
    }

    /// Gives vectors of an index, from `start` on, their eventfds; -1 takes one away.
    fn set_eventfds(&self, index: u32, start: u32, eventfds: &[i32]) -> io::Result<()> {
        let len_bytes = (IRQ_HEADER_WORDS + eventfds.len()) * size_of::<u32>();
        let too_many = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let mut words = Vec::with_capacity(IRQ_HEADER_WORDS + eventfds.len());
        words.push(u32::try_from(len_bytes).map_err(too_many)?);
        words.push(IRQ_DATA_EVENTFD | IRQ_ACTION_TRIGGER);
        words.push(index);
        words.push(start);
        words.push(u32::try_from(eventfds.len()).map_err(too_many)?);
        words.extend(eventfds.iter().map(|eventfd| eventfd.cast_unsigned()));
        // SAFETY: the words are a `struct vfio_irq_set` with its eventfds, as long as it says.
        unsafe { set_irqs(self.file.as_raw_fd(), words.as_ptr()) }?;
        Ok(())
    }

    fn mappings(&self) -> MutexGuard<'_, Vec<Mapping>> {
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_away(&self, mapping: Mapping) -> io::Result<()> {
        self.container
            .vfio_dma_unmap(mapping.address, mapping.len_bytes)
            .map_err(|error| io::Error::other(error.to_string()))
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> PcieError {
    move |source| PcieError::System { what, source }
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

/// Lets the device answer at its BAR and reach memory.
fn enable_bus(file: &File, config_offset: u64) -> io::Result<()> {
    let mut command = [0; 2];
    file.read_exact_at(&mut command, config_offset + PCI_COMMAND)?;
    let command = u16::from_le_bytes(command) | COMMAND_MEMORY | COMMAND_MASTER;
    file.write_all_at(&command.to_le_bytes(), config_offset + PCI_COMMAND)
}

fn map_bar(device: &VfioDevice, file: &File) -> Result<(Bar, Guard), PcieError> {
    let size = device.get_region_size(REGION_BAR0).min(BAR_BYTES_MAX);
    if size < BAR_BYTES_MIN {
        return Err(PcieError::Unsupported("its BAR is too short for its doorbells"));
    }
    let len_bytes = u32::try_from(size).expect("at most BAR_BYTES_MAX");
    let length = NonZeroUsize::new(len_bytes as usize).expect("at least BAR_BYTES_MIN");
    let offset = i64::try_from(device.get_region_offset(REGION_BAR0))
        .map_err(|_| PcieError::Unsupported("its BAR is nowhere"))?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, offset) }
        .map_err(io::Error::from)
        .map_err(system("its BAR cannot be mapped"))?;
    let guard = Guard::new(base.as_ptr().addr(), length.get());
    let guard = guard.map_err(system("its BAR cannot be guarded"))?;
    let base: NonNull<u8> = base.cast();
    // SAFETY: mapped until `Vfio` is dropped, aligned to a page; accesses to registers that are
    // gone are survived by the guard.
    Ok((unsafe { Bar::new(base, len_bytes) }, guard))
}

impl Drop for Vfio {
    fn drop(&mut self) {
        let base = NonNull::new(self.bar.base()).expect("it was mapped");
        // SAFETY: nobody has a copy of the BAR without holding the platform, and it is going.
        let _ = unsafe { munmap(base.cast(), self.bar.len_bytes() as usize) };
    }
}

impl Platform for Vfio {
    fn bar(&self) -> Bar {
        self.bar
    }

    fn map(&self, region: &Region) -> io::Result<Mapping> {
        let len_bytes = region.len_bytes();
        // Relaxed: the range only has to be one's own. Regions are multiples of 2 MiB.
        let address = self.next_address.fetch_add(len_bytes as u64, Ordering::Relaxed);
        debug_assert!(address.is_multiple_of(HUGE_PAGE_BYTES as u64), "aligned to a hugepage");
        let mapping = Mapping { address, len_bytes };
        let mut mappings = self.mappings();
        // SAFETY: the region stays mapped for the life of the process. What references there are
        // to its memory are made by the owner of a buffer, while no I/O has the buffer, and the
        // device writes only where an I/O told it to.
        unsafe { self.container.vfio_dma_map(address, len_bytes, region.base().as_ptr()) }
            .map_err(|error| io::Error::other(error.to_string()))?;
        mappings.push(mapping);
        Ok(mapping)
    }

    fn unmap(&self, mapping: Mapping) -> io::Result<()> {
        let mut mappings = self.mappings();
        let Some(index) = mappings.iter().position(|one| *one == mapping) else { return Ok(()) };
        self.take_away(mapping)?;
        mappings.swap_remove(index);
        Ok(())
    }

    fn revoke(&self) -> io::Result<()> {
        let mut mappings = self.mappings();
        while let Some(mapping) = mappings.last() {
            self.take_away(*mapping)?;
            mappings.pop();
        }
        Ok(())
    }

    fn vectors(&self) -> u16 {
        self.vectors
    }

    fn notify(&self, vector: u16, whom: Notify<'_>) -> io::Result<()> {
        let eventfd = match whom {
            Notify::Nobody => -1,
            Notify::Eventfd(eventfd) => eventfd.as_raw_fd(),
        };
        self.set_eventfds(IRQ_MSIX, u32::from(vector), &[eventfd])
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: a request without an argument, on the device's descriptor.
        unsafe { reset_device(self.file.as_raw_fd()) }?;
        enable_bus(&self.file, self.config_offset)
    }

    fn is_wanted_back(&self) -> bool {
        self.wanted_back.read() != Err(Errno::EAGAIN)
    }

    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn pause(&self) {
        std::thread::sleep(PAUSE);
    }
}
