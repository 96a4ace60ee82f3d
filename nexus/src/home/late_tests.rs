//! Children that come late, and those that cannot be opened.

use bdev::{Completions, Io, Lba, Status, Token};

use super::tracked_tests::{Process, REGION_BLOCKS, child_config, disks, format};
use crate::child::{ChildState, FaultReason};
use crate::truth::Discard;
use crate::volatile_disk::{DISK_BLOCK_BYTES, Mood};

#[test]
fn a_child_that_comes_late_opens_a_volume_that_waits_and_joins_one_that_is_served() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(REGION_BLOCKS, 1);
    drop(process);
    let mut process = Process::start(&disks[..1]);
    process.passes();
    let words = process.home.refusal().expect("one of three").to_owned();
    assert!(words.contains("child1") && words.contains("child2"), "{words}");
    process.home.add(child_config(2, &disks[2])).unwrap();
    process.open();
    assert_eq!(process.home.refusal(), None);
    process.write(2 * REGION_BLOCKS, 2);
    process.home.add(child_config(1, &disks[1])).unwrap();
    process.passes();
    process.equalize();
    process.home.begin_target(&mut process.cx, "child1", Discard::No).unwrap();
    for _ in 0..1000 {
        process.wait(reactor::Nanos::from_millis(10));
    }
    let states: Vec<ChildState> = process.home.children().map(|child| child.state).collect();
    assert_eq!(states, [ChildState::Open; 3]);
    assert_eq!(disks[1].state().contents(0).len(), disks[0].state().contents(0).len());
}

#[test]
fn a_read_of_the_last_member_that_cannot_be_opened_ends_when_it_is_aborted_or_the_volume_ends() {
    for is_ended in [false, true] {
        let disks = disks(1);
        format(&disks);
        let mut process = Process::start(&disks);
        for _ in 0..100 {
            process.home.poll(&mut process.cx);
        }
        assert!(process.home.is_assembled());
        disks[0].set(Mood::Shut);
        let segment = process.buffer.segment(DISK_BLOCK_BYTES);
        for (token, io) in [Io::read, Io::write].into_iter().enumerate() {
            let token = Token(token as u64);
            process.queue_pair.submit(&mut process.cx, io(Lba(1), 1, segment, token)).unwrap();
        }
        process.passes();
        assert_eq!(process.ended, [], "they wait for it");
        match is_ended {
            true => process.home.end(),
            false => process.queue_pair.abort_all(&mut process.cx),
        }
        process.passes();
        process.queue_pair.poll(&mut process.cx, &mut Completions::new());
        assert_eq!(process.queue_pair.inflight(), 0, "ended by the home: {is_ended}");
        assert!(process.ended.iter().all(|(_, status)| *status != Status::SUCCESS));
    }
}

#[test]
fn what_a_device_says_that_cannot_be_opened_is_in_its_report() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    for _ in 0..100 {
        process.home.poll(&mut process.cx);
    }
    assert!(process.home.is_assembled());
    disks[1].set(Mood::Shut);
    process.write(REGION_BLOCKS, 1);
    assert_eq!(process.state(1), ChildState::Faulted(FaultReason::CantOpen));
    let words = |child: usize| process.home.children().nth(child).unwrap().words;
    assert_eq!(words(0), None);
    let said = words(1).expect("it is out");
    assert!(said.contains("cannot open a queue pair") && said.contains("it is shut"), "{said}");
}
