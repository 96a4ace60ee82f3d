//! A host that knows the protocol well enough to break it.
//!
//! It sends valid PDUs, mutated ones and noise, in any split, and holds everything that it receives
//! to the rules. Without mutations (`mutation` of zero) it is a good host, and is served as one.

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::random::Random;
use reactor::socket::memory::MemoryLimits;
use zerocopy::{FromBytes, IntoBytes};

use super::mutate;
use super::round::POISON;
use crate::fabrics::Nqn;
use crate::fabrics::connect::{ConnectCommand, ConnectData, ConnectOptions};
use crate::pdu::connection::HostParameters;
use crate::pdu::encode::Header;
use crate::pdu::header::COMMON_HEADER_BYTES;
use crate::pdu::{
    CommandCapsule, DataAlignment, DataRange, Digests, Flags, Framing, H2cData, HEADER_SLOT_BYTES,
    InitializeRequest, PduKind, Phase, ReadyToTransfer, ResponseCapsule, Rules, crc32c, decode,
    verify_header_digest, write_header,
};
use crate::target::harness::{Harness, HostEnd};

pub(super) const SUBSYSTEM: &str = "nqn.2019-05.io.openebs:test";
pub(super) const HOST: &str =
    "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
pub(super) const OTHER_HOST: &str =
    "nqn.2014-08.org.nvmexpress:uuid:99999999-2222-3333-4444-555555555555";
/// A run of so many poisoned bytes is no accident.
const POISON_RUN_BYTES: usize = 24;
/// Bytes sent between two looks at what was received.
const SPLIT_BYTES_MAX: u64 = 3000;

/// Which queue a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The admin queue.
    Admin,
    /// An I/O queue of this number.
    Io(u16),
}

/// What a session asks for.
#[derive(Clone, Debug)]
pub(super) struct SessionOptions {
    pub subsystem: &'static str,
    pub host: &'static str,
    pub digests: Digests,
    pub data_alignment: DataAlignment,
    pub limits: MemoryLimits,
    pub role: Role,
}

/// What a session has received.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Commands answered, by a capsule or by the success flag.
    pub completions: u64,
    /// Commands answered with an error.
    pub errors: u64,
    /// The result of the last completion.
    pub result: u32,
    /// Data of the last reads.
    pub data: Vec<u8>,
    /// R2Ts that are not answered yet: command, tag, length.
    pub asked: Vec<(u16, u16, u32)>,
    /// A termination request came.
    pub terminated: bool,
    initialized: bool,
}

/// A hostile connection.
pub(super) struct Session {
    end: HostEnd,
    options: SessionOptions,
    framing: Framing,
    pub seen: Seen,
    /// How often a PDU is mutated.
    pub mutation: f64,
    /// The admin queue of an I/O queue's controller.
    pub admin: Option<Box<Session>>,
    /// Whether everything so far was as it should be.
    is_clean: bool,
    established: bool,
    sent: u64,
    next_id: u16,
}

/// An I/O command of namespace 1.
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

impl Session {
    /// A connection that has said nothing.
    pub fn bare(harness: &mut Harness, options: SessionOptions) -> Session {
        let end = harness.connect(options.limits);
        Session {
            end,
            options,
            framing: Framing::default(),
            seen: Seen::default(),
            mutation: 0.0,
            admin: None,
            is_clean: true,
            established: false,
            sent: 0,
            next_id: 1,
        }
    }

    /// A connection whose ICReq was answered.
    pub fn open(harness: &mut Harness, options: SessionOptions) -> Session {
        let mut session = Session::bare(harness, options);
        let request = session.initialize_request();
        session.end.send(harness, request.as_bytes());
        session.listen(harness);
        assert!(session.seen.initialized, "a good ICReq is answered");
        session
    }

    fn initialize_request(&self) -> InitializeRequest {
        InitializeRequest::new(HostParameters {
            data_alignment: self.options.data_alignment,
            digests: self.options.digests,
            ready_to_transfer_max: 1,
        })
    }

    fn connect_parts(&self, controller_id: u16) -> (SubmissionEntry, ConnectData) {
        let (queue_id, keep_alive_ms) = match self.options.role {
            Role::Admin => (0, 600_000),
            Role::Io(queue_id) => (queue_id, 0),
        };
        let options = ConnectOptions { queue_id, queue_size: 31, attributes: 0, keep_alive_ms };
        let name = |text: &str| text.parse::<Nqn>().expect("a valid name").to_field();
        let data = ConnectData {
            host_id: [0x11; 16],
            controller_id: controller_id.into(),
            reserved_18: [0; 238],
            subsystem_nqn: name(self.options.subsystem),
            host_nqn: name(self.options.host),
            reserved_768: [0; 256],
        };
        (ConnectCommand::new(1, options).entry(), data)
    }

    /// Connects; the controller's id, if the target agrees.
    pub fn establish(&mut self, harness: &mut Harness, controller_id: u16) -> Option<u16> {
        let (command, data) = self.connect_parts(controller_id);
        let errors = self.seen.errors;
        self.command(harness, command, data.as_bytes());
        self.listen(harness);
        self.established = self.seen.errors == errors;
        self.established.then(|| u16::try_from(self.seen.result).expect("a controller id"))
    }

