//! A small initiator that speaks PDUs by hand, and a target core that is driven by hand.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use bdev::scsi::{Identity, LogicalUnit};
use bdev::{Geometry, Malloc};
use reactor::mesh;
use reactor::slab::SlotId;
use reactor::socket::memory::{MemoryLimits, MemorySocket};
use reactor::socket::{Ready, Socket, SocketError, SocketKey};
use reactor::{Cx, Nanos, Service, VirtualClock, sleep};
use uuid::Uuid;
use zerocopy::IntoBytes;

use super::super::{Initiators, Sessions, Target, TargetCore, TargetDescription};
use crate::login::Parameters;
use crate::pdu::digest::digest;
use crate::pdu::{
    DataOut, LoginRequest, LogoutRequest, NopOut, RESERVED_TAG, ScsiCommand, TargetOpcode,
    TaskManagementRequest, TextRequest, flag,
};
use crate::text;

pub(super) const BLOCK: usize = 512;
const NAME: &str = "iqn.2019-05.io.openebs:ram";

/// A target of one core with one RAM disk.
pub(super) struct World {
    pub cx: Cx,
    core: TargetCore,
    clock: VirtualClock,
    served: Vec<SlotId>,
}

impl World {
    pub fn new() -> World {
        let (cx, clock) = reactor::cx::test_context();
        let geometry = Geometry { block_bytes: BLOCK as u32, blocks: 4096 };
        let disk = Arc::new(Malloc::new("ram", geometry, None).unwrap());
        let identity = Identity {
            uuid: Uuid::from_u128(1),
            device_name: NAME.into(),
            port_name: format!("{NAME},t,0x0001"),
            port: 1,
        };
        let target = Target {
            name: NAME.into(),
            units: vec![(0, Arc::new(LogicalUnit::new(disk, identity)))],
            credentials: None,
            initiators: Initiators::Any,
        };
        let description = Arc::new(TargetDescription::new(vec![target]));
        let waker = sleep::pair().unwrap().1;
        let peers = mesh::connect(&[waker]).pop().unwrap();
        let core = TargetCore::new(description, Arc::new(Sessions::default()), peers);
        World { cx, core, clock, served: Vec::new() }
    }

    /// Runs passes until one of them does nothing.
    pub fn pump(&mut self) {
        while self.pass() > 0 {}
    }

    fn pass(&mut self) -> usize {
        let (cx, core) = (&mut self.cx, &mut self.core);
        cx.advance_clock();
        let mut work = core.take_messages(cx);
        for id in &self.served {
            let key = SocketKey(id.to_token());
            let ready = Ready { key, readable: true, writable: true, closed: true };
            core.socket_ready(cx, ready);
        }
        work += core.receive(cx);
        work += core.poll_devices(cx);
        work += core.send(cx);
        while let Some(key) = cx.timers.expire_one(cx.now()) {
            core.timer(cx, key);
            work += 1;
        }
        work
    }

    /// Lets time pass.
    pub fn wait(&mut self, span: Nanos) {
        let end = self.cx.now() + span;
        while self.cx.now() < end {
            self.clock.advance(Nanos::from_millis(100));
            self.pump();
        }
    }
}

/// An initiator's end of a connection.
pub(super) struct Initiator {
    socket: MemorySocket,
    received: VecDeque<u8>,
    is_cut_off: bool,
    parameters: Parameters,
    pub command_sn: u32,
    next_tag: u32,
    /// The next data that is sent has a digest that is wrong.
    pub spoil_next_digest: bool,
}

impl Initiator {
    pub fn connect(world: &mut World, limits: MemoryLimits) -> Initiator {
        let (socket, far) = MemorySocket::pair(limits);
        let id = world.core.serve(&mut world.cx, |_, _| Some(Box::new(far))).unwrap();
        world.served.retain(|one| one.index != id.index);
        world.served.push(id);
        Initiator {
            socket,
            received: VecDeque::new(),
            is_cut_off: false,
            parameters: Parameters::default(),
            command_sn: 1,
            next_tag: 1,
            spoil_next_digest: false,
        }
    }

    fn enter(world: &mut World, limits: MemoryLimits, keys: &[(&str, &str)]) -> Initiator {
        let mut initiator = Initiator::connect(world, limits);
        let mut data = Vec::new();
        keys.iter().for_each(|(key, value)| text::push(&mut data, key, value));
        let header = LoginRequest {
            opcode: 0x43,
            flags: 0x87,
            data_bytes: u32::try_from(data.len()).unwrap().into(),
            command_sn: initiator.command_sn.into(),
            ..LoginRequest::default()
        };
        initiator.pdu(world, header.as_bytes(), &data);
        let answer = initiator.next_pdu(world).unwrap();
        assert_eq!((answer[0], answer[36]), (TargetOpcode::Login as u8, 0));
        let mut parameters = Parameters::default();
        for (key, value) in keys {
            parameters.take(key, value);
        }
        initiator.parameters = parameters.settled();
        initiator
    }

