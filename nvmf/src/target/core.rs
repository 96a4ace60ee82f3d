//! One core of the target: its connections, its roots, and the phases of a pass.
//!
//! A [`Service`] of the reactor. The first core also listens and keeps the register of
//! controllers; accepted streams are dealt to the cores in turn. Connections with something to do
//! are kept in three short lists (receive, send, starved of buffers), so that a pass costs nothing
//! for the others; deadlines are looked at by a slow sweep.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bdev::{Completion, Completions};
use reactor::histogram::Histogram;
use reactor::mesh::{CoreIndex, Peers};
use reactor::slab::{Slab, SlotId};
use reactor::socket::{AcceptedStream, Listener, Ready, Socket, SocketKey};
use reactor::{Cx, Nanos, Service, Wake};

use super::connection::{CONNECTIONS_PER_CORE_MAX, Connection, Queue, parts};
use super::core_state::{CoreState, ERROR_REPORTS_PER_SWEEP, HOME};
use super::description::{PortalId, TargetDescription};
use super::home::Home;
use super::limits::ADMIN_IN_CAPSULE_BYTES;
use super::message::Message;
use super::receive::Step;
use super::reservation::keeping::{Keeping, STORE_LOOK_INTERVAL};

/// Bytes received at once beyond what goes straight to a buffer.
const STAGING_BYTES: usize = 64 << 10;

/// Keys of listening sockets; connections use their slot's token.
const LISTENER_KEY_BIT: u64 = 1 << 61;

/// How often deadlines are looked at while there are connections.
const SWEEP_INTERVAL: Nanos = Nanos::from_millis(250);

/// The timer of the sweep.
const SWEEP_KEY: u64 = 1;

/// Streams accepted from one listener in one pass.
const ACCEPTS_PER_PASS: usize = 16;

/// Messages taken in one pass.
const MESSAGES_PER_PASS: usize = 64;

/// One core of the target.
#[derive(Debug)]
pub struct TargetCore {
    pub(super) connections: Slab<Box<Connection>>,
    pub(super) state: CoreState,
    pub(super) home: Option<Home>,
    /// The keeper of reservations, on the home core.
    pub(super) keeping: Option<Keeping>,
    listeners: Vec<(PortalId, Box<dyn Listener>)>,
    listener_ready: bool,
    next_core: u16,
    completions: Completions,
    staging: Box<[u8]>,
    sweep_armed: bool,
    stopping: Option<Nanos>,
}

impl TargetCore {
    /// A core of the target. Called on the core's own thread.
    pub fn new(description: Arc<TargetDescription>, peers: Peers<Message>) -> TargetCore {
        let is_home = peers.own() == HOME;
        let keeping = is_home.then(|| Keeping::new(peers.count(), &description));
        TargetCore {
            connections: Slab::with_capacity(CONNECTIONS_PER_CORE_MAX),
            state: CoreState::new(description, peers),
            home: is_home.then(Home::default),
            keeping,
            listeners: Vec::new(),
            listener_ready: false,
            next_core: 0,
            completions: Completions::new(),
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            sweep_armed: false,
            stopping: None,
        }
    }

    /// Listens on a bound socket. On the first core only.
    pub fn listen(
        &mut self,
        cx: &mut Cx,
        portal: PortalId,
        socket: OwnedFd,
    ) -> std::io::Result<()> {
        assert!(self.home.is_some(), "the first core listens");
        let key = SocketKey(LISTENER_KEY_BIT | u64::from(portal.0));
        self.listeners.push((portal, cx.network.listen(socket, key)?));
        Ok(())
    }

    /// Listens there no more; connections that came by it stay. On the first core only.
    pub fn stop_listening(&mut self, portal: PortalId) {
        self.listeners.retain(|(listening, _)| *listening != portal);
    }

    /// How long this core took over each I/O since it was started, from the parse of the command
    /// to the reply handed to the socket.
    pub fn service_times(&self) -> &Histogram {
        self.state.answers.service_times()
    }

