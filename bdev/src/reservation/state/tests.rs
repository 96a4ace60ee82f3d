//! Rules of the specification one by one. Sequences of commands are in `oracle`.

use super::super::access::Role;
use super::*;
use ReservationType as Kind;

const KEEP: PersistenceChange = PersistenceChange::Keep;

/// Hosts 1 to 4; the key of each, where it is registered, is ten times its number.
fn host(number: u8) -> Registrant {
    Registrant::unnamed(RegistrantId::nvme([number; 16]).unwrap())
}

fn key(number: u8) -> Key {
    Key(u64::from(number) * 10)
}

fn register(key: Key) -> Command {
    Command::Register { key, persistence: KEEP }
}

fn unregister(current: KeyCheck) -> Command {
    Command::Unregister { current, persistence: KEEP }
}

fn replace(current: KeyCheck, key: Key) -> Command {
    Command::Replace { current, key, persistence: KEEP }
}

fn preempt(from: u8, target: Key, kind: Kind) -> Command {
    Command::Preempt { current: key(from), target, kind, mode: PreemptMode::Finish }
}

fn registered(hosts: &[u8]) -> Reservations {
    let mut state = Reservations::new(Persistence::Off);
    for number in hosts {
        let _ = state.apply(&host(*number), register(key(*number))).unwrap();
    }
    state
}

/// Hosts 1 to 3 are registered and host 1 has acquired.
fn held(kind: Kind) -> Reservations {
    let mut state = registered(&[1, 2, 3]);
    let _ = state.apply(&host(1), Command::Acquire { current: key(1), kind }).unwrap();
    state
}

fn succeeds(state: &mut Reservations, from: u8, command: Command) -> Outcome {
    state.apply(&host(from), command).unwrap()
}

/// The command is refused and changes nothing.
fn refused(state: &mut Reservations, from: u8, command: Command) -> Refusal {
    let before = state.clone();
    let refusal = state.apply(&host(from), command).unwrap_err();
    assert_eq!(*state, before);
    refusal
}

fn told(event: Event, numbers: &[u8]) -> Vec<Notification> {
    numbers.iter().map(|number| Notification { to: host(*number).id, event }).collect()
}

fn holders(state: &Reservations) -> Vec<u8> {
    (1..=4).filter(|number| state.is_holder(&host(*number).id)).collect()
}

fn members(state: &Reservations) -> Vec<u8> {
    (1..=4).filter(|number| state.registration(&host(*number).id).is_some()).collect()
}

#[test]
fn to_register_the_same_key_again_is_no_error_and_another_is() {
    let mut state = registered(&[1]);
    let outcome = succeeds(&mut state, 1, register(key(1)));
    assert_eq!(outcome, Outcome::default());
    assert_eq!((state.registrations().len(), state.generation()), (1, 2));
    assert_eq!(refused(&mut state, 1, register(Key(99))), Refusal::Conflict);
}

#[test]
fn two_hosts_may_have_one_key() {
    let mut state = registered(&[1]);
    let _ = succeeds(&mut state, 2, register(key(1)));
    assert_eq!(members(&state), [1, 2]);
}

#[test]
fn a_key_of_zero_is_never_registered() {
    let mut state = registered(&[1]);
    assert_eq!(refused(&mut state, 2, register(Key::ZERO)), Refusal::ZeroKey);
    assert_eq!(refused(&mut state, 1, replace(KeyCheck::Ignore, Key::ZERO)), Refusal::ZeroKey);
}

#[test]
fn the_most_registrants_fit_and_one_more_does_not() {
    let mut state = Reservations::new(Persistence::Off);
    let one = |number: usize| Registrant::unnamed(RegistrantId::scsi([number as u8; 16]));
    for number in 0..REGISTRANTS_MAX {
        let _ = state.apply(&one(number), register(Key(1))).unwrap();
    }
    let past = one(REGISTRANTS_MAX);
    for command in [register(Key(1)), replace(KeyCheck::Ignore, Key(1))] {
        assert_eq!(state.apply(&past, command), Err(Refusal::TooManyRegistrants));
    }
    let _ = state.apply(&one(0), register(Key(1))).unwrap();
    let _ = state.apply(&one(0), unregister(KeyCheck::Is(Key(1)))).unwrap();
    let _ = state.apply(&past, register(Key(1))).unwrap();
    assert_eq!(state.registrations().len(), REGISTRANTS_MAX);
}

