//! Stuck devices and late cores: who waits for them, for how long, and who does not.

use std::sync::Arc;
use std::thread;

use bdev::delay::Lateness;
use bdev::fault::Failure;
use bdev::reservation::{ReservationStore, StoreError};
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{BlockDevice, Geometry, Limits, Null, OpenError, QueuePair, Status};
use reactor::{Cx, Nanos};
use uuid::Uuid;

use super::*;
use crate::command::{ErrorKind, Presence, SetDelay, SetFault};
use crate::conductor::state::Deadline;
use crate::registry::DeviceError;

fn delay(name: &str) -> Command {
    let effect = Lateness::Fixed(Nanos::from_secs(1000));
    let rules = RuleSet { rules: vec![Rule { meets: Match::default(), effect }], seed: 0 };
    Command::SetDelay(SetDelay { device: name.to_owned(), rules })
}

fn fault(name: &str, seed: u64) -> Command {
    let effect = Failure::Before(Status::WRITE_FAULT);
    let rules = RuleSet { rules: vec![Rule { meets: Match::default(), effect }], seed };
    Command::SetFault(SetFault { device: name.to_owned(), rules })
}

#[test]
fn a_stuck_device_keeps_its_own_removal_waiting_and_nothing_else() {
    let (conductor, stage) = conducted(2);
    share(&conductor, &["stuck", "well"]);
    stage.set_stuck(&["stuck"]);
    let told = late(&conductor, remove_namespace(NQN, 1));
    assert_eq!(
        told,
        "not done within 60 ms: namespace 1 of nqn.2019-05.io.openebs:s takes no more I/O; \
         applied on cores 0, 1, I/O is still at the device on cores 0, 1"
    );
    let told = late(&conductor, remove_device("stuck"));
    assert!(told.contains("device stuck takes no more I/O and is closed when none is left"));
    // Another device of the same cores comes and goes meanwhile.
    run(&conductor, remove_namespace(NQN, 2));
    run(&conductor, remove_device("well"));
    run(&conductor, add_device("null:///other?num_blocks=8"));
    run(&conductor, add_namespace(NQN, "other"));
    let listed: Vec<_> =
        devices(&conductor).into_iter().map(|one| (one.name, one.presence)).collect();
    let expected = [("other", Presence::Present), ("stuck", Presence::Going)];
    assert_eq!(listed, expected.map(|(name, presence)| (name.to_owned(), presence)));
    // A number that is going is not given again.
    let namespaces = &subsystems(&conductor)[0].namespaces;
    let ids: Vec<_> = namespaces.iter().map(|one| (one.namespace, one.presence)).collect();
    assert_eq!(ids, [(1, Presence::Going), (2, Presence::Present)]);
    assert_eq!(
        refused(&conductor, add_device("null:///stuck?num_blocks=8")).kind(),
        ErrorKind::InUse
    );
    // The command may be given again, and waits on.
    late(&conductor, remove_namespace(NQN, 1));
    stage.set_stuck(&[]);
    run(&conductor, remove_device("stuck"));
    let gone = refused(&conductor, remove_namespace(NQN, 1));
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(devices(&conductor).len(), 1);
}

#[test]
fn what_was_given_up_waiting_for_still_happens() {
    let (conductor, stage) = conducted(1);
    share(&conductor, &["a"]);
    stage.set_stuck(&["a"]);
    late(&conductor, Command::RemoveSubsystem { subsystem: NQN.to_owned() });
    assert_eq!(refused(&conductor, add_subsystem(NQN)).kind(), ErrorKind::InUse);
    stage.set_stuck(&[]);
    let until = Instant::now() + SOON;
    while !subsystems(&conductor).is_empty() {
        assert!(Instant::now() < until, "{:?}", subsystems(&conductor));
        thread::sleep(Duration::from_millis(1));
    }
    run(&conductor, remove_device("a"));
}

#[test]
fn a_late_core_is_named_and_catches_up() {
    let (conductor, stage) = conducted(2);
    stage.set_saturated(&[1]);
    let told = late(&conductor, add_subsystem(NQN));
    assert!(told.ends_with("applied on core 0, not yet on core 1"), "{told}");
    assert_eq!(subsystems(&conductor).len(), 1);
    // What touches no core is done all the same.
    run(&conductor, add_device("null:///a?num_blocks=8"));
    late(&conductor, add_namespace(NQN, "a"));
    assert_eq!(stage.served(0), [(NQN.to_owned(), 1)]);
    stage.set_saturated(&[]);
    // The same again is the same, and waits for what was missing.
    run(&conductor, add_namespace(NQN, "a"));
    assert_eq!(stage.served(1), [(NQN.to_owned(), 1)]);
}

#[test]
fn a_device_that_hangs_when_it_is_opened_is_listed_and_waited_for_by_its_own_commands_only() {
    fn open(uri: &bdev::uri::DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
        let bdev::uri::DeviceUri::Null(memory) = uri else { unreachable!() };
        if memory.name == "slow" {
            thread::sleep(Duration::from_millis(400));
        }
        Ok(Arc::new(Null::new(memory.name.clone(), memory.geometry(), None)?))
    }
    let registry = Registry::of(vec![(bdev::uri::Scheme::Null, open)]);
    let (conductor, _) = conducted_with(1, registry);
    let told = late(&conductor, add_device("null:///slow?num_blocks=8"));
    assert!(told.contains("device slow is still being opened, and will be listed"), "{told}");
    assert_eq!(devices(&conductor)[0].presence, Presence::Coming);
    assert!(late(&conductor, remove_device("slow")).contains("still at work"));
    run(&conductor, add_device("null:///quick?num_blocks=8"));
    run(&conductor, add_device("null:///slow?num_blocks=8"));
    assert!(devices(&conductor).iter().all(|one| one.presence == Presence::Present));
}

