//! Connecting to a subsystem: from an address to queue pairs on one of its namespaces.
//!
//! A procedure driven by its owner's polls on the core that will own the connections; it never
//! blocks and sends one command at a time. The order is that of NVMe Base 2.0 section 3.5.2 and
//! NVMe/TCP Transport 1.0 section 3.1: admin queue, properties, enable, identify, I/O queues.

use std::task::Poll;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::feature::{ASYNC_EVENT_CONFIGURATION, NUMBER_OF_QUEUES, event};
use bdev::nvme::identify::{
    IDENTIFY_BYTES, IdentifyController, IdentifyKind, IdentifyNamespace, NamespaceList,
};
use bdev::nvme::register::{
    CAPABILITIES_OFFSET, CONFIGURATION_OFFSET, Capabilities, Configuration, ControllerStatus,
    STATUS_OFFSET,
};
use bdev::{Geometry, Limits, Memory};
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;
use zerocopy::FromBytes;

use super::controller::{ControllerIdentity, Instance, RemoteController};
use super::error::ConnectError;
use super::join::{Association, Join, QueueIdentity};
use super::namespace::{ControllerFacts, text, uuid_of, view};
use super::options::ConnectOptions;
use super::queue::{Command, CommandData, Ended, Queue};
use super::queue_pair::{InitiatorQueuePair, NamespaceView};
use crate::fabrics::command::{PropertyCommand, PropertySize};
use crate::fabrics::connect::{ADMIN_QUEUE_ID, CONTROLLER_ID_DYNAMIC};

/// Commands in flight on the admin queue.
pub(super) const ADMIN_DEPTH: u32 = 31;
/// How long to wait before asking again whether the controller is ready.
pub(super) const READY_INTERVAL: Nanos = Nanos::from_millis(10);
const IDENTIFY_LEN_BYTES: u32 = IDENTIFY_BYTES as u32;

/// What a poll of a [`Connector`] finds.
#[derive(Debug)]
pub enum Progress {
    /// Still at it.
    Pending,
    /// Connected. The connector is done and must not be polled again.
    Ready(Box<RemoteNamespace>),
    /// It cannot be had. The connector is done and must not be polled again.
    Failed(ConnectError),
}

/// A namespace of a subsystem that is connected.
#[derive(Debug)]
pub struct RemoteNamespace {
    /// Its identifier.
    pub namespace_id: u32,
    /// Its size.
    pub geometry: Geometry,
    /// What one I/O may be like.
    pub limits: Limits,
    /// Its UUID, or its NGUID taken as one; none when it has neither.
    pub uuid: Option<Uuid>,
    /// One queue pair a connection, at least one; no more than asked for or granted.
    pub queue_pairs: Vec<InitiatorQueuePair>,
    /// The admin connection: to be polled every pass, for the keep alive.
    pub admin: RemoteController,
    /// What I/O queues need to join the controller.
    pub(super) grant: QueueGrant,
    /// The namespace as queue pairs see it.
    pub(super) view: NamespaceView,
    /// The group whose access the namespace shares, where the controller reports access.
    pub(super) access_group: Option<u32>,
    /// What the controller can do.
    pub(super) facts: ControllerFacts,
}

/// What an I/O queue needs to join a controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueGrant {
    /// The controller.
    pub controller_id: u16,
    /// Queues from 1 to this may join.
    pub io_queues: u16,
    /// Most commands in flight on each, at most [`super::options::QUEUE_DEPTH_MAX`].
    pub depth: u16,
    /// Most in-capsule data.
    pub capsule_data_bytes_max: u32,
}

/// Who connects the I/O queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IoQueues {
    /// The connector, all that were granted.
    Connected,
    /// Somebody else, later: other cores.
    Granted,
}

/// The commands of the procedure, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Capabilities,
    Enable,
    Ready,
    IdentifyController,
    QueueCount,
    Namespaces,
    Namespace,
    Descriptors,
    Events,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Capabilities => "reading the controller's capabilities",
            Step::Enable => "enabling the controller",
            Step::Ready => "waiting for the controller to be ready",
            Step::IdentifyController => "Identify Controller",
            Step::QueueCount => "setting the number of queues",
            Step::Namespaces => "listing the active namespaces",
            Step::Namespace => "Identify Namespace",
            Step::Descriptors => "reading the namespace's identifiers",
            Step::Events => "asking for asynchronous events",
        }
    }
}

