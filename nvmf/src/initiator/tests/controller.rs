//! A small controller over a disk in memory: what the initiator is tried against end to end.
//!
//! It grants what is asked, moves data in pieces of its own choice, and holds the host to the
//! protocol by panicking.

use std::collections::HashMap;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::identify::{
    DescriptorWriter, IDENTIFY_BYTES, IdentifyController, IdentifyKind, IdentifyNamespace,
    LbaFormat, NamespaceIdentity, NamespaceList,
};
use bdev::nvme::nvm_command::{DatasetRange, TransferFlags};
use bdev::nvme::opcode::{AdminOpcode, FABRICS, NvmOpcode};
use bdev::nvme::register::{
    CAPABILITIES_OFFSET, CONFIGURATION_OFFSET, Capabilities, Configuration, ControllerStatus,
    STATUS_OFFSET,
};
use bdev::nvme::sgl::Sgl;
use bdev::nvme::status::Status;
use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::wire::{FromHost, Peer, Stream, Wires};
use crate::fabrics::command::PropertyCommand;
use crate::fabrics::connect::{
    ADMIN_QUEUE_ID, Authentication, CONTROLLER_ID_DYNAMIC, ConnectCommand, ConnectData,
    connect_result,
};
use crate::pdu::{DataRange, Flags};

pub const BLOCK_BYTES: u32 = 512;
pub const NAMESPACE_ID: u32 = 3;
const CONTROLLER_ID: u16 = 0x0102;
const NAMESPACE_UUID: Uuid = Uuid::from_u128(0x1234_5678);

/// How the controller behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Blocks of its namespace.
    pub blocks: u64,
    /// MQES.
    pub queue_entries_last: u16,
    /// Most I/O queues.
    pub io_queues: u16,
    /// IOCCSZ in bytes.
    pub capsule_bytes: u32,
    /// CPDA.
    pub alignment: u8,
    /// Most data of one C2HData PDU.
    pub send_bytes: usize,
    /// Most data asked for by one R2T.
    pub ask_bytes: u32,
    /// MAXH2CDATA.
    pub data_bytes_max: u32,
    /// Whether C2HData ends reads by itself.
    pub success: Flags,
    /// DLFEAT.
    pub deallocate: u8,
    /// How Connect ends, where not with success.
    pub refusal: Option<CompletionEntry>,
    /// How often CSTS is asked before it says ready.
    pub ready_after: u32,
    /// The ICReq is never answered.
    pub mute: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            blocks: 1000,
            queue_entries_last: 127,
            io_queues: 4,
            capsule_bytes: 8192 + 64,
            alignment: 0,
            send_bytes: usize::MAX,
            ask_bytes: u32::MAX,
            data_bytes_max: 128 << 10,
            success: Flags::SUCCESS,
            deallocate: 0b1001,
            refusal: None,
            ready_after: 0,
            mute: false,
        }
    }
}

#[derive(Debug)]
struct Transfer {
    entry: SubmissionEntry,
    data: Vec<u8>,
    length: u32,
    asked: u32,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    queue_id: Option<u16>,
    transfers: HashMap<u16, Transfer>,
}

/// The controller.
#[derive(Debug)]
pub struct FakeController {
    pub behaviour: Behaviour,
    pub disk: Vec<u8>,
    pub keep_alives: u32,
    /// Opcodes of I/O commands, in order.
    pub seen: Vec<u8>,
    /// SQSIZE of the I/O queues.
    pub queue_sizes: Vec<u16>,
    connections: Vec<Connection>,
    enabled: bool,
    ready_asked: u32,
}

impl FakeController {
    pub fn new(behaviour: Behaviour) -> FakeController {
        let len = usize::try_from(behaviour.blocks).unwrap() * BLOCK_BYTES as usize;
        FakeController {
            behaviour,
            disk: vec![0; len],
            keep_alives: 0,
            seen: Vec::new(),
            queue_sizes: Vec::new(),
            connections: Vec::new(),
            enabled: false,
            ready_asked: 0,
        }
    }

    fn handle(&mut self, connection: &mut Connection, pdu: FromHost) {
        match pdu {
            FromHost::Initialize(_) if self.behaviour.mute => {}
            FromHost::Initialize(request) => {
                connection.stream.grant(&request, self.behaviour.alignment);
            }
            FromHost::Command { entry, data } => self.command(connection, entry, data),
            FromHost::Data { header, flags, data } => {
                let id = header.command_id.get();
                assert_eq!(header.transfer_tag.get(), id ^ 0x5555);
                let transfer = connection.transfers.get_mut(&id).expect("an R2T asked for it");
                assert_eq!(header.range().offset as usize, transfer.data.len());
                transfer.data.extend_from_slice(&data);
                let arrived = u32::try_from(transfer.data.len()).unwrap();
                assert_eq!(flags.has(Flags::LAST), arrived == transfer.asked);
                if arrived == transfer.length {
                    let done = connection.transfers.remove(&id).unwrap();
                    self.execute(connection, done.entry, done.data);
                } else if arrived == transfer.asked {
                    self.ask(connection, id);
                }
            }
            FromHost::Terminate => panic!("the host found fault with this controller"),
        }
    }

