//! A queue of a controller at the target: commands in flight over one connection.
//!
//! Under both the admin queue and the I/O queue pairs; on its core's hot path. It pairs commands
//! with completions and with the data that moves for them, and holds the law that every accepted
//! command ends exactly once, and only when its memory is no longer in use: a completion that
//! overtakes the sending of its command's data waits for it; an error of the connection ends
//! everything in flight with a path status.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::{Memory, Status};
use reactor::dma::DmaBuffer;
use reactor::slab::{Slab, SlotId};
use reactor::socket::SocketKey;
use reactor::{Cx, Nanos};
use zerocopy::little_endian::U16;

use super::connection::Connection;
use super::error::{ConnectError, ConnectionError};
use super::incoming::Event;
use super::outgoing::Rest;
use super::request::{AbortState, FusedHalf, Request, Transfer, command_id, find, fused_status};
use crate::pdu::{DataRange, Digests, FatalErrorStatus, Flags, ReadyToTransfer, TermReason};

/// Receive calls in one poll: a full pass of a busy core stays some ten microseconds.
const RECEIVES_PER_POLL: u32 = 4;
/// Send calls in one flush; more only ever when one call cannot carry everything.
const SENDS_PER_FLUSH: u32 = 4;

/// Bytes of a queue's own memory for each slot: a range of Dataset Management.
pub(super) const INLINE_BYTES: usize = 16;

/// The data of a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum CommandData {
    /// None.
    Nothing,
    /// Filled by the controller.
    ToHost(Memory),
    /// Read by the controller.
    ToController(Memory),
    /// A few bytes that the queue keeps, read by the controller.
    Inline([u8; INLINE_BYTES]),
    /// A part of the memory, read by the controller: the data of half a fused pair.
    Part(Memory, DataRange),
}

/// A command to submit; its identifier and data pointer are filled in by the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    /// The entry.
    pub entry: SubmissionEntry,
    /// Its data.
    pub data: CommandData,
    /// The submitter's name for it.
    pub token: u64,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The submitter's name for it.
    pub token: u64,
    /// Its status: the controller's, or a path status when the connection ended first.
    pub status: Status,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
}

impl Ended {
    /// Dword 0 of the completion.
    pub fn result_dword(&self) -> u32 {
        let [first, second, third, fourth, ..] = self.result.to_le_bytes();
        u32::from_le_bytes([first, second, third, fourth])
    }
}

/// What a queue that was dropped has left of its core.
#[derive(Debug)]
pub(super) struct Remains {
    key: SocketKey,
    inline: Option<DmaBuffer>,
}

impl Remains {
    /// Gives all of it back.
    pub fn give_back(self, cx: &mut Cx) {
        cx.device_readiness.release(self.key);
        if let Some(inline) = self.inline {
            cx.dma.give(inline);
        }
    }
}

/// Commands in flight over one connection.
#[derive(Debug)]
pub(super) struct Queue {
    connection: Option<Connection>,
    failure: Option<ConnectionError>,
    /// Most in-capsule data that the controller takes.
    capsule_data_bytes_max: u32,
    depth: u32,
    /// Fused pairs of which both halves are in flight.
    fused: u32,
    requests: Slab<Request>,
    ended: VecDeque<Ended>,
    inline: Option<DmaBuffer>,
}

impl Queue {
    /// Starts a connection for a queue of `depth` commands. Slow path: allocates.
    ///
    /// # Errors
    /// No socket or no memory to be had, or the system refuses to start.
    pub fn open(
        cx: &mut Cx,
        address: SocketAddr,
        digests: Digests,
        depth: u32,
    ) -> Result<Self, ConnectError> {
        let inline = take_inline(cx, depth)?;
        match Connection::open(cx, address, digests, depth) {
            Ok(connection) => Ok(Self::with(connection, depth, inline)),
            Err(error) => {
                cx.dma.give(inline);
                Err(error)
            }
        }
    }

    fn with(connection: Connection, depth: u32, inline: DmaBuffer) -> Self {
        Queue {
            connection: Some(connection),
            failure: None,
            capsule_data_bytes_max: 0,
            depth,
            fused: 0,
            requests: Slab::with_capacity(depth),
            ended: VecDeque::with_capacity(depth as usize),
            inline: Some(inline),
        }
    }

    /// How much data a capsule may carry, from Identify Controller (IOCCSZ) or by the transport's
    /// rule for admin queues. None until told.
    pub fn set_capsule_data_bytes_max(&mut self, bytes: u32) {
        self.capsule_data_bytes_max = bytes;
    }

