//! Commands, statuses and reports of NVMe against the machine.

use proptest::prelude::*;

use super::super::registrant::Registrant;
use super::*;

const DATA: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
const ONE: Key = Key(1);
const TWO: Key = Key(2);

fn host(number: u8) -> RegistrantId {
    RegistrantId::nvme([number; 16]).unwrap()
}

fn parsed(entry: SubmissionEntry) -> Result<Command, Status> {
    Command::from_nvme(&entry, &DATA)
}

fn registering(action: u8, persistence: u8) -> SubmissionEntry {
    SubmissionEntry::reservation_register(7, 1, action, persistence)
}

fn acquiring(action: u8, kind: u8) -> SubmissionEntry {
    SubmissionEntry::reservation_acquire(7, 1, action, kind)
}

fn releasing(action: u8, kind: u8) -> SubmissionEntry {
    SubmissionEntry::reservation_release(7, 1, action, kind)
}

#[test]
fn every_action_of_register_is_read() {
    let persistence = PersistenceChange::Keep;
    assert_eq!(parsed(registering(0, 0)), Ok(Command::Register { key: TWO, persistence }));
    let current = KeyCheck::Is(ONE);
    assert_eq!(parsed(registering(1, 0)), Ok(Command::Unregister { current, persistence }));
    let replace = Command::Replace { current, key: TWO, persistence };
    assert_eq!(parsed(registering(2, 0)), Ok(replace));
    let current = KeyCheck::Ignore;
    let replace = Command::Replace { current, key: TWO, persistence };
    assert_eq!(parsed(registering(2, 0).with_reservation_key_ignored()), Ok(replace));
    for action in 3..8 {
        assert_eq!(parsed(registering(action, 0)), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn every_change_of_persistence_is_read() {
    for (value, persistence) in
        [(0, PersistenceChange::Keep), (2, PersistenceChange::Off), (3, PersistenceChange::On)]
    {
        let register = Command::Register { key: TWO, persistence };
        assert_eq!(parsed(registering(0, value)), Ok(register));
    }
    assert_eq!(parsed(registering(0, 1)), Err(Status::INVALID_FIELD));
}

#[test]
fn every_action_of_acquire_is_read() {
    for kind in ReservationType::ALL {
        let code = kind.nvme_code();
        let acquire = Command::Acquire { current: ONE, kind };
        assert_eq!(parsed(acquiring(0, code)), Ok(acquire));
        for (action, mode) in [(1, PreemptMode::Finish), (2, PreemptMode::Abort)] {
            let preempt = Command::Preempt { current: ONE, target: TWO, kind, mode };
            assert_eq!(parsed(acquiring(action, code)), Ok(preempt));
        }
        for action in 3..8 {
            assert_eq!(parsed(acquiring(action, code)), Err(Status::INVALID_FIELD));
        }
    }
    for action in 0..3 {
        for code in [0, 7, u8::MAX] {
            assert_eq!(parsed(acquiring(action, code)), Err(Status::INVALID_FIELD));
        }
        let ignoring = acquiring(action, 1).with_reservation_key_ignored();
        assert_eq!(parsed(ignoring), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn every_action_of_release_is_read() {
    let kind = ReservationType::WriteExclusive;
    assert_eq!(parsed(releasing(0, 1)), Ok(Command::Release { current: ONE, kind }));
    assert_eq!(parsed(releasing(0, 0)), Err(Status::INVALID_FIELD));
    assert_eq!(parsed(releasing(1, 0)), Ok(Command::Clear { current: ONE }));
    for action in 2..8 {
        assert_eq!(parsed(releasing(action, 1)), Err(Status::INVALID_FIELD));
    }
    for action in 0..2 {
        let ignoring = releasing(action, 1).with_reservation_key_ignored();
        assert_eq!(parsed(ignoring), Err(Status::INVALID_FIELD));
    }
}

#[test]
fn data_that_is_cut_is_refused_and_one_byte_more_is_not() {
    for (entry, need) in [(registering(0, 0), 16), (acquiring(0, 1), 16), (releasing(0, 1), 8)] {
        for length in 0..=DATA.len() {
            let command = Command::from_nvme(&entry, &DATA[..length]);
            assert_eq!(command == Err(Status::DATA_SGL_LENGTH_INVALID), length < need);
        }
    }
}

#[test]
fn another_command_is_none_of_these() {
    let report = SubmissionEntry::reservation_report(7, 1, 16, ReportForm::Extended);
    assert_eq!(parsed(report), Err(Status::INVALID_OPCODE));
    assert_eq!(parsed(SubmissionEntry::flush(7, 1)), Err(Status::INVALID_OPCODE));
}

#[test]
fn every_refusal_has_its_status() {
    for (refusal, status) in [
        (Refusal::Conflict, Status::RESERVATION_CONFLICT),
        (Refusal::ZeroKey, Status::INVALID_FIELD),
        (Refusal::ZeroPreemptKey, Status::INVALID_FIELD),
        (Refusal::ReleaseType, Status::INVALID_FIELD),
        (Refusal::PersistenceUnsupported, Status::INVALID_FIELD),
        (Refusal::TooManyRegistrants, Status::INTERNAL_ERROR),
    ] {
        assert_eq!(refusal.nvme_status(), status);
    }
}

#[test]
fn every_event_has_its_type_and_its_bit_of_the_mask() {
    let events =
        [Event::RegistrationPreempted, Event::ReservationReleased, Event::ReservationPreempted];
    for (event, number) in events.into_iter().zip(1_u8..) {
        assert_eq!(event.nvme_type(), number);
        for bit in 0..32 {
            assert_eq!(event.is_masked_by(1 << bit), bit == u32::from(number));
        }
        assert!(event.is_masked_by(mask::ALL));
    }
}

#[test]
fn a_log_page_says_what_happened_and_how_much_waits() {
    let page = Event::ReservationReleased.log_page(9, 2, 5);
    let mut bytes = [0; 64];
    bytes[0] = 9;
    bytes[8] = 2;
    bytes[9] = 2;
    bytes[12] = 5;
    assert_eq!(page.as_bytes(), bytes);
    for (available, shown) in [(255, 255), (256, 255)] {
        assert_eq!(Event::ReservationReleased.log_page(1, available, 1).available, shown);
    }
}

/// Host 1 holds and has two controllers, host 2 has none, an I_T nexus is registered too.
fn reported(form: ReportForm) -> Vec<u8> {
    let mut state = Reservations::new(Persistence::Off);
    let nexus = RegistrantId::scsi([3; 16]);
    for (id, key) in [(host(1), 0x11), (host(2), 0x22), (nexus, 0x33)] {
        let persistence = PersistenceChange::On;
        let register = Command::Register { key: Key(key), persistence };
        let _ = state.apply(&Registrant::unnamed(id), register).unwrap();
    }
    let kind = ReservationType::ExclusiveAccess;
    let acquire = Command::Acquire { current: Key(0x11), kind };
    let _ = state.apply(&Registrant::unnamed(host(1)), acquire).unwrap();
    let controllers = [
        HostController { host: host(1), controller_id: 4 },
        HostController { host: host(9), controller_id: 5 },
        HostController { host: host(1), controller_id: 6 },
    ];
    state.nvme_report(&controllers, form)
}

#[test]
fn an_extended_report_has_an_entry_for_each_controller_and_each_host_without() {
    let bytes = reported(ReportForm::Extended);
    assert_eq!(bytes.len(), 64 + 4 * 64);
    assert_eq!(bytes[..10], [3, 0, 0, 0, 2, 4, 0, 0, 0, 1]);
    assert!(bytes[10..64].iter().all(|byte| *byte == 0));
    let expected = [(4, 1, 0x11, 1), (6, 1, 0x11, 1), (0xffff, 0, 0x22, 2), (0xffff, 0, 0x33, 3)];
    for (entry, (controller_id, status, key, number)) in bytes[64..].chunks(64).zip(expected) {
        let entry = ExtendedRegisteredController::read_from_bytes(entry).unwrap();
        assert_eq!(entry.controller_id.get(), controller_id);
        assert_eq!((entry.status, entry.key.get()), (status, key));
        assert_eq!(entry.host_id, [number; 16]);
    }
}

#[test]
fn a_compact_report_says_the_same() {
    let bytes = reported(ReportForm::Compact);
    assert_eq!(bytes.len(), 24 + 4 * 24);
    assert_eq!(bytes[..10], [3, 0, 0, 0, 2, 4, 0, 0, 0, 1]);
    let last = RegisteredController::read_from_bytes(&bytes[24 + 3 * 24..]).unwrap();
    assert_eq!((last.controller_id.get(), last.status), (0xffff, 0));
    assert_eq!((last.host_id, last.key.get()), ([3; 8], 0x33));
}

#[test]
fn a_report_of_nothing_is_its_header() {
    let state = Reservations::new(Persistence::Unsupported);
    assert_eq!(state.nvme_report(&[], ReportForm::Compact), [0; 24]);
    assert_eq!(state.nvme_report(&[], ReportForm::Extended), [0; 64]);
}

#[test]
fn a_report_has_as_many_entries_as_its_count_can_say() {
    let mut state = Reservations::new(Persistence::Off);
    let persistence = PersistenceChange::Keep;
    let register = Command::Register { key: Key(1), persistence };
    let _ = state.apply(&Registrant::unnamed(host(1)), register).unwrap();
    for count in [65_535, 65_536] {
        let controllers = vec![HostController { host: host(1), controller_id: 1 }; count];
        let bytes = state.nvme_report(&controllers, ReportForm::Compact);
        assert_eq!(bytes[5..7], [0xff, 0xff]);
        assert_eq!(bytes.len(), 24 + 65_535 * 24);
    }
}

proptest! {
    #[test]
    fn any_entry_is_a_command_or_a_status(
        bytes in prop::collection::vec(any::<u8>(), 64),
        data in prop::collection::vec(any::<u8>(), 0..20),
        opcode in prop::sample::select(vec![0x0d_u8, 0x11, 0x15]),
    ) {
        let mut entry = SubmissionEntry::read_from_bytes(&bytes).unwrap();
        entry.opcode = opcode;
        if let Err(status) = Command::from_nvme(&entry, &data) {
            let known = [Status::INVALID_FIELD, Status::DATA_SGL_LENGTH_INVALID];
            prop_assert!(known.contains(&status));
        }
    }
}