/// What is being waited for.
#[derive(Debug)]
enum Stage {
    JoiningAdmin { join: Box<Join>, queue: Box<Queue> },
    Asking { step: Step, waiting: Waiting },
    JoiningIo,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// The step's command is to be sent at this time.
    Until(Nanos),
    /// Its answer is due.
    Answer,
}

/// What was learnt so far.
#[derive(Debug, Default)]
struct Learnt {
    controller_id: u16,
    capabilities: Capabilities,
    facts: Option<ControllerFacts>,
    io_queues: u16,
    namespace_id: u32,
    view: Option<NamespaceView>,
    nguid: [u8; 16],
    uuid: Option<Uuid>,
    access_group: u32,
    /// Events that the controller has (OAES).
    events: u32,
}

/// Connects to a subsystem.
#[derive(Debug)]
pub struct Connector {
    options: ConnectOptions,
    io: IoQueues,
    association: Association,
    deadline: Nanos,
    stage: Stage,
    admin: Option<RemoteController>,
    queue_pairs: Vec<InitiatorQueuePair>,
    learnt: Learnt,
    /// What Identify data goes into.
    data: Option<DmaBuffer>,
}

impl Connector {
    /// Starts to connect. Slow path: allocates.
    ///
    /// # Errors
    /// The options are wrong, or no socket or memory is to be had.
    pub fn start(cx: &mut Cx, options: ConnectOptions) -> Result<Self, ConnectError> {
        Self::start_with(cx, options, IoQueues::Connected)
    }

    /// The same, but for the I/O queues, which others are to join.
    pub(super) fn start_admin(cx: &mut Cx, options: ConnectOptions) -> Result<Self, ConnectError> {
        Self::start_with(cx, options, IoQueues::Granted)
    }

    fn start_with(
        cx: &mut Cx,
        options: ConnectOptions,
        io: IoQueues,
    ) -> Result<Self, ConnectError> {
        options.check()?;
        let association = Association::of(&options);
        let identity = QueueIdentity {
            queue_id: ADMIN_QUEUE_ID,
            controller_id: CONTROLLER_ID_DYNAMIC,
            depth: ADMIN_DEPTH,
            keep_alive_ms: options.keep_alive_ms,
        };
        let data = cx.dma.take(IDENTIFY_LEN_BYTES).ok_or(ConnectError::OutOfMemory)?;
        let (join, queue) = match Join::start(cx, &association, identity) {
            Ok(started) => started,
            Err(error) => {
                cx.dma.give(data);
                return Err(error);
            }
        };
        Ok(Self {
            deadline: cx.now() + Nanos::from(options.connect_timeout),
            options,
            io,
            association,
            stage: Stage::JoiningAdmin { join: Box::new(join), queue: Box::new(queue) },
            admin: None,
            queue_pairs: Vec::new(),
            learnt: Learnt::default(),
            data: Some(data),
        })
    }

    /// Goes on as far as it can without waiting. Once a pass.
    ///
    /// # Panics
    /// When polled again after it was done.
    pub fn poll(&mut self, cx: &mut Cx) -> Progress {
        match self.try_poll(cx) {
            Ok(Poll::Pending) if cx.now() >= self.deadline => {
                let error = ConnectError::TimedOut {
                    address: self.options.address,
                    step: self.step_name(),
                    timeout: self.options.connect_timeout,
                };
                self.cancel(cx);
                Progress::Failed(error)
            }
            Ok(Poll::Pending) => Progress::Pending,
            Ok(Poll::Ready(namespace)) => Progress::Ready(Box::new(namespace)),
            Err(error) => {
                self.cancel(cx);
                Progress::Failed(error)
            }
        }
    }

    /// When it must be polled next, beside a report of its socket.
    pub fn wake(&self) -> Wake {
        let is_busy = match &self.stage {
            Stage::JoiningAdmin { queue, .. } => queue.has_work(),
            Stage::Asking { waiting: Waiting::Until(time), .. } => return Wake::At(*time),
            Stage::Asking { .. } => {
                self.admin.as_ref().is_some_and(|admin| admin.wake() == Wake::Now)
            }
            Stage::JoiningIo => true,
            Stage::Done => return Wake::Never,
        };
        if is_busy { Wake::Now } else { Wake::At(self.deadline) }
    }

