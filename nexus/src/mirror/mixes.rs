//! Tests over children that differ: in what they take, what they can, where they are, how fast.

use std::sync::Arc;

use bdev::delay::{Delay, Lateness};
use bdev::fault::{Failure, Fault};
use bdev::io::{IoFlags, Memory};
use bdev::laws::{self, Options};
use bdev::rules::{Count, Match, Rule, RuleSet};
use bdev::{BlockDevice, Completions, Io, Lba, Operation, OperationSet, QueuePair, Status, Token};
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, VirtualClock};

use crate::child::ChildIndex;
use crate::mail::Letter;
use crate::modest::{Given, Modest};
use crate::nexus::Nexus;
use crate::testing::{BLOCK_BYTES, config, disk, one_core, slow};
use crate::view::Locality;

const DEPTH: u32 = 16;

/// A nexus without a home: nobody answers its letters.
struct Rig {
    nexus: Arc<Nexus>,
    queue_pair: Box<dyn QueuePair>,
    cx: Cx,
    hand: VirtualClock,
    buffer: DmaBuffer,
}

impl Rig {
    fn new(config: crate::NexusConfig) -> Rig {
        let (mut cx, hand) = test_context();
        let nexus = Nexus::new(config).unwrap();
        let queue_pair = nexus.open_queue_pair(&mut cx, DEPTH).unwrap();
        let buffer = cx.dma.take(2 * BLOCK_BYTES).unwrap();
        Rig { nexus, queue_pair, cx, hand, buffer }
    }

    fn of(devices: Vec<Arc<dyn BlockDevice>>) -> Rig {
        Rig::new(config(devices))
    }

    /// An I/O of one block, where it has blocks.
    fn io(&self, operation: Operation, token: u64) -> Io {
        let bytes = u32::try_from(operation.memory_bytes(1, BLOCK_BYTES)).unwrap();
        let memory = match bytes {
            0 => Memory::None,
            _ => Memory::One(self.buffer.segment(bytes)),
        };
        match operation {
            Operation::Flush => Io::flush(Token(token)),
            _ => Io::with_memory(operation, Lba(token), 1, memory, Token(token)),
        }
    }

    fn submit(&mut self, io: Io) {
        self.queue_pair.submit(&mut self.cx, io).unwrap();
    }

    /// Passes with some time between them; returns how the I/Os ended.
    fn passes(&mut self, count: u32, step: Nanos) -> Vec<Status> {
        let mut ended = Vec::new();
        let mut completions = Completions::new();
        for _ in 0..count {
            self.queue_pair.flush(&mut self.cx);
            self.queue_pair.poll(&mut self.cx, &mut completions);
            ended.extend(completions.drain().map(|completion| completion.status));
            self.hand.advance(step);
            self.cx.advance_clock();
        }
        ended
    }

    fn one(&mut self, io: Io) -> Status {
        self.submit(io);
        let ended = self.passes(20, Nanos(1));
        assert_eq!(ended.len(), 1, "{io:?}");
        ended[0]
    }

    fn letters(&self) -> Vec<Letter> {
        std::iter::from_fn(|| self.nexus.mailbox.take()).collect()
    }
}

fn modest(device: Arc<dyn BlockDevice>) -> (Arc<dyn BlockDevice>, Arc<Given>) {
    let (modest, given) = Modest::new(device);
    (Arc::new(modest), given)
}

fn shallow(depth: u32) -> (Arc<dyn BlockDevice>, Arc<Given>) {
    let (modest, given) = Modest::new(slow(u64::from(depth)));
    (Arc::new(modest.with_depth(depth)), given)
}

/// A child of few operations, for short I/Os.
fn poor(operations: OperationSet, io_blocks_max: u32) -> Arc<dyn BlockDevice> {
    Arc::new(Modest::new(disk()).0.with_limits(operations, io_blocks_max))
}

fn late(nanos: Nanos) -> Arc<Delay> {
    Arc::new(Delay::new(disk(), lateness(nanos)))
}

fn lateness(nanos: Nanos) -> RuleSet<Lateness> {
    let rule = Rule { meets: Match::default(), effect: Lateness::Fixed(nanos) };
    RuleSet { rules: vec![rule], seed: 1 }
}

/// Fails the first `count` of some operations on each queue pair.
fn failing(operations: OperationSet, count: u64, status: Status) -> Arc<dyn BlockDevice> {
    let meets = Match { operations, count: Count::First(count), ..Match::default() };
    let rules = RuleSet { rules: vec![Rule { meets, effect: Failure::Before(status) }], seed: 1 };
    Arc::new(Fault::new(disk(), rules))
}

fn child(index: usize) -> ChildIndex {
    ChildIndex::new(index).unwrap()
}

