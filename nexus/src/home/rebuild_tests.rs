//! Rebuilds from beginning to end: the home core, children, and hosts on other cores.

use std::ops::Range;
use std::sync::Arc;

use bdev::fault::{Failure, Fault};
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{BlockDevice, Operation, OperationSet, Status};
use reactor::random::Random;
use reactor::{Cx, Nanos, VirtualClock, Wake};

use super::*;
use crate::config::ConfigError;
use crate::rebuild::testing::{
    Hosts, check_lock, child, content, context, fill, memory, set, slow, watched,
};
use crate::rebuild::{
    Difference, HISTORY_MAX, RebuildEnd, RebuildState, Scope, VerifyReport, VerifyState,
};
use crate::testing::{BLOCK_BYTES, config, faulty};
use crate::truth::{Discard, Untracked};

/// Blocks of the volume: two regions and a quarter.
const BLOCKS: u64 = 18_432;
const VOLUME_BYTES: u64 = BLOCKS * BLOCK_BYTES as u64;

struct Rig {
    nexus: Arc<Nexus>,
    home: Home,
    cx: Cx,
    hand: VirtualClock,
    random: Random,
    hosts: Option<Hosts>,
}

impl Rig {
    /// The last device is out of sync.
    fn new(seed: u64, devices: &[Arc<dyn BlockDevice>]) -> Rig {
        let mut configured = config(devices.to_vec());
        configured.children[devices.len() - 1].standing = Standing::OutOfSync;
        Rig::of(seed, configured)
    }

    /// All devices are members.
    fn members(seed: u64, devices: &[Arc<dyn BlockDevice>]) -> Rig {
        Rig::of(seed, config(devices.to_vec()))
    }

    fn of(seed: u64, configured: crate::NexusConfig) -> Rig {
        let hand = VirtualClock::new();
        let nexus = Nexus::new(configured).unwrap();
        let mut cx = context(&hand, 0);
        let home = Home::new(nexus.clone(), &mut cx, Box::new(Untracked::default()));
        Rig { nexus, home, cx, hand, random: Random::new(seed), hosts: None }
    }

    fn limit(&mut self, limit_mib: u32) {
        self.cx.advance_clock();
        self.home.limit_rebuild(&self.cx, Some(limit_mib));
    }

    fn begin(&mut self, name: &str) {
        self.home.begin_target(&mut self.cx, name, Discard::No).unwrap();
    }

    fn pass(&mut self) {
        self.cx.advance_clock();
        self.home.poll(&mut self.cx);
        self.hosts.iter_mut().for_each(Hosts::pass);
        self.hand.advance(Nanos::from_micros(self.random.below(100)));
    }

    /// Until the rebuild is over; its end. What it tells on the way must go one way only.
    fn finish(&mut self) -> RebuildEnd {
        let mut done = 0;
        for round in 0.. {
            assert!(round < 200_000, "it never ends: {:?}", self.home.rebuild());
            self.pass();
            let Some(progress) = self.home.rebuild() else { break };
            assert!(progress.done_blocks >= done && progress.done_blocks <= progress.total_blocks);
            done = progress.done_blocks;
        }
        self.home.rebuild_history().last().unwrap().end
    }

    /// Hosts and home core come to rest, and have left nothing behind.
    fn check_still(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "it never comes to rest: {:?}", self.home);
            self.cx.advance_clock();
            self.home.poll(&mut self.cx);
            let settled = self.hosts.as_mut().is_none_or(Hosts::settle);
            if settled && !self.home.is_changing() && self.home.wake() == Wake::Never {
                break;
            }
        }
        assert_eq!(self.cx.dma.taken(), 0, "every buffer came back");
        self.hosts = None;
        check_lock(&self.nexus);
    }

    fn host(&mut self, seed: u64) {
        self.hosts = Some(Hosts::new(seed, &self.hand, &self.nexus, 2));
    }
}

fn disks(count: usize) -> Vec<Arc<dyn BlockDevice>> {
    (0..count).map(|_| memory(BLOCKS)).collect()
}

fn fill_all(hand: &VirtualClock, disks: &[Arc<dyn BlockDevice>], lbas: Range<u64>) {
    for disk in disks {
        fill(hand, disk, lbas.clone(), 7);
    }
}

