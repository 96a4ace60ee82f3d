//! Reservations of the remote namespace, asked for in the name of the device's host.
//!
//! [`RemoteReservations`] is the device's end, for any thread. The supervisor has a [`Clerk`]: it
//! sends one command after the other over an I/O queue of its own, as they are commands of I/O
//! queues, which it joins when the first of a session comes and leaves with the session. What is
//! asked while the device is lost, and what its loss overtakes, ends with a path status. Nothing of
//! the cores' I/O passes here. NVMe Base 2.0 sections 7.2 to 7.5.

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::reservation::DeviceReservations;
use bdev::reservation::device::{Abilities, Answer, Outcome, Reply, Report, Request};
use bdev::reservation::nvme::host::{COMMAND_BYTES_MAX, CommandData as Data, REPORT_BYTES};
use bdev::{Memory, Status};
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, Wake};

use super::super::connect::QueueGrant;
use super::super::join::Association;
use super::super::queue::{Command, CommandData};
use super::super::queue_pair::{InitiatorQueuePair, NamespaceView};
use super::device::Handle;
use super::options::{IO_TIMEOUT_DEFAULT, JOIN_TIMEOUT};
use super::shared::{Note, Shared};

/// Requests that wait for their turn; what comes beyond them ends with a path status.
pub const REQUESTS_MAX: usize = 64;
/// How long a command may take; a target that aborts what others have in flight needs a while.
const COMMAND_TIMEOUT: Nanos = Nanos::from_secs(IO_TIMEOUT_DEFAULT.as_secs() + 2);
/// Depth of the queue, which has one command in flight.
const DEPTH: u16 = 2;
/// Bytes of the buffer for a command's data.
const BUFFER_BYTES: u32 = REPORT_BYTES;
const _: () = assert!(COMMAND_BYTES_MAX <= BUFFER_BYTES as usize);

/// A request on its way; it keeps the supervisor going until it is answered.
#[derive(Debug)]
pub(super) struct Asked {
    request: Request,
    reply: Reply,
    _handle: Arc<Handle>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct RemoteReservations {
    pub handle: Arc<Handle>,
    pub abilities: Abilities,
}

impl DeviceReservations for RemoteReservations {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn begin(&self, request: Request, reply: Reply) {
        let _handle = Arc::clone(&self.handle);
        // Where there is no room the reply is dropped, which is an answer.
        self.handle.shared().note(Note::Reserve(Box::new(Asked { request, reply, _handle })));
    }
}

/// The queue of a session.
#[derive(Debug)]
struct Open {
    pair: InitiatorQueuePair,
    queue_id: u16,
    session: u64,
    join_by: Nanos,
}

/// The command in flight.
#[derive(Debug)]
struct Flight {
    asked: Asked,
    buffer: DmaBuffer,
    until: Nanos,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clerk {
    waiting: VecDeque<Asked>,
    open: Option<Open>,
    flight: Option<Flight>,
}

impl Clerk {
    /// Takes a request; one too many is answered at once.
    pub fn ask(&mut self, asked: Asked) {
        if self.waiting.len() < REQUESTS_MAX {
            self.waiting.push_back(asked);
        }
    }

    /// True while nothing is asked of it.
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.waiting.is_empty()
    }

    /// Goes on, in a session that lives: `view` is its namespace.
    pub fn poll(
        &mut self,
        cx: &mut Cx,
        shared: &Shared,
        association: &Association,
        view: NamespaceView,
    ) {
        let session = shared.sessions().state().number;
        if self.open.as_ref().is_some_and(|open| open.session != session) {
            self.lose(cx, shared);
        }
        if self.flight.is_none() && self.waiting.is_empty() {
            return;
        }
        if self.open.is_none() && !self.join(cx, shared, association, view) {
            return self.lose(cx, shared);
        }
        let Some(open) = &mut self.open else { return };
        if !open.pair.is_joined() {
            let has_failed = open.pair.poll_join(cx).is_some() || cx.now() >= open.join_by;
            if has_failed {
                self.lose(cx, shared);
            }
            if self.open.as_ref().is_none_or(|open| !open.pair.is_joined()) {
                return;
            }
        }
        self.turn(cx, shared, view.namespace_id);
    }