#[test]
fn faults_and_delays_are_put_around_a_device_and_taken_away_once_its_io_is_back() {
    let (conductor, stage) = conducted(2);
    share(&conductor, &["a"]);
    let set = |command| match run(&conductor, command) {
        Reply::Device(device) => (device.fault.map(|rules| rules.seed), device.delay.is_some()),
        other => panic!("{other:?}"),
    };
    assert_eq!(set(fault("a", 1)), (Some(1), false));
    assert_eq!(set(fault("a", 2)), (Some(2), false));
    assert_eq!(set(delay("a")), (Some(2), true));
    stage.set_stuck(&["a"]);
    // Other rules need no other device; nothing is waited for.
    assert_eq!(set(fault("a", 3)), (Some(3), true));
    let told = late(&conductor, Command::ClearDelay { device: "a".to_owned() });
    assert!(told.contains("what device a does is changed for I/O to come"), "{told}");
    stage.set_stuck(&[]);
    assert_eq!(set(Command::ClearDelay { device: "a".to_owned() }), (Some(3), false));
    assert_eq!(set(Command::ClearFault { device: "a".to_owned() }), (None, false));
    run(&conductor, remove_namespace(NQN, 1));
    run(&conductor, remove_device("a"));
}

#[test]
fn an_engine_that_ends_gives_those_who_wait_an_answer() {
    let (conductor, stage) = conducted(1);
    stage.set_saturated(&[0]);
    let waiting = Arc::clone(&conductor);
    let waiter = thread::spawn(move || waiting.execute_within(&add_subsystem(NQN), SOON));
    while subsystems(&conductor).is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    conductor.stop();
    assert_eq!(waiter.join().unwrap().unwrap_err().kind(), ErrorKind::Stopping);
    assert_eq!(refused(&conductor, add_subsystem(NQN)).kind(), ErrorKind::Stopping);
    stage.set_saturated(&[]);
    conductor.join();
}

#[test]
fn changes_of_many_threads_travel_together_and_all_arrive() {
    let (conductor, stage) = conducted(2);
    share(&conductor, &["a"]);
    let add = |number: usize| {
        let conductor = Arc::clone(&conductor);
        let nqn = format!("{NQN}{number}");
        thread::spawn(move || {
            run(&conductor, add_subsystem(&nqn));
            run(&conductor, add_namespace(&nqn, "a"));
        })
    };
    let threads: Vec<_> = (0..16).map(add).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(stage.served(0).len(), 17);
    assert_eq!(stage.served(0), stage.served(1));
}

/// A device whose record of reservations takes long to read.
#[derive(Debug)]
struct SlowRecord(Null);

impl BlockDevice for SlowRecord {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.0.uuid()
    }

    fn reservation_store(&self) -> Option<Arc<dyn ReservationStore>> {
        Some(Arc::new(SlowStore))
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.0.open_queue_pair(cx, depth)
    }
}

#[derive(Debug)]
struct SlowStore;

impl ReservationStore for SlowStore {
    fn load(&self, _: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        thread::sleep(Duration::from_millis(400));
        Ok(None)
    }

    fn save(&self, _: Uuid, _: &[u8]) -> Result<(), StoreError> {
        unreachable!("nobody reserves")
    }

    fn place(&self) -> String {
        String::from("slow")
    }
}

#[test]
fn a_record_of_reservations_is_waited_for_until_the_deadline_and_holds_up_nobody_else() {
    fn open(uri: &bdev::uri::DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
        let bdev::uri::DeviceUri::Null(memory) = uri else { unreachable!() };
        let null = Null::new(memory.name.clone(), memory.geometry(), None)?;
        Ok(if memory.name == "slow" { Arc::new(SlowRecord(null)) } else { Arc::new(null) })
    }
    let (conductor, _) = conducted_with(1, Registry::of(vec![(bdev::uri::Scheme::Null, open)]));
    run(&conductor, add_subsystem(NQN));
    run(&conductor, add_device("null:///slow?num_blocks=8"));
    for _ in 0..2 {
        let told = late(&conductor, add_namespace(NQN, "slow"));
        assert!(told.contains("what device slow keeps of reservations is still being read"));
    }
    run(&conductor, add_device("null:///quick?num_blocks=8"));
    run(&conductor, add_namespace(NQN, "quick"));
    run(&conductor, add_namespace(NQN, "slow"));
    assert_eq!(subsystems(&conductor)[0].namespaces.len(), 2);
}

#[test]
fn a_deadline_is_cut_to_what_the_system_is_given_and_never_lengthened() {
    let within = |asked, most| Deadline::after(asked).at_most(most).within;
    assert_eq!(within(SOON, SHORT), SHORT);
    assert_eq!(within(SHORT, SOON), SHORT);
    assert_eq!(within(SHORT, SHORT), SHORT);
}
