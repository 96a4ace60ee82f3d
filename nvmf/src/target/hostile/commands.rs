//! Commands that must be refused, or end their queue.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::socket::memory::MemoryLimits;
use zerocopy::FromBytes;

use crate::pdu::{DataRange, Digests, Flags, H2cData, PduKind, ReadyToTransfer};
use crate::target::harness::Harness;
use crate::target::tests::{connected, connected_in, description, io};

fn block(len_bytes: u32) -> SglDescriptor {
    SglDescriptor::transport_data_block(len_bytes)
}

#[test]
fn io_commands_with_prps_or_a_fuse_that_there_is_not_are_refused() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), Digests::default());
    for flags in [0x00, 0x80, 0xc0, 0x41, 0x43] {
        let mut command = io(1, 5, 0, 8, block(4096));
        command.flags = flags;
        queue.command(&mut harness, command, &[]);
        let status = queue.completion(&mut harness).status();
        assert!(status.has_code(Status::INVALID_FIELD), "flags {flags:#x}: {status}");
    }
}

#[test]
fn every_opcode_with_every_kind_of_descriptor_is_answered_and_costs_nothing() {
    let sgls = [
        block(0),
        block(4096),
        block(u32::MAX),
        SglDescriptor::in_capsule(0, 4096),
        SglDescriptor::in_capsule(u64::MAX, u32::MAX),
        SglDescriptor::data_block(0, 4096),
        SglDescriptor::last_segment(0, 16),
        SglDescriptor { identifier: 0x10, ..block(4096) },
        SglDescriptor { identifier: 0x40, ..block(4096) },
        SglDescriptor { identifier: 0xff, ..block(4096) },
    ];
    let mut harness = Harness::new(description());
    for opcode in 0..=u8::MAX {
        let (mut admin, mut queue);
        (harness, admin, queue) =
            connected_in(harness, MemoryLimits::default(), Digests::default());
        for host in [&mut queue, &mut admin] {
            for (sgl, field) in sgls.into_iter().flat_map(|sgl| [(sgl, 0), (sgl, u32::MAX)]) {
                let mut command = SubmissionEntry::new(opcode, 3, 1).with_sgl(sgl);
                for word in [&mut command.cdw10, &mut command.cdw11, &mut command.cdw12] {
                    word.set(field);
                }
                host.command(&mut harness, command, &[]);
                host.end.exchange(&mut harness);
                assert!(!host.end.is_closed(), "opcode {opcode:#x} {sgl:?} {field:#x}");
                // One request for events is held; everything else is answered, or asks for data.
                let is_held = host.end.received().is_empty();
                assert!(!is_held || opcode == 0x0c, "opcode {opcode:#x} {sgl:?} {field:#x}");
                while !host.end.received().is_empty() {
                    host.receive(&mut harness);
                }
            }
        }
        drop((admin, queue));
        harness.pump();
        assert_eq!(harness.cx.counters.connections, 0);
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}

#[test]
fn disconnect_ends_its_queue_after_the_answer() {
    let (mut harness, admin, mut queue) = connected(MemoryLimits::default(), Digests::default());
    let mut command = SubmissionEntry::new(0x7f, 4, 0x08).with_sgl(block(0));
    command.cdw10.set(1);
    queue.command(&mut harness, command, &[]);
    let status = queue.completion(&mut harness).status();
    assert!(status.has_code(Status::CONNECT_INCOMPATIBLE_FORMAT));
    command.cdw10.set(0);
    queue.command(&mut harness, command, &[]);
    assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
    assert!(queue.end.is_closed());
    assert_eq!(harness.cx.counters.protocol_errors, 0);
    let mut again = crate::target::tests::Host::initialize(
        &mut harness,
        MemoryLimits::default(),
        Digests::default(),
    );
    assert!(again.connect(&mut harness, 1, 1).status().is_success());
    drop(admin);
}

#[test]
fn a_completion_counts_what_was_answered_and_not_what_was_taken() {
    let (mut harness, _admin, mut queue) = connected(MemoryLimits::default(), Digests::default());
    queue.command(&mut harness, io(1, 1, 0, 8, block(4096)), &[]);
    assert_eq!(queue.receive(&mut harness).parts.kind, PduKind::ReadyToTransfer);
    let mut flush = SubmissionEntry::new(0, 2, 1).with_sgl(block(0));
    for answered in 2..70_u16 {
        flush.command_id.set(answered);
        queue.command(&mut harness, flush, &[]);
        let done = queue.completion(&mut harness);
        // Connect was the first; the queue has 32 entries.
        assert_eq!(done.queue_head.get(), answered % 32);
    }
}

#[test]
fn a_command_with_an_identifier_in_use_is_refused_and_the_other_goes_on() {
    let (mut harness, mut admin, mut queue) =
        connected(MemoryLimits::default(), Digests::default());
    queue.command(&mut harness, io(1, 5, 0, 8, block(4096)), &[]);
    let ask = queue.receive(&mut harness);
    assert_eq!(ask.parts.kind, PduKind::ReadyToTransfer);
    let in_capsule = SglDescriptor::in_capsule(0, 4096);
    for (command, data) in [
        (io(2, 5, 0, 8, block(4096)), &[][..]),
        (io(1, 5, 0, 8, in_capsule), &[9; 4096]),
        (SubmissionEntry::new(0, 5, 1).with_sgl(block(0)), &[]),
    ] {
        queue.command(&mut harness, command, data);
        let status = queue.completion(&mut harness).status();
        assert!(status.has_code(Status::COMMAND_ID_CONFLICT), "{status}");
    }
    let tag = ReadyToTransfer::read_from_prefix(&ask.bytes).unwrap().0.transfer_tag.get();
    let range = DataRange { offset: 0, length: 4096 };
    let header = H2cData::new(5, tag, range, Flags::LAST, queue.framing);
    queue.pdu(&mut harness, &header, &[8; 4096]);
    assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);
    queue.command(&mut harness, io(2, 5, 0, 8, block(4096)), &[]);
    assert!(queue.receive(&mut harness).data().iter().all(|byte| *byte == 8));
    assert_eq!(queue.completion(&mut harness).status(), Status::SUCCESS);

    // A request for events is under way until there is one.
    let events = SubmissionEntry::new(0x0c, 6, 0).with_sgl(block(0));
    admin.command(&mut harness, events, &[]);
    admin.command(&mut harness, SubmissionEntry { opcode: 0x18, ..events }, &[]);
    let status = admin.completion(&mut harness).status();
    assert!(status.has_code(Status::COMMAND_ID_CONFLICT), "{status}");
    assert_eq!(harness.cx.dma.taken(), 0);
}
