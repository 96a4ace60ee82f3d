//! The control thread of a controller: its admin queue, its events, its resets, its end.
//!
//! A state machine that is looked after: [`Supervisor::serve`] does what is due and says how long
//! there is nothing to do. A thread of its own calls it ([`super::controller`]); a test calls it
//! itself. It waits for the controller's answers with deadlines, for a core's never: a halt that
//! was not acknowledged is looked at again at the next call.
//!
//! It is called when something happened: an event of the drive (vector 0), a wish, an
//! acknowledgement, the system wanting the drive back. A fatal status or a drive that is gone says
//! nothing, so while I/O is in the device it looks at the registers every
//! [`super::Options::health_interval`]; with none it rests until the next I/O begins.

use std::sync::Arc;

use reactor::Nanos;

use super::admin::{AdminQueue, check_alive};
use super::ana::{self, Groups};
use super::bar::Bar;
use super::bring_up::{self, Interrupts};
use super::error::PcieError;
use super::event::{ControllerEvent, ResetReason};
use super::identity::{ControllerIdentity, Namespace, ShadowDoorbells};
use super::layout;
use super::options::RESETS_MAX;
use super::port::{Owner, Phase, Shared, State, Watch, Wish};
use super::reserve::{self, Wanted};
use super::ring::Position;
use crate::nvme::admin_command::GetLogPage;
use crate::nvme::async_event::AsyncEvent;
use crate::nvme::command::{NAMESPACE_ID_ALL, SubmissionEntry};
use crate::nvme::feature;
use crate::nvme::log_page::{self, SmartLog};
use crate::nvme::opcode::AdminOpcode;
use crate::nvme::register::Capabilities;

/// Health warnings that a controller is asked to tell of at once.
const HEALTH_EVENTS: u32 = 0x1f;
/// Events beside health that are worth a request.
const NOTICE_EVENTS: u32 =
    feature::event::NAMESPACE | feature::event::FIRMWARE | feature::event::ANA;

/// Where a controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    /// Waiting for the cores to stop, until the time.
    Halting(ResetReason, Nanos),
    /// Gone, or given up; what remains is to be let go.
    Dead,
}

/// What a controller was when it was attached.
#[derive(Clone, Debug)]
pub struct Attached {
    /// CAP.
    pub capabilities: Capabilities,
    /// Identify Controller.
    pub identity: ControllerIdentity,
    /// Its usable namespaces.
    pub namespaces: Vec<Namespace>,
    /// Doorbells in memory.
    pub shadow: ShadowDoorbells,
}

/// The supervisor.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    bar: Bar,
    admin: AdminQueue,
    attached: Attached,
    mode: Mode,
    state: State,
    resets_in_row: u32,
    completed: u64,
    /// Completions at the last look.
    seen: u64,
    events: EventNews,
    groups: Groups,
}

/// How the supervisor comes to know of the drive's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventNews {
    /// Vector 0 calls it.
    Interrupt,
    /// It has to look.
    Look,
}

impl Supervisor {
    /// Looks after a controller that was just brought up.
    pub fn new(shared: Arc<Shared>, bar: Bar, admin: AdminQueue, attached: Attached) -> Self {
        let mut supervisor = Supervisor {
            shared,
            bar,
            admin,
            attached,
            mode: Mode::Running,
            state: State::FIRST,
            resets_in_row: 0,
            completed: 0,
            seen: 0,
            events: EventNews::Look,
            groups: Groups::default(),
        };
        supervisor.start_events();
        supervisor
    }

    /// Says how it comes to know of events; before, it looks.
    pub fn set_event_news(&mut self, events: EventNews) {
        self.events = events;
    }

    /// Does what is due; returns how long it may be left alone, for ever when nothing is said. To
    /// be called sooner when [`Shared::doorbell`], vector 0 or [`Platform::removal`] fires.
    ///
    /// [`Platform::removal`]: super::platform::Platform::removal
    pub fn serve(&mut self) -> Option<Nanos> {
        self.shared.clear_doorbell();
        self.shared.set_watch(Watch::Kept);
        match self.mode {
            Mode::Running => self.run(),
            Mode::Halting(reason, until) => self.proceed(reason, until),
            Mode::Dead => {}
        }
        match self.mode {
            // The cores' acknowledgements call it.
            Mode::Halting(_, until) => Some(until.since(self.shared.platform.now())),
            Mode::Running => self.rest(),
            Mode::Dead => {
                // They are answered by being dropped.
                while self.shared.wanted.pop().is_some() {}
                None
            }
        }
    }

