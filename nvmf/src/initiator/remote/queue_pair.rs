//! A core's queue pair of a remote device: one I/O queue of its controller, joined when needed.
//!
//! While its session lives, an I/O goes straight to the connection; on its core's hot path this
//! layer is a look at the session a poll. I/O that comes before the queue has joined is held, in
//! order, for a bounded time; while the device is lost it fails or is held, as the options say. A
//! connection that breaks here ends the session for all cores: the supervisor is told, everything
//! in flight ends with a path status, and the next session's queue is joined at the next I/O. An
//! I/O that was accepted waits only while nothing of it is with the target.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::nvme::status::StatusCodeType;
use bdev::session::{Link, SessionState};
use bdev::{Busy, Completion, Completions, Io, Limits, Operation, QueuePair, Status, legality};
use reactor::{Cx, Nanos, Wake};

use super::super::error::ConnectionError;
use super::super::join::Association;
use super::super::queue_pair::{InitiatorQueuePair, NamespaceView};
use super::attic::Attic;
use super::device::Handle;
use super::event::LossReason;
use super::options::{ABORT_GRACE, JOIN_TIMEOUT, LOOKS_PER_TIMEOUT, WhenLost};
use super::shared::Note;

/// An I/O that nothing of is with the target.
#[derive(Clone, Copy, Debug)]
struct Held {
    io: Io,
    /// When it fails.
    until: Nanos,
}

/// The I/O queue of a session.
#[derive(Debug)]
struct Joined {
    pair: InitiatorQueuePair,
    session: u64,
    /// By when it must have joined; nothing once it has.
    join_by: Option<Nanos>,
}

/// What a queue pair is made of.
#[derive(Debug)]
pub(super) struct Setup {
    pub handle: Arc<Handle>,
    /// All but the address, which is the session's.
    pub association: Association,
    pub queue_id: u16,
    pub depth: u32,
    pub view: NamespaceView,
    /// Those of the device, compare-and-write included.
    pub limits: Limits,
    pub when_lost: WhenLost,
    pub io_timeout: Nanos,
}

/// See the module.
#[derive(Debug)]
pub(super) struct RemoteQueuePair {
    setup: Setup,
    attic: Attic,
    joined: Option<Joined>,
    /// The session as it was last seen.
    seen: SessionState,
    /// A session that this queue pair wants ended, and whether the supervisor was told.
    ended_session: Option<(u64, LossReason, Told)>,
    held: VecDeque<Held>,
    /// What ended outside the connection; never more than the depth.
    ended: VecDeque<Completion>,
    /// When I/O in flight is looked over next.
    look_at: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    No,
    Yes,
}

impl RemoteQueuePair {
    pub fn new(cx: &mut Cx, setup: Setup) -> RemoteQueuePair {
        let depth = setup.depth as usize;
        let seen = setup.handle.shared().sessions().state();
        let note = Note::Opened { queue_id: setup.queue_id, waker: cx.waker.clone() };
        // Without it this core is not woken by the end of a session, and sees it later.
        setup.handle.shared().note(note);
        RemoteQueuePair {
            attic: Attic::of(cx),
            joined: None,
            seen,
            ended_session: None,
            held: VecDeque::with_capacity(depth),
            ended: VecDeque::with_capacity(depth),
            look_at: Nanos(0),
            setup,
        }
    }

    /// Takes note of a session that has changed.
    #[inline]
    fn look(&mut self, cx: &mut Cx) {
        let state = self.setup.handle.shared().sessions().state();
        if state != self.seen || self.ended_session.is_some() {
            self.session_changed(cx, state);
        }
    }

    #[cold]
    fn session_changed(&mut self, cx: &mut Cx, state: SessionState) {
        let before = std::mem::replace(&mut self.seen, state);
        if let Some((session, reason, told)) = self.ended_session {
            if state.number != session || state.link == Link::Lost {
                self.ended_session = None;
            } else if told == Told::No {
                self.end_session(session, reason);
            }
        }
        let is_over = |joined: &Joined| {
            joined.session != state.number || matches!(state.link, Link::Lost | Link::Refused)
        };
        if self.joined.as_ref().is_some_and(is_over) {
            self.close(cx);
        }
        if state != before {
            self.release_held(cx.now());
        }
    }

    /// Fails what waits and no longer should: all of it when the device is lost and the options
    /// say so.
    fn release_held(&mut self, now: Nanos) {
        if let Err(status) = self.patience(now) {
            while let Some(held) = self.held.pop_front() {
                self.ended.push_back(Completion::new(held.io.token, status));
            }
        }
    }

    /// Tells the supervisor that a session must end.
    fn end_session(&mut self, session: u64, reason: LossReason) {
        let told = self.setup.handle.shared().note(Note::End { session, reason });
        self.ended_session = Some((session, reason, if told { Told::Yes } else { Told::No }));
    }

