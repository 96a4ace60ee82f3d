//! The copier alone: a member or two, a target, cores that write meanwhile.

use std::sync::Arc;

use bdev::delay::{Delay, Lateness};
use bdev::fault::Failure;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{BlockDevice, Operation, OperationSet, Status};
use reactor::random::Random;
use reactor::{Cx, Nanos, VirtualClock, Wake};

use super::copier::{Copier, CopyEvent};
use super::order::Obstacle;
use super::pace::Pace;
use super::testing::{Hosts, check_lock, child, context, set, slow, watched};
use super::*;
use crate::child::{ChildSet, FaultReason};
use crate::intent::RegionIndex;
use crate::nexus::Nexus;
use crate::testing::{BLOCK_BYTES, config, faulty};
use crate::truth::CopyOrder;
use crate::{Standing, config, mirror};

/// Blocks of the volume: 1 MiB.
const BLOCKS: u64 = 2048;
/// Blocks of an order here.
const ORDER_BLOCKS: u64 = 600;

fn memory() -> Arc<dyn BlockDevice> {
    testing::memory(BLOCKS)
}

struct Rig {
    nexus: Arc<Nexus>,
    devices: Vec<Arc<dyn BlockDevice>>,
    cx: Cx,
    hand: VirtualClock,
    random: Random,
    copier: Copier,
    pace: Pace,
    hosts: Option<Hosts>,
    events: Vec<CopyEvent>,
}

impl Rig {
    /// The last of `devices` is the target; the others hold the same random bytes.
    fn new(seed: u64, devices: Vec<Arc<dyn BlockDevice>>) -> Rig {
        let hand = VirtualClock::new();
        let mut configured = config(devices.clone());
        let target = devices.len() - 1;
        configured.children[target].standing = Standing::OutOfSync;
        let nexus = Nexus::new(configured).unwrap();
        let prepared = config::prepare(&nexus.configured()[target]);
        nexus.publish(|view| {
            view.devices[target] = Some(prepared);
            view.targets = ChildSet::only(child(target));
        });
        let cx = context(&hand, 0);
        let copier = Copier::new(nexus.clone(), BLOCK_BYTES);
        let pace = Pace::new(cx.now());
        let random = Random::new(seed);
        Rig { nexus, devices, cx, hand, random, copier, pace, hosts: None, events: Vec::new() }
    }

    fn order(&self, number: u64) -> CopyOrder {
        let to = ChildSet::only(child(self.devices.len() - 1));
        CopyOrder { region: RegionIndex(number), source: child(0), to }
    }

    fn accept(&mut self, number: u64) {
        let start = number * ORDER_BLOCKS;
        let order = self.order(number);
        self.copier.accept(order, start, (start + ORDER_BLOCKS).min(BLOCKS));
    }

    /// One pass of the home core.
    fn poll(&mut self) {
        self.cx.advance_clock();
        self.copier.poll(&mut self.cx, &mut self.pace);
        self.events.append(&mut self.copier.take_events());
    }

    /// Copies everything; what cannot be is left. Returns what became of each order.
    fn copy_all(&mut self) -> Vec<Result<(), Obstacle>> {
        let orders = BLOCKS.div_ceil(ORDER_BLOCKS);
        let (mut next, mut results) = (0, vec![None; orders as usize]);
        for round in 0.. {
            assert!(round < 100_000, "it never ends: {:?}", self.copier);
            while next < orders && self.copier.wants_order() {
                self.accept(next);
                next += 1;
            }
            self.poll();
            self.hosts.iter_mut().for_each(Hosts::pass);
            self.hand.advance(Nanos::from_micros(self.random.below(100)));
            for event in std::mem::take(&mut self.events) {
                match event {
                    CopyEvent::Over(order, result) => {
                        let place = &mut results[order.region.0 as usize];
                        assert!(place.replace(result).is_none(), "an order is over once");
                    }
                    other => self.events.push(other),
                }
            }
            if results.iter().all(Option::is_some) {
                break;
            }
        }
        results.into_iter().flatten().collect()
    }

    fn drain_hosts(&mut self) {
        while self.hosts.as_mut().is_some_and(|hosts| !hosts.settle()) {}
    }

    /// Nothing is left behind.
    fn check_still(&mut self) {
        self.poll();
        assert!(self.copier.is_still());
        assert_eq!(self.copier.wake(&self.pace), Wake::Never);
        assert_eq!(self.cx.dma.taken(), 0, "every buffer came back");
        self.drain_hosts();
        self.hosts = None;
        check_lock(&self.nexus);
    }

    fn content(&self, device: usize) -> Vec<u8> {
        testing::content(&self.hand, &self.devices[device])
    }

    fn fill(&self, device: usize, lbas: std::ops::Range<u64>, salt: u8) {
        testing::fill(&self.hand, &self.devices[device], lbas, salt);
    }

