//! The target as a host sees it, over sockets in memory and a virtual clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::{Geometry, Status};
use reactor::Nanos;
use reactor::socket::memory::MemoryLimits;
use zerocopy::{FromBytes, IntoBytes};

use super::TargetDescription;
use super::harness::{Harness, HostEnd};
use super::namespace::{Access, Namespace, NamespaceId};
use super::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use crate::fabrics::Nqn;
use crate::fabrics::connect::{ConnectCommand, ConnectData, ConnectOptions};
use crate::fabrics::nqn::DISCOVERY_NQN;
use crate::pdu::connection::HostParameters;
use crate::pdu::{
    C2hData, CommandCapsule, DataAlignment, DataRange, Digests, Flags, Framing, H2cData,
    HEADER_SLOT_BYTES, InitializeRequest, PduHeader, PduKind, Phase, ReadyToTransfer,
    ResponseCapsule, Role, Rules, crc32c, decode, write_header,
};

pub(super) const SUBSYSTEM: &str = "nqn.2019-05.io.openebs:test";
pub(super) const HOST: &str =
    "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
pub(super) const HOST_ID: [u8; 16] = [0x11; 16];
const BLOCK_BYTES: u32 = 512;

/// A RAM disk of 4 MiB as namespace 1, and discovery.
pub(super) fn description() -> TargetDescription {
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks: 8192 };
    description_of(Arc::new(bdev::malloc::Malloc::new("ram", geometry, None).unwrap()))
}

/// A device as namespace 1, and discovery.
pub(super) fn description_of(device: Arc<dyn bdev::BlockDevice>) -> TargetDescription {
    let nqn: Nqn = SUBSYSTEM.parse().unwrap();
    let namespaces = vec![Namespace::new(&nqn, NamespaceId(1), device, Access::ReadWrite)];
    let nvm =
        SubsystemConfig { namespaces, ..SubsystemConfig::new(nqn, SubsystemKind::Nvm, [7; 16]) };
    let discovery = SubsystemConfig::new(DISCOVERY_NQN, SubsystemKind::Discovery, [7; 16]);
    TargetDescription::new([discovery, nvm].map(|one| Subsystem::new(one).unwrap()).into())
}

/// A host that speaks PDUs by hand.
pub(super) struct Host {
    pub end: HostEnd,
    /// Framing of what it sends.
    pub framing: Framing,
    /// What it asked for data to it.
    pub data_alignment: DataAlignment,
}

/// A PDU as the host received it.
pub(super) struct Received {
    pub parts: PduHeader,
    pub bytes: Vec<u8>,
}

impl Received {
    pub fn data(&self) -> &[u8] {
        let start = usize::from(self.parts.data_offset);
        &self.bytes[start..start + self.parts.data_bytes as usize]
    }

    pub fn completion(&self) -> CompletionEntry {
        assert_eq!(self.parts.kind, PduKind::ResponseCapsule);
        ResponseCapsule::read_from_prefix(&self.bytes).unwrap().0.completion
    }
}

impl Host {
    pub fn initialize(harness: &mut Harness, limits: MemoryLimits, digests: Digests) -> Host {
        Host::initialize_on(harness, 0, limits, digests)
    }

    /// A connection whose ICReq was answered, to a certain core.
    pub fn initialize_on(
        harness: &mut Harness,
        core: usize,
        limits: MemoryLimits,
        digests: Digests,
    ) -> Host {
        let parameters = HostParameters {
            data_alignment: DataAlignment::DWORD,
            digests,
            ready_to_transfer_max: 1,
        };
        Host::initialize_by(harness, core, limits, parameters)
    }

    /// A connection whose ICReq with these parameters was answered.
    pub fn initialize_by(
        harness: &mut Harness,
        core: usize,
        limits: MemoryLimits,
        parameters: HostParameters,
    ) -> Host {
        let mut end = harness.connect_to(core, limits);
        assert!(end.send(harness, InitializeRequest::new(parameters).as_bytes()));
        end.exchange(harness);
        let response: Vec<u8> = end.received().drain(..128).collect();
        assert_eq!(response[0], PduKind::InitializeResponse.pdu_type());
        let data_alignment = parameters.data_alignment;
        Host {
            end,
            framing: Framing { digests: parameters.digests, data_alignment: DataAlignment::DWORD },
            data_alignment,
        }
    }