    fn ask(&self, connection: &mut Connection, id: u16) {
        let transfer = connection.transfers.get_mut(&id).expect("it waits for data");
        let length = (transfer.length - transfer.asked).min(self.behaviour.ask_bytes);
        let range = DataRange { offset: transfer.asked, length };
        transfer.asked += length;
        connection.stream.ask(id, id ^ 0x5555, range);
    }

    fn command(&mut self, connection: &mut Connection, entry: SubmissionEntry, data: Vec<u8>) {
        let id = entry.command_id.get();
        let to_controller = entry.opcode & 0b11 == 0b01;
        match entry.sgl().decode() {
            Sgl::TransportDataBlock { length } if to_controller && length > 0 => {
                let transfer = Transfer { entry, data: Vec::new(), length, asked: 0 };
                assert!(connection.transfers.insert(id, transfer).is_none());
                self.ask(connection, id);
            }
            Sgl::InCapsule { offset: 0, length } => {
                assert_eq!(length as usize, data.len());
                self.execute(connection, entry, data);
            }
            _ => self.execute(connection, entry, data),
        }
    }

    fn execute(&mut self, connection: &mut Connection, entry: SubmissionEntry, data: Vec<u8>) {
        if let Some(connect) = ConnectCommand::of(&entry) {
            return self.connect(connection, *connect, &data);
        }
        match connection.queue_id {
            Some(ADMIN_QUEUE_ID) => self.admin(&mut connection.stream, entry),
            Some(_) => self.io(&mut connection.stream, entry, data),
            None => panic!("Connect comes first"),
        }
    }

    fn connect(&mut self, connection: &mut Connection, connect: ConnectCommand, data: &[u8]) {
        let id = connect.command_id.get();
        let data = ConnectData::ref_from_bytes(data).unwrap();
        let queue_id = connect.queue_id.get();
        if let Some(mut refusal) = self.behaviour.refusal {
            refusal.command_id = U16::new(id);
            return connection.stream.complete(refusal);
        }
        if queue_id == ADMIN_QUEUE_ID {
            assert_eq!(data.controller_id.get(), CONTROLLER_ID_DYNAMIC);
        } else {
            assert_eq!(data.controller_id.get(), CONTROLLER_ID);
            assert!(self.enabled && queue_id <= self.behaviour.io_queues);
            assert!(connect.queue_size.get() <= self.behaviour.queue_entries_last);
            self.queue_sizes.push(connect.queue_size.get());
        }
        connection.queue_id = Some(queue_id);
        let result = connect_result(CONTROLLER_ID, Authentication::NotRequired);
        let done = CompletionEntry::new(id, 0xffff, Status::SUCCESS);
        connection.stream.complete(done.with_result(result));
    }

    fn admin(&mut self, stream: &mut Stream, entry: SubmissionEntry) {
        let id = entry.command_id.get();
        let done = CompletionEntry::new(id, 0, Status::SUCCESS);
        if entry.opcode == FABRICS {
            let property = PropertyCommand::of(&entry).expect("a property");
            let result = match property.offset.get() {
                CAPABILITIES_OFFSET => {
                    Capabilities::for_fabrics(self.behaviour.queue_entries_last, 500).0
                }
                CONFIGURATION_OFFSET => {
                    let value = u32::try_from(property.value.get()).unwrap();
                    self.enabled = Configuration(value).is_enabled();
                    0
                }
                STATUS_OFFSET => {
                    self.ready_asked += 1;
                    let ready = self.enabled && self.ready_asked > self.behaviour.ready_after;
                    let status = ControllerStatus::default();
                    (if ready { status.with_ready() } else { status }).0.into()
                }
                other => panic!("property {other:#x}"),
            };
            return stream.complete(done.with_result_wide(result));
        }
        match AdminOpcode::try_from(entry.opcode) {
            Ok(AdminOpcode::Identify) => {
                let data = self.identify(&entry);
                stream.send_data(id, 0, &data, Flags::LAST);
                stream.complete(done);
            }
            Ok(AdminOpcode::SetFeatures) => {
                let last = u32::from(self.behaviour.io_queues - 1);
                stream.complete(done.with_result(last | (last + 1) << 16));
            }
            Ok(AdminOpcode::KeepAlive) => {
                self.keep_alives += 1;
                stream.complete(done);
            }
            _ => stream.respond(id, Status::INVALID_OPCODE),
        }
    }