    /// Most commands in flight.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether ICResp has come and the connection still stands.
    pub fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_connected)
    }

    /// Why the connection ended, once it has.
    pub fn failure(&self) -> Option<ConnectionError> {
        self.failure
    }

    /// Commands accepted and not handed up yet.
    pub fn inflight(&self) -> u32 {
        let ended = u32::try_from(self.ended.len()).expect("no more than the depth");
        self.requests.len() + ended
    }

    /// Fused pairs of which both halves are in flight.
    pub fn fused_in_flight(&self) -> u32 {
        self.fused
    }

    /// How many commands would be accepted and sent.
    pub fn credits(&self) -> u32 {
        if self.is_connected() { self.depth - self.inflight() } else { 0 }
    }

    /// Accepts a command; false when there is no room. Once the connection has ended, commands are
    /// accepted and end with a path status.
    #[must_use]
    pub fn submit(&mut self, command: Command, now: Nanos) -> bool {
        if self.inflight() >= self.depth {
            return false;
        }
        match &self.connection {
            Some(connection) if connection.is_connected() => {
                self.start(command, now);
            }
            Some(_) => return false,
            None => self.refuse(command.token, self.lost_status()),
        }
        true
    }

    /// Accepts both commands of a fused pair, which end as one, under the token of the first; false
    /// when there is no room for two. As [`Queue::submit`] in all else.
    #[must_use]
    pub fn submit_fused(&mut self, pair: [Command; 2], now: Nanos) -> bool {
        if self.inflight() + 2 > self.depth {
            return false;
        }
        match &self.connection {
            Some(connection) if connection.is_connected() => {
                // Next to each other on the wire, as the specification wants them.
                let [first, second] = pair.map(|command| self.start(command, now));
                for (half, other) in [(first, second), (second, first)] {
                    let request = self.requests.get_mut(half).expect("just inserted");
                    request.fused = Some(FusedHalf::InFlight(other));
                }
                self.fused += 1;
            }
            Some(_) => return false,
            None => self.refuse(pair[0].token, self.lost_status()),
        }
        true
    }

    /// The first command that was submitted by `before` and has this abort state; told to be
    /// asked for. Looks at every slot: for once in a while.
    pub fn take_late(&mut self, before: Nanos, state: AbortState) -> Option<u16> {
        for index in 0..self.requests.capacity_slots() {
            let Some(id) = self.requests.id_at(index) else { continue };
            let request = self.requests.get_mut(id).expect("the slot was just seen taken");
            if request.submitted <= before && request.abort == state {
                request.abort = AbortState::Asked;
                return Some(command_id(id));
            }
        }
        None
    }

    /// Ends a command that never went out. There must be room for it.
    pub fn refuse(&mut self, token: u64, status: Status) {
        self.ended.push_back(Ended { token, status, result: 0 });
    }

    fn start(&mut self, command: Command, now: Nanos) -> SlotId {
        let mut entry = command.entry;
        let inline = &self.inline;
        let slot = self.requests.insert_with(|id| request_of(&command, id, inline.as_ref(), now));
        let id = slot.expect("there are as many slots as the depth");
        entry.command_id = U16::new(command_id(id));
        let request = self.requests.get_mut(id).expect("just inserted");
        let len_bytes = request.len_bytes;
        let mut capsule_bytes = 0;
        if request.transfer == Transfer::ToController && len_bytes <= self.capsule_data_bytes_max {
            request.transfer = Transfer::Nothing;
            capsule_bytes = len_bytes;
            entry = entry.with_sgl(SglDescriptor::in_capsule(0, len_bytes));
        } else {
            entry = entry.with_sgl(SglDescriptor::transport_data_block(len_bytes));
        }
        let connection = self.connection.as_mut().expect("the caller saw a connection");
        connection.push_command(entry, id, capsule_bytes, &self.requests);
        id
    }

    fn finish(&mut self, id: SlotId, how: Ended) {
        let Queue { requests, ended, fused, .. } = self;
        finish(requests, ended, fused, id, how);
    }

    /// Sends what waits: one gathered call, unless that cannot carry everything.
    pub fn flush(&mut self, cx: &mut Cx) {
        if let Err(error) = self.try_flush() {
            self.fail(cx, error);
        }
    }

    fn try_flush(&mut self) -> Result<(), ConnectionError> {
        for _ in 0..SENDS_PER_FLUSH {
            let Some(connection) = &mut self.connection else { return Ok(()) };
            if !connection.can_send() {
                return Ok(());
            }
            connection.send(&self.requests)?;
            // The rest of an R2T takes the place of what was sent.
            self.take_sent();
        }
        Ok(())
    }

    /// Lets go of what has been sent: the next part of an R2T, or a completion that waited.
    fn take_sent(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        while let Some(sent) = connection.take_sent() {
            let Some(id) = sent.request else { continue };
            let request = self.requests.get_mut(id).expect("a request outlives its PDUs");
            if let Some(rest) = sent.rest {
                connection.push_data(command_id(id), id, rest, &self.requests);
                continue;
            }
            request.sends -= 1;
            if request.sends == 0
                && let Some(completion) = request.ended
            {
                let Queue { requests, ended: list, fused, .. } = self;
                finish(requests, list, fused, id, ended(completion));
            }
        }
    }

    /// Receives and sends as far as the socket lets it, in bounded steps.
    pub fn poll(&mut self, cx: &mut Cx) {
        if let Err(error) = self.try_poll(cx) {
            self.fail(cx, error);
        }
    }

    fn try_poll(&mut self, cx: &mut Cx) -> Result<(), ConnectionError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.look(cx)?;
        let mut answers_due = connection.can_send();
        for _ in 0..RECEIVES_PER_POLL {
            let Some(connection) = &mut self.connection else { return Ok(()) };
            if !connection.receive(&self.requests)? {
                break;
            }
            while let Some(connection) = &mut self.connection
                && let Some(event) = connection.next_event(&self.requests)?
            {
                answers_due |= self.event(event)?;
            }
            if self.connection.as_ref().is_none_or(|connection| !connection.may_have_more()) {
                break;
            }
        }
        if answers_due { self.try_flush() } else { Ok(()) }
    }

    /// Acts on what came in; true when there is now something to send.
    fn event(&mut self, event: Event) -> Result<bool, ConnectionError> {
        match event {
            Event::Initialized(response) => {
                let connection = self.connection.as_mut().expect("it is where this came from");
                connection.initialized(&response)?;
            }
            Event::Response(completion) => self.response(completion)?,
            Event::ReadyToTransfer(header, range) => {
                self.ready_to_transfer(&header, range)?;
                return Ok(true);
            }
            Event::Data { request: id, len_bytes, flags } => {
                let request = self.requests.get_mut(id).expect("a read lives while data comes");
                request.moved_bytes += len_bytes;
                if flags.has(Flags::SUCCESS) {
                    let done = CompletionEntry::new(command_id(id), 0, Status::SUCCESS);
                    self.response(done)?;
                }
            }
        }
        Ok(false)
    }

    fn response(&mut self, completion: CompletionEntry) -> Result<(), ConnectionError> {
        let command_id = completion.command_id.get();
        let unknown = ConnectionError::UnknownCommand { command_id };
        let id = find(&self.requests, command_id).ok_or(unknown)?;
        let request = self.requests.get_mut(id).expect("just found");
        if request.ended.is_some() {
            return Err(unknown);
        }
        let short = request.transfer == Transfer::ToHost && request.moved_bytes < request.len_bytes;
        if short && completion.status().is_success() {
            return Err(ConnectionError::MissingData { command_id });
        }
        if request.sends > 0 {
            request.ended = Some(completion);
            return Ok(());
        }
        self.finish(id, ended(completion));
        Ok(())
    }

    fn ready_to_transfer(
        &mut self,
        header: &ReadyToTransfer,
        range: DataRange,
    ) -> Result<(), ConnectionError> {
        let wire_id = header.command_id.get();
        let unknown = ConnectionError::UnknownCommand { command_id: wire_id };
        let id = find(&self.requests, wire_id).ok_or(unknown)?;
        let request = self.requests.get_mut(id).expect("just found");
        let expected = request.transfer == Transfer::ToController && request.ended.is_none();
        if !expected || range.offset != request.moved_bytes {
            return Err(ConnectionError::UnexpectedData { command_id: wire_id });
        }
        let end = range.end().filter(|end| *end <= request.len_bytes);
        let refuse = |status| ConnectionError::Protocol(TermReason::new(status, 0));
        let end = end.ok_or(refuse(FatalErrorStatus::DataOutOfRange))?;
        if request.sends > 0 {
            // One R2T at a time was agreed on, and none before the command itself was sent.
            return Err(refuse(FatalErrorStatus::DataLimitExceeded));
        }
        request.moved_bytes = end;
        request.sends += 1;
        let asked = Rest { transfer_tag: header.transfer_tag.get(), range };
        let connection = self.connection.as_mut().expect("it is where this came from");
        connection.push_data(wire_id, id, asked, &self.requests);
        Ok(())
    }

    /// The next command that ended, in no promised order.
    pub fn take_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Closes the connection; everything in flight ends as aborted.
    pub fn abort(&mut self, cx: &mut Cx) {
        self.fail(cx, ConnectionError::Aborted);
    }

    /// Closes the connection because an answer is overdue.
    pub fn time_out(&mut self, cx: &mut Cx) {
        self.fail(cx, ConnectionError::TimedOut);
    }

    fn fail(&mut self, cx: &mut Cx, error: ConnectionError) {
        let Some(connection) = self.connection.take() else { return };
        // The socket first: from here on nothing touches the memory of a request.
        connection.close(cx, &error);
        self.failure = Some(error);
        let status = self.lost_status();
        for index in 0..self.requests.capacity_slots() {
            let Some(id) = self.requests.id_at(index) else { continue };
            let request = self.requests.get(id).expect("the slot was just seen taken");
            let lost = Ended { token: request.token, status, result: 0 };
            let how = request.ended.map_or(lost, ended);
            self.finish(id, how);
        }
        if let Some(inline) = self.inline.take() {
            cx.dma.give(inline);
        }
    }

    /// Leaves the target and closes the connection where no core's context is at hand; what the
    /// core still has to take back is returned. What was in flight never ends.
    pub fn leave(&mut self) -> Option<Remains> {
        let connection = self.connection.take()?;
        let key = connection.leave(&self.requests);
        self.failure = Some(ConnectionError::Aborted);
        Some(Remains { key, inline: self.inline.take() })
    }

    /// With what a command ends that the connection took with it.
    fn lost_status(&self) -> Status {
        match self.failure {
            Some(ConnectionError::Aborted) => Status::ABORTED_BY_HOST,
            _ => Status::HOST_PATHING_ERROR,
        }
    }

    /// Whether a poll would find something to do without a further report of the socket.
    pub fn has_work(&self) -> bool {
        let socket_work = self.connection.as_ref().is_some_and(Connection::has_work);
        !self.ended.is_empty() || socket_work
    }

    /// Whether something was reported of the socket, or is left to do.
    pub fn is_pending(&self, cx: &Cx) -> bool {
        let connection = self.connection.as_ref();
        !self.ended.is_empty() || connection.is_some_and(|open| open.is_pending(cx))
    }

    /// Whether the connection stands, in whatever state.
    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }
}

