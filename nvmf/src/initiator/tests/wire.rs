//! The target's end of a stream in memory: PDUs in and out, nothing decided.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::status::Status;
use reactor::Cx;
use reactor::socket::memory::{MemoryLimits, MemorySocket};
use reactor::socket::{
    AcceptedStream, Listener, Network, Ready, Socket, SocketError, SocketKey, Wait,
};
use zerocopy::FromBytes;

use crate::pdu::connection::ControllerParameters;
use crate::pdu::encode::{HEADER_SLOT_BYTES, Header, write_header};
use crate::pdu::header::COMMON_HEADER_BYTES;
use crate::pdu::{
    C2hData, CommandCapsule, DataAlignment, DataRange, Digests, Flags, Framing, H2cData,
    InitializeRequest, InitializeResponse, PduKind, Phase, ReadyToTransfer, ResponseCapsule, Role,
    Rules, crc32c, decode, verify_header_digest,
};

/// Streams whose host end was opened and whose target end nobody took yet.
type Backlog = VecDeque<(SocketAddr, MemorySocket)>;

/// Makes the host's end of the next stream out of a plain one: where a test puts faults.
type Wrap = Box<dyn FnMut(SocketAddr, MemorySocket) -> Box<dyn Socket>>;

/// What the test and the network share.
#[derive(Default)]
struct Shared {
    backlog: RefCell<Backlog>,
    keys: RefCell<Vec<SocketKey>>,
    /// Addresses that nobody listens at.
    refused: RefCell<Vec<SocketAddr>>,
    wrap: RefCell<Option<Wrap>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("backlog", &self.backlog).finish_non_exhaustive()
    }
}

/// A network of streams in memory that all lead to one listener.
#[derive(Debug)]
struct MemoryNetwork {
    limits: MemoryLimits,
    shared: Rc<Shared>,
}

impl Network for MemoryNetwork {
    fn connect(&mut self, to: SocketAddr, key: SocketKey) -> io::Result<Box<dyn Socket>> {
        if self.shared.refused.borrow().contains(&to) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (host, target) = MemorySocket::pair(self.limits);
        self.shared.backlog.borrow_mut().push_back((to, target));
        let mut keys = self.shared.keys.borrow_mut();
        if !keys.contains(&key) {
            keys.push(key);
        }
        Ok(match &mut *self.shared.wrap.borrow_mut() {
            Some(wrap) => wrap(to, host),
            None => Box::new(host),
        })
    }

    fn adopt(&mut self, _: AcceptedStream, _: SocketKey) -> io::Result<Box<dyn Socket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn listen(&mut self, _: OwnedFd, _: SocketKey) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn poll(&mut self, _: Wait, _: &mut Vec<Ready>) {}
}

/// The test's hold on the network.
#[derive(Clone, Debug)]
pub struct Wires(Rc<Shared>);

impl Wires {
    /// Replaces the network of a context.
    pub fn install(cx: &mut Cx, limits: MemoryLimits) -> Wires {
        let shared = Rc::<Shared>::default();
        cx.network = Box::new(MemoryNetwork { limits, shared: Rc::clone(&shared) });
        Wires(shared)
    }

    /// From now on nobody listens at these addresses.
    pub fn refuse(&self, addresses: &[SocketAddr]) {
        *self.0.refused.borrow_mut() = addresses.to_vec();
    }

    /// The host's ends of streams are made by this from now on.
    pub fn wrap(&self, wrap: impl FnMut(SocketAddr, MemorySocket) -> Box<dyn Socket> + 'static) {
        *self.0.wrap.borrow_mut() = Some(Box::new(wrap));
    }

    /// Reports every socket as ready: a stream in memory has no edges.
    pub fn report(&self, cx: &mut Cx) {
        for key in self.0.keys.borrow().iter() {
            let (readable, writable) = (true, true);
            cx.device_readiness.note(Ready { key: *key, readable, writable, closed: false });
        }
    }

    /// The target's end of the next stream that the host opened.
    pub fn accept(&self) -> Option<Stream> {
        self.take().map(Stream::new)
    }

    /// The same, as a bare socket, and the address that it was opened to.
    pub fn take_to(&self) -> Option<(SocketAddr, MemorySocket)> {
        self.0.backlog.borrow_mut().pop_front()
    }

    /// The same, as a bare socket.
    pub fn take(&self) -> Option<MemorySocket> {
        self.take_to().map(|(_, socket)| socket)
    }
}

/// What is at the other end of the wires.
pub trait Peer: std::fmt::Debug {
    /// Accepts, receives, acts and answers.
    fn step(&mut self, wires: &Wires);
}

/// A PDU that the host sent.
#[derive(Clone, Debug)]
pub enum FromHost {
    Initialize(InitializeRequest),
    Command { entry: SubmissionEntry, data: Vec<u8> },
    Data { header: H2cData, flags: Flags, data: Vec<u8> },
    Terminate,
}

/// The target's end of one stream.
#[derive(Debug)]
pub struct Stream {
    socket: Option<MemorySocket>,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    rules: Rules,
    pub framing: Framing,
    pub data_bytes_max: u32,
}