fn assert_equal(hand: &VirtualClock, disks: &[Arc<dyn BlockDevice>]) {
    let first = content(hand, &disks[0]);
    for (number, other) in disks.iter().enumerate() {
        assert!(content(hand, other) == first, "child {number} differs");
    }
}

/// Fails these operations from block `lba` on.
fn failing_from(
    lba: u64,
    inner: &Arc<dyn BlockDevice>,
    operations: OperationSet,
    status: Status,
) -> Arc<dyn BlockDevice> {
    let meets = Match { operations, lbas: lba..u64::MAX, ..Match::default() };
    let rules = vec![Rule { meets, effect: Failure::Before(status) }];
    Arc::new(Fault::new(inner.clone(), RuleSet { rules, seed: 1 }))
}

#[test]
fn a_child_is_a_member_after_its_rebuild_and_equal_whatever_hosts_write() {
    for seed in 0..3 {
        let disks = disks(3);
        let device = |(number, disk): (u64, &Arc<dyn BlockDevice>)| {
            watched(slow(disk.clone(), seed + number))
        };
        let devices: Vec<_> = (0..).zip(&disks).map(device).collect();
        let mut rig = Rig::new(seed, &devices);
        fill_all(&rig.hand, &disks[..2], 0..3000);
        fill(&rig.hand, &disks[2], 0..4000, 9);
        rig.host(seed);
        rig.limit(32);
        rig.begin("child2");
        assert_eq!(rig.finish(), RebuildEnd::Completed);
        assert_eq!(rig.nexus.view().members, set(&[0, 1, 2]));
        let ended = rig.hosts.as_ref().unwrap().ended;
        assert!(ended > 500, "{ended} I/Os met the rebuild");
        rig.check_still();
        assert_equal(&rig.hand, &disks);
        let record = rig.home.rebuild_history().next().unwrap();
        assert_eq!((record.scope, record.moved.all_bytes()), (Scope::Full, VOLUME_BYTES));
    }
}

#[test]
fn without_hosts_a_rebuild_ends_and_nobody_is_kept_awake_by_it() {
    let disks = disks(2);
    let mut rig = Rig::new(1, &disks);
    fill_all(&rig.hand, &disks[..1], 0..BLOCKS);
    rig.begin("child1");
    assert_eq!(rig.home.rebuild().unwrap().state, RebuildState::Preparing);
    assert_eq!(rig.finish(), RebuildEnd::Completed);
    rig.check_still();
    assert!(!rig.nexus.view().is_shared);
    assert_equal(&rig.hand, &disks);
}

#[test]
fn a_rebuild_goes_on_from_another_member_when_its_source_fails() {
    let disks = disks(3);
    let reads = OperationSet::ALL.without(Operation::Write).without(Operation::Flush);
    let source = failing_from(6000, &disks[0], reads, Status::UNRECOVERED_READ_ERROR);
    let mut rig = Rig::new(1, &[source, disks[1].clone(), disks[2].clone()]);
    fill_all(&rig.hand, &disks[..2], 0..BLOCKS);
    rig.begin("child2");
    assert_eq!(rig.finish(), RebuildEnd::Completed);
    assert!(rig.nexus.view().members.contains_all(set(&[1, 2])));
    rig.check_still();
    assert_equal(&rig.hand, &disks);
}

#[test]
fn a_source_that_is_the_only_one_and_cannot_be_read_ends_the_rebuild() {
    let disks = disks(2);
    let reads = OperationSet::ALL.without(Operation::Write).without(Operation::Flush);
    let source = failing_from(6000, &disks[0], reads, Status::UNRECOVERED_READ_ERROR);
    let mut rig = Rig::new(1, &[source, disks[1].clone()]);
    fill_all(&rig.hand, &disks[..1], 0..BLOCKS);
    rig.begin("child1");
    assert_eq!(rig.finish(), RebuildEnd::SourcesFailed);
    rig.check_still();
    assert_eq!(rig.nexus.view().members, set(&[0]));
}

