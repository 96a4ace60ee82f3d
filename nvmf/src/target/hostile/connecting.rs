//! Connect commands that must be refused, each with the status that the specification names.

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::socket::memory::MemoryLimits;
use zerocopy::IntoBytes;

use crate::fabrics::connect::{ConnectData, ConnectParameter};
use crate::pdu::Digests;
use crate::target::harness::Harness;
use crate::target::tests::{Host, connected, description};

fn host(harness: &mut Harness) -> Host {
    Host::initialize(harness, MemoryLimits::default(), Digests::default())
}

fn try_connect(
    harness: &mut Harness,
    command: SubmissionEntry,
    data: &ConnectData,
) -> CompletionEntry {
    let mut host = host(harness);
    host.command(harness, command, data.as_bytes());
    host.completion(harness)
}

#[test]
fn connect_data_that_is_wrong_is_named_by_its_offset() {
    type Spoil = fn(&mut ConnectData);
    let spoils: [(Spoil, ConnectParameter); 8] = [
        (|data| data.subsystem_nqn = [b'a'; 256], ConnectParameter::SubsystemNqn),
        (|data| data.host_nqn = [b'a'; 256], ConnectParameter::HostNqn),
        (|data| data.subsystem_nqn = [0; 256], ConnectParameter::SubsystemNqn),
        (|data| data.host_nqn = [0; 256], ConnectParameter::HostNqn),
        (|data| data.subsystem_nqn[5] = 0xff, ConnectParameter::SubsystemNqn),
        (|data| data.subsystem_nqn[26] = b'x', ConnectParameter::SubsystemNqn),
        (|data| data.host_nqn[..224].fill(b'q'), ConnectParameter::HostNqn),
        (|data| data.controller_id.set(1), ConnectParameter::ControllerId),
    ];
    for (index, (spoil, parameter)) in spoils.into_iter().enumerate() {
        let mut harness = Harness::new(description());
        let (command, mut data) = Host::connect_parts(0, 0xffff);
        spoil(&mut data);
        let refused = try_connect(&mut harness, command, &data);
        let status = refused.status();
        assert!(status.has_code(Status::CONNECT_INVALID_PARAMETERS), "{index}: {status}");
        assert!(status.do_not_retry());
        assert_eq!(refused.result(), parameter.result(), "{index}");
        assert_eq!(harness.cx.counters.protocol_errors, 1);
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}

#[test]
fn a_connect_without_data_or_with_wrong_lengths_is_refused() {
    let in_capsule = SglDescriptor::in_capsule;
    let block = SglDescriptor::transport_data_block;
    let length = Status::DATA_SGL_LENGTH_INVALID;
    let kind = Status::SGL_DESCRIPTOR_TYPE_INVALID;
    for (sgl, sent_bytes, expected) in [
        (in_capsule(0, 1024), 0, length),
        (in_capsule(0, 1024), 512, length),
        (in_capsule(0, 1024), 1028, length),
        (in_capsule(0, 1020), 1020, length),
        (in_capsule(0, 1028), 1028, length),
        (in_capsule(0, 0), 0, length),
        (in_capsule(0, u32::MAX), 1024, length),
        (in_capsule(4, 1024), 1024, Status::SGL_OFFSET_INVALID),
        (block(0), 0, length),
        (block(1024), 1024, length),
        (SglDescriptor::data_block(0, 1024), 1024, kind),
        (SglDescriptor::last_segment(0, 1024), 1024, kind),
    ] {
        let mut harness = Harness::new(description());
        let mut host = host(&mut harness);
        let (command, data) = Host::connect_parts(0, 0xffff);
        let bytes = [data.as_bytes(), &[0; 8]].concat();
        host.command(&mut harness, command.with_sgl(sgl), &bytes[..sent_bytes]);
        let status = host.completion(&mut harness).status();
        assert!(status.has_code(expected), "{sgl:?} with {sent_bytes}: {status}");
        assert_eq!(harness.cx.counters.protocol_errors, 1);
        // It may try again, and is let in.
        assert!(host.connect(&mut harness, 0, 0xffff).status().is_success());
        assert_eq!(harness.cx.dma.taken(), 0);
    }
}

#[test]
fn a_command_other_than_connect_is_out_of_sequence() {
    for opcode in [0x00, 0x02, 0x06, 0x18, 0x7f, 0xff] {
        let mut harness = Harness::new(description());
        let mut host = host(&mut harness);
        let sgl = SglDescriptor::transport_data_block(4096);
        host.command(&mut harness, SubmissionEntry::new(opcode, 1, 0).with_sgl(sgl), &[]);
        let status = host.completion(&mut harness).status();
        assert!(status.has_code(Status::COMMAND_SEQUENCE_ERROR), "{opcode:#x}: {status}");
    }
}

#[test]
fn queues_that_cannot_be_are_refused() {
    let connect = |change: fn(&mut SubmissionEntry), queue_id: u16, controller_id: u16| {
        let (mut harness, _admin, _queue) = connected(MemoryLimits::default(), Digests::default());
        let (mut command, data) = Host::connect_parts(queue_id, controller_id);
        change(&mut command);
        let refused = try_connect(&mut harness, command, &data);
        assert_eq!(harness.cx.dma.taken(), 0);
        refused
    };
    let keep: fn(&mut SubmissionEntry) = |_| {};
    let parameters = Status::CONNECT_INVALID_PARAMETERS;
    assert!(connect(keep, 2, 1).status().is_success(), "the good case");
    assert!(connect(keep, 1, 1).status().has_code(Status::COMMAND_SEQUENCE_ERROR), "there already");
    assert!(connect(keep, 1, 7).status().has_code(parameters), "no such controller");
    assert!(connect(keep, 129, 1).status().has_code(parameters), "more queues than granted");
    let none: fn(&mut SubmissionEntry) = |command| command.cdw11.set(0);
    assert!(connect(none, 2, 1).status().has_code(parameters), "a queue of one entry");
    let most: fn(&mut SubmissionEntry) = |command| command.cdw11.set(127);
    assert!(connect(most, 2, 1).status().is_success(), "the largest queue");
    let over: fn(&mut SubmissionEntry) = |command| command.cdw11.set(128);
    assert!(connect(over, 2, 1).status().has_code(parameters), "one entry more");
    let format: fn(&mut SubmissionEntry) = |command| command.cdw10.set(1 | 2 << 16);
    let status = connect(format, 2, 1).status();
    assert!(status.has_code(Status::CONNECT_INCOMPATIBLE_FORMAT));
}

#[test]
fn another_hosts_controller_is_refused_like_one_that_does_not_exist() {
    let spoils: [fn(&mut ConnectData); 2] =
        [|data| data.host_id = [9; 16], |data| data.host_nqn[60] = b'0'];
    for spoil in spoils {
        let (mut harness, _admin, _queue) = connected(MemoryLimits::default(), Digests::default());
        let (command, mut data) = Host::connect_parts(2, 1);
        spoil(&mut data);
        let refused = try_connect(&mut harness, command, &data);
        assert!(refused.status().has_code(Status::CONNECT_INVALID_PARAMETERS));
        assert_eq!(refused.result(), ConnectParameter::ControllerId.result());
    }
}

#[test]
fn a_second_connect_on_a_queue_is_out_of_sequence() {
    let (mut harness, mut admin, mut queue) =
        connected(MemoryLimits::default(), Digests::default());
    for host in [&mut admin, &mut queue] {
        let again = host.connect(&mut harness, 2, 1);
        assert!(again.status().has_code(Status::COMMAND_SEQUENCE_ERROR));
        assert!(!host.end.is_closed());
    }
    assert_eq!(harness.cx.dma.taken(), 0);
}