#[test]
fn a_child_that_is_full_is_waited_for_and_has_not_failed() {
    let ((one, given), (two, _)) = (shallow(1), shallow(3));
    let mut rig = Rig::of(vec![disk(), one, two]);
    for token in 0..u64::from(DEPTH) {
        let operation = if token % 4 == 3 { Operation::Flush } else { Operation::Write };
        let io = rig.io(operation, token);
        rig.submit(io);
    }
    assert_eq!(rig.queue_pair.credits(), 0);
    let ended = rig.passes(200, Nanos::from_millis(1));
    assert_eq!(ended, [Status::SUCCESS; DEPTH as usize]);
    assert_eq!(given.writes().0 + given.flushes(), DEPTH as usize, "nothing went there twice");
    assert_eq!(rig.letters(), []);
}

#[test]
fn mirrors_with_children_that_are_mostly_full_keep_the_laws() {
    let check = |make: fn() -> Vec<Arc<dyn BlockDevice>>| {
        laws::check(|_| one_core(make()), Options { cases: 32, ..Options::default() });
    };
    check(|| vec![shallow(1).0]);
    check(|| vec![disk(), shallow(1).0, shallow(2).0]);
}

#[test]
fn every_operation_means_the_same_on_every_mix_of_children() {
    let check = |make: fn() -> Vec<Arc<dyn BlockDevice>>| {
        laws::check(|_| one_core(make()), Options { cases: 32, ..Options::default() });
    };
    let all = OperationSet::ALL;
    assert!(poor(all, 3).limits().io_blocks_max == 3);
    check(|| vec![disk(), poor(OperationSet::BASIC, 3)]);
    check(|| {
        let basic = OperationSet::BASIC;
        vec![
            poor(basic.with(Operation::Unmap), u32::MAX),
            poor(OperationSet::ALL.without(Operation::Compare), 7),
            poor(OperationSet::ALL.without(Operation::WriteZeroes), 5),
        ]
    });
    check(|| vec![poor(OperationSet::ALL.without(Operation::CompareAndWrite), 4), slow(7)]);
}

#[test]
fn sixteen_children_have_every_write_and_every_flush() {
    let (devices, given): (Vec<_>, Vec<_>) = (0..16).map(|_| modest(disk())).unzip();
    let mut rig = Rig::of(devices);
    for token in 0..8 {
        let write = rig.io(Operation::Write, token);
        assert_eq!(rig.one(write), Status::SUCCESS);
        let flush = rig.io(Operation::Flush, token);
        assert_eq!(rig.one(flush), Status::SUCCESS);
    }
    for given in &given {
        assert_eq!((given.writes(), given.flushes()), ((8, 0), 8));
    }
}

#[test]
fn what_is_forced_is_forced_on_every_child_and_so_is_the_write_of_a_swap() {
    let (devices, given): (Vec<_>, Vec<_>) = (0..3).map(|_| modest(disk())).unzip();
    let mut rig = Rig::of(devices);
    for operation in [Operation::Write, Operation::CompareAndWrite] {
        let io = Io { flags: IoFlags::FUA, ..rig.io(operation, 0) };
        rig.buffer.segment(2 * BLOCK_BYTES).fill_zero();
        assert_eq!(rig.one(io), Status::SUCCESS);
    }
    given.iter().for_each(|given| assert_eq!(given.writes(), (2, 2)));
}

#[test]
fn reads_go_to_the_local_child_however_fast_the_others_are() {
    let (near, near_given) = modest(late(Nanos::from_millis(2)));
    let (far, far_given) = modest(disk());
    let mut settings = config(vec![far, near]);
    settings.children[1].locality = Locality::Local;
    let mut rig = Rig::new(settings);
    for token in 0..32 {
        let read = rig.io(Operation::Read, token);
        rig.submit(read);
        assert_eq!(rig.passes(4, Nanos::from_millis(1)), [Status::SUCCESS]);
    }
    assert_eq!((near_given.reads(), far_given.reads()), (32, 0));
}

#[test]
fn reads_go_to_the_child_that_answers_soonest_and_to_another_when_that_has_changed() {
    let delays = [late(Nanos::from_millis(1)), late(Nanos::from_millis(4))];
    let (devices, given): (Vec<_>, Vec<_>) =
        delays.iter().map(|delay| modest(delay.clone())).unzip();
    let mut rig = Rig::of(devices);
    let mut read = |count: u64| {
        let before = [given[0].reads(), given[1].reads()];
        for token in 0..count {
            let io = rig.io(Operation::Read, token);
            rig.submit(io);
            assert_eq!(rig.passes(12, Nanos::from_micros(500)), [Status::SUCCESS]);
        }
        [given[0].reads() - before[0], given[1].reads() - before[1]]
    };
    read(16);
    let [fast, slow] = read(100);
    assert!(fast >= 90 && fast + slow == 100, "{fast} against {slow}");
    delays[0].set_rules(lateness(Nanos::from_millis(5)));
    delays[1].set_rules(lateness(Nanos::from_millis(1)));
    read(100);
    let [slow, fast] = read(100);
    assert!(fast >= 80, "{fast} against {slow} after the change");
}

