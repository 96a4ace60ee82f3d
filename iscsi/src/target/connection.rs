//! A connection: one session of one initiator, from the accepted stream to the last token.
//!
//! Owned by one core. This file has its state and its end. RFC 7143 sections 4.2.2 (numbering),
//! 8 (state transitions).

use std::collections::VecDeque;
use std::sync::Arc;

use bdev::scsi::{LogicalUnit, Nexus};
use reactor::Nanos;
use reactor::dma::DmaPool;
use reactor::slab::SlotId;
use reactor::socket::Socket;

use super::send::SendItem;
use super::sessions::Place;
use super::slot::{Slot, SlotState};
use crate::login::{Login, Parameters, SessionKind};
use crate::pdu::HEADER_BYTES;

/// Commands that a session has open at most: the window of CmdSN.
pub(super) const WINDOW: u32 = 128;
/// Slots beside those, for commands that are delivered at once.
const IMMEDIATE_SLOTS: u32 = 16;
/// Connections that one core can have: what fits a token.
pub(super) const CONNECTIONS_PER_CORE_MAX: u32 = 1 << 14;

/// An initiator has this long to log in.
pub(super) const LOGIN_TIMEOUT: Nanos = Nanos::from_secs(15);
/// An initiator that takes nothing for this long is dead.
pub(super) const SEND_TIMEOUT: Nanos = Nanos::from_secs(30);
/// An initiator that owes the rest of a PDU, or data that was asked for, has this long.
pub(super) const RECEIVE_TIMEOUT: Nanos = Nanos::from_secs(30);
/// What is queued at the end has this long to leave.
pub(super) const CLOSE_TIMEOUT: Nanos = Nanos::from_secs(2);

/// Additional header segments that are taken: an extended CDB and a bidirectional length.
pub(super) const AHS_BYTES_MAX: usize = 64;

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Login, to be complete by this time.
    Login(Box<Login>, Nanos),
    /// The full feature phase.
    Full,
    /// Nothing more is taken: what is queued leaves by this time.
    Closing(Nanos),
    /// The socket is gone; commands at the device are awaited.
    Draining,
}

/// A unit as the session uses it.
#[derive(Debug)]
pub(super) struct SessionUnit {
    pub number: u16,
    pub unit: Arc<LogicalUnit>,
    pub nexus: Nexus,
    pub root: usize,
}

/// What login made of a connection.
#[derive(Debug)]
pub(super) struct Session {
    pub kind: SessionKind,
    pub units: Vec<SessionUnit>,
    pub place: Place,
}

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A header; `carry` has its first bytes, if any.
    Header,
    /// Data for the buffer of a slot; what is more than it wants follows, then the padding.
    Data { slot: u16, left_bytes: u32, excess_bytes: u32, segment_bytes: u32 },
    /// Padding and digest of that data; `carry` has the first of them.
    Tail { slot: u16, segment_bytes: u32, excess_bytes: u32 },
    /// A text: so many bytes, padding and digest included, into `text`.
    Text { left_bytes: u32 },
    /// Bytes of no use.
    Discard { left_bytes: u32 },
}

/// A task management function that waits until the commands it aborted are back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Management {
    pub task_tag: u32,
    pub response: u8,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub socket: Option<Box<dyn Socket>>,
    pub phase: Phase,
    pub session: Option<Session>,
    pub parameters: Parameters,
    pub slots: Vec<Slot>,
    pub free: Vec<u16>,
    /// Commands that count in the window.
    pub counted: u32,
    /// Bytes of buffers that its slots hold.
    pub held_bytes: usize,
    /// Commands at a device.
    pub at_device: u32,
    pub expected_command_sn: u32,
    pub stat_sn: u32,
    pub incoming: Incoming,
    pub header: [u8; HEADER_BYTES],
    pub carry: Vec<u8>,
    pub text: Vec<u8>,
    /// Bytes that could not be parsed for lack of a buffer.
    pub stash: Vec<u8>,
    pub managing: Vec<Management>,
    pub send_queue: VecDeque<SendItem>,
    /// Bytes of the first item that have left.
    pub sent_bytes: usize,
    pub readable: bool,
    pub writable: bool,
    pub peer_closed: bool,
    pub listed_receive: bool,
    pub listed_send: bool,
    pub listed_starved: bool,
    pub send_progress: Nanos,
    pub receive_progress: Nanos,
}

