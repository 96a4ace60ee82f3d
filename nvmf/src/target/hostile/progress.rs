//! Hosts that stall, vanish or ask for more than there is, and hosts beside them.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::Nanos;
use reactor::socket::memory::MemoryLimits;
use zerocopy::FromBytes;

use crate::pdu::{DataRange, Digests, Flags, H2cData, PduKind, ReadyToTransfer};
use crate::target::harness::Harness;
use crate::target::tests::{Host, Received, connected_in, description, io};

const LARGE_BYTES: u32 = 128 << 10;
const LARGE_BLOCKS: u32 = LARGE_BYTES / 512;
/// Blocks of the RAM disk.
const DISK_BLOCKS: u32 = 8192;

fn start(chunks: usize) -> (Harness, Host, Host) {
    let harness = Harness::with_pool(description(), chunks);
    connected_in(harness, MemoryLimits::default(), Digests::default())
}

/// A write of 128 KiB whose data is to be asked for.
fn large_write(host: &mut Host, harness: &mut Harness, command_id: u16) {
    let lba = u32::from(command_id) * LARGE_BLOCKS % DISK_BLOCKS;
    let sgl = SglDescriptor::transport_data_block(LARGE_BYTES);
    host.command(harness, io(1, command_id, lba, LARGE_BLOCKS, sgl), &[]);
}

fn small_write(host: &mut Host, harness: &mut Harness, command_id: u16) {
    let sgl = SglDescriptor::in_capsule(0, 4096);
    host.command(harness, io(1, command_id, 0, 8, sgl), &[7; 4096]);
}

/// The next PDU, if there is one.
fn next(host: &mut Host, harness: &mut Harness) -> Option<Received> {
    host.end.exchange(harness);
    (!host.end.received().is_empty()).then(|| host.receive(harness))
}

/// Takes the next PDU and sends the data that it asks for; true when it was a good completion.
fn serve(host: &mut Host, harness: &mut Harness) -> Option<bool> {
    let pdu = next(host, harness)?;
    if pdu.parts.kind != PduKind::ReadyToTransfer {
        assert_eq!(pdu.completion().status(), Status::SUCCESS);
        return Some(true);
    }
    let ask = ReadyToTransfer::read_from_prefix(&pdu.bytes).unwrap().0;
    let range = DataRange { offset: 0, length: LARGE_BYTES };
    let (command_id, tag) = (ask.command_id.get(), ask.transfer_tag.get());
    let header = H2cData::new(command_id, tag, range, Flags::LAST, host.framing);
    host.pdu(harness, &header, &vec![command_id as u8; LARGE_BYTES as usize]);
    Some(false)
}

/// Lets seconds pass while the admin queue keeps its controller alive.
fn wait(harness: &mut Harness, admin: &mut Host, seconds: u64) {
    for _ in 0..seconds {
        let sgl = SglDescriptor::transport_data_block(0);
        admin.command(harness, SubmissionEntry::new(0x18, 9, 0).with_sgl(sgl), &[]);
        assert!(admin.completion(harness).status().is_success());
        harness.wait(Nanos::from_secs(1));
    }
}