    /// How long a controller that is well may be left alone.
    fn rest(&mut self) -> Option<Nanos> {
        let completed = self.completed_now();
        let quiet = completed == self.seen && !self.has_io();
        self.seen = completed;
        if quiet && self.events == EventNews::Interrupt {
            self.shared.set_watch(Watch::Left);
            // An I/O that begins just now and does not see it is met by this look, or at the worst
            // by the next that begins with none in the device, or by its own deadline.
            if !self.has_io() {
                return None;
            }
            self.shared.set_watch(Watch::Kept);
        }
        let interval = self.shared.options.health_interval;
        Some(Nanos(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)))
    }

    fn has_io(&self) -> bool {
        self.shared.ports.iter().any(|port| port.in_device() > 0)
    }

    fn completed_now(&self) -> u64 {
        self.shared.ports.iter().map(|port| port.completed()).sum()
    }

    /// True when the controller is gone or was given up.
    pub fn is_dead(&self) -> bool {
        self.mode == Mode::Dead
    }

    fn run(&mut self) {
        if let Err(error) = self.look() {
            self.react(&error);
        }
    }

    /// One round over everything.
    fn look(&mut self) -> Result<(), PcieError> {
        let status = check_alive(self.bar)?;
        if !status.is_ready() {
            self.halt(ResetReason::NotReady);
            return Ok(());
        }
        if self.shared.platform.is_wanted_back() {
            self.shared.add_event(ControllerEvent::WantedBack);
            self.part();
            return Ok(());
        }
        if self.shared.take_reset_request() {
            self.halt(ResetReason::Asked);
            return Ok(());
        }
        let events = self.admin.take_events()?;
        for event in events {
            self.told(event)?;
        }
        self.request_events();
        for index in 0..self.shared.ports.len() {
            self.grant(index)?;
            if self.mode != Mode::Running {
                return Ok(());
            }
        }
        self.reserve()
    }

    /// Carries out what is wanted of reservations.
    fn reserve(&mut self) -> Result<(), PcieError> {
        while let Some(Wanted { namespace, request, reply }) = self.shared.wanted.pop() {
            let bar = self.bar;
            let is_alive = move || check_alive(bar).map(|_| ());
            let asked = (namespace, request);
            reply.send(reserve::carry_out(&self.shared, self.state, asked, is_alive)?);
        }
        Ok(())
    }

    fn react(&mut self, error: &PcieError) {
        match error {
            PcieError::Gone => {
                self.shared.add_event(ControllerEvent::Removed);
                self.let_go();
            }
            PcieError::Fatal => self.halt(ResetReason::FatalStatus),
            PcieError::Protocol => self.halt(ResetReason::Protocol),
            _ => self.halt(ResetReason::AdminTimeout),
        }
    }

    /// An event came: the log page is read, which also lets the next one of its kind come.
    fn told(&mut self, event: AsyncEvent) -> Result<(), PcieError> {
        match event.log_page() {
            log_page::SMART => {
                if let Some(log) = self.read_log::<SmartLog>(log_page::SMART, 0)? {
                    self.shared.add_event(health(&log));
                    return Ok(());
                }
            }
            log_page::ANA => return self.tell_access(),
            // No page belongs to it.
            0 => {}
            page => {
                self.read_log::<[u8; 64]>(page, 0)?;
            }
        }
        self.shared.add_event(ControllerEvent::Told(event));
        Ok(())
    }

    /// Tells of every group of namespaces that is reached otherwise than before.
    fn tell_access(&mut self) -> Result<(), PcieError> {
        let log =
            self.read_log::<[u8; ana::LOG_BYTES]>(log_page::ANA, log_page::ANA_GROUPS_ONLY)?;
        for (group, state) in log.map(|log| self.groups.take(&log)).unwrap_or_default() {
            self.shared.add_event(ControllerEvent::Access { group, state });
        }
        Ok(())
    }

    /// Reads the beginning of a log page; nothing when the controller refuses.
    fn read_log<T>(&mut self, page: u8, specific: u8) -> Result<Option<Box<T>>, PcieError>
    where
        T: zerocopy::FromZeros + zerocopy::FromBytes + zerocopy::IntoBytes,
    {
        let page = GetLogPage {
            log_page: page,
            specific,
            retain_event: false,
            bytes: size_of::<T>() as u64,
            offset: 0,
            is_index: false,
        };
        let entry = SubmissionEntry::for_log_page(0, NAMESPACE_ID_ALL, page);
        match self.admin.fetch(&*self.shared.platform, AdminOpcode::GetLogPage, entry) {
            Ok(data) => Ok(Some(data)),
            Err(PcieError::Admin { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn start_events(&mut self) {
        let wanted = HEALTH_EVENTS | NOTICE_EVENTS & self.attached.identity.events;
        let entry = SubmissionEntry::set_feature(0, feature::ASYNC_EVENT_CONFIGURATION, wanted);
        // A controller that cannot be told tells what it likes.
        let platform = self.shared.platform.clone();
        let _ = self.admin.execute(&*platform, AdminOpcode::SetFeatures, entry);
        self.request_events();
        // It tells of what begins; what there was before is asked for. A controller that does not
        // answer is met at the next look.
        if let Ok(Some(log)) = self.read_log::<SmartLog>(log_page::SMART, 0)
            && log.critical_warning != 0
        {
            self.shared.add_event(health(&log));
        }
        if self.attached.identity.reports_access {
            let _ = self.tell_access();
        }
    }

    fn request_events(&mut self) {
        self.admin.request_events(self.attached.identity.event_requests);
    }

    /// Does what a port wishes, or needs.
    fn grant(&mut self, index: usize) -> Result<(), PcieError> {
        let port = &self.shared.ports[index];
        let queue_id = port.queue_id;
        if port.owner() == Owner::Supervisor {
            return self.remake(index);
        }
        match port.take_wish() {
            Wish::None => Ok(()),
            Wish::Abort(command_id) => self.abort(queue_id, command_id),
            Wish::ResetLate => {
                self.halt(ResetReason::IoTimeout);
                Ok(())
            }
            Wish::ResetProtocol => {
                self.halt(ResetReason::Protocol);
                Ok(())
            }
        }
    }

    fn abort(&mut self, queue_id: u16, command_id: u16) -> Result<(), PcieError> {
        let mut entry = SubmissionEntry::new(AdminOpcode::Abort.value(), 0, 0);
        entry.cdw10 = (u32::from(command_id) << 16 | u32::from(queue_id)).into();
        let platform = self.shared.platform.clone();
        match self.admin.execute(&*platform, AdminOpcode::Abort, entry) {
            // Whether it was aborted shows at its queue.
            Ok(_) | Err(PcieError::Admin { .. }) => {
                self.shared.add_event(ControllerEvent::Aborted { queue_id });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the queue of a port anew that was left with commands in it.
    fn remake(&mut self, index: usize) -> Result<(), PcieError> {
        let platform = self.shared.platform.clone();
        let queue_id = self.shared.ports[index].queue_id;
        match bring_up::delete_queue(&*platform, &mut self.admin, queue_id) {
            Ok(()) => {}
            Err(PcieError::Admin { .. }) => {
                self.halt(ResetReason::Protocol);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.make(index)?;
        self.shared.ports[index].leave(Owner::Nobody, Position::START);
        Ok(())
    }

    /// Makes the queue of a port, empty.
    fn make(&mut self, index: usize) -> Result<(), PcieError> {
        let platform = self.shared.platform.clone();
        let port = &self.shared.ports[index];
        port.place.view.zero(layout::SUBMISSIONS, layout::RINGS_END);
        if let Some(shadow) = port.place.shadow {
            for offset in shadow.tail.into_iter().chain(shadow.head) {
                shadow.view.zero(offset, 4);
            }
        }
        let interrupts = interrupts(port.queue_id, platform.vectors());
        bring_up::create_queue(&*platform, &mut self.admin, port.queue_id, &port.place, interrupts)
    }

    /// Stops I/O on every core.
    fn halt(&mut self, reason: ResetReason) {
        self.shared.add_event(ControllerEvent::Resetting(reason));
        let completed = self.completed_now();
        self.resets_in_row = match reason {
            // Somebody else's doing says nothing of the drive.
            ResetReason::Asked => 0,
            _ if completed == self.completed => self.resets_in_row + 1,
            _ => 1,
        };
        self.completed = completed;
        if self.resets_in_row > RESETS_MAX {
            self.give_up(reason);
            return;
        }
        self.state = self.state.then(Phase::Halted);
        self.shared.set_state(self.state);
        let timeout = self.shared.options.halt_timeout;
        let timeout = Nanos(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        self.mode = Mode::Halting(reason, self.shared.platform.now() + timeout);
        self.proceed_if_still(reason);
    }

    fn proceed_if_still(&mut self, reason: ResetReason) {
        if let Mode::Halting(_, until) = self.mode {
            self.proceed(reason, until);
        }
    }

    /// Resets once every core has stopped that had something in the device.
    fn proceed(&mut self, reason: ResetReason, until: Nanos) {
        let still = self
            .shared
            .ports
            .iter()
            .all(|port| port.owner() != Owner::QueuePair || port.has_stopped(self.state));
        if !still {
            if self.shared.platform.now() >= until {
                self.give_up(reason);
            }
            return;
        }
        match self.reset() {
            Ok(()) => {
                self.mode = Mode::Running;
                self.state = self.state.then(Phase::Live);
                self.shared.set_state(self.state);
                self.shared.add_event(ControllerEvent::Recovered);
            }
            Err(PcieError::Gone) => {
                self.shared.add_event(ControllerEvent::Removed);
                self.let_go();
            }
            Err(_) => self.give_up(reason),
        }
    }

    /// From a controller in any state to one as it was attached.
    fn reset(&mut self) -> Result<(), PcieError> {
        let platform = self.shared.platform.clone();
        let capabilities = self.attached.capabilities;
        match bring_up::disable(self.bar, &*platform, capabilities) {
            Ok(()) => {}
            Err(PcieError::Gone) => return Err(PcieError::Gone),
            Err(_) => {
                platform.reset().map_err(|source| PcieError::System {
                    what: "the function cannot be reset",
                    source,
                })?;
                bring_up::disable(self.bar, &*platform, capabilities)?;
            }
        }
        if bring_up::capabilities(self.bar)? != capabilities {
            return Err(PcieError::Changed("its registers"));
        }
        bring_up::enable(self.bar, &*platform, capabilities, &mut self.admin)?;
        let identity = bring_up::identify(&*platform, &mut self.admin)?;
        if identity != self.attached.identity {
            return Err(PcieError::Changed("its identity"));
        }
        let found = bring_up::namespaces(&*platform, &mut self.admin, &identity)?;
        let found: Vec<Namespace> = found.into_iter().flatten().collect();
        if !self.attached.namespaces.iter().all(|one| found.contains(one)) {
            return Err(PcieError::Changed("its namespaces"));
        }
        let host_id = self.shared.options.host_id;
        bring_up::tell_host(&*platform, &mut self.admin, &identity, host_id)?;
        let ports = u16::try_from(self.shared.ports.len()).expect("there are few queues");
        if bring_up::negotiate_queues(&*platform, &mut self.admin, ports)? < ports {
            return Err(PcieError::Changed("its number of queues"));
        }
        for index in 0..self.shared.ports.len() {
            self.make(index)?;
            let port = &self.shared.ports[index];
            port.take_wish();
            match port.owner() {
                Owner::Supervisor => port.leave(Owner::Nobody, Position::START),
                Owner::Nobody | Owner::QueuePair => port.forget_position(),
            }
        }
        let shadow = bring_up::configure_shadow(&*platform, &mut self.admin, &identity)?;
        if shadow != self.attached.shadow {
            return Err(PcieError::Changed("its doorbells"));
        }
        self.start_events();
        Ok(())
    }

    fn give_up(&mut self, reason: ResetReason) {
        self.shared.add_event(ControllerEvent::GivenUp(reason));
        self.let_go();
    }

    /// Cuts the controller off from all memory; only then does what was in flight end.
    fn let_go(&mut self) {
        let platform = self.shared.platform.clone();
        let stopped = bring_up::disable(self.bar, &*platform, self.attached.capabilities).is_ok();
        let cut = platform.revoke().is_ok();
        if !stopped && !cut && platform.reset().is_err() {
            // It may still write to memory: nothing in flight may ever be given back.
            self.state = self.state.then(Phase::Halted);
        } else {
            self.state = self.state.then(Phase::Dead);
        }
        self.mode = Mode::Dead;
        self.shared.set_state(self.state);
        // Nothing is to be had from it any more: the system may unplug it, or bind it anew. Where
        // it still reaches memory it is held, and this is refused.
        let _ = platform.surrender();
    }

    /// Ends a controller that is well: it hears of it, and writes its cache.
    fn part(&mut self) {
        let platform = self.shared.platform.clone();
        self.state = self.state.then(Phase::Halted);
        self.shared.set_state(self.state);
        // One that does not get ready for its end meets it all the same.
        let _ = bring_up::shut_down(self.bar, &*platform, &self.attached.identity);
        self.let_go();
    }

    /// Shuts the controller down and lets it go. What is still in flight fails.
    pub fn finish(mut self) {
        let platform = self.shared.platform.clone();
        if self.mode != Mode::Dead {
            self.part();
        }
        self.admin.into_memory().unmap(&*platform);
    }
}

/// What a health log tells.
fn health(log: &SmartLog) -> ControllerEvent {
    ControllerEvent::Health {
        warnings: log.critical_warning,
        temperature_kelvin: log.temperature_kelvin.get(),
        spare_percent: log.spare_percent,
        used_percent: log.used_percent,
    }
}

/// What a queue does at a completion.
pub fn interrupts(queue_id: u16, vectors: u16) -> Interrupts {
    if queue_id < vectors { Interrupts::Vector(queue_id) } else { Interrupts::Off }
}
