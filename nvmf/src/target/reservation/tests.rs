//! Reservations as hosts see them: two hosts, three cores, sockets in memory, a slow device.

mod power;
mod world;

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::reservation::ReservationType;
use bdev::reservation::keeper::ANSWER_TIMEOUT;
use reactor::Nanos;

use world::*;

/// Register, Acquire and so on as they are on the wire.
const IGNORE_KEY: u32 = 1 << 3;

#[test]
fn every_type_lets_pass_what_the_specification_says() {
    // Read and write of a stranger, of a registrant, of the holder; `c` is a conflict.
    let cells = ["ac ac aa", "cc cc aa", "ac aa aa", "cc aa aa", "ac aa aa", "cc aa aa"];
    for (kind, row) in ReservationType::ALL.into_iter().zip(cells) {
        let mut world = World::new(Nanos(0));
        let mut hosts = [world.host(3), world.host(2), world.host(1)];
        world.register(&mut hosts[1], 2);
        world.register(&mut hosts[2], 1);
        assert_eq!(world.acquire(&mut hosts[2], 1, kind), Status::SUCCESS);
        for (host, pair) in hosts.iter_mut().zip(row.split(' ')) {
            let expected: Vec<Status> = pair
                .chars()
                .map(|cell| if cell == 'a' { Status::SUCCESS } else { conflict() })
                .collect();
            let (reads, writes) = (expected[0], expected[1]);
            for core in 0..CORES {
                assert_eq!(world.run(host, core, io(0x02, 512), &[]), reads, "{kind:?} read");
                assert_eq!(world.run(host, core, io(0x05, 512), &[0; 512]), reads, "compare");
                assert_eq!(world.run(host, core, io(0x01, 512), &[0; 512]), writes, "write");
                assert_eq!(world.run(host, core, io(0x08, 0), &[]), writes, "write zeroes");
                assert_eq!(world.run(host, core, flush(), &[]), writes, "flush");
                assert_eq!(world.run(host, core, deallocate(), &RANGE), writes, "deallocate");
            }
        }
    }
}

#[test]
fn a_host_has_one_registration_whichever_controller_it_uses() {
    let mut world = World::new(Nanos(0));
    let (mut one, mut again) = (world.host(1), world.host(1));
    world.register(&mut one, 7);
    assert_eq!(world.acquire(&mut again, 7, ReservationType::WriteExclusive), Status::SUCCESS);
    let report = world.report(&mut one);
    assert_eq!((report.generation, report.kind, report.persistence), (1, 1, 0));
    let holder = |controller_id| Entry { controller_id, status: 1, key: 7, host: [1; 16] };
    assert_eq!(report.entries, [holder(one.controller_id), holder(again.controller_id)]);
}

#[test]
fn a_registration_outlives_the_controllers_of_its_host() {
    let mut world = World::new(Nanos(0));
    let (mut lost, mut other) = (world.host(1), world.host(2));
    world.register(&mut lost, 7);
    world.acquire(&mut lost, 7, ReservationType::ExclusiveAccess);
    drop(lost);
    world.harness.pump();
    let report = world.report(&mut other);
    let entry = Entry { controller_id: 0xffff, status: 1, key: 7, host: [1; 16] };
    assert_eq!(report.entries, [entry]);
    assert_eq!(world.run(&mut other, 0, io(0x02, 512), &[]), conflict());
    let mut back = world.host(1);
    assert_eq!(world.run(&mut back, 2, io(0x01, 512), &[0; 512]), Status::SUCCESS);
    assert_eq!(world.release(&mut back, 7, 2), Status::SUCCESS);
    assert_eq!(world.run(&mut other, 0, io(0x02, 512), &[]), Status::SUCCESS);
}

#[test]
fn a_registration_and_what_it_holds_outlive_a_reset_of_the_controller() {
    let mut world = World::new(Nanos(0));
    let (mut one, mut other) = (world.host(1), world.host(2));
    world.register(&mut one, 7);
    world.acquire(&mut one, 7, ReservationType::ExclusiveAccess);
    let before = world.report(&mut one);
    world.reset(&mut one, 1);
    assert_eq!(world.report(&mut one), before);
    for core in 0..CORES {
        assert_eq!(world.run(&mut other, core, io(0x02, 512), &[]), conflict());
        assert_eq!(world.run(&mut one, core, io(0x01, 512), &[4; 512]), Status::SUCCESS);
    }
    world.reset(&mut other, 2);
    assert_eq!(world.run(&mut other, 1, io(0x02, 512), &[]), conflict(), "nor is it a way in");
    assert_eq!(world.release(&mut one, 7, 2), Status::SUCCESS);
    assert_eq!(world.run(&mut other, 0, io(0x02, 512), &[]), Status::SUCCESS);
}

#[test]
fn namespaces_are_reserved_apart() {
    let mut world = World::new(Nanos(0));
    let (mut one, mut other) = (world.host(1), world.host(2));
    world.register(&mut one, 7);
    world.acquire(&mut one, 7, ReservationType::ExclusiveAccess);
    let mut elsewhere = io(0x01, 512);
    elsewhere.namespace_id.set(2);
    assert_eq!(world.run(&mut other, 1, elsewhere, &[0; 512]), Status::SUCCESS);
    assert_eq!(world.run(&mut other, 1, io(0x01, 512), &[0; 512]), conflict());
}