#[test]
fn a_key_is_replaced_by_its_owner_and_what_it_holds_stays() {
    let mut state = held(Kind::ExclusiveAccess);
    assert_eq!(refused(&mut state, 1, replace(KeyCheck::Is(key(2)), Key(9))), Refusal::Conflict);
    assert_eq!(refused(&mut state, 4, replace(KeyCheck::Is(key(4)), Key(9))), Refusal::Conflict);
    let outcome = succeeds(&mut state, 1, replace(KeyCheck::Is(key(1)), Key(9)));
    assert_eq!(outcome, Outcome::default());
    let _ = succeeds(&mut state, 1, replace(KeyCheck::Ignore, Key(8)));
    assert_eq!(state.registration(&host(1).id).unwrap().key, Key(8));
    assert_eq!(holders(&state), [1]);
}

#[test]
fn to_replace_without_regard_to_the_existing_key_registers_where_there_is_none() {
    let mut state = registered(&[]);
    let _ = succeeds(&mut state, 1, replace(KeyCheck::Ignore, key(1)));
    assert_eq!(members(&state), [1]);
}

#[test]
fn only_who_is_registered_unregisters_and_with_its_key_unless_ignored() {
    let mut state = registered(&[1, 2]);
    assert_eq!(refused(&mut state, 3, unregister(KeyCheck::Is(key(3)))), Refusal::Conflict);
    assert_eq!(refused(&mut state, 3, unregister(KeyCheck::Ignore)), Refusal::Conflict);
    assert_eq!(refused(&mut state, 1, unregister(KeyCheck::Is(key(2)))), Refusal::Conflict);
    let _ = succeeds(&mut state, 1, unregister(KeyCheck::Is(key(1))));
    let _ = succeeds(&mut state, 2, unregister(KeyCheck::Ignore));
    assert_eq!(members(&state), []);
}

#[test]
fn a_holder_that_unregisters_releases() {
    for kind in Kind::ALL {
        let mut state = held(kind);
        let outcome = succeeds(&mut state, 1, unregister(KeyCheck::Is(key(1))));
        let (expected, remaining): (_, &[u8]) = if kind.is_held_by_all() {
            (vec![], &[2, 3])
        } else if kind.is_shared_with_registrants() {
            (told(Event::ReservationReleased, &[2, 3]), &[])
        } else {
            (vec![], &[])
        };
        assert_eq!(outcome.notifications, expected, "{kind:?}");
        assert_eq!(holders(&state), remaining, "{kind:?}");
        assert!(outcome.access_changed);
    }
}

#[test]
fn what_all_hold_ends_with_the_last_of_them() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_held_by_all()) {
        let mut state = held(kind);
        for number in 1..=3 {
            assert_eq!(state.reservation().unwrap().holder, Holder::AllRegistrants);
            let _ = succeeds(&mut state, number, unregister(KeyCheck::Ignore));
        }
        assert_eq!(state.reservation(), None);
        assert_eq!(state.access_table().role(&host(1).id), None);
    }
}

#[test]
fn a_registrant_that_leaves_what_another_holds_releases_nothing() {
    let mut state = held(Kind::WriteExclusiveRegistrantsOnly);
    let outcome = succeeds(&mut state, 2, unregister(KeyCheck::Ignore));
    assert_eq!(outcome.notifications, []);
    assert_eq!((members(&state), holders(&state)), (vec![1, 3], vec![1]));
    assert_eq!(state.access_table().role(&host(2).id), Some(Role::Stranger));
}

