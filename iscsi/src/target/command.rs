//! SCSI commands: what one needs, and how it goes on.
//!
//! Called in the receive phase with a header, and when the device has done a step. RFC 7143
//! sections 4.2.2.1 (CmdSN), 11.3.

use bdev::scsi::{
    Begin, Buffers, PIECE_BYTES, ScsiStatus, Step as TaskStep, Task, Verdict, absent_unit,
};
use bdev::{Completion, Io};
use reactor::dma::DmaPool;
use zerocopy::FromBytes;

use super::connection::{Connection, token};
use super::description::decode_lun;
use super::receive::{Step, Taken};
use super::slot::{Slot, SlotState, Transfer, Work};
use crate::login::SessionKind;
use crate::pdu::{ScsiCommand, flag};

/// What part of the core's buffers one connection may hold: a quarter.
const BUFFER_SHARE: usize = 4;

/// Index of a unit that is not there.
const NO_UNIT: usize = usize::MAX;

impl Connection {
    /// Whether a request is the next in order, or delivered at once; counts it if so.
    pub(super) fn is_in_order(&mut self, opcode: u8, command_sn: u32) -> bool {
        if opcode & flag::IMMEDIATE != 0 {
            return true;
        }
        let window = self.max_command_sn().wrapping_sub(self.expected_command_sn);
        // An empty window is one below zero.
        let is_open = window != u32::MAX;
        let is_next = is_open && command_sn == self.expected_command_sn;
        if is_next {
            self.expected_command_sn = command_sn.wrapping_add(1);
        }
        is_next
    }

    /// A command, and `data_bytes` of immediate data behind it.
    pub(super) fn take_command(&mut self, step: &mut Step<'_>, data_bytes: u32) -> Taken {
        let command = ScsiCommand::read_from_bytes(&self.header).expect("a header has 48 bytes");
        let is_immediate = command.opcode & flag::IMMEDIATE != 0;
        let is_next = command.command_sn.get() == self.expected_command_sn;
        let is_full = self.max_command_sn() == self.expected_command_sn.wrapping_sub(1);
        // Out of order or beyond the window: ignored without a word (RFC 7143 section 4.2.2.1).
        if !is_immediate && (!is_next || is_full) {
            self.discard(data_bytes);
            return Taken::Yes;
        }
        let session = self.session.as_mut().expect("commands come after login");
        let SessionKind::Normal(target) = session.kind else {
            self.protocol_error(step);
            return Taken::Yes;
        };
        let Some(slot) = self.free.last().copied() else {
            // Only commands that are delivered at once can find none.
            self.reject(step, super::respond::IMMEDIATE_REJECT);
            self.discard(data_bytes);
            return Taken::Yes;
        };
        let luns = step.core.description.luns(target);
        let number = decode_lun(command.lun.get());
        let unit = session.units.iter().position(|unit| Some(unit.number) == number);
        let begin = match unit {
            Some(unit) => {
                let unit = &mut session.units[unit];
                unit.unit.begin(&mut unit.nexus, &command.cdb, luns)
            }
            None => absent_unit(&command.cdb, luns),
        };
        let unit = unit.unwrap_or(NO_UNIT);
        let mut begin = begin;
        let mut prepared = self.prepare(step, slot, &command, unit, &begin);
        if prepared.is_none() && self.slots.iter().any(|one| one.state == SlotState::Receiving) {
            // Its buffers wait for data that comes behind this command in the stream, which must
            // therefore go on.
            begin = Begin::Answer(Verdict::of(ScsiStatus::TaskSetFull));
            prepared = self.prepare(step, slot, &command, unit, &begin);
        }
        let Some((transfer, work)) = prepared else { return Taken::NoBuffer };
        self.free.pop();
        if !is_immediate {
            self.expected_command_sn = command.command_sn.get().wrapping_add(1);
            self.counted += 1;
        }
        let one = &mut self.slots[usize::from(slot)];
        one.is_counted = !is_immediate;
        one.work = work;
        match begin {
            Begin::Answer(verdict) => {
                self.discard(data_bytes);
                self.respond(step, slot, verdict);
            }
            Begin::Reply(reply) => {
                self.discard(data_bytes);
                self.respond_with(step, slot, reply);
            }
            Begin::Parameters(_) | Begin::Medium(_) => {
                self.begin_transfer(step, slot, &command, transfer, data_bytes);
            }
        }
        Taken::Yes
    }