    /// Gives up: closes what was opened and gives back what was taken.
    pub fn cancel(&mut self, cx: &mut Cx) {
        if let Stage::JoiningAdmin { join, queue } = &mut self.stage {
            queue.abort(cx);
            join.release(cx);
        }
        self.stage = Stage::Done;
        for queue_pair in &mut self.queue_pairs {
            queue_pair.close(cx);
        }
        self.queue_pairs.clear();
        if let Some(mut admin) = self.admin.take() {
            admin.close(cx);
        }
        if let Some(data) = self.data.take() {
            cx.dma.give(data);
        }
    }

    fn step_name(&self) -> &'static str {
        match &self.stage {
            Stage::JoiningAdmin { join, .. } => join.step(),
            Stage::Asking { step, .. } => step.name(),
            Stage::JoiningIo | Stage::Done => "connecting the I/O queues",
        }
    }

    fn try_poll(&mut self, cx: &mut Cx) -> Result<Poll<RemoteNamespace>, ConnectError> {
        loop {
            let moved = match self.stage {
                Stage::JoiningAdmin { .. } => self.poll_admin_join(cx)?,
                Stage::Asking { step, waiting } => self.poll_step(cx, step, waiting)?,
                Stage::JoiningIo => return self.poll_io_joins(cx),
                Stage::Done => panic!("a connector that is done must not be polled"),
            };
            if !moved {
                return Ok(Poll::Pending);
            }
        }
    }

    fn poll_admin_join(&mut self, cx: &mut Cx) -> Result<bool, ConnectError> {
        let Stage::JoiningAdmin { join, queue } = &mut self.stage else {
            unreachable!("the caller saw this stage")
        };
        let Poll::Ready(joined) = join.poll(cx, queue) else { return Ok(false) };
        self.learnt.controller_id = joined?;
        let now = cx.now();
        let next = Stage::Asking { step: Step::Capabilities, waiting: Waiting::Until(now) };
        let Stage::JoiningAdmin { queue, .. } = std::mem::replace(&mut self.stage, next) else {
            unreachable!("the caller saw this stage")
        };
        let identity = ControllerIdentity::default();
        let keep_alive_ms = self.options.keep_alive_ms;
        self.admin = Some(RemoteController::new(*queue, identity, keep_alive_ms, now));
        Ok(true)
    }

    fn admin(&mut self) -> &mut RemoteController {
        self.admin.as_mut().expect("the admin queue has joined")
    }

    fn poll_step(
        &mut self,
        cx: &mut Cx,
        step: Step,
        waiting: Waiting,
    ) -> Result<bool, ConnectError> {
        let address = self.options.address;
        let queue = self.admin().queue_mut();
        queue.poll(cx);
        if let Some(source) = queue.failure() {
            return Err(ConnectError::Connection { address, step: step.name(), source });
        }
        match waiting {
            Waiting::Until(time) if cx.now() < time => Ok(false),
            Waiting::Until(_) => {
                let command = self.command(step);
                let queue = self.admin().queue_mut();
                let accepted = queue.submit(command, cx.now());
                assert!(accepted, "one command at a time fits the admin queue");
                queue.flush(cx);
                self.stage = Stage::Asking { step, waiting: Waiting::Answer };
                Ok(true)
            }
            Waiting::Answer => {
                let Some(ended) = queue.take_ended() else { return Ok(false) };
                let now = cx.now();
                let next = self.answer(step, ended)?;
                match next {
                    Some(next) => {
                        let again = next == Step::Ready && step == Step::Ready;
                        let when = if again { now + READY_INTERVAL } else { now };
                        self.stage = Stage::Asking { step: next, waiting: Waiting::Until(when) };
                    }
                    None => self.begin_joins(cx)?,
                }
                Ok(true)
            }
        }
    }

    fn command(&self, step: Step) -> Command {
        let (entry, has_data) = match step {
            Step::Capabilities => (property_get(CAPABILITIES_OFFSET, PropertySize::Eight), false),
            Step::Enable => (enable(), false),
            Step::Ready => (property_get(STATUS_OFFSET, PropertySize::Four), false),
            Step::IdentifyController => {
                (SubmissionEntry::for_identify(0, 0, IdentifyKind::Controller), true)
            }
            Step::QueueCount => (set_queue_count(self.options.io_queues), false),
            Step::Events => (ask_for_events(self.learnt.events), false),
            Step::Namespaces => {
                (SubmissionEntry::for_identify(0, 0, IdentifyKind::ActiveNamespaces), true)
            }
            Step::Namespace => (
                SubmissionEntry::for_identify(0, self.learnt.namespace_id, IdentifyKind::Namespace),
                true,
            ),
            Step::Descriptors => (
                SubmissionEntry::for_identify(
                    0,
                    self.learnt.namespace_id,
                    IdentifyKind::NamespaceDescriptors,
                ),
                true,
            ),
        };
        let data = if has_data {
            let buffer = self.data.as_ref().expect("kept until the I/O queues join");
            CommandData::ToHost(Memory::One(buffer.segment(IDENTIFY_LEN_BYTES)))
        } else {
            CommandData::Nothing
        };
        Command { entry, data, token: 0 }
    }

    /// Takes the answer to a step in; gives the step to take next, or none after the last.
    fn answer(&mut self, step: Step, ended: Ended) -> Result<Option<Step>, ConnectError> {
        // Controllers before NVMe 1.3 have no descriptors, and need none; without events a change
        // is seen late.
        let optional = matches!(step, Step::Descriptors | Step::Events);
        if !ended.status.is_success() && !optional {
            let step = step.name();
            return Err(ConnectError::Refused { step, status: ended.status });
        }
        Ok(Some(match step {
            Step::Capabilities => {
                self.learnt.capabilities = Capabilities(ended.result);
                Step::Enable
            }
            Step::Enable => Step::Ready,
            Step::Ready => {
                let status = ControllerStatus(ended.result_dword());
                if status.is_fatal() {
                    return Err(ConnectError::ControllerFatal);
                }
                if status.is_ready() { Step::IdentifyController } else { Step::Ready }
            }
            Step::IdentifyController => {
                self.learn_controller();
                Step::QueueCount
            }
            Step::QueueCount => {
                self.learnt.io_queues =
                    granted_queues(ended.result_dword()).min(self.options.io_queues);
                Step::Namespaces
            }
            Step::Namespaces => {
                self.choose_namespace()?;
                Step::Namespace
            }
            Step::Namespace => {
                self.learn_namespace()?;
                Step::Descriptors
            }
            Step::Descriptors => {
                let bytes = if ended.status.is_success() { *self.bytes() } else { [0; _] };
                self.learnt.uuid = uuid_of(&bytes, self.learnt.nguid);
                if self.io == IoQueues::Connected {
                    return Ok(None);
                }
                Step::Events
            }
            Step::Events => return Ok(None),
        }))
    }

    fn bytes(&self) -> &[u8; IDENTIFY_BYTES] {
        let buffer = self.data.as_ref().expect("kept until the I/O queues join");
        let bytes = buffer.bytes(IDENTIFY_LEN_BYTES);
        bytes.first_chunk().expect("a slice of this length")
    }

    fn learn_controller(&mut self) {
        let identify = view_of::<IdentifyController>(self.bytes());
        let identity = ControllerIdentity {
            model: text(&identify.model_number),
            serial: text(&identify.serial_number),
            firmware: text(&identify.firmware_revision),
            controller_id: self.learnt.controller_id,
            instance: Instance::of(&text(&identify.model_number), &identify.vendor),
        };
        let events = identify.async_events.get();
        let facts = ControllerFacts::new(self.learnt.capabilities, identify);
        self.learnt.facts = Some(facts);
        self.learnt.events = events;
        self.admin().set_identity(identity);
    }

    fn choose_namespace(&mut self) -> Result<(), ConnectError> {
        let list = view_of::<NamespaceList>(self.bytes());
        let wanted = self.options.namespace_id;
        let chosen = list.iter().find(|id| wanted.is_none_or(|wanted| wanted == *id));
        let subsystem_nqn = self.options.subsystem_nqn.to_string();
        self.learnt.namespace_id = chosen.ok_or(ConnectError::NoNamespace { subsystem_nqn })?;
        Ok(())
    }

    fn learn_namespace(&mut self) -> Result<(), ConnectError> {
        let identify = view_of::<IdentifyNamespace>(self.bytes());
        let facts = self.learnt.facts.expect("the controller was identified first");
        let nguid = identify.nguid;
        let access_group = identify.ana_group_id.get();
        self.learnt.view = Some(view(self.learnt.namespace_id, &facts, identify)?);
        self.learnt.nguid = nguid;
        self.learnt.access_group = access_group;
        Ok(())
    }

    /// What an I/O queue needs to join.
    fn grant(&self) -> QueueGrant {
        let facts = self.learnt.facts.expect("the controller was identified");
        let mut depth = self.options.queue_depth;
        for limit in [u32::from(self.learnt.capabilities.queue_entries_last()), facts.commands_max]
        {
            if limit > 0 {
                depth = depth.min(limit);
            }
        }
        QueueGrant {
            controller_id: self.learnt.controller_id,
            io_queues: self.learnt.io_queues,
            depth: u16::try_from(depth).expect("the options were checked: at most 1023"),
            capsule_data_bytes_max: facts.capsule_data_bytes_max,
        }
    }

    fn begin_joins(&mut self, cx: &mut Cx) -> Result<(), ConnectError> {
        let namespace = self.learnt.view.expect("the namespace was identified");
        let grant = self.grant();
        let joined_here = if self.io == IoQueues::Connected { grant.io_queues } else { 0 };
        for queue_id in 1..=joined_here {
            let joining = grant.join(cx, &self.association, queue_id, namespace)?;
            self.queue_pairs.push(joining);
        }
        if let Some(data) = self.data.take() {
            cx.dma.give(data);
        }
        self.stage = Stage::JoiningIo;
        Ok(())
    }

    fn poll_io_joins(&mut self, cx: &mut Cx) -> Result<Poll<RemoteNamespace>, ConnectError> {
        self.admin().poll(cx);
        let mut all = true;
        for queue_pair in &mut self.queue_pairs {
            if let Some(error) = queue_pair.poll_join(cx) {
                return Err(error);
            }
            all &= queue_pair.is_joined();
        }
        if let Some(source) = self.admin().failure() {
            let (address, step) = (self.options.address, self.step_name());
            return Err(ConnectError::Connection { address, step, source });
        }
        if !all {
            return Ok(Poll::Pending);
        }
        self.stage = Stage::Done;
        let view = self.learnt.view.expect("the namespace was identified");
        let facts = self.learnt.facts.expect("the controller was identified");
        let NamespaceView { namespace_id, geometry, limits, .. } = view;
        Ok(Poll::Ready(RemoteNamespace {
            namespace_id,
            geometry,
            limits,
            uuid: self.learnt.uuid,
            queue_pairs: std::mem::take(&mut self.queue_pairs),
            admin: self.admin.take().expect("the admin queue has joined"),
            grant: self.grant(),
            view,
            access_group: facts.reports_access.then_some(self.learnt.access_group),
            facts,
        }))
    }
}