#[test]
fn a_target_that_fails_midway_is_out_and_no_member_fails_by_it() {
    let disks = disks(3);
    let target = failing_from(6000, &disks[2], OperationSet::ALL, Status::WRITE_FAULT);
    let mut rig = Rig::new(1, &[disks[0].clone(), disks[1].clone(), target]);
    fill_all(&rig.hand, &disks[..2], 0..BLOCKS);
    rig.host(1);
    rig.begin("child2");
    let end = rig.finish();
    assert!(matches!(end, RebuildEnd::TargetFailed(_)), "{end:?}");
    assert_eq!(rig.nexus.view().members, set(&[0, 1]));
    assert_eq!(rig.nexus.view().targets, ChildSet::EMPTY);
    rig.check_still();
    assert_equal(&rig.hand, &disks[..2]);
}

#[test]
fn a_rebuild_is_paused_resumed_stopped_and_begun_again() {
    let disks = disks(2);
    let devices: Vec<_> = (0..).zip(&disks).map(|(seed, disk)| slow(disk.clone(), seed)).collect();
    let mut rig = Rig::new(1, &devices);
    fill_all(&rig.hand, &disks[..1], 0..BLOCKS);
    let none = ConfigError::NoRebuild { name: String::from("child1") };
    assert_eq!(rig.home.pause_rebuild("child1"), Err(none));
    rig.host(1);
    rig.limit(32);
    rig.begin("child1");
    (0..200).for_each(|_| rig.pass());
    rig.home.pause_rebuild("child1").unwrap();
    (0..200).for_each(|_| rig.pass());
    let paused = rig.home.rebuild().unwrap();
    assert_eq!((paused.state, paused.left), (RebuildState::Paused, None));
    (0..200).for_each(|_| rig.pass());
    let later = rig.home.rebuild().unwrap();
    assert_eq!((later.done_blocks, later.moved), (paused.done_blocks, paused.moved));
    rig.home.resume_rebuild("child1").unwrap();
    (0..2000).for_each(|_| rig.pass());
    assert!(rig.home.rebuild().unwrap().moved.all_bytes() > paused.moved.all_bytes());
    rig.home.stop_rebuild(&mut rig.cx, "child1").unwrap();
    assert_eq!(rig.finish(), RebuildEnd::Stopped);
    let out = ChildState::Faulted(FaultReason::OutOfSync);
    assert_eq!(rig.home.children().nth(1).unwrap().state, out);
    rig.check_still();
    rig.begin("child1");
    assert_eq!(rig.finish(), RebuildEnd::Completed);
    rig.check_still();
    assert_equal(&rig.hand, &disks);
}

#[test]
fn a_paused_rebuild_lets_the_core_sleep_and_the_volume_to_itself() {
    let disks = disks(2);
    let mut rig = Rig::new(1, &disks);
    rig.begin("child1");
    rig.home.pause_rebuild("child1").unwrap();
    (0..10).for_each(|_| rig.pass());
    assert_eq!(rig.home.rebuild().unwrap().state, RebuildState::Paused);
    rig.check_still();
    rig.home.resume_rebuild("child1").unwrap();
    assert_eq!(rig.finish(), RebuildEnd::Completed);
}

#[test]
fn a_volume_that_ends_or_pauses_under_a_rebuild_finds_it_drained() {
    let disks = disks(2);
    let devices: Vec<_> = (0..).zip(&disks).map(|(seed, disk)| slow(disk.clone(), seed)).collect();
    let mut rig = Rig::new(1, &devices);
    fill_all(&rig.hand, &disks[..1], 0..BLOCKS);
    rig.begin("child1");
    (0..100).for_each(|_| rig.pass());
    rig.home.pause();
    assert!(!rig.home.is_paused());
    (0..200).for_each(|_| rig.pass());
    assert!(rig.home.is_paused());
    rig.home.end();
    (0..200).for_each(|_| rig.pass());
    assert_eq!(rig.cx.dma.taken(), 0);
}

#[test]
fn an_operators_limit_holds() {
    let disks = disks(2);
    let mut rig = Rig::new(1, &disks);
    fill_all(&rig.hand, &disks[..1], 0..BLOCKS);
    rig.limit(32);
    rig.begin("child1");
    let start = rig.cx.now();
    assert_eq!(rig.finish(), RebuildEnd::Completed);
    let span = rig.cx.now().since(start);
    let least = Nanos(VOLUME_BYTES * 1_000_000_000 / (32 << 20));
    assert!(span.0 > least.0 * 9 / 10 && span.0 < least.0 * 12 / 10, "{span:?} of {least:?}");
}

