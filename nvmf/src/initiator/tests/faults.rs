//! One queue against a scripted target: everything that a target can do wrong, and what it may do
//! in an unusual order. Whatever happens, each command ends exactly once.

use std::net::SocketAddr;

use bdev::Memory;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::opcode::NvmOpcode;
use bdev::nvme::status::Status;
use reactor::Cx;
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;
use reactor::socket::memory::MemoryLimits;

use super::wire::{FromHost, Stream, Wires};
use crate::initiator::error::ConnectionError;
use crate::initiator::queue::{Command, CommandData, Ended, Queue};
use crate::pdu::{DataRange, Digests, FatalErrorStatus, Flags, TermReason};

const DEPTH: u32 = 4;
const LEN_BYTES: u32 = 4096;

struct Script {
    cx: Cx,
    wires: Wires,
    queue: Queue,
    stream: Stream,
    buffers: Vec<DmaBuffer>,
}

impl Script {
    fn new(digests: Digests) -> Script {
        Script::with(digests, MemoryLimits::default())
    }

    fn with(digests: Digests, limits: MemoryLimits) -> Script {
        let (mut cx, _) = test_context();
        let wires = Wires::install(&mut cx, limits);
        let address = SocketAddr::from(([127, 0, 0, 1], 4420));
        let mut queue = Queue::open(&mut cx, address, digests, DEPTH).unwrap();
        let mut stream = wires.accept().unwrap();
        for _ in 0..1000 {
            wires.report(&mut cx);
            queue.poll(&mut cx);
            stream.pump();
            if let Some(FromHost::Initialize(request)) = stream.next() {
                stream.grant(&request, 0);
            }
        }
        assert!(queue.is_connected());
        let buffers = (0..DEPTH).map(|_| cx.dma.take(LEN_BYTES).unwrap()).collect();
        Script { cx, wires, queue, stream, buffers }
    }

    /// Submits and sends one command; gives its identifier as the target saw it.
    fn submit(&mut self, opcode: NvmOpcode, token: u64) -> u16 {
        let buffer = &self.buffers[usize::try_from(token).unwrap() % self.buffers.len()];
        let memory = Memory::One(buffer.segment(LEN_BYTES));
        let data = match opcode {
            NvmOpcode::Read => CommandData::ToHost(memory),
            NvmOpcode::Write => CommandData::ToController(memory),
            _ => CommandData::Nothing,
        };
        let entry = SubmissionEntry::new(opcode.value(), 0, 1);
        assert!(self.queue.submit(Command { entry, data, token }, self.cx.now()));
        for _ in 0..1000 {
            self.queue.flush(&mut self.cx);
            self.pass();
            if let Some(FromHost::Command { entry, .. }) = self.stream.next() {
                return entry.command_id.get();
            }
        }
        panic!("the command never arrived");
    }

    fn pass(&mut self) {
        self.stream.pump();
        self.wires.report(&mut self.cx);
        self.queue.poll(&mut self.cx);
        self.stream.pump();
    }

    fn ended(&mut self) -> Vec<Ended> {
        for _ in 0..50 {
            self.pass();
        }
        std::iter::from_fn(|| self.queue.take_ended()).collect()
    }

    /// The connection has ended for this reason, and `tokens` with it, once each.
    fn assert_failed(&mut self, error: ConnectionError, tokens: &[u64]) {
        let ended = self.ended();
        assert_eq!(self.queue.failure(), Some(error));
        let mut lost: Vec<_> = ended.iter().map(|ended| ended.token).collect();
        lost.sort_unstable();
        assert_eq!(lost, tokens);
        assert!(ended.iter().all(|ended| ended.status == Status::HOST_PATHING_ERROR));
        assert_eq!((self.queue.inflight(), self.queue.credits()), (0, 0));
        self.pass();
        assert!(self.stream.is_closed());
        assert_eq!(self.ended(), []);
        let entry = SubmissionEntry::new(NvmOpcode::Flush.value(), 0, 1);
        let late = Command { entry, data: CommandData::Nothing, token: 99 };
        assert!(self.queue.submit(late, self.cx.now()));
        let refused = self.ended();
        assert_eq!((refused.len(), refused[0].token), (1, 99));
        assert_eq!(refused[0].status, Status::HOST_PATHING_ERROR);
    }
}

fn protocol(status: FatalErrorStatus) -> ConnectionError {
    ConnectionError::Protocol(TermReason::new(status, 0))
}

const NO_DIGESTS: Digests = Digests { header: false, data: false };
const BOTH_DIGESTS: Digests = Digests { header: true, data: true };

