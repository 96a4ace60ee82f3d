//! Children that come back by themselves, and those that must not.

use std::sync::Arc;

use bdev::device::{Geometry, Limits, OpenError};
use bdev::fault::Failure;
use bdev::session::{Continuity, Link, Sessions};
use bdev::{BlockDevice, OperationSet, QueuePair, Status};
use reactor::{Cx, Nanos, VirtualClock};
use uuid::Uuid;

use super::comeback::{ABSENT, FRESH, LONGEST_WAIT, SAME_SESSION};
use super::tracked_tests::{self, Process};
use super::*;
use crate::rebuild::testing::{child, content, context, fill, memory};
use crate::testing::{config, faulty};
use crate::truth::{Discard, Untracked};

const BLOCKS: u64 = 8_192;
const STEP: Nanos = Nanos::from_millis(20);
/// Longer than any wait.
const LONG: Nanos = Nanos::from_secs(200);

/// A disk with a way to it that the test cuts and mends; a local one without.
#[derive(Debug)]
struct Remote {
    inner: Arc<dyn BlockDevice>,
    sessions: Option<Arc<Sessions>>,
}

impl BlockDevice for Remote {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        None
    }

    fn sessions(&self) -> Option<Arc<Sessions>> {
        self.sessions.clone()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.inner.open_queue_pair(cx, depth)
    }
}

/// Two members, the second of them remote.
struct Rig {
    home: Home,
    cx: Cx,
    hand: VirtualClock,
    sessions: Arc<Sessions>,
    disks: [Arc<dyn BlockDevice>; 2],
}

impl Rig {
    fn new(comebacks: Comebacks) -> Rig {
        Rig::over(comebacks, |disk| disk)
    }

