//! The byte stream from the target: cut into PDUs, data put where its I/O wants it.
//!
//! Owned by the connection, on its core's hot path. One receive call fills the rest of the C2HData
//! payload under way straight into the memory of its I/O and whatever follows into a staging area,
//! where headers are parsed in place and small payloads copied from. Every byte is untrusted:
//! nothing but a header checked by [`crate::pdu`] decides where data goes, and only inside the
//! buffer of a read that is in flight.

use std::io::IoSliceMut;

use bdev::nvme::completion::CompletionEntry;
use reactor::slab::{Slab, SlotId};
use reactor::socket::{Socket, SocketError};
use zerocopy::FromBytes;

use super::error::ConnectionError;
use super::request::{Request, Transfer, find};
use super::segments::{pieces, write};
use crate::pdu::digest::DIGEST_BYTES;
use crate::pdu::header::COMMON_HEADER_BYTES;
use crate::pdu::{
    C2hData, DataRange, Digest, FatalErrorStatus, Flags, HeaderError, InitializeResponse,
    PduHeader, PduKind, ReadyToTransfer, ResponseCapsule, Rules, TermReason, TermRequest, decode,
    verify_header_digest,
};

/// Size of the staging area: what one receive call moves at most beside a payload.
pub(super) const STAGING_BYTES: usize = 64 << 10;
/// Payloads from this size on are worth receiving in place...
const LARGE_PAYLOAD_BYTES: u32 = 16 << 10;
/// ...so that much less than a payload is staged behind one: the next header and a little.
const STAGING_BESIDE_LARGE_BYTES: usize = 512;
/// Vectors of one receive call; the last is the staging area.
const VECTORS: usize = 32;
/// No PDU header is longer, with digest and padding: PDO is one byte.
const HEADER_BYTES_MAX: usize = 256;

const _: () = assert!(STAGING_BESIDE_LARGE_BYTES >= HEADER_BYTES_MAX);

/// What came in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// ICResp.
    Initialized(InitializeResponse),
    /// The end of a command.
    Response(CompletionEntry),
    /// R2T, with its range checked for form.
    ReadyToTransfer(ReadyToTransfer, DataRange),
    /// A C2HData PDU is complete and its digest right.
    Data {
        /// Whose data.
        request: SlotId,
        /// How much.
        len_bytes: u32,
        /// The PDU's flags.
        flags: Flags,
    },
}

/// How a receive call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// It filled all that it was offered: there may be more.
    No,
    /// It stopped short: the stream is empty, or has ended.
    Yes,
}

/// A C2HData PDU under way.
#[derive(Clone, Copy, Debug)]
struct Payload {
    request: SlotId,
    command_id: u16,
    next_bytes: u32,
    left_bytes: u32,
    len_bytes: u32,
    flags: Flags,
    digest: Option<Digest>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Header,
    Data(Payload),
    DataDigest(Payload),
}

/// The stream from the target.
#[derive(Debug)]
pub(super) struct Incoming {
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    stage: Stage,
    /// Length of the last payload: what the next is guessed to be like.
    last_payload_bytes: u32,
}

impl Incoming {
    /// An empty stream; all memory is allocated here.
    pub fn new() -> Self {
        Self {
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            stage: Stage::Header,
            last_payload_bytes: 0,
        }
    }

