//! Answers to commands: data, status, residuals; and rejects.
//!
//! RFC 7143 sections 11.4, 11.7 and 11.17.

use bdev::scsi::{PIECE_BYTES, ScsiStatus, SenseFormat, Verdict};
use zerocopy::{FromBytes, IntoBytes};

use super::connection::Connection;
use super::receive::Step;
use super::send::Payload;
use super::slot::{SlotState, Transfer};
use crate::pdu::{
    BasicHeader, DataIn, HEADER_BYTES, RESERVED_TAG, Reject, ScsiResponse, TargetOpcode, flag,
};

/// Reasons of a Reject (RFC 7143 section 11.17.1).
pub(super) const COMMAND_NOT_SUPPORTED: u8 = 0x05;
pub(super) const IMMEDIATE_REJECT: u8 = 0x06;
pub(super) const PROTOCOL_ERROR: u8 = 0x04;

/// Flag and count of a residual.
fn residual(transfer: Transfer) -> (u8, u32) {
    let Transfer { expected_bytes, actual_bytes, .. } = transfer;
    match actual_bytes.checked_sub(expected_bytes) {
        Some(0) => (0, 0),
        Some(over) => (flag::OVERFLOW, over),
        None => (flag::UNDERFLOW, expected_bytes - actual_bytes),
    }
}

impl Connection {
    /// Takes the next StatSN.
    pub(super) fn next_stat_sn(&mut self) -> u32 {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.wrapping_add(1);
        stat_sn
    }

    /// Answers a command with a reply that is not in its buffer.
    pub(super) fn respond_with(&mut self, step: &mut Step<'_>, slot: u16, reply: Vec<u8>) {
        self.uncount(slot);
        let one = &mut self.slots[usize::from(slot)];
        let len_bytes = if one.transfer.is_read {
            reply.len().min(one.transfer.expected_bytes as usize)
        } else {
            0
        };
        if len_bytes == 0 {
            return self.send_response(step, slot, Verdict::GOOD);
        }
        let bytes = u32::try_from(len_bytes).expect("a reply is short");
        let part_bytes_max = self.parameters.send_bytes_max;
        let mut at = 0;
        let mut data_sn = 0;
        while at < bytes {
            let len = (bytes - at).min(part_bytes_max);
            let part = reply[at as usize..(at + len) as usize].into();
            let is_last = at + len == bytes;
            self.send_data(step, slot, (at, data_sn), is_last, Payload::Own(part));
            at += len;
            data_sn += 1;
        }
    }

    /// Answers a command.
    pub(super) fn respond(&mut self, step: &mut Step<'_>, slot: u16, verdict: Verdict) {
        self.uncount(slot);
        let one = &mut self.slots[usize::from(slot)];
        one.state = SlotState::Sending;
        let sent_bytes = if one.transfer.is_read && verdict.status == ScsiStatus::Good {
            verdict.data_bytes.min(one.transfer.expected_bytes)
        } else {
            0
        };
        if sent_bytes == 0 {
            return self.send_response(step, slot, verdict);
        }
        let part_bytes_max = self.parameters.send_bytes_max;
        let (mut offset_bytes, mut data_sn) = (0, 0);
        while offset_bytes < sent_bytes {
            let in_piece = PIECE_BYTES - offset_bytes % PIECE_BYTES;
            let len_bytes = (sent_bytes - offset_bytes).min(part_bytes_max).min(in_piece);
            let payload = Payload::Slot { slot, offset_bytes, len_bytes };
            let is_last = offset_bytes + len_bytes == sent_bytes;
            self.send_data(step, slot, (offset_bytes, data_sn), is_last, payload);
            offset_bytes += len_bytes;
            data_sn += 1;
        }
    }

    /// One Data-In, at an offset and with a number; the last carries the status.
    fn send_data(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        (offset_bytes, data_sn): (u32, u32),
        is_last: bool,
        payload: Payload,
    ) {
        let len_bytes = match &payload {
            Payload::None => 0,
            Payload::Own(bytes) => u32::try_from(bytes.len()).expect("a part is short"),
            Payload::Slot { len_bytes, .. } => *len_bytes,
        };
        let one = &mut self.slots[usize::from(slot)];
        one.state = SlotState::Sending;
        let (residual_flag, residual) = residual(one.transfer);
        let task_tag = one.task_tag;
        let mut header = DataIn {
            opcode: TargetOpcode::DataIn as u8,
            data_bytes: len_bytes.into(),
            task_tag: task_tag.into(),
            transfer_tag: RESERVED_TAG.into(),
            expected_command_sn: self.expected_command_sn.into(),
            max_command_sn: self.max_command_sn().into(),
            data_sn: data_sn.into(),
            offset_bytes: offset_bytes.into(),
            ..DataIn::default()
        };
        if is_last {
            header.flags = flag::FINAL | flag::STATUS | residual_flag;
            header.residual = residual.into();
            header.stat_sn = self.next_stat_sn().into();
        }
        self.enqueue(step, header.as_bytes(), payload, is_last.then_some(slot));
    }

    fn send_response(&mut self, step: &mut Step<'_>, slot: u16, verdict: Verdict) {
        let one = &mut self.slots[usize::from(slot)];
        one.state = SlotState::Sending;
        let (unit, task_tag, transfer) = (one.unit, one.task_tag, one.transfer);
        let (residual_flag, residual) = residual(transfer);
        let payload = match verdict.sense {
            None => Payload::None,
            Some(sense) => {
                let units = self.session.as_ref().map_or(&[][..], |session| &session.units);
                let format =
                    units.get(unit).map_or(SenseFormat::Fixed, |unit| unit.nexus.sense_format());
                let (bytes, len) = sense.encode(format);
                let len_field = u16::try_from(len).expect("sense data is short").to_be_bytes();
                Payload::Own([&len_field[..], &bytes[..len]].concat().into())
            }
        };
        let data_bytes = match &payload {
            Payload::Own(bytes) => u32::try_from(bytes.len()).expect("sense data is short"),
            _ => 0,
        };
        let header = ScsiResponse {
            opcode: TargetOpcode::ScsiResponse as u8,
            flags: flag::FINAL | residual_flag,
            status: verdict.status as u8,
            data_bytes: data_bytes.into(),
            task_tag: task_tag.into(),
            stat_sn: self.next_stat_sn().into(),
            expected_command_sn: self.expected_command_sn.into(),
            max_command_sn: self.max_command_sn().into(),
            residual: residual.into(),
            ..ScsiResponse::default()
        };
        self.enqueue(step, header.as_bytes(), payload, Some(slot));
    }

    /// Sends the header just taken back, and why it was not.
    pub(super) fn reject(&mut self, step: &mut Step<'_>, reason: u8) {
        step.cx.counters.protocol_errors += 1;
        let offending = BasicHeader::read_from_bytes(&self.header).expect("it has 48 bytes");
        let header = Reject {
            opcode: TargetOpcode::Reject as u8,
            flags: flag::FINAL,
            reason,
            data_bytes: (HEADER_BYTES as u32).into(),
            task_tag: RESERVED_TAG.into(),
            stat_sn: self.next_stat_sn().into(),
            expected_command_sn: self.expected_command_sn.into(),
            max_command_sn: self.max_command_sn().into(),
            ..Reject::default()
        };
        let payload = Payload::Own(offending.as_bytes().into());
        self.enqueue(step, header.as_bytes(), payload, None);
    }
}