#[test]
fn only_registrants_with_their_key_acquire_preempt_release_and_clear() {
    let kind = Kind::WriteExclusive;
    let mut state = held(kind);
    for (from, current) in [(4, key(4)), (4, key(1)), (1, key(2)), (1, Key::ZERO)] {
        for command in [
            Command::Acquire { current, kind },
            Command::Preempt { current, target: key(3), kind, mode: PreemptMode::Finish },
            Command::Release { current, kind },
            Command::Clear { current },
        ] {
            assert_eq!(refused(&mut state, from, command), Refusal::Conflict);
        }
    }
}

#[test]
fn to_acquire_what_one_holds_is_no_error_and_anything_else_is() {
    for first in Kind::ALL {
        for second in Kind::ALL {
            for from in [1, 2] {
                let mut state = held(first);
                let acquire = Command::Acquire { current: key(from), kind: second };
                if first == second && (from == 1 || first.is_held_by_all()) {
                    assert_eq!(succeeds(&mut state, from, acquire), Outcome::default());
                } else {
                    assert_eq!(refused(&mut state, from, acquire), Refusal::Conflict);
                }
            }
        }
    }
}

#[test]
fn to_release_takes_the_holder_and_its_type() {
    for kind in Kind::ALL {
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            let mut state = held(kind);
            let release = Command::Release { current: key(1), kind: other };
            assert_eq!(refused(&mut state, 1, release), Refusal::ReleaseType);
        }
        let mut state = held(kind);
        let outcome = succeeds(&mut state, 1, Command::Release { current: key(1), kind });
        let expected = match kind.is_shared_with_registrants() {
            true => told(Event::ReservationReleased, &[2, 3]),
            false => vec![],
        };
        assert_eq!(outcome.notifications, expected, "{kind:?}");
        assert_eq!((state.reservation(), members(&state)), (None, vec![1, 2, 3]));
    }
}

#[test]
fn a_release_by_one_that_holds_nothing_has_no_effect_and_no_error() {
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_held_by_all()) {
        for release_kind in Kind::ALL {
            let mut state = held(kind);
            let before = state.clone();
            let release = Command::Release { current: key(2), kind: release_kind };
            assert_eq!(succeeds(&mut state, 2, release), Outcome::default());
            assert_eq!(state, before);
        }
    }
    let mut state = registered(&[1]);
    let release = Command::Release { current: key(1), kind: Kind::WriteExclusive };
    assert_eq!(succeeds(&mut state, 1, release), Outcome::default());
}

#[test]
fn a_clear_takes_all_from_everyone_whoever_holds() {
    for kind in Kind::ALL {
        let mut state = held(kind);
        let outcome = succeeds(&mut state, 2, Command::Clear { current: key(2) });
        assert_eq!(outcome.notifications, told(Event::ReservationPreempted, &[1, 3]));
        assert_eq!((state.reservation(), members(&state)), (None, vec![]));
        assert!(outcome.access_changed);
    }
}

#[test]
fn to_preempt_the_holder_takes_its_place() {
    for first in Kind::ALL.into_iter().filter(|kind| !kind.is_held_by_all()) {
        for second in Kind::ALL {
            let mut state = held(first);
            let outcome = succeeds(&mut state, 2, preempt(2, key(1), second));
            let mut expected = match first == second {
                true => vec![],
                false => told(Event::ReservationReleased, &[3]),
            };
            expected.extend(told(Event::RegistrationPreempted, &[1]));
            assert_eq!(outcome.notifications, expected, "{first:?} {second:?}");
            assert_eq!(outcome.aborts, []);
            assert_eq!(members(&state), [2, 3]);
            let all: &[u8] = if second.is_held_by_all() { &[2, 3] } else { &[2] };
            assert_eq!(holders(&state), all);
            assert_eq!(state.reservation().unwrap().kind, second);
        }
    }
}