#[test]
fn the_history_is_bounded() {
    let broken =
        faulty(memory(BLOCKS), OperationSet::ALL, 1.0, Failure::Before(Status::WRITE_FAULT), 1);
    let disk = memory(BLOCKS);
    let mut rig = Rig::new(1, &[disk.clone(), broken]);
    fill(&rig.hand, &disk, 0..100, 7);
    for _ in 0..=HISTORY_MAX {
        rig.begin("child1");
        assert_eq!(rig.finish(), RebuildEnd::TargetFailed(FaultReason::IoError));
        rig.check_still();
    }
    assert_eq!(rig.home.rebuild_history().count(), HISTORY_MAX);
    assert!(rig.home.find("child1") == Ok(child(1)));
}

/// Until the comparison is over.
fn verify(rig: &mut Rig) -> VerifyReport {
    rig.home.verify().unwrap();
    assert_eq!(rig.home.verify(), Err(ConfigError::Busy));
    for round in 0.. {
        assert!(round < 200_000, "it never ends: {:?}", rig.home.verification());
        rig.pass();
        let report = rig.home.verification().unwrap();
        if report.state != VerifyState::Running {
            break;
        }
    }
    rig.home.verification().unwrap().clone()
}

#[test]
fn a_difference_is_found_and_reported_with_its_range() {
    let disks = disks(3);
    let mut rig = Rig::members(1, &disks);
    fill_all(&rig.hand, &disks, 0..BLOCKS);
    let report = verify(&mut rig);
    assert_eq!((report.state, report.done_blocks), (VerifyState::Completed, BLOCKS));
    assert_eq!((report.different_blocks, report.unread_blocks), (0, 0));
    rig.check_still();
    // Over the end of a piece, and the last block of another child.
    fill(&rig.hand, &disks[1], 250..260, 9);
    fill(&rig.hand, &disks[2], BLOCKS - 1..BLOCKS, 9);
    let report = verify(&mut rig);
    let found = |index, start, blocks| Difference {
        child: child(index),
        reference: child(0),
        start,
        blocks,
    };
    let mut differences = report.differences.clone();
    differences.sort_by_key(|difference| difference.start);
    assert_eq!(differences, [found(1, 250, 10), found(2, BLOCKS - 1, 1)]);
    assert_eq!(report.different_blocks, 11);
    rig.check_still();
    assert!(content(&rig.hand, &disks[1]) != content(&rig.hand, &disks[0]), "nothing was changed");
}

#[test]
fn members_are_found_equal_under_hosts_that_write() {
    for seed in 0..2 {
        let disks = disks(3);
        let device =
            |(number, disk): (u64, &Arc<dyn BlockDevice>)| slow(disk.clone(), seed + number);
        let devices: Vec<_> = (0..).zip(&disks).map(device).collect();
        let mut rig = Rig::members(seed, &devices);
        rig.host(seed);
        let report = verify(&mut rig);
        assert_eq!((report.different_blocks, report.unread_blocks), (0, 0), "{report:?}");
        rig.check_still();
    }
}

#[test]
fn what_a_member_cannot_read_is_counted_and_a_comparison_can_be_stopped() {
    let disks = disks(2);
    let reads = OperationSet::ALL.without(Operation::Write).without(Operation::Flush);
    let bad = failing_from(BLOCKS - 10, &disks[1], reads, Status::UNRECOVERED_READ_ERROR);
    let mut rig = Rig::members(1, &[disks[0].clone(), bad]);
    let report = verify(&mut rig);
    assert_eq!((report.state, report.different_blocks), (VerifyState::Completed, 0));
    assert!(report.unread_blocks >= 10, "{report:?}");
    rig.home.verify().unwrap();
    (0..3).for_each(|_| rig.pass());
    rig.home.stop_verify();
    rig.check_still();
    assert_eq!(rig.home.verification().unwrap().state, VerifyState::Stopped);
}
