//! The stream of a connection: from bytes in any split to PDUs in order.
//!
//! Called in the receive phase of the core. Bytes are received into the core's staging memory and
//! parsed in place; while a slot's data is due, its buffer comes first in the same call, so that
//! only what follows the data is copied. A header that is cut off is carried to the next receive.
//! NVMe/TCP Transport 1.0 sections 3.3 and 3.6; every refusal is the one that 3.5 names.

use std::io::IoSliceMut;

use bdev::Status;
use reactor::Cx;
use reactor::slab::SlotId;
use reactor::socket::SocketError;
use zerocopy::FromBytes;

use super::connection::{Connection, ConnectionState, ESTABLISH_TIMEOUT, Incoming, SendItem};
use super::core_state::CoreState;
use super::description::DigestPolicy;
use super::request::{Action, Request, RequestState, Transfer};
use crate::pdu::connection::ControllerParameters;
use crate::pdu::header::COMMON_HEADER_BYTES;
use crate::pdu::terminate::field;
use crate::pdu::{
    DataAlignment, Digests, FatalErrorStatus, Flags, Framing, H2cData, HeaderError,
    InitializeRequest, InitializeResponse, PduHeader, PduKind, Phase, TermReason, crc32c, decode,
    verify_header_digest,
};

/// A connection receives no more in one pass once it has received this much: what is left waits for
/// the next pass, after the other connections.
const RECEIVE_BYTES_PER_PASS: usize = 256 << 10;

/// The same while H2CData is due: the longer the pass, the later leaves the next R2T.
const RECEIVE_BYTES_OF_A_TRANSFER: usize = 128 << 10;

/// Bytes of staging while H2CData is due: room for some headers, and little of the data to copy.
const STAGING_BYTES_OF_A_TRANSFER: usize = 2048;

const DIGEST_BYTES: usize = 4;

/// The core's context and shared state while one of its connections is worked on.
pub(super) struct Step<'a> {
    pub id: SlotId,
    pub cx: &'a mut Cx,
    pub core: &'a mut CoreState,
}

/// Whether a PDU was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was.
    Yes,
    /// There is no buffer for its data: leave it where it is, and try again.
    NoBuffer,
}

impl Connection {
    /// Receives and parses what there is, within the pass's limit; returns how much work it was.
    pub(super) fn receive(&mut self, step: &mut Step<'_>, staging: &mut [u8]) -> usize {
        if !self.stash.is_empty() && !self.retry_stash(step) {
            return 0;
        }
        let mut done = 0;
        let mut received_bytes = 0;
        loop {
            let limit = match self.transfers_due {
                0 => RECEIVE_BYTES_PER_PASS,
                _ => RECEIVE_BYTES_OF_A_TRANSFER,
            };
            let exhausted = received_bytes >= limit || !self.stash.is_empty();
            if exhausted || !self.readable || !self.is_open() {
                return done;
            }
            // What lands in staging is copied once more. Where a whole transfer is due, only the
            // headers between its parts should land there.
            let staging_bytes = match self.transfers_due {
                0 => staging.len(),
                _ => staging.len().min(STAGING_BYTES_OF_A_TRANSFER),
            };
            match self.receive_once(&mut staging[..staging_bytes]) {
                Ok((direct_bytes, staged_bytes)) => {
                    done += 1;
                    received_bytes += direct_bytes as usize + staged_bytes;
                    if self.granted_bytes == 0 {
                        self.receive_progress = step.cx.now();
                        self.received_total += u64::from(direct_bytes) + staged_bytes as u64;
                    }
                    self.data_received(step, direct_bytes);
                    let used = self.consume(step, &staging[..staged_bytes]);
                    if used < staged_bytes {
                        self.stash.extend_from_slice(&staging[used..staged_bytes]);
                        step.core.mark_starved(self, step.id);
                    }
                }
                Err(SocketError::WouldBlock) => {
                    self.readable = false;
                    return done;
                }
                Err(SocketError::Closed) => {
                    self.readable = false;
                    step.core.lost(self, step.id, step.cx);
                    return done + 1;
                }
            }
        }
    }