    fn assert_equal(&self, children: &[usize]) {
        let first = self.content(children[0]);
        for other in &children[1..] {
            assert!(self.content(*other) == first, "children {} and {other} differ", children[0]);
        }
    }
}

#[test]
fn a_target_is_equal_after_the_copy_whatever_two_cores_write_meanwhile() {
    for seed in 0..12 {
        let disks: Vec<_> = (0..3).map(|_| memory()).collect();
        let device = |index: usize| watched(slow(disks[index].clone(), seed + index as u64));
        let mut rig = Rig::new(seed, (0..3).map(device).collect());
        (0..2).for_each(|index| rig.fill(index, 0..BLOCKS, 7));
        rig.fill(2, 0..BLOCKS, 9);
        rig.hosts = Some(Hosts::new(seed, &rig.hand, &rig.nexus, 2));
        let results = rig.copy_all();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        rig.drain_hosts();
        let ended = rig.hosts.as_ref().unwrap().ended;
        assert!(ended > 20, "{ended} I/Os met the copy");
        assert_eq!(rig.copier.moved().copied_bytes, BLOCKS * u64::from(BLOCK_BYTES));
        rig.check_still();
        rig.devices = disks;
        rig.assert_equal(&[0, 1, 2]);
    }
}

#[test]
fn a_source_that_fails_midway_is_replaced_by_another_member() {
    let disks: Vec<_> = (0..3).map(|_| memory()).collect();
    let reads = OperationSet::ALL.without(Operation::Write).without(Operation::Flush);
    let failure = Failure::Before(Status::UNRECOVERED_READ_ERROR);
    let failing = faulty(disks[0].clone(), reads, 0.5, failure, 3);
    let mut rig = Rig::new(1, vec![disks[0].clone(), disks[1].clone(), disks[2].clone()]);
    (0..2).for_each(|index| rig.fill(index, 0..BLOCKS, 7));
    rig.nexus.publish(|view| view.devices[0].as_mut().unwrap().device = failing);
    let results = rig.copy_all();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(rig.events.contains(&CopyEvent::SourceError(child(0))));
    rig.check_still();
    rig.assert_equal(&[0, 1, 2]);
}

#[test]
fn what_no_member_can_read_is_not_copied() {
    let reads = OperationSet::ALL.without(Operation::Write).without(Operation::Flush);
    let failure = Failure::Before(Status::UNRECOVERED_READ_ERROR);
    let unreadable = || faulty(memory(), reads, 1.0, failure, 3);
    let mut rig = Rig::new(1, vec![unreadable(), unreadable(), memory()]);
    (0..2).for_each(|index| rig.fill(index, 0..BLOCKS, 7));
    let results = rig.copy_all();
    assert!(results.iter().all(|result| *result == Err(Obstacle::Unreadable)), "{results:?}");
    rig.check_still();
}

#[test]
fn a_receiver_that_fails_midway_ends_its_orders_and_hurts_nobody() {
    let bad = faulty(memory(), OperationSet::ALL, 0.9, Failure::Before(Status::WRITE_FAULT), 3);
    let mut rig = Rig::new(1, vec![memory(), memory(), bad]);
    (0..2).for_each(|index| rig.fill(index, 0..BLOCKS, 7));
    let results = rig.copy_all();
    let failed = Err(Obstacle::Receiver(child(2), FaultReason::IoError));
    assert!(results.contains(&failed), "{results:?}");
    assert!(rig.events.contains(&CopyEvent::ReceiverLost(child(2), FaultReason::IoError)));
    assert_eq!(rig.nexus.view().readable(), set(&[0, 1]));
    rig.check_still();
    rig.assert_equal(&[0, 1]);
}

#[test]
fn a_receiver_that_is_given_up_ends_its_orders() {
    let mut rig = Rig::new(1, vec![memory(), slow(memory(), 1)]);
    rig.fill(0, 0..BLOCKS, 7);
    rig.accept(0);
    rig.poll();
    rig.poll();
    rig.copier.drop_receiver(child(1));
    rig.nexus.publish(|view| view.targets = ChildSet::EMPTY);
    while !rig.copier.is_still() {
        rig.poll();
        rig.hand.advance(Nanos::from_millis(1));
    }
    rig.poll();
    let over = CopyEvent::Over(rig.order(0), Err(Obstacle::Gone(child(1))));
    assert!(rig.events.contains(&over), "{:?}", rig.events);
    rig.check_still();
}

