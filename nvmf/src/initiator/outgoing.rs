//! What waits to be sent on one connection: PDUs in order, gathered into one call a flush.
//!
//! Owned by the connection, on its core's hot path. A PDU is a header in this list, data straight
//! from the memory of its I/O, and a data digest in this list; the list has its full capacity from
//! the start. What a call did not take is resumed at the byte.

use std::collections::VecDeque;
use std::io::IoSlice;

use reactor::slab::{Slab, SlotId};
use reactor::socket::{Socket, SocketError};

use super::request::Request;
use super::segments::pieces;
use crate::pdu::digest::DIGEST_BYTES;
use crate::pdu::encode::{HEADER_SLOT_BYTES, Header, write_header};
use crate::pdu::{DataRange, Digest};

/// Most vectors of one call: half of what Linux takes (UIO_MAXIOV), 8 KiB of stack.
const VECTORS_MAX: usize = 512;
/// Vectors of a call that sends few PDUs: it need not clear 8 KiB first.
const VECTORS_FEW: usize = 32;
/// PDUs that such a call is for: header, one piece of data and digest each, and room to spare.
const PDUS_FEW: usize = 8;

/// What follows a PDU of H2CData: the rest of what its R2T asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// As the R2T gave it.
    pub transfer_tag: u16,
    /// What is left.
    pub range: DataRange,
}

/// A PDU that has been sent whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The command that it belongs to; none for ICReq.
    pub request: Option<SlotId>,
    /// What its R2T still waits for.
    pub rest: Option<Rest>,
}

#[derive(Debug)]
struct Pdu {
    header: [u8; HEADER_SLOT_BYTES],
    header_bytes: usize,
    data: DataRange,
    digest: [u8; DIGEST_BYTES],
    digest_bytes: usize,
    done: Sent,
    sent_bytes: usize,
}

/// What goes out with a header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    /// The command.
    pub request: SlotId,
    /// The part of its data buffer; empty for none.
    pub range: DataRange,
    /// Whether a data digest follows the data.
    pub digest: PayloadDigest,
    /// What follows of the same R2T.
    pub rest: Option<Rest>,
}

/// Whether a data digest follows the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadDigest {
    /// The connection has none.
    Absent,
    /// The connection has data digests.
    Present,
}

/// PDUs in the order in which they go out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pdus: VecDeque<Pdu>,
    capacity_pdus: usize,
}

impl Pdu {
    fn len_bytes(&self) -> usize {
        self.header_bytes + self.data.length as usize + self.digest_bytes
    }

    /// Fills `vectors` with what is left of the PDU; gives how many it took.
    fn gather<'a>(&'a self, requests: &'a Slab<Request>, vectors: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let mut skip = self.sent_bytes;
        if skip < self.header_bytes {
            vectors[0] = IoSlice::new(&self.header[skip..self.header_bytes]);
            count = 1;
            skip = 0;
        } else {
            skip -= self.header_bytes;
        }
        let data_bytes = self.data.length as usize;
        if skip < data_bytes {
            let skip_bytes = u32::try_from(skip).expect("less than the data's length");
            let request = self.done.request.and_then(|id| requests.get(id));
            let request = request.expect("a request stays until its PDUs are sent");
            let start = request.start_bytes + self.data.offset + skip_bytes;
            for piece in pieces(&request.memory, start, self.data.length - skip_bytes) {
                let Some(vector) = vectors.get_mut(count) else { return count };
                *vector = piece.segment.io_slice(piece.offset_bytes, piece.len_bytes);
                count += 1;
            }
            skip = 0;
        } else {
            skip -= data_bytes;
        }
        if skip < self.digest_bytes
            && let Some(vector) = vectors.get_mut(count)
        {
            *vector = IoSlice::new(&self.digest[skip..self.digest_bytes]);
            count += 1;
        }
        count
    }
}

