//! A connection: one queue of one host, from the accepted stream to the last returned token.
//!
//! Owned by one core. This file has its state and its end; the stream is parsed in `receive`,
//! commands are planned in `command`, answers built in `respond` and sent in `send`.
//! NVMe/TCP Transport 1.0 section 3.1 (connection establishment) and 3.5 (errors).

use std::collections::VecDeque;

use bdev::reservation::RegistrantId;
use reactor::clock::Nanos;
use reactor::dma::DmaPool;
use reactor::slab::SlotId;
use reactor::socket::Socket;

use super::admin::{AdminController, ConnectRequest};
use super::command_ids::CommandIds;
use super::fused::Pairing;
use super::message::{ConnectionId, ControllerKey};
use super::namespace::NamespacePath;
use super::pace::Pace;
use super::request::{Request, RequestState};
use crate::pdu::header::COMMON_HEADER_BYTES;
use crate::pdu::{Framing, HEADER_SLOT_BYTES, Phase, Role, Rules, TermReason, terminate};

/// A host has this long to send ICReq, and then Connect.
pub(super) const ESTABLISH_TIMEOUT: Nanos = Nanos::from_secs(5);

/// A host that takes nothing of what is sent for this long is dead.
pub(super) const SEND_TIMEOUT: Nanos = Nanos::from_secs(10);

/// A host that owes data, for an R2T or the rest of a PDU, and sends none for this long is dead.
/// What it holds meanwhile others could use.
pub(super) const RECEIVE_TIMEOUT: Nanos = Nanos::from_secs(10);

/// A termination request has this long to leave.
pub(super) const TERMINATE_TIMEOUT: Nanos = Nanos::from_secs(1);

/// Commands of a queue before Connect: the Connect itself.
pub(super) const ENTRIES_BEFORE_CONNECT: u16 = 1;

/// What part of the core's buffers one connection may hold: a quarter. A host that does not take
/// its answers can then not starve the others.
pub(super) const BUFFER_SHARE: usize = 4;

/// What part of a share, and of the whole pool, may wait for data that was asked for by R2T: half.
/// That data comes behind whatever the host has sent before, and a capsule among it may need a
/// buffer for its own data. If R2Ts could take every buffer, neither would ever arrive.
pub(super) const GRANT_SHARE: usize = 2;

/// How far a connection is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// ICReq is due by this time.
    AwaitingInitialize(Nanos),
    /// ICResp is sent; Connect is due by this time.
    AwaitingConnect(Nanos),
    /// A queue.
    Connected,
    /// Nothing more is begun, after a fatal error or Disconnect: what is queued leaves by this
    /// time, then it closes.
    Terminating(Nanos),
    /// The socket is gone; requests at the device are awaited.
    Draining,
}

/// The queue that Connect made of a connection.
#[derive(Debug)]
pub(super) struct Queue {
    /// Its controller.
    pub controller: ControllerKey,
    /// The connection of the controller's admin queue.
    pub admin: ConnectionId,
    /// Queue id; zero is the admin queue.
    pub id: u16,
    /// Whom reservations know its host by; `None` for a host without an identifier.
    pub host: Option<RegistrantId>,
    /// Entries.
    pub entries: u16,
    /// Commands answered, modulo the entries: the SQ head of completions. A command counts when it
    /// is answered, so that a host which goes by it never has more commands out than the queue
    /// has slots.
    pub head: u16,
    /// The host asked for no submission queue flow control, so that a read's data may carry its
    /// success (NVMe/TCP 3.3.2, SUCCESS flag).
    pub flow_control: bool,
    /// Largest transfer of a command, in bytes.
    pub transfer_bytes_max: u32,
    /// The ways to the subsystem's namespaces: index 0 is namespace 1.
    pub namespaces: Vec<Option<NamespacePath>>,
}

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A PDU's header; `carry` has its first bytes, if any.
    Header,
    /// Padding before a slot's data.
    Padding { slot: u16, pad_bytes: u8, data_bytes: u32 },
    /// Data of a slot; its first byte goes to the slot's `received_bytes`.
    Data { slot: u16, left_bytes: u32 },
    /// The data digest of the last `data_bytes` of a slot; `carry` has its first bytes.
    Digest { slot: u16, data_bytes: u32 },
    /// Bytes of no use.
    Discard { left_bytes: u64 },
}