    /// Sends what waits and takes what came, over a queue that stands.
    fn turn(&mut self, cx: &mut Cx, shared: &Shared, namespace_id: u32) {
        while let Some(open) = &mut self.open {
            if let Some(status) = open.pair.poll_command(cx)
                && let Some(flight) = self.flight.take()
            {
                finish(cx, flight, status);
            }
            if open.pair.failure().is_some()
                || self.flight.as_ref().is_some_and(|flight| cx.now() >= flight.until)
            {
                return self.lose(cx, shared);
            }
            if self.flight.is_some() {
                return;
            }
            let Some(asked) = self.waiting.pop_front() else { return };
            self.send(cx, asked, namespace_id);
        }
    }

    fn send(&mut self, cx: &mut Cx, asked: Asked, namespace_id: u32) {
        let Some(open) = &mut self.open else { return };
        let Some((entry, data)) = asked.request.to_nvme(namespace_id) else {
            return asked.reply.send(Err(Status::INVALID_FIELD));
        };
        let Some(buffer) = cx.dma.take(BUFFER_BYTES) else {
            return asked.reply.send(Err(Status::INTERNAL_ERROR));
        };
        let data = match data {
            Data::Sent(bytes, len) => {
                let len_bytes = u32::try_from(len).expect("a few bytes");
                let segment = buffer.segment(len_bytes);
                segment.write(0, &bytes[..len]);
                CommandData::ToController(Memory::One(segment))
            }
            Data::Received(len_bytes) => {
                CommandData::ToHost(Memory::One(buffer.segment(len_bytes)))
            }
        };
        if !open.pair.submit_command(cx, Command { entry, data, token: 0 }) {
            cx.dma.give(buffer);
            return asked.reply.send(Err(Status::INTERNAL_PATH_ERROR));
        }
        self.flight = Some(Flight { asked, buffer, until: cx.now() + COMMAND_TIMEOUT });
    }

    /// Starts to join a queue; false where there is none to be had.
    fn join(
        &mut self,
        cx: &mut Cx,
        shared: &Shared,
        association: &Association,
        view: NamespaceView,
    ) -> bool {
        let state = shared.sessions().state();
        let Some((grant, address)) = shared.grant(state) else { return false };
        let Some(queue_id) = shared.take_port(grant.io_queues) else { return false };
        let association = Association { address, ..*association };
        let grant = QueueGrant { depth: grant.depth.min(DEPTH), ..grant };
        let Ok(pair) = grant.join(cx, &association, queue_id, view) else {
            shared.give_port(queue_id);
            return false;
        };
        let (session, join_by) = (state.number, cx.now() + JOIN_TIMEOUT);
        self.open = Some(Open { pair, queue_id, session, join_by });
        true
    }

    /// Ends everything with a path status, and leaves the queue.
    pub fn lose(&mut self, cx: &mut Cx, shared: &Shared) {
        if let Some(mut open) = self.open.take() {
            // With the connection nothing of it can touch the buffer any more.
            open.pair.close(cx);
            shared.give_port(open.queue_id);
        }
        if let Some(flight) = self.flight.take() {
            finish(cx, flight, Status::INTERNAL_PATH_ERROR);
        }
        self.waiting.clear();
    }

    /// When it must be polled next, beside a report of its socket.
    pub fn wake(&self) -> Wake {
        match (&self.open, &self.flight) {
            (Some(open), _) if !open.pair.is_joined() => {
                open.pair.joining_wake().soonest(Wake::At(open.join_by))
            }
            (Some(open), Some(flight)) => {
                bdev::QueuePair::wake(&open.pair).soonest(Wake::At(flight.until))
            }
            _ if self.waiting.is_empty() => Wake::Never,
            _ => Wake::Now,
        }
    }
}

/// Answers a request whose command has ended.
fn finish(cx: &mut Cx, flight: Flight, status: Status) {
    let Flight { asked, buffer, .. } = flight;
    let outcome: Outcome = match (status.is_success(), asked.request) {
        (false, _) => Err(status),
        (true, Request::Change(_)) => Ok(Answer::Changed),
        (true, Request::Report) => Report::from_nvme(buffer.bytes(REPORT_BYTES))
            .map(Answer::Report)
            .ok_or(Status::INTERNAL_ERROR),
    };
    cx.dma.give(buffer);
    asked.reply.send(outcome);
}