    /// Serves a stream on this core. Its key is made before the socket is.
    pub(super) fn adopt(&mut self, cx: &mut Cx, stream: AcceptedStream) {
        // A stream that finds no slot, or no room in the epoll set, is closed by its drop.
        self.serve(cx, |cx, key| cx.network.adopt(stream, key).ok());
    }

    /// Serves a socket made by `open` for the key that it is given; the slot, when there is one.
    pub fn serve(
        &mut self,
        cx: &mut Cx,
        open: impl FnOnce(&mut Cx, SocketKey) -> Option<Box<dyn Socket>>,
    ) -> Option<SlotId> {
        if self.stopping.is_some() || self.connections.is_full() {
            return None;
        }
        let transfer_bytes_max = self.state.description.transfer_bytes_max();
        let rules = Connection::initial_rules(ADMIN_IN_CAPSULE_BYTES, transfer_bytes_max);
        let now = cx.now();
        let generation = cx.random.next_u64() as u32;
        let mut opened = None;
        let id = self.connections.insert_with(|id| {
            opened = open(cx, SocketKey(id.to_token()));
            // Replaced at once; a slot must be taken before the socket has its key.
            Box::new(Connection::new(rules, generation, now))
        });
        let id = id.ok()?;
        let Some(socket) = opened else {
            self.connections.remove(id);
            return None;
        };
        let connection = self.connections.get_mut(id).expect("the slot was just taken");
        connection.socket = Some(socket);
        cx.counters.connections += 1;
        self.arm_sweep(cx);
        Some(id)
    }

    pub(super) fn arm_sweep(&mut self, cx: &mut Cx) {
        if !self.sweep_armed {
            // No timer is free: the next connection, or the next pass of the sweep, tries again.
            self.sweep_armed = cx.timers.arm(cx.now() + SWEEP_INTERVAL, SWEEP_KEY).is_ok();
        }
    }

