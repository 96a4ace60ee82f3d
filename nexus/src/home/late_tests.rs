//! Children and records that come late, and children that cannot be opened.

use bdev::{Completions, Io, Lba, Status, Token};
use reactor::Nanos;
use reactor::cx::test_context;
use uuid::Uuid;

use super::tracked_tests::{Process, REGION_BLOCKS, child_config, disks, format, settings, spec};
use crate::child::{ChildState, FaultReason};
use crate::truth::Discard;
use crate::truth::names::{RecordId, VoterHalf};
use crate::truth::record::{Record, RecordError};
use crate::truth::tracked::{Format, FormatSpec, RECORD_TIMEOUT, RecordSource, TrackedConfig};
use crate::volatile_disk::{DISK_BLOCK_BYTES, Mood};

const RECORD: RecordId = RecordId(Uuid::from_u128(0x4ec));

/// A record whose first answer comes when nobody waits for it any more.
#[derive(Debug)]
struct LateRecord {
    half: VoterHalf,
    /// How often it was asked how long it takes: once when it is met, then with each question.
    asked: u32,
}

impl Record for LateRecord {
    fn id(&self) -> RecordId {
        RECORD
    }

    fn read(&mut self) -> Result<VoterHalf, RecordError> {
        Ok(self.half.clone())
    }

    fn swap(&mut self, _expected: &VoterHalf, new: &VoterHalf) -> Result<(), RecordError> {
        self.half = new.clone();
        Ok(())
    }

    fn answers_after(&mut self) -> Option<Nanos> {
        self.asked += 1;
        Some(if self.asked <= 2 { Nanos(RECORD_TIMEOUT.0 * 3) } else { Nanos(0) })
    }
}

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
fn a_record_whose_answer_came_too_late_is_asked_again() {
    let disks = disks(2);
    let children: Vec<_> = (0..2).map(|at| child_config(at, &disks[at])).collect();
    let (mut cx, _) = test_context();
    let mut format = Format::new(FormatSpec { record: Some(RECORD), ..spec() }, &children).unwrap();
    while format.poll(&mut cx).is_none() {}
    let record = LateRecord { half: format.voter_half().unwrap().clone(), asked: 0 };
    let record = RecordSource::Given(Box::new(record));
    disks[1].set(Mood::Gone);
    let mut process = Process::start_with(&disks, TrackedConfig { record, ..settings() });
    process.passes();
    process.wait(Nanos::from_secs(3));
    process.wait(RECORD_TIMEOUT);
    assert!(process.home.refusal().is_some(), "neither the other nor the record has answered");
    // Now both have a vote to give; the record's first answer is still on its way.
    process.wait(Nanos::from_secs(1));
    disks[1].set(Mood::Well);
    process.wait(RECORD_TIMEOUT);
    assert!(!process.home.is_assembled(), "the record may know better");
    process.wait(RECORD_TIMEOUT);
    assert!(process.home.is_assembled(), "{:?}", process.home.refusal());
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