    /// `broken` stands before the second disk.
    fn over(
        comebacks: Comebacks,
        broken: impl Fn(Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice>,
    ) -> Rig {
        let hand = VirtualClock::new();
        let disks = [memory(BLOCKS), memory(BLOCKS)];
        let sessions = Arc::new(Sessions::new());
        sessions.begin(Continuity::Kept, Link::Live);
        let inner = broken(disks[1].clone());
        let remote = Arc::new(Remote { inner, sessions: Some(sessions.clone()) });
        let nexus = Nexus::new(config(vec![disks[0].clone(), remote])).unwrap();
        let mut cx = context(&hand, 0);
        let home = Home::new(nexus, &mut cx, Box::new(Untracked::default()));
        Rig { home: home.with_comebacks(comebacks), cx, hand, sessions, disks }
    }

    fn lose(&mut self) {
        self.home.lose(&mut self.cx, child(1), FaultReason::IoError);
    }

    fn run(&mut self, time: Nanos) {
        for _ in 0..time.0 / STEP.0 {
            self.hand.advance(STEP);
            for _ in 0..10 {
                self.cx.advance_clock();
                self.home.poll(&mut self.cx);
            }
        }
    }

    fn state(&self) -> ChildState {
        self.home.children().nth(1).unwrap().state
    }

    fn attempts(&self) -> usize {
        self.home.rebuild_history().count()
    }
}

#[test]
fn a_child_that_is_connected_again_is_rebuilt_without_being_asked() {
    let mut rig = Rig::new(Comebacks::ByThemselves);
    rig.sessions.change(Link::Lost);
    rig.lose();
    rig.run(LONG);
    assert_eq!((rig.state(), rig.attempts()), (ChildState::Faulted(FaultReason::IoError), 0));
    fill(&rig.hand, &rig.disks[0], 0..BLOCKS, 7);
    rig.sessions.begin(Continuity::Restarted, Link::Live);
    rig.run(Nanos::from_secs(2));
    assert_eq!((rig.state(), rig.attempts()), (ChildState::Open, 1));
    assert!(content(&rig.hand, &rig.disks[0]) == content(&rig.hand, &rig.disks[1]));
}

#[test]
fn a_home_that_looks_at_nobody_sleeps() {
    let mut rig = Rig::new(Comebacks::ByThemselves);
    rig.run(STEP);
    assert_eq!(rig.home.wake(), Wake::Never);
    rig.lose();
    rig.run(STEP);
    assert!(matches!(rig.home.wake(), Wake::At(_)));
    rig.sessions.begin(Continuity::Kept, Link::Live);
    rig.run(LONG);
    assert_eq!((rig.state(), rig.home.wake()), (ChildState::Open, Wake::Never));
}

#[test]
fn one_that_fails_on_and_on_is_tried_less_and_less_often() {
    let fail = |disk| {
        let failure = Failure::Before(Status::WRITE_FAULT);
        faulty(disk, OperationSet::ALL, 1.0, failure, 1)
    };
    let mut rig = Rig::over(Comebacks::ByThemselves, fail);
    fill(&rig.hand, &rig.disks[0], 0..BLOCKS, 7);
    rig.lose();
    // After 10, 20 and 40 s, as it was reachable all the time; then once a minute.
    let mut seen = Vec::new();
    for _ in 0..250 {
        rig.run(Nanos::from_secs(1));
        seen.push(rig.attempts());
    }
    assert_eq!([seen[8], seen[11], seen[28], seen[32], seen[68], seen[74]], [0, 1, 1, 2, 2, 3]);
    let last = (250 - 75) / usize::try_from(LONGEST_WAIT.0 / 1_000_000_000).unwrap();
    assert!((3 + last..=4 + last).contains(&seen[249]), "{}", seen[249]);
}

#[test]
fn what_an_operator_took_out_stays_out() {
    let mut rig = Rig::new(Comebacks::ByThemselves);
    rig.home.offline(&mut rig.cx, "child1").unwrap();
    rig.sessions.begin(Continuity::Kept, Link::Live);
    rig.run(LONG);
    assert_eq!((rig.state(), rig.attempts()), (ChildState::Closed, 0));
    rig.home.fault(&mut rig.cx, "child1", FaultReason::Rpc).unwrap();
    rig.run(LONG);
    assert_eq!((rig.state(), rig.attempts()), (ChildState::Faulted(FaultReason::Rpc), 0));
    rig.home.begin_target(&mut rig.cx, "child1", Discard::No).unwrap();
    rig.home.stop_rebuild(&mut rig.cx, "child1").unwrap();
    rig.run(LONG);
    assert_eq!((rig.state(), rig.attempts()), (ChildState::Faulted(FaultReason::OutOfSync), 1));
}

#[test]
fn nobody_comes_back_to_a_home_that_waits_for_an_operator() {
    let mut rig = Rig::new(Comebacks::AsTold);
    rig.lose();
    rig.sessions.begin(Continuity::Kept, Link::Live);
    rig.run(LONG);
    assert_eq!((rig.attempts(), rig.home.wake()), (0, Wake::Never));
}

#[test]
fn a_local_device_waits_for_an_operator() {
    let hand = VirtualClock::new();
    let nexus = Nexus::new(config(vec![memory(BLOCKS), memory(BLOCKS)])).unwrap();
    let mut cx = context(&hand, 0);
    let home = Home::new(nexus, &mut cx, Box::new(Untracked::default()));
    let home = home.with_comebacks(Comebacks::ByThemselves);
    let (sessions, disks) = (Arc::default(), [memory(8), memory(8)]);
    let mut rig = Rig { home, cx, hand, sessions, disks };
    rig.lose();
    rig.run(LONG);
    assert_eq!((rig.attempts(), rig.home.wake()), (0, Wake::Never));
}

#[test]
fn waits_double_up_to_the_longest_and_no_further() {
    for (back_off, attempts) in [(FRESH, 9), (SAME_SESSION, 3), (ABSENT, 5)] {
        assert_eq!(back_off.wait(0), back_off.first);
        assert_eq!(back_off.wait(1).0, back_off.first.0 * 2);
        assert!(back_off.wait(attempts - 1) < back_off.longest);
        assert_eq!(back_off.wait(attempts), back_off.longest);
        assert_eq!(back_off.wait(u32::MAX), back_off.longest);
    }
}

/// A volume of three whose third replica is a local disk, was away, and is there again.
fn a_replica_that_was_away() -> (Process, Arc<crate::volatile_disk::VolatileDisk>) {
    let disks = tracked_tests::disks(3);
    tracked_tests::format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.close();
    let mut process = Process::start(&disks[..2]);
    process.open();
    process.write(0, 1);
    process.home = process.home.with_comebacks(Comebacks::ByThemselves);
    (process, disks[2].clone())
}

#[test]
fn a_replica_that_comes_late_is_brought_back_and_a_stranger_is_not() {
    let (mut process, disk) = a_replica_that_was_away();
    let stranger = tracked_tests::child_config(2, &disk);
    let stranger = crate::ChildConfig { standing: crate::Standing::OutOfSync, ..stranger };
    process.home.add(stranger).unwrap();
    for _ in 0..100 {
        process.wait(STEP);
    }
    assert_eq!(process.state(2), ChildState::Faulted(FaultReason::OutOfSync));
    process.home.remove(&mut process.cx, "child2").unwrap();
    process.home.add(tracked_tests::child_config(2, &disk)).unwrap();
    for _ in 0..100 {
        process.wait(STEP);
    }
    assert_eq!(process.state(2), ChildState::Open);
}

#[test]
fn a_local_replica_that_was_behind_is_brought_back_and_not_again_once_it_failed() {
    let (mut process, disk) = a_replica_that_was_away();
    let device = Arc::new(Remote { inner: disk.clone(), sessions: None });
    let config = tracked_tests::child_config(2, &disk);
    process.home.add(crate::ChildConfig { device, ..config }).unwrap();
    for _ in 0..100 {
        process.wait(STEP);
    }
    assert_eq!(process.state(2), ChildState::Open);
    let attempts = process.home.rebuild_history().count();
    process.home.lose(&mut process.cx, child(2), FaultReason::IoError);
    for _ in 0..200 {
        process.wait(Nanos::from_secs(1));
    }
    assert_eq!(process.state(2), ChildState::Faulted(FaultReason::IoError));
    assert_eq!(process.home.rebuild_history().count(), attempts);
}

#[test]
fn a_volume_that_waits_for_a_child_opens_when_that_is_added() {
    let disks = tracked_tests::disks(3);
    tracked_tests::format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(0, 1);
    drop(process);
    let mut process = Process::start(&disks[..1]);
    process.passes();
    process.wait(Nanos::from_secs(3));
    assert!(process.home.refusal().is_some_and(|words| words.contains("must answer")));
    process.home.add(tracked_tests::child_config(1, &disks[1])).unwrap();
    process.open();
    assert_eq!(process.read(0), 1);
}