    /// Parses again what there was no buffer for; true when all of it was taken.
    fn retry_stash(&mut self, step: &mut Step<'_>) -> bool {
        let mut stash = std::mem::take(&mut self.stash);
        let used = self.consume(step, &stash);
        if used == stash.len() || !self.is_open() {
            // Until now it was not the host that kept the stream waiting.
            self.receive_progress = step.cx.now();
            return true;
        }
        stash.drain(..used);
        self.stash = stash;
        step.core.mark_starved(self, step.id);
        false
    }

    /// One receive: bytes that went to the slot's buffer, and bytes that went to staging.
    fn receive_once(&mut self, staging: &mut [u8]) -> Result<(u32, usize), SocketError> {
        let socket = self.socket.as_mut().ok_or(SocketError::Closed)?;
        let staging_bytes = staging.len();
        let (received, room, direct) = match self.incoming {
            Incoming::Data { slot, left_bytes } => {
                let direct = left_bytes as usize;
                let place = place_of_data(&mut self.requests, slot, direct);
                let mut into = [IoSliceMut::new(place), IoSliceMut::new(staging)];
                (socket.receive(&mut into)?, direct + staging_bytes, direct)
            }
            _ => (socket.receive(&mut [IoSliceMut::new(staging)])?, staging_bytes, 0),
        };
        // A short receive has emptied the socket; epoll reports the next bytes. Only the end of
        // the stream may be behind it without another report.
        if received < room && !self.peer_closed {
            self.readable = false;
        }
        let direct_bytes = received.min(direct);
        let in_buffer = u32::try_from(direct_bytes).expect("a transfer is shorter than 4 GiB");
        Ok((in_buffer, received - direct_bytes))
    }

