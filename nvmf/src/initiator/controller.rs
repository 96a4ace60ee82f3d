//! The admin side of a connected controller: who it is, and keeping the association alive.
//!
//! Belongs to the core that connected; that core polls it every pass like a queue pair. A keep
//! alive goes out at half the agreed time (NVMe Base 2.0 section 3.9); one that is not answered
//! within the whole of it ends the admin connection, which the owner sees as a failure.

use std::collections::VecDeque;

use bdev::nvme::command::SubmissionEntry;
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;

use super::error::ConnectionError;
use super::queue::{Command, CommandData, Ended, Queue};
use crate::target::subsystem::MODEL;

/// Who a controller says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerIdentity {
    /// Model number, without its padding.
    pub model: String,
    /// Serial number, without its padding.
    pub serial: String,
    /// Firmware revision, without its padding.
    pub firmware: String,
    /// Identifier of the controller within its subsystem.
    pub controller_id: u16,
    /// Which run of the target it is, where the target says so.
    pub instance: Instance,
}

/// Which run of a target a controller belongs to. What a run has completed and not flushed may be
/// lost with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instance {
    /// One of our own targets: random bytes that each run draws for its subsystem.
    Own([u8; INSTANCE_BYTES]),
    /// It does not say: another run each time that its controller is connected.
    #[default]
    Foreign,
}

/// Length of [`Instance::Own`].
pub const INSTANCE_BYTES: usize = 16;

impl Instance {
    /// What a controller says: our targets are known by their model, and say it in the first
    /// vendor specific bytes of Identify Controller.
    pub(super) fn of(model: &str, vendor: &[u8]) -> Instance {
        match vendor.first_chunk() {
            Some(bytes) if model == MODEL && *bytes != [0; INSTANCE_BYTES] => Instance::Own(*bytes),
            _ => Instance::Foreign,
        }
    }

    /// The run as a name that others can keep; nothing where it does not say.
    pub fn run(self) -> Option<Uuid> {
        match self {
            Instance::Own(bytes) => Some(Uuid::from_bytes(bytes)),
            Instance::Foreign => None,
        }
    }

    /// True when nothing that `earlier` has completed can have been lost since.
    pub fn is_same_run(self, earlier: Instance) -> bool {
        self == earlier && self != Instance::Foreign
    }
}

#[derive(Clone, Copy, Debug)]
struct KeepAlive {
    interval: Nanos,
    timeout: Nanos,
    next: Nanos,
    /// When the one in flight was sent.
    sent: Option<Nanos>,
}

/// The admin queue of a connected controller.
#[derive(Debug)]
pub struct RemoteController {
    queue: Queue,
    identity: ControllerIdentity,
    keep_alive: Option<KeepAlive>,
    /// Answers to what others submitted, not taken yet. Never more than the queue is deep.
    answers: VecDeque<Ended>,
}

/// The token of keep alives; those of other commands are above.
const KEEP_ALIVE_TOKEN: u64 = 0;

impl RemoteController {
    pub(super) fn new(
        queue: Queue,
        identity: ControllerIdentity,
        keep_alive_ms: u32,
        now: Nanos,
    ) -> Self {
        let timeout = Nanos::from_millis(u64::from(keep_alive_ms));
        let interval = Nanos(timeout.0 / 2);
        let next = now + interval;
        let keep_alive = KeepAlive { interval, timeout, next, sent: None };
        let answers = VecDeque::with_capacity(queue.depth() as usize);
        let keep_alive = (keep_alive_ms > 0).then_some(keep_alive);
        Self { queue, identity, keep_alive, answers }
    }

    /// Who it is.
    pub fn identity(&self) -> &ControllerIdentity {
        &self.identity
    }

    /// Why the admin connection ended, once it has. The I/O queues have lost their controller then.
    pub fn failure(&self) -> Option<ConnectionError> {
        self.queue.failure()
    }

    /// Sends what is due and takes what came. Once a pass.
    pub fn poll(&mut self, cx: &mut Cx) {
        self.queue.poll(cx);
        while let Some(ended) = self.queue.take_ended() {
            // Any answer, whatever its status, shows that the controller lives.
            if ended.token != KEEP_ALIVE_TOKEN {
                self.answers.push_back(ended);
            } else if let Some(keep_alive) = &mut self.keep_alive {
                keep_alive.sent = None;
            }
        }
        let now = cx.now();
        let Some(keep_alive) = &mut self.keep_alive else { return };
        if let Some(sent) = keep_alive.sent
            && now.since(sent) > keep_alive.timeout
        {
            self.queue.time_out(cx);
            return;
        }
        if now >= keep_alive.next && keep_alive.sent.is_none() && self.queue.is_connected() {
            let entry = SubmissionEntry::keep_alive(0);
            let data = CommandData::Nothing;
            let command = Command { entry, data, token: KEEP_ALIVE_TOKEN };
            if self.queue.submit(command, now) {
                keep_alive.sent = Some(now);
                keep_alive.next = now + keep_alive.interval;
                self.queue.flush(cx);
            }
        }
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        if !self.queue.is_open() {
            return Wake::Never;
        }
        if self.queue.has_work() {
            return Wake::Now;
        }
        match self.keep_alive {
            Some(KeepAlive { sent: Some(sent), timeout, .. }) => Wake::At(sent + timeout),
            Some(KeepAlive { next, .. }) => Wake::At(next),
            None => Wake::Descriptor,
        }
    }

    /// False when something was reported of its socket that no poll has seen.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        !self.queue.is_pending(cx)
    }

    /// Closes the admin connection, and with it the association: the target drops the I/O queues.
    pub fn close(&mut self, cx: &mut Cx) {
        self.queue.abort(cx);
        while self.queue.take_ended().is_some() {}
    }

    /// Sends a command with a token of its own; false when there is no room. Answered through
    /// [`RemoteController::take_answer`], but not by a connection that ends first.
    pub(super) fn ask(&mut self, cx: &mut Cx, command: Command) -> bool {
        assert!(command.token != KEEP_ALIVE_TOKEN, "the token of keep alives is theirs");
        let accepted = self.queue.submit(command, cx.now());
        self.queue.flush(cx);
        accepted
    }

    /// The next answer.
    pub(super) fn take_answer(&mut self) -> Option<Ended> {
        self.answers.pop_front()
    }

    pub(super) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    pub(super) fn set_identity(&mut self, identity: ControllerIdentity) {
        self.identity = identity;
    }
}
