//! A controller in use: attached once, shared by the devices of its namespaces.
//!
//! [`Controller::attach`] brings it up on the calling control thread and starts its supervisor's;
//! dropping the last handle shuts it down. [`Controller::attach_stepped`] leaves the supervisor to
//! the caller, who then decides when it looks.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use reactor::Nanos;
use reactor::dma::Region;

use super::admin::AdminQueue;
use super::bring_up;
use super::error::PcieError;
use super::event::{ControllerEvent, EventCounts};
use super::identity::{ControllerIdentity, Namespace, ShadowDoorbells};
use super::layout;
use super::memory::QueueMemory;
use super::options::{Options, QUEUES_MAX};
use super::platform::{Notify, Platform};
use super::port::{Phase, Port, Shared};
use super::ring::Place;
use super::supervisor::{self, Attached, EventNews, Supervisor};

/// A controller.
#[derive(Debug)]
pub struct Controller {
    shared: Arc<Shared>,
    attached: Attached,
    /// Why namespaces that are there cannot be used.
    unusable: Vec<PcieError>,
    /// It keeps reservations and has taken the identifier of this host.
    is_host_known: bool,
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    stop: Arc<AtomicBool>,
    handle: JoinHandle<()>,
}

impl Controller {
    /// Brings a controller up and starts its supervisor. Control threads only.
    ///
    /// # Errors
    ///
    /// It cannot be used, or does not answer.
    pub fn attach(
        name: &str,
        platform: Arc<dyn Platform>,
        options: Options,
    ) -> Result<Controller, PcieError> {
        let (mut controller, supervisor) = Controller::attach_stepped(name, platform, options)?;
        let stop = Arc::new(AtomicBool::new(false));
        let system = |what| move |source| PcieError::System { what, source };
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(std::io::Error::from)
            .map_err(system("no descriptor is left for the admin queue"))?;
        let (shared, told) = (controller.shared.clone(), stop.clone());
        let handle = std::thread::Builder::new()
            .name(format!("nvme-{name}"))
            .spawn(move || supervise(&shared, supervisor, &eventfd, &told))
            .map_err(system("no thread can be started for the admin queue"))?;
        controller.thread = Some(Thread { stop, handle });
        Ok(controller)
    }

    /// Brings a controller up and leaves its supervisor to the caller, who calls
    /// [`Supervisor::serve`], and [`Supervisor::finish`] at the end.
    ///
    /// # Errors
    ///
    /// As [`Controller::attach`].
    pub fn attach_stepped(
        name: &str,
        platform: Arc<dyn Platform>,
        options: Options,
    ) -> Result<(Controller, Supervisor), PcieError> {
        let bar = platform.bar();
        let capabilities = bring_up::capabilities(bar)?;
        bring_up::disable(bar, &*platform, capabilities)?;
        let memory = QueueMemory::map(&*platform)?;
        let timeout = u64::try_from(options.admin_timeout.as_nanos()).unwrap_or(u64::MAX);
        let stride = capabilities.doorbell_stride_bytes();
        let mut admin = AdminQueue::new(memory, bar, stride, Nanos(timeout))?;
        bring_up::enable(bar, &*platform, capabilities, &mut admin)?;
        let identity = bring_up::identify(&*platform, &mut admin)?;
        let found = bring_up::namespaces(&*platform, &mut admin, &identity)?;
        let (usable, unusable): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
        let namespaces = usable.into_iter().flatten().collect();
        let unusable = unusable.into_iter().filter_map(Result::err).collect();
        let is_host_known =
            bring_up::tell_host(&*platform, &mut admin, &identity, options.host_id)?;
        // One more for reservation commands, which are of I/O queues.
        let wanted = options.queues.clamp(1, QUEUES_MAX) + u16::from(is_host_known);
        let queues = bring_up::negotiate_queues(&*platform, &mut admin, wanted)?;
        let has_shadow = identity.shadow_doorbells;
        let mut ports = Vec::with_capacity(usize::from(queues));
        for queue_id in 1..=queues {
            let port = make_port(&*platform, &mut admin, queue_id, capabilities, has_shadow)?;
            ports.push(port);
        }
        let shadow = bring_up::configure_shadow(&*platform, &mut admin, &identity)?;
        if shadow != has_shadow {
            for port in &mut ports {
                port.place.shadow = None;
            }
        }
        let attached = Attached { capabilities, identity, namespaces, shadow };
        let shared = Shared::new(name.to_owned(), options, platform, ports.into_boxed_slice())
            .map_err(|error| PcieError::System {
                what: "no descriptor is left for a supervisor",
                source: error.into(),
            })?;
        let shared = Arc::new(shared);
        let supervisor = Supervisor::new(shared.clone(), bar, admin, attached.clone());
        Ok((Controller { shared, attached, unusable, is_host_known, thread: None }, supervisor))
    }

    /// What an operator calls it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What it says of itself.
    pub fn identity(&self) -> &ControllerIdentity {
        &self.attached.identity
    }