/// An item of the send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendItem {
    /// The answer of a slot, after which the slot is free.
    Answer(u16),
    /// The R2T of a slot.
    ReadyToTransfer(u16),
    /// The bytes in `control`: ICResp or a termination request.
    Control,
}

/// Bytes of a partial header, or digest, kept from one receive to the next.
#[derive(Debug)]
pub(super) struct Carry {
    pub bytes: [u8; HEADER_SLOT_BYTES + 8],
    pub len: usize,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub socket: Option<Box<dyn Socket>>,
    pub state: ConnectionState,
    pub rules: Rules,
    /// Framing of what is sent.
    pub framing: Framing,
    pub queue: Option<Queue>,
    pub admin: Option<Box<AdminController>>,
    /// The Connect that is at the home core.
    pub asked: Option<Box<ConnectRequest>>,
    pub requests: Vec<Request>,
    pub free: Vec<u16>,
    /// Identifiers of the commands in the slots.
    pub command_ids: CommandIds,
    /// What the next command may be the second half of.
    pub pairing: Pairing,
    /// Slots that wait for a buffer, in order.
    pub waiting: VecDeque<u16>,
    /// Bytes of buffers that its slots hold.
    pub held_bytes: usize,
    /// Bytes of them whose data was asked for by R2T and has not all come.
    pub granted_bytes: usize,
    /// Requests whose tokens are at a device.
    pub at_device: u32,
    pub incoming: Incoming,
    pub carry: Carry,
    /// Bytes received that could not be parsed for lack of a buffer.
    pub stash: Vec<u8>,
    pub send_queue: VecDeque<SendItem>,
    /// Bytes of the first item that have left.
    pub sent_bytes: usize,
    pub control: [u8; terminate::TERM_REQUEST_BYTES_MAX as usize],
    pub control_bytes: usize,
    /// Slots whose R2T is queued or sent and whose data is not there yet.
    pub transfers_due: u32,
    /// Length of the data of the PDU that is being received.
    pub pdu_data_bytes: u32,
    pub readable: bool,
    pub writable: bool,
    /// The peer sends no more: what is left is read to the end.
    pub peer_closed: bool,
    /// It is in the core's list of connections to receive from, to send to, or starved.
    pub listed_receive: bool,
    pub listed_send: bool,
    pub listed_starved: bool,
    /// When the socket last took something, while there is something to send.
    pub send_progress: Nanos,
    /// When the host last sent something that it owed, while it owes something.
    pub receive_progress: Nanos,
    /// Bytes that the socket has taken, and bytes that the host owed and has sent, in all.
    pub sent_total: u64,
    pub received_total: u64,
    /// How fast the host takes, and sends.
    paces: [Pace; 2],
}

impl Connection {
    /// A connection of a stream that was just accepted, and whose socket follows.
    pub fn new(rules: Rules, generation: u32, now: Nanos) -> Connection {
        let mut connection = Connection {
            socket: None,
            state: ConnectionState::AwaitingInitialize(now + ESTABLISH_TIMEOUT),
            rules,
            framing: Framing::default(),
            queue: None,
            admin: None,
            asked: None,
            requests: Vec::new(),
            free: Vec::new(),
            command_ids: CommandIds::none(),
            pairing: Pairing::Nothing,
            waiting: VecDeque::new(),
            held_bytes: 0,
            granted_bytes: 0,
            at_device: 0,
            incoming: Incoming::Header,
            carry: Carry { bytes: [0; HEADER_SLOT_BYTES + 8], len: 0 },
            stash: Vec::new(),
            send_queue: VecDeque::new(),
            sent_bytes: 0,
            control: [0; terminate::TERM_REQUEST_BYTES_MAX as usize],
            control_bytes: 0,
            transfers_due: 0,
            pdu_data_bytes: 0,
            readable: false,
            writable: true,
            peer_closed: false,
            listed_receive: false,
            listed_send: false,
            listed_starved: false,
            send_progress: now,
            receive_progress: now,
            sent_total: 0,
            received_total: 0,
            paces: [Pace::new(now); 2],
        };
        connection.grow(ENTRIES_BEFORE_CONNECT, generation);
        connection
    }

