//! A request slot: one command of a queue from its capsule to the last byte of its answer.
//!
//! Slots are a fixed array a connection, as many as the queue has entries, allocated when the
//! connection is made. A slot's buffer goes back to the pool when the answer has left.

use bdev::nvme::command::SubmissionEntry;
use bdev::{IoFlags, Lba, Operation, Status};
use reactor::Nanos;
use reactor::dma::DmaBuffer;
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
    /// A Connect that the home core looks at.
    AtHome,
    /// A command of the admin queue for which the home core is asked.
    Asking,
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
    /// One I/O on the device.
    Io(PlannedIo),
    /// Dataset management: unmap each of `ranges` ranges in turn.
    Deallocate {
        /// The core's root.
        root: SlotId,
        /// Ranges in the data.
        ranges: u16,
    },
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

impl Plan {
    /// An error, whatever else the command says.
    pub fn fail(status: Status) -> Plan {
        Plan { action: Action::Fail(status), transfer: Transfer::None }
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
    /// Its data did not match its digest.
    pub digest_failed: bool,
    /// The R2T has left; H2CData before that is an error of the host's.
    pub ready_to_transfer_sent: bool,
    /// The range of a deallocate that is at the device.
    pub range_index: u16,
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
            digest_failed: false,
            ready_to_transfer_sent: false,
            range_index: 0,
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
        self.digest_failed = false;
        self.ready_to_transfer_sent = false;
        self.range_index = 0;
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
