//! One controller: its state, and the answer to each command of its admin queue.
//!
//! Made by the connection whose Connect was accepted, owned by it, called on its core only. NVMe
//! Base 2.0 chapters 3, 5 and 6.

use bdev::Status;
use bdev::allocation::Extent;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::identify::IDENTIFY_BYTES;
use bdev::nvme::opcode::{AdminOpcode, FabricsType};
use bdev::reservation::{Event as ReservationEvent, PersistenceChange};
use reactor::Nanos;

use super::changed_namespaces::ChangedNamespaces;
use super::discovery::Directory;
use super::error_log::{ErrorLog, ErrorReport};
use super::events::{Events, Notice};
use super::features::{self, FeatureContext, Features};
use super::identify::{IdentifyContext, identify};
use super::keep_alive::KeepAlive;
use super::log_page::{self, LogContext};
use super::properties::{ControllerState, Properties, QUIESCE_TIMEOUT};
use super::transfer::{Direction, Transfer, transfer_of};
use crate::fabrics::Nqn;
use crate::fabrics::connect::ADMIN_QUEUE_ID;
use crate::target::allocation::command::{self as allocation, Asked};
use crate::target::namespace::NamespaceId;
use crate::target::reservation::notifications::Notifications;
use crate::target::statistics::IoStatistics;
use crate::target::subsystem::Subsystem;

/// What is around the controller when it executes a command.
#[derive(Clone, Copy, Debug)]
pub struct AdminInput<'a> {
    /// Time of this pass.
    pub now: Nanos,
    /// The subsystem as it is now; always the same one.
    pub subsystem: &'a Subsystem,
    /// I/O queues of the controller that are connected.
    pub open_io_queues: u16,
    /// Controllers of the subsystem, ascending.
    pub controllers: &'a [u16],
    /// What was moved.
    pub statistics: IoStatistics,
    /// What there is to discover; needed by discovery controllers only.
    pub directory: Option<&'a Directory>,
}

/// How a command is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminOutcome {
    /// With a completion alone.
    Complete {
        /// Its status.
        status: Status,
        /// Its dwords 0 and 1.
        result: u64,
    },
    /// With data, then a successful completion.
    Data {
        /// How much of the buffer: what [`transfer_of`] said.
        len_bytes: u32,
        /// Dwords 0 and 1 of the completion.
        result: u64,
    },
    /// Later, by [`AdminController::next_event`].
    Held,
    /// By the device of a namespace: which of these blocks are allocated.
    Allocation {
        /// The namespace.
        namespace: NamespaceId,
        /// The blocks.
        range: Extent,
    },
    /// By the keeper of reservations: whether those of a namespace outlive a loss of power.
    Persistence {
        /// The namespace, which may not exist.
        namespace: NamespaceId,
        /// What to make of it; nothing to ask for it.
        change: Option<PersistenceChange>,
    },
}

/// What the connection must do beside answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// I/O queues may be connected from now on.
    Enabled,
    /// The host has reset the controller: every I/O queue must be closed, and then
    /// [`AdminController::quiesced`] called.
    Reset,
    /// The host has shut the controller down: as for a reset. Its admin queue lives on, to read
    /// the status and perhaps to reset the controller.
    Shutdown,
}

/// The answer to a request that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldCompletion {
    /// Which.
    pub command_id: u16,
    /// Success, or why the request ends without an event.
    pub status: Status,
    /// Dword 0.
    pub result: u32,
}

/// Who a controller is, and whose.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// Its identifier.
    pub controller_id: u16,
    /// The host that connected.
    pub host_nqn: Nqn,
    /// Which instance of the host.
    pub host_id: [u8; 16],
    /// Keep alive timeout in milliseconds, 0 for none.
    pub keep_alive_ms: u32,
}

/// State of one controller.
#[derive(Debug)]
pub struct AdminController {
    options: ControllerOptions,
    properties: Properties,
    keep_alive: KeepAlive,
    features: Features,
    events: Events,
    errors: ErrorLog,
    changed_namespaces: ChangedNamespaces,
    notifications: Notifications,
    /// Grows with every change of the ANA log.
    ana_change_count: u64,
    /// How often it was reset or shut down, and by when the last of it must be complete.
    round: u32,
    quiesce_by: Option<Nanos>,
    /// I/O queues that are connected, as the home core last told.
    open_io_queues: u16,
}

