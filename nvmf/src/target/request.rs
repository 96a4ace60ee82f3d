//! A request slot: one command of a queue from its capsule to the last byte of its answer.
//!
//! Slots are a fixed array a connection, as many as the queue has entries, allocated when the
//! connection is made. A slot's buffer goes back to the pool when the answer has left.

use bdev::nvme::command::SubmissionEntry;
use bdev::{IoFlags, Lba, Operation, Status};
use reactor::Nanos;
use reactor::dma::DmaBuffer;
use reactor::dma::pool::LARGEST_BUFFER_BYTES;
use reactor::slab::SlotId;

use super::admin::{self, Direction};
use crate::pdu::HEADER_SLOT_BYTES;

/// Room for a data digest and a response capsule with its header digest: 4 + 24 + 4 bytes.
pub(super) const TAIL_BYTES: usize = 32;

/// Where a request is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestState {
    /// The slot is free.
    Free,
    /// It needs a buffer, and there is none.
    WaitingForBuffer,
    /// In-capsule data is being received.
    ReceivingCapsuleData,
    /// An R2T is queued or sent; H2CData is due.
    WaitingForData,
    /// A Connect, or a command about reservations, that the home core looks at.
    AtHome,
    /// A command of the admin queue for which other cores are asked.
    Asking,
    /// Half of a fused pair: its data is there, and the pair goes on by its first command.
    Paired,
    /// The device has it, or it waits for the device's credit.
    InDevice,
    /// An asynchronous event request without an event.
    Held,
    /// Its answer is queued or being sent.
    Sending,
}

/// Which way a command's data goes, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// No data.
    None,
    /// From the controller, in bytes.
    ToHost(u32),
    /// To the controller, in bytes.
    FromHost(u32),
}

impl From<admin::Transfer> for Transfer {
    fn from(transfer: admin::Transfer) -> Transfer {
        match transfer {
            admin::Transfer::None => Transfer::None,
            admin::Transfer::Data { direction: Direction::ControllerToHost, len_bytes, .. } => {
                Transfer::ToHost(len_bytes)
            }
            admin::Transfer::Data { direction: Direction::HostToController, len_bytes, .. } => {
                Transfer::FromHost(len_bytes)
            }
        }
    }
}

/// What is to be done once the data, if any, is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Answer with an error that is known already.
    Fail(Status),
    /// Fabrics Connect.
    Connect,
    /// Fabrics Disconnect of an I/O queue.
    Disconnect,
    /// A command of the admin queue.
    Admin,
    /// A reservation command, which the home core decides.
    Reservation,
    /// One I/O on the device.
    Io(PlannedIo),
    /// First half of a fused compare and write: its comparison.
    FusedCompare(PlannedIo),
    /// Second half of a fused compare and write: its write.
    FusedWrite(PlannedIo),
    /// Dataset management: unmap each of `ranges` ranges in turn.
    Deallocate {
        /// The core's root.
        root: SlotId,
        /// Ranges in the data.
        ranges: u16,
    },
    /// Read in pieces into a buffer that nobody looks at: the device has no verify of its own.
    Verify {
        /// All of it; the operation is a read.
        io: PlannedIo,
        /// Bytes of the buffer: at most so much is read at once.
        buffer_bytes: u32,
        /// Bytes of a block when the command was planned.
        block_bytes: u32,
    },
    /// Read every source range, then write them one behind the other.
    Copy(PlannedCopy),
}

/// A Copy command, whose source ranges are in its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlannedCopy {
    /// The core's root.
    pub root: SlotId,
    /// Bytes of a block when the command was planned.
    pub block_bytes: u32,
    /// Source ranges in the data.
    pub ranges: u16,
    /// How the destination is written.
    pub flags: IoFlags,
    /// Bytes of a source range, by its descriptor format.
    pub range_bytes: u8,
    /// First block of the destination.
    pub lba: Lba,
}

/// An I/O as it will be submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlannedIo {
    /// The core's root.
    pub root: SlotId,
    /// What to do.
    pub operation: Operation,
    /// How.
    pub flags: IoFlags,
    /// First block.
    pub lba: Lba,
    /// Number of blocks.
    pub blocks: u32,
}

/// What a command needs, decided once when its capsule arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What to do.
    pub action: Action,
    /// Its data.
    pub transfer: Transfer,
}

impl Action {
    /// The root that the action gives its I/O to, if it has one. A pair has that of its first
    /// half.
    pub fn root(&self) -> Option<SlotId> {
        match self {
            Action::Io(io) | Action::FusedCompare(io) | Action::Verify { io, .. } => Some(io.root),
            Action::Deallocate { root, .. } => Some(*root),
            Action::Copy(copy) => Some(copy.root),
            Action::Fail(_)
            | Action::Connect
            | Action::Disconnect
            | Action::Admin
            | Action::Reservation
            | Action::FusedWrite(_) => None,
        }
    }
}

