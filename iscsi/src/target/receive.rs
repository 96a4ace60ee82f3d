//! The stream of a connection: from bytes in any split to PDUs in order.
//!
//! Called in the receive phase of the core. While a slot's data is due its buffer comes first in
//! the same call, so that only what follows is copied. RFC 7143 section 11.2.

use std::io::IoSliceMut;

use bdev::scsi::PIECE_BYTES;
use reactor::Cx;
use reactor::slab::SlotId;
use reactor::socket::SocketError;
use zerocopy::FromBytes;

use super::connection::{AHS_BYTES_MAX, Connection, Incoming, Phase};
use super::core::CoreState;
use crate::login::keys::RECEIVE_BYTES_MAX;
use crate::pdu::digest::{DIGEST_BYTES, Running, digest};
use crate::pdu::{BasicHeader, HEADER_BYTES, InitiatorOpcode, padded};

/// A connection receives no more in one pass once it has received this much.
const RECEIVE_BYTES_PER_PASS: usize = 256 << 10;
/// Longest text of a login request, and of any other request with data that is no command's.
const TEXT_BYTES_MAX: u32 = 16 << 10;

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
        let (mut done, mut received_bytes) = (0, 0);
        while received_bytes < RECEIVE_BYTES_PER_PASS
            && self.stash.is_empty()
            && self.readable
            && self.is_open()
        {
            match self.receive_once(staging) {
                Ok((direct_bytes, staged_bytes)) => {
                    done += 1;
                    received_bytes += direct_bytes as usize + staged_bytes;
                    self.receive_progress = step.cx.now();
                    self.data_received(step, direct_bytes);
                    let used = self.consume(step, &staging[..staged_bytes]);
                    if used < staged_bytes {
                        self.stash.extend_from_slice(&staging[used..staged_bytes]);
                        step.core.mark_starved(self, step.id);
                    }
                }
                Err(SocketError::WouldBlock) => self.readable = false,
                Err(SocketError::Closed) => {
                    self.readable = false;
                    step.core.lost(self, step.id, step.cx);
                    return done + 1;
                }
            }
        }
        done
    }

    /// Parses again what there was no buffer for; true when all of it was taken.
    fn retry_stash(&mut self, step: &mut Step<'_>) -> bool {
        let mut stash = std::mem::take(&mut self.stash);
        let used = self.consume(step, &stash);
        if used == stash.len() || !self.is_open() {
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
        let (received, direct, staging_bytes) = match self.incoming {
            Incoming::Data { slot, left_bytes, .. } => {
                let place = self.slots[usize::from(slot)].room(left_bytes as usize);
                let direct = place.len();
                if direct < left_bytes as usize {
                    // The rest goes to the next piece, not to staging.
                    (socket.receive(&mut [IoSliceMut::new(place)])?, direct, 0)
                } else {
                    let mut into = [IoSliceMut::new(place), IoSliceMut::new(staging)];
                    (socket.receive(&mut into)?, direct, staging_bytes)
                }
            }
            _ => (socket.receive(&mut [IoSliceMut::new(staging)])?, 0, staging_bytes),
        };
        // A short receive has emptied the socket; only the end of the stream may be behind it
        // without another report.
        if received < direct + staging_bytes && !self.peer_closed {
            self.readable = false;
        }
        let direct_bytes = received.min(direct);
        let in_buffer = u32::try_from(direct_bytes).expect("a buffer is shorter than 4 GiB");
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
                Incoming::Data { slot, left_bytes, .. } => {
                    let wanted = rest.len().min(left_bytes as usize);
                    let place = self.slots[usize::from(slot)].room(wanted);
                    let used = place.len();
                    place.copy_from_slice(&rest[..used]);
                    self.data_received(step, u32::try_from(used).expect("within left_bytes"));
                    used
                }
                Incoming::Tail { slot, segment_bytes, excess_bytes } => {
                    self.take_tail(step, slot, segment_bytes, excess_bytes, rest)
                }
                Incoming::Text { left_bytes } => {
                    let used = rest.len().min(left_bytes as usize);
                    self.text.extend_from_slice(&rest[..used]);
                    let left_bytes = left_bytes - u32::try_from(used).expect("within left_bytes");
                    self.incoming = Incoming::Text { left_bytes };
                    if left_bytes == 0 {
                        self.text_complete(step);
                    }
                    used
                }
                Incoming::Discard { left_bytes } => {
                    let used = rest.len().min(left_bytes as usize);
                    let left_bytes = left_bytes - u32::try_from(used).expect("within left_bytes");
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

    /// True when headers carry a digest now.
    fn has_header_digest(&self) -> bool {
        matches!(self.phase, Phase::Full) && self.parameters.header_digest
    }

    fn has_data_digest(&self) -> bool {
        matches!(self.phase, Phase::Full) && self.parameters.data_digest
    }

    /// Takes a header, or a part of one; nothing when its PDU needs a buffer and there is none.
    fn take_header(&mut self, step: &mut Step<'_>, rest: &[u8]) -> Option<usize> {
        let carried_before = self.carry.len();
        let mut used = self.fill_carry(HEADER_BYTES, rest);
        if self.carry.len() < HEADER_BYTES {
            return Some(used);
        }
        let ahs_bytes = usize::from(self.carry[4]) * 4;
        if ahs_bytes > AHS_BYTES_MAX {
            self.protocol_error(step);
            return Some(rest.len());
        }
        let digest_bytes = if self.has_header_digest() { DIGEST_BYTES } else { 0 };
        let need = HEADER_BYTES + ahs_bytes + digest_bytes;
        used += self.fill_carry(need, &rest[used..]);
        if self.carry.len() < need {
            return Some(used);
        }
        let covered = HEADER_BYTES + ahs_bytes;
        if digest_bytes > 0 && digest(&self.carry[..covered]) != self.carry[covered..need] {
            // Nothing of the PDU can be relied on, its length included (RFC 7143 section 7.7).
            self.protocol_error(step);
            return Some(rest.len());
        }
        self.header.copy_from_slice(&self.carry[..HEADER_BYTES]);
        match self.take_pdu(step) {
            Taken::Yes => {
                self.carry.clear();
                Some(used)
            }
            Taken::NoBuffer => {
                // Nothing of this receive is taken, so that there is something to try again with.
                self.carry.truncate(carried_before);
                None
            }
        }
    }

    /// Fills the carry up to `target` bytes; returns how many bytes it took.
    fn fill_carry(&mut self, target: usize, rest: &[u8]) -> usize {
        let count = target.saturating_sub(self.carry.len()).min(rest.len());
        self.carry.extend_from_slice(&rest[..count]);
        count
    }

    /// A header is there: what is it?
    fn take_pdu(&mut self, step: &mut Step<'_>) -> Taken {
        let basic = BasicHeader::read_from_bytes(&self.header).expect("a header has 48 bytes");
        let data_bytes = basic.data_bytes.get();
        let opcode = InitiatorOpcode::from_byte(basic.opcode);
        let is_login = opcode == Some(InitiatorOpcode::Login);
        let is_logging_in = matches!(self.phase, Phase::Login(..));
        // Before and after the end of login nothing else may come (RFC 7143 section 6.3).
        if is_login != is_logging_in || data_bytes > RECEIVE_BYTES_MAX {
            self.protocol_error(step);
            return Taken::Yes;
        }
        self.incoming = Incoming::Header;
        match opcode {
            Some(InitiatorOpcode::ScsiCommand) => return self.take_command(step, data_bytes),
            Some(InitiatorOpcode::DataOut) => self.take_data_out(step, data_bytes),
            Some(
                InitiatorOpcode::Login
                | InitiatorOpcode::Text
                | InitiatorOpcode::NopOut
                | InitiatorOpcode::TaskManagement
                | InitiatorOpcode::Logout,
            ) if data_bytes <= TEXT_BYTES_MAX => {
                self.text.clear();
                let left_bytes = self.segment_bytes(data_bytes);
                self.incoming = Incoming::Text { left_bytes };
                if left_bytes == 0 {
                    self.text_complete(step);
                }
            }
            Some(_) => self.protocol_error(step),
            None => {
                self.reject(step, super::respond::COMMAND_NOT_SUPPORTED);
                self.discard(data_bytes);
            }
        }
        Taken::Yes
    }

    /// Bytes of a data segment on the wire, with padding and digest.
    fn segment_bytes(&self, data_bytes: u32) -> u32 {
        let digest_bytes = if self.has_data_digest() && data_bytes > 0 { DIGEST_BYTES } else { 0 };
        let bytes = padded(data_bytes as usize) + digest_bytes;
        u32::try_from(bytes).expect("a segment is shorter than 16 MiB")
    }

    /// The data of the PDU just taken is of no use.
    pub(super) fn discard(&mut self, data_bytes: u32) {
        let left_bytes = self.segment_bytes(data_bytes);
        if left_bytes > 0 {
            self.incoming = Incoming::Discard { left_bytes };
        }
    }

    /// Data for a slot follows: what it wants of it, and the rest.
    pub(super) fn begin_data(&mut self, slot: u16, wanted_bytes: u32, data_bytes: u32) {
        let excess_bytes = data_bytes - wanted_bytes;
        self.incoming = Incoming::Data {
            slot,
            left_bytes: wanted_bytes,
            excess_bytes,
            segment_bytes: data_bytes,
        };
    }

    /// So many bytes have been put into the buffer of the slot whose data is due.
    fn data_received(&mut self, step: &mut Step<'_>, count: u32) {
        let Incoming::Data { slot, left_bytes, excess_bytes, segment_bytes } = self.incoming else {
            return;
        };
        self.slots[usize::from(slot)].received_bytes += count;
        let left_bytes = left_bytes - count;
        if left_bytes > 0 {
            self.incoming = Incoming::Data { slot, left_bytes, excess_bytes, segment_bytes };
            return;
        }
        if excess_bytes == 0 && self.segment_bytes(segment_bytes) == segment_bytes {
            self.incoming = Incoming::Header;
            self.segment_complete(step, slot);
        } else {
            self.incoming = Incoming::Tail { slot, segment_bytes, excess_bytes };
        }
    }

    /// What follows a slot's data: what it does not want, padding, digest.
    fn take_tail(
        &mut self,
        step: &mut Step<'_>,
        slot: u16,
        segment_bytes: u32,
        excess_bytes: u32,
        rest: &[u8],
    ) -> usize {
        let need = (self.segment_bytes(segment_bytes) - segment_bytes + excess_bytes) as usize;
        let used = self.fill_carry(need, rest);
        if self.carry.len() < need {
            return used;
        }
        if self.has_data_digest() && excess_bytes == 0 {
            let one = &self.slots[usize::from(slot)];
            let mut running = Running::new();
            let mut at = one.received_bytes - segment_bytes;
            while at < one.received_bytes {
                let in_piece = PIECE_BYTES - at % PIECE_BYTES;
                let len_bytes = (one.received_bytes - at).min(in_piece);
                running.update(one.part(at, len_bytes));
                at += len_bytes;
            }
            let expected = running.padded(segment_bytes as usize);
            if expected != self.carry[need - DIGEST_BYTES..] {
                step.cx.counters.protocol_errors += 1;
                self.slots[usize::from(slot)].verdict = super::data::DIGEST_ERROR;
            }
        }
        self.carry.clear();
        self.incoming = Incoming::Header;
        self.segment_complete(step, slot);
        used
    }

    /// A request that is no command's is there with all its data.
    fn text_complete(&mut self, step: &mut Step<'_>) {
        self.incoming = Incoming::Header;
        let basic = BasicHeader::read_from_bytes(&self.header).expect("a header has 48 bytes");
        let data_bytes = basic.data_bytes.get() as usize;
        let mut text = std::mem::take(&mut self.text);
        if self.has_data_digest() && data_bytes > 0 {
            let digest_at = text.len() - DIGEST_BYTES;
            if digest(&text[..digest_at]) != text[digest_at..] {
                return self.protocol_error(step);
            }
        }
        text.truncate(data_bytes);
        match InitiatorOpcode::from_byte(basic.opcode) {
            Some(InitiatorOpcode::Login) => self.take_login(step, &text),
            Some(InitiatorOpcode::Text) => self.take_text(step, &text),
            Some(InitiatorOpcode::NopOut) => self.take_nop(step, &text),
            Some(InitiatorOpcode::TaskManagement) => self.take_management(step),
            _ => self.take_logout(step),
        }
        text.clear();
        self.text = text;
    }

    /// The initiator broke the protocol: at error recovery level 0 the session ends.
    pub(super) fn protocol_error(&mut self, step: &mut Step<'_>) {
        step.cx.counters.protocol_errors += 1;
        step.core.lost(self, step.id, step.cx);
    }
}
