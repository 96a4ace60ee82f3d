//! One core of the target: its connections, its roots, and the phases of a pass.
//!
//! A [`Service`] of the reactor. The first core also listens and keeps the register of
//! controllers; accepted streams are dealt to the cores in turn. Connections with something to do
//! are kept in three short lists (receive, send, starved of buffers), so that a pass costs nothing
//! for the others; deadlines are looked at by a slow sweep.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bdev::{Completions, Status};
use reactor::mesh::{CoreIndex, Peers};
use reactor::slab::{Slab, SlotId};
use reactor::socket::{AcceptedStream, Listener, Ready, Socket, SocketKey};
use reactor::{Cx, Nanos, Service, Wake};

use super::admin::{
    AdminController, ConnectRequest, ControllerOptions, FlowControl, RequestedController,
};
use super::closing::Closing;
use super::connection::{CONNECTIONS_PER_CORE_MAX, Connection, ConnectionState, Queue, parts};
use super::description::TargetDescription;
use super::home::{Decided, Follows, Home};
use super::limits::ADMIN_IN_CAPSULE_BYTES;
use super::message::{ControllerChange, ControllerKey, Message, QueueKind};
use super::receive::Step;
use super::root::Root;
use super::work_list::WorkList;
use crate::pdu::{Rules, TermReason};

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

/// The index of the core that listens and keeps the register.
const HOME: CoreIndex = CoreIndex(0);

/// I/Os answered in this pass, whose service time is known once the answers are sent.
#[derive(Debug, Default)]
pub(super) struct Answers {
    count: u64,
    started_ns: u64,
}

impl Answers {
    /// An I/O whose command was parsed at `started` has its answer queued.
    pub fn add(&mut self, started: Nanos) {
        self.count += 1;
        self.started_ns = self.started_ns.wrapping_add(started.0);
    }

    /// Service time of them all when they are sent at `sent`, in nanoseconds; starts anew.
    fn take_ns(&mut self, sent: Nanos) -> u64 {
        let total_ns = sent.0.wrapping_mul(self.count).wrapping_sub(self.started_ns);
        *self = Answers::default();
        total_ns
    }
}

/// What the connections of a core share: borrowed by whichever is worked on.
#[derive(Debug)]
pub(super) struct CoreState {
    pub description: Arc<TargetDescription>,
    pub roots: Vec<Root>,
    pub answers: Answers,
    root_index: BTreeMap<(u16, u32), u16>,
    peers: Peers<Message>,
    /// Messages that found a ring full, in order; sent before anything newer.
    outbox: VecDeque<(CoreIndex, Message)>,
    receive_list: WorkList,
    send_list: WorkList,
    starved_list: WorkList,
    /// Bytes of buffers, over all connections, whose data was asked for by R2T.
    pub granted_bytes: usize,
    /// Connections to look at once more: they may be over.
    ending: Vec<SlotId>,
    /// Controllers whose I/O queues are being closed here.
    closing: Closing,
}

impl CoreState {
    /// This core's index.
    pub fn own(&self) -> CoreIndex {
        self.peers.own()
    }

    /// Sends to another core, or to this one.
    pub fn send_message(&mut self, to: CoreIndex, message: Message) {
        if !self.outbox.is_empty() {
            return self.outbox.push_back((to, message));
        }
        if let Err(message) = self.peers.send(to, message) {
            self.outbox.push_back((to, message));
        }
    }

    /// Sends to the home core.
    pub fn tell_home(&mut self, message: Message) {
        self.send_message(HOME, message);
    }