#[test]
fn writes_whose_data_was_asked_for_never_wait_for_a_capsule_behind_them() {
    let (mut harness, _admin, mut queue) = start(6);
    for command_id in 0..28 {
        large_write(&mut queue, &mut harness, command_id);
    }
    small_write(&mut queue, &mut harness, 28);
    let mut done = 0;
    while done < 29 {
        done += u32::from(serve(&mut queue, &mut harness).expect("the exchange goes on"));
    }
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn with_few_buffers_every_connection_gets_its_turn() {
    let (mut harness, _admin, first) = start(4);
    let mut queues = vec![first];
    for queue_id in 2..=8 {
        let limits = MemoryLimits::default();
        let mut queue = Host::initialize(&mut harness, limits, Digests::default());
        assert!(queue.connect(&mut harness, queue_id, 1).status().is_success());
        queues.push(queue);
    }
    for queue in &mut queues {
        for command_id in 0..28 {
            large_write(queue, &mut harness, command_id);
        }
        small_write(queue, &mut harness, 28);
    }
    let mut done = [0_u32; 8];
    while done != [29; 8] {
        let mut moved = false;
        for (queue, done) in queues.iter_mut().zip(&mut done) {
            while let Some(completed) = serve(queue, &mut harness) {
                moved = true;
                *done += u32::from(completed);
            }
        }
        assert!(moved, "nobody makes progress at {done:?}");
    }
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn a_connection_without_an_initialize_request_or_without_connect_is_closed() {
    let mut harness = Harness::new(description());
    let mut silent = harness.connect(MemoryLimits::default());
    let mut half = Host::initialize(&mut harness, MemoryLimits::default(), Digests::default());
    harness.wait(Nanos::from_secs(4));
    assert!(!silent.is_closed() && !half.end.is_closed());
    harness.wait(Nanos::from_secs(2));
    assert!(silent.is_closed() && half.end.is_closed());
    assert_eq!(harness.cx.counters.connections, 0);
    assert_eq!(harness.cx.counters.protocol_errors, 2);
}

#[test]
fn a_host_that_stops_within_a_pdu_is_closed() {
    for sent_bytes in [1, 8, 71, 73, 2000] {
        let (mut harness, mut admin, mut queue) = start(4);
        let mut bytes = vec![0; 72 + 4096];
        bytes[..8].copy_from_slice(&[4, 0, 72, 72, 72, 16, 0, 0]);
        let sgl = SglDescriptor::in_capsule(0, 4096);
        let command = io(1, 3, 0, 8, sgl);
        bytes[8..72].copy_from_slice(zerocopy::IntoBytes::as_bytes(&command));
        assert!(queue.end.send(&mut harness, &bytes[..sent_bytes]));
        wait(&mut harness, &mut admin, 8);
        assert!(!queue.end.is_closed());
        wait(&mut harness, &mut admin, 3);
        assert!(queue.end.is_closed(), "after {sent_bytes} bytes");
        assert!(!admin.end.is_closed());
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}

#[test]
fn a_host_that_never_sends_what_it_was_asked_for_is_closed_and_its_buffers_are_back() {
    let (mut harness, mut admin, mut queue) = start(4);
    large_write(&mut queue, &mut harness, 1);
    assert_eq!(queue.receive(&mut harness).parts.kind, PduKind::ReadyToTransfer);
    assert_eq!(harness.cx.dma.taken(), 1);
    wait(&mut harness, &mut admin, 6);
    // Other commands are no excuse.
    small_write(&mut queue, &mut harness, 2);
    assert!(queue.completion(&mut harness).status().is_success());
    wait(&mut harness, &mut admin, 2);
    assert!(!queue.end.is_closed());
    wait(&mut harness, &mut admin, 6);
    assert!(queue.end.is_closed() && !admin.end.is_closed());
    assert_eq!(harness.cx.dma.taken(), 0);
}

/// Sends the header of the data that an R2T has asked for, all of a large write's.
fn begin_data(host: &mut Host, harness: &mut Harness) {
    let pdu = host.receive(harness);
    assert_eq!(pdu.parts.kind, PduKind::ReadyToTransfer);
    let ask = ReadyToTransfer::read_from_prefix(&pdu.bytes).unwrap().0;
    let range = DataRange { offset: 0, length: LARGE_BYTES };
    let (command_id, tag) = (ask.command_id.get(), ask.transfer_tag.get());
    let header = H2cData::new(command_id, tag, range, Flags::LAST, host.framing);
    let header = zerocopy::IntoBytes::as_bytes(&header).to_vec();
    assert!(host.end.send(harness, &header));
}

/// The deadlines see progress each time, and the rest of its share waits for data all the while.
#[test]
fn a_host_that_sends_its_data_by_the_byte_is_closed_and_its_share_is_back() {
    let (mut harness, mut admin, mut queue) = start(6);
    for command_id in 0..8 {
        large_write(&mut queue, &mut harness, command_id);
    }
    begin_data(&mut queue, &mut harness);
    assert!(harness.cx.dma.taken() > 1);
    wait(&mut harness, &mut admin, 9);
    assert!(queue.end.send(&mut harness, &[1]));
    harness.pump();
    assert!(!queue.end.is_closed());
    wait(&mut harness, &mut admin, 2);
    assert!(queue.end.is_closed() && !admin.end.is_closed());
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn a_host_that_sends_a_capsule_by_the_byte_is_closed() {
    let (mut harness, mut admin, mut queue) = start(4);
    let mut bytes = vec![0; 72 + 4096];
    bytes[..8].copy_from_slice(&[4, 0, 72, 72, 72, 16, 0, 0]);
    let command = io(1, 3, 0, 8, SglDescriptor::in_capsule(0, 4096));
    bytes[8..72].copy_from_slice(zerocopy::IntoBytes::as_bytes(&command));
    assert!(queue.end.send(&mut harness, &bytes[..100]));
    wait(&mut harness, &mut admin, 9);
    assert!(queue.end.send(&mut harness, &bytes[100..101]));
    harness.pump();
    assert_eq!((queue.end.is_closed(), harness.cx.dma.taken()), (false, 1));
    wait(&mut harness, &mut admin, 2);
    assert!(queue.end.is_closed() && !admin.end.is_closed());
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn a_host_that_takes_its_answers_by_the_byte_is_closed_and_its_share_is_back() {
    let limits = MemoryLimits { stream_bytes: 64 << 10, ..MemoryLimits::default() };
    let harness = Harness::with_pool(description(), 6);
    let (mut harness, mut admin, mut slow) = connected_in(harness, limits, Digests::default());
    for command_id in 0..8 {
        let sgl = SglDescriptor::transport_data_block(LARGE_BYTES);
        slow.command(&mut harness, io(2, command_id, 0, LARGE_BLOCKS, sgl), &[]);
    }
    harness.pump();
    for _ in 0..2 {
        // Nearly the deadline: each byte that it takes lets one more into the stream.
        for _ in 0..4 {
            wait(&mut harness, &mut admin, 1);
        }
        assert_eq!(slow.end.take_some(1), 1);
        harness.pump();
        assert!(harness.cx.dma.taken() > 0);
    }
    wait(&mut harness, &mut admin, 3);
    assert_eq!(harness.cx.dma.taken(), 0, "its buffers are back");
    assert!(slow.end.is_closed() && !admin.end.is_closed());
}

/// As slow as may be: 64 KiB in ten seconds.
#[test]
fn a_host_on_a_slow_line_gets_its_data_through() {
    let (mut harness, mut admin, mut queue) = start(4);
    large_write(&mut queue, &mut harness, 3);
    begin_data(&mut queue, &mut harness);
    let mut left = LARGE_BYTES as usize;
    while left > 0 {
        wait(&mut harness, &mut admin, 1);
        let part = left.min((64 << 10) / 9);
        assert!(queue.end.send(&mut harness, &vec![1; part]));
        left -= part;
    }
    assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
}

#[test]
fn an_idle_queue_is_left_alone() {
    let (mut harness, mut admin, mut queue) = start(4);
    wait(&mut harness, &mut admin, 60);
    small_write(&mut queue, &mut harness, 1);
    assert!(queue.completion(&mut harness).status().is_success());
}

#[test]
fn a_host_that_reads_no_answers_holds_its_share_and_is_closed() {
    let limits = MemoryLimits { stream_bytes: 64 << 10, ..MemoryLimits::default() };
    let harness = Harness::with_pool(description(), 6);
    let (mut harness, mut admin, mut slow) = connected_in(harness, limits, Digests::default());
    let mut other = Host::initialize(&mut harness, limits, Digests::default());
    assert!(other.connect(&mut harness, 2, 1).status().is_success());
    for command_id in 0..31 {
        let sgl = SglDescriptor::transport_data_block(LARGE_BYTES);
        slow.command(&mut harness, io(2, command_id, 0, LARGE_BLOCKS, sgl), &[]);
    }
    harness.pump();
    for command_id in 0..8 {
        wait(&mut harness, &mut admin, 1);
        small_write(&mut other, &mut harness, command_id);
        assert!(other.completion(&mut harness).status().is_success());
        let share_bytes = harness.cx.dma.len_bytes() / 4;
        assert!(harness.cx.dma.taken() as usize <= share_bytes / LARGE_BYTES as usize + 1);
    }
    wait(&mut harness, &mut admin, 4);
    assert!(slow.end.is_closed() && !other.end.is_closed() && !admin.end.is_closed());
    assert_eq!(harness.cx.dma.taken(), 0);
}

#[test]
fn a_connect_that_its_own_host_spoils_makes_no_queue() {
    let mut harness = Harness::new(description());
    let limits = MemoryLimits { stream_bytes: 128, ..MemoryLimits::default() };
    let mut end = harness.connect(limits);
    let parameters = crate::pdu::connection::HostParameters {
        data_alignment: crate::pdu::DataAlignment::DWORD,
        digests: Digests::default(),
        ready_to_transfer_max: 1,
    };
    let mut bytes = crate::pdu::InitializeRequest::new(parameters);
    let mut stream = zerocopy::IntoBytes::as_mut_bytes(&mut bytes).to_vec();
    stream.extend(Host::connect_bytes(0, 0xffff));
    stream.extend([0xff; 56]);
    // The answer to the first PDU fills the stream, so the termination request cannot leave.
    let mut rest = &stream[..];
    while !rest.is_empty() {
        let sent = end.send_some(rest);
        assert!(sent > 0);
        rest = &rest[sent..];
        harness.pump();
    }
    assert_eq!(harness.cx.counters.connections, 1);
    harness.wait(Nanos::from_secs(2));
    assert!(end.is_closed());
    assert_eq!(end.received().len(), 128);
    assert_eq!(harness.cx.counters.connections, 0);
    assert_eq!(harness.cx.dma.taken(), 0);
}