fn take_inline(cx: &mut Cx, depth: u32) -> Result<DmaBuffer, ConnectError> {
    cx.dma.take(depth.saturating_mul(INLINE_BYTES as u32)).ok_or(ConnectError::OutOfMemory)
}

fn request_of(command: &Command, id: SlotId, inline: Option<&DmaBuffer>, now: Nanos) -> Request {
    let mut part = None;
    let (memory, transfer) = match command.data {
        CommandData::Part(memory, range) => {
            part = Some(range);
            (memory, Transfer::ToController)
        }
        CommandData::Nothing => (Memory::None, Transfer::Nothing),
        CommandData::ToHost(memory) => (memory, Transfer::ToHost),
        CommandData::ToController(memory) => (memory, Transfer::ToController),
        CommandData::Inline(bytes) => {
            let buffer = inline.expect("it is kept while the connection is open");
            let offset = id.index * INLINE_BYTES as u32;
            let own = buffer.segment(buffer.len_bytes()).part(offset, INLINE_BYTES as u32);
            own.write(0, &bytes);
            (Memory::One(own), Transfer::ToController)
        }
    };
    let len_bytes = u32::try_from(memory.len_bytes()).expect("checked by the submitter");
    let part = part.unwrap_or(DataRange { offset: 0, length: len_bytes });
    Request {
        token: command.token,
        memory,
        len_bytes: part.length,
        transfer,
        moved_bytes: 0,
        sends: 1,
        ended: None,
        start_bytes: part.offset,
        fused: None,
        submitted: now,
        abort: AbortState::NotAsked,
    }
}

/// Takes a request out whose memory is in use no more; what it was ends, unless the other half of a
/// fused pair is still in flight.
fn finish(
    requests: &mut Slab<Request>,
    ended: &mut VecDeque<Ended>,
    fused: &mut u32,
    id: SlotId,
    how: Ended,
) {
    let request = requests.remove(id).expect("a request ends once");
    let mut how = Ended { token: request.token, ..how };
    match request.fused {
        None => {}
        Some(FusedHalf::InFlight(other)) => {
            let other = requests.get_mut(other).expect("both halves know of each other");
            other.fused = Some(FusedHalf::Ended(how.status));
            *fused -= 1;
            return;
        }
        Some(FusedHalf::Ended(status)) => how.status = fused_status(how.status, status),
    }
    ended.push_back(how);
}

/// How a command ended, its token still to be filled in.
fn ended(completion: CompletionEntry) -> Ended {
    Ended { token: 0, status: completion.status(), result: completion.result_wide() }
}
