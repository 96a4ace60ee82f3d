//! One core of the target: its connections, its roots, and the phases of a pass.
//!
//! A [`Service`] of the reactor. The first core also listens; accepted streams are dealt to the
//! cores in turn. Connections with something to do are in short lists, so that a pass costs nothing
//! for the others; deadlines are looked at by a slow sweep.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bdev::{Completion, Completions};
use reactor::mesh::{CoreIndex, Peers};
use reactor::slab::{Slab, SlotId};
use reactor::socket::{AcceptedStream, Listener, Ready, Socket, SocketKey};
use reactor::{Cx, Nanos, Service, Wake};

use super::connection::{CONNECTIONS_PER_CORE_MAX, Connection, Phase, parts};
use super::description::TargetDescription;
use super::receive::Step;
use super::roots::Roots;
use super::sessions::Sessions;

/// Bytes received at once beyond what goes straight to a buffer.
const STAGING_BYTES: usize = 64 << 10;
/// Keys of listening sockets; connections use their slot's token.
const LISTENER_KEY_BIT: u64 = 1 << 60;
/// How often deadlines are looked at while there are connections.
const SWEEP_INTERVAL: Nanos = Nanos::from_millis(250);
/// The timer of the sweep.
const SWEEP_KEY: u64 = 1 << 60;
/// Streams accepted from one listener in one pass.
const ACCEPTS_PER_PASS: usize = 16;
/// Messages taken in one pass.
const MESSAGES_PER_PASS: usize = 64;

/// A message between cores.
#[derive(Debug)]
pub enum Message {
    /// A stream for this core to serve.
    Adopt(AcceptedStream),
    /// A connection whose session another one has taken the place of.
    Close(SlotId),
}

/// What the connections of a core share: borrowed by whichever is worked on.
#[derive(Debug)]
pub(super) struct CoreState {
    pub description: Arc<TargetDescription>,
    pub sessions: Arc<Sessions>,
    pub roots: Roots,
    pub peers: Peers<Message>,
    /// Bytes that nobody can guess, for challenges. Open from the start, so that nobody who uses up
    /// the process's files can keep it from them.
    pub random_source: File,
    outbox: VecDeque<(CoreIndex, Message)>,
    receive_list: Vec<SlotId>,
    send_list: Vec<SlotId>,
    starved_list: Vec<SlotId>,
    ending: Vec<SlotId>,
}

impl CoreState {
    /// Sends to another core, or to this one.
    pub fn send_message(&mut self, to: CoreIndex, message: Message) {
        if !self.outbox.is_empty() {
            return self.outbox.push_back((to, message));
        }
        if let Err(message) = self.peers.send(to, message) {
            self.outbox.push_back((to, message));
        }
    }

    fn retry_outbox(&mut self) {
        while let Some((to, message)) = self.outbox.pop_front() {
            if let Err(message) = self.peers.send(to, message) {
                return self.outbox.push_front((to, message));
            }
        }
    }

    /// The connection has something to send.
    pub fn mark_send(&mut self, connection: &mut Connection, id: SlotId) {
        if !std::mem::replace(&mut connection.listed_send, true) {
            self.send_list.push(id);
        }
    }

    /// The connection has something to receive.
    pub fn mark_receive(&mut self, connection: &mut Connection, id: SlotId) {
        if !std::mem::replace(&mut connection.listed_receive, true) {
            self.receive_list.push(id);
        }
    }

    /// The connection waits for a buffer.
    pub fn mark_starved(&mut self, connection: &mut Connection, id: SlotId) {
        if !std::mem::replace(&mut connection.listed_starved, true) {
            self.starved_list.push(id);
        }
    }

    /// The connection is over: its socket goes, and its session ends.
    pub fn lost(&mut self, connection: &mut Connection, id: SlotId, cx: &mut Cx) {
        if matches!(connection.phase, Phase::Draining) {
            return;
        }
        connection.close(&mut cx.dma);
        if let Some(session) = &connection.session {
            self.sessions.close(session.place);
            session.units.iter().for_each(|one| one.unit.detach(&one.nexus));
        }
        self.ending.push(id);
    }
}

/// One core of the target.
#[derive(Debug)]
pub struct TargetCore {
    connections: Slab<Box<Connection>>,
    state: CoreState,
    listeners: Vec<Box<dyn Listener>>,
    listener_ready: bool,
    next_core: u16,
    completions: Completions,
    staging: Box<[u8]>,
    turn: Vec<SlotId>,
    sweep_armed: bool,
    stopping: Option<Nanos>,
}

