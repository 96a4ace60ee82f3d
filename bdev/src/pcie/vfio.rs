//! A drive over VFIO: the real platform.
//!
//! What is held of the function ([`super::hold`]) is behind a lock, to be given back as a whole
//! when the system wants the function: the registers are then a page of all ones, and every call
//! that needs the function is refused. Regions get device addresses of this module's own, from
//! 4 GiB up, clear of the window that interrupts are sent to; physical addresses are never known.
//! Opened on control threads; vectors are given and taken by cores that go to sleep. Kernel
//! documentation `driver-api/vfio`.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use reactor::Nanos;
use reactor::dma::Region;
use reactor::dma::region::HUGE_PAGE_BYTES;

use super::bar::Bar;
use super::error::PcieError;
use super::hold::Hold;
use super::numa::{self, Node};
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
    held: Mutex<Held>,
    config_offset: u64,
    bar: Bar,
    _guard: Guard,
    vectors: u16,
    wanted_back: EventFd,
    next_address: AtomicU64,
    node: Option<Node>,
    started: Instant,
}

/// What there is of the function.
struct Held {
    /// None once the system has it back.
    hold: Option<Hold>,
    mappings: Vec<Mapping>,
}

impl Held {
    fn hold(&self) -> io::Result<&Hold> {
        self.hold.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn take_away(&self, mapping: Mapping) -> io::Result<()> {
        self.hold()?.unmap(mapping.address, mapping.len_bytes)
    }
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
        let hold = Hold::take(device, address)?;
        let (config_offset, _) =
            hold.region(REGION_CONFIG).map_err(system("the configuration space"))?;
        enable_bus(hold.file(), config_offset).map_err(system("the PCI command register"))?;
        let (bar, guard) = map_bar(&hold)?;
        let vectors = hold.interrupts(IRQ_MSIX).min(VECTORS_MAX);
        let vectors = u16::try_from(vectors).expect("few vectors");
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wanted_back =
            EventFd::from_flags(flags).map_err(io::Error::from).map_err(system("no descriptor"))?;
        let opened = Vfio {
            held: Mutex::new(Held { hold: Some(hold), mappings: Vec::new() }),
            config_offset,
            bar,
            _guard: guard,
            vectors,
            wanted_back,
            next_address: AtomicU64::new(FIRST_ADDRESS),
            node: numa::of_device(device),
            started: Instant::now(),
        };
        opened.start_interrupts().map_err(system("the interrupts of the device"))?;
        Ok(opened)
    }

    /// Turns MSI-X on, with nobody told of any vector; and has us told when we are to leave.
    fn start_interrupts(&self) -> io::Result<()> {
        let held = self.held();
        let hold = held.hold()?;
        if self.vectors > 0 {
            let nobody = vec![-1; usize::from(self.vectors)];
            set_eventfds(hold.file(), IRQ_MSIX, 0, &nobody)?;
        }
        if hold.interrupts(IRQ_REQUEST) > 0 {
            set_eventfds(hold.file(), IRQ_REQUEST, 0, &[self.wanted_back.as_fd().as_raw_fd()])?;
        }
        Ok(())
    }

    /// Puts ordinary memory in the place of the registers, which would keep the device's file open.
    /// It reads as all ones, as the registers of a device do that is gone.
    fn replace_bar(&self) -> io::Result<()> {
        let length = NonZeroUsize::new(self.bar.len_bytes() as usize).expect("it was mapped");
        let address = NonZeroUsize::new(self.bar.base().addr());
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
        // SAFETY: exactly the mapping that `map_bar` made is replaced, by memory of the same length
        // that may be read and written the same way; nothing but volatile accesses goes there.
        let base = unsafe { mmap_anonymous(address, length, protection, flags) }?;
        // SAFETY: just mapped, and this long.
        unsafe { base.cast::<u8>().as_ptr().write_bytes(0xff, length.get()) };
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives vectors of an index, from `start` on, their eventfds; -1 takes one away.
fn set_eventfds(file: &File, index: u32, start: u32, eventfds: &[i32]) -> io::Result<()> {
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
    unsafe { set_irqs(file.as_raw_fd(), words.as_ptr()) }?;
    Ok(())
}

fn system(what: &'static str) -> impl Fn(io::Error) -> PcieError {
    move |source| PcieError::System { what, source }
}

/// Lets the device answer at its BAR and reach memory.
fn enable_bus(file: &File, config_offset: u64) -> io::Result<()> {
    let mut command = [0; 2];
    file.read_exact_at(&mut command, config_offset + PCI_COMMAND)?;
    let command = u16::from_le_bytes(command) | COMMAND_MEMORY | COMMAND_MASTER;
    file.write_all_at(&command.to_le_bytes(), config_offset + PCI_COMMAND)
}

fn map_bar(hold: &Hold) -> Result<(Bar, Guard), PcieError> {
    let (offset, size) = hold.region(REGION_BAR0).map_err(system("its BAR"))?;
    let size = size.min(BAR_BYTES_MAX);
    if size < BAR_BYTES_MIN {
        return Err(PcieError::Unsupported("its BAR is too short for its doorbells"));
    }
    let len_bytes = u32::try_from(size).expect("at most BAR_BYTES_MAX");
    let length = NonZeroUsize::new(len_bytes as usize).expect("at least BAR_BYTES_MIN");
    let offset = i64::try_from(offset).map_err(|_| PcieError::Unsupported("its BAR is nowhere"))?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, hold.file(), offset) }
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
        let mut held = self.held();
        // SAFETY: the region stays mapped for the life of the process. What references there are
        // to its memory are made by the owner of a buffer, while no I/O has the buffer, and the
        // device writes only where an I/O told it to.
        unsafe { held.hold()?.map(address, len_bytes, region.base().as_ptr()) }?;
        held.mappings.push(mapping);
        Ok(mapping)
    }

    fn unmap(&self, mapping: Mapping) -> io::Result<()> {
        let mut held = self.held();
        let index = held.mappings.iter().position(|one| *one == mapping);
        let Some(index) = index else { return Ok(()) };
        held.take_away(mapping)?;
        held.mappings.swap_remove(index);
        Ok(())
    }

    fn revoke(&self) -> io::Result<()> {
        let mut held = self.held();
        while let Some(mapping) = held.mappings.last() {
            held.take_away(*mapping)?;
            held.mappings.pop();
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
        set_eventfds(self.held().hold()?.file(), IRQ_MSIX, u32::from(vector), &[eventfd])
    }

    fn reset(&self) -> io::Result<()> {
        let held = self.held();
        let file = held.hold()?.file();
        // SAFETY: a request without an argument, on the device's descriptor.
        unsafe { reset_device(file.as_raw_fd()) }?;
        enable_bus(file, self.config_offset)
    }

    fn is_wanted_back(&self) -> bool {
        self.wanted_back.read() != Err(Errno::EAGAIN)
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wanted_back.as_fd())
    }

    fn surrender(&self) -> io::Result<()> {
        let mut held = self.held();
        if !held.mappings.is_empty() {
            // The kernel would take them away with the last descriptor, but then nobody would know.
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.replace_bar()?;
        held.hold = None;
        Ok(())
    }

    fn node(&self) -> Option<Node> {
        self.node
    }

    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn pause(&self) {
        std::thread::sleep(PAUSE);
    }
}
