//! One TCP connection to a target: socket, readiness, digests, both directions of the stream.
//!
//! Owned by a [`super::queue::Queue`], which knows the requests; called on the queue's core. It
//! begins with ICReq and ICResp (NVMe/TCP Transport 1.0 section 3.1) and ends with the first
//! error, in either direction. The socket lives in the core's network under a key of its own;
//! readiness is edge-triggered and looked up once a pass.

use std::net::SocketAddr;

use reactor::Cx;
use reactor::slab::{Slab, SlotId};
use reactor::socket::{Ready, Socket, SocketError, SocketKey};

use super::error::{ConnectError, ConnectionError};
use super::incoming::{Drained, Event, Incoming, sequence_error};
use super::outgoing::{Outgoing, Payload, PayloadDigest, Rest, Sent};
use super::request::Request;
use crate::fabrics::command::DisconnectCommand;
use crate::pdu::connection::HostParameters;
use crate::pdu::terminate::{TERM_REQUEST_BYTES_MAX, write_term_request};
use crate::pdu::{
    CommandCapsule, DataAlignment, DataRange, Digests, Flags, Framing, H2cData, InitializeRequest,
    InitializeResponse, Phase, Role, Rules,
};
use bdev::nvme::command::SubmissionEntry;

/// R2Ts that a controller may have outstanding for a command.
const READY_TO_TRANSFER_MAX: u32 = 1;
/// PDUs that wait at most for each command: its capsule, and the answer to its one R2T.
const PDUS_PER_COMMAND: usize = 2;

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// TCP's handshake.
    Connecting,
    /// ICReq is out.
    Initializing,
    /// Commands can go.
    Connected,
}

/// One TCP connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Box<dyn Socket>,
    key: SocketKey,
    state: State,
    readable: bool,
    writable: bool,
    /// The target sends no more: what is left is received up to the end, without a report.
    peer_closed: bool,
    digests_asked: Digests,
    /// Layout of what goes out.
    framing: Framing,
    /// What comes in must keep to.
    rules: Rules,
    /// Most data of an H2CData PDU, in bytes.
    data_bytes_max: u32,
    outgoing: Outgoing,
    incoming: Incoming,
}

impl Connection {
    /// Starts a connection. Slow path: allocates.
    ///
    /// # Errors
    /// No socket to be had, or the system refuses to start.
    pub fn open(
        cx: &mut Cx,
        address: SocketAddr,
        digests: Digests,
        depth: u32,
    ) -> Result<Self, ConnectError> {
        let key = cx.device_readiness.allocate().ok_or(ConnectError::TooManySockets)?;
        match cx.network.connect(address, key) {
            Ok(socket) => Ok(Self::over(socket, key, digests, depth)),
            Err(source) => {
                cx.device_readiness.release(key);
                Err(ConnectError::Socket { address, source })
            }
        }
    }

    fn over(socket: Box<dyn Socket>, key: SocketKey, digests_asked: Digests, depth: u32) -> Self {
        let rules = Rules {
            receiver: Role::Host,
            phase: Phase::Initializing,
            framing: Framing::default(),
            capsule_data_bytes_max: 0,
            data_bytes_max: u32::MAX,
        };
        Connection {
            socket,
            key,
            state: State::Connecting,
            readable: false,
            writable: false,
            peer_closed: false,
            digests_asked,
            framing: Framing::default(),
            rules,
            data_bytes_max: 0,
            outgoing: Outgoing::with_capacity(depth as usize * PDUS_PER_COMMAND + 1),
            incoming: Incoming::new(),
        }
    }

    /// Whether commands can go.
    pub fn is_connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Takes note of what the core's network reported, and goes on with setting up.
    ///
    /// # Errors
    /// TCP's handshake failed.
    pub fn look(&mut self, cx: &mut Cx) -> Result<(), ConnectionError> {
        let Ready { readable, writable, closed, .. } = cx.device_readiness.take(self.key);
        self.readable |= readable;
        self.writable |= writable;
        self.peer_closed |= closed;
        if self.state == State::Connecting && (readable || writable) {
            match self.socket.connected() {
                Ok(()) => self.initialize(),
                Err(SocketError::WouldBlock) => {}
                Err(SocketError::Closed) => return Err(ConnectionError::Refused),
            }
        }
        Ok(())
    }

    /// True when something was reported that no call has acted on.
    pub fn is_pending(&self, cx: &Cx) -> bool {
        let reported = cx.device_readiness.is_pending(self.key);
        reported || self.has_work()
    }

    /// True when a poll would find something to do without a further report.
    pub fn has_work(&self) -> bool {
        self.readable || self.can_send()
    }

    /// True when there is something to send and, as far as is known, room for it.
    pub fn can_send(&self) -> bool {
        self.writable && !self.outgoing.is_empty()
    }

    fn initialize(&mut self) {
        self.state = State::Initializing;
        self.writable = true;
        self.outgoing.push_bare(&InitializeRequest::new(HostParameters {
            data_alignment: DataAlignment::DWORD,
            digests: self.digests_asked,
            ready_to_transfer_max: READY_TO_TRANSFER_MAX,
        }));
    }