impl Stream {
    pub fn new(socket: MemorySocket) -> Stream {
        let rules = Rules {
            receiver: Role::Controller,
            phase: Phase::Initializing,
            framing: Framing::default(),
            capsule_data_bytes_max: 8192,
            data_bytes_max: u32::MAX,
        };
        Stream {
            socket: Some(socket),
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            rules,
            framing: Framing::default(),
            data_bytes_max: 4096,
        }
    }

    /// Ends the stream.
    pub fn close(&mut self) {
        self.socket = None;
    }

    /// Moves bytes both ways as far as the stream lets it.
    pub fn pump(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let mut bytes = [0; 8192];
        loop {
            match socket.receive(&mut [IoSliceMut::new(&mut bytes)]) {
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(SocketError::WouldBlock) => break,
                Err(SocketError::Closed) => {
                    self.socket = None;
                    return;
                }
            }
        }
        while !self.outbox.is_empty() {
            self.outbox.make_contiguous();
            let (front, _) = self.outbox.as_slices();
            match socket.send(&[IoSlice::new(front)]) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(_) => break,
            }
        }
    }

    pub fn is_closed(&self) -> bool {
        self.socket.is_none()
    }

    /// The next whole PDU, checked as a target would.
    pub fn next(&mut self) -> Option<FromHost> {
        let common = *self.inbox.first_chunk::<COMMON_HEADER_BYTES>()?;
        let parts = decode(&common, &self.rules).expect("the host sends what is legal");
        let length = parts.pdu_bytes as usize;
        if self.inbox.len() < length {
            return None;
        }
        let bytes: Vec<u8> = self.inbox.drain(..length).collect();
        verify_header_digest(&parts, &bytes).expect("the host's header digests are right");
        let start = usize::from(parts.data_offset);
        let data = bytes[start..start + parts.data_bytes as usize].to_vec();
        if parts.data_digest_bytes > 0 {
            let digest = bytes[length - 4..].first_chunk().copied().map(u32::from_le_bytes);
            assert_eq!(digest, Some(crc32c(&data)), "the host's data digests are right");
        }
        Some(match parts.kind {
            PduKind::InitializeRequest => {
                let request = InitializeRequest::read_from_prefix(&bytes).unwrap().0;
                FromHost::Initialize(request)
            }
            PduKind::CommandCapsule => {
                let capsule = CommandCapsule::read_from_prefix(&bytes).unwrap().0;
                FromHost::Command { entry: capsule.command, data }
            }
            PduKind::H2cData => {
                let header = H2cData::read_from_prefix(&bytes).unwrap().0;
                header.check(&parts).expect("the host's ranges are legal");
                FromHost::Data { header, flags: parts.flags, data }
            }
            PduKind::HostTermRequest => FromHost::Terminate,
            other => panic!("a host sends no {other:?}"),
        })
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.outbox.extend(bytes);
        self.pump();
    }

    fn send<H: Header>(&mut self, header: &H, data: &[u8]) {
        let mut bytes = [0; HEADER_SLOT_BYTES];
        let length = write_header(header, &mut bytes);
        let mut pdu = bytes[..length].to_vec();
        pdu.extend_from_slice(data);
        if !data.is_empty() && self.framing.digests.data {
            pdu.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        self.send_raw(&pdu);
    }

    /// Answers an ICReq, granting what it asks for.
    pub fn grant(&mut self, request: &InitializeRequest, alignment: u8) -> Digests {
        let asked = request.check().expect("the host asks for what is legal");
        let data_alignment = DataAlignment::from_field(alignment).unwrap();
        self.send(
            &InitializeResponse::new(ControllerParameters {
                data_alignment,
                digests: asked.digests,
                data_bytes_max: self.data_bytes_max,
            }),
            &[],
        );
        self.rules.phase = Phase::Connected;
        self.rules.data_bytes_max = self.data_bytes_max;
        self.rules.framing = Framing { digests: asked.digests, data_alignment };
        self.framing = Framing { digests: asked.digests, data_alignment: asked.data_alignment };
        asked.digests
    }

    pub fn complete(&mut self, completion: CompletionEntry) {
        self.send(&ResponseCapsule::new(completion, self.framing), &[]);
    }

    pub fn respond(&mut self, command_id: u16, status: Status) {
        self.complete(CompletionEntry::new(command_id, 0, status));
    }

    pub fn send_data(&mut self, command_id: u16, offset: u32, data: &[u8], flags: Flags) {
        let range = DataRange { offset, length: data.len().try_into().unwrap() };
        self.send(&C2hData::new(command_id, range, flags, self.framing), data);
    }

    /// Sends all data of a command with a digest of the test's own.
    pub fn send_data_with_digest(&mut self, command_id: u16, data: &[u8], digest: u32) {
        let range = DataRange { offset: 0, length: data.len().try_into().unwrap() };
        let header = C2hData::new(command_id, range, Flags::LAST, self.framing);
        let mut bytes = [0; HEADER_SLOT_BYTES];
        let length = write_header(&header, &mut bytes);
        self.send_raw(&[&bytes[..length], data, &digest.to_le_bytes()].concat());
    }

    pub fn ask(&mut self, command_id: u16, transfer_tag: u16, range: DataRange) {
        self.send(&ReadyToTransfer::new(command_id, transfer_tag, range, self.framing), &[]);
    }
}