impl Plan {
    /// An error, whatever else the command says.
    pub fn fail(status: Status) -> Plan {
        Plan { action: Action::Fail(status), transfer: Transfer::None }
    }

    /// Bytes of the buffer that the command needs; zero for none. A connection may take a longer
    /// one for what comes inside a capsule.
    pub fn buffer_bytes(&self) -> u32 {
        let data_bytes = match self.transfer {
            Transfer::None => 0,
            Transfer::ToHost(len_bytes) | Transfer::FromHost(len_bytes) => len_bytes,
        };
        match self.action {
            Action::Verify { buffer_bytes, .. } => buffer_bytes,
            Action::Copy(_) => LARGEST_BUFFER_BYTES,
            // The second half of a pair uses the buffer of the first.
            Action::FusedCompare(_) => 2 * data_bytes,
            Action::FusedWrite(_) => 0,
            _ => data_bytes,
        }
    }
}

/// What goes between the head and the tail of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// Nothing.
    None,
    /// So many bytes of the request's buffer.
    Buffer(u32),
    /// So many zeroes.
    Zeroes(u32),
}

/// One slot.
#[derive(Debug)]
pub(super) struct Request {
    pub state: RequestState,
    /// Counts uses of the slot, so that a late or double completion is caught.
    pub generation: u32,
    pub command: SubmissionEntry,
    /// Its identifier was free when it came; of a command in conflict it is another's.
    pub owns_command_id: bool,
    pub plan: Plan,
    pub buffer: Option<DmaBuffer>,
    /// Bytes of its data received so far.
    pub received_bytes: u32,
    /// How it ends once its data is there, whatever it says: its digest was wrong, or the other
    /// half of its pair never came.
    pub verdict: Option<Status>,
    /// Bytes of its buffer that count as granted: its data was asked for by R2T.
    pub granted_bytes: u32,
    /// The slot of the other half of a fused pair.
    pub partner: Option<u16>,
    /// The R2T has left; H2CData before that is an error of the host's.
    pub ready_to_transfer_sent: bool,
    /// Of a command of several steps: ranges begun, and blocks done.
    pub range_index: u16,
    pub done_blocks: u32,
    /// When its capsule was parsed.
    pub started: Nanos,
    /// Header, digest and padding before the payload; R2T uses it too.
    pub head: [u8; HEADER_SLOT_BYTES],
    pub head_bytes: u8,
    pub payload: Payload,
    /// Data digest and response capsule.
    pub tail: [u8; TAIL_BYTES],
    pub tail_bytes: u8,
}

impl Request {
    /// A free slot; generations start at `generation`.
    pub fn new(generation: u32) -> Request {
        Request {
            state: RequestState::Free,
            generation,
            command: SubmissionEntry::default(),
            owns_command_id: false,
            plan: Plan::fail(Status::INTERNAL_ERROR),
            buffer: None,
            received_bytes: 0,
            verdict: None,
            granted_bytes: 0,
            partner: None,
            ready_to_transfer_sent: false,
            range_index: 0,
            done_blocks: 0,
            started: Nanos(0),
            head: [0; HEADER_SLOT_BYTES],
            head_bytes: 0,
            payload: Payload::None,
            tail: [0; TAIL_BYTES],
            tail_bytes: 0,
        }
    }

    /// Takes the slot for a command.
    pub fn begin(&mut self, command: SubmissionEntry, plan: Plan, now: Nanos) {
        assert_eq!(self.state, RequestState::Free, "only a free slot is taken");
        self.generation = self.generation.wrapping_add(1);
        self.command = command;
        self.owns_command_id = true;
        self.plan = plan;
        self.received_bytes = 0;
        self.verdict = None;
        self.granted_bytes = 0;
        self.partner = None;
        self.ready_to_transfer_sent = false;
        self.range_index = 0;
        self.done_blocks = 0;
        self.started = now;
        self.head_bytes = 0;
        self.payload = Payload::None;
        self.tail_bytes = 0;
    }

    /// Bytes of its buffer.
    pub fn buffer_bytes(&self) -> u32 {
        self.buffer.as_ref().map_or(0, DmaBuffer::len_bytes)
    }

    /// Length of its answer in bytes: what is sent before the slot is free again.
    pub fn answer_bytes(&self) -> usize {
        let payload = match self.payload {
            Payload::None => 0,
            Payload::Buffer(len_bytes) | Payload::Zeroes(len_bytes) => len_bytes as usize,
        };
        usize::from(self.head_bytes) + payload + usize::from(self.tail_bytes)
    }
}