    /// Works on one connection, with what its core shares.
    pub(super) fn with<R>(
        &mut self,
        cx: &mut Cx,
        id: SlotId,
        work: impl FnOnce(&mut Connection, &mut Step<'_>, &mut [u8]) -> R,
    ) -> Option<R> {
        let connection = self.connections.get_mut(id)?;
        let mut step = Step { id, cx, core: &mut self.state };
        Some(work(connection, &mut step, &mut self.staging))
    }

    fn accept(&mut self, cx: &mut Cx) -> usize {
        if !self.listener_ready || self.stopping.is_some() {
            return 0;
        }
        self.listener_ready = false;
        let mut accepted = 0;
        for (_, listener) in &mut self.listeners {
            for _ in 0..ACCEPTS_PER_PASS {
                let Ok(stream) = listener.accept() else { break };
                let to = CoreIndex(self.next_core);
                self.next_core = (self.next_core + 1) % self.state.peers.count() as u16;
                self.state.send_message(to, Message::Adopt(stream));
                accepted += 1;
            }
        }
        if accepted > 0 {
            self.take_messages(cx);
        }
        accepted
    }

    /// Looks at every connection's deadline: half-open, dead, too slow, or without keep alive.
    fn sweep(&mut self, cx: &mut Cx) {
        let now = cx.now();
        if let Some(home) = &mut self.home {
            home.expire(now);
        }
        self.decide_connects();
        self.expire_reservations(cx);
        self.expire_looks(cx);
        self.state.roots.publish();
        self.state.error_reports_left = ERROR_REPORTS_PER_SWEEP;
        for admin in self.connections.iter_mut().filter_map(|(_, one)| one.admin.as_mut()) {
            admin.fail_if_overdue(now);
        }
        let late = |connection: &mut Connection| {
            let keep_alive = connection.admin.as_ref().and_then(|admin| admin.deadline());
            let due = [connection.deadline(), keep_alive].into_iter().flatten();
            connection.is_too_slow(now) || due.min().is_some_and(|by| by <= now)
        };
        let ids: Vec<SlotId> = self
            .connections
            .iter_mut()
            .filter_map(|(id, connection)| late(connection).then_some(id))
            .collect();
        for id in ids {
            cx.counters.protocol_errors += 1;
            self.with(cx, id, |connection, step, _| step.core.lost(connection, id, step.cx));
        }
    }

    /// Frees the slots of connections that are over.
    fn reap(&mut self, cx: &mut Cx) {
        let mut index = 0;
        while index < self.state.ending.len() {
            let id = self.state.ending[index];
            match self.connections.get(id) {
                Some(connection) if !connection.is_over() => index += 1,
                found => {
                    if found.is_some() {
                        let over = self.connections.remove(id).expect("it was just found");
                        cx.counters.connections -= 1;
                        self.state.closing.look_again();
                        if let Some(Queue { controller, id: queue_id @ 1.., .. }) = over.queue {
                            self.state.tell_home(Message::QueueClosed { controller, queue_id });
                        }
                    }
                    self.state.ending.swap_remove(index);
                }
            }
        }
    }

    fn poll_roots(&mut self, cx: &mut Cx) -> usize {
        let mut count = 0;
        let mut place = 0;
        self.state.roots.flush(cx);
        while place < self.state.roots.busy_count() {
            self.state.roots.poll(cx, place, &mut self.completions);
            for index in 0..self.completions.as_slice().len() {
                let completion = self.completions.as_slice()[index];
                self.complete(cx, completion);
                count += 1;
            }
            self.completions.drain();
            if !self.state.roots.unlist_if_idle(place) {
                place += 1;
            }
        }
        count
    }

    /// An I/O has ended: its request goes on.
    pub(super) fn complete(&mut self, cx: &mut Cx, completion: Completion) {
        let (connection, slot, generation) = parts(completion.token);
        let id = self.connections.id_at(connection).expect("a connection outlives its tokens");
        let connection = self.connections.get_mut(id).expect("the slot is in use");
        let known = connection.requests[usize::from(slot)].generation;
        assert_eq!(known, generation, "a token completes once");
        if self.state.rights.fences.is_open() {
            self.state.rights.fences.completed(completion.token);
        }
        let mut step = Step { id, cx, core: &mut self.state };
        connection.device_completed(&mut step, slot, completion);
    }

    /// Receives from one connection, after what it could not take for lack of a buffer.
    fn receive_from(&mut self, cx: &mut Cx, id: SlotId) -> usize {
        let work = self.with(cx, id, |connection, step, staging| {
            let served = connection.retry_waiting(step);
            let done = connection.receive(step, staging);
            if connection.readable && connection.is_open() && connection.stash.is_empty() {
                step.core.mark_receive(connection, id);
            }
            served + done
        });
        work.unwrap_or(0)
    }

    /// Tries the starved connections in order. Who got something and wants more goes behind those
    /// who got nothing: with few buffers everybody has a turn.
    fn receive_starved(&mut self, cx: &mut Cx) -> usize {
        let mut work = 0;
        let count = self.state.starved_list.begin_turn();
        for index in 0..count {
            let id = self.state.starved_list.at(index);
            let Some(connection) = self.connections.get(id) else { continue };
            let before = connection.starvation();
            // It stays marked as listed meanwhile, so that its place is decided here.
            work += self.receive_from(cx, id);
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.listed_starved = false;
            if connection.is_starved() && connection.starvation() == before {
                self.state.mark_starved(connection, id);
            }
        }
        for index in 0..count {
            let id = self.state.starved_list.at(index);
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.is_starved() {
                self.state.mark_starved(connection, id);
            }
        }
        work
    }

    /// While stopping: connections that are done, or out of time, are closed.
    fn close_what_is_done(&mut self, cx: &mut Cx, deadline: Nanos) {
        let late = cx.now() >= deadline;
        let ids: Vec<SlotId> = self.connections.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.with(cx, id, |connection, step, _| {
                if late || connection.is_quiet() {
                    step.core.lost(connection, id, step.cx);
                }
            });
        }
    }
}

impl Service for TargetCore {
    fn take_messages(&mut self, cx: &mut Cx) -> usize {
        for taken in 0..MESSAGES_PER_PASS {
            let Some((_, message)) = self.state.peers.receive() else {
                return taken + self.decide_connects();
            };
            self.take_message(cx, message);
        }
        MESSAGES_PER_PASS
    }