    /// Adopts what the target granted.
    ///
    /// # Errors
    /// It is out of turn, or grants what was not asked for.
    pub fn initialized(&mut self, response: &InitializeResponse) -> Result<(), ConnectionError> {
        if self.state != State::Initializing {
            return Err(sequence_error());
        }
        let granted = response.check(self.digests_asked).map_err(ConnectionError::Protocol)?;
        let digests = granted.digests;
        self.framing = Framing { digests, data_alignment: granted.data_alignment };
        self.rules.framing = Framing { digests, data_alignment: DataAlignment::DWORD };
        self.rules.phase = Phase::Connected;
        self.data_bytes_max = granted.data_bytes_max;
        self.state = State::Connected;
        Ok(())
    }

    /// Queues a command, with `data_bytes` of its memory in the capsule.
    pub fn push_command(
        &mut self,
        entry: SubmissionEntry,
        request: SlotId,
        data_bytes: u32,
        requests: &Slab<Request>,
    ) {
        let header = CommandCapsule::new(entry, data_bytes, self.framing);
        let range = DataRange { offset: 0, length: data_bytes };
        let payload = Payload { request, range, digest: self.payload_digest(), rest: None };
        self.outgoing.push_payload(&header, payload, requests);
    }

    /// Queues the next H2CData PDU of what an R2T asked for.
    pub fn push_data(
        &mut self,
        command_id: u16,
        request: SlotId,
        asked: Rest,
        requests: &Slab<Request>,
    ) {
        let Rest { transfer_tag, range } = asked;
        let length = range.length.min(self.data_bytes_max);
        let now = DataRange { offset: range.offset, length };
        let left = DataRange { offset: range.offset + length, length: range.length - length };
        let (flags, rest) = if left.length == 0 {
            (Flags::LAST, None)
        } else {
            (Flags::NONE, Some(Rest { transfer_tag, range: left }))
        };
        let header = H2cData::new(command_id, transfer_tag, now, flags, self.framing);
        let payload = Payload { request, range: now, digest: self.payload_digest(), rest };
        self.outgoing.push_payload(&header, payload, requests);
    }

    fn payload_digest(&self) -> PayloadDigest {
        if self.framing.digests.data { PayloadDigest::Present } else { PayloadDigest::Absent }
    }

    /// Sends what waits with one call, as far as the socket takes it.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, requests: &Slab<Request>) -> Result<(), ConnectionError> {
        match self.outgoing.send(&mut *self.socket, requests) {
            Ok(true) => Ok(()),
            Ok(false) | Err(SocketError::WouldBlock) => {
                self.writable = false;
                Ok(())
            }
            Err(SocketError::Closed) => Err(ConnectionError::Closed),
        }
    }

    /// Takes the first PDU out that has been sent whole.
    pub fn take_sent(&mut self) -> Option<Sent> {
        self.outgoing.take_sent()
    }

    /// One receive call; false when there is nothing to receive. To be followed by
    /// [`Connection::next_event`] until that has nothing more.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn receive(&mut self, requests: &Slab<Request>) -> Result<bool, ConnectionError> {
        if !self.readable || self.state == State::Connecting {
            return Ok(false);
        }
        match self.incoming.receive(&mut *self.socket, requests) {
            Ok(Drained::No) => Ok(true),
            Ok(Drained::Yes) => {
                self.readable = self.peer_closed;
                Ok(true)
            }
            Err(SocketError::WouldBlock) => {
                self.readable = false;
                Ok(false)
            }
            Err(SocketError::Closed) => Err(ConnectionError::Closed),
        }
    }

    /// Whether the last receive call left bytes behind, as far as is known.
    pub fn may_have_more(&self) -> bool {
        self.readable
    }

    /// The next thing that came in whole.
    ///
    /// # Errors
    /// What the target did wrong.
    pub fn next_event(
        &mut self,
        requests: &Slab<Request>,
    ) -> Result<Option<Event>, ConnectionError> {
        self.incoming.next_event(&self.rules, requests)
    }

    /// Closes the socket where no core's context is at hand, and gives its key, which is to be
    /// released. A target that waits for nothing of this queue is told that it goes (Disconnect,
    /// NVMe Base 2.0 section 6.4), so that it does not take its controller for lost.
    pub fn leave(mut self, requests: &Slab<Request>) -> SocketKey {
        if self.is_connected() && requests.is_empty() && self.outgoing.is_empty() {
            let entry = DisconnectCommand::new(0).entry();
            self.outgoing.push_bare(&CommandCapsule::new(entry, 0, self.framing));
            // There is nobody to tell when this fails.
            let _ = self.outgoing.send(&mut *self.socket, requests);
        }
        self.key
    }

    /// Ends the connection: tells the target why, where the specification has a word for it and
    /// the stream is between two PDUs, and closes the socket.
    pub fn close(mut self, cx: &mut Cx, reason: &ConnectionError) {
        if let ConnectionError::Protocol(reason) = reason
            && self.state != State::Connecting
            && self.outgoing.at_boundary()
        {
            let mut bytes = [0; TERM_REQUEST_BYTES_MAX as usize];
            let length = write_term_request(Role::Host, *reason, &[], &mut bytes);
            // There is nobody to tell when this fails.
            let _ = self.socket.send(&[std::io::IoSlice::new(&bytes[..length])]);
        }
        self.outgoing.clear();
        let Connection { socket, key, .. } = self;
        drop(socket);
        cx.device_readiness.release(key);
    }
}