    /// Sends to every core, this one included.
    fn broadcast(&mut self, message: impl Fn() -> Message) {
        for core in 0..self.peers.count() {
            let core = CoreIndex(u16::try_from(core).expect("fewer than 65536 cores"));
            self.send_message(core, message());
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
        if !connection.listed_send {
            connection.listed_send = true;
            self.send_list.push(id);
        }
    }

    /// The connection has something to receive.
    pub fn mark_receive(&mut self, connection: &mut Connection, id: SlotId) {
        if !connection.listed_receive {
            connection.listed_receive = true;
            self.receive_list.push(id);
        }
    }

    /// The connection waits for a buffer.
    pub fn mark_starved(&mut self, connection: &mut Connection, id: SlotId) {
        if !connection.listed_starved {
            connection.listed_starved = true;
            self.starved_list.push(id);
        }
    }

    /// The host broke the protocol: a termination request, then the end.
    pub fn terminate(
        &mut self,
        connection: &mut Connection,
        id: SlotId,
        reason: TermReason,
        cx: &mut Cx,
    ) {
        cx.counters.protocol_errors += 1;
        connection.terminate(reason, cx.now());
        self.mark_send(connection, id);
    }

    /// The connection is lost, or given up: its socket goes, and the home core is told.
    pub fn lost(&mut self, connection: &mut Connection, id: SlotId, cx: &mut Cx) {
        if connection.state == ConnectionState::Draining {
            return;
        }
        connection.close(&mut cx.dma);
        self.granted_bytes -= std::mem::take(&mut connection.granted_bytes);
        connection.admin = None;
        if let Some(queue) = &connection.queue {
            for root in queue.roots.iter().flatten() {
                self.roots[usize::from(*root)].unreserve(usize::from(queue.entries));
            }
            let controller = queue.controller;
            self.tell_home(match queue.id {
                0 => Message::Controller { controller, change: ControllerChange::Gone },
                queue_id => Message::QueueClosing { controller, queue_id },
            });
        }
        self.ending.push(id);
    }

    /// Tells the home core something that must be known there before the host is answered, so
    /// that the host's next Connect, which may come to any core, is judged by it.
    pub fn tell_home_first(&mut self, message: Message) {
        self.tell_home(message);
        self.peers.publish();
    }

    /// Takes back what the home core made for a Connect that came to nothing.
    fn undo_connect(&mut self, controller: ControllerKey, queue: QueueKind) {
        self.tell_home(match queue {
            QueueKind::Admin => Message::Controller { controller, change: ControllerChange::Gone },
            QueueKind::Io { queue_id, .. } => Message::QueueClosed { controller, queue_id },
        });
    }

    /// Opens the roots of a subsystem's namespaces, where this core has not done so yet.
    fn open_roots(
        &mut self,
        cx: &mut Cx,
        subsystem: u16,
        entries: u16,
    ) -> Result<Vec<Option<u16>>, Status> {
        let description = Arc::clone(&self.description);
        let namespaces = description.subsystems[usize::from(subsystem)].namespaces();
        let mut roots = Vec::new();
        for namespace in namespaces {
            let index = match self.root_index.get(&(subsystem, namespace.id.0)) {
                Some(index) => *index,
                None => {
                    let root = Root::open(cx, &*namespace.device, namespace.is_read_only())
                        .map_err(|_| Status::INTERNAL_ERROR)?;
                    let index =
                        u16::try_from(self.roots.len()).map_err(|_| Status::INTERNAL_ERROR)?;
                    self.roots.push(root);
                    self.root_index.insert((subsystem, namespace.id.0), index);
                    index
                }
            };
            self.roots[usize::from(index)].reserve(usize::from(entries));
            let place = (namespace.id.0 as usize).saturating_sub(1);
            if roots.len() <= place {
                roots.resize(place + 1, None);
            }
            roots[place] = Some(index);
        }
        Ok(roots)
    }
}

/// One core of the target.
#[derive(Debug)]
pub struct TargetCore {
    connections: Slab<Box<Connection>>,
    state: CoreState,
    home: Option<Home>,
    listeners: Vec<Box<dyn Listener>>,
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
        let capacity = CONNECTIONS_PER_CORE_MAX as usize;
        TargetCore {
            connections: Slab::with_capacity(CONNECTIONS_PER_CORE_MAX),
            state: CoreState {
                description,
                roots: Vec::new(),
                answers: Answers::default(),
                root_index: BTreeMap::new(),
                peers,
                outbox: VecDeque::new(),
                receive_list: WorkList::with_capacity(capacity),
                send_list: WorkList::with_capacity(capacity),
                starved_list: WorkList::with_capacity(capacity),
                granted_bytes: 0,
                ending: Vec::with_capacity(capacity),
                closing: Closing::default(),
            },
            home: is_home.then(Home::default),
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
    pub fn listen(&mut self, cx: &mut Cx, socket: OwnedFd) -> std::io::Result<()> {
        assert!(self.home.is_some(), "the first core listens");
        let key = SocketKey(LISTENER_KEY_BIT | self.listeners.len() as u64);
        self.listeners.push(cx.network.listen(socket, key)?);
        Ok(())
    }

    /// Serves a stream on this core. Its key is made before the socket is.
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

    fn arm_sweep(&mut self, cx: &mut Cx) {
        if !self.sweep_armed {
            // No timer is free: the next connection, or the next pass of the sweep, tries again.
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

    fn accept(&mut self, cx: &mut Cx) -> usize {
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
        if accepted > 0 {
            self.take_messages(cx);
        }
        accepted
    }

    fn take_message(&mut self, cx: &mut Cx, message: Message) {
        match message {
            Message::Adopt(stream) => self.adopt(cx, stream),
            Message::Connected { connection, queue, outcome } => {
                self.connected(cx, connection, queue, outcome);
            }
            Message::CloseQueues { controller, round } => self.close_queues(cx, controller, round),
            Message::Quiesced { connection, controller, round } => {
                let found = self.connections.get_mut(connection).filter(|found| {
                    found.queue.as_ref().is_some_and(|queue| queue.controller == controller)
                });
                if let Some(admin) = found.and_then(|found| found.admin.as_mut()) {
                    admin.quiesced(round, cx.now());
                }
            }
            of_home => self.take_message_of_home(cx, of_home),
        }
    }

    /// A message to the home core.
    fn take_message_of_home(&mut self, cx: &mut Cx, message: Message) {
        let home = self.home.as_mut().expect("the home core is told");
        match message {
            Message::Connect { connection, request } => home.ask(connection, request),
            Message::QueueClosing { controller, queue_id } => {
                home.queue_closing(controller, queue_id);
            }
            Message::QueueClosed { controller, queue_id } => {
                home.queue_closed(controller, queue_id);
            }
            Message::Controller { controller, change } => {
                let cores = self.state.peers.count();
                match home.change(controller, change, cores, cx.now()) {
                    Follows::Nothing => {}
                    Follows::CloseQueues(round) => {
                        self.state.broadcast(|| Message::CloseQueues { controller, round });
                        self.arm_sweep(cx);
                    }
                }
            }
            Message::QueuesClosed { controller, round } => {
                if let Some(admin) = home.core_finished(controller, round) {
                    let connection = admin.slot;
                    let told = Message::Quiesced { connection, controller, round };
                    self.state.send_message(admin.core, told);
                }
            }
            _ => unreachable!("taken by the caller"),
        }
    }

    /// On the home core: answers the Connects that can be decided; returns how many.
    fn decide_connects(&mut self) -> usize {
        let mut count = 0;
        let Some(home) = self.home.as_mut() else { return 0 };
        while let Some(Decided { connection, queue, outcome }) = home.decide() {
            let answer = Message::Connected { connection: connection.slot, queue, outcome };
            self.state.send_message(connection.core, answer);
            count += 1;
        }
        count
    }

    /// The home core's answer to a Connect.
    fn connected(
        &mut self,
        cx: &mut Cx,
        id: SlotId,
        queue: QueueKind,
        outcome: Result<ControllerKey, (Status, u32)>,
    ) {
        let asking = self.connections.get_mut(id).and_then(|connection| {
            if !connection.is_open() {
                return None;
            }
            let slot = connection.connect_slot()?;
            Some((slot, connection.asked.take()?))
        });
        let Some((slot, asked)) = asking else {
            // It was lost while the home core decided: what was made goes again.
            if let Ok(controller) = outcome {
                self.state.undo_connect(controller, queue);
            }
            return;
        };
        let established = outcome.and_then(|controller| {
            let made = self.establish(cx, id, &asked, controller);
            if made.is_err() {
                self.state.undo_connect(controller, queue);
            }
            made.map(|()| controller).map_err(|status| (status, 0))
        });
        self.with(cx, id, |connection, step, _| match established {
            Ok(controller) => {
                connection.complete(step, slot, Status::SUCCESS, u64::from(controller.id));
            }
            Err((status, result)) => {
                step.cx.counters.protocol_errors += 1;
                let status = status.with_do_not_retry();
                connection.complete(step, slot, status, u64::from(result));
            }
        });
    }

    /// Makes a connection the queue that its host asked for.
    fn establish(
        &mut self,
        cx: &mut Cx,
        id: SlotId,
        asked: &ConnectRequest,
        controller: ControllerKey,
    ) -> Result<(), Status> {
        let description = Arc::clone(&self.state.description);
        let subsystem = &description.subsystems[usize::from(controller.subsystem)];
        let limits = subsystem.limits();
        let entries = asked.queue_entries;
        let (roots, capsule_bytes) = match asked.controller {
            RequestedController::New => (Vec::new(), ADMIN_IN_CAPSULE_BYTES),
            RequestedController::Existing(_) => {
                let roots = self.state.open_roots(cx, controller.subsystem, entries)?;
                (roots, limits.in_capsule_bytes)
            }
        };
        let connection = self.connections.get_mut(id).expect("the caller has found it");
        let admin = (asked.controller == RequestedController::New).then(|| {
            let options = ControllerOptions {
                controller_id: controller.id,
                host_nqn: asked.host_nqn,
                host_id: asked.host_id,
                keep_alive_ms: asked.keep_alive_ms,
            };
            Box::new(AdminController::new(options, subsystem, cx.now()))
        });
        let queue = Queue {
            controller,
            id: asked.queue_id,
            entries,
            // The answer to the Connect, the first command of the queue, moves it to 1.
            head: 0,
            flow_control: asked.flow_control == FlowControl::On,
            transfer_bytes_max: limits.transfer_bytes_max,
            roots,
        };
        let rules = Rules { capsule_data_bytes_max: capsule_bytes, ..connection.rules };
        connection.establish(queue, admin, rules);
        Ok(())
    }

    fn close_queues(&mut self, cx: &mut Cx, controller: ControllerKey, round: u32) {
        let ids: Vec<SlotId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_io_queue_of(controller))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.with(cx, id, |connection, step, _| step.core.lost(connection, id, step.cx));
        }
        self.state.closing.begin(controller, round);
    }

    /// Tells the home core of controllers whose I/O queues are gone from this core.
    fn report_closed(&mut self) {
        let connections = &self.connections;
        let is_gone = |controller| {
            !connections.iter().any(|(_, connection)| connection.is_io_queue_of(controller))
        };
        for (controller, round) in self.state.closing.take_closed(is_gone) {
            self.state.tell_home(Message::QueuesClosed { controller, round });
        }
    }

    /// Looks at every connection's deadline: half-open, dead, or without keep alive.
    fn sweep(&mut self, cx: &mut Cx) {
        let now = cx.now();
        if let Some(home) = &mut self.home {
            home.expire(now);
        }
        self.decide_connects();
        for admin in self.connections.iter_mut().filter_map(|(_, one)| one.admin.as_mut()) {
            admin.fail_if_overdue(now);
        }
        let late = |connection: &Connection| {
            let keep_alive = connection.admin.as_ref().and_then(|admin| admin.deadline());
            [connection.deadline(), keep_alive].into_iter().flatten().any(|by| by <= now)
        };
        let ids: Vec<SlotId> = self
            .connections
            .iter()
            .filter(|(_, connection)| late(connection))
            .map(|(id, _)| id)
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
        for index in 0..self.state.roots.len() {
            if self.state.roots[index].poll(cx, &mut self.completions) == 0 {
                continue;
            }
            for place in 0..self.completions.as_slice().len() {
                let completion = self.completions.as_slice()[place];
                let (connection, slot, generation) = parts(completion.token);
                let id = self.connections.id_at(connection);
                let id = id.expect("a connection outlives its tokens");
                let connection = self.connections.get_mut(id).expect("the slot is in use");
                let known = connection.requests[usize::from(slot)].generation;
                assert_eq!(known, generation, "a token completes once");
                let mut step = Step { id, cx, core: &mut self.state };
                connection.device_completed(&mut step, slot, completion);
                count += 1;
            }
            self.completions.drain();
        }
        count
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
        self.poll_roots(cx)
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
        if self.state.answers.count > 0 {
            // One more look at the clock in a pass that answered: what the pass itself took.
            cx.counters.io_ns += self.state.answers.take_ns(cx.read_clock());
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
        self.state.retry_outbox();
        self.state.peers.publish();
        work
    }

    fn timer(&mut self, cx: &mut Cx, key: u64) {
        if key == SWEEP_KEY {
            self.sweep_armed = false;
            self.sweep(cx);
            let is_timed = self.home.as_ref().is_some_and(Home::is_timed);
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
        self.state.roots.iter().fold(stopping, |wake, root| wake.soonest(root.wake()))
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        !self.state.peers.has_incoming() && self.state.roots.iter_mut().all(|root| root.arm(cx))
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