impl QueueGrant {
    /// Starts to join a queue of the controller.
    pub fn join(
        &self,
        cx: &mut Cx,
        association: &Association,
        queue_id: u16,
        namespace: NamespaceView,
    ) -> Result<InitiatorQueuePair, ConnectError> {
        let QueueGrant { controller_id, depth, capsule_data_bytes_max, .. } = *self;
        let depth = u32::from(depth);
        let identity = QueueIdentity { queue_id, controller_id, depth, keep_alive_ms: 0 };
        let (join, queue) = Join::start(cx, association, identity)?;
        Ok(InitiatorQueuePair::joining(join, queue, namespace, capsule_data_bytes_max))
    }
}

pub(super) fn view_of<T>(bytes: &[u8; IDENTIFY_BYTES]) -> &T
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    T::ref_from_bytes(bytes).expect("every Identify structure has 4096 bytes")
}

pub(super) fn property_get(offset: u32, size: PropertySize) -> SubmissionEntry {
    PropertyCommand::get(0, offset, size).entry()
}

pub(super) fn enable() -> SubmissionEntry {
    let value = u64::from(Configuration::enabled().0);
    PropertyCommand::set(0, CONFIGURATION_OFFSET, PropertySize::Four, value).entry()
}

/// Events that are acted on, as far as the controller has them (OAES, which has the bits of the
/// feature).
fn ask_for_events(supported: u32) -> SubmissionEntry {
    let wanted = event::NAMESPACE | event::ANA;
    SubmissionEntry::set_feature(0, ASYNC_EVENT_CONFIGURATION, wanted & supported)
}

fn set_queue_count(io_queues: u16) -> SubmissionEntry {
    let last = u32::from(io_queues.saturating_sub(1));
    SubmissionEntry::set_feature(0, NUMBER_OF_QUEUES, last | last << 16)
}

/// How many pairs of queues were granted: the fewer of submission and completion queues.
fn granted_queues(result: u32) -> u16 {
    let [low, high, third, fourth] = result.to_le_bytes();
    let submission = u16::from_le_bytes([low, high]);
    submission.min(u16::from_le_bytes([third, fourth])).saturating_add(1)
}