#[test]
fn to_preempt_another_registrant_unregisters_it_alone() {
    for kind in Kind::ALL {
        let mut state = held(kind);
        let outcome = succeeds(&mut state, 2, preempt(2, key(3), Kind::ExclusiveAccess));
        assert_eq!(outcome.notifications, told(Event::RegistrationPreempted, &[3]));
        assert_eq!(members(&state), [1, 2]);
        assert_eq!(state.reservation().unwrap().kind, kind);
        assert!(state.is_holder(&host(1).id));
    }
}

#[test]
fn a_holder_that_preempts_its_own_key_changes_the_type_and_stays() {
    let mut state = held(Kind::WriteExclusive);
    let kind = Kind::ExclusiveAccessRegistrantsOnly;
    let outcome = succeeds(&mut state, 1, preempt(1, key(1), kind));
    assert_eq!(outcome.notifications, told(Event::ReservationReleased, &[2, 3]));
    assert_eq!((members(&state), holders(&state)), (vec![1, 2, 3], vec![1]));
    assert_eq!(state.reservation().unwrap().kind, kind);
}

#[test]
fn one_with_the_holders_key_preempts_the_holder_and_stays() {
    let kind = Kind::WriteExclusive;
    let mut state = held(kind);
    let _ = succeeds(&mut state, 4, register(key(1)));
    let take = Command::Preempt { current: key(1), target: key(1), kind, mode: PreemptMode::Abort };
    let outcome = succeeds(&mut state, 4, take);
    assert_eq!(outcome.notifications, told(Event::RegistrationPreempted, &[1]));
    assert_eq!(outcome.aborts, [host(1).id]);
    assert_eq!((members(&state), holders(&state)), (vec![2, 3, 4], vec![4]));
}

#[test]
fn one_that_preempts_its_own_key_and_holds_nothing_is_unregistered_in_silence() {
    let mut state = held(Kind::WriteExclusive);
    let outcome = succeeds(&mut state, 2, preempt(2, key(2), Kind::WriteExclusive));
    assert_eq!(outcome.notifications, []);
    assert_eq!((members(&state), holders(&state)), (vec![1, 3], vec![1]));
}

#[test]
fn without_a_reservation_to_preempt_unregisters_and_reserves_nothing() {
    let mut state = registered(&[1, 2]);
    let outcome = succeeds(&mut state, 1, preempt(1, key(2), Kind::WriteExclusive));
    assert_eq!(outcome.notifications, told(Event::RegistrationPreempted, &[2]));
    assert_eq!((state.reservation(), members(&state)), (None, vec![1]));
    assert!(!outcome.access_changed);
}

#[test]
fn to_preempt_a_key_that_nobody_has_is_a_conflict() {
    let mut none = registered(&[1]);
    for target in [Key(99), Key::ZERO] {
        let command = preempt(1, target, Kind::WriteExclusive);
        assert_eq!(refused(&mut none, 1, command), Refusal::Conflict);
    }
    for kind in Kind::ALL {
        let command = preempt(1, Key(99), Kind::WriteExclusive);
        assert_eq!(refused(&mut held(kind), 1, command), Refusal::Conflict);
    }
}

#[test]
fn key_zero_preempts_all_others_where_all_hold_and_nobody_elsewhere() {
    for first in Kind::ALL {
        for second in Kind::ALL {
            let mut state = held(first);
            let command = Command::Preempt {
                current: key(2),
                target: Key::ZERO,
                kind: second,
                mode: PreemptMode::Abort,
            };
            if !first.is_held_by_all() {
                assert_eq!(refused(&mut state, 2, command), Refusal::ZeroPreemptKey);
                continue;
            }
            let outcome = succeeds(&mut state, 2, command);
            assert_eq!(outcome.notifications, told(Event::RegistrationPreempted, &[1, 3]));
            assert_eq!(outcome.aborts, [host(1).id, host(3).id]);
            assert_eq!((members(&state), holders(&state)), (vec![2], vec![2]));
            assert_eq!(state.reservation().unwrap().kind, second);
        }
    }
}