    /// Rules of a connection before ICReq.
    pub fn initial_rules(capsule_data_bytes_max: u32, data_bytes_max: u32) -> Rules {
        Rules {
            receiver: Role::Controller,
            phase: Phase::Initializing,
            framing: Framing::default(),
            capsule_data_bytes_max,
            data_bytes_max,
        }
    }

    /// Gives it as many slots as its queue has entries. Slow path: allocates.
    pub fn grow(&mut self, entries: u16, generation: u32) {
        let have = u16::try_from(self.requests.len()).expect("a queue has at most 65535 slots");
        self.requests.extend((have..entries).map(|_| Request::new(generation)));
        self.free.reserve(usize::from(entries));
        self.free.extend((have..entries).rev());
        self.waiting.reserve(usize::from(entries));
        // An answer and an R2T for every slot, and one control item.
        self.send_queue.reserve(2 * usize::from(entries) + 1);
    }

    /// Appends to the send queue.
    pub fn enqueue(&mut self, item: SendItem, now: Nanos) {
        if self.send_queue.is_empty() {
            self.send_progress = now;
        }
        self.send_queue.push_back(item);
    }

    /// Ends a slot: its buffer goes back to the pool.
    pub fn release(&mut self, slot: u16, dma: &mut DmaPool) {
        let request = &mut self.requests[usize::from(slot)];
        assert_ne!(request.state, RequestState::Free, "a free slot is not freed again");
        self.held_bytes -= request.buffer_bytes() as usize;
        if let Some(buffer) = request.buffer.take() {
            dma.give(buffer);
        }
        request.state = RequestState::Free;
        if request.owns_command_id {
            self.command_ids.give(request.command.command_id.get());
        }
        self.free.push(slot);
    }

    /// Answers a fatal error: a termination request, then the end. Counted by the caller.
    pub fn terminate(&mut self, reason: TermReason, now: Nanos) {
        self.finish(now);
        // An item that has begun to leave must leave whole, or the request would be unreadable.
        let begun = self.sent_bytes > 0;
        self.send_queue.truncate(usize::from(begun));
        if begun && self.send_queue.front() == Some(&SendItem::Control) {
            return;
        }
        let offending_bytes = self.carry.len.max(COMMON_HEADER_BYTES).min(self.carry.bytes.len());
        let offending = &self.carry.bytes[..offending_bytes];
        self.control_bytes =
            terminate::write_term_request(Role::Controller, reason, offending, &mut self.control);
        self.enqueue(SendItem::Control, now);
    }

    /// Takes no more input and begins nothing more: what is queued leaves, then it closes.
    pub fn finish(&mut self, now: Nanos) {
        self.state = ConnectionState::Terminating(now + TERMINATE_TIMEOUT);
        self.waiting.clear();
    }

    /// Closes the socket. Slots that no device has are freed; the rest follow with their tokens.
    pub fn close(&mut self, dma: &mut DmaPool) {
        self.socket = None;
        self.state = ConnectionState::Draining;
        self.send_queue.clear();
        self.waiting.clear();
        self.stash = Vec::new();
        for slot in 0..self.requests.len() {
            let state = self.requests[slot].state;
            if !matches!(state, RequestState::Free | RequestState::InDevice) {
                let slot = u16::try_from(slot).expect("a queue has at most 65535 slots");
                self.release(slot, dma);
            }
        }
    }

    /// True once nothing of it is left anywhere.
    pub fn is_over(&self) -> bool {
        self.state == ConnectionState::Draining && self.at_device == 0
    }