impl TargetCore {
    /// A core of the target. Called on the core's own thread.
    pub fn new(
        description: Arc<TargetDescription>,
        sessions: Arc<Sessions>,
        peers: Peers<Message>,
    ) -> TargetCore {
        let list = || Vec::with_capacity(CONNECTIONS_PER_CORE_MAX as usize);
        TargetCore {
            connections: Slab::with_capacity(CONNECTIONS_PER_CORE_MAX),
            state: CoreState {
                description,
                sessions,
                roots: Roots::default(),
                peers,
                random_source: File::open("/dev/urandom").expect("a system has random bytes"),
                outbox: VecDeque::new(),
                receive_list: list(),
                send_list: list(),
                starved_list: list(),
                ending: list(),
            },
            listeners: Vec::new(),
            listener_ready: false,
            next_core: 0,
            completions: Completions::new(),
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            turn: list(),
            sweep_armed: false,
            stopping: None,
        }
    }

    /// Listens on a bound socket. On the first core only.
    pub fn listen(&mut self, cx: &mut Cx, socket: OwnedFd) -> std::io::Result<()> {
        let key = SocketKey(LISTENER_KEY_BIT | self.listeners.len() as u64);
        self.listeners.push(cx.network.listen(socket, key)?);
        Ok(())
    }

    fn adopt(&mut self, cx: &mut Cx, stream: AcceptedStream) {
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
        let id = self.connections.insert(Box::new(Connection::new(cx.now()))).ok()?;
        let Some(socket) = open(cx, SocketKey(id.to_token())) else {
            self.connections.remove(id);
            return None;
        };
        let connection = self.connections.get_mut(id).expect("the slot was just taken");
        connection.socket = Some(socket);
        cx.counters.connections += 1;
        self.arm_sweep(cx);
        Some(id)
    }

    fn arm_sweep(&mut self, cx: &mut Cx) {
        if !self.sweep_armed {
            self.sweep_armed = cx.timers.arm(cx.now() + SWEEP_INTERVAL, SWEEP_KEY).is_ok();
        }
    }

    /// Works on one connection, with what its core shares.
    fn with<R>(
        &mut self,
        cx: &mut Cx,
        id: SlotId,
        work: impl FnOnce(&mut Connection, &mut Step<'_>, &mut [u8]) -> R,
    ) -> Option<R> {
        let connection = self.connections.get_mut(id)?;
        let mut step = Step { id, cx, core: &mut self.state };
        Some(work(connection, &mut step, &mut self.staging))
    }

    fn accept(&mut self) -> usize {
        if !self.listener_ready || self.stopping.is_some() {
            return 0;
        }
        self.listener_ready = false;
        let mut accepted = 0;
        for listener in &mut self.listeners {
            for _ in 0..ACCEPTS_PER_PASS {
                let Ok(stream) = listener.accept() else { break };
                let to = CoreIndex(self.next_core);
                self.next_core = (self.next_core + 1) % self.state.peers.count() as u16;
                self.state.send_message(to, Message::Adopt(stream));
                accepted += 1;
            }
        }
        accepted
    }

    fn sweep(&mut self, cx: &mut Cx) {
        let now = cx.now();
        let is_late = |one: &Connection| one.deadline().is_some_and(|by| by <= now);
        let late = self.connections.iter().filter(|(_, one)| is_late(one));
        for id in late.map(|(id, _)| id).collect::<Vec<SlotId>>() {
            cx.counters.protocol_errors += 1;
            self.with(cx, id, |connection, step, _| step.core.lost(connection, id, step.cx));
        }
    }

    /// Frees the slots of connections that are over.
    fn reap(&mut self, cx: &mut Cx) {
        let mut index = 0;
        while index < self.state.ending.len() {
            let id = self.state.ending[index];
            if self.connections.get(id).is_some_and(|one| !one.is_over()) {
                index += 1;
                continue;
            }
            if self.connections.remove(id).is_some() {
                cx.counters.connections -= 1;
            }
            self.state.ending.swap_remove(index);
        }
    }

    fn poll_roots(&mut self, cx: &mut Cx) -> usize {
        let (mut count, mut place) = (0, 0);
        self.state.roots.flush(cx);
        while place < self.state.roots.busy_count() {
            self.state.roots.poll(cx, place, &mut self.completions);
            for index in 0..self.completions.as_slice().len() {
                let completion = self.completions.as_slice()[index];
                self.complete(cx, completion);
                count += 1;
            }
            self.completions.clear();
            if !self.state.roots.unlist_if_idle(place) {
                place += 1;
            }
        }
        count
    }

    fn complete(&mut self, cx: &mut Cx, completion: Completion) {
        let (connection, slot, generation) = parts(completion.token);
        let id = self.connections.id_at(connection).expect("a connection outlives its tokens");
        let connection = self.connections.get_mut(id).expect("the slot is in use");
        let known = connection.slots[usize::from(slot)].generation;
        assert_eq!(known, generation, "a token completes once");
        let mut step = Step { id, cx, core: &mut self.state };
        connection.device_completed(&mut step, slot, completion);
    }

    fn receive_from(&mut self, cx: &mut Cx, id: SlotId) -> usize {
        let work = self.with(cx, id, |connection, step, staging| {
            let done = connection.receive(step, staging);
            if connection.readable && connection.is_open() && connection.stash.is_empty() {
                step.core.mark_receive(connection, id);
            }
            done
        });
        work.unwrap_or(0)
    }

    /// Takes a list for this turn: what is listed meanwhile belongs to the next.
    fn begin_turn(turn: &mut Vec<SlotId>, list: &mut Vec<SlotId>) -> usize {
        turn.clear();
        std::mem::swap(turn, list);
        turn.len()
    }

    fn close_what_is_done(&mut self, cx: &mut Cx, deadline: Nanos) {
        let is_late = cx.now() >= deadline;
        let ids: Vec<SlotId> = self.connections.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.with(cx, id, |connection, step, _| {
                if is_late || connection.is_quiet() {
                    step.core.lost(connection, id, step.cx);
                }
            });
        }
    }
}