    /// Closes the connection; what was in flight has ended.
    #[cold]
    fn close(&mut self, cx: &mut Cx) {
        let Some(mut joined) = self.joined.take() else { return };
        joined.pair.close(cx);
        let lost = joined.pair.take_all_ended();
        self.ended.extend(lost);
    }

    /// The connection broke, or must end.
    #[cold]
    fn fail(&mut self, cx: &mut Cx, reason: LossReason) {
        let Some(joined) = &self.joined else { return };
        let session = joined.session;
        self.close(cx);
        self.end_session(session, reason);
    }

    /// Until when an I/O may wait now; the status with which it ends where it may not.
    fn patience(&self, now: Nanos) -> Result<Nanos, Status> {
        if self.seen.link == Link::Live && self.ended_session.is_none() {
            return Ok(now + JOIN_TIMEOUT);
        }
        match self.setup.when_lost {
            WhenLost::Fail => Err(self.lost_status()),
            WhenLost::Wait(bound) => Ok(now + Nanos::from(bound)),
        }
    }

    /// With what an I/O ends that cannot go.
    fn lost_status(&self) -> Status {
        match self.seen.link {
            Link::Live | Link::Lost => Status::HOST_PATHING_ERROR,
            Link::Inaccessible => Status::ANA_INACCESSIBLE,
            Link::Refused => Status::HOST_PATHING_ERROR.with_do_not_retry(),
        }
    }

    /// An I/O that cannot go now.
    #[cold]
    fn hold(&mut self, now: Nanos, io: Io) {
        let checked = legality::check(&io, &self.setup.view.geometry, &self.setup.limits);
        match checked.and_then(|()| self.patience(now)) {
            Ok(until) => self.held.push_back(Held { io, until }),
            Err(status) => self.ended.push_back(Completion::new(io.token, status)),
        }
    }

    /// Submits to the connection; false when it has no room.
    #[inline]
    fn forward(&mut self, cx: &mut Cx, io: Io) -> bool {
        let Some(joined) = &mut self.joined else { return false };
        // A way that is closed at present is not used, though the queue stands.
        if joined.join_by.is_some() || self.seen.link != Link::Live {
            return false;
        }
        if io.operation == Operation::CompareAndWrite {
            let setup = &self.setup;
            if let Err(status) = legality::check(&io, &setup.view.geometry, &setup.limits) {
                self.ended.push_back(Completion::new(io.token, status));
                return true;
            }
            return joined.pair.submit_fused(cx, &io);
        }
        joined.pair.submit(cx, io).is_ok()
    }

    /// Joins the queue of a live session, if there is I/O for it.
    fn join(&mut self, cx: &mut Cx) {
        if self.joined.is_none() {
            let is_live = self.seen.link == Link::Live && self.ended_session.is_none();
            if self.held.is_empty() || !is_live {
                return;
            }
            // Nothing when the session has ended by now: the next look sees it.
            let granted = self.setup.handle.shared().grant(self.seen);
            let Some((grant, address)) = granted else { return };
            let Setup { association, queue_id, view, .. } = &self.setup;
            let association = Association { address, ..*association };
            let joining = match *queue_id <= grant.io_queues {
                true => grant.join(cx, &association, *queue_id, *view).ok(),
                false => None,
            };
            let Some(pair) = joining else { return };
            let join_by = Some(cx.now() + JOIN_TIMEOUT);
            self.joined = Some(Joined { pair, session: self.seen.number, join_by });
        }
        let Some(Joined { pair, join_by, .. }) = &mut self.joined else { return };
        let Some(by) = *join_by else { return };
        if pair.poll_join(cx).is_some() || cx.now() >= by {
            self.fail(cx, LossReason::Join);
            self.release_held(cx.now());
        } else if pair.is_joined() {
            *join_by = None;
            self.look_at = cx.now();
        }
    }

    /// Sends what was held, in order, and ends what was held too long.
    fn send_held(&mut self, cx: &mut Cx) {
        while let Some(held) = self.held.front().copied() {
            if self.forward(cx, held.io) {
                self.held.pop_front();
            } else if held.until <= cx.now() && !self.can_send() {
                self.held.pop_front();
                let status = self.lost_status();
                self.ended.push_back(Completion::new(held.io.token, status));
            } else {
                return;
            }
        }
    }

    /// Whether an I/O that is held waits for nothing but room.
    fn can_send(&self) -> bool {
        let is_joined = self.joined.as_ref().is_some_and(|joined| joined.join_by.is_none());
        is_joined && self.seen.link == Link::Live
    }