    pub fn command(&mut self, harness: &mut Harness, command: SubmissionEntry, data: &[u8]) {
        let data_bytes = u32::try_from(data.len()).unwrap();
        let capsule = CommandCapsule::new(command, data_bytes, self.framing);
        self.pdu(harness, &capsule, data);
    }

    pub fn pdu<H: crate::pdu::encode::Header>(
        &mut self,
        harness: &mut Harness,
        pdu: &H,
        data: &[u8],
    ) {
        let mut slot = [0; HEADER_SLOT_BYTES];
        let written = write_header(pdu, &mut slot);
        let mut bytes = slot[..written].to_vec();
        bytes.extend_from_slice(data);
        if self.framing.digests.data && !data.is_empty() {
            bytes.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        assert!(self.end.send(harness, &bytes));
    }

    pub fn receive(&mut self, harness: &mut Harness) -> Received {
        self.end.exchange(harness);
        let rules = Rules {
            receiver: Role::Host,
            phase: Phase::Connected,
            framing: Framing { data_alignment: self.data_alignment, ..self.framing },
            capsule_data_bytes_max: 0,
            data_bytes_max: 1 << 20,
        };
        let bytes = self.end.received();
        let common = bytes.first_chunk().expect("a PDU was expected");
        let parts = decode(common, &rules).unwrap();
        let bytes: Vec<u8> = bytes.drain(..parts.pdu_bytes as usize).collect();
        let received = Received { parts, bytes };
        if received.parts.data_digest_bytes > 0 {
            let digest = crc32c(received.data()).to_le_bytes();
            assert_eq!(received.bytes[received.bytes.len() - 4..], digest);
        }
        received
    }

    /// Answers R2Ts with the data of their commands, in PDUs of `pdu_bytes` at most, until nothing
    /// comes any more; returns how commands ended, in order.
    pub fn serve(
        &mut self,
        harness: &mut Harness,
        data: &BTreeMap<u16, Vec<u8>>,
        pdu_bytes: u32,
    ) -> Vec<(u16, Status)> {
        let mut ended = Vec::new();
        loop {
            self.end.exchange(harness);
            if self.end.received().is_empty() {
                return ended;
            }
            let pdu = self.receive(harness);
            match pdu.parts.kind {
                PduKind::ReadyToTransfer => {
                    let ask = ReadyToTransfer::read_from_prefix(&pdu.bytes).unwrap().0;
                    self.give_data(harness, &ask, &data[&ask.command_id.get()], pdu_bytes);
                }
                PduKind::C2hData => {}
                _ => {
                    let end = pdu.completion();
                    ended.push((end.command_id.get(), end.status()));
                }
            }
        }
    }

    /// Sends what an R2T asks for, in PDUs of `pdu_bytes` at most.
    pub fn give_data(
        &mut self,
        harness: &mut Harness,
        ask: &ReadyToTransfer,
        data: &[u8],
        pdu_bytes: u32,
    ) {
        let DataRange { offset: start, length } = ask.range();
        let mut sent = 0;
        while sent < length {
            let part = pdu_bytes.min(length - sent);
            let flags = if sent + part == length { Flags::LAST } else { Flags::NONE };
            let range = DataRange { offset: start + sent, length: part };
            let (command_id, tag) = (ask.command_id.get(), ask.transfer_tag.get());
            let header = H2cData::new(command_id, tag, range, flags, self.framing);
            let from = range.offset as usize;
            self.pdu(harness, &header, &data[from..from + part as usize]);
            sent += part;
        }
    }

    pub fn completion(&mut self, harness: &mut Harness) -> CompletionEntry {
        self.receive(harness).completion()
    }

    /// The data of a command that reads, or the status of its refusal.
    pub fn read_answer(&mut self, harness: &mut Harness) -> Result<Vec<u8>, Status> {
        let first = self.receive(harness);
        if first.parts.kind == PduKind::ResponseCapsule {
            let status = first.completion().status();
            assert!(!status.is_success(), "data comes first");
            return Err(status);
        }
        let data = first.data().to_vec();
        if !first.parts.flags.has(Flags::SUCCESS) {
            assert!(self.completion(harness).status().is_success());
        }
        Ok(data)
    }

    pub fn connect(
        &mut self,
        harness: &mut Harness,
        queue_id: u16,
        controller_id: u16,
    ) -> CompletionEntry {
        self.send_connect(harness, queue_id, controller_id);
        self.completion(harness)
    }

    /// Connects, and does not wait for the answer.
    pub fn send_connect(&mut self, harness: &mut Harness, queue_id: u16, controller_id: u16) {
        let (command, data) = Host::connect_parts(queue_id, controller_id);
        self.command(harness, command, data.as_bytes());
    }

    /// A good Connect.
    pub fn connect_parts(queue_id: u16, controller_id: u16) -> (SubmissionEntry, ConnectData) {
        let options = ConnectOptions {
            queue_id,
            queue_size: 31,
            attributes: 0,
            keep_alive_ms: if queue_id == 0 { 5000 } else { 0 },
        };
        let command = ConnectCommand::new(1, options).entry();
        let data = ConnectData {
            host_id: HOST_ID,
            controller_id: controller_id.into(),
            reserved_18: [0; 238],
            subsystem_nqn: SUBSYSTEM.parse::<Nqn>().unwrap().to_field(),
            host_nqn: HOST.parse::<Nqn>().unwrap().to_field(),
            reserved_768: [0; 256],
        };
        (command.with_sgl(SglDescriptor::in_capsule(0, 1024)), data)
    }

    /// A good Connect as it is on the wire, without digests.
    pub fn connect_bytes(queue_id: u16, controller_id: u16) -> Vec<u8> {
        let (command, data) = Host::connect_parts(queue_id, controller_id);
        let capsule = CommandCapsule::new(command, 1024, Framing::default());
        [capsule.as_bytes(), data.as_bytes()].concat()
    }

    /// Sets CC.EN.
    pub fn enable(&mut self, harness: &mut Harness) {
        let mut command = SubmissionEntry::new(0x7f, 2, 0);
        command.flags = 0x40;
        command.cdw11.set(0x14);
        command.cdw12.set(0x0046_0001);
        self.command(harness, command, &[]);
        assert!(self.completion(harness).status().is_success());
    }
}

pub(super) fn io(
    opcode: u8,
    command_id: u16,
    lba: u32,
    blocks: u32,
    sgl: SglDescriptor,
) -> SubmissionEntry {
    let mut command = SubmissionEntry::new(opcode, command_id, 1).with_sgl(sgl);
    command.cdw10.set(lba);
    command.cdw12.set(blocks - 1);
    command
}

/// An enabled controller and one of its I/O queues.
pub(super) fn connected(limits: MemoryLimits, digests: Digests) -> (Harness, Host, Host) {
    connected_in(Harness::new(description()), limits, digests)
}

/// As [`connected`], on a core that is there already.
pub(super) fn connected_in(
    harness: Harness,
    limits: MemoryLimits,
    digests: Digests,
) -> (Harness, Host, Host) {
    let data_alignment = DataAlignment::DWORD;
    connect_both(
        harness,
        limits,
        HostParameters { data_alignment, digests, ready_to_transfer_max: 1 },
    )
}

/// As [`connected`], by ICReqs with these parameters.
pub(super) fn connected_by(
    limits: MemoryLimits,
    parameters: HostParameters,
) -> (Harness, Host, Host) {
    connect_both(Harness::new(description()), limits, parameters)
}

fn connect_both(
    mut harness: Harness,
    limits: MemoryLimits,
    parameters: HostParameters,
) -> (Harness, Host, Host) {
    let mut admin = Host::initialize_by(&mut harness, 0, limits, parameters);
    let made = admin.connect(&mut harness, 0, 0xffff);
    assert!(made.status().is_success(), "{}", made.status());
    admin.enable(&mut harness);
    let mut queue = Host::initialize_by(&mut harness, 0, limits, parameters);
    let id = u16::try_from(made.result()).unwrap();
    let made = queue.connect(&mut harness, 1, id);
    assert!(made.status().is_success(), "{}", made.status());
    (harness, admin, queue)
}

fn writes_and_reads_back(limits: MemoryLimits, digests: Digests) {
    let (mut harness, _admin, mut queue) = connected(limits, digests);
    let small: Vec<u8> = (0..4096_u32).map(|index| index as u8 ^ 0x5a).collect();
    queue.command(&mut harness, io(1, 7, 8, 8, SglDescriptor::in_capsule(0, 4096)), &small);
    let done = queue.completion(&mut harness);
    assert_eq!((done.command_id.get(), done.status()), (7, Status::SUCCESS));

    let large: Vec<u8> = (0..65536_u32).map(|index| (index / 7) as u8).collect();
    let sgl = SglDescriptor::transport_data_block(65536);
    queue.command(&mut harness, io(1, 8, 64, 128, sgl), &[]);
    let ask = queue.receive(&mut harness);
    let ask = ReadyToTransfer::read_from_prefix(&ask.bytes).unwrap().0;
    assert_eq!(ask.range(), DataRange { offset: 0, length: 65536 });
    for (index, part) in large.chunks(16384).enumerate() {
        let offset = index as u32 * 16384;
        let flags = if offset == 49152 { Flags::LAST } else { Flags::NONE };
        let range = DataRange { offset, length: 16384 };
        let header = H2cData::new(8, ask.transfer_tag.get(), range, flags, queue.framing);
        queue.pdu(&mut harness, &header, part);
    }
    assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);