    /// Sets CC.EN.
    pub fn enable(&mut self, harness: &mut Harness) {
        let mut command = SubmissionEntry::new(0x7f, 2, 0);
        command.flags = 0x40;
        command.cdw11.set(0x14);
        command.cdw12.set(0x0046_0001);
        self.command(harness, command, &[]);
        self.listen(harness);
    }

    pub fn keep_alive(&mut self, harness: &mut Harness) {
        let sgl = SglDescriptor::transport_data_block(0);
        self.command(harness, SubmissionEntry::new(0x18, 3, 0).with_sgl(sgl), &[]);
        self.listen(harness);
    }

    pub fn is_closed(&mut self) -> bool {
        self.end.is_closed()
    }

    /// Sends a command as it should be.
    pub fn command(&mut self, harness: &mut Harness, command: SubmissionEntry, data: &[u8]) {
        let data_bytes = u32::try_from(data.len()).expect("a short capsule");
        self.sent += 1;
        let bytes = self.encode(&CommandCapsule::new(command, data_bytes, self.framing), data);
        self.end.send(harness, &bytes);
    }

    /// A PDU as it should be; the target asks for no alignment.
    fn encode<H: Header>(&self, header: &H, data: &[u8]) -> Vec<u8> {
        let mut slot = [0; HEADER_SLOT_BYTES];
        let written = write_header(header, &mut slot);
        let mut bytes = slot[..written].to_vec();
        bytes.extend_from_slice(data);
        if self.framing.digests.data && !data.is_empty() {
            bytes.extend_from_slice(&crc32c(data).to_le_bytes());
        }
        bytes
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, harness: &mut Harness, bytes: &[u8]) {
        self.is_clean = false;
        self.end.send(harness, bytes);
        self.listen(harness);
    }

    /// Does something: a command, data that was asked for, or what no host should do.
    pub fn act(&mut self, harness: &mut Harness, random: &mut Random) {
        if random.chance(0.01)
            && let Some(admin) = &mut self.admin
        {
            // The controller is reset or shut down amid its I/O, and its queues with it.
            self.is_clean = false;
            let command = mutate::configuration(4, random);
            return admin.command(harness, command, &[]);
        }
        let mut bytes = self.choose(random);
        if random.chance(self.mutation) {
            self.is_clean = false;
            mutate::mutate(&mut bytes, self.framing.digests, random);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let split = 1 + random.below(SPLIT_BYTES_MAX.min(rest.len() as u64)) as usize;
            self.end.send(harness, &rest[..split]);
            rest = &rest[split..];
            if random.chance(0.5) {
                harness.pass();
            }
        }
        if random.chance(0.5) {
            self.listen(harness);
        }
    }

    fn choose(&mut self, random: &mut Random) -> Vec<u8> {
        if !self.seen.initialized {
            let request = self.initialize_request();
            // Once is right; the answer comes before anything else is said.
            self.is_clean &= self.sent == 0;
            self.sent += 1;
            return request.as_bytes().to_vec();
        }
        if !self.seen.asked.is_empty() && random.chance(0.7) {
            return self.data_asked_for(random);
        }
        if !self.established {
            // Whatever comes of it: a second one before the answer is out of sequence.
            self.is_clean = false;
            let (command, data) = self.connect_parts(0xffff);
            let capsule = CommandCapsule::new(command, 1024, self.framing);
            return self.encode(&capsule, data.as_bytes());
        }
        // A good host leaves a queue within its entries.
        if self.sent.saturating_sub(self.seen.completions) >= 31 && self.mutation < 0.1 {
            return Vec::new();
        }
        // Sometimes an identifier again, whether or not its last command is answered.
        let is_again = random.chance(self.mutation * 0.2);
        self.is_clean &= !is_again;
        self.next_id = self.next_id.wrapping_add(u16::from(!is_again));
        self.sent += 1;
        if matches!(self.options.role, Role::Io(_)) && random.chance(0.1) {
            let halves = mutate::fused_pair(self.next_id, random);
            self.next_id = self.next_id.wrapping_add(1);
            self.sent += 1;
            let encode = |(command, data_bytes)| self.capsule(command, data_bytes, random);
            return halves.map(encode).concat();
        }
        let (command, data_bytes) = match self.options.role {
            Role::Admin => mutate::admin_command(self.next_id, random),
            Role::Io(_) => mutate::io_command(self.next_id, random),
        };
        self.capsule(command, data_bytes, random)
    }

    fn capsule(&self, command: SubmissionEntry, bytes: usize, random: &mut Random) -> Vec<u8> {
        let data = vec![random.below(200) as u8; bytes];
        let data_bytes = u32::try_from(bytes).expect("a short capsule");
        self.encode(&CommandCapsule::new(command, data_bytes, self.framing), &data)
    }

