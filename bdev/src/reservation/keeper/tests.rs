//! The keeper by example, and against the oracle with several hosts, cores and a medium.

use proptest::prelude::*;

use super::super::oracle::{HOSTS, Oracle, aimed, commands, host, step};
use super::super::{
    Access, AccessClass, Fences, Key, KeyCheck, Persistence, PersistenceChange, PreemptMode,
    ReservationType,
};
use super::*;
use crate::io::Token;

const CORES: usize = 3;
const NAMESPACE: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);
const NOW: Nanos = Nanos::from_secs(50);

fn keeper() -> Keeper<u32> {
    let mut keeper = Keeper::new(CORES);
    let empty = Reservations::new(Persistence::Off);
    keeper.serve([(NAMESPACE, &empty), (OTHER, &empty)].into_iter());
    keeper
}

fn ask(keeper: &mut Keeper<u32>, who: u32, from: usize, command: Command) {
    let request = Request::Change { from: host(from), command };
    keeper.ask(NAMESPACE, who, request, NOW);
}

fn register(persistence: PersistenceChange) -> Command {
    Command::Replace { current: KeyCheck::Ignore, key: Key(7), persistence }
}

const ACQUIRE: Command =
    Command::Acquire { current: Key(7), kind: ReservationType::WriteExclusive };

fn answers(keeper: &mut Keeper<u32>) -> Vec<(u32, Answer)> {
    let actions = std::iter::from_fn(|| keeper.next_action());
    let answers = actions.filter_map(|action| match action {
        Action::Answer { asker, answer } => Some((asker, answer)),
        _ => None,
    });
    answers.collect()
}

