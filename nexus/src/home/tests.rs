//! The home core and one core of I/O, with a truth that answers when it is told to.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bdev::delay::{Delay, Lateness};
use bdev::fault::Failure;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{
    BlockDevice, Completion, Completions, Io, Lba, Operation, OperationSet, QueuePair, Status,
    Token,
};
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, VirtualClock, Wake};

use super::*;
use crate::config::{ConfigError, Marking};
use crate::errors::ERRORS_MAX;
use crate::intent::RegionIndex;
use crate::mirror::CHILD_TIMEOUT;
use crate::testing::{BLOCK_BYTES, BLOCKS, child, config, disk, faulty};
use crate::truth::{Assembly, ControlIo, CopyOrder, Discard, MemberChange, NotRebuilt};

/// What the truth was asked, and what it may answer.
#[derive(Debug, Default)]
struct Script {
    changes: Vec<MemberChange>,
    marks: Vec<RegionIndex>,
    lost_targets: Vec<ChildIndex>,
    starts: usize,
    answers: Vec<TruthEvent>,
}

#[derive(Debug)]
struct Scripted(Rc<RefCell<Script>>);

impl Truth for Scripted {
    fn begin_change(&mut self, _: &mut Cx, change: MemberChange) {
        self.0.borrow_mut().changes.push(change);
    }

    fn marks_regions(&self) -> bool {
        false
    }

    fn begin_mark(&mut self, _: &mut Cx, region: RegionIndex) {
        self.0.borrow_mut().marks.push(region);
    }

    fn begin_clear(&mut self, _: &mut Cx, _: RegionIndex) {}

    fn start_over(&mut self, _: &mut Cx) {
        self.0.borrow_mut().starts += 1;
    }

    fn begin_target(
        &mut self,
        _: &mut Cx,
        child: ChildIndex,
        _: Discard,
    ) -> Result<(), NotRebuilt> {
        self.0.borrow_mut().answers.push(TruthEvent::TargetReady(child));
        Ok(())
    }

    fn target_lost(&mut self, _: &mut Cx, child: ChildIndex) {
        self.0.borrow_mut().lost_targets.push(child);
    }

    fn next_copy(&mut self) -> Option<CopyOrder> {
        None
    }

    fn copied(&mut self, _: &mut Cx, _: CopyOrder) {}

    fn copy_failed(&mut self, _: &mut Cx, _: CopyOrder, _: ChildIndex) {}

    fn copies_left(&self) -> u64 {
        0
    }

    /// So that targets are admitted by the tests, not by a rebuild.
    fn is_complete(&self, _: ChildIndex) -> bool {
        false
    }

    fn begin_close(&mut self, _: &mut Cx) {}

    fn completed(&mut self, _: &mut Cx, _: ChildIndex, _: Completion) {}

    fn poll(&mut self, _: &mut Cx, _: &mut dyn ControlIo) -> Option<TruthEvent> {
        self.0.borrow_mut().answers.pop()
    }

    fn wake(&self) -> Wake {
        Wake::Never
    }
}

struct Rig {
    nexus: Arc<Nexus>,
    home: Home,
    cx: Cx,
    hand: VirtualClock,
    queue_pair: Box<dyn QueuePair>,
    script: Rc<RefCell<Script>>,
    buffer: DmaBuffer,
}

impl Rig {
    fn new(config: crate::NexusConfig) -> Rig {
        let (mut cx, hand) = reactor::cx::test_context();
        let nexus = Nexus::new(config).unwrap();
        let script = Rc::new(RefCell::new(Script::default()));
        let home = Home::new(nexus.clone(), &mut cx, Box::new(Scripted(script.clone())));
        let queue_pair = nexus.open_queue_pair(&mut cx, 16).unwrap();
        let buffer = cx.dma.take(BLOCK_BYTES).unwrap();
        Rig { nexus, home, cx, hand, queue_pair, script, buffer }
    }

    fn of(devices: Vec<Arc<dyn BlockDevice>>) -> Rig {
        Rig::new(config(devices))
    }

    fn submit(&mut self, operation: Operation, token: u64) {
        let segment = self.buffer.segment(BLOCK_BYTES);
        let io = match operation {
            Operation::Read => Io::read(Lba(token), 1, segment, Token(token)),
            _ => Io::write(Lba(token), 1, segment, Token(token)),
        };
        self.queue_pair.submit(&mut self.cx, io).unwrap();
    }

    /// Some passes; returns what ended.
    fn pass(&mut self) -> Vec<(u64, Status)> {
        let mut ended = Vec::new();
        for _ in 0..10 {
            let mut completions = Completions::new();
            self.queue_pair.flush(&mut self.cx);
            self.queue_pair.poll(&mut self.cx, &mut completions);
            ended.extend(completions.drain().map(|one| (one.token.0, one.status)));
            self.home.poll(&mut self.cx);
        }
        ended
    }