    /// True for an I/O queue of this controller, however little is left of it.
    pub fn is_io_queue_of(&self, controller: ControllerKey) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.id != 0 && queue.controller == controller)
    }

    /// True while it takes new input.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, ConnectionState::Terminating(_) | ConnectionState::Draining)
    }

    /// True when it has nothing under way: no command, nothing to send.
    pub fn is_quiet(&self) -> bool {
        let busy =
            |request: &Request| !matches!(request.state, RequestState::Free | RequestState::Held);
        self.send_queue.is_empty() && !self.requests.iter().any(busy)
    }

    /// The slot of the Connect that is at the home core.
    pub fn connect_slot(&self) -> Option<u16> {
        let slot = self.requests.iter().position(|request| request.state == RequestState::AtHome);
        slot.map(|slot| u16::try_from(slot).expect("a queue has at most 65535 slots"))
    }

    /// Makes it a queue. Slow path: allocates its slots.
    pub fn establish(&mut self, queue: Queue, admin: Option<Box<AdminController>>, rules: Rules) {
        let generation = self.requests[0].generation;
        self.grow(queue.entries, generation);
        self.command_ids = CommandIds::of_queue();
        self.rules = rules;
        self.admin = admin;
        self.queue = Some(queue);
        self.state = ConnectionState::Connected;
    }

    /// True while it waits for a buffer, for a command or for the rest of the stream.
    pub fn is_starved(&self) -> bool {
        self.is_open() && !(self.waiting.is_empty() && self.stash.is_empty())
    }

    /// What it waits for: commands without a buffer, and bytes that were not parsed.
    pub fn starvation(&self) -> (usize, usize) {
        (self.waiting.len(), self.stash.len())
    }

    /// True while the host has to send something before anything else can happen: the rest of a
    /// PDU, data that an R2T asked for, or the second half of a fused pair. Not while its bytes are
    /// left unread for lack of buffers.
    fn is_owed_input(&self) -> bool {
        let inside_pdu = self.incoming != Incoming::Header || self.carry.len > 0;
        let asked = self.granted_bytes > 0 && self.send_queue.is_empty();
        let half = matches!(self.pairing, Pairing::First(_));
        self.stash.is_empty() && (inside_pdu || asked || half)
    }

    /// True when the host does just enough to live, and holds what others could use. To be asked
    /// at each sweep.
    pub fn is_too_slow(&mut self, now: Nanos) -> bool {
        if self.state != ConnectionState::Connected {
            return false;
        }
        let (must_take, must_send) = (!self.send_queue.is_empty(), self.is_owed_input());
        let [taking, sending] = &mut self.paces;
        let takes_slowly = taking.is_too_slow(now, must_take, self.sent_total, self.held_bytes);
        let sends_slowly =
            sending.is_too_slow(now, must_send, self.received_total, self.granted_bytes);
        takes_slowly || sends_slowly
    }

    /// The time by which something must happen to it, apart from keep alive.
    pub fn deadline(&self) -> Option<Nanos> {
        let sending = (!self.send_queue.is_empty()).then(|| self.send_progress + SEND_TIMEOUT);
        match self.state {
            ConnectionState::AwaitingInitialize(by)
            | ConnectionState::AwaitingConnect(by)
            | ConnectionState::Terminating(by) => Some(by),
            ConnectionState::Connected => {
                let receiving =
                    self.is_owed_input().then(|| self.receive_progress + RECEIVE_TIMEOUT);
                [sending, receiving].into_iter().flatten().min()
            }
            ConnectionState::Draining => None,
        }
    }
}

/// The token of an I/O: the connection's slot, the request's slot, and the request's generation.
pub(super) fn token(connection: SlotId, slot: u16, generation: u32) -> bdev::Token {
    let connection = u64::from(connection.index) << 48;
    bdev::Token(connection | u64::from(slot) << 32 | u64::from(generation))
}

/// Connection index, request slot and generation of a token.
pub(super) fn parts(token: bdev::Token) -> (u32, u16, u32) {
    let connection = (token.0 >> 48) as u16;
    let slot = (token.0 >> 32) as u16;
    (u32::from(connection), slot, token.0 as u32)
}

/// Connections that one core can have: what fits a token.
pub(super) const CONNECTIONS_PER_CORE_MAX: u32 = 1 << 14;
