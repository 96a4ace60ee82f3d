//! The send side of a connection: one gathered call for all that a pass has to say.
//!
//! Called in the send phase for connections that have something queued. Headers and tails come
//! from the request slots, payloads straight from the DMA buffers; nothing is copied. A slot is
//! free, and its buffer back in the pool, once the kernel has taken the last byte of its answer.

use std::io::IoSlice;

use reactor::dma::pool::LARGEST_BUFFER_BYTES;
use reactor::socket::SocketError;

use super::connection::{Connection, ConnectionState, SendItem};
use super::receive::Step;
use super::request::{Payload, Request};

/// What is sent for a read of zeroes that the device did not write out: the same lines of memory
/// each time, so they stay in the cache.
pub(super) static ZEROES: [u8; LARGEST_BUFFER_BYTES as usize] = [0; LARGEST_BUFFER_BYTES as usize];

/// Slices of one call: below the kernel's limit of 1024, three an answer.
const SLICES_PER_CALL: usize = 384;

/// Slices of a call when there is little to say: small, because unused slices cost time too.
const SLICES_OF_A_SHORT_CALL: usize = 12;

/// Calls on one connection in one pass.
const CALLS_PER_PASS: usize = 4;

impl Connection {
    /// Sends what is queued, as far as the socket takes it; returns how much work it was.
    pub(super) fn send(&mut self, step: &mut Step<'_>) -> usize {
        let mut done = 0;
        while self.writable && !self.send_queue.is_empty() && done < CALLS_PER_PASS {
            let sent = if self.send_queue.len() * 3 <= SLICES_OF_A_SHORT_CALL {
                self.send_once::<SLICES_OF_A_SHORT_CALL>()
            } else {
                self.send_once::<SLICES_PER_CALL>()
            };
            match sent {
                Ok((sent_bytes, offered_bytes)) => {
                    if sent_bytes < offered_bytes {
                        self.writable = false;
                    }
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
        if self.send_queue.is_empty() && matches!(self.state, ConnectionState::Terminating(_)) {
            step.core.lost(self, step.id, step.cx);
        }
        done
    }

    /// One gathered call; returns the bytes taken and the bytes offered.
    fn send_once<const SLICES: usize>(&mut self) -> Result<(usize, usize), SocketError> {
        // Taken out for the call: the slices borrow the rest of the connection.
        let mut socket = self.socket.take().ok_or(SocketError::Closed)?;
        let mut slices: [IoSlice<'_>; SLICES] = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut offered_bytes = 0;
        let mut skip_bytes = self.sent_bytes;
        for item in &self.send_queue {
            if count + 3 > SLICES {
                break;
            }
            for piece in self.pieces(*item) {
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

    /// The bytes of an item: head, payload, tail.
    fn pieces(&self, item: SendItem) -> [&[u8]; 3] {
        match item {
            SendItem::Control => [&self.control[..self.control_bytes], &[], &[]],
            SendItem::ReadyToTransfer(slot) => {
                let request = &self.requests[usize::from(slot)];
                [&request.head[..usize::from(request.head_bytes)], &[], &[]]
            }
            SendItem::Answer(slot) => answer(&self.requests[usize::from(slot)]),
        }
    }

    /// The socket took `sent_bytes`: items that left whole are done with.
    fn advance(&mut self, step: &mut Step<'_>, sent_bytes: usize) {
        self.sent_bytes += sent_bytes;
        self.sent_total += sent_bytes as u64;
        while let Some(item) = self.send_queue.front().copied() {
            let len_bytes = match item {
                SendItem::Control => self.control_bytes,
                SendItem::ReadyToTransfer(slot) => {
                    usize::from(self.requests[usize::from(slot)].head_bytes)
                }
                SendItem::Answer(slot) => self.requests[usize::from(slot)].answer_bytes(),
            };
            if self.sent_bytes < len_bytes {
                return;
            }
            self.sent_bytes -= len_bytes;
            self.send_queue.pop_front();
            match item {
                SendItem::Control => {}
                SendItem::ReadyToTransfer(slot) => {
                    self.requests[usize::from(slot)].ready_to_transfer_sent = true;
                    self.receive_progress = step.cx.now();
                }
                SendItem::Answer(slot) => self.release(slot, &mut step.cx.dma),
            }
        }
    }
}

fn answer(request: &Request) -> [&[u8]; 3] {
    let payload: &[u8] = match (request.payload, &request.buffer) {
        (Payload::Buffer(len_bytes), Some(buffer)) => buffer.bytes(len_bytes),
        (Payload::Zeroes(len_bytes), _) => &ZEROES[..len_bytes as usize],
        _ => &[],
    };
    let head = &request.head[..usize::from(request.head_bytes)];
    [head, payload, &request.tail[..usize::from(request.tail_bytes)]]
}
