//! A request slot: one command of a connection from its header to the last byte of its answer.
//!
//! Slots are a fixed array a connection. A slot's buffers go back to the pool when the answer has
//! left, or when the device has given them back.

use bdev::Memory;
use bdev::scsi::{Medium, PIECE_BYTES, PIECES_MAX, Parameters, Part, ScsiStatus, Task, Verdict};
use reactor::dma::DmaBuffer;

/// Where a command is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// The slot is free.
    Free,
    /// Data from the initiator is due.
    Receiving,
    /// The device has it, or it waits for the device's credit.
    InDevice,
    /// Its answer is queued or being sent.
    Sending,
}

/// What is to be done once the data is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Nothing.
    None,
    /// Parameters for a unit.
    Parameters(Parameters),
    /// Work on the blocks.
    Medium(Medium),
}

/// How many bytes a command moves, and which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Transfer {
    /// What the initiator said: EXPECTED DATA TRANSFER LENGTH.
    pub expected_bytes: u32,
    /// What the command moves by its CDB.
    pub actual_bytes: u32,
    /// What comes from the initiator: the less of both.
    pub out_bytes: u32,
    /// What the initiator would send.
    pub offered_bytes: u32,
    /// It expects to receive.
    pub is_read: bool,
}

const HAS_BUFFER: &str = "a slot has buffers for its data";

/// Piece and place in it of a byte of the data.
fn place(offset_bytes: u32) -> (usize, u32) {
    ((offset_bytes / PIECE_BYTES) as usize, offset_bytes % PIECE_BYTES)
}

/// One slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub state: SlotState,
    /// Counts uses of the slot, so that a late or double completion is caught.
    pub generation: u32,
    pub task_tag: u32,
    /// Index of the unit among those of the session.
    pub unit: usize,
    /// It counts in the window of commands.
    pub is_counted: bool,
    pub work: Work,
    pub task: Option<Task>,
    /// The pieces of its data.
    pub buffers: [Option<DmaBuffer>; PIECES_MAX],
    pub scratch: Option<DmaBuffer>,
    pub transfer: Transfer,
    pub received_bytes: u32,
    /// End of what was asked for by R2T, or may come unasked.
    pub granted_bytes: u32,
    /// What comes is asked for by R2T; otherwise it is the first burst.
    pub is_solicited: bool,
    pub transfer_sn: u32,
    /// Number of the next Data-Out of the sequence.
    pub data_sn: u32,
    /// Nobody wants its answer any more.
    pub is_aborted: bool,
    pub verdict: Verdict,
}

impl Slot {
    /// A free slot; generations start at `generation`.
    pub fn new(generation: u32) -> Slot {
        Slot {
            state: SlotState::Free,
            generation,
            task_tag: 0,
            unit: 0,
            is_counted: false,
            work: Work::None,
            task: None,
            buffers: [const { None }; PIECES_MAX],
            scratch: None,
            transfer: Transfer::default(),
            received_bytes: 0,
            granted_bytes: 0,
            is_solicited: false,
            transfer_sn: 0,
            data_sn: 0,
            is_aborted: false,
            verdict: Verdict::of(ScsiStatus::Good),
        }
    }

    /// The pieces of the first `len_bytes` of its data.
    pub fn pieces(&self, len_bytes: u32) -> [&[u8]; PIECES_MAX] {
        std::array::from_fn(|index| {
            let from = PIECE_BYTES * u32::try_from(index).expect("pieces are few");
            match &self.buffers[index] {
                Some(buffer) => buffer.bytes(len_bytes.saturating_sub(from).min(PIECE_BYTES)),
                None => &[],
            }
        })
    }

    /// `len_bytes` from `offset_bytes` on, within one piece.
    pub fn part(&self, offset_bytes: u32, len_bytes: u32) -> &[u8] {
        let (index, within) = place(offset_bytes);
        let buffer = self.buffers[index].as_ref().expect(HAS_BUFFER);
        &buffer.bytes(within + len_bytes)[within as usize..]
    }

    /// Where the next of at most `len_bytes` received bytes go, within one piece.
    pub fn room(&mut self, len_bytes: usize) -> &mut [u8] {
        let (index, within) = place(self.received_bytes);
        let buffer = self.buffers[index].as_mut().expect(HAS_BUFFER);
        let len_bytes = len_bytes.min((PIECE_BYTES - within) as usize);
        &mut buffer.bytes_mut()[within as usize..within as usize + len_bytes]
    }

    /// The memory of an I/O.
    pub fn memory(&self, part: Option<Part>) -> Memory {
        match part {
            None => Memory::None,
            Some(Part::Data { offset_bytes, len_bytes }) => {
                let (index, within) = place(offset_bytes);
                let buffer = self.buffers[index].as_ref().expect(HAS_BUFFER);
                Memory::One(buffer.segment(within + len_bytes).part(within, len_bytes))
            }
            Some(Part::Scratch { len_bytes }) => {
                let scratch = self.scratch.as_ref().expect("a task has its scratch");
                Memory::One(scratch.segment(len_bytes))
            }
        }
    }

    /// Bytes of its buffers.
    pub fn held_bytes(&self) -> usize {
        let all = self.buffers.iter().chain([&self.scratch]).flatten();
        all.map(|buffer| buffer.len_bytes() as usize).sum()
    }

    /// Takes the slot, and the buffers that were put into it, for a command.
    pub fn begin(&mut self, task_tag: u32, unit: usize, transfer: Transfer) {
        assert_eq!(self.state, SlotState::Free, "only a free slot is taken");
        let generation = self.generation.wrapping_add(1);
        let buffers = std::mem::take(&mut self.buffers);
        let scratch = self.scratch.take();
        let fresh = Slot::new(generation);
        *self = Slot { task_tag, unit, transfer, buffers, scratch, ..fresh };
        self.state = SlotState::Receiving;
    }
}
