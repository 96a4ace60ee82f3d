//! What a record must bring back, and what it must refuse.

use proptest::prelude::*;

use super::super::command::{Command, PersistenceChange};
use super::*;

fn host(number: u8) -> Registrant {
    Registrant::unnamed(RegistrantId::nvme([number; 16]).unwrap())
}

fn nexus(number: u8, name: &[u8]) -> Registrant {
    let id = RegistrantId::scsi([number; 16]);
    Registrant { id, name: RegistrantName::new(name).unwrap() }
}

fn register(state: &mut Reservations, who: &Registrant, key: u64) {
    let persistence = PersistenceChange::On;
    let _ = state.apply(who, Command::Register { key: Key(key), persistence }).unwrap();
}

fn held(kind: ReservationType) -> Reservations {
    let mut state = Reservations::new(Persistence::Off);
    register(&mut state, &host(1), 11);
    register(&mut state, &nexus(2, b"iqn.2026-11.test:two"), 22);
    let _ = state.apply(&host(1), Command::Acquire { current: Key(11), kind }).unwrap();
    state
}

/// A sealed record in which one thing is not as it was written.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> Result<Reservations, DecodeError> {
    let mut bytes = held(ReservationType::WriteExclusive).encode();
    change(&mut bytes);
    seal(&mut bytes);
    Reservations::decode(&bytes)
}