#[test]
fn a_completion_of_no_command_ends_the_connection() {
    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Flush, 1);
    script.stream.respond(id ^ 1, Status::SUCCESS);
    script.assert_failed(ConnectionError::UnknownCommand { command_id: id ^ 1 }, &[1]);
}

#[test]
fn a_double_completion_is_not_taken_for_another_command() {
    let mut script = Script::new(NO_DIGESTS);
    let first = script.submit(NvmOpcode::Flush, 1);
    script.stream.respond(first, Status::WRITE_FAULT);
    let ended = script.ended();
    assert_eq!((ended.len(), ended[0].status), (1, Status::WRITE_FAULT));
    let second = script.submit(NvmOpcode::Flush, 2);
    assert_ne!(first, second, "the slot is the same, the tenant is not");
    script.stream.respond(first, Status::SUCCESS);
    script.assert_failed(ConnectionError::UnknownCommand { command_id: first }, &[2]);
}

#[test]
fn a_wrong_data_digest_ends_the_connection() {
    let mut script = Script::new(BOTH_DIGESTS);
    let id = script.submit(NvmOpcode::Read, 1);
    script.submit(NvmOpcode::Flush, 2);
    script.stream.send_data_with_digest(id, &[1; LEN_BYTES as usize], 0x1234_5678);
    script.assert_failed(ConnectionError::DataDigest { command_id: id }, &[1, 2]);
}

#[test]
fn a_wrong_header_digest_ends_the_connection() {
    let mut script = Script::new(BOTH_DIGESTS);
    script.submit(NvmOpcode::Flush, 1);
    let mut pdu = [0; 28];
    pdu[..8].copy_from_slice(&[5, 1, 24, 0, 28, 0, 0, 0]);
    script.stream.send_raw(&pdu);
    let reason = TermReason::new(FatalErrorStatus::HeaderDigestError, 0);
    script.assert_failed(ConnectionError::Protocol(reason), &[1]);
}

#[test]
fn a_success_without_all_of_the_data_ends_the_connection() {
    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Read, 1);
    script.stream.send_data(id, 0, &[1; 2048], Flags::NONE);
    script.stream.respond(id, Status::SUCCESS);
    script.assert_failed(ConnectionError::MissingData { command_id: id }, &[1]);
    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Read, 1);
    script.stream.send_data(id, 0, &[1; 2048], Flags::LAST.with(Flags::SUCCESS));
    script.assert_failed(ConnectionError::MissingData { command_id: id }, &[1]);
}

#[test]
fn a_read_may_fail_after_some_of_its_data() {
    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Read, 1);
    script.stream.send_data(id, 0, &[1; 2048], Flags::NONE);
    script.stream.respond(id, Status::UNRECOVERED_READ_ERROR);
    let ended = script.ended();
    assert_eq!((ended.len(), ended[0].status), (1, Status::UNRECOVERED_READ_ERROR));
    assert_eq!(script.queue.failure(), None);
}

#[test]
fn data_that_nobody_asked_for_ends_the_connection() {
    for (opcode, offset) in [(NvmOpcode::Flush, 0), (NvmOpcode::Write, 0), (NvmOpcode::Read, 512)] {
        let mut script = Script::new(NO_DIGESTS);
        let id = script.submit(opcode, 1);
        script.stream.send_data(id, offset, &[1; 512], Flags::NONE);
        script.assert_failed(ConnectionError::UnexpectedData { command_id: id }, &[1]);
    }
    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Read, 1);
    script.stream.send_data(id, 0, &[1; LEN_BYTES as usize + 4], Flags::LAST);
    script.assert_failed(protocol(FatalErrorStatus::DataOutOfRange), &[1]);
}

#[test]
fn data_is_asked_for_in_order_inside_the_buffer_and_one_piece_at_a_time() {
    let range = |offset, length| DataRange { offset, length };
    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Write, 1);
    script.stream.ask(id, 7, range(4, 512));
    script.assert_failed(ConnectionError::UnexpectedData { command_id: id }, &[1]);

    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Write, 1);
    script.stream.ask(id, 7, range(0, LEN_BYTES + 4));
    script.assert_failed(protocol(FatalErrorStatus::DataOutOfRange), &[1]);

    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Read, 1);
    script.stream.ask(id, 7, range(0, 512));
    script.assert_failed(ConnectionError::UnexpectedData { command_id: id }, &[1]);

    // A second one in the same breath as the first: more than the one that was agreed on.
    let mut script = Script::new(NO_DIGESTS);
    let id = script.submit(NvmOpcode::Write, 1);
    script.stream.ask(id, 7, range(0, 512));
    script.stream.ask(id, 8, range(512, 512));
    script.assert_failed(protocol(FatalErrorStatus::DataLimitExceeded), &[1]);
}

