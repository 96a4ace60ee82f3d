//! The admin side of a connected controller: who it is, and keeping the association alive.
//!
//! Belongs to the core that connected; that core polls it every pass like a queue pair. A keep
//! alive goes out at half the agreed time (NVMe Base 2.0 section 3.9); one that is not answered
//! within the whole of it ends the admin connection, which the owner sees as a failure.

use bdev::nvme::command::SubmissionEntry;
use reactor::{Cx, Nanos, Wake};

use super::error::ConnectionError;
use super::queue::{Command, CommandData, Queue};

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
}

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
        Self { queue, identity, keep_alive: (keep_alive_ms > 0).then_some(keep_alive) }
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
        while self.queue.take_ended().is_some() {
            // Any answer, whatever its status, shows that the controller lives.
            if let Some(keep_alive) = &mut self.keep_alive {
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
            let command = Command { entry, data: CommandData::Nothing, token: 0 };
            if self.queue.submit(command) {
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

    pub(super) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    pub(super) fn set_identity(&mut self, identity: ControllerIdentity) {
        self.identity = identity;
    }
}