#[test]
fn a_receiver_that_hangs_is_given_up_in_time() {
    let late = Rule { meets: Match::default(), effect: Lateness::Fixed(Nanos::from_secs(1000)) };
    let undone =
        faulty(memory(), OperationSet::ALL, 1.0, Failure::Before(Status::ABORT_REQUESTED), 1);
    let hanging = Delay::new(undone, RuleSet { rules: vec![late], seed: 1 });
    let mut rig = Rig::new(1, vec![memory(), Arc::new(hanging)]);
    rig.fill(0, 0..BLOCKS, 7);
    rig.accept(0);
    for _ in 0..10 {
        rig.poll();
    }
    rig.hand.advance(mirror::CHILD_TIMEOUT - Nanos(1));
    rig.poll();
    assert_eq!(rig.events, []);
    rig.hand.advance(SWEEP_INTERVAL);
    (0..10).for_each(|_| rig.poll());
    let lost = CopyEvent::ReceiverLost(child(1), FaultReason::TimedOut);
    assert!(rig.events.contains(&lost), "{:?}", rig.events);
    rig.check_still();
}

#[test]
fn a_paused_copy_comes_to_rest_and_goes_on_where_it_was() {
    let mut rig = Rig::new(1, vec![slow(memory(), 1), slow(memory(), 2)]);
    rig.fill(0, 0..BLOCKS, 7);
    rig.accept(0);
    rig.poll();
    rig.copier.pause();
    assert!(!rig.copier.wants_order());
    while !rig.copier.is_still() {
        rig.poll();
        rig.hand.advance(Nanos::from_millis(1));
    }
    rig.poll();
    let moved = rig.copier.moved();
    assert!(rig.copier.has_orders() || rig.events.len() == 1);
    rig.check_still();
    rig.accept(1);
    rig.poll();
    assert_eq!((rig.copier.moved(), rig.copier.is_still()), (moved, true));
    rig.copier.resume();
    while rig.copier.has_orders() {
        rig.poll();
        rig.hand.advance(Nanos::from_millis(1));
    }
    rig.poll();
    assert_eq!(rig.copier.moved().copied_bytes, 2 * ORDER_BLOCKS * u64::from(BLOCK_BYTES));
    rig.check_still();
}

#[test]
fn holes_are_not_read_and_what_the_target_has_there_is_gone() {
    let mut rig = Rig::new(1, vec![memory(), memory()]);
    rig.fill(0, 0..64, 7);
    rig.fill(1, 1000..1100, 9);
    assert!(rig.copy_all().iter().all(Result::is_ok));
    let moved = rig.copier.moved();
    assert!(moved.copied_bytes <= 2 * u64::from(PIECE_BYTES_MAX), "{moved:?}");
    assert_eq!(moved.copied_bytes + moved.skipped_bytes, BLOCKS * u64::from(BLOCK_BYTES));
    rig.check_still();
    rig.assert_equal(&[0, 1]);
}

#[test]
fn a_copy_without_a_buffer_waits_and_fails_nothing() {
    let mut rig = Rig::new(1, vec![memory(), memory()]);
    rig.fill(0, 0..BLOCKS, 7);
    let mut taken = Vec::new();
    while let Some(buffer) = rig.cx.dma.take(4096) {
        taken.push(buffer);
    }
    rig.accept(0);
    (0..10).for_each(|_| rig.poll());
    assert!(rig.events.is_empty() && rig.copier.moved() == Moved::default());
    assert!(matches!(rig.copier.wake(&rig.pace), Wake::At(_)), "and sleeps meanwhile");
    taken.into_iter().for_each(|buffer| rig.cx.dma.give(buffer));
    rig.copier.pause();
    rig.copier.resume();
    while rig.copier.has_orders() {
        rig.poll();
        rig.hand.advance(Nanos::from_millis(1));
    }
    assert_eq!(rig.copier.moved().copied_bytes, ORDER_BLOCKS * u64::from(BLOCK_BYTES));
    rig.check_still();
}

#[test]
fn a_volume_that_pauses_finds_the_copy_drained() {
    let mut rig = Rig::new(1, vec![slow(memory(), 1), slow(memory(), 2)]);
    rig.fill(0, 0..BLOCKS, 7);
    rig.cx.advance_clock();
    rig.pace.set_limit(rig.cx.now(), Some(16 << 20));
    rig.accept(0);
    (0..3).for_each(|_| rig.poll());
    let version = rig.nexus.publish(|view| view.mode = crate::view::Mode::Paused);
    let drained = |rig: &Rig| rig.nexus.all_users(|_, cell| cell.is_drained(version));
    assert!(!drained(&rig));
    for _ in 0..100 {
        rig.poll();
        rig.hand.advance(Nanos::from_millis(1));
    }
    assert!(drained(&rig) && rig.copier.has_orders());
    let moved = rig.copier.moved();
    rig.nexus.publish(|view| view.mode = crate::view::Mode::Running);
    while rig.copier.has_orders() {
        rig.poll();
        rig.hand.advance(Nanos::from_millis(1));
    }
    assert!(rig.copier.moved().copied_bytes > moved.copied_bytes);
    rig.check_still();
    rig.assert_equal(&[0, 0]);
}