    let sgl = SglDescriptor::transport_data_block(69632);
    queue.command(&mut harness, io(2, 9, 8, 136, sgl), &[]);
    let data = queue.receive(&mut harness);
    assert_eq!(data.parts.kind, PduKind::C2hData);
    assert_eq!(C2hData::read_from_prefix(&data.bytes).unwrap().0.command_id.get(), 9);
    assert_eq!(data.data()[..4096], small);
    assert_eq!(data.data()[28672..28672 + 40960], large[..40960]);
    assert!(data.data()[4096..28672].iter().all(|byte| *byte == 0));
    assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
    assert_eq!(harness.cx.dma.taken(), 0, "every buffer is back");
}

#[test]
fn what_is_written_is_read_back() {
    writes_and_reads_back(MemoryLimits::default(), Digests::default());
}

#[test]
fn what_is_written_is_read_back_with_digests_and_any_split_of_the_stream() {
    for call_bytes in [1, 3, 7, 64, 73, 1000, 4096] {
        let limits = MemoryLimits { call_bytes, stream_bytes: 8192 };
        writes_and_reads_back(limits, Digests { header: true, data: true });
    }
}

#[test]
fn a_host_without_keep_alive_is_given_up_with_its_queues() {
    let (mut harness, mut admin, mut queue) =
        connected(MemoryLimits::default(), Digests::default());
    harness.wait(Nanos::from_secs(3));
    assert!(!admin.end.is_closed());
    harness.wait(Nanos::from_secs(6));
    assert!(admin.end.is_closed() && queue.end.is_closed());
    assert_eq!(harness.cx.counters.connections, 0);
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let mut harness = Harness::new(description());
    let mut end = harness.connect(MemoryLimits::default());
    harness.wait(Nanos::from_secs(4));
    assert!(!end.is_closed());
    harness.wait(Nanos::from_secs(2));
    assert!(end.is_closed());
}

#[test]
fn a_queue_of_no_controller_is_refused() {
    let mut harness = Harness::new(description());
    let mut queue = Host::initialize(&mut harness, MemoryLimits::default(), Digests::default());
    let refused = queue.connect(&mut harness, 1, 5);
    assert!(refused.status().has_code(Status::CONNECT_INVALID_PARAMETERS));
}

#[test]
fn garbage_gets_a_termination_request_and_the_end() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), Digests::default());
    assert!(queue.end.send(&mut harness, &[0xff; 64]));
    queue.end.exchange(&mut harness);
    assert_eq!(queue.end.received()[0], PduKind::ControllerTermRequest.pdu_type());
    assert!(queue.end.is_closed());
    assert_eq!(harness.cx.counters.protocol_errors, 1);
    assert_eq!(harness.cx.counters.connections, 1);
}