#[test]
fn many_reads_at_once_go_to_the_child_that_has_room() {
    let ((full, full_given), (free, free_given)) = (shallow(1), modest(disk()));
    let mut settings = config(vec![full, free]);
    settings.children[0].locality = Locality::Local;
    let mut rig = Rig::new(settings);
    for token in 0..u64::from(DEPTH) {
        let io = rig.io(Operation::Read, token);
        rig.submit(io);
    }
    assert_eq!(rig.passes(50, Nanos::from_millis(1)), [Status::SUCCESS; DEPTH as usize]);
    assert_eq!((full_given.reads(), free_given.reads()), (1, DEPTH as usize - 1));
    assert_eq!(full_given.refused(), 0);
}

#[test]
fn what_all_children_answer_alike_is_the_hosts_and_faults_nobody() {
    let answers = [
        (Operation::Write, Status::LBA_OUT_OF_RANGE),
        (Operation::Write, Status::RESERVATION_CONFLICT),
        (Operation::Write, Status::CAPACITY_EXCEEDED),
        (Operation::WriteZeroes, Status::CAPACITY_EXCEEDED),
        (Operation::Unmap, Status::RESERVATION_CONFLICT),
        (Operation::Read, Status::RESERVATION_CONFLICT),
        (Operation::Flush, Status::RESERVATION_CONFLICT),
    ];
    for (operation, status) in answers {
        let mut rig = Rig::of((0..3).map(|_| failing(OperationSet::ALL, 1, status)).collect());
        let io = rig.io(operation, 0);
        assert_eq!(rig.one(io), status, "{operation:?}");
        let faults = rig.letters();
        assert!(faults.iter().all(|letter| matches!(letter, Letter::Error { .. })), "{faults:?}");
        let again = rig.io(operation, 0);
        assert_eq!(rig.one(again), Status::SUCCESS, "{operation:?} again");
    }
}

#[test]
fn a_comparison_that_differs_is_the_answer_and_changes_nothing() {
    let (devices, given): (Vec<_>, Vec<_>) = (0..3).map(|_| modest(disk())).unzip();
    let mut rig = Rig::of(devices);
    rig.buffer.segment(2 * BLOCK_BYTES).write(0, &[7; 2 * BLOCK_BYTES as usize]);
    for operation in [Operation::Compare, Operation::CompareAndWrite] {
        let io = rig.io(operation, 3);
        assert!(rig.one(io).has_code(Status::COMPARE_FAILURE), "{operation:?}");
    }
    given.iter().for_each(|given| assert_eq!(given.writes().0, 0));
    assert_eq!(rig.letters(), []);
}

#[test]
fn a_read_that_fails_is_asked_of_every_child_before_the_host_hears_of_it() {
    let fault = Status::UNRECOVERED_READ_ERROR;
    let broken = || failing(OperationSet::ALL, u64::MAX, fault);
    let mut rig = Rig::of(vec![broken(), broken(), broken(), disk()]);
    let read = rig.io(Operation::Read, 0);
    assert_eq!(rig.one(read), Status::SUCCESS);
    let errors = [0, 1, 2].map(|index| Letter::Error { child: child(index) });
    assert_eq!(rig.letters(), errors);
    let mut rig = Rig::of(vec![broken(), broken()]);
    let read = rig.io(Operation::Read, 0);
    assert_eq!(rig.one(read), fault, "nobody has it");
}

#[test]
fn a_write_is_tried_three_times_and_what_succeeded_counts_as_an_error_only() {
    let fault = Status::WRITE_FAULT;
    let mut rig = Rig::of(vec![disk(), failing(OperationSet::ALL, 2, fault)]);
    let write = rig.io(Operation::Write, 0);
    assert_eq!(rig.one(write), Status::SUCCESS);
    assert_eq!(rig.letters(), [Letter::Error { child: child(1) }; 2]);
    let mut rig = Rig::of(vec![disk(), failing(OperationSet::ALL, 3, fault)]);
    let write = rig.io(Operation::Write, 0);
    rig.submit(write);
    assert_eq!(rig.passes(20, Nanos(1)), [], "it is held until the child is out");
    let failed = rig.letters().into_iter().filter_map(|letter| match letter {
        Letter::Failed { child, .. } => Some(child),
        Letter::Error { .. } | Letter::Fenced => None,
    });
    assert_eq!(failed.collect::<Vec<_>>(), [child(1)]);
}