#[test]
fn commands_are_refused_as_the_specification_says() {
    let mut world = World::new(Nanos(0));
    let (mut one, mut other) = (world.host(1), world.host(2));
    let kind = ReservationType::WriteExclusive;
    assert_eq!(world.acquire(&mut one, 7, kind), conflict(), "not registered");
    world.register(&mut one, 7);
    world.register(&mut other, 8);
    assert_eq!(world.acquire(&mut one, 9, kind), conflict(), "another key");
    assert_eq!(world.acquire(&mut one, 7, kind), Status::SUCCESS);
    assert_eq!(world.acquire(&mut other, 8, kind), conflict(), "it is held");
    let invalid = Status::INVALID_FIELD.with_do_not_retry();
    assert_eq!(world.release(&mut one, 7, 2), invalid, "of another type");
    assert_eq!(world.release(&mut other, 8, 1), Status::SUCCESS, "holds nothing, no effect");
    let replace = world.reserve(&mut one, 0x0d, 2 | IGNORE_KEY, &keys(0, 70));
    assert_eq!(replace, Status::SUCCESS);
    assert_eq!(world.reserve(&mut one, 0x0d, 3, &keys(0, 70)), invalid, "no such action");
    assert_eq!(world.reserve(&mut one, 0x0d, 1 << 30, &keys(0, 70)), invalid, "no such CPTPL");
    assert_eq!(world.reserve(&mut one, 0x0d, 3 << 30, &keys(0, 70)), invalid, "none is kept");
    assert_eq!(world.reserve(&mut other, 0x15, 1, &keys(8, 0)[..8]), Status::SUCCESS, "clear");
    assert_eq!(world.report(&mut one).entries, []);
    assert_eq!(world.run(&mut other, 0, io(0x01, 512), &[0; 512]), Status::SUCCESS);
}

#[test]
fn who_is_preempted_is_told_on_its_core() {
    let mut world = World::new(Nanos(0));
    let (mut one, mut other) = (world.host(1), world.host(2));
    let sgl = SglDescriptor::transport_data_block(0);
    one.admin.command(&mut world.harness, SubmissionEntry::new(0x0c, 77, 0).with_sgl(sgl), &[]);
    world.register(&mut one, 7);
    world.register(&mut other, 8);
    world.acquire(&mut one, 7, ReservationType::WriteExclusive);
    assert_eq!(world.preempt(&mut other, 8, 7, 1), Status::SUCCESS);
    let event = one.admin.completion(&mut world.harness);
    assert_eq!((event.command_id.get(), event.result()), (77, 0x0080_0006));
    let mut log = SubmissionEntry::new(0x02, 5, 0);
    log.cdw10.set(0x80 | 15 << 16);
    let log = log.with_sgl(SglDescriptor::transport_data_block(64));
    one.admin.command(&mut world.harness, log, &[]);
    let page = one.admin.receive(&mut world.harness);
    assert_eq!((page.data()[0], page.data()[8], page.data()[12]), (1, 1, 1));
}

#[test]
fn a_preemption_is_complete_when_the_last_write_of_the_preempted_is_back() {
    for action in [1, 2] {
        let mut world = World::new(Nanos::from_millis(3000));
        let (mut victim, mut winner) = (world.host(1), world.host(2));
        world.register(&mut victim, 7);
        world.register(&mut winner, 8);
        world.acquire(&mut victim, 7, ReservationType::WriteExclusive);
        for core in 0..CORES {
            world.send(&mut victim, core, io(0x01, 512), &[9; 512]);
        }
        let command = reservation(0x11, action | 1 << 8);
        world.send(&mut winner, 1, command, &keys(8, 7));
        world.harness.wait(Nanos::from_millis(2800));
        assert!(world.is_silent(&mut winner, 1), "writes are at the device");
        assert_eq!(world.run(&mut victim, 0, io(0x01, 512), &[9; 512]), conflict(), "at once");
        world.harness.wait(Nanos::from_millis(400));
        assert_eq!(world.completion(&mut winner, 1), Status::SUCCESS);
        for core in 0..CORES {
            assert_eq!(world.completion(&mut victim, core), Status::SUCCESS);
        }
    }
}

#[test]
fn a_write_whose_data_comes_after_the_right_was_lost_is_refused() {
    let mut world = World::new(Nanos(0));
    let (mut victim, mut winner) = (world.host(1), world.host(2));
    world.register(&mut victim, 7);
    world.register(&mut winner, 8);
    world.acquire(&mut victim, 7, ReservationType::WriteExclusive);
    let asked = world.ask_to_write(&mut victim, 2);
    assert_eq!(world.preempt(&mut winner, 8, 7, 1), Status::SUCCESS, "nothing is at the device");
    world.give_data(&mut victim, 2, asked);
    assert_eq!(world.completion(&mut victim, 2), conflict());
    assert_eq!(world.harness.buffers_taken(), 0);
}

