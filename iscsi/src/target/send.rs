//! The send side of a connection: one gathered call for all that a pass has to say.
//!
//! Called in the send phase for connections that have something queued. Payloads leave straight
//! from the buffers; a slot is free once the kernel has taken the last byte of its answer.

use std::io::IoSlice;

use reactor::socket::SocketError;

use super::connection::{Connection, Phase};
use super::receive::Step;
use crate::pdu::HEADER_BYTES;
use crate::pdu::digest::{DIGEST_BYTES, digest, padded_digest};

/// Slices of one call: below the kernel's limit of 1024, three an item.
const SLICES_PER_CALL: usize = 96;

/// Calls on one connection in one pass.
const CALLS_PER_PASS: usize = 8;

/// What goes between the head and the tail of a PDU.
#[derive(Debug)]
pub(super) enum Payload {
    /// Nothing.
    None,
    /// A part of a slot's data, within one piece.
    Slot { slot: u16, offset_bytes: u32, len_bytes: u32 },
    /// Bytes of its own.
    Own(Box<[u8]>),
}

/// A PDU that is to leave.
#[derive(Debug)]
pub(super) struct SendItem {
    head: [u8; HEADER_BYTES + DIGEST_BYTES],
    head_bytes: u8,
    payload: Payload,
    tail: [u8; 3 + DIGEST_BYTES],
    tail_bytes: u8,
    /// The slot that is free once this has left.
    releases: Option<u16>,
}

impl SendItem {
    fn payload<'a>(&'a self, connection: &'a Connection) -> &'a [u8] {
        match &self.payload {
            Payload::None => &[],
            Payload::Own(bytes) => bytes,
            Payload::Slot { slot, offset_bytes, len_bytes } => {
                connection.slots[usize::from(*slot)].part(*offset_bytes, *len_bytes)
            }
        }
    }

    fn len_bytes(&self) -> usize {
        let payload = match &self.payload {
            Payload::None => 0,
            Payload::Own(bytes) => bytes.len(),
            Payload::Slot { len_bytes, .. } => *len_bytes as usize,
        };
        usize::from(self.head_bytes) + payload + usize::from(self.tail_bytes)
    }
}

impl Connection {
    /// Queues a PDU: adds digests and padding.
    pub(super) fn enqueue(
        &mut self,
        step: &mut Step<'_>,
        header: &[u8],
        payload: Payload,
        releases: Option<u16>,
    ) {
        let header = header.first_chunk::<HEADER_BYTES>().expect("a header has 48 bytes");
        // Digests are in force in the full feature phase only (RFC 7143 section 13.1).
        let is_full = !matches!(self.phase, Phase::Login(..));
        let mut item = SendItem {
            head: [0; HEADER_BYTES + DIGEST_BYTES],
            head_bytes: HEADER_BYTES as u8,
            payload,
            tail: [0; 3 + DIGEST_BYTES],
            tail_bytes: 0,
            releases,
        };
        item.head[..HEADER_BYTES].copy_from_slice(header);
        if is_full && self.parameters.header_digest {
            item.head[HEADER_BYTES..].copy_from_slice(&digest(header));
            item.head_bytes += DIGEST_BYTES as u8;
        }
        let data = item.payload(self);
        if !data.is_empty() {
            let padding = data.len().next_multiple_of(4) - data.len();
            let has_digest = is_full && self.parameters.data_digest;
            let digest = has_digest.then(|| padded_digest(data));
            item.tail_bytes = padding as u8;
            if let Some(digest) = digest {
                item.tail[padding..padding + DIGEST_BYTES].copy_from_slice(&digest);
                item.tail_bytes += DIGEST_BYTES as u8;
            }
        }
        if self.send_queue.is_empty() {
            self.send_progress = step.cx.now();
        }
        self.send_queue.push_back(item);
        step.core.mark_send(self, step.id);
    }

    /// Sends what is queued, as far as the socket takes it; returns how much work it was.
    pub(super) fn send(&mut self, step: &mut Step<'_>) -> usize {
        let mut done = 0;
        while self.writable && !self.send_queue.is_empty() && done < CALLS_PER_PASS {
            match self.send_once() {
                Ok((sent_bytes, offered_bytes)) => {
                    self.writable = sent_bytes == offered_bytes;
                    done += 1;
                    self.send_progress = step.cx.now();
                    self.advance(step, sent_bytes);
                }
                Err(SocketError::WouldBlock) => self.writable = false,
                Err(SocketError::Closed) => {
                    step.core.lost(self, step.id, step.cx);
                    return done + 1;
                }
            }
        }
        if self.send_queue.is_empty() && matches!(self.phase, Phase::Closing(_)) {
            step.core.lost(self, step.id, step.cx);
        }
        done
    }

    /// One gathered call; returns the bytes taken and the bytes offered.
    fn send_once(&mut self) -> Result<(usize, usize), SocketError> {
        // Taken out for the call: the slices borrow the rest of the connection.
        let mut socket = self.socket.take().ok_or(SocketError::Closed)?;
        let mut slices: [IoSlice<'_>; SLICES_PER_CALL] = [IoSlice::new(&[]); SLICES_PER_CALL];
        let (mut count, mut offered_bytes, mut skip_bytes) = (0, 0, self.sent_bytes);
        for item in self.send_queue.iter().take(SLICES_PER_CALL / 3) {
            let head = &item.head[..usize::from(item.head_bytes)];
            let tail = &item.tail[..usize::from(item.tail_bytes)];
            for piece in [head, item.payload(self), tail] {
                let skipped = skip_bytes.min(piece.len());
                skip_bytes -= skipped;
                if skipped < piece.len() {
                    slices[count] = IoSlice::new(&piece[skipped..]);
                    offered_bytes += piece.len() - skipped;
                    count += 1;
                }
            }
        }
        let sent = socket.send(&slices[..count]);
        self.socket = Some(socket);
        Ok((sent?, offered_bytes))
    }

    /// The socket took `sent_bytes`: items that left whole are done with.
    fn advance(&mut self, step: &mut Step<'_>, sent_bytes: usize) {
        self.sent_bytes += sent_bytes;
        while let Some(item) = self.send_queue.front() {
            let len_bytes = item.len_bytes();
            if self.sent_bytes < len_bytes {
                return;
            }
            self.sent_bytes -= len_bytes;
            let releases = item.releases;
            self.send_queue.pop_front();
            if let Some(slot) = releases {
                self.release(slot, &mut step.cx.dma);
            }
        }
    }
}