    fn identify(&self, entry: &SubmissionEntry) -> [u8; IDENTIFY_BYTES] {
        let mut bytes = [0; IDENTIFY_BYTES];
        let kind = IdentifyKind::from_value(entry.cdw10.as_bytes()[0]).unwrap();
        match kind {
            IdentifyKind::Controller => {
                let mut identify = IdentifyController::new_zeroed();
                identify.model_number.fill(b' ');
                identify.model_number[..4].copy_from_slice(b"fake");
                identify.serial_number.fill(b' ');
                identify.serial_number[..2].copy_from_slice(b"42");
                identify.command_capsule_size = U32::new(self.behaviour.capsule_bytes / 16);
                identify.nvm_commands = U16::new(0b1101);
                identify.volatile_write_cache = 1;
                bytes.copy_from_slice(identify.as_bytes());
            }
            IdentifyKind::ActiveNamespaces => {
                let list = NamespaceList::above(0, [NAMESPACE_ID, NAMESPACE_ID + 1]);
                bytes.copy_from_slice(list.as_bytes());
            }
            IdentifyKind::Namespace => {
                let mut identify = IdentifyNamespace::new_zeroed();
                identify.size_blocks = U64::new(self.behaviour.blocks);
                identify.deallocate = self.behaviour.deallocate;
                identify.formatted_lba = 1;
                identify.lba_format[1] = LbaFormat { data_shift: 9, ..LbaFormat::default() };
                bytes.copy_from_slice(identify.as_bytes());
            }
            IdentifyKind::NamespaceDescriptors => {
                let mut writer = DescriptorWriter::new(&mut bytes);
                writer.push(NamespaceIdentity::Uuid(NAMESPACE_UUID)).unwrap();
            }
            other => panic!("{other:?}"),
        }
        bytes
    }

    fn io(&mut self, stream: &mut Stream, entry: SubmissionEntry, data: Vec<u8>) {
        let id = entry.command_id.get();
        let opcode = NvmOpcode::try_from(entry.opcode).expect("a known opcode");
        self.seen.push(entry.opcode);
        assert_eq!(entry.namespace_id.get(), NAMESPACE_ID);
        let block = BLOCK_BYTES as usize;
        let range = |lba: u64, blocks: u32| {
            let start = usize::try_from(lba).unwrap() * block;
            start..start + blocks as usize * block
        };
        let named = range(entry.starting_lba() % self.behaviour.blocks, entry.block_count());
        let mut status = Status::SUCCESS;
        match opcode {
            NvmOpcode::Flush => {}
            NvmOpcode::Read => return self.read(stream, id, named),
            NvmOpcode::Write => self.disk[named].copy_from_slice(&data),
            NvmOpcode::Compare => {
                if self.disk[named] != data {
                    status = Status::COMPARE_FAILURE;
                }
            }
            NvmOpcode::WriteZeroes => {
                let _ = entry.transfer_flags().has(TransferFlags::DEALLOCATE);
                self.disk[named].fill(0);
            }
            NvmOpcode::DatasetManagement => {
                let hint = DatasetRange::read_from_bytes(&data).unwrap();
                self.disk[range(hint.starting_lba.get(), hint.blocks.get())].fill(0);
            }
            other => panic!("{other:?}"),
        }
        stream.respond(id, status);
    }

    fn read(&self, stream: &mut Stream, id: u16, range: std::ops::Range<usize>) {
        let data = &self.disk[range];
        let mut offset = 0;
        for piece in data.chunks(self.behaviour.send_bytes.min(data.len())) {
            let last = offset + piece.len() == data.len();
            let flags = if last { Flags::LAST.with(self.behaviour.success) } else { Flags::NONE };
            stream.send_data(id, u32::try_from(offset).unwrap(), piece, flags);
            offset += piece.len();
        }
        if self.behaviour.success == Flags::NONE {
            stream.respond(id, Status::SUCCESS);
        }
    }
}

impl Peer for FakeController {
    fn step(&mut self, wires: &Wires) {
        while let Some(mut stream) = wires.accept() {
            stream.data_bytes_max = self.behaviour.data_bytes_max;
            self.connections.push(Connection { stream, queue_id: None, transfers: HashMap::new() });
        }
        let mut connections = std::mem::take(&mut self.connections);
        for connection in &mut connections {
            connection.stream.pump();
            while let Some(pdu) = connection.stream.next() {
                self.handle(connection, pdu);
            }
        }
        connections.retain(|connection| !connection.stream.is_closed());
        self.connections = connections;
    }
}

/// Identity that the controller's namespace has.
pub fn namespace_uuid() -> Uuid {
    NAMESPACE_UUID
}