    fn socket_ready(&mut self, _: &mut Cx, ready: Ready) {
        if ready.key.0 & LISTENER_KEY_BIT != 0 {
            self.listener_ready = true;
            return;
        }
        let id = SlotId::from_token(ready.key.0);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if ready.readable {
            connection.readable = true;
            connection.peer_closed |= ready.closed;
            self.state.mark_receive(connection, id);
        }
        if ready.writable && !connection.writable {
            connection.writable = true;
            if !connection.send_queue.is_empty() {
                self.state.mark_send(connection, id);
            }
        }
    }

    fn receive(&mut self, cx: &mut Cx) -> usize {
        let mut work = self.accept(cx);
        work += self.receive_starved(cx);
        for index in 0..self.state.receive_list.begin_turn() {
            let id = self.state.receive_list.at(index);
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.listed_receive = false;
            work += self.receive_from(cx, id);
        }
        work
    }

    fn poll_devices(&mut self, cx: &mut Cx) -> usize {
        let stored = match &self.keeping {
            Some(keeping) if keeping.is_storing() => self.take_stored(cx),
            _ => 0,
        };
        let looks = if self.state.looks.is_waiting() { self.take_looks(cx) } else { 0 };
        stored + looks + self.poll_roots(cx)
    }

    fn send(&mut self, cx: &mut Cx) -> usize {
        let mut work = 0;
        for index in 0..self.state.send_list.begin_turn() {
            let id = self.state.send_list.at(index);
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.listed_send = false;
            let done = self.with(cx, id, |connection, step, _| {
                let done = connection.send(step);
                if connection.writable && !connection.send_queue.is_empty() {
                    step.core.mark_send(connection, id);
                }
                done
            });
            work += done.unwrap_or(0);
        }
        if !self.state.answers.is_empty() {
            // One more look at the clock in a pass that answered: what the pass itself took.
            cx.counters.io_ns += self.state.answers.sent(cx.read_clock());
        }
        if let Some(deadline) = self.stopping {
            self.close_what_is_done(cx, deadline);
        }
        if !self.state.ending.is_empty() {
            self.reap(cx);
        }
        if self.state.closing.is_to_be_looked_at() {
            self.report_closed();
        }
        if self.state.rights.fences.is_open() {
            self.report_access();
        }
        self.state.retry_outbox();
        self.state.peers.publish();
        work
    }

    fn timer(&mut self, cx: &mut Cx, key: u64) {
        if key == SWEEP_KEY {
            self.sweep_armed = false;
            self.sweep(cx);
            let is_timed = self.home.as_ref().is_some_and(Home::is_timed)
                || self.keeping.as_ref().is_some_and(Keeping::is_timed);
            if is_timed || !self.connections.is_empty() {
                self.arm_sweep(cx);
            }
        }
    }

    fn wake(&self, cx: &Cx) -> Wake {
        let state = &self.state;
        let is_over = |id: &SlotId| self.connections.get(*id).is_none_or(|one| one.is_over());
        let listed = !state.receive_list.is_empty() || !state.send_list.is_empty();
        let unreported = state.closing.is_to_be_looked_at();
        if listed || unreported || !state.outbox.is_empty() || state.ending.iter().any(is_over) {
            return Wake::Now;
        }
        let stopping = self.stopping.map_or(Wake::Never, |by| Wake::At(by.max(cx.now())));
        let storing = match &self.keeping {
            Some(keeping) if keeping.is_storing() => Wake::At(cx.now() + STORE_LOOK_INTERVAL),
            _ => Wake::Never,
        };
        let looking = self.state.looks.wake(cx.now());
        self.state.roots.wake(stopping.soonest(storing).soonest(looking))
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        !self.state.peers.has_incoming() && self.state.roots.arm(cx)
    }

    fn stop(&mut self, cx: &mut Cx, deadline: Nanos) {
        self.stopping = Some(deadline);
        self.listeners.clear();
        self.close_what_is_done(cx, deadline);
    }

    fn stopped(&self) -> bool {
        self.stopping.is_some() && self.connections.is_empty()
    }
}