#[test]
fn where_all_hold_the_last_that_preempts_itself_ends_it() {
    let kind = Kind::WriteExclusiveAllRegistrants;
    let mut state = registered(&[1]);
    let _ = succeeds(&mut state, 1, Command::Acquire { current: key(1), kind });
    let _ = succeeds(&mut state, 1, preempt(1, key(1), kind));
    assert_eq!((state.reservation(), members(&state)), (None, vec![]));
}

#[test]
fn the_generation_counts_and_wraps() {
    let kind = Kind::WriteExclusive;
    let mut state = registered(&[1, 2]);
    state.generation = u32::MAX;
    let current = key(1);
    for command in [
        Command::Acquire { current, kind },
        Command::Release { current, kind },
        Command::SetPersistence(PersistenceChange::On),
    ] {
        let _ = succeeds(&mut state, 1, command);
        assert_eq!(state.generation(), u32::MAX);
    }
    for (command, generation) in [
        (register(key(1)), 0),
        (replace(KeyCheck::Ignore, key(1)), 1),
        (preempt(1, key(2), kind), 2),
        (Command::Clear { current }, 3),
    ] {
        let _ = succeeds(&mut state, 1, command);
        assert_eq!(state.generation(), generation);
    }
    assert_eq!(refused(&mut state, 1, unregister(KeyCheck::Ignore)), Refusal::Conflict);
}

#[test]
fn persistence_is_switched_by_registering_and_alone() {
    for (change, expected) in [
        (PersistenceChange::On, Persistence::On),
        (PersistenceChange::Keep, Persistence::On),
        (PersistenceChange::Off, Persistence::Off),
        (PersistenceChange::Keep, Persistence::Off),
    ] {
        let mut by_command = registered(&[1]);
        let mut alone = registered(&[1]);
        for state in [&mut by_command, &mut alone] {
            let on = matches!(expected, Persistence::On) || change == PersistenceChange::Off;
            state.persistence = if on { Persistence::On } else { Persistence::Off };
        }
        let register = Command::Register { key: key(1), persistence: change };
        let first = succeeds(&mut by_command, 1, register);
        let second = succeeds(&mut alone, 1, Command::SetPersistence(change));
        assert_eq!((by_command.persistence(), alone.persistence()), (expected, expected));
        let changes = change == PersistenceChange::Off;
        assert_eq!((first.record_changed, second.record_changed), (changes, changes));
    }
}

#[test]
fn a_device_that_keeps_nothing_refuses_to_and_the_command_with_it() {
    let mut state = Reservations::new(Persistence::Unsupported);
    let persistence = PersistenceChange::On;
    let current = KeyCheck::Ignore;
    for command in [
        Command::Register { key: key(1), persistence },
        Command::Replace { current, key: key(1), persistence },
        Command::Unregister { current, persistence },
        Command::SetPersistence(persistence),
    ] {
        assert_eq!(refused(&mut state, 1, command), Refusal::PersistenceUnsupported);
    }
    let off = Command::Register { key: key(1), persistence: PersistenceChange::Off };
    let outcome = succeeds(&mut state, 1, off);
    assert!(!outcome.record_changed);
    assert_eq!(state.persistence(), Persistence::Unsupported);
}

#[test]
fn a_version_is_new_when_and_only_when_the_table_is() {
    let mut state = registered(&[1]);
    assert_eq!(state.access_table().version(), 0);
    let kind = Kind::WriteExclusive;
    let acquire = Command::Acquire { current: key(1), kind };
    assert!(succeeds(&mut state, 1, acquire).access_changed);
    assert_eq!(state.access_table().version(), 1);
    assert!(!succeeds(&mut state, 1, acquire).access_changed);
    assert_eq!(state.access_table().version(), 1);
    assert!(succeeds(&mut state, 2, register(key(2))).access_changed);
    assert_eq!(state.access_table().version(), 2);
    assert!(!succeeds(&mut state, 2, replace(KeyCheck::Ignore, Key(7))).access_changed);
}