#[test]
fn a_completion_that_overtakes_the_data_waits_until_it_is_sent() {
    let limits = MemoryLimits { call_bytes: 64, stream_bytes: 4096 };
    let mut script = Script::with(NO_DIGESTS, limits);
    let id = script.submit(NvmOpcode::Write, 1);
    script.stream.ask(id, 7, DataRange { offset: 0, length: LEN_BYTES });
    script.stream.respond(id, Status::WRITE_FAULT);
    let mut waited = 0;
    let ended = loop {
        script.pass();
        if let Some(ended) = script.queue.take_ended() {
            break ended;
        }
        waited += 1;
        assert!(waited < 10_000);
    };
    assert!(waited > 10, "the data takes many passes");
    assert_eq!((ended.token, ended.status), (1, Status::WRITE_FAULT));
    let Some(FromHost::Data { data, flags, .. }) = script.stream.next() else {
        panic!("all of the data was sent")
    };
    assert_eq!((data.len(), flags), (LEN_BYTES as usize, Flags::LAST));
    assert_eq!(script.queue.failure(), None);
}

#[test]
fn pdus_out_of_place_end_the_connection() {
    let mut again = Script::new(NO_DIGESTS);
    again.submit(NvmOpcode::Flush, 1);
    let mut response = [0; 128];
    response[..8].copy_from_slice(&[1, 0, 128, 0, 128, 0, 0, 0]);
    again.stream.send_raw(&response);
    again.assert_failed(protocol(FatalErrorStatus::SequenceError), &[1]);

    let mut command = Script::new(NO_DIGESTS);
    command.submit(NvmOpcode::Flush, 1);
    command.stream.send_raw(&[4, 0, 72, 0, 72, 0, 0, 0]);
    let reason = TermReason::new(FatalErrorStatus::InvalidHeaderField, 0);
    command.assert_failed(ConnectionError::Protocol(reason), &[1]);
}

#[test]
fn a_protocol_error_is_told_to_the_target() {
    let mut script = Script::new(NO_DIGESTS);
    script.submit(NvmOpcode::Flush, 1);
    script.stream.send_raw(&[0xff; 8]);
    script.pass();
    assert!(matches!(script.stream.next(), Some(FromHost::Terminate)));
}

#[test]
fn a_termination_request_ends_the_connection_with_its_reason() {
    let mut script = Script::new(NO_DIGESTS);
    script.submit(NvmOpcode::Flush, 1);
    let mut request = [0; 24];
    request[..8].copy_from_slice(&[3, 0, 24, 0, 24, 0, 0, 0]);
    request[8] = 5;
    script.stream.send_raw(&request);
    let reason = TermReason::new(FatalErrorStatus::DataLimitExceeded, 0);
    script.assert_failed(ConnectionError::Terminated(reason), &[1]);
}

#[test]
fn the_end_of_the_stream_ends_everything_in_flight() {
    let mut script = Script::new(NO_DIGESTS);
    for token in 0..u64::from(DEPTH) {
        script.submit(NvmOpcode::Write, token);
    }
    script.stream.close();
    script.assert_failed(ConnectionError::Closed, &[0, 1, 2, 3]);
}

#[test]
fn an_abort_closes_the_stream_and_keeps_what_was_done() {
    let mut script = Script::new(NO_DIGESTS);
    let done = script.submit(NvmOpcode::Flush, 1);
    script.submit(NvmOpcode::Write, 2);
    script.stream.respond(done, Status::SUCCESS);
    script.pass();
    script.queue.abort(&mut script.cx);
    script.queue.abort(&mut script.cx);
    let ended = script.ended();
    let ended: Vec<_> = ended.iter().map(|ended| (ended.token, ended.status)).collect();
    assert_eq!(ended, [(1, Status::SUCCESS), (2, Status::ABORTED_BY_HOST)]);
    assert!(script.stream.is_closed());
}

#[test]
fn a_queue_takes_its_depth_and_not_one_more() {
    let mut script = Script::new(NO_DIGESTS);
    for token in 0..u64::from(DEPTH) {
        assert_eq!(u64::from(script.queue.credits()), u64::from(DEPTH) - token);
        script.submit(NvmOpcode::Flush, token);
    }
    let entry = SubmissionEntry::new(NvmOpcode::Flush.value(), 0, 1);
    let late = Command { entry, data: CommandData::Nothing, token: 9 };
    assert!(!script.queue.submit(late, script.cx.now()));
}