/// Registers host 0 and lets it acquire; the round that every core has yet to finish.
fn acquiring(keeper: &mut Keeper<u32>) -> u64 {
    ask(keeper, 1, 0, register(PersistenceChange::Keep));
    assert_eq!(answers(keeper), [(1, Answer::Done)], "nobody's access changes");
    ask(keeper, 2, 0, ACQUIRE);
    match keeper.next_action() {
        Some(Action::Distribute { namespace: NAMESPACE, round, table, .. }) => {
            assert_eq!(table, keeper.state(NAMESPACE).unwrap().access_table());
            round
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_of_access_is_answered_when_the_last_core_has_finished() {
    let mut keeper = keeper();
    let round = acquiring(&mut keeper);
    for _ in 1..CORES {
        keeper.core_finished(NAMESPACE, round);
        assert_eq!(keeper.next_action(), None);
    }
    keeper.core_finished(NAMESPACE, round - 1);
    keeper.core_finished(OTHER, round);
    assert_eq!(keeper.next_action(), None, "another round, another namespace");
    keeper.core_finished(NAMESPACE, round);
    assert_eq!(answers(&mut keeper), [(2, Answer::Done)]);
    assert!(!keeper.is_timed());
}

#[test]
fn who_asks_meanwhile_waits_and_other_namespaces_do_not() {
    let mut keeper = keeper();
    let round = acquiring(&mut keeper);
    keeper.ask(NAMESPACE, 3, Request::Look, NOW);
    keeper.ask(OTHER, 4, Request::Look, NOW);
    let seen = answers(&mut keeper);
    assert!(matches!(&seen[..], [(4, Answer::State(_))]), "{seen:?}");
    (0..CORES).for_each(|_| keeper.core_finished(NAMESPACE, round));
    let seen = answers(&mut keeper);
    assert!(matches!(&seen[..], [(2, Answer::Done), (3, Answer::State(_))]), "{seen:?}");
}

#[test]
fn a_record_is_stored_before_anything_else_happens() {
    let mut keeper = keeper();
    ask(&mut keeper, 1, 0, register(PersistenceChange::On));
    let Some(Action::Store { ticket, record, .. }) = keeper.next_action() else { panic!() };
    assert_eq!(keeper.state(NAMESPACE).unwrap().registrations(), []);
    assert_eq!(Reservations::decode(&record).unwrap().registrations().len(), 1);
    keeper.stored(ticket, StoreResult::Stored);
    assert_eq!(answers(&mut keeper), [(1, Answer::Done)]);
    assert_eq!(keeper.state(NAMESPACE).unwrap().registrations().len(), 1);
}

#[test]
fn what_cannot_be_stored_changes_nothing_and_the_next_change_is_stored_whatever_it_is() {
    let mut keeper = keeper();
    ask(&mut keeper, 1, 0, register(PersistenceChange::On));
    let Some(Action::Store { ticket, .. }) = keeper.next_action() else { panic!() };
    keeper.stored(ticket, StoreResult::Failed);
    assert_eq!(answers(&mut keeper), [(1, Answer::NotStored)]);
    assert_eq!(keeper.state(NAMESPACE).unwrap().registrations(), []);
    ask(&mut keeper, 2, 1, register(PersistenceChange::Off));
    assert!(matches!(keeper.next_action(), Some(Action::Store { .. })));
}

#[test]
fn an_io_that_does_not_come_back_interrupts_whoever_could_tell() {
    let mut keeper = keeper();
    let round = acquiring(&mut keeper);
    keeper.ask(NAMESPACE, 3, Request::Look, NOW + Nanos(5));
    keeper.expire(NOW + ANSWER_TIMEOUT - Nanos(1));
    assert_eq!(keeper.next_action(), None);
    keeper.expire(NOW + ANSWER_TIMEOUT);
    assert_eq!(answers(&mut keeper), [(2, Answer::Interrupted)]);
    keeper.expire(NOW + ANSWER_TIMEOUT + Nanos(5));
    assert_eq!(answers(&mut keeper), [(3, Answer::Interrupted)]);
    keeper.ask(NAMESPACE, 4, Request::Look, NOW + ANSWER_TIMEOUT);
    assert_eq!(keeper.next_action(), None, "the new state is not told yet");
    (0..CORES).for_each(|_| keeper.core_finished(NAMESPACE, round));
    let seen = answers(&mut keeper);
    let [(4, Answer::State(state))] = &seen[..] else { panic!("{seen:?}") };
    assert!(state.is_holder(&host(0).id), "what was begun is finished");
}

#[test]
fn a_store_that_takes_too_long_is_finished_and_nobody_answered_twice() {
    let mut keeper = keeper();
    ask(&mut keeper, 1, 0, register(PersistenceChange::On));
    let Some(Action::Store { ticket, .. }) = keeper.next_action() else { panic!() };
    keeper.expire(NOW + ANSWER_TIMEOUT);
    assert_eq!(answers(&mut keeper), [(1, Answer::Interrupted)]);
    keeper.stored(ticket, StoreResult::Stored);
    assert_eq!(keeper.next_action(), None);
    assert_eq!(keeper.state(NAMESPACE).unwrap().registrations().len(), 1);
}

#[test]
fn as_many_wait_as_may_and_one_more_is_busy() {
    let mut keeper = keeper();
    acquiring(&mut keeper);
    for _ in 0..WAITING_MAX {
        keeper.ask(NAMESPACE, 3, Request::Look, NOW);
    }
    assert_eq!(keeper.next_action(), None);
    keeper.ask(NAMESPACE, 4, Request::Look, NOW);
    assert_eq!(answers(&mut keeper), [(4, Answer::Busy)]);
}

#[test]
fn a_namespace_that_goes_answers_all_and_is_settled_once_its_store_has_ended() {
    let mut keeper = keeper();
    ask(&mut keeper, 1, 0, register(PersistenceChange::On));
    keeper.ask(NAMESPACE, 2, Request::Look, NOW);
    let Some(Action::Store { ticket, .. }) = keeper.next_action() else { panic!() };
    keeper.serve([].into_iter());
    assert_eq!(answers(&mut keeper), [(1, Answer::NoNamespace), (2, Answer::NoNamespace)]);
    keeper.ask(NAMESPACE, 3, Request::Look, NOW);
    assert_eq!(answers(&mut keeper), [(3, Answer::NoNamespace)]);
    assert!(!keeper.is_settled());
    keeper.stored(ticket, StoreResult::Stored);
    assert!(keeper.is_settled());
}

#[test]
fn a_namespace_that_stays_keeps_its_state_and_one_that_comes_back_has_what_was_kept() {
    let mut keeper = keeper();
    ask(&mut keeper, 1, 0, register(PersistenceChange::Keep));
    let kept = Reservations::new(Persistence::Off);
    keeper.serve([(NAMESPACE, &kept)].into_iter());
    assert_eq!(keeper.state(NAMESPACE).unwrap().registrations().len(), 1);
    keeper.serve([].into_iter());
    keeper.serve([(NAMESPACE, &kept)].into_iter());
    assert_eq!(keeper.state(NAMESPACE), Some(&kept));
}

/// An I/O at the device.
#[derive(Debug)]
struct Flying {
    token: Token,
    from: usize,
    class: AccessClass,
}

#[derive(Debug, Default)]
struct Core {
    table: AccessTable,
    rounds: VecDeque<(u64, AccessTable, Vec<RegistrantId>)>,
    fences: Fences,
    flying: Vec<Flying>,
}

impl Core {
    fn forbids(table: &AccessTable, one: &Flying) -> bool {
        table.grant(&host(one.from).id).access(one.class) == Access::Conflict
    }

    fn take_round(&mut self) {
        let Some((round, table, aborts)) = self.rounds.pop_front() else { return };
        self.table = table;
        let is_awaited =
            |one: &&Flying| Core::forbids(&self.table, one) || aborts.contains(&host(one.from).id);
        let awaited = self.flying.iter().filter(is_awaited).map(|one| one.token).collect();
        self.fences.begin(NAMESPACE, round, awaited);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Ask { from: usize, command: Command, aim: bool },
    TakeRound { core: usize },
    Submit { core: usize, from: usize, class: AccessClass },
    ComeBack { core: usize, index: usize },
    Store { result: StoreResult, reaches: bool },
}

fn events() -> impl Strategy<Value = Event> {
    let classes = prop_oneof![Just(AccessClass::Read), Just(AccessClass::Write)];
    prop_oneof![
        3 => (0..HOSTS, commands(), prop::bool::weighted(0.85))
            .prop_map(|(from, command, aim)| Event::Ask { from, command, aim }),
        4 => (0..CORES).prop_map(|core| Event::TakeRound { core }),
        4 => (0..CORES, 0..HOSTS, classes)
            .prop_map(|(core, from, class)| Event::Submit { core, from, class }),
        6 => (0..CORES, 0..4_usize).prop_map(|(core, index)| Event::ComeBack { core, index }),
        2 => prop::bool::weighted(0.8).prop_map(|good| {
            let result = if good { StoreResult::Stored } else { StoreResult::Failed };
            Event::Store { result, reaches: good }
        }),
        1 => Just(Event::Store { result: StoreResult::Failed, reaches: true }),
    ]
}

struct World {
    keeper: Keeper<usize>,
    cores: [Core; CORES],
    asked: Vec<(usize, Command)>,
    /// What was answered so far, by the machine and by the oracle.
    shadow: Reservations,
    oracle: Oracle,
    medium: Vec<u8>,
    storing: VecDeque<(u64, Vec<u8>)>,
    tokens: u64,
}

impl World {
    fn new() -> Self {
        let shadow = Reservations::new(Persistence::Off);
        let mut keeper = Keeper::new(CORES);
        keeper.serve([(NAMESPACE, &shadow)].into_iter());
        Self {
            keeper,
            cores: Default::default(),
            asked: Vec::new(),
            medium: shadow.encode(),
            shadow,
            oracle: Oracle::default(),
            storing: VecDeque::new(),
            tokens: 0,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask { from, command, aim } => {
                let command = if aim { aimed(command, &self.oracle, from) } else { command };
                let asker = self.asked.len();
                self.asked.push((from, command));
                let request = Request::Change { from: host(from), command };
                self.keeper.ask(NAMESPACE, asker, request, NOW);
            }
            Event::TakeRound { core } => self.cores[core].take_round(),
            Event::Submit { core, from, class } => {
                self.tokens += 1;
                let one = Flying { token: Token(self.tokens), from, class };
                let core = &mut self.cores[core];
                if !Core::forbids(&core.table, &one) {
                    core.flying.push(one);
                }
            }
            Event::ComeBack { core, index } => {
                let core = &mut self.cores[core];
                if index < core.flying.len() {
                    let one = core.flying.swap_remove(index);
                    core.fences.completed(one.token);
                }
            }
            Event::Store { result, reaches } => {
                let Some((ticket, record)) = self.storing.pop_front() else { return };
                if reaches {
                    self.medium = record;
                }
                self.keeper.stored(ticket, result);
            }
        }
        for core in &mut self.cores {
            while let Some((namespace, round)) = core.fences.take_finished() {
                self.keeper.core_finished(namespace, round);
            }
        }
    }

    fn act(&mut self) -> Result<(), TestCaseError> {
        while let Some(action) = self.keeper.next_action() {
            match action {
                Action::Store { ticket, record, .. } => self.storing.push_back((ticket, record)),
                Action::Distribute { round, table, aborts, .. } => {
                    for core in &mut self.cores {
                        core.rounds.push_back((round, table.clone(), aborts.clone()));
                    }
                }
                Action::Notify { notification, .. } => {
                    prop_assert_ne!(notification.to, host(HOSTS).id)
                }
                Action::Answer { asker, answer } => self.answered(asker, &answer)?,
            }
        }
        Ok(())
    }

    fn answered(&mut self, asker: usize, answer: &Answer) -> Result<(), TestCaseError> {
        let (from, command) = self.asked[asker];
        if matches!(answer, Answer::NotStored | Answer::Busy) {
            return Ok(());
        }
        let before = self.shadow.clone();
        step(&mut self.shadow, &mut self.oracle, from, command)?;
        if let Answer::Refused(refusal) = answer {
            let mut again = before.clone();
            prop_assert_eq!(again.apply(&host(from), command).unwrap_err(), *refusal);
            return Ok(());
        }
        prop_assert_eq!(answer, &Answer::Done);
        let table = self.shadow.access_table();
        for core in &self.cores {
            prop_assert_eq!(&core.table, &table, "every core has the table");
            for one in &core.flying {
                prop_assert!(!Core::forbids(&table, one), "nothing forbidden is at the device");
            }
        }
        let kept = Reservations::decode(&self.medium).unwrap();
        prop_assert_eq!(kept, Reservations::decode(&self.shadow.encode()).unwrap());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whoever_is_answered_can_rely_on_every_core_and_on_the_medium(
        events in prop::collection::vec(events(), 1..200),
    ) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
            world.act()?;
        }
        // Everything is finished once the cores and the medium have had their turn.
        while world.keeper.is_timed() {
            for core in 0..CORES {
                world.happen(Event::TakeRound { core });
                world.act()?;
                world.happen(Event::ComeBack { core, index: 0 });
                world.act()?;
            }
            world.happen(Event::Store { result: StoreResult::Stored, reaches: true });
            world.act()?;
        }
        prop_assert!(world.storing.is_empty());
        prop_assert_eq!(world.keeper.state(NAMESPACE), Some(&world.shadow));
    }
}

#[test]
fn a_preempted_hosts_writes_are_awaited_on_every_core() {
    let mut world = World::new();
    let all = |world: &mut World| {
        (0..CORES).for_each(|core| world.happen(Event::TakeRound { core }));
        world.act().unwrap();
    };
    let kind = ReservationType::ExclusiveAccess;
    for (from, command) in [
        (0, register(PersistenceChange::Keep)),
        (1, Command::Register { key: Key(8), persistence: PersistenceChange::Keep }),
        (0, Command::Acquire { current: Key(7), kind }),
    ] {
        world.happen(Event::Ask { from, command, aim: false });
        world.act().unwrap();
        all(&mut world);
    }
    for core in 0..CORES {
        world.happen(Event::Submit { core, from: 0, class: AccessClass::Write });
    }
    let mode = PreemptMode::Abort;
    let command = Command::Preempt { current: Key(8), target: Key(7), kind, mode };
    world.happen(Event::Ask { from: 1, command, aim: false });
    world.act().unwrap();
    all(&mut world);
    for core in 0..CORES {
        assert!(world.keeper.is_timed(), "a write is out on core {core}");
        world.happen(Event::ComeBack { core, index: 0 });
        world.act().unwrap();
    }
    assert!(!world.keeper.is_timed() && world.oracle != Oracle::default());
}