impl AdminController {
    /// A controller as Connect leaves it: disabled.
    pub fn new(options: ControllerOptions, subsystem: &Subsystem, now: Nanos) -> Self {
        let limits = subsystem.limits();
        Self {
            properties: Properties::new(subsystem.kind(), limits),
            keep_alive: KeepAlive::new(options.keep_alive_ms, now),
            features: Features::new(limits, now),
            events: Events::default(),
            errors: ErrorLog::default(),
            changed_namespaces: ChangedNamespaces::default(),
            notifications: Notifications::default(),
            ana_change_count: 0,
            round: 0,
            quiesce_by: None,
            open_io_queues: 0,
            options,
        }
    }

    /// Its identifier.
    pub fn controller_id(&self) -> u16 {
        self.options.controller_id
    }

    /// The host that connected.
    pub fn host_nqn(&self) -> &Nqn {
        &self.options.host_nqn
    }

    /// Which instance of the host.
    pub fn host_id(&self) -> &[u8; 16] {
        &self.options.host_id
    }

    /// Where it is in its life.
    pub fn state(&self) -> ControllerState {
        self.properties.state()
    }

    /// How many I/O queues it takes: identifiers 1 to this many.
    pub fn io_queues_granted(&self) -> u16 {
        self.features.io_queues()
    }

    /// Executes a command of the admin queue. `data_in` is what [`transfer_of`] says that the
    /// command brings; `data_out` has room for at least what it says that it takes.
    pub fn command(
        &mut self,
        cx: &AdminInput<'_>,
        entry: &SubmissionEntry,
        data_in: &[u8],
        data_out: &mut [u8],
    ) -> (AdminOutcome, Effect) {
        match self.execute(cx, entry, data_in, data_out) {
            Ok(answer) => answer,
            Err(status) => {
                // Every error here is of the command itself, so a retry would meet it again.
                let status = status.with_do_not_retry();
                (AdminOutcome::Complete { status, result: 0 }, Effect::None)
            }
        }
    }