    /// Parses bytes; returns how many were taken. All of them, unless a buffer is lacking.
    pub(super) fn consume(&mut self, step: &mut Step<'_>, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            if !self.is_open() {
                return bytes.len();
            }
            let used = match self.incoming {
                Incoming::Header => match self.take_header(step, rest) {
                    Some(used) => used,
                    None => break,
                },
                Incoming::Padding { slot, pad_bytes, data_bytes } => {
                    let used = rest.len().min(usize::from(pad_bytes));
                    let left = pad_bytes - u8::try_from(used).expect("padding is below 128 bytes");
                    self.incoming = if left > 0 {
                        Incoming::Padding { slot, pad_bytes: left, data_bytes }
                    } else {
                        Incoming::Data { slot, left_bytes: data_bytes }
                    };
                    used
                }
                Incoming::Data { slot, left_bytes } => {
                    let used = rest.len().min(left_bytes as usize);
                    place_of_data(&mut self.requests, slot, used).copy_from_slice(&rest[..used]);
                    self.data_received(step, u32::try_from(used).expect("bounded by left_bytes"));
                    used
                }
                Incoming::Digest { slot, data_bytes } => {
                    self.take_digest(step, slot, data_bytes, rest)
                }
                Incoming::Discard { left_bytes } => {
                    let used = rest.len().min(usize::try_from(left_bytes).unwrap_or(usize::MAX));
                    let left_bytes = left_bytes - used as u64;
                    self.incoming = match left_bytes {
                        0 => Incoming::Header,
                        left_bytes => Incoming::Discard { left_bytes },
                    };
                    used
                }
            };
            rest = &rest[used..];
        }
        bytes.len() - rest.len()
    }

    /// Takes a header, or a part of one; nothing when its PDU needs a buffer and there is none.
    fn take_header(&mut self, step: &mut Step<'_>, rest: &[u8]) -> Option<usize> {
        if self.carry.len == 0
            && let Some(common) = rest.first_chunk::<COMMON_HEADER_BYTES>()
        {
            let parts = match decode(common, &self.rules) {
                Ok(parts) => parts,
                Err(error) => return Some(self.refuse(step, error, rest)),
            };
            let need = header_bytes(&parts);
            if let Some(header) = rest.get(..need) {
                return match self.take_pdu(step, header, &parts) {
                    Taken::Yes => Some(need),
                    Taken::NoBuffer => None,
                };
            }
            self.carry.bytes[..rest.len()].copy_from_slice(rest);
            self.carry.len = rest.len();
            return Some(rest.len());
        }
        self.take_carried_header(step, rest)
    }

    /// The rare case: a header that was cut off by the end of a receive.
    fn take_carried_header(&mut self, step: &mut Step<'_>, rest: &[u8]) -> Option<usize> {
        let carried_before = self.carry.len;
        let mut used = self.fill_carry(COMMON_HEADER_BYTES, rest);
        if self.carry.len < COMMON_HEADER_BYTES {
            return Some(used);
        }
        let common = self.carry.bytes.first_chunk().expect("the carry holds a common header");
        let parts = match decode(common, &self.rules) {
            Ok(parts) => parts,
            Err(error) => return Some(self.refuse(step, error, rest)),
        };
        let need = header_bytes(&parts);
        used += self.fill_carry(need, &rest[used..]);
        if self.carry.len < need {
            return Some(used);
        }
        let carried = self.carry.bytes;
        let taken = self.take_pdu(step, &carried[..need], &parts);
        if taken == Taken::NoBuffer {
            // Nothing of this receive is taken, so that there is something to try again with.
            self.carry.len = carried_before;
            return None;
        }
        self.carry.len = 0;
        Some(used)
    }

    /// Fills the carry up to `target` bytes; returns how many bytes it took.
    fn fill_carry(&mut self, target: usize, rest: &[u8]) -> usize {
        let count = target.saturating_sub(self.carry.len).min(rest.len());
        self.carry.bytes[self.carry.len..self.carry.len + count].copy_from_slice(&rest[..count]);
        self.carry.len += count;
        count
    }

    /// Refuses a header: the connection ends, all its further bytes are of no use.
    fn refuse(&mut self, step: &mut Step<'_>, error: HeaderError, rest: &[u8]) -> usize {
        if self.carry.len == 0 {
            self.fill_carry(self.carry.bytes.len(), rest);
        }
        match error {
            HeaderError::Terminate(reason) => step.core.terminate(self, step.id, reason, step.cx),
            HeaderError::Close => {
                step.cx.counters.protocol_errors += 1;
                step.core.lost(self, step.id, step.cx);
            }
        }
        rest.len()
    }

    /// A whole header: what is it?
    fn take_pdu(&mut self, step: &mut Step<'_>, header: &[u8], parts: &PduHeader) -> Taken {
        if let Err(reason) = verify_header_digest(parts, header) {
            self.end(step, header, reason);
            return Taken::Yes;
        }
        let outcome = match parts.kind {
            PduKind::CommandCapsule => return self.take_capsule(step, header, parts),
            PduKind::H2cData => self.take_data(header, parts),
            PduKind::InitializeRequest => self.take_initialize(step, header),
            // The host found our fault; whatever else it says, the connection is over.
            PduKind::HostTermRequest => {
                step.core.lost(self, step.id, step.cx);
                Ok(())
            }
            // `decode` lets no PDU of the other direction through.
            _ => Err(TermReason::new(FatalErrorStatus::SequenceError, 0)),
        };
        if let Err(reason) = outcome {
            self.end(step, header, reason);
        }
        Taken::Yes
    }

    /// Ends the connection because of a PDU whose header is given.
    pub(super) fn end(&mut self, step: &mut Step<'_>, header: &[u8], reason: TermReason) {
        self.carry.len = 0;
        self.fill_carry(self.carry.bytes.len(), header);
        step.core.terminate(self, step.id, reason, step.cx);
    }

    /// ICReq: digests and alignment for the rest of the connection (section 3.6.2.2).
    fn take_initialize(&mut self, step: &mut Step<'_>, header: &[u8]) -> Result<(), TermReason> {
        let (request, _) = InitializeRequest::read_from_prefix(header)
            .map_err(|_| TermReason::invalid_field(field::PLEN))?;
        let asked = request.check()?;
        let digests = match step.core.description.digests {
            DigestPolicy::AsAsked => asked.digests,
            DigestPolicy::Never => Digests::default(),
        };
        let granted = ControllerParameters {
            data_alignment: DataAlignment::DWORD,
            digests,
            data_bytes_max: self.rules.data_bytes_max,
        };
        let response = InitializeResponse::new(granted);
        let bytes = zerocopy::IntoBytes::as_bytes(&response);
        self.control[..bytes.len()].copy_from_slice(bytes);
        self.control_bytes = bytes.len();
        let now = step.cx.now();
        self.enqueue(SendItem::Control, now);
        step.core.mark_send(self, step.id);
        self.framing = Framing { digests, data_alignment: asked.data_alignment };
        self.rules.framing = Framing { digests, data_alignment: DataAlignment::DWORD };
        self.rules.phase = Phase::Connected;
        self.state = ConnectionState::AwaitingConnect(now + ESTABLISH_TIMEOUT);
        Ok(())
    }

    /// H2CData: the next part of what an R2T asked for (section 3.6.2.8).
    fn take_data(&mut self, header: &[u8], parts: &PduHeader) -> Result<(), TermReason> {
        let (data, _) = H2cData::read_from_prefix(header)
            .map_err(|_| TermReason::invalid_field(field::PLEN))?;
        let range = data.check(parts)?;
        let slot = data.transfer_tag.get();
        // The tag is a slot that waits for data, and the command is the one that it serves.
        let request = self
            .requests
            .get_mut(usize::from(slot))
            .filter(|request| {
                request.state == RequestState::WaitingForData && request.ready_to_transfer_sent
            })
            .ok_or(TermReason::invalid_field(field::TRANSFER_TAG))?;
        if request.command.command_id != data.command_id {
            return Err(TermReason::invalid_field(field::COMMAND_ID));
        }
        let Transfer::FromHost(total_bytes) = request.plan.transfer else {
            return Err(TermReason::invalid_field(field::TRANSFER_TAG));
        };
        let end = range.end().filter(|end| *end <= total_bytes);
        let out_of_range = TermReason::new(FatalErrorStatus::DataOutOfRange, 0);
        let end = end.ok_or(out_of_range)?;
        if range.offset != request.received_bytes {
            return Err(out_of_range);
        }
        if parts.flags.has(Flags::LAST) != (end == total_bytes) {
            return Err(TermReason::invalid_field(field::FLAGS));
        }
        self.begin_data(slot, parts);
        Ok(())
    }

    /// Data of a slot follows the header just taken.
    pub(super) fn begin_data(&mut self, slot: u16, parts: &PduHeader) {
        let pad_bytes = parts.data_offset - parts.header_bytes - parts.header_digest_bytes;
        self.pdu_data_bytes = parts.data_bytes;
        self.incoming = match pad_bytes {
            0 => Incoming::Data { slot, left_bytes: parts.data_bytes },
            pad_bytes => Incoming::Padding { slot, pad_bytes, data_bytes: parts.data_bytes },
        };
    }

    /// Whatever follows the header just taken is of no use.
    pub(super) fn discard_data(&mut self, parts: &PduHeader) {
        let left_bytes = u64::from(parts.pdu_bytes) - header_bytes(parts) as u64;
        if left_bytes > 0 {
            self.incoming = Incoming::Discard { left_bytes };
        }
    }

    /// So many bytes have been put into the buffer of the slot whose data is due.
    fn data_received(&mut self, step: &mut Step<'_>, count: u32) {
        let Incoming::Data { slot, left_bytes } = self.incoming else { return };
        let request = &mut self.requests[usize::from(slot)];
        if count > 0 && request.state == RequestState::WaitingForData {
            self.receive_progress = step.cx.now();
            self.received_total += u64::from(count);
        }
        request.received_bytes += count;
        let left_bytes = left_bytes - count;
        if left_bytes > 0 {
            self.incoming = Incoming::Data { slot, left_bytes };
        } else if self.rules.framing.digests.data {
            self.incoming = Incoming::Digest { slot, data_bytes: self.pdu_data_bytes };
        } else {
            self.incoming = Incoming::Header;
            self.data_complete(step, slot);
        }
    }

    fn take_digest(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        data_bytes: u32,
        rest: &[u8],
    ) -> usize {
        let used = self.fill_carry(DIGEST_BYTES, rest);
        if self.carry.len < DIGEST_BYTES {
            return used;
        }
        let digest = *self.carry.bytes.first_chunk().expect("the carry holds a digest");
        self.carry.len = 0;
        let (holder, from) = data_holder(&self.requests, slot);
        let buffer = self.requests[usize::from(holder)].buffer.as_ref();
        let end = from + self.requests[usize::from(slot)].received_bytes;
        let data = &buffer.expect(HAS_BUFFER).bytes(end)[(end - data_bytes) as usize..];
        if crc32c(data) != u32::from_le_bytes(digest) {
            // Not fatal: the command fails, the connection goes on (section 3.3.1.1).
            let request = &mut self.requests[usize::from(slot)];
            request.verdict = request.verdict.or(Some(Status::TRANSIENT_TRANSPORT_ERROR));
            step.cx.counters.protocol_errors += 1;
        }
        self.incoming = Incoming::Header;
        self.data_complete(step, slot);
        used
    }

    /// A PDU's data is there: is it all of the command's?
    fn data_complete(&mut self, step: &mut Step<'_>, slot: u16) {
        let request = &self.requests[usize::from(slot)];
        let Transfer::FromHost(total_bytes) = request.plan.transfer else {
            unreachable!("only a transfer from the host receives data");
        };
        if request.received_bytes < total_bytes {
            return;
        }
        if request.state == RequestState::WaitingForData {
            self.transfers_due -= 1;
        }
        match (request.plan.action, request.verdict) {
            (Action::FusedCompare(_) | Action::FusedWrite(_), _) => self.half_is_ready(step, slot),
            (_, verdict) => {
                self.ungrant(step, slot);
                match verdict {
                    Some(status) => self.fail(step, slot, status),
                    None => self.execute(step, slot),
                }
            }
        }
    }
}

const HAS_BUFFER: &str = "a slot that receives has a buffer";

/// Where a slot's data goes: the slot whose buffer it is, and the first byte there. The second half
/// of a fused pair has its place behind the first half's data.
fn data_holder(requests: &[Request], slot: u16) -> (u16, u32) {
    let request = &requests[usize::from(slot)];
    match (request.plan.action, request.plan.transfer, request.partner) {
        (Action::FusedWrite(_), Transfer::FromHost(len_bytes), Some(first)) => (first, len_bytes),
        _ => (slot, 0),
    }
}

/// The place of the next `count` bytes of a slot's data.
fn place_of_data(requests: &mut [Request], slot: u16, count: usize) -> &mut [u8] {
    let (holder, from) = data_holder(requests, slot);
    let from = (from + requests[usize::from(slot)].received_bytes) as usize;
    let buffer = requests[usize::from(holder)].buffer.as_mut().expect(HAS_BUFFER);
    &mut buffer.bytes_mut()[from..from + count]
}

/// Length of a PDU's header with its digest.
fn header_bytes(parts: &PduHeader) -> usize {
    usize::from(parts.header_bytes) + usize::from(parts.header_digest_bytes)
}