    /// The data of an R2T, in one or several PDUs.
    fn data_asked_for(&mut self, random: &mut Random) -> Vec<u8> {
        let index = random.below(self.seen.asked.len() as u64) as usize;
        let (command_id, tag, length) = self.seen.asked.swap_remove(index);
        let mut bytes = Vec::new();
        let mut offset = 0;
        while offset < length {
            let most = u64::from((length - offset) / 4);
            let part = 4 * (1 + random.below(most)) as u32;
            let part = if random.chance(0.5) { length - offset } else { part };
            let last = offset + part == length;
            let flags = if last { Flags::LAST } else { Flags::NONE };
            let range = DataRange { offset, length: part };
            let header = H2cData::new(command_id, tag, range, flags, self.framing);
            bytes.extend(self.encode(&header, &vec![0x5a; part as usize]));
            offset += part;
        }
        bytes
    }

    /// Answers every R2T with `data` until nothing moves.
    pub fn answer_all(&mut self, harness: &mut Harness, data: &[u8]) {
        self.listen(harness);
        while let Some((command_id, tag, length)) = self.seen.asked.pop() {
            let range = DataRange { offset: 0, length };
            let header = H2cData::new(command_id, tag, range, Flags::LAST, self.framing);
            let bytes = self.encode(&header, &data[..length as usize]);
            self.end.send(harness, &bytes);
            self.listen(harness);
        }
    }

    /// Takes what the target says, and holds it to the rules.
    pub fn listen(&mut self, harness: &mut Harness) {
        self.end.exchange(harness);
        while self.take_one() {}
        if self.seen.terminated {
            let more = self.end.received().len();
            assert_eq!(more, 0, "nothing follows a termination request");
        }
    }

    fn take_one(&mut self) -> bool {
        let rules = Rules {
            receiver: crate::pdu::Role::Host,
            phase: if self.seen.initialized { Phase::Connected } else { Phase::Initializing },
            framing: self.framing,
            capsule_data_bytes_max: 0,
            data_bytes_max: 1 << 20,
        };
        let received = self.end.received();
        let Some(common) = received.first_chunk::<COMMON_HEADER_BYTES>() else { return false };
        let parts = decode(common, &rules).expect("the target sends valid PDUs");
        if received.len() < parts.pdu_bytes as usize {
            return false;
        }
        assert!(!self.seen.terminated, "nothing follows a termination request");
        let bytes: Vec<u8> = received.drain(..parts.pdu_bytes as usize).collect();
        verify_header_digest(&parts, &bytes).expect("the target's digests are right");
        let poisoned = bytes.windows(POISON_RUN_BYTES).any(|run| run.iter().all(|b| *b == POISON));
        assert!(!poisoned, "memory that nobody wrote is not sent");
        let start = usize::from(parts.data_offset);
        let data = &bytes[start..start + parts.data_bytes as usize];
        if parts.data_digest_bytes > 0 {
            assert_eq!(bytes[bytes.len() - 4..], crc32c(data).to_le_bytes());
        }
        self.note(parts.kind, parts.flags, &bytes, data);
        true
    }

    fn note(&mut self, kind: PduKind, flags: Flags, bytes: &[u8], data: &[u8]) {
        match kind {
            PduKind::InitializeResponse => {
                self.seen.initialized = true;
                self.sent = 0;
                let SessionOptions { digests, data_alignment, .. } = self.options;
                let granted = bytes[11];
                // A mutated ICReq may have asked for something else.
                let digests = if self.is_clean {
                    digests
                } else {
                    Digests { header: granted & 1 != 0, data: granted & 2 != 0 }
                };
                self.framing = Framing { digests, data_alignment };
            }
            PduKind::ResponseCapsule => {
                let (capsule, _) = ResponseCapsule::read_from_prefix(bytes).expect("24 bytes");
                self.seen.completions += 1;
                self.seen.errors += u64::from(!capsule.completion.status().is_success());
                self.seen.result = capsule.completion.result();
            }
            PduKind::C2hData => {
                self.seen.data.extend_from_slice(data);
                self.seen.completions += u64::from(flags.has(Flags::SUCCESS));
            }
            PduKind::ReadyToTransfer => {
                let (ask, _) = ReadyToTransfer::read_from_prefix(bytes).expect("24 bytes");
                let range = ask.check().expect("the target asks for whole dwords");
                assert_eq!(range.offset, 0);
                self.seen.asked.push((ask.command_id.get(), ask.transfer_tag.get(), range.length));
            }
            _ => self.seen.terminated = true,
        }
    }

    /// A good host is served like one: never ended, never waiting for more than it owes itself.
    pub fn check_clean(&mut self) {
        if !self.is_clean {
            return;
        }
        assert!(!self.is_closed() && !self.seen.terminated, "a good host is not ended");
        if self.established && matches!(self.options.role, Role::Io(_)) {
            // Whatever waits for a grant waits behind what was asked for.
            let open = self.sent - self.seen.completions;
            assert!(open == 0 || !self.seen.asked.is_empty(), "a good host is answered");
        }
    }
}
