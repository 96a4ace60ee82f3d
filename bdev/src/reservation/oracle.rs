//! A second, naive account of reservations, and sequences of commands that both must agree on.
//!
//! The oracle knows hosts by number and keeps a key for each, zero for none. It follows the wording
//! of NVMe Base 2.0 section 8.19 and shares no code with the machine.

use proptest::prelude::*;

use super::*;
use crate::io::Operation;

pub(super) const HOSTS: usize = 5;

/// What the oracle says of a command.
#[derive(Debug, Default, PartialEq)]
struct Said {
    refusal: Option<Refusal>,
    told: Vec<(usize, Event)>,
    aborted: Vec<usize>,
}

fn no(refusal: Refusal) -> Said {
    Said { refusal: Some(refusal), ..Said::default() }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Oracle {
    keys: [u64; HOSTS],
    /// RTYPE, 0 for none.
    kind: u8,
    /// Who acquired; of no meaning for types 5 and 6.
    owner: usize,
    is_persistent: bool,
    generation: u32,
}

impl Oracle {
    fn others(&self, from: usize) -> Vec<usize> {
        (0..HOSTS).filter(|host| *host != from && self.keys[*host] != 0).collect()
    }

    fn is_holder(&self, host: usize) -> bool {
        match self.kind {
            0 => false,
            5 | 6 => self.keys[host] != 0,
            _ => self.owner == host,
        }
    }

    fn is_foreign_key(&self, from: usize, check: KeyCheck) -> bool {
        let given = match check {
            KeyCheck::Is(key) => key.0,
            KeyCheck::Ignore => self.keys[from],
        };
        self.keys[from] == 0 || self.keys[from] != given
    }

    fn persist(&mut self, change: PersistenceChange) {
        match change {
            PersistenceChange::Keep => {}
            PersistenceChange::Off => self.is_persistent = false,
            PersistenceChange::On => self.is_persistent = true,
        }
    }

    fn release(&mut self, from: usize) -> Vec<(usize, Event)> {
        let was = std::mem::take(&mut self.kind);
        let told = if was >= 3 { self.others(from) } else { vec![] };
        told.into_iter().map(|host| (host, Event::ReservationReleased)).collect()
    }

    fn apply(&mut self, from: usize, command: Command) -> Said {
        let said = match command {
            Command::Register { key, persistence } => self.register(from, key.0, persistence),
            Command::Replace { current, key, persistence } => {
                if key.0 == 0 {
                    return no(Refusal::ZeroKey);
                }
                if self.is_foreign_key(from, current) && current != KeyCheck::Ignore {
                    return no(Refusal::Conflict);
                }
                self.keys[from] = key.0;
                self.persist(persistence);
                Said::default()
            }
            Command::Unregister { current, persistence } => {
                if self.is_foreign_key(from, current) {
                    return no(Refusal::Conflict);
                }
                let is_holder = self.is_holder(from);
                self.keys[from] = 0;
                self.persist(persistence);
                let is_last = self.others(from).is_empty();
                let releases = is_holder && (self.kind <= 4 || is_last);
                let told = if releases { self.release(from) } else { vec![] };
                Said { told, ..Said::default() }
            }
            Command::Acquire { current, kind } => return self.acquire(from, current, kind),
            Command::Preempt { current, target, kind, mode } => {
                if self.is_foreign_key(from, KeyCheck::Is(current)) {
                    return no(Refusal::Conflict);
                }
                self.preempt(from, target.0, kind.nvme_code(), mode)
            }
            Command::Release { current, kind } => return self.give_up(from, current, kind),
            Command::Clear { current } => {
                if self.is_foreign_key(from, KeyCheck::Is(current)) {
                    return no(Refusal::Conflict);
                }
                let told = self.others(from);
                let told = told.into_iter().map(|host| (host, Event::ReservationPreempted));
                (self.kind, self.keys) = (0, [0; HOSTS]);
                return self.counted(Said { told: told.collect(), ..Said::default() });
            }
            Command::SetPersistence(change) => {
                self.persist(change);
                return Said::default();
            }
        };
        self.counted(said)
    }

    fn counted(&mut self, said: Said) -> Said {
        self.generation += u32::from(said.refusal.is_none());
        said
    }

    fn register(&mut self, from: usize, key: u64, change: PersistenceChange) -> Said {
        if key == 0 {
            return no(Refusal::ZeroKey);
        }
        if ![0, key].contains(&self.keys[from]) {
            return no(Refusal::Conflict);
        }
        self.keys[from] = key;
        self.persist(change);
        Said::default()
    }

    fn acquire(&mut self, from: usize, current: Key, kind: ReservationType) -> Said {
        if self.is_foreign_key(from, KeyCheck::Is(current)) {
            return no(Refusal::Conflict);
        }
        if self.kind != 0 && (self.kind != kind.nvme_code() || !self.is_holder(from)) {
            return no(Refusal::Conflict);
        }
        (self.kind, self.owner) = (kind.nvme_code(), from);
        Said::default()
    }

    fn give_up(&mut self, from: usize, current: Key, kind: ReservationType) -> Said {
        if self.is_foreign_key(from, KeyCheck::Is(current)) {
            return no(Refusal::Conflict);
        }
        if !self.is_holder(from) {
            return Said::default();
        }
        if self.kind != kind.nvme_code() {
            return no(Refusal::ReleaseType);
        }
        Said { told: self.release(from), ..Said::default() }
    }

    fn preempt(&mut self, from: usize, target: u64, kind: u8, mode: PreemptMode) -> Said {
        let is_single = (1..=4).contains(&self.kind);
        if is_single && target == 0 {
            return no(Refusal::ZeroPreemptKey);
        }
        let takes_all = self.kind >= 5 && target == 0;
        let takes_over = takes_all || is_single && self.keys[self.owner] == target;
        let is_victim = |host: &usize| {
            let has_key = self.keys[*host] != 0 && (takes_all || self.keys[*host] == target);
            has_key && !(takes_over && *host == from)
        };
        let victims: Vec<usize> = (0..HOSTS).filter(is_victim).collect();
        if victims.is_empty() && !takes_over {
            return no(Refusal::Conflict);
        }
        for victim in &victims {
            self.keys[*victim] = 0;
        }
        let mut said = Said::default();
        if takes_over {
            if self.kind != kind {
                let told = self.others(from).into_iter();
                said.told.extend(told.map(|host| (host, Event::ReservationReleased)));
            }
            (self.kind, self.owner) = (kind, from);
        }
        if self.keys == [0; HOSTS] {
            self.kind = 0;
        }
        let told = victims.iter().filter(|host| **host != from);
        said.told.extend(told.map(|host| (*host, Event::RegistrationPreempted)));
        if mode == PreemptMode::Abort {
            said.aborted = victims;
        }
        said
    }

    fn may(&self, host: usize, operation: Operation) -> bool {
        let reads = !operation.changes_blocks() && operation != Operation::Flush;
        match self.kind {
            0 => true,
            1 => reads || self.owner == host,
            2 => self.owner == host,
            3 | 5 => reads || self.keys[host] != 0,
            _ => self.keys[host] != 0,
        }
    }

    fn kept(&self) -> Option<([u64; HOSTS], u8, usize)> {
        let owner = if matches!(self.kind, 1..=4) { self.owner } else { HOSTS };
        self.is_persistent.then_some((self.keys, self.kind, owner))
    }
}

pub(super) fn host(number: usize) -> Registrant {
    let byte = u8::try_from(number + 1).unwrap();
    // Hosts and nexuses at one device are told apart and otherwise the same.
    let id = match number % 2 {
        0 => RegistrantId::nvme([byte; 16]).unwrap(),
        _ => RegistrantId::scsi([byte; 16]),
    };
    Registrant { id, name: RegistrantName::new(&vec![byte; number]).unwrap() }
}

/// Keys are few, so that they are often right and often shared.
fn keys() -> impl Strategy<Value = Key> {
    (0..4_u64).prop_map(Key)
}

fn checks() -> impl Strategy<Value = KeyCheck> {
    prop_oneof![4 => keys().prop_map(KeyCheck::Is), 1 => Just(KeyCheck::Ignore)]
}

fn changes() -> impl Strategy<Value = PersistenceChange> {
    prop_oneof![
        6 => Just(PersistenceChange::Keep),
        1 => Just(PersistenceChange::Off),
        3 => Just(PersistenceChange::On),
    ]
}

pub(super) fn commands() -> impl Strategy<Value = Command> {
    let kinds = || prop::sample::select(ReservationType::ALL.to_vec());
    let modes = prop_oneof![Just(PreemptMode::Finish), Just(PreemptMode::Abort)];
    prop_oneof![
        6 => (keys(), changes())
            .prop_map(|(key, persistence)| Command::Register { key, persistence }),
        2 => (checks(), keys(), changes()).prop_map(|(current, key, persistence)| {
            Command::Replace { current, key, persistence }
        }),
        2 => (checks(), changes())
            .prop_map(|(current, persistence)| Command::Unregister { current, persistence }),
        5 => (keys(), kinds()).prop_map(|(current, kind)| Command::Acquire { current, kind }),
        5 => (keys(), keys(), kinds(), modes).prop_map(|(current, target, kind, mode)| {
            Command::Preempt { current, target, kind, mode }
        }),
        3 => (keys(), kinds()).prop_map(|(current, kind)| Command::Release { current, kind }),
        1 => keys().prop_map(|current| Command::Clear { current }),
        1 => changes().prop_map(Command::SetPersistence),
    ]
}

/// A command, of which most use the key that the host has and the type that is held: of keys and
/// types at random too few would succeed.
pub(super) fn aimed(command: Command, oracle: &Oracle, from: usize) -> Command {
    let own = Key(oracle.keys[from]);
    let held = ReservationType::from_nvme_code(oracle.kind);
    match command {
        Command::Acquire { kind, .. } => Command::Acquire { current: own, kind },
        Command::Preempt { target, kind, mode, .. } => {
            Command::Preempt { current: own, target, kind, mode }
        }
        Command::Release { kind, .. } => {
            Command::Release { current: own, kind: held.unwrap_or(kind) }
        }
        other => other,
    }
}

pub(super) fn agree(state: &Reservations, oracle: &Oracle) -> Result<(), TestCaseError> {
    let table = state.access_table();
    for number in 0..HOSTS {
        let id = host(number).id;
        let key = state.registration(&id).map_or(0, |registration| registration.key.0);
        prop_assert_eq!(key, oracle.keys[number]);
        prop_assert_eq!(state.is_holder(&id), oracle.is_holder(number));
        let grant = table.grant(&id);
        for operation in Operation::ALL {
            let expected =
                if oracle.may(number, operation) { Access::Allowed } else { Access::Conflict };
            prop_assert_eq!(table.access(&id, operation), expected);
            prop_assert_eq!(grant.access(AccessClass::of(operation)), expected);
        }
    }
    prop_assert_eq!(state.reservation().map_or(0, |held| held.kind.nvme_code()), oracle.kind);
    prop_assert_eq!(state.generation(), oracle.generation);
    prop_assert_eq!(state.persistence() == Persistence::On, oracle.is_persistent);
    Ok(())
}

/// A loss of power: what was not to be kept is gone, the generation starts over.
fn lose_power(state: &mut Reservations, oracle: &mut Oracle) {
    *state = Reservations::decode(&state.encode()).unwrap();
    let lost = Oracle { is_persistent: oracle.is_persistent, ..Oracle::default() };
    let kept = Oracle { generation: 0, ..oracle.clone() };
    *oracle = if oracle.is_persistent { kept } else { lost };
}

pub(super) fn step(
    state: &mut Reservations,
    oracle: &mut Oracle,
    from: usize,
    command: Command,
) -> Result<(), TestCaseError> {
    let before = (state.clone(), oracle.kept());
    let result = state.apply(&host(from), command);
    let mut said = oracle.apply(from, command);
    let Ok(mut outcome) = result else {
        prop_assert_eq!(said.refusal, result.err(), "{:?}", command);
        prop_assert_eq!(&*state, &before.0);
        return Ok(());
    };
    prop_assert_eq!(said.refusal, None, "{:?}", command);
    let id_of = |(number, event): (usize, Event)| Notification { to: host(number).id, event };
    let mut told: Vec<Notification> = said.told.drain(..).map(id_of).collect();
    let order = |note: &Notification| (note.to, note.event as u8);
    told.sort_by_key(order);
    outcome.notifications.sort_by_key(order);
    prop_assert_eq!(&outcome.notifications, &told);
    let mut aborted: Vec<RegistrantId> = said.aborted.iter().map(|one| host(*one).id).collect();
    aborted.sort();
    outcome.aborts.sort();
    prop_assert_eq!(&outcome.aborts, &aborted);
    prop_assert_eq!(outcome.record_changed, oracle.kept() != before.1);
    let (old, new) = (before.0.access_table(), state.access_table());
    prop_assert_eq!(outcome.access_changed, old.version() != new.version());
    prop_assert_eq!(new.version() - old.version(), u64::from(outcome.access_changed));
    if !outcome.access_changed {
        prop_assert_eq!(old, new);
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Command { from: usize, command: Command, aim: bool },
    PowerLoss,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..HOSTS, commands(), prop::bool::weighted(0.85))
            .prop_map(|(from, command, aim)| Step::Command { from, command, aim }),
        1 => Just(Step::PowerLoss),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_sequence_of_commands_goes_as_the_oracle_says(
        steps in prop::collection::vec(steps(), 1..60),
    ) {
        let mut state = Reservations::new(Persistence::Off);
        let mut oracle = Oracle::default();
        for step_of in steps {
            match step_of {
                Step::Command { from, command, aim } => {
                    let command = if aim { aimed(command, &oracle, from) } else { command };
                    step(&mut state, &mut oracle, from, command)?;
                }
                Step::PowerLoss => lose_power(&mut state, &mut oracle),
            }
            agree(&state, &oracle)?;
        }
    }
}
