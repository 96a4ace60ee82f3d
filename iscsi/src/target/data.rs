//! Data from the initiator: immediate, unsolicited, and what is asked for by R2T.
//!
//! A command has one buffer, so everything lands where the device takes it from. One R2T a command
//! is out at a time, of a burst at most. RFC 7143 sections 4.2.5.2, 11.7, 11.8.

use bdev::scsi::{Sense, SenseCode, SenseKey, Verdict};
use zerocopy::{FromBytes, IntoBytes};

use super::connection::Connection;
use super::receive::Step;
use super::send::Payload;
use super::slot::{SlotState, Transfer};
use crate::pdu::{DataOut, RESERVED_TAG, ReadyToTransfer, ScsiCommand, TargetOpcode, flag};

/// The data's digest was wrong; the initiator tries again.
pub(super) const DIGEST_ERROR: Verdict =
    Verdict::check(Sense::new(SenseKey::AbortedCommand, SenseCode::CRC_ERROR));

/// Data came out of order, or beyond what was asked for.
const SEQUENCE_ERROR: Verdict =
    Verdict::check(Sense::new(SenseKey::AbortedCommand, SenseCode::TOO_MUCH_UNSOLICITED));

/// The upper bits of a transfer tag tell a slot's uses apart.
fn transfer_tag(slot: u16, generation: u32) -> u32 {
    // Fifteen bits of the generation: no tag is the reserved one.
    (generation & 0x7fff) << 16 | u32::from(slot)
}

impl Connection {
    /// A command that may need data from the initiator has its slot.
    pub(super) fn begin_transfer(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        command: &ScsiCommand,
        transfer: Transfer,
        data_bytes: u32,
    ) {
        let parameters = self.parameters;
        let is_excessive = data_bytes > parameters.first_burst_bytes_max
            || data_bytes > transfer.expected_bytes
            || (data_bytes > 0 && !parameters.immediate_data)
            || (data_bytes > 0 && command.flags & flag::WRITE == 0);
        if is_excessive {
            return self.protocol_error(step);
        }
        let first_burst = match parameters.initial_r2t || command.flags & flag::FINAL != 0 {
            true => data_bytes,
            false => parameters.first_burst_bytes_max,
        };
        let one = &mut self.slots[usize::from(slot)];
        one.granted_bytes = first_burst.min(transfer.out_bytes);
        let wanted_bytes = data_bytes.min(transfer.out_bytes);
        if wanted_bytes > 0 {
            return self.begin_data(slot, wanted_bytes, data_bytes);
        }
        self.discard(data_bytes);
        self.want_more(step, slot);
    }

    /// A PDU's data is in the buffer.
    pub(super) fn segment_complete(&mut self, step: &mut Step<'_>, slot: u16) {
        self.want_more(step, slot);
    }

    /// Is all data there? If not, is more on its way, or to be asked for?
    fn want_more(&mut self, step: &mut Step<'_>, slot: u16) {
        let burst_bytes_max = self.parameters.burst_bytes_max;
        let (expected_command_sn, max_command_sn) =
            (self.expected_command_sn, self.max_command_sn());
        let stat_sn = self.stat_sn;
        let session = self.session.as_ref().expect("commands come after login");
        let one = &mut self.slots[usize::from(slot)];
        if one.received_bytes >= one.transfer.out_bytes {
            return self.execute(step, slot);
        }
        if one.received_bytes < one.granted_bytes {
            return;
        }
        let desired_bytes = (one.transfer.out_bytes - one.received_bytes).min(burst_bytes_max);
        one.granted_bytes = one.received_bytes + desired_bytes;
        one.is_solicited = true;
        one.data_sn = 0;
        let lun = u64::from(session.units[one.unit].number) << 48;
        let header = ReadyToTransfer {
            opcode: TargetOpcode::ReadyToTransfer as u8,
            flags: flag::FINAL,
            lun: lun.into(),
            task_tag: one.task_tag.into(),
            transfer_tag: transfer_tag(slot, one.generation).into(),
            stat_sn: stat_sn.into(),
            expected_command_sn: expected_command_sn.into(),
            max_command_sn: max_command_sn.into(),
            transfer_sn: one.transfer_sn.into(),
            offset_bytes: one.received_bytes.into(),
            desired_bytes: desired_bytes.into(),
            ..ReadyToTransfer::default()
        };
        one.transfer_sn += 1;
        self.enqueue(step, header.as_bytes(), Payload::None, None);
    }

    /// Data-Out.
    pub(super) fn take_data_out(&mut self, step: &mut Step<'_>, data_bytes: u32) {
        let data = DataOut::read_from_bytes(&self.header).expect("a header has 48 bytes");
        let Some(slot) = self.slot_of(&data) else {
            // Of a command that is over: it may have failed before its data came.
            return self.discard(data_bytes);
        };
        let one = &mut self.slots[usize::from(slot)];
        let offset_bytes = data.offset_bytes.get();
        let end = u64::from(offset_bytes) + u64::from(data_bytes);
        let may_exceed = !one.is_solicited && end <= u64::from(one.transfer.expected_bytes);
        let is_in_order = offset_bytes == one.received_bytes && data.data_sn.get() == one.data_sn;
        let fits = end <= u64::from(one.granted_bytes) || may_exceed;
        let is_last = data.flags & flag::FINAL != 0;
        if !is_in_order || !fits {
            step.cx.counters.protocol_errors += 1;
            self.discard(data_bytes);
            return self.respond(step, slot, SEQUENCE_ERROR);
        }
        one.data_sn += 1;
        let room = one.transfer.out_bytes - one.received_bytes;
        if is_last {
            // The sequence ends here, whatever else it might have brought.
            one.granted_bytes = u32::try_from(end).unwrap_or(u32::MAX).min(one.transfer.out_bytes);
        }
        let wanted_bytes = data_bytes.min(room);
        if wanted_bytes > 0 {
            return self.begin_data(slot, wanted_bytes, data_bytes);
        }
        self.discard(data_bytes);
        self.want_more(step, slot);
    }

    /// The slot that data is for: named by the R2T, or else by the task.
    fn slot_of(&self, data: &DataOut) -> Option<u16> {
        let tag = data.transfer_tag.get();
        let task_tag = data.task_tag.get();
        let is_due = |slot: u16, is_solicited: bool| {
            let one = &self.slots[usize::from(slot)];
            one.state == SlotState::Receiving
                && one.task_tag == task_tag
                && one.is_solicited == is_solicited
        };
        if tag == RESERVED_TAG {
            let count = u16::try_from(self.slots.len()).expect("slots are few");
            return (0..count).find(|slot| is_due(*slot, false));
        }
        let slot = (tag & 0xffff) as u16;
        let one = self.slots.get(usize::from(slot))?;
        let is_same = transfer_tag(slot, one.generation) == tag;
        (is_same && is_due(slot, true)).then_some(slot)
    }
}