    /// Its namespaces that can be used.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.attached.namespaces
    }

    /// One of them, or why it cannot be used.
    ///
    /// # Errors
    ///
    /// It is not there, or of a format that this driver does not take.
    pub fn namespace(&self, id: u32) -> Result<Namespace, PcieError> {
        if let Some(found) = self.namespaces().iter().find(|one| one.id == id) {
            return Ok(*found);
        }
        let why = self.unusable.iter().find_map(|error| match error {
            PcieError::Namespace { namespace, reason } if *namespace == id => Some(*reason),
            _ => None,
        });
        if let Some(reason) = why {
            return Err(PcieError::Namespace { namespace: id, reason });
        }
        let ids: Vec<String> = self.namespaces().iter().map(|one| one.id.to_string()).collect();
        let there = if ids.is_empty() { String::from("none") } else { ids.join(", ") };
        Err(PcieError::NoNamespace { namespace: id, there })
    }

    /// Whether it keeps reservations and knows this host.
    pub fn is_host_known(&self) -> bool {
        self.is_host_known
    }

    /// Number of its I/O queue pairs for cores.
    pub fn queues(&self) -> usize {
        self.shared.core_ports().len()
    }

    /// Whether it looks at doorbells in memory.
    pub fn shadow_doorbells(&self) -> ShadowDoorbells {
        self.attached.shadow
    }

    /// How many events there were, of each kind. Any thread.
    pub fn event_counts(&self) -> EventCounts {
        self.shared.events.counts()
    }

    /// The oldest event that was not taken yet, where no [`super::Listener`] has it. Any thread.
    pub fn take_event(&self) -> Option<ControllerEvent> {
        self.shared.events.take()
    }

    /// Has the controller reset; I/O in flight is treated as at any reset. Any thread; what became
    /// of it is an event.
    pub fn reset(&self) {
        self.shared.request_reset();
    }

    /// True once it is gone, was given up or given back: it serves no more, and whoever finds it at
    /// its address again attaches it anew.
    pub fn is_dead(&self) -> bool {
        self.shared.state().phase() == Phase::Dead
    }

    /// Shows the controller memory that I/Os of any core may be in from now on; nothing is done for
    /// a region that it knows. One thread a region.
    ///
    /// # Errors
    ///
    /// The IOMMU refuses it, or the controller knows [`super::options::REGIONS_MAX`] regions.
    pub fn share(&self, region: &Region) -> std::io::Result<()> {
        self.shared.regions.add(&*self.shared.platform, region)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // Release, partner: the acquire in `supervise`.
        thread.stop.store(true, Ordering::Release);
        self.shared.call_supervisor();
        // It ends by itself; that it panicked has been said by then.
        let _ = thread.handle.join();
    }
}

fn make_port(
    platform: &dyn Platform,
    admin: &mut AdminQueue,
    queue_id: u16,
    capabilities: crate::nvme::register::Capabilities,
    shadow: ShadowDoorbells,
) -> Result<Port, PcieError> {
    let stride = capabilities.doorbell_stride_bytes();
    let bar = platform.bar();
    let doorbell = |index| {
        let found = bar.doorbell(index, stride);
        found.ok_or(PcieError::Unsupported("its BAR is too short for its doorbells"))
    };
    let memory = QueueMemory::map(platform)?;
    let place = Place {
        view: memory.view(),
        entries: bring_up::queue_entries(capabilities),
        submissions: layout::SUBMISSIONS,
        completions: layout::COMPLETIONS,
        bar,
        tail_doorbell: doorbell(2 * u32::from(queue_id))?,
        head_doorbell: doorbell(2 * u32::from(queue_id) + 1)?,
        shadow: match shadow {
            ShadowDoorbells::Supported => bring_up::shadow(admin, queue_id, stride),
            ShadowDoorbells::Absent => None,
        },
    };
    let interrupts = supervisor::interrupts(queue_id, platform.vectors());
    bring_up::create_queue(platform, admin, queue_id, &place, interrupts)?;
    Port::new(queue_id, memory, place).map_err(|error| PcieError::System {
        what: "no descriptor is left for a queue",
        source: error.into(),
    })
}

/// The supervisor's thread: looks when something happened, and while I/O is in the device once in a
/// while.
fn supervise(shared: &Shared, mut supervisor: Supervisor, admin: &EventFd, stop: &AtomicBool) {
    if shared.platform.notify(0, Notify::Eventfd(admin.as_fd())).is_ok() {
        supervisor.set_event_news(EventNews::Interrupt);
    }
    // Acquire, partner: the release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let timeout = match supervisor.serve() {
            Some(wait) => PollTimeout::try_from(wait.0.div_ceil(1_000_000)),
            None => Ok(PollTimeout::NONE),
        };
        // One that is gone is wanted back for ever: that is no news then.
        let removal = shared.platform.removal().filter(|_| !supervisor.is_dead());
        let removal = removal.unwrap_or(shared.doorbell());
        let mut waited = [shared.doorbell(), admin.as_fd(), removal]
            .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        // Interrupted or not, the next look comes.
        let _ = poll(&mut waited, timeout.unwrap_or(PollTimeout::MAX));
        let _ = admin.read();
    }
    let _ = shared.platform.notify(0, Notify::Nobody);
    supervisor.finish();
}