    fn wait(&mut self, time: Nanos) {
        self.hand.advance(time);
        self.cx.advance_clock();
    }

    fn answer(&mut self, event: TruthEvent) {
        self.script.borrow_mut().answers.push(event);
    }

    fn states(&self) -> Vec<ChildState> {
        self.home.children().map(|child| child.state).collect()
    }
}

fn broken(operations: OperationSet, status: Status) -> Arc<dyn BlockDevice> {
    faulty(disk(), operations, 1.0, Failure::Before(status), 1)
}

fn set(children: &[usize]) -> ChildSet {
    children.iter().filter_map(|child| ChildIndex::new(*child)).collect()
}

const IO_FAULT: ChildState = ChildState::Faulted(FaultReason::IoError);

#[test]
fn a_write_that_missed_a_child_is_held_until_the_new_members_are_in_force() {
    let mut rig = Rig::of(vec![disk(), broken(OperationSet::ALL, Status::WRITE_FAULT), disk()]);
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), []);
    let change = MemberChange {
        before: set(&[0, 1, 2]),
        after: set(&[0, 2]),
        reason: Some(FaultReason::IoError),
    };
    assert_eq!(rig.script.borrow().changes, [change]);
    rig.wait(Nanos::from_secs(100));
    rig.submit(Operation::Write, 2);
    assert_eq!(rig.pass(), [], "what misses a member that is not out yet is held too");
    rig.answer(TruthEvent::InForce);
    let mut ended = rig.pass();
    ended.sort_by_key(|(token, _)| *token);
    assert_eq!(ended, [(1, Status::SUCCESS), (2, Status::SUCCESS)]);
    assert_eq!(rig.states(), [ChildState::Open, IO_FAULT, ChildState::Open]);
}

#[test]
fn the_last_member_stays_and_its_errors_are_the_hosts() {
    let fault = Status::WRITE_FAULT;
    let mut rig = Rig::of(vec![broken(OperationSet::ALL, fault), broken(OperationSet::ALL, fault)]);
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), []);
    assert_eq!(rig.script.borrow().changes.len(), 1);
    rig.answer(TruthEvent::InForce);
    assert_eq!(rig.pass(), [(1, fault)]);
    rig.submit(Operation::Read, 2);
    assert_eq!(rig.pass(), [(2, fault)]);
    assert_eq!(rig.script.borrow().changes.len(), 1);
    assert_eq!(rig.states().iter().filter(|state| **state == ChildState::Open).count(), 1);
}

#[test]
fn what_every_child_refuses_is_the_hosts_affair() {
    let refuse = || broken(OperationSet::ALL, Status::RESERVATION_CONFLICT);
    let mut rig = Rig::of(vec![refuse(), refuse(), refuse()]);
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), [(1, Status::RESERVATION_CONFLICT)]);
    rig.submit(Operation::Read, 2);
    assert_eq!(rig.pass(), [(2, Status::RESERVATION_CONFLICT)]);
    assert_eq!(rig.states(), [ChildState::Open; 3]);
}

#[test]
fn a_child_that_hangs_is_out_in_time_and_the_host_waits_meanwhile() {
    let rule = Rule { meets: Match::default(), effect: Lateness::Fixed(Nanos::from_secs(1000)) };
    // What it has it gives back when it is asked to, undone.
    let undone = broken(OperationSet::ALL, Status::ABORT_REQUESTED);
    let hanging = Delay::new(undone, RuleSet { rules: vec![rule], seed: 1 });
    let mut rig = Rig::of(vec![disk(), Arc::new(hanging)]);
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), []);
    rig.wait(CHILD_TIMEOUT - Nanos(1));
    assert_eq!(rig.pass(), []);
    assert_eq!(rig.script.borrow().changes, []);
    // Found at the next sweep at the latest.
    rig.wait(Nanos::from_millis(100));
    assert_eq!(rig.pass(), []);
    assert_eq!(rig.script.borrow().changes[0].after, set(&[0]));
    rig.answer(TruthEvent::InForce);
    assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
    let timed_out = ChildState::Faulted(FaultReason::TimedOut);
    assert_eq!(rig.states(), [ChildState::Open, timed_out]);
}

#[test]
fn reads_that_fail_and_succeed_elsewhere_count_until_there_were_too_many() {
    let reads = OperationSet::ALL.without(Operation::Write);
    let mut settings = config(vec![broken(reads, Status::UNRECOVERED_READ_ERROR), disk()]);
    settings.children[0].locality = crate::view::Locality::Local;
    let mut rig = Rig::new(settings);
    for count in 1..=ERRORS_MAX {
        rig.submit(Operation::Read, 1);
        assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
        let changes = rig.script.borrow().changes.len();
        assert_eq!(changes, usize::from(count == ERRORS_MAX), "after {count}");
    }
    rig.answer(TruthEvent::InForce);
    rig.pass();
    assert_eq!(rig.states(), [IO_FAULT, ChildState::Open]);
}