impl Service for TargetCore {
    fn take_messages(&mut self, cx: &mut Cx) -> usize {
        for taken in 0..MESSAGES_PER_PASS {
            match self.state.peers.receive() {
                None => return taken,
                Some((_, Message::Adopt(stream))) => self.adopt(cx, stream),
                Some((_, Message::Close(id))) => {
                    self.with(cx, id, |connection, step, _| {
                        step.core.lost(connection, id, step.cx);
                    });
                }
            }
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
        let mut work = self.accept();
        for index in 0..Self::begin_turn(&mut self.turn, &mut self.state.starved_list) {
            let id = self.turn[index];
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.listed_starved = false;
            work += self.receive_from(cx, id);
        }
        for index in 0..Self::begin_turn(&mut self.turn, &mut self.state.receive_list) {
            let id = self.turn[index];
            let Some(connection) = self.connections.get_mut(id) else { continue };
            connection.listed_receive = false;
            work += self.receive_from(cx, id);
        }
        work
    }

    fn poll_devices(&mut self, cx: &mut Cx) -> usize {
        self.poll_roots(cx)
    }

    fn send(&mut self, cx: &mut Cx) -> usize {
        let mut work = 0;
        for index in 0..Self::begin_turn(&mut self.turn, &mut self.state.send_list) {
            let id = self.turn[index];
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
        if let Some(deadline) = self.stopping {
            self.close_what_is_done(cx, deadline);
        }
        if !self.state.ending.is_empty() {
            self.reap(cx);
        }
        self.state.retry_outbox();
        self.state.peers.publish();
        work
    }

    fn timer(&mut self, cx: &mut Cx, key: u64) {
        if key == SWEEP_KEY {
            self.sweep_armed = false;
            self.sweep(cx);
            if !self.connections.is_empty() {
                self.arm_sweep(cx);
            }
        }
    }

    fn wake(&self, cx: &Cx) -> Wake {
        let state = &self.state;
        let is_over = |id: &SlotId| self.connections.get(*id).is_none_or(|one| one.is_over());
        let is_listed = !state.receive_list.is_empty() || !state.send_list.is_empty();
        if is_listed || !state.outbox.is_empty() || state.ending.iter().any(is_over) {
            return Wake::Now;
        }
        let stopping = self.stopping.map_or(Wake::Never, |by| Wake::At(by.max(cx.now())));
        state.roots.wake(stopping)
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