fn inconsistent(change: impl FnOnce(&mut Vec<u8>)) -> Inconsistency {
    match altered(change) {
        Err(DecodeError::Inconsistent(inconsistency)) => inconsistency,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_type_comes_back_after_a_loss_of_power() {
    for kind in ReservationType::ALL {
        let state = held(kind);
        let back = Reservations::decode(&state.encode()).unwrap();
        assert_eq!(back.registrations(), state.registrations());
        assert_eq!(back.reservation(), state.reservation());
        assert_eq!(back.persistence(), Persistence::On);
        assert_eq!(back.generation(), 0);
        for who in [host(1).id, nexus(2, b"").id, host(3).id] {
            assert_eq!(back.access_table().role(&who), state.access_table().role(&who));
        }
    }
}

#[test]
fn nothing_comes_back_that_was_not_to_be_kept() {
    let mut state = held(ReservationType::ExclusiveAccess);
    let off = Command::SetPersistence(PersistenceChange::Off);
    assert!(state.apply(&host(1), off).unwrap().record_changed);
    let bytes = state.encode();
    assert_eq!(bytes.len(), HEADER_BYTES);
    assert_eq!(Reservations::decode(&bytes), Ok(Reservations::new(Persistence::Off)));
}

#[test]
fn the_longest_record_fits_and_comes_back() {
    let mut state = Reservations::new(Persistence::Off);
    for number in 0..REGISTRANTS_MAX {
        let number = u8::try_from(number).unwrap();
        register(&mut state, &nexus(number, &[number; NAME_BYTES_MAX]), 1);
    }
    let bytes = state.encode();
    assert_eq!(bytes.len(), RECORD_BYTES_MAX);
    let back = Reservations::decode(&bytes).unwrap();
    assert_eq!(back.registrations(), state.registrations());
}

#[test]
fn one_registration_more_than_the_most_is_refused() {
    let mut bytes = held(ReservationType::WriteExclusive).encode();
    let count = u16::try_from(REGISTRANTS_MAX + 1).unwrap();
    bytes[12..14].copy_from_slice(&count.to_le_bytes());
    seal(&mut bytes);
    let error = Reservations::decode(&bytes).unwrap_err();
    assert_eq!(error, Inconsistency::TooManyRegistrations.into());
}

#[test]
fn what_follows_a_record_does_not_matter() {
    let state = held(ReservationType::WriteExclusive);
    let mut bytes = state.encode();
    bytes.resize(4096, 0xa5);
    assert_eq!(Reservations::decode(&bytes).unwrap().registrations(), state.registrations());
}

#[test]
fn a_record_that_is_cut_is_refused_at_every_length() {
    let bytes = held(ReservationType::WriteExclusive).encode();
    for have_bytes in 0..bytes.len() {
        let need_bytes = if have_bytes < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
        let error = Reservations::decode(&bytes[..have_bytes]).unwrap_err();
        assert_eq!(error, DecodeError::Truncated { need_bytes, have_bytes });
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = held(ReservationType::WriteExclusive).encode();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Reservations::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let bytes = held(ReservationType::WriteExclusive).encode();
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        Reservations::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, b'r'), DecodeError::Magic);
    assert_eq!(with(8, 2), DecodeError::Version(2));
    assert!(matches!(with(24, 9), DecodeError::Checksum { .. }));
    let below = u8::try_from(HEADER_BYTES - 1).unwrap();
    assert_eq!(with(16, below), DecodeError::Length(u32::from(below)));
    let most = u32::try_from(RECORD_BYTES_MAX).unwrap();
    for (len_bytes, is_possible) in [(most, true), (most + 1, false), (u32::MAX, false)] {
        let mut bytes = bytes.clone();
        bytes[16..20].copy_from_slice(&len_bytes.to_le_bytes());
        let error = Reservations::decode(&bytes).unwrap_err();
        assert_eq!(matches!(error, DecodeError::Truncated { .. }), is_possible);
        assert_eq!(error == DecodeError::Length(len_bytes), !is_possible);
    }
}

#[test]
fn a_record_of_the_right_checksum_that_makes_no_sense_is_refused() {
    assert_eq!(inconsistent(|bytes| bytes[10] = 2), Inconsistency::Persistence);
    assert_eq!(inconsistent(|bytes| bytes[10] = 0), Inconsistency::Persistence);
    assert_eq!(inconsistent(|bytes| bytes[11] = 7), Inconsistency::Kind);
    assert_eq!(inconsistent(|bytes| bytes[11] = 0), Inconsistency::Holder);
    assert_eq!(inconsistent(|bytes| bytes[11] = 5), Inconsistency::Holder);
    assert_eq!(inconsistent(|bytes| bytes[14] = 2), Inconsistency::Holder);
    assert_eq!(inconsistent(|bytes| bytes[12] = 1), Inconsistency::Length);
    assert_eq!(inconsistent(|bytes| bytes[12] = 3), Inconsistency::Length);
    assert_eq!(inconsistent(|bytes| bytes.push(0)), Inconsistency::Length);
    assert_eq!(inconsistent(|bytes| bytes[24] = 3), Inconsistency::Identity);
    assert_eq!(inconsistent(|bytes| bytes[36..52].fill(0)), Inconsistency::Identity);
    assert_eq!(inconsistent(|bytes| bytes[28] = 0), Inconsistency::Key);
    assert_eq!(inconsistent(|bytes| bytes[27] = 2), Inconsistency::Name);
    let twice = |bytes: &mut Vec<u8>| {
        bytes[24] = 2;
        bytes[36..52].fill(2);
    };
    assert_eq!(inconsistent(twice), Inconsistency::Duplicate);
}

#[test]
fn a_reservation_of_all_without_any_is_refused() {
    let mut state = Reservations::new(Persistence::Off);
    register(&mut state, &host(1), 1);
    let _ = state.apply(&host(1), Command::Clear { current: Key(1) }).unwrap();
    let mut bytes = state.encode();
    bytes[11] = 5;
    seal(&mut bytes);
    assert_eq!(Reservations::decode(&bytes), Err(Inconsistency::Holder.into()));
}

proptest! {
    #[test]
    fn bytes_of_the_right_checksum_decode_or_are_refused(
        body in prop::collection::vec(any::<u8>(), 0..200),
        fields: [u8; 6],
    ) {
        let mut bytes = held(ReservationType::WriteExclusive).encode();
        bytes.truncate(HEADER_BYTES);
        bytes[10..16].copy_from_slice(&fields);
        bytes.extend_from_slice(&body);
        seal(&mut bytes);
        if let Ok(state) = Reservations::decode(&bytes) {
            prop_assert_eq!(state.encode(), bytes);
        }
    }
}