#[test]
fn a_paused_volume_begins_nothing_and_fails_nothing() {
    let mut rig = Rig::of(vec![disk(), disk()]);
    rig.home.pause();
    rig.submit(Operation::Write, 1);
    rig.submit(Operation::Read, 2);
    assert_eq!(rig.pass(), []);
    assert!(rig.home.is_paused());
    rig.home.resume();
    assert_eq!(rig.pass().len(), 2);
    assert!(!rig.home.is_paused());
}

#[test]
fn a_frozen_volume_waits_and_an_overtaken_one_fails() {
    let mut rig = Rig::of(vec![disk(), disk()]);
    rig.answer(TruthEvent::Frozen);
    rig.pass();
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), []);
    rig.answer(TruthEvent::Overtaken);
    assert_eq!(rig.pass(), [(1, Status::INTERNAL_PATH_ERROR)]);
    rig.submit(Operation::Read, 2);
    assert_eq!(rig.pass(), [(2, Status::INTERNAL_PATH_ERROR)]);
}

/// Found by the simulator: `--contested`, seeds 244 and 359.
#[test]
fn an_overtaken_volume_does_not_tell_what_was_read_beside_a_write_that_it_gives_up() {
    let writes = OperationSet::ALL.without(Operation::Read);
    let mut rig = Rig::of(vec![disk(), broken(writes, Status::WRITE_FAULT)]);
    rig.submit(Operation::Write, 1);
    let segment = rig.buffer.segment(BLOCK_BYTES);
    let read = Io::read(Lba(1), 1, segment, Token(2));
    rig.queue_pair.submit(&mut rig.cx, read).unwrap();
    assert_eq!(rig.pass(), []);
    assert_eq!(rig.script.borrow().changes[0].after, set(&[0]));
    rig.answer(TruthEvent::Overtaken);
    let mut ended = rig.pass();
    ended.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(ended, [1, 2].map(|token| (token, Status::INTERNAL_PATH_ERROR)));
}

#[test]
fn a_child_leaves_comes_back_as_a_target_and_becomes_a_member() {
    let mut rig = Rig::of(vec![disk(), disk()]);
    rig.home.offline(&mut rig.cx, "child1").unwrap();
    rig.pass();
    assert_eq!(rig.script.borrow().changes[0].reason, None);
    rig.answer(TruthEvent::InForce);
    rig.pass();
    assert_eq!(rig.states()[1], ChildState::Closed);
    let last = rig.home.offline(&mut rig.cx, "child0");
    assert_eq!(last, Err(ConfigError::LastMember { name: String::from("child0") }));
    let index = rig.home.begin_target(&mut rig.cx, "child1", Discard::No).unwrap();
    assert!(!rig.home.is_target(index), "its label comes first");
    rig.pass();
    assert!(rig.home.is_target(index));
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
    rig.home.admit(index);
    rig.submit(Operation::Write, 2);
    assert_eq!(rig.pass().len(), 1, "what had begun ends before the change begins");
    assert_eq!(rig.script.borrow().changes[1].after, set(&[0, 1]));
    rig.submit(Operation::Write, 3);
    assert_eq!(rig.pass(), [], "nothing begins while a child joins");
    rig.answer(TruthEvent::InForce);
    assert_eq!(rig.pass(), [(3, Status::SUCCESS)]);
    assert_eq!(rig.states(), [ChildState::Open; 2]);
}

#[test]
fn a_target_that_fails_is_dropped_without_asking_anybody() {
    let mut rig = Rig::of(vec![disk()]);
    let bad = broken(OperationSet::ALL, Status::WRITE_FAULT);
    rig.home.add(child("new", bad)).unwrap();
    rig.home.begin_target(&mut rig.cx, "new", Discard::No).unwrap();
    rig.pass();
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
    assert_eq!(rig.states()[1], ChildState::Faulted(FaultReason::RebuildFailed));
    assert_eq!(rig.script.borrow().lost_targets, [ChildIndex::new(1).unwrap()]);
    assert_eq!(rig.script.borrow().changes, []);
    rig.home.remove(&mut rig.cx, "new").unwrap();
    assert_eq!(rig.states(), [ChildState::Open]);
}