    /// One receive call. To be followed by [`Incoming::next_event`] until that has nothing more.
    pub fn receive(
        &mut self,
        socket: &mut dyn Socket,
        requests: &Slab<Request>,
    ) -> Result<Drained, SocketError> {
        self.compact();
        let mut vectors: [IoSliceMut<'_>; VECTORS] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut count = 0;
        let mut payload_room = 0;
        let mut payload_whole = true;
        if let Stage::Data(payload) = &self.stage {
            assert!(self.end == 0, "a payload was taken from staging as far as it was there");
            let request = requests.get(payload.request).expect("a read lives while data comes");
            for piece in pieces(&request.memory, payload.next_bytes, payload.left_bytes) {
                if count == VECTORS {
                    payload_whole = false;
                    break;
                }
                vectors[count] = piece.segment.io_slice_mut(piece.offset_bytes, piece.len_bytes);
                payload_room += piece.len_bytes as usize;
                count += 1;
            }
            payload_whole &= count < VECTORS;
        }
        let mut room = payload_room;
        if payload_whole {
            let large = self.last_payload_bytes >= LARGE_PAYLOAD_BYTES;
            let most = if large { STAGING_BESIDE_LARGE_BYTES } else { STAGING_BYTES };
            let staging_end = (self.end + most).min(STAGING_BYTES);
            room += staging_end - self.end;
            vectors[count] = IoSliceMut::new(&mut self.staging[self.end..staging_end]);
            count += 1;
        }
        let received = socket.receive(&mut vectors[..count])?;
        assert!(received <= room, "a socket receives no more than there is room for");
        let in_payload = received.min(payload_room);
        self.end += received - in_payload;
        self.advance_payload(u32::try_from(in_payload).expect("part of a payload"), requests);
        Ok(if received < room { Drained::Yes } else { Drained::No })
    }

    /// Moves what is left to the front, so that a header never lies across the area's end.
    fn compact(&mut self) {
        if self.start > 0 {
            self.staging.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        assert!(self.end < HEADER_BYTES_MAX, "everything but a started header was parsed");
    }

    /// Takes note of payload bytes that are in place.
    fn advance_payload(&mut self, count: u32, requests: &Slab<Request>) {
        let Stage::Data(payload) = &mut self.stage else { return };
        if let Some(digest) = &mut payload.digest {
            let request = requests.get(payload.request).expect("a read lives while data comes");
            for piece in pieces(&request.memory, payload.next_bytes, count) {
                digest.update(&piece.segment.io_slice(piece.offset_bytes, piece.len_bytes));
            }
        }
        payload.next_bytes += count;
        payload.left_bytes -= count;
    }

    /// The next thing that is complete; none when more bytes are needed.
    ///
    /// # Errors
    /// What the target did wrong: the connection must end.
    pub fn next_event(
        &mut self,
        rules: &Rules,
        requests: &Slab<Request>,
    ) -> Result<Option<Event>, ConnectionError> {
        loop {
            match self.stage {
                Stage::Header => match self.header(rules, requests)? {
                    Progress::Started => {}
                    Progress::Complete(event) => return Ok(Some(event)),
                    Progress::Starved => return Ok(None),
                },
                Stage::Data(payload) => {
                    if !self.copy_payload(payload, requests) {
                        return Ok(None);
                    }
                }
                Stage::DataDigest(payload) => {
                    let Some(event) = self.data_digest(payload)? else { return Ok(None) };
                    return Ok(Some(event));
                }
            }
            if let Stage::Data(payload) = self.stage
                && payload.left_bytes == 0
            {
                if payload.digest.is_some() {
                    self.stage = Stage::DataDigest(payload);
                } else {
                    return Ok(Some(self.end_payload(payload)));
                }
            }
        }
    }

    fn end_payload(&mut self, payload: Payload) -> Event {
        self.stage = Stage::Header;
        let Payload { request, len_bytes, flags, .. } = payload;
        Event::Data { request, len_bytes, flags }
    }

    /// Copies what of a payload is staged. False when there was nothing to copy.
    fn copy_payload(&mut self, payload: Payload, requests: &Slab<Request>) -> bool {
        let staged = &self.staging[self.start..self.end];
        let count = staged.len().min(payload.left_bytes as usize);
        if count == 0 {
            return payload.left_bytes == 0;
        }
        let request = requests.get(payload.request).expect("a read lives while data comes");
        write(&request.memory, payload.next_bytes, &staged[..count]);
        let Stage::Data(payload) = &mut self.stage else {
            unreachable!("the stage was just seen to be a payload")
        };
        if let Some(digest) = &mut payload.digest {
            digest.update(&staged[..count]);
        }
        let count_bytes = u32::try_from(count).expect("the staging area is 64 KiB");
        payload.next_bytes += count_bytes;
        payload.left_bytes -= count_bytes;
        self.start += count;
        true
    }

    fn data_digest(&mut self, payload: Payload) -> Result<Option<Event>, ConnectionError> {
        let Some(received) = self.staging[self.start..self.end].first_chunk::<DIGEST_BYTES>()
        else {
            return Ok(None);
        };
        let computed = payload.digest.expect("this stage is for payloads with a digest");
        if *received != computed.to_wire() {
            return Err(ConnectionError::DataDigest { command_id: payload.command_id });
        }
        self.start += DIGEST_BYTES;
        Ok(Some(self.end_payload(payload)))
    }

    /// Parses a header once it is all there, with its digest and padding.
    fn header(
        &mut self,
        rules: &Rules,
        requests: &Slab<Request>,
    ) -> Result<Progress, ConnectionError> {
        let bytes = &self.staging[self.start..self.end];
        let Some(common) = bytes.first_chunk::<COMMON_HEADER_BYTES>() else {
            return Ok(Progress::Starved);
        };
        let parts = decode(common, rules).map_err(|error| match error {
            HeaderError::Terminate(reason) => ConnectionError::Protocol(reason),
            HeaderError::Close => ConnectionError::MalformedTermination,
        })?;
        let header_bytes = usize::from(parts.data_offset);
        if bytes.len() < header_bytes {
            return Ok(Progress::Starved);
        }
        verify_header_digest(&parts, bytes).map_err(ConnectionError::Protocol)?;
        let progress = match parts.kind {
            PduKind::C2hData => {
                let payload = start_payload(read_header(bytes), &parts, requests)?;
                self.last_payload_bytes = payload.len_bytes;
                self.stage = Stage::Data(payload);
                Progress::Started
            }
            PduKind::ResponseCapsule => {
                let capsule: ResponseCapsule = read_header(bytes);
                self.last_payload_bytes = 0;
                Progress::Complete(Event::Response(capsule.completion))
            }
            PduKind::ReadyToTransfer => {
                let request: ReadyToTransfer = read_header(bytes);
                let range = request.check().map_err(ConnectionError::Protocol)?;
                Progress::Complete(Event::ReadyToTransfer(request, range))
            }
            PduKind::InitializeResponse => {
                Progress::Complete(Event::Initialized(read_header(bytes)))
            }
            PduKind::ControllerTermRequest => {
                let request: TermRequest = read_header(bytes);
                return Err(ConnectionError::Terminated(request.reason()));
            }
            // `decode` lets nothing through that is meant for a controller.
            _ => return Err(sequence_error()),
        };
        self.start += header_bytes;
        Ok(progress)
    }
}

enum Progress {
    /// A payload follows.
    Started,
    Complete(Event),
    /// More bytes are needed.
    Starved,
}

pub(super) fn sequence_error() -> ConnectionError {
    ConnectionError::Protocol(TermReason::new(FatalErrorStatus::SequenceError, 0))
}

fn read_header<H: FromBytes>(bytes: &[u8]) -> H {
    let (header, _) = H::read_from_prefix(bytes).expect("the header was waited for");
    header
}

/// Finds out where the data of a C2HData PDU goes: into a read in flight, after what it has.
fn start_payload(
    header: C2hData,
    parts: &PduHeader,
    requests: &Slab<Request>,
) -> Result<Payload, ConnectionError> {
    let range = header.check(parts).map_err(ConnectionError::Protocol)?;
    let command_id = header.command_id.get();
    let id = find(requests, command_id).ok_or(ConnectionError::UnknownCommand { command_id })?;
    let request = requests.get(id).expect("just found");
    let expected = request.transfer == Transfer::ToHost && request.ended.is_none();
    if !expected || range.offset != request.moved_bytes {
        return Err(ConnectionError::UnexpectedData { command_id });
    }
    if range.end().is_none_or(|end| end > request.len_bytes) {
        let reason = TermReason::new(FatalErrorStatus::DataOutOfRange, 0);
        return Err(ConnectionError::Protocol(reason));
    }
    Ok(Payload {
        request: id,
        command_id,
        next_bytes: range.offset,
        left_bytes: range.length,
        len_bytes: range.length,
        flags: parts.flags,
        digest: (parts.data_digest_bytes > 0).then(Digest::new),
    })
}