#[test]
fn what_waits_for_the_device_does_not_go_there_any_more() {
    // The device takes one I/O at a time; the others wait in the root.
    let mut world = World::narrow(Nanos::from_millis(1000));
    let (mut victim, mut winner) = (world.host(1), world.host(2));
    world.register(&mut victim, 7);
    world.register(&mut winner, 8);
    world.acquire(&mut victim, 7, ReservationType::WriteExclusive);
    for _ in 0..3 {
        world.send(&mut victim, 0, io(0x01, 512), &[9; 512]);
    }
    world.send(&mut winner, 1, reservation(0x11, 1 | 1 << 8), &keys(8, 7));
    world.harness.wait(Nanos::from_millis(1100));
    assert_eq!(world.completion(&mut winner, 1), Status::SUCCESS, "one write is awaited");
    let ends = [0; 3].map(|_| world.completion(&mut victim, 0));
    assert_eq!(ends.iter().filter(|status| **status == conflict()).count(), 2);
    assert_eq!(ends.iter().filter(|status| status.is_success()).count(), 1);
}

#[test]
fn a_device_that_does_not_answer_interrupts_the_command_and_keeps_the_secret() {
    let mut world = World::new(Nanos::from_secs(25));
    let (mut victim, mut winner) = (world.host(1), world.host(2));
    world.register(&mut victim, 7);
    world.register(&mut winner, 8);
    world.acquire(&mut victim, 7, ReservationType::WriteExclusive);
    world.send(&mut victim, 0, io(0x01, 512), &[9; 512]);
    world.send(&mut winner, 1, reservation(0x11, 1 | 1 << 8), &keys(8, 7));
    world.wait(&mut [&mut victim, &mut winner], ANSWER_TIMEOUT + Nanos::from_millis(500));
    assert_eq!(world.completion(&mut winner, 1), Status::COMMAND_INTERRUPTED);
    world.send(&mut winner, 1, report_command(), &[]);
    world.wait(&mut [&mut victim, &mut winner], ANSWER_TIMEOUT + Nanos::from_millis(500));
    assert_eq!(world.completion(&mut winner, 1), Status::COMMAND_INTERRUPTED);
    assert_eq!(world.run(&mut victim, 0, io(0x01, 512), &[9; 512]), conflict());
    world.wait(&mut [&mut victim, &mut winner], Nanos::from_secs(5));
    let report = world.report(&mut winner);
    assert_eq!(report.entries.iter().map(|entry| entry.key).collect::<Vec<_>>(), [8]);
}

#[test]
fn a_victim_that_vanishes_with_its_writes_holds_the_preemption_up_all_the_same() {
    let mut world = World::new(Nanos::from_millis(3000));
    let (mut victim, mut winner) = (world.host(1), world.host(2));
    world.register(&mut victim, 7);
    world.register(&mut winner, 8);
    world.acquire(&mut victim, 7, ReservationType::ExclusiveAccess);
    world.send(&mut victim, 2, io(0x01, 512), &[9; 512]);
    drop(victim);
    world.harness.pump();
    world.send(&mut winner, 1, reservation(0x11, 2 | 2 << 8), &keys(8, 7));
    world.harness.wait(Nanos::from_millis(2800));
    assert!(world.is_silent(&mut winner, 1));
    world.harness.wait(Nanos::from_millis(400));
    assert_eq!(world.completion(&mut winner, 1), Status::SUCCESS);
}

#[test]
fn a_host_that_vanishes_while_it_waits_leaves_what_it_asked_for() {
    let mut world = World::new(Nanos::from_millis(3000));
    let (mut victim, mut winner) = (world.host(1), world.host(2));
    world.register(&mut victim, 7);
    world.register(&mut winner, 8);
    world.acquire(&mut victim, 7, ReservationType::WriteExclusive);
    world.send(&mut victim, 0, io(0x01, 512), &[9; 512]);
    world.send(&mut winner, 1, reservation(0x11, 1 | 1 << 8), &keys(8, 7));
    drop(winner);
    world.harness.wait(Nanos::from_millis(3500));
    assert_eq!(world.completion(&mut victim, 0), Status::SUCCESS);
    let report = world.report(&mut victim);
    assert_eq!(report.entries.iter().map(|entry| entry.key).collect::<Vec<_>>(), [8]);
    assert_eq!(world.harness.buffers_taken(), 0);
}

#[test]
fn a_report_is_cut_to_what_was_asked_for() {
    let mut world = World::new(Nanos(0));
    let mut one = world.host(1);
    world.register(&mut one, 7);
    let whole = world.report_bytes(&mut one, 64);
    assert_eq!(whole.len(), 256);
    assert!(whole[128..].iter().all(|byte| *byte == 0), "one entry, and nothing behind it");
    assert_eq!(world.report_bytes(&mut one, 2), whole[..8]);
    let mut compact = report_command();
    compact.cdw11.set(0);
    let refused = world.run(&mut one, 0, compact, &[]);
    assert_eq!(refused, Status::HOST_ID_INCONSISTENT_FORMAT.with_do_not_retry());
}