    /// A normal session that has heard of the power on.
    pub fn login(world: &mut World, limits: MemoryLimits, keys: &[(&str, &str)]) -> Initiator {
        let names = [("TargetName", NAME), ("InitiatorName", "iqn.host")];
        let is_named = |key| keys.iter().any(|(name, _)| *name == key);
        let names = names.into_iter().filter(|(key, _)| !is_named(*key));
        let keys: Vec<(&str, &str)> = names.chain(keys.iter().copied()).collect();
        let mut initiator = Initiator::enter(world, limits, &keys);
        initiator.command(world, &[0], 0, 0, &[]);
        initiator
    }

    pub fn discover(world: &mut World, limits: MemoryLimits) -> Initiator {
        let keys = [("InitiatorName", "iqn.host"), ("SessionType", "Discovery")];
        Initiator::enter(world, limits, &keys)
    }

    fn tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    /// Sends bytes, letting the core run while the stream is full.
    pub fn send(&mut self, world: &mut World, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_cut_off {
            match self.socket.send(&[IoSlice::new(rest)]) {
                Ok(sent) => rest = &rest[sent..],
                Err(SocketError::Closed) => self.is_cut_off = true,
                Err(SocketError::WouldBlock) => {
                    world.pass();
                    self.drain();
                }
            }
        }
    }

    fn pdu(&mut self, world: &mut World, header: &[u8], data: &[u8]) {
        let mut bytes = header.to_vec();
        if self.parameters.header_digest {
            bytes.extend(digest(header));
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        bytes.extend(&padded);
        if self.parameters.data_digest && !data.is_empty() {
            let spoilt = u8::from(std::mem::take(&mut self.spoil_next_digest));
            let mut digest = digest(&padded);
            digest[0] ^= spoilt;
            bytes.extend(digest);
        }
        self.send(world, &bytes);
    }

    fn drain(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.socket.receive(&mut [IoSliceMut::new(&mut bytes)]) {
                Ok(count) => self.received.extend(&bytes[..count]),
                Err(SocketError::WouldBlock) => return,
                Err(SocketError::Closed) => {
                    self.is_cut_off = true;
                    return;
                }
            }
        }
    }

    fn settle(&mut self, world: &mut World) {
        loop {
            let before = self.received.len();
            world.pump();
            self.drain();
            if self.received.len() == before {
                return;
            }
        }
    }

    pub fn is_closed(&mut self, world: &mut World) -> bool {
        self.settle(world);
        self.is_cut_off
    }

    /// The next PDU, header and data, with its digests checked and taken off.
    pub fn next_pdu(&mut self, world: &mut World) -> Option<Vec<u8>> {
        self.settle(world);
        if self.received.is_empty() {
            return None;
        }
        let mut pdu: Vec<u8> = self.received.drain(..48).collect();
        if self.parameters.header_digest {
            assert!(self.received.drain(..4).eq(digest(&pdu)));
        }
        let len = u32::from_be_bytes([0, pdu[5], pdu[6], pdu[7]]) as usize;
        let data: Vec<u8> = self.received.drain(..len.next_multiple_of(4)).collect();
        if self.parameters.data_digest && len > 0 {
            assert!(self.received.drain(..4).eq(digest(&data)));
        }
        pdu.extend(&data[..len]);
        Some(pdu)
    }

    /// Sends a command with immediate data; returns its tag.
    pub fn begin(
        &mut self,
        world: &mut World,
        cdb: &[u8],
        flags: u8,
        expected_bytes: u32,
        data: &[u8],
    ) -> u32 {
        let task_tag = self.tag();
        let mut header = ScsiCommand {
            opcode: 0x01,
            flags,
            data_bytes: u32::try_from(data.len()).unwrap().into(),
            task_tag: task_tag.into(),
            expected_bytes: expected_bytes.into(),
            command_sn: self.command_sn.into(),
            ..ScsiCommand::default()
        };
        header.cdb[..cdb.len()].copy_from_slice(cdb);
        self.command_sn += 1;
        self.pdu(world, header.as_bytes(), data);
        task_tag
    }

    /// A command without unsolicited data, and the PDU that ends it.
    pub fn command(
        &mut self,
        world: &mut World,
        cdb: &[u8],
        flags: u8,
        expected_bytes: u32,
        data: &[u8],
    ) -> Vec<u8> {
        self.begin(world, cdb, flags | flag::FINAL, expected_bytes, data);
        self.next_pdu(world).unwrap()
    }

    fn cdb(opcode: u8, lba: u64, blocks: usize) -> Vec<u8> {
        let blocks = u32::try_from(blocks).unwrap();
        [&[opcode, 0][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0, 0]].concat()
    }