    /// Looks for late I/O, once in a while.
    #[cold]
    fn look_for_late(&mut self, cx: &mut Cx) {
        let now = cx.now();
        let timeout = self.setup.io_timeout;
        self.look_at = now + Nanos((timeout.0 / LOOKS_PER_TIMEOUT).max(1));
        let Some(joined) = &mut self.joined else { return };
        if now <= timeout {
            return;
        }
        let session = joined.session;
        if now > timeout + ABORT_GRACE && joined.pair.is_stuck(now - timeout - ABORT_GRACE) {
            self.fail(cx, LossReason::IoTimeout);
            return;
        }
        let queue_id = self.setup.queue_id;
        while let Some(command_id) = joined.pair.take_late(now - timeout) {
            // One that is not aborted for want of room is reset with the controller all the same.
            self.setup.handle.shared().note(Note::Abort { session, queue_id, command_id });
        }
    }

    /// Looks at how I/Os ended that the target answered.
    #[inline]
    fn heed(&self, session: u64, ended: &[Completion]) {
        let is_path = |one: &Completion| {
            !one.status.is_success() && one.status.code_type() == StatusCodeType::Path
        };
        if ended.iter().any(is_path) {
            self.setup.handle.shared().note(Note::LookAtAccess { session });
        }
    }

    fn poll_joined(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        let Some(joined) = &mut self.joined else { return 0 };
        if joined.join_by.is_some() {
            return 0;
        }
        let before = completions.as_slice().len();
        let count = joined.pair.poll(cx, completions);
        let (session, failure) = (joined.session, joined.pair.failure());
        match failure {
            None => self.heed(session, &completions.as_slice()[before..]),
            Some(ConnectionError::Aborted) => self.fail(cx, LossReason::Aborted),
            Some(error) => self.fail(cx, LossReason::Io(error)),
        }
        if cx.now() >= self.look_at {
            self.look_for_late(cx);
        }
        count
    }
}

impl QueuePair for RemoteQueuePair {
    #[inline]
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        let inflight = self.inflight();
        if inflight >= self.setup.depth {
            return Err(Busy);
        }
        if inflight == 0 {
            // An idle queue pair is not polled: its session may have ended long ago.
            self.look(cx);
        }
        if !self.held.is_empty() || !self.forward(cx, io) {
            self.hold(cx.now(), io);
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut Cx) {
        if let Some(Joined { pair, join_by: None, .. }) = &mut self.joined {
            pair.flush(cx);
        }
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.look(cx);
        let mut count = self.poll_joined(cx, completions);
        if !self.held.is_empty() {
            self.join(cx);
            self.send_held(cx);
            self.flush(cx);
        }
        while completions.room() > 0
            && let Some(ended) = self.ended.pop_front()
        {
            completions.push(ended);
            count += 1;
        }
        count
    }

    fn credits(&self) -> u32 {
        self.setup.depth.saturating_sub(self.inflight())
    }

    fn inflight(&self) -> u32 {
        let outside = self.held.len() + self.ended.len();
        let outside = u32::try_from(outside).expect("no more than the depth");
        match &self.joined {
            Some(Joined { pair, join_by: None, .. }) => outside + pair.inflight_ios(),
            _ => outside,
        }
    }

    /// Ends what is held and closes the connection, which ends the session for all cores.
    fn abort_all(&mut self, cx: &mut Cx) {
        while let Some(held) = self.held.pop_front() {
            self.ended.push_back(Completion::new(held.io.token, Status::ABORTED_BY_HOST));
        }
        if self
            .joined
            .as_ref()
            .is_some_and(|joined| joined.join_by.is_some() || joined.pair.inflight() > 0)
        {
            self.fail(cx, LossReason::Aborted);
        }
    }

    fn wake(&self) -> Wake {
        if self.inflight() == 0 {
            return Wake::Never;
        }
        if !self.ended.is_empty() {
            return Wake::Now;
        }
        let held = self.held.front().map_or(Wake::Never, |held| Wake::At(held.until));
        match &self.joined {
            // The join of a live session begins at once.
            None if self.seen.link == Link::Live && self.ended_session.is_none() => Wake::Now,
            // The supervisor wakes the core.
            None => held,
            Some(Joined { join_by: Some(by), pair, .. }) => {
                pair.joining_wake().soonest(Wake::At(*by)).soonest(held)
            }
            Some(Joined { pair, .. }) => pair.wake().soonest(Wake::At(self.look_at)).soonest(held),
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        let seen = self.setup.handle.shared().sessions().state() == self.seen;
        let is_quiet = |joined: &mut Joined| joined.pair.arm(cx);
        seen && self.joined.as_mut().is_none_or(is_quiet)
    }
}

impl Drop for RemoteQueuePair {
    fn drop(&mut self) {
        if let Some(mut joined) = self.joined.take() {
            let (remains, data) = joined.pair.leave();
            self.attic.leave(remains, data);
        }
        self.setup.handle.shared().give_port(self.setup.queue_id);
    }
}