#[test]
fn a_member_that_is_removed_leaves_first() {
    let mut rig = Rig::of(vec![disk(), disk()]);
    assert_eq!(rig.home.remove(&mut rig.cx, "child0"), Err(ConfigError::Busy));
    rig.pass();
    rig.answer(TruthEvent::InForce);
    rig.pass();
    assert_eq!(rig.home.remove(&mut rig.cx, "child0"), Ok(()));
    let missing = ConfigError::NoSuchChild { name: String::from("child0") };
    assert_eq!(rig.home.remove(&mut rig.cx, "child0"), Err(missing));
    let twice = rig.home.add(child("child1", disk()));
    assert!(matches!(twice, Err(ConfigError::Duplicate { .. })));
    assert_eq!(rig.nexus.view().members, set(&[1]));
}

#[test]
fn a_write_waits_for_the_mark_of_its_region_and_only_the_first_one_does() {
    let mut settings = config(vec![disk(), disk()]);
    settings.marking = Marking::Regions;
    let mut rig = Rig::new(settings);
    rig.submit(Operation::Write, 1);
    rig.submit(Operation::Read, 2);
    assert_eq!(rig.pass(), [(2, Status::SUCCESS)]);
    assert_eq!(rig.script.borrow().marks[0], RegionIndex(0));
    rig.answer(TruthEvent::Marked(RegionIndex(0)));
    assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
    let marks = rig.script.borrow().marks.len();
    rig.submit(Operation::Write, 3);
    assert_eq!(rig.pass(), [(3, Status::SUCCESS)]);
    assert_eq!(rig.script.borrow().marks.len(), marks);
}

fn unassembled(devices: Vec<Arc<dyn BlockDevice>>) -> Rig {
    let mut settings = config(devices);
    settings.children.iter_mut().for_each(|child| child.standing = Standing::ByTruth);
    Rig::new(settings)
}

fn assembled(members: &[usize]) -> TruthEvent {
    TruthEvent::Assembled(Assembly { members: set(members), blocks: BLOCKS })
}

#[test]
fn io_waits_until_the_truth_has_assembled_the_volume() {
    let mut rig = unassembled(vec![disk(), disk(), disk()]);
    rig.submit(Operation::Write, 1);
    rig.answer(TruthEvent::Refused(String::from("one is missing")));
    assert_eq!(rig.pass(), []);
    assert_eq!(rig.home.refusal(), Some("one is missing"));
    assert_eq!(rig.states(), [ChildState::Init; 3]);
    let absent = ChildIndex::new(2).unwrap();
    rig.answer(assembled(&[0, 1]));
    rig.answer(TruthEvent::LeftOut(absent, FaultReason::CantOpen));
    assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
    assert_eq!(rig.home.refusal(), None);
    let cannot = ChildState::Faulted(FaultReason::CantOpen);
    assert_eq!(rig.states(), [ChildState::Open, ChildState::Open, cannot]);
    assert_eq!(rig.nexus.view().members, set(&[0, 1]));
}

#[test]
fn a_truth_that_resigns_starts_over_when_every_core_has_let_go_and_no_host_sees_an_error() {
    let broken = broken(OperationSet::ALL, Status::WRITE_FAULT);
    let mut rig = unassembled(vec![disk(), broken]);
    rig.answer(assembled(&[0, 1]));
    rig.pass();
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), [], "done on the first only, and so held");
    rig.answer(TruthEvent::Resigned);
    assert_eq!(rig.pass(), []);
    rig.wait(Nanos::from_millis(200));
    assert_eq!(rig.pass(), []);
    assert_eq!(rig.script.borrow().starts, 1);
    assert!(!rig.home.is_assembled());
    rig.answer(assembled(&[0]));
    assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
    assert_eq!(rig.states()[0], ChildState::Open);
}

#[test]
fn a_target_lost_while_it_joins_leaves_as_a_member() {
    let mut rig = Rig::of(vec![disk(), disk()]);
    rig.home.offline(&mut rig.cx, "child1").unwrap();
    rig.pass();
    rig.answer(TruthEvent::InForce);
    rig.pass();
    let index = rig.home.begin_target(&mut rig.cx, "child1", Discard::No).unwrap();
    rig.pass();
    rig.home.admit(index);
    rig.pass();
    rig.answer(TruthEvent::MemberLost(index, FaultReason::IoError));
    rig.pass();
    rig.answer(TruthEvent::InForce);
    rig.pass();
    let change = rig.script.borrow().changes[2];
    assert_eq!((change.before, change.after), (set(&[0, 1]), set(&[0])));
    rig.submit(Operation::Write, 1);
    assert_eq!(rig.pass(), [], "it may be a member by the labels");
    rig.answer(TruthEvent::InForce);
    assert_eq!(rig.pass(), [(1, Status::SUCCESS)]);
    assert_eq!(rig.states(), [ChildState::Open, IO_FAULT]);
}