impl Outgoing {
    /// Room for `capacity_pdus`; all memory is allocated here.
    pub fn with_capacity(capacity_pdus: usize) -> Self {
        Self { pdus: VecDeque::with_capacity(capacity_pdus), capacity_pdus }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pdus.is_empty()
    }

    /// Whether the stream is between two PDUs.
    pub fn at_boundary(&self) -> bool {
        self.pdus.front().is_none_or(|pdu| pdu.sent_bytes == 0)
    }

    /// Appends a PDU without request or data.
    pub fn push_bare<H: Header>(&mut self, header: &H) {
        let done = Sent { request: None, rest: None };
        self.push(header, DataRange { offset: 0, length: 0 }, done);
    }

    /// Appends a PDU of a request. The caller has counted it in `Request::sends`.
    pub fn push_payload<H: Header>(
        &mut self,
        header: &H,
        payload: Payload,
        requests: &Slab<Request>,
    ) {
        let done = Sent { request: Some(payload.request), rest: payload.rest };
        let pdu = self.push(header, payload.range, done);
        if payload.range.length > 0 && payload.digest == PayloadDigest::Present {
            let request = requests.get(payload.request).expect("the request was just found");
            let mut digest = Digest::new();
            let start = request.start_bytes + payload.range.offset;
            for piece in pieces(&request.memory, start, payload.range.length) {
                digest.update(&piece.segment.io_slice(piece.offset_bytes, piece.len_bytes));
            }
            pdu.digest = digest.to_wire();
            pdu.digest_bytes = DIGEST_BYTES;
        }
    }

    fn push<H: Header>(&mut self, header: &H, data: DataRange, done: Sent) -> &mut Pdu {
        assert!(self.pdus.len() < self.capacity_pdus, "a queue's limits bound what waits");
        self.pdus.push_back(Pdu {
            header: [0; HEADER_SLOT_BYTES],
            header_bytes: 0,
            data,
            digest: [0; DIGEST_BYTES],
            digest_bytes: 0,
            done,
            sent_bytes: 0,
        });
        let pdu = self.pdus.back_mut().expect("just pushed");
        pdu.header_bytes = write_header(header, &mut pdu.header);
        pdu
    }

    /// Sends as much as one call takes. True when that was all that was offered: there may be more
    /// in the list than one call can carry.
    pub fn send(
        &mut self,
        socket: &mut dyn Socket,
        requests: &Slab<Request>,
    ) -> Result<bool, SocketError> {
        let (offered, sent) = if self.pdus.len() <= PDUS_FEW {
            self.send_gathered::<VECTORS_FEW>(socket, requests)?
        } else {
            self.send_gathered::<VECTORS_MAX>(socket, requests)?
        };
        self.advance(sent);
        Ok(sent == offered)
    }

    fn send_gathered<const N: usize>(
        &self,
        socket: &mut dyn Socket,
        requests: &Slab<Request>,
    ) -> Result<(usize, usize), SocketError> {
        let mut vectors = [IoSlice::new(&[]); N];
        let mut count = 0;
        for pdu in &self.pdus {
            if count == N {
                break;
            }
            count += pdu.gather(requests, &mut vectors[count..]);
        }
        let offered = vectors[..count].iter().map(|vector| vector.len()).sum();
        Ok((offered, socket.send(&vectors[..count])?))
    }

    fn advance(&mut self, mut count: usize) {
        for pdu in &mut self.pdus {
            let step = count.min(pdu.len_bytes() - pdu.sent_bytes);
            pdu.sent_bytes += step;
            count -= step;
            if count == 0 {
                return;
            }
        }
        assert!(count == 0, "a socket sends no more than it was offered");
    }

    /// Takes the first PDU out if it has been sent.
    pub fn take_sent(&mut self) -> Option<Sent> {
        let front = self.pdus.front()?;
        if front.sent_bytes < front.len_bytes() {
            return None;
        }
        let sent = front.done;
        self.pdus.pop_front();
        Some(sent)
    }

    /// Forgets everything: the connection is gone.
    pub fn clear(&mut self) {
        self.pdus.clear();
    }
}