    /// Takes the slot and its buffers; nothing when there are none.
    fn prepare(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        command: &ScsiCommand,
        unit: usize,
        begin: &Begin,
    ) -> Option<(Transfer, Work)> {
        let expected_bytes = command.expected_bytes.get();
        let is_read = command.flags & flag::READ != 0;
        let is_write = command.flags & flag::WRITE != 0;
        let (actual_out, actual_in, scratch_bytes, work) = match begin {
            Begin::Answer(_) => (0, 0, 0, Work::None),
            Begin::Reply(reply) => {
                (0, u32::try_from(reply.len()).unwrap_or(u32::MAX), 0, Work::None)
            }
            Begin::Parameters(parameters) => {
                (parameters.len_bytes, 0, 0, Work::Parameters(*parameters))
            }
            Begin::Medium(medium) => {
                let (out, scratch) = (medium.data_out_bytes(), medium.scratch_bytes());
                (out, medium.data_in_bytes(), scratch, Work::Medium(*medium))
            }
        };
        let actual_bytes = actual_out + actual_in;
        let offered_bytes = if is_write { expected_bytes } else { 0 };
        let out_bytes = actual_out.min(offered_bytes);
        let transfer = Transfer { expected_bytes, actual_bytes, out_bytes, offered_bytes, is_read };
        let is_medium = matches!(begin, Begin::Medium(_));
        let buffer_bytes = if is_medium { actual_in.max(out_bytes) } else { out_bytes };
        let one = &mut self.slots[usize::from(slot)];
        let share_bytes = step.cx.dma.len_bytes() / BUFFER_SHARE;
        if buffer_bytes > 0 && self.held_bytes > share_bytes
            || !take_buffers(one, &mut step.cx.dma, buffer_bytes, scratch_bytes)
        {
            return None;
        }
        one.begin(command.task_tag.get(), unit, transfer);
        self.held_bytes += one.held_bytes();
        Some((transfer, work))
    }

    /// All data is there: the command is done now, or begins at the device.
    pub(super) fn execute(&mut self, step: &mut Step<'_>, slot: u16) {
        let one = &mut self.slots[usize::from(slot)];
        if one.verdict != Verdict::GOOD {
            let verdict = one.verdict;
            return self.respond(step, slot, verdict);
        }
        match one.work {
            Work::None => self.respond(step, slot, Verdict::GOOD),
            Work::Parameters(parameters) => {
                let bytes = one.pieces(one.received_bytes)[0];
                let session = self.session.as_mut().expect("commands come after login");
                let unit = &mut session.units[one.unit];
                let verdict = unit.unit.take_parameters(&mut unit.nexus, parameters, bytes);
                self.respond(step, slot, verdict);
            }
            Work::Medium(mut medium) => {
                let transfer = one.transfer;
                if transfer.offered_bytes != medium.data_out_bytes()
                    && let Err(sense) = medium.fit(transfer.offered_bytes)
                {
                    return self.respond(step, slot, sense.into());
                }
                let mut none = [];
                let mut scratch = one.scratch.take();
                let data = one.pieces(medium.data_out_bytes());
                let bytes = scratch.as_mut().map_or(&mut none[..], |one| one.bytes_mut());
                let (task, first) =
                    Task::begin(medium, &mut Buffers { data: &data, scratch: bytes });
                one.scratch = scratch;
                one.task = Some(task);
                self.go_on(step, slot, first);
            }
        }
    }

    /// Does the next step of a task.
    fn go_on(&mut self, step: &mut Step<'_>, slot: u16, next: TaskStep) {
        let one = &mut self.slots[usize::from(slot)];
        match next {
            TaskStep::Done(verdict) => self.respond(step, slot, verdict),
            TaskStep::Submit { operation, flags, lba, blocks, part } => {
                let memory = one.memory(part);
                let token = token(step.id, slot, one.generation);
                let io = Io { flags, ..Io::with_memory(operation, lba, blocks, memory, token) };
                one.state = SlotState::InDevice;
                let session = self.session.as_ref().expect("commands come after login");
                let root = session.units[one.unit].root;
                self.at_device += 1;
                step.core.roots.submit(step.cx, root, io);
            }
        }
    }

    /// The device has done a step.
    pub(super) fn device_completed(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        completion: Completion,
    ) {
        self.at_device -= 1;
        let is_gone = self.socket.is_none();
        let one = &mut self.slots[usize::from(slot)];
        if is_gone || one.is_aborted {
            self.release(slot, &mut step.cx.dma);
            self.finish_management(step);
            return;
        }
        let Work::Medium(medium) = one.work else {
            unreachable!("only work on blocks goes to a device");
        };
        let out_bytes = medium.data_out_bytes().min(one.transfer.out_bytes);
        let mut none = [];
        let (mut scratch, task) = (one.scratch.take(), one.task.take());
        let data = one.pieces(out_bytes);
        let bytes = scratch.as_mut().map_or(&mut none[..], |one| one.bytes_mut());
        let mut task = task.expect("a task is at work");
        let next = task.completed(completion.status, &mut Buffers { data: &data, scratch: bytes });
        one.scratch = scratch;
        one.task = Some(task);
        self.go_on(step, slot, next);
    }
}

/// Takes the buffers of a command; false, and none of them, when there are not enough.
fn take_buffers(slot: &mut Slot, dma: &mut DmaPool, data_bytes: u32, scratch_bytes: u32) -> bool {
    let mut left_bytes = data_bytes;
    let mut place = 0;
    let mut is_whole = true;
    while left_bytes > 0 && is_whole {
        let piece_bytes = left_bytes.min(PIECE_BYTES);
        slot.buffers[place] = dma.take(piece_bytes);
        is_whole = slot.buffers[place].is_some();
        left_bytes -= piece_bytes;
        place += 1;
    }
    if is_whole && scratch_bytes > 0 {
        slot.scratch = dma.take(scratch_bytes);
        is_whole = slot.scratch.is_some();
    }
    if !is_whole {
        slot.buffers.iter_mut().filter_map(Option::take).for_each(|buffer| dma.give(buffer));
    }
    is_whole
}
