//! The software controller as tests hold it, and as the driver does.
//!
//! One lock around all of it: a driver's thread meets it only where it would meet the kernel, and
//! the measurements take the cost of a step off.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use reactor::Nanos;
use reactor::dma::Region;
use reactor::random::Random;

use super::Config;
use super::core::{BAR_BYTES, Core, Counts, Mutator};
use super::faults::Fault;
use super::medium::Medium;
use crate::nvme::async_event::AsyncEvent;
use crate::nvme::log_page::AnaState;
use crate::nvme::status::Status;
use crate::pcie::bar::Bar;
use crate::pcie::platform::{Mapping, Notify, Platform};
use crate::reservation::{Command, RegistrantId};

/// How far a pause moves the clock of control threads.
const PAUSE: Nanos = Nanos::from_micros(100);

/// A controller in this process. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SoftwareController {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Mutex<Core>,
    bar: Bar,
    now_ns: AtomicU64,
    wanted_back: EventFd,
    surrendered: AtomicBool,
}

impl SoftwareController {
    /// A controller that is not enabled.
    pub fn new(config: Config) -> SoftwareController {
        SoftwareController::of(Core::new(config, None))
    }

    /// The same, whose one namespace's blocks are kept by a medium.
    pub fn over(config: Config, medium: Box<dyn Medium>) -> SoftwareController {
        assert_eq!(config.namespaces.len(), 1, "a medium is of one namespace");
        SoftwareController::of(Core::new(config, Some(medium)))
    }

    fn of(core: Core) -> SoftwareController {
        let registers = core.registers.clone();
        let base = NonNull::from(&registers[0]).cast::<u8>();
        // SAFETY: the registers are kept by `core`, and that by every clone of the controller, for
        // as long as the platform lives; they are atomics, which a shared reference may be written
        // through, and aligned by the allocation to more than 8 bytes or checked to be here.
        let bar = unsafe { Bar::new(base, BAR_BYTES) };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let inner = Inner {
            core: Mutex::new(core),
            bar,
            now_ns: AtomicU64::new(0),
            wanted_back: EventFd::from_flags(flags).expect("a descriptor is left for a test"),
            surrendered: AtomicBool::new(false),
        };
        SoftwareController { inner: Arc::new(inner) }
    }

    /// The same controller, for the driver to hold.
    pub fn platform(&self) -> Arc<dyn Platform> {
        Arc::new(self.clone())
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.inner.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the controller look at its registers and do what is to be done; true when there was
    /// something.
    pub fn step(&self) -> bool {
        self.core().step()
    }

    /// Has something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.core().inject(fault);
    }

    /// Flips bits of completions and Identify data with this probability each, from now on.
    pub fn mutate(&self, seed: u64, probability: f64) {
        self.core().mutator = Some(Mutator { random: Random::new(seed), probability });
    }

    /// Writes what it is to write from now on.
    pub fn behave(&self) {
        self.core().mutator = None;
    }

    /// Warns of its health: bits of [`crate::nvme::log_page::critical_warning`].
    pub fn warn(&self, warnings: u8) {
        let mut core = self.core();
        core.critical_warning = warnings;
        core.events.push_back(AsyncEvent::Smart(0).result());
    }

    /// Tells of nothing that it has not told of yet.
    pub fn forget_events(&self) {
        self.core().events.clear();
    }

    /// Reaches an ANA group of its configuration otherwise, and tells of it.
    pub fn set_access(&self, group: u32, state: AnaState) {
        let mut core = self.core();
        core.access.iter_mut().filter(|(id, _)| *id == group).for_each(|one| one.1 = state);
        core.events.push_back(AsyncEvent::AnaChanged.result());
    }

    /// Another host does something about reservations.
    ///
    /// # Errors
    ///
    /// As the host would be answered.
    pub fn reserve_as(&self, host_id: [u8; 16], command: Command) -> Result<(), Status> {
        let id = RegistrantId::nvme(host_id).ok_or(Status::INVALID_FIELD)?;
        self.core().change_as(id, command)
    }

    /// Tells of an event.
    pub fn tell(&self, event: AsyncEvent) {
        self.core().events.push_back(event.result());
    }

    /// What the driver did that it must not, a line each.
    pub fn violations(&self) -> Vec<String> {
        self.core().violations.clone()
    }

    /// What it did.
    pub fn counts(&self) -> Counts {
        self.core().counts
    }

    /// The blocks of a namespace, from 1.
    pub fn content(&self, namespace: u32) -> Vec<u8> {
        self.core().namespaces[namespace as usize - 1].data.clone()
    }

    /// Regions that it can reach.
    pub fn mappings(&self) -> usize {
        self.core().host.count()
    }

    /// Wants itself back, as a system does that unplugs a device.
    pub fn want_back(&self) {
        let _ = self.inner.wanted_back.write(1);
    }

    /// Whether the driver has not given it back.
    pub fn is_held(&self) -> bool {
        // Acquire, partner: the release in `surrender`.
        !self.inner.surrendered.load(Ordering::Acquire)
    }

    /// Moves the clock of control threads to this time, unless it is later already: they have
    /// waited.
    pub fn follow_clock(&self, now: Nanos) {
        // Relaxed: a number and nothing else.
        self.inner.now_ns.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Moves the clock of control threads.
    pub fn advance(&self, span: Nanos) {
        // Relaxed: a number and nothing else.
        self.inner.now_ns.fetch_add(span.0, Ordering::Relaxed);
    }
}

impl Platform for SoftwareController {
    fn bar(&self) -> Bar {
        self.inner.bar
    }

    fn map(&self, region: &Region) -> io::Result<Mapping> {
        Ok(self.core().host.map(region))
    }

    fn unmap(&self, mapping: Mapping) -> io::Result<()> {
        self.core().host.unmap(mapping);
        Ok(())
    }

    fn revoke(&self) -> io::Result<()> {
        self.core().host.unmap_all();
        Ok(())
    }

    fn vectors(&self) -> u16 {
        self.core().config.vectors
    }

    fn notify(&self, vector: u16, whom: Notify<'_>) -> io::Result<()> {
        let mut core = self.core();
        let Some(vector) = core.vectors.get_mut(usize::from(vector)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        vector.eventfd = match whom {
            Notify::Nobody => None,
            Notify::Eventfd(eventfd) => Some(eventfd.as_raw_fd()),
        };
        if let Some(eventfd) = vector.eventfd
            && std::mem::take(&mut vector.pending)
        {
            core.counts.interrupts += 1;
            write_eventfd(eventfd);
        }
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        self.core().function_reset();
        Ok(())
    }

    fn is_wanted_back(&self) -> bool {
        self.inner.wanted_back.read().is_ok()
    }

    fn removal(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inner.wanted_back.as_fd())
    }

    fn surrender(&self) -> io::Result<()> {
        if self.core().host.count() > 0 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // Release, partner: the acquire in `is_held`.
        self.inner.surrendered.store(true, Ordering::Release);
        Ok(())
    }

    fn now(&self) -> Nanos {
        // Relaxed: as in `advance`.
        Nanos(self.inner.now_ns.load(Ordering::Relaxed))
    }

    fn pause(&self) {
        self.step();
        self.advance(PAUSE);
    }
}

/// Makes an eventfd fire.
pub(super) fn write_eventfd(eventfd: RawFd) {
    // SAFETY: whoever had a vector told through it takes that back before closing it.
    let eventfd = unsafe { BorrowedFd::borrow_raw(eventfd) };
    let _ = nix::unistd::write(eventfd, &1_u64.to_ne_bytes());
}
