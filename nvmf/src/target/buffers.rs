//! The buffer of a command: when it gets one, and what it may wait for until then.
//!
//! Called by the connection in the receive phase. A command has one buffer at most, taken before
//! its data is asked for, so one R2T asks for all of a transfer: the fewest PDUs, and the data
//! lands where the device takes it from. MAXR2T of ICReq bounds the R2Ts of one command that are
//! out at a time, and is at least one (NVMe/TCP Transport 1.0 sections 3.3.2 and 3.6.2.2), so
//! every host may be asked so; MAXH2CDATA bounds each PDU of the answer, not the R2T. R2Ts of
//! different commands are out together, as many as buffers are granted.

use reactor::dma::DmaBuffer;

use super::connection::{BUFFER_SHARE, Connection, GRANT_SHARE, SendItem};
use super::receive::Step;
use super::request::{Action, Plan, RequestState, Transfer};
use crate::pdu::{DataRange, ReadyToTransfer, write_header};

/// There is no buffer, or no grant, at present.
#[derive(Debug)]
pub(super) struct NoBuffer;

impl Connection {
    /// A buffer, within what one connection may hold.
    fn take_buffer(&mut self, step: &mut Step<'_>, len_bytes: u32) -> Option<DmaBuffer> {
        if self.held_bytes > step.cx.dma.len_bytes() / BUFFER_SHARE {
            return None;
        }
        let buffer = step.cx.dma.take(len_bytes)?;
        self.held_bytes += buffer.len_bytes() as usize;
        Some(buffer)
    }

    /// Bytes that a command's buffer must have.
    fn room_bytes(&self, plan: &Plan) -> u32 {
        let needed_bytes = plan.buffer_bytes();
        match (plan.action, plan.transfer) {
            // Behind the first half's data goes all that the second half's capsule may bring.
            (Action::FusedCompare(_), Transfer::FromHost(len_bytes)) => {
                needed_bytes.max(len_bytes + self.rules.capsule_data_bytes_max)
            }
            _ => needed_bytes,
        }
    }

    /// The buffer for data that came inside the capsule; nothing where there is no such data, or
    /// where another slot has the place for it.
    pub(super) fn capsule_buffer(
        &mut self,
        step: &mut Step<'_>,
        plan: &Plan,
        capsule_bytes: u32,
    ) -> Result<Option<DmaBuffer>, NoBuffer> {
        if capsule_bytes == 0 || !matches!(plan.transfer, Transfer::FromHost(_)) {
            return Ok(None);
        }
        if let Action::FusedWrite(_) = plan.action {
            return if self.first_half_has_buffer() { Ok(None) } else { Err(NoBuffer) };
        }
        let len_bytes = self.room_bytes(plan).max(capsule_bytes);
        self.take_buffer(step, len_bytes).map(Some).ok_or(NoBuffer)
    }

    /// Takes what a command needs that waits for nothing but memory; false when it is not there.
    fn equip(&mut self, step: &mut Step<'_>, slot: u16) -> bool {
        let plan = self.requests[usize::from(slot)].plan;
        if let Action::FusedWrite(_) = plan.action {
            // The first half came before it and has the buffer for both.
            return true;
        }
        let len_bytes = self.room_bytes(&plan);
        let is_from_host = matches!(plan.transfer, Transfer::FromHost(_));
        if is_from_host && !self.has_grant(step) {
            return false;
        }
        let Some(buffer) = self.take_buffer(step, len_bytes) else { return false };
        self.requests[usize::from(slot)].buffer = Some(buffer);
        if is_from_host {
            self.grant(step, slot);
        }
        true
    }

    /// True while another buffer may be granted.
    pub(super) fn has_grant(&self, step: &Step<'_>) -> bool {
        let pool_bytes = step.cx.dma.len_bytes();
        let own_bytes_max = pool_bytes / BUFFER_SHARE / GRANT_SHARE;
        let all_bytes_max = pool_bytes / GRANT_SHARE;
        self.granted_bytes < own_bytes_max && step.core.granted_bytes < all_bytes_max
    }

    /// A slot's buffer waits for data that an R2T asks for.
    pub(super) fn grant(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &mut self.requests[usize::from(slot)];
        request.granted_bytes = request.buffer_bytes();
        let bytes = request.granted_bytes as usize;
        self.granted_bytes += bytes;
        step.core.granted_bytes += bytes;
    }

    /// A slot's buffer waits for the host no more.
    pub(super) fn ungrant(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &mut self.requests[usize::from(slot)];
        let bytes = std::mem::take(&mut request.granted_bytes) as usize;
        self.granted_bytes -= bytes;
        step.core.granted_bytes -= bytes;
    }

    /// Goes on with a slot that needs a buffer, now or when there is one.
    pub(super) fn need_buffer(&mut self, step: &mut Step<'_>, slot: u16) {
        if self.waiting.is_empty() && self.equip(step, slot) {
            self.with_buffer(step, slot);
            return;
        }
        self.requests[usize::from(slot)].state = RequestState::WaitingForBuffer;
        self.waiting.push_back(slot);
        step.core.mark_starved(self, step.id);
    }

    /// Tries again for the slots that wait for a buffer; returns how many got one.
    pub(super) fn retry_waiting(&mut self, step: &mut Step<'_>) -> usize {
        let mut served = 0;
        while let Some(slot) = self.waiting.front().copied() {
            if !self.equip(step, slot) {
                step.core.mark_starved(self, step.id);
                break;
            }
            self.waiting.pop_front();
            self.with_buffer(step, slot);
            served += 1;
        }
        served
    }

    fn with_buffer(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &mut self.requests[usize::from(slot)];
        match request.plan.transfer {
            Transfer::FromHost(len_bytes) => {
                request.state = RequestState::WaitingForData;
                self.transfers_due += 1;
                let range = DataRange { offset: 0, length: len_bytes };
                let command_id = request.command.command_id.get();
                let header = ReadyToTransfer::new(command_id, slot, range, self.framing);
                let written = write_header(&header, &mut request.head);
                request.head_bytes = u8::try_from(written).expect("a header is below 129 bytes");
                self.enqueue(SendItem::ReadyToTransfer(slot), step.cx.now());
                step.core.mark_send(self, step.id);
            }
            _ => self.execute(step, slot),
        }
    }
}
