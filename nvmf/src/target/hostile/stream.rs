//! Streams that break the rules of NVMe/TCP: the termination request that each gets.

use bdev::Status;
use bdev::nvme::sgl::SglDescriptor;
use reactor::socket::memory::MemoryLimits;
use zerocopy::IntoBytes;

use crate::pdu::connection::HostParameters;
use crate::pdu::{
    CommandCapsule, DataAlignment, DataRange, Digests, Flags, Framing, H2cData, InitializeRequest,
    PduKind,
};
use crate::target::harness::Harness;
use crate::target::tests::{Host, connected, connected_in, description, io};

const NONE: Digests = Digests { header: false, data: false };
const BOTH: Digests = Digests { header: true, data: true };

fn initialize_request() -> Vec<u8> {
    let parameters = HostParameters {
        data_alignment: DataAlignment::DWORD,
        digests: NONE,
        ready_to_transfer_max: 1,
    };
    InitializeRequest::new(parameters).as_bytes().to_vec()
}

fn flush() -> Vec<u8> {
    let mut command = io(0, 5, 0, 1, SglDescriptor::transport_data_block(0));
    command.cdw12.set(0);
    CommandCapsule::new(command, 0, Framing::default()).as_bytes().to_vec()
}

/// The bytes with one changed.
fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

/// What the connection gets: one termination request of this status and information, nothing
/// more, and the end.
fn assert_terminated(end: &mut crate::target::harness::HostEnd, status: u16, information: u32) {
    assert!(end.is_closed(), "status {status} information {information}");
    let bytes = std::mem::take(end.received());
    assert_eq!(bytes[0], PduKind::ControllerTermRequest.pdu_type());
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    assert_eq!(bytes.len(), length as usize, "nothing follows a termination request");
    assert_eq!(u16::from_le_bytes(bytes[8..10].try_into().unwrap()), status);
    assert_eq!(u32::from_le_bytes(bytes[10..14].try_into().unwrap()), information);
}

#[test]
fn a_bad_first_pdu_gets_its_reason() {
    let request = initialize_request;
    for (bytes, status, information) in [
        (with(request(), 0, 0xff), 1, 0),
        (with(request(), 0, 0x04), 2, 0),
        (with(request(), 0, 0x01), 1, 0),
        (with(request(), 1, 0x01), 1, 1),
        (with(request(), 2, 127), 1, 2),
        (with(request(), 4, 129), 1, 4),
        (with(request(), 7, 0xff), 1, 4),
        (with(request(), 8, 1), 6, 8),
        (with(request(), 10, 32), 1, 10),
    ] {
        let mut harness = Harness::new(description());
        let mut end = harness.connect(MemoryLimits::default());
        end.send(&mut harness, &bytes);
        end.exchange(&mut harness);
        assert_terminated(&mut end, status, information);
        assert_eq!(harness.cx.counters.protocol_errors, 1);
        assert_eq!(harness.cx.counters.connections, 0);
    }
}

#[test]
fn a_bad_pdu_on_a_queue_gets_its_reason_and_touches_nobody_else() {
    let capsule = |data_bytes: u32| {
        let command = io(1, 5, 0, 8, SglDescriptor::in_capsule(0, data_bytes));
        CommandCapsule::new(command, data_bytes, Framing::default()).as_bytes().to_vec()
    };
    let data = |tag, length: u32| {
        let range = DataRange { offset: 0, length };
        let header = H2cData::new(5, tag, range, Flags::LAST, Framing::default());
        header.as_bytes().to_vec()
    };
    for (bytes, status, information) in [
        (initialize_request(), 2, 0),
        (with(flush(), 0, 0x05), 1, 0),
        (with(flush(), 0, 0x08), 1, 0),
        (with(flush(), 1, 0x80), 1, 1),
        (with(flush(), 1, 0x01), 1, 1),
        (with(flush(), 2, 64), 1, 2),
        (with(flush(), 4, 71), 1, 4),
        (with(flush(), 4, 0), 1, 4),
        (with(capsule(4096), 3, 71), 1, 3),
        (with(capsule(4096), 3, 74), 1, 3),
        (data(0, 512), 1, 10),
        (data(0xffff, 512), 1, 10),
        (with(data(0, 512), 16, 4), 1, 16),
        (with(data(0, 512), 12, 2), 1, 12),
    ] {
        let (mut harness, mut admin, mut queue) = connected(MemoryLimits::default(), NONE);
        queue.end.send(&mut harness, &bytes);
        queue.end.exchange(&mut harness);
        assert_terminated(&mut queue.end, status, information);
        assert_eq!(harness.cx.counters.protocol_errors, 1);
        assert!(!admin.end.is_closed());
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}

#[test]
fn capsule_data_is_accepted_up_to_the_limit_and_not_one_step_past_it() {
    for (data_bytes, accepted) in [(4096_u32, true), (4100, false), (u32::MAX - 200, false)] {
        let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), NONE);
        let command = io(1, 5, 0, 8, SglDescriptor::in_capsule(0, data_bytes));
        let capsule = CommandCapsule::new(command, data_bytes, Framing::default());
        let bytes = [capsule.as_bytes(), &[0; 4096]].concat();
        queue.end.send(&mut harness, &bytes);
        queue.end.exchange(&mut harness);
        assert_eq!(queue.end.is_closed(), !accepted, "{data_bytes} bytes");
        let expected =
            if accepted { PduKind::ResponseCapsule } else { PduKind::ControllerTermRequest };
        assert_eq!(queue.end.received()[0], expected.pdu_type());
    }
}

