//! Reservations of a drive that two hosts share, over the software controller.

use reactor::Cx;
use reactor::cx::test_context;

use super::options::Options;
use super::software::{Config, Fault, Feature};
use super::stepped::Stepped;
use super::{ControllerEvent, PcieDevice, ResetReason};
use crate::device::BlockDevice;
use crate::io::{Io, Lba, Memory, Operation, Token};
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;
use crate::reservation::device::{Answer, Outcome, Pending, Report, Request};
use crate::reservation::{Command, Key, PersistenceChange, PreemptMode, ReservationType};

const US: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [9; 16];
const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

fn open(cx: &mut Cx, reservations: Feature, host_id: Option<[u8; 16]>) -> Stepped {
    let config = Config { reservations, ..Config::default() };
    Stepped::open(cx, config, Options { queues: 2, host_id, ..Options::default() }, 8)
}

fn device(stepped: &Stepped) -> PcieDevice {
    PcieDevice::new("drive".into(), stepped.controller.clone(), 1).unwrap()
}

fn ask(stepped: &mut Stepped, request: Request) -> Option<Outcome> {
    let (reply, pending) = Pending::new(None);
    device(stepped).reservations().unwrap().begin(request, reply);
    stepped.step();
    pending.take()
}

fn register(key: u64) -> Command {
    Command::Register { key: Key(key), persistence: PersistenceChange::Keep }
}

fn change(stepped: &mut Stepped, command: Command) -> Outcome {
    ask(stepped, Request::Change(command)).expect("it is answered")
}

fn report(stepped: &mut Stepped) -> Report {
    match ask(stepped, Request::Report) {
        Some(Ok(Answer::Report(report))) => report,
        other => panic!("{other:?}"),
    }
}

fn io(stepped: &mut Stepped, cx: &mut Cx, operation: Operation) -> Status {
    let buffer = cx.dma.take(512).unwrap();
    let memory = Memory::One(buffer.segment(512));
    cx.dma.give(buffer);
    stepped.submit(cx, Io::with_memory(operation, Lba(0), 1, memory, Token(1))).unwrap();
    stepped.drain(cx, 100)[0].status
}

#[test]
fn who_registers_and_acquires_keeps_others_off_and_who_is_preempted_is_kept_off() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx, Feature::Present, Some(US));
    assert!(device(&stepped).reservations().unwrap().abilities().has(KIND));
    assert_eq!(change(&mut stepped, register(1)), Ok(Answer::Changed));
    assert_eq!(
        change(&mut stepped, Command::Acquire { current: Key(1), kind: KIND }),
        Ok(Answer::Changed)
    );
    let told = report(&mut stepped);
    assert_eq!((told.kind, told.registrants.len()), (Some(KIND), 1));
    assert_eq!((told.registrants[0].host_id, told.registrants[0].key), (US, Key(1)));
    assert!(told.registrants[0].is_holder);
    assert_eq!(io(&mut stepped, &mut cx, Operation::Write), Status::SUCCESS);
    stepped.software.reserve_as(OTHER, register(2)).unwrap();
    let mode = PreemptMode::Abort;
    let preempt = Command::Preempt { current: Key(2), target: Key(1), kind: KIND, mode };
    stepped.software.reserve_as(OTHER, preempt).unwrap();
    assert_eq!(io(&mut stepped, &mut cx, Operation::Write), Status::RESERVATION_CONFLICT);
    assert_eq!(io(&mut stepped, &mut cx, Operation::Read), Status::SUCCESS);
    let late = change(&mut stepped, Command::Release { current: Key(1), kind: KIND });
    assert_eq!(late, Err(Status::RESERVATION_CONFLICT));
    assert_eq!(report(&mut stepped).registrants[0].host_id, OTHER);
    assert_eq!(stepped.software.violations(), [""; 0]);
}

#[test]
fn a_drive_without_reservations_or_a_host_without_identity_has_none() {
    for (reservations, host_id) in [(Feature::Absent, Some(US)), (Feature::Present, None)] {
        let (mut cx, _) = test_context();
        let stepped = open(&mut cx, reservations, host_id);
        assert!(device(&stepped).reservations().is_none());
        assert_eq!(stepped.controller.queues(), 2);
    }
}

#[test]
fn cores_leave_a_queue_for_reservations_and_a_reset_leaves_them_in_force() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx, Feature::Present, Some(US));
    let drive = device(&stepped);
    let second = drive.open(&mut cx, 8).unwrap();
    assert!(drive.open(&mut cx, 8).is_err(), "there are two queues for cores");
    assert_eq!(change(&mut stepped, register(1)), Ok(Answer::Changed));
    stepped.controller.reset();
    stepped.step();
    assert_eq!(report(&mut stepped).registrants.len(), 1, "it knows the host again");
    drop(second);
}

#[test]
fn a_request_that_the_drive_does_not_answer_fails_and_resets_it() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx, Feature::Present, Some(US));
    stepped.software.inject(Fault::StuckForGood);
    let lost = Some(Err(Status::INTERNAL_PATH_ERROR));
    assert_eq!(ask(&mut stepped, Request::Report), lost);
    let events: Vec<_> = std::iter::from_fn(|| stepped.controller.take_event()).collect();
    let reason = ResetReason::AdminTimeout;
    assert_eq!(events, [ControllerEvent::Resetting(reason), ControllerEvent::Recovered]);
    assert_eq!(report(&mut stepped), Report::default());
    stepped.software.inject(Fault::Gone);
    assert_eq!(ask(&mut stepped, Request::Report), lost);
    assert_eq!(ask(&mut stepped, Request::Report), lost);
}

#[test]
fn requests_wait_as_far_as_there_is_room_and_no_further() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx, Feature::Present, Some(US));
    let drive = device(&stepped).reservations().unwrap();
    let ask = || {
        let (reply, pending) = Pending::new(None);
        drive.begin(Request::Report, reply);
        pending
    };
    let waiting: Vec<Pending> = (0..super::reserve::REQUESTS_MAX).map(|_| ask()).collect();
    assert_eq!(ask().take(), Some(Err(Status::INTERNAL_PATH_ERROR)));
    assert!(waiting.iter().all(|one| one.take().is_none()));
    stepped.step();
    assert!(waiting.iter().all(|one| one.take().is_some_and(|answer| answer.is_ok())));
}