impl Connection {
    /// A connection of a stream that was just accepted, and whose socket follows.
    pub fn new(now: Nanos) -> Connection {
        Connection {
            socket: None,
            phase: Phase::Login(Box::default(), now + LOGIN_TIMEOUT),
            session: None,
            parameters: Parameters::default(),
            slots: Vec::new(),
            free: Vec::new(),
            counted: 0,
            held_bytes: 0,
            at_device: 0,
            expected_command_sn: 0,
            stat_sn: 0,
            incoming: Incoming::Header,
            header: [0; HEADER_BYTES],
            carry: Vec::with_capacity(HEADER_BYTES + AHS_BYTES_MAX + 4),
            text: Vec::new(),
            stash: Vec::new(),
            managing: Vec::new(),
            send_queue: VecDeque::with_capacity(16),
            sent_bytes: 0,
            readable: false,
            writable: true,
            peer_closed: false,
            listed_receive: false,
            listed_send: false,
            listed_starved: false,
            send_progress: now,
            receive_progress: now,
        }
    }

    /// Login is complete: the slots are made. Slow path: allocates.
    pub fn establish(&mut self, session: Session, parameters: Parameters, generation: u32) {
        let count = u16::try_from(WINDOW + IMMEDIATE_SLOTS).expect("slots are few");
        self.slots = (0..count).map(|_| Slot::new(generation)).collect();
        self.free = (0..count).rev().collect();
        self.send_queue.reserve(4 * usize::from(count));
        self.session = Some(session);
        self.parameters = parameters;
        self.phase = Phase::Full;
    }

    /// The last CmdSN that the initiator may use.
    pub fn max_command_sn(&self) -> u32 {
        self.expected_command_sn.wrapping_add(WINDOW - self.counted).wrapping_sub(1)
    }

    /// A command is about to be answered: it counts in the window no more. The initiator hears of
    /// that with the answer, and so not before the slot is free.
    pub fn uncount(&mut self, slot: u16) {
        let one = &mut self.slots[usize::from(slot)];
        self.counted -= u32::from(std::mem::take(&mut one.is_counted));
    }

    /// Frees a slot; its buffers go back to the pool.
    pub fn release(&mut self, slot: u16, dma: &mut DmaPool) {
        let one = &mut self.slots[usize::from(slot)];
        assert_ne!(one.state, SlotState::Free, "a free slot is not freed again");
        self.held_bytes -= one.held_bytes();
        let scratch = one.scratch.take();
        let buffers = one.buffers.iter_mut().map(Option::take).chain([scratch]).flatten();
        buffers.for_each(|buffer| dma.give(buffer));
        one.state = SlotState::Free;
        one.task = None;
        self.uncount(slot);
        self.free.push(slot);
    }

    /// Takes no more input: what is queued leaves, then it closes.
    pub fn finish(&mut self, now: Nanos) {
        if self.is_open() {
            self.phase = Phase::Closing(now + CLOSE_TIMEOUT);
        }
    }

    /// Closes the socket. Slots that no device has are freed; the rest follow with their tokens.
    pub fn close(&mut self, dma: &mut DmaPool) {
        self.socket = None;
        self.phase = Phase::Draining;
        self.send_queue.clear();
        self.managing.clear();
        self.stash = Vec::new();
        for slot in 0..self.slots.len() {
            if !matches!(self.slots[slot].state, SlotState::Free | SlotState::InDevice) {
                self.release(u16::try_from(slot).expect("slots are few"), dma);
            }
        }
    }

    /// True once nothing of it is left anywhere.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Draining) && self.at_device == 0
    }

    /// True while it takes new input.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Login(..) | Phase::Full)
    }

    /// True when it has nothing under way.
    pub fn is_quiet(&self) -> bool {
        self.send_queue.is_empty() && self.free.len() == self.slots.len()
    }

    /// The time by which something must happen to it.
    pub fn deadline(&self) -> Option<Nanos> {
        let sending = (!self.send_queue.is_empty()).then(|| self.send_progress + SEND_TIMEOUT);
        match self.phase {
            Phase::Login(_, by) | Phase::Closing(by) => Some(by),
            Phase::Full => {
                let is_inside = self.incoming != Incoming::Header || !self.carry.is_empty();
                let is_owed = |slot: &Slot| slot.state == SlotState::Receiving;
                let owed = self.stash.is_empty() && (is_inside || self.slots.iter().any(is_owed));
                let receiving = owed.then(|| self.receive_progress + RECEIVE_TIMEOUT);
                [sending, receiving].into_iter().flatten().min()
            }
            Phase::Draining => None,
        }
    }
}

/// The token of an I/O: the connection's slot, the command's slot, and its generation.
pub(super) fn token(connection: SlotId, slot: u16, generation: u32) -> bdev::Token {
    bdev::Token(u64::from(connection.index) << 48 | u64::from(slot) << 32 | u64::from(generation))
}

/// Connection index, slot and generation of a token.
pub(super) fn parts(token: bdev::Token) -> (u32, u16, u32) {
    ((token.0 >> 48) as u32, (token.0 >> 32) as u16, token.0 as u32)
}