    fn execute(
        &mut self,
        cx: &AdminInput<'_>,
        entry: &SubmissionEntry,
        data_in: &[u8],
        data_out: &mut [u8],
    ) -> Result<(AdminOutcome, Effect), Status> {
        allocation::check_announced(cx.subsystem, entry)?;
        let transfer = transfer_of(entry, cx.subsystem.limits())?;
        let (data_in, data_out) = buffers(transfer, data_in, data_out)?;
        let opcode = AdminOpcode::try_from(entry.opcode).map_err(|_| Status::INVALID_OPCODE)?;
        if opcode == AdminOpcode::Fabrics {
            return self.fabrics(cx, entry);
        }
        // Section 3.5.4: until it is ready, a controller executes fabrics commands only.
        if self.state() != ControllerState::Ready {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        self.keep_alive.restart(cx.now);
        if features::is_of_keeper(opcode, entry) {
            let (namespace, change) = features::persistence(cx.subsystem, opcode, entry)?;
            return Ok((AdminOutcome::Persistence { namespace, change }, Effect::None));
        }
        let result = match opcode {
            AdminOpcode::Identify => {
                self.identify(cx, entry, data_out)?;
                0
            }
            AdminOpcode::GetLogPage => {
                self.log_page(cx, entry, data_out)?;
                0
            }
            AdminOpcode::GetFeatures => {
                let mut keep_alive = KeepAlive::new(self.keep_alive.timeout_ms(), cx.now);
                let notifications = &mut self.notifications;
                let options = &self.options;
                let context = feature_context(cx, options, &mut keep_alive, notifications);
                self.features.get(&context, entry, data_out)?
            }
            AdminOpcode::SetFeatures => {
                let (keep_alive, notifications) = (&mut self.keep_alive, &mut self.notifications);
                let mut context = feature_context(cx, &self.options, keep_alive, notifications);
                self.features.set(&mut context, entry, data_in)?
            }
            AdminOpcode::AsyncEventRequest => {
                self.events.hold(entry.command_id.get())?;
                return Ok((AdminOutcome::Held, Effect::None));
            }
            AdminOpcode::GetLbaStatus => match allocation::asked(cx.subsystem, entry)? {
                Asked::Allocated(namespace, range) => {
                    return Ok((AdminOutcome::Allocation { namespace, range }, Effect::None));
                }
                Asked::Nothing(condition) => {
                    allocation::write_nothing(condition, data_out);
                    0
                }
            },
            AdminOpcode::Abort => self.abort_command(entry),
            AdminOpcode::KeepAlive => 0,
            _ => return Err(Status::INVALID_OPCODE),
        };
        Ok((answered(transfer, u64::from(result)), Effect::None))
    }

    fn fabrics(
        &mut self,
        cx: &AdminInput<'_>,
        entry: &SubmissionEntry,
    ) -> Result<(AdminOutcome, Effect), Status> {
        let complete = |result| AdminOutcome::Complete { status: Status::SUCCESS, result };
        match FabricsType::try_from(entry.fabrics_type()) {
            Ok(FabricsType::PropertyGet) => {
                Ok((complete(self.properties.get(entry)?), Effect::None))
            }
            Ok(FabricsType::PropertySet) => {
                let effect = self.properties.set(entry)?;
                if matches!(effect, Effect::Enabled | Effect::Reset | Effect::Shutdown) {
                    self.keep_alive.restart(cx.now);
                }
                if matches!(effect, Effect::Reset | Effect::Shutdown) {
                    self.round = self.round.wrapping_add(1);
                    self.quiesce_by = Some(cx.now + QUIESCE_TIMEOUT);
                }
                if effect == Effect::Reset {
                    self.reset(cx);
                }
                Ok((complete(0), effect))
            }
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    /// I/O queues that are connected.
    pub fn open_io_queues(&self) -> u16 {
        self.open_io_queues
    }

    /// So many I/O queues are connected from now on.
    pub fn set_open_io_queues(&mut self, count: u16) {
        self.open_io_queues = count;
    }

    /// How often it was reset or shut down: names the last time.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Nothing is left of the I/O queues: the reset or shutdown of this round is complete.
    pub fn quiesced(&mut self, round: u32, now: Nanos) {
        if round == self.round && self.quiesce_by.take().is_some() {
            self.properties.quiesced();
            self.keep_alive.restart(now);
        }
    }

    /// Fails the controller if a reset or shutdown has taken too long.
    pub fn fail_if_overdue(&mut self, now: Nanos) {
        if self.quiesce_by.is_some_and(|by| by <= now) {
            self.quiesce_by = None;
            self.properties.expire();
            self.keep_alive.restart(now);
        }
    }

    /// What a reset takes back (section 3.7.2): requests end, features are at their defaults. The
    /// keep alive timeout is of the connection and stays.
    fn reset(&mut self, cx: &AdminInput<'_>) {
        self.events.reset(Status::ABORTED_SQ_DELETION);
        self.changed_namespaces.clear();
        self.notifications = Notifications::default();
        self.features = Features::new(cx.subsystem.limits(), cx.now);
    }

    fn identify(
        &self,
        cx: &AdminInput<'_>,
        entry: &SubmissionEntry,
        out: &mut [u8],
    ) -> Result<(), Status> {
        let context = IdentifyContext {
            subsystem: cx.subsystem,
            controller_id: self.options.controller_id,
            controllers: cx.controllers,
        };
        let out: &mut [u8; IDENTIFY_BYTES] =
            out.try_into().map_err(|_| Status::DATA_SGL_LENGTH_INVALID)?;
        identify(&context, entry, out)
    }

    fn log_page(
        &mut self,
        cx: &AdminInput<'_>,
        entry: &SubmissionEntry,
        out: &mut [u8],
    ) -> Result<(), Status> {
        let context = LogContext {
            subsystem: cx.subsystem,
            statistics: &cx.statistics,
            errors: &self.errors,
            changed_namespaces: &self.changed_namespaces,
            notifications: &self.notifications,
            ana_change_count: self.ana_change_count,
            directory: cx.directory,
            host: &self.options.host_nqn,
        };
        log_page::read(&context, entry, out)?;
        let request = entry.get_log_page();
        if !request.retain_event {
            self.events.unmask(request.log_page);
            if request.log_page == bdev::nvme::log_page::CHANGED_NAMESPACES {
                self.changed_namespaces.clear();
            }
            // One notification a page: the next may be told of at once.
            if request.log_page == bdev::nvme::log_page::RESERVATION_NOTIFICATION
                && self.notifications.was_read()
            {
                self.events.raise(Notice::Reservation, self.features.async_events());
            }
        }
        Ok(())
    }

    /// Executes Abort: dword 0 is 0 if the command was aborted, 1 if not (section 5.1). Requests
    /// for events are all that waits here; what waits elsewhere the connection has seen to.
    fn abort_command(&mut self, entry: &SubmissionEntry) -> u32 {
        let (queue_id, command_id) = entry.abort();
        let is_aborted = queue_id == ADMIN_QUEUE_ID && self.abort(command_id);
        u32::from(!is_aborted)
    }

    /// Ends a request for an event; it is answered by [`AdminController::next_event`]. False when
    /// none of that name is held.
    pub fn abort(&mut self, command_id: u16) -> bool {
        self.events.abort(command_id, Status::ABORT_REQUESTED)
    }

    /// The next held request to answer. To be asked until it says `None`, after each command and
    /// each notice.
    pub fn next_event(&mut self) -> Option<HeldCompletion> {
        self.events.next()
    }

    /// A command of one of its queues was answered with an error.
    pub fn note_error(&mut self, report: &ErrorReport) {
        self.errors.add(report);
    }

    /// A namespace came, went, or changed.
    pub fn notice_namespace_change(&mut self, id: NamespaceId) {
        self.changed_namespaces.add(id);
        self.events.raise(Notice::Namespace, self.features.async_events());
    }

    /// A reservation of a namespace was taken from the host.
    pub fn notice_reservation(&mut self, id: NamespaceId, event: ReservationEvent) {
        if self.notifications.add(id, event) {
            self.events.raise(Notice::Reservation, self.features.async_events());
        }
    }

    /// The ANA log changed.
    pub fn notice_ana_change(&mut self) {
        self.ana_change_count += 1;
        self.events.raise(Notice::Ana, self.features.async_events());
    }

    /// The discovery log changed.
    pub fn notice_discovery_change(&mut self) {
        self.events.raise(Notice::Discovery, self.features.async_events());
    }

    /// When the host is given up unless it is heard of; `None` for never.
    pub fn deadline(&self) -> Option<Nanos> {
        self.keep_alive.deadline(self.state())
    }

    /// Gives the host up if its deadline has passed: the controller fails, and all its connections
    /// must be closed.
    pub fn expire(&mut self, now: Nanos) -> bool {
        let is_late = self.deadline().is_some_and(|deadline| deadline <= now);
        if is_late {
            self.properties.expire();
        }
        is_late
    }
}

fn feature_context<'a>(
    cx: &AdminInput<'a>,
    options: &'a ControllerOptions,
    keep_alive: &'a mut KeepAlive,
    notifications: &'a mut Notifications,
) -> FeatureContext<'a> {
    FeatureContext {
        now: cx.now,
        subsystem: cx.subsystem,
        open_io_queues: cx.open_io_queues,
        host_id: &options.host_id,
        keep_alive,
        notifications,
    }
}

/// The parts of the buffers that the command is about.
fn buffers<'a, 'b>(
    transfer: Transfer,
    data_in: &'a [u8],
    data_out: &'b mut [u8],
) -> Result<(&'a [u8], &'b mut [u8]), Status> {
    let Transfer::Data { direction, len_bytes, .. } = transfer else {
        return Ok((&[], &mut []));
    };
    let len = usize::try_from(len_bytes).map_err(|_| Status::INTERNAL_ERROR)?;
    match direction {
        Direction::HostToController if data_in.len() == len => Ok((data_in, &mut [])),
        Direction::HostToController => Err(Status::DATA_SGL_LENGTH_INVALID),
        Direction::ControllerToHost => {
            let data_out = data_out.get_mut(..len).ok_or(Status::INTERNAL_ERROR)?;
            Ok((&[], data_out))
        }
    }
}

fn answered(transfer: Transfer, result: u64) -> AdminOutcome {
    match transfer {
        Transfer::Data { direction: Direction::ControllerToHost, len_bytes, .. } => {
            AdminOutcome::Data { len_bytes, result }
        }
        _ => AdminOutcome::Complete { status: Status::SUCCESS, result },
    }
}