#[test]
fn a_bad_header_digest_ends_the_connection_and_a_bad_data_digest_the_command() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), BOTH);
    let command = io(1, 5, 0, 8, SglDescriptor::in_capsule(0, 4096));
    let capsule = CommandCapsule::new(command, 4096, queue.framing);
    let mut slot = [0; crate::pdu::HEADER_SLOT_BYTES];
    let header_bytes = crate::pdu::write_header(&capsule, &mut slot);
    let bytes = [&slot[..header_bytes], &[3; 4096], &[0; 4]].concat();
    queue.end.send(&mut harness, &bytes);
    let answer = queue.completion(&mut harness);
    assert!(answer.status().has_code(Status::TRANSIENT_TRANSPORT_ERROR));
    assert_eq!(harness.cx.counters.protocol_errors, 1);
    let bad = with(bytes, 20, 0x55);
    queue.end.send(&mut harness, &bad);
    queue.end.exchange(&mut harness);
    assert!(queue.end.is_closed());
    assert_eq!(queue.end.received()[8], 3);
    assert_eq!(harness.cx.counters.protocol_errors, 2);
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn nothing_follows_a_termination_request_though_a_device_was_at_work() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), NONE);
    let mut bytes = flush();
    bytes.extend([0xff; 8]);
    queue.end.send(&mut harness, &bytes);
    queue.end.exchange(&mut harness);
    assert_terminated(&mut queue.end, 1, 0);
    assert_eq!(harness.cx.counters.connections, 1);
}

#[test]
fn a_hosts_termination_request_ends_the_connection_in_silence() {
    for length in [24_u8, 152, 153, 23] {
        let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), NONE);
        let mut bytes = vec![0; 152];
        bytes[..8].copy_from_slice(&[2, 0, 24, 0, length, 0, 0, 0]);
        queue.end.send(&mut harness, &bytes);
        queue.end.exchange(&mut harness);
        assert!(queue.end.is_closed() && queue.end.received().is_empty());
    }
}

#[test]
fn data_that_differs_from_what_was_asked_for_ends_the_connection() {
    let last = Flags::LAST;
    for (command_id, tag_step, offset, length, flags, status, information) in [
        (6, 0, 0, 4096, Flags::NONE, 1, 8),
        (5, 1, 0, 4096, Flags::NONE, 1, 10),
        (5, 0, 4096, 4096, Flags::NONE, 4, 0),
        (5, 0, 0, 8196, last, 4, 0),
        (5, 0, 0, 4096, last, 1, 1),
        (5, 0, 0, 8192, Flags::NONE, 1, 1),
    ] {
        let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), NONE);
        let sgl = SglDescriptor::transport_data_block(8192);
        queue.command(&mut harness, io(1, 5, 0, 16, sgl), &[]);
        let ask = queue.receive(&mut harness);
        let tag = u16::from_le_bytes(ask.bytes[10..12].try_into().unwrap());
        let range = DataRange { offset, length };
        let header = H2cData::new(command_id, tag + tag_step, range, flags, queue.framing);
        queue.pdu(&mut harness, &header, &vec![0; length as usize]);
        queue.end.exchange(&mut harness);
        assert_terminated(&mut queue.end, status, information);
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}

#[test]
fn data_before_it_was_asked_for_ends_the_connection() {
    let (mut harness, mut _admin, mut queue) = connected(MemoryLimits::default(), NONE);
    let sgl = SglDescriptor::transport_data_block(8192);
    let capsule = CommandCapsule::new(io(1, 5, 0, 16, sgl), 0, queue.framing);
    // The first command of a new queue gets the slot that comes next; whatever its tag is, no
    // R2T has left when the data is parsed.
    let range = DataRange { offset: 0, length: 8192 };
    for tag in 0..32 {
        let header = H2cData::new(5, tag, range, Flags::LAST, queue.framing);
        let bytes = [capsule.as_bytes(), header.as_bytes(), &[0; 8192]].concat();
        queue.end.send(&mut harness, &bytes);
        queue.end.exchange(&mut harness);
        assert_terminated(&mut queue.end, 1, 10);
        (harness, _admin, queue) = connected_in(harness, MemoryLimits::default(), NONE);
    }
}

#[test]
fn as_many_commands_as_entries_are_taken_and_one_more_ends_the_connection() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), NONE);
    let sgl = SglDescriptor::transport_data_block(4096);
    for command_id in 0..32 {
        queue.command(&mut harness, io(1, command_id, 0, 8, sgl), &[]);
        assert_eq!(queue.receive(&mut harness).parts.kind, PduKind::ReadyToTransfer);
    }
    queue.command(&mut harness, io(1, 99, 0, 8, sgl), &[]);
    queue.end.exchange(&mut harness);
    assert_terminated(&mut queue.end, 2, 0);
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn a_stream_cut_at_any_byte_costs_nothing() {
    let mut stream = initialize_request();
    stream.extend(Host::connect_bytes(0, 0xffff));
    let mut harness = Harness::new(description());
    for cut in 0..stream.len() {
        let mut end = harness.connect(MemoryLimits::default());
        end.send(&mut harness, &stream[..cut]);
        end.exchange(&mut harness);
        drop(end);
        harness.pump();
        assert_eq!(harness.cx.counters.connections, 0, "cut at {cut}");
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}