    /// Writes as the keys of the session have it; returns the status.
    pub fn write(&mut self, world: &mut World, lba: u64, data: &[u8]) -> u8 {
        let parameters = self.parameters;
        let first = data.len().min(parameters.first_burst_bytes_max as usize);
        let immediate = if parameters.immediate_data { first.min(1024) } else { 0 };
        let unsolicited = if parameters.initial_r2t { immediate } else { first };
        let final_flag = if unsolicited > immediate { 0 } else { flag::FINAL };
        let cdb = Initiator::cdb(0x8a, lba, data.len() / BLOCK);
        let expected = u32::try_from(data.len()).unwrap();
        let flags = flag::WRITE | final_flag;
        let tag = self.begin(world, &cdb, flags, expected, &data[..immediate]);
        if unsolicited > immediate {
            self.data_out(world, tag, RESERVED_TAG, data, immediate..unsolicited);
        }
        loop {
            let pdu = self.next_pdu(world).unwrap();
            if pdu[0] == TargetOpcode::ScsiResponse as u8 {
                return pdu[3];
            }
            assert_eq!(pdu[0], TargetOpcode::ReadyToTransfer as u8);
            let field = |at: usize| u32::from_be_bytes(pdu[at..at + 4].try_into().unwrap());
            let from = field(40) as usize;
            self.data_out(world, tag, field(20), data, from..from + field(44) as usize);
        }
    }

    /// A sequence of Data-Out, a kilobyte and a half each.
    fn data_out(
        &mut self,
        world: &mut World,
        task_tag: u32,
        transfer_tag: u32,
        data: &[u8],
        range: std::ops::Range<usize>,
    ) {
        let mut at = range.start;
        let mut data_sn = 0;
        while at < range.end {
            let len = (range.end - at).min(1536);
            let header = DataOut {
                opcode: 0x05,
                flags: if at + len == range.end { flag::FINAL } else { 0 },
                data_bytes: u32::try_from(len).unwrap().into(),
                task_tag: task_tag.into(),
                transfer_tag: transfer_tag.into(),
                data_sn: data_sn.into(),
                offset_bytes: u32::try_from(at).unwrap().into(),
                ..DataOut::default()
            };
            self.pdu(world, header.as_bytes(), &data[at..at + len]);
            at += len;
            data_sn += 1_u32;
        }
    }

    /// Reads, and checks the numbers of what comes.
    pub fn read(&mut self, world: &mut World, lba: u64, blocks: usize) -> Vec<u8> {
        let expected = u32::try_from(blocks * BLOCK).unwrap();
        let cdb = Initiator::cdb(0x88, lba, blocks);
        let mut pdu = self.command(world, &cdb, flag::READ, expected, &[]);
        let mut data = Vec::new();
        let mut data_sn = 0_u32;
        loop {
            assert_eq!(pdu[0], TargetOpcode::DataIn as u8);
            assert_eq!(pdu[36..40], data_sn.to_be_bytes());
            assert_eq!(pdu[40..44], u32::try_from(data.len()).unwrap().to_be_bytes());
            data.extend(&pdu[48..]);
            data_sn += 1;
            if pdu[1] & flag::STATUS != 0 {
                assert_eq!(pdu[3], 0);
                return data;
            }
            pdu = self.next_pdu(world).unwrap();
        }
    }

    /// A task management function, delivered at once; returns the response.
    pub fn manage(&mut self, world: &mut World, function: u8, referenced_tag: u32) -> u8 {
        let header = TaskManagementRequest {
            opcode: 0x42,
            function: 0x80 | function,
            task_tag: self.tag().into(),
            referenced_tag: referenced_tag.into(),
            command_sn: self.command_sn.into(),
            ..TaskManagementRequest::default()
        };
        self.pdu(world, header.as_bytes(), &[]);
        let answer = self.next_pdu(world).unwrap();
        assert_eq!(answer[0], TargetOpcode::TaskManagement as u8);
        answer[2]
    }

    pub fn ping(&mut self, world: &mut World, data: &[u8]) -> Vec<u8> {
        let header = NopOut {
            opcode: 0x40,
            flags: flag::FINAL,
            data_bytes: u32::try_from(data.len()).unwrap().into(),
            task_tag: self.tag().into(),
            transfer_tag: RESERVED_TAG.into(),
            command_sn: self.command_sn.into(),
            ..NopOut::default()
        };
        self.pdu(world, header.as_bytes(), data);
        self.next_pdu(world).unwrap()
    }

    pub fn text(&mut self, world: &mut World, data: &[u8]) -> Vec<u8> {
        let header = TextRequest {
            opcode: 0x04,
            flags: flag::FINAL,
            data_bytes: u32::try_from(data.len()).unwrap().into(),
            task_tag: self.tag().into(),
            transfer_tag: RESERVED_TAG.into(),
            command_sn: self.command_sn.into(),
            ..TextRequest::default()
        };
        self.command_sn += 1;
        self.pdu(world, header.as_bytes(), data);
        self.next_pdu(world).unwrap()[48..].to_vec()
    }

    pub fn logout(&mut self, world: &mut World) {
        let header = LogoutRequest {
            opcode: 0x46,
            reason: 0x80,
            task_tag: self.tag().into(),
            command_sn: self.command_sn.into(),
            ..LogoutRequest::default()
        };
        self.pdu(world, header.as_bytes(), &[]);
        let answer = self.next_pdu(world).unwrap();
        assert_eq!((answer[0], answer[2]), (TargetOpcode::Logout as u8, 0));
    }
}
