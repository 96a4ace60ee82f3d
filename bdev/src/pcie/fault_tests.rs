//! The driver over a software controller that misbehaves.

use std::time::Duration;

use proptest::prelude::*;
use reactor::cx::test_context;
use reactor::{Cx, Nanos, VirtualClock};

use super::queue_pair::{GONE, RESET};
use super::software::{Config, Fault, SoftwareController};
use super::stepped::Stepped;
use super::*;
use crate::device::BlockDevice;
use crate::io::{Completion, Completions, Io, Lba, Token};
use crate::nvme::async_event::AsyncEvent;
use crate::nvme::log_page::{AnaState, critical_warning};
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;

const OPTIONS: fn() -> Options = Options::default;

struct Bench {
    cx: Cx,
    hand: VirtualClock,
    stepped: Stepped,
}

impl Bench {
    fn new(options: Options) -> Bench {
        let (mut cx, hand) = test_context();
        let stepped = Stepped::open(&mut cx, Config::default(), options, 64);
        Bench { cx, hand, stepped }
    }

    fn read(&mut self, token: u64) {
        let buffer = self.cx.dma.take(4096).unwrap();
        let segment = buffer.segment(4096);
        // The test looks at statuses only, so that all reads may share a buffer.
        self.cx.dma.give(buffer);
        let io = Io::read(Lba(8 * (token % 100)), 8, segment, Token(token));
        self.stepped.submit(&mut self.cx, io).unwrap();
    }

    fn drain(&mut self) -> Vec<Completion> {
        let ended = self.stepped.drain(&mut self.cx, 200);
        assert_eq!(self.stepped.inflight(), 0, "everything ends");
        ended
    }

    /// Lets time pass for the core and the supervisor, pass by pass.
    fn wait(&mut self, span: Duration) -> Vec<Completion> {
        let mut ended = Vec::new();
        let mut completions = Completions::new();
        let step = Nanos(u64::try_from(span.as_nanos()).unwrap() / 20);
        for _ in 0..20 {
            self.hand.advance(step);
            self.cx.advance_clock();
            self.stepped.software.advance(step);
            for _ in 0..3 {
                self.stepped.pass(&mut self.cx, &mut completions);
                ended.extend(completions.drain());
            }
        }
        ended
    }

    fn events(&self) -> Vec<ControllerEvent> {
        std::iter::from_fn(|| self.stepped.controller.take_event()).collect()
    }

    fn inject(&self, fault: Fault) {
        self.stepped.software.inject(fault);
    }

    fn works(&mut self) {
        self.read(1000);
        assert_eq!(self.drain(), [Completion::new(Token(1000), Status::SUCCESS)]);
        assert_eq!(self.stepped.software.violations(), [""; 0]);
    }
}

fn ended(token: u64, status: Status) -> Completion {
    Completion::new(Token(token), status)
}

#[test]
fn every_status_goes_up_as_it_came() {
    let mut bench = Bench::new(OPTIONS());
    for code in (0..0x400).chain([0x7ff]) {
        let status = Status::from_code(code);
        bench.inject(Fault::Status(status));
        bench.read(1);
        assert_eq!(bench.drain(), [ended(1, status)]);
    }
    let firm = Status::INTERNAL_ERROR.with_do_not_retry();
    bench.inject(Fault::DoneButStatus(firm));
    bench.read(1);
    assert_eq!(bench.drain(), [ended(1, firm)]);
    bench.works();
}

#[test]
fn a_late_io_is_aborted_and_says_so() {
    let mut bench = Bench::new(OPTIONS());
    bench.inject(Fault::Stuck);
    bench.read(1);
    assert_eq!(bench.wait(Duration::from_secs(29)), []);
    assert_eq!(bench.wait(Duration::from_secs(3)), [ended(1, Status::ABORTED_BY_HOST)]);
    assert_eq!(bench.events(), [ControllerEvent::Aborted { queue_id: 1 }]);
    assert_eq!(bench.stepped.software.counts().resets, 0);
    bench.works();
}

#[test]
fn an_io_that_no_abort_ends_resets_the_controller_and_is_sent_again() {
    let mut bench = Bench::new(OPTIONS());
    let resets = bench.stepped.software.counts().resets;
    bench.inject(Fault::StuckForGood);
    bench.read(1);
    bench.read(2);
    assert_eq!(bench.wait(Duration::from_secs(1)), [ended(2, Status::SUCCESS)]);
    assert_eq!(bench.wait(Duration::from_secs(40)), [ended(1, Status::SUCCESS)]);
    assert_eq!(bench.stepped.software.counts().resets, resets + 1);
    let reason = ResetReason::IoTimeout;
    let expected = [
        ControllerEvent::Aborted { queue_id: 1 },
        ControllerEvent::Resetting(reason),
        ControllerEvent::Recovered,
    ];
    assert_eq!(bench.events(), expected);
    bench.works();
}

#[test]
fn io_in_flight_at_a_reset_fails_when_that_was_asked_for() {
    let mut bench = Bench::new(Options { recovery: Recovery::Fail, ..OPTIONS() });
    bench.inject(Fault::StuckForGood);
    bench.read(1);
    bench.wait(Duration::from_secs(1));
    bench.inject(Fault::Fatal);
    assert_eq!(bench.drain(), [ended(1, RESET)]);
    bench.works();
}

#[test]
fn a_fatal_status_or_a_controller_not_ready_is_reset_and_io_goes_on() {
    let faults =
        [(Fault::Fatal, ResetReason::FatalStatus), (Fault::NotReady, ResetReason::NotReady)];
    for (fault, reason) in faults {
        let mut bench = Bench::new(OPTIONS());
        (0..32).for_each(|token| bench.read(token));
        bench.inject(fault);
        let mut all = bench.drain();
        all.sort_by_key(|completion| completion.token);
        let expected: Vec<_> = (0..32).map(|token| ended(token, Status::SUCCESS)).collect();
        assert_eq!(all, expected);
        let events = [ControllerEvent::Resetting(reason), ControllerEvent::Recovered];
        assert_eq!(bench.events(), events);
        bench.works();
    }
}

#[test]
fn a_completion_of_nothing_or_a_second_one_resets_the_controller() {
    for fault in [Fault::UnknownId(0xffff), Fault::UnknownId(7), Fault::Twice] {
        let mut bench = Bench::new(OPTIONS());
        bench.inject(fault);
        (0..8).for_each(|token| bench.read(token));
        let mut all = bench.drain();
        all.sort_by_key(|completion| completion.token);
        let expected: Vec<_> = (0..8).map(|token| ended(token, Status::SUCCESS)).collect();
        assert_eq!(all, expected, "{fault:?}");
        bench.wait(Duration::from_secs(1));
        let reason = ResetReason::Protocol;
        let events = [ControllerEvent::Resetting(reason), ControllerEvent::Recovered];
        assert_eq!(bench.events(), events, "{fault:?}");
        bench.works();
    }
}

#[test]
fn a_completion_of_the_wrong_phase_is_none_and_the_io_is_late() {
    let mut bench = Bench::new(OPTIONS());
    bench.inject(Fault::WrongPhase);
    bench.read(1);
    assert_eq!(bench.wait(Duration::from_secs(29)), []);
    assert_eq!(bench.wait(Duration::from_secs(20)), [ended(1, Status::SUCCESS)]);
    bench.works();
}

#[test]
fn a_drive_that_is_pulled_out_fails_its_io_and_reaches_no_memory() {
    let mut bench = Bench::new(OPTIONS());
    bench.inject(Fault::StuckForGood);
    (0..8).for_each(|token| bench.read(token));
    bench.stepped.queue_pair().flush(&mut bench.cx);
    bench.inject(Fault::Gone);
    let all = bench.drain();
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|completion| completion.status == GONE), "{all:?}");
    assert_eq!(bench.events(), [ControllerEvent::Removed]);
    assert_eq!(bench.stepped.software.mappings(), 0);
    bench.read(9);
    assert_eq!(bench.drain(), [ended(9, GONE)]);
}

#[test]
fn a_controller_that_does_not_come_back_is_given_up() {
    let mut bench = Bench::new(OPTIONS());
    bench.inject(Fault::NeverReady);
    bench.inject(Fault::Fatal);
    bench.read(1);
    assert_eq!(bench.drain(), [ended(1, GONE)]);
    let reason = ResetReason::FatalStatus;
    let events = [ControllerEvent::Resetting(reason), ControllerEvent::GivenUp(reason)];
    assert_eq!(bench.events(), events);
    assert_eq!(bench.stepped.software.mappings(), 0);
}

#[test]
fn a_controller_that_does_not_stop_is_reset_from_outside() {
    let mut bench = Bench::new(OPTIONS());
    bench.inject(Fault::NeverDisabled);
    bench.inject(Fault::Fatal);
    bench.read(1);
    assert_eq!(bench.drain(), [ended(1, Status::SUCCESS)]);
    bench.works();
}

#[test]
fn a_controller_that_fails_again_and_again_is_given_up() {
    let mut bench = Bench::new(OPTIONS());
    for _ in 0..options::RESETS_MAX {
        bench.inject(Fault::Fatal);
        bench.wait(Duration::from_millis(100));
    }
    assert!(!bench.stepped.supervisor.borrow().as_ref().unwrap().is_dead());
    bench.inject(Fault::Fatal);
    bench.wait(Duration::from_millis(100));
    assert!(bench.stepped.supervisor.borrow().as_ref().unwrap().is_dead());
    let reason = ResetReason::FatalStatus;
    assert_eq!(bench.events().last(), Some(&ControllerEvent::GivenUp(reason)));
}

#[test]
fn a_health_warning_is_an_event_and_so_is_the_next_one() {
    let mut bench = Bench::new(OPTIONS());
    for warnings in [critical_warning::SPARE, critical_warning::TEMPERATURE] {
        bench.stepped.software.warn(warnings);
        bench.wait(Duration::from_millis(10));
        let events = bench.events();
        let [ControllerEvent::Health { warnings: told, .. }] = events.as_slice() else {
            panic!("a health event: {events:?}");
        };
        assert_eq!(*told, warnings);
    }
}

#[test]
fn a_warning_that_was_there_before_is_told_at_once() {
    let (mut cx, _) = test_context();
    let software = SoftwareController::new(Config::default());
    software.warn(critical_warning::READ_ONLY);
    software.forget_events();
    let stepped = Stepped::over(&mut cx, software, OPTIONS(), 8);
    let event = stepped.controller.take_event().unwrap();
    assert!(matches!(event, ControllerEvent::Health { warnings, .. }
        if warnings == critical_warning::READ_ONLY));
    let device = PcieDevice::new("a".into(), stepped.controller.clone(), 1).unwrap();
    assert!(device.about().unwrap().ends_with("; events: 1 of its health"));
}

#[test]
fn groups_that_are_reached_otherwise_are_told_and_their_io_fails_as_it_is() {
    let (mut cx, hand) = test_context();
    let access = vec![(1, AnaState::Optimized), (2, AnaState::NonOptimized)];
    let config = Config { access, ..Config::default() };
    let stepped = Stepped::open(&mut cx, config, OPTIONS(), 64);
    let mut bench = Bench { cx, hand, stepped };
    let state = AnaState::NonOptimized;
    assert_eq!(bench.events(), [ControllerEvent::Access { group: 2, state }]);
    let state = AnaState::Inaccessible;
    bench.stepped.software.set_access(1, state);
    bench.wait(Duration::from_millis(10));
    let events = bench.events();
    assert_eq!(events, [ControllerEvent::Access { group: 1, state }]);
    assert_eq!(events[0].to_string(), "ANA group 1 is not reached at present");
    bench.inject(Fault::Status(Status::ANA_INACCESSIBLE));
    bench.read(1);
    assert_eq!(bench.drain(), [ended(1, Status::ANA_INACCESSIBLE)]);
    bench.works();
}

#[test]
fn an_event_of_any_kind_is_told_and_counted_and_makes_room_for_the_next() {
    let mut bench = Bench::new(OPTIONS());
    let all =
        [AsyncEvent::Error(3), AsyncEvent::ReservationNotification, AsyncEvent::NamespaceChanged];
    for event in all {
        bench.stepped.software.tell(event);
        bench.wait(Duration::from_millis(10));
        assert_eq!(bench.events(), [ControllerEvent::Told(event)]);
    }
    assert_eq!(bench.stepped.controller.event_counts().told, 3);
}

#[test]
fn devices_of_one_controller_may_differ_in_what_becomes_of_io_at_a_reset() {
    let mut bench = Bench::new(OPTIONS());
    let device = PcieDevice::new("fails".into(), bench.stepped.controller.clone(), 1).unwrap();
    let mut fails = device.with_recovery(Recovery::Fail).open(&mut bench.cx, 8).unwrap();
    let buffer = bench.cx.dma.take(4096).unwrap();
    fails.submit(&mut bench.cx, Io::read(Lba(0), 8, buffer.segment(4096), Token(2))).unwrap();
    fails.flush(&mut bench.cx);
    bench.inject(Fault::StuckForGood);
    bench.read(1);
    bench.stepped.controller.reset();
    let mut completions = Completions::new();
    let mut all = Vec::new();
    for _ in 0..20 {
        bench.stepped.pass(&mut bench.cx, &mut completions);
        fails.poll(&mut bench.cx, &mut completions);
        all.extend(completions.drain());
    }
    all.sort_by_key(|completion| completion.token);
    assert_eq!(all, [ended(1, Status::SUCCESS), ended(2, RESET)]);
    drop(fails);
    bench.cx.dma.give(buffer);
    bench.works();
}

#[test]
fn aborted_io_ends_soon_and_once() {
    let mut bench = Bench::new(OPTIONS());
    bench.inject(Fault::Stuck);
    bench.read(1);
    bench.wait(Duration::from_millis(10));
    bench.read(2);
    bench.stepped.abort_all(&mut bench.cx);
    let mut all = bench.wait(Duration::from_millis(100));
    all.sort_by_key(|completion| completion.token);
    assert_eq!(all, [ended(1, Status::ABORT_REQUESTED), ended(2, Status::SUCCESS)]);
    bench.works();
}

#[test]
fn a_queue_that_was_left_with_io_in_it_is_made_anew() {
    let mut bench = Bench::new(OPTIONS());
    bench.inject(Fault::StuckForGood);
    bench.read(1);
    bench.wait(Duration::from_millis(10));
    let controller = bench.stepped.controller.clone();
    let device = PcieDevice::new("again".into(), controller, 1).unwrap();
    let others: Vec<_> = (1..4).map(|_| device.open(&mut bench.cx, 8).unwrap()).collect();
    assert!(device.open(&mut bench.cx, 8).is_err(), "all four queues are taken");
    bench.stepped.queue_pair = None;
    bench.stepped.step();
    bench.stepped.queue_pair = Some(device.open(&mut bench.cx, 64).unwrap());
    bench.works();
    drop(others);
}

#[test]
fn a_queue_that_was_left_idle_goes_on_where_it_was() {
    let mut bench = Bench::new(OPTIONS());
    let device = PcieDevice::new("again".into(), bench.stepped.controller.clone(), 1).unwrap();
    for round in 0..300 {
        bench.read(round);
        assert_eq!(bench.drain().len(), 1);
        bench.stepped.queue_pair = None;
        bench.stepped.queue_pair = Some(device.open(&mut bench.cx, 64).unwrap());
    }
    bench.works();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever a device writes: no panic, no address that it was not given, and every I/O ends.
    #[test]
    fn a_hostile_device_ends_every_io_and_never_the_process(seed: u64, tenths in 1_u32..10) {
        let (mut cx, hand) = test_context();
        let software = SoftwareController::new(Config::default());
        let mut stepped = Stepped::over(&mut cx, software, Options::default(), 16);
        stepped.software.mutate(seed, f64::from(tenths) / 10.0);
        let mut completions = Completions::new();
        let buffer = cx.dma.take(4096).unwrap();
        let mut submitted = 0_u64;
        let mut seen = std::collections::HashSet::new();
        for round in 0..400 {
            if round < 200 && stepped.credits() > 0 {
                let segment = buffer.segment(4096);
                let io = Io::read(Lba(submitted % 900), 8, segment, Token(submitted));
                stepped.submit(&mut cx, io).unwrap();
                submitted += 1;
            }
            hand.advance(Nanos::from_millis(500));
            cx.advance_clock();
            stepped.software.advance(Nanos::from_millis(500));
            stepped.pass(&mut cx, &mut completions);
            for completion in completions.drain() {
                prop_assert!(seen.insert(completion.token), "an I/O ends once");
            }
        }
        stepped.software.behave();
        for _ in 0..400 {
            hand.advance(Nanos::from_millis(500));
            cx.advance_clock();
            stepped.software.advance(Nanos::from_millis(500));
            stepped.pass(&mut cx, &mut completions);
            for completion in completions.drain() {
                prop_assert!(seen.insert(completion.token), "an I/O ends once");
            }
        }
        prop_assert_eq!(seen.len() as u64, submitted, "every I/O ends");
        prop_assert_eq!(stepped.software.violations(), Vec::<String>::new());
        cx.dma.give(buffer);
    }

    /// A device that lies from the beginning is refused or taken, and never a panic.
    #[test]
    fn a_device_that_lies_of_itself_is_refused_or_taken(seed: u64) {
        let software = SoftwareController::new(Config::default());
        software.mutate(seed, 0.7);
        let attached =
            Controller::attach_stepped("liar", software.platform(), Options::default());
        if let Ok((controller, supervisor)) = attached {
            for namespace in controller.namespaces() {
                prop_assert!(namespace.limits().io_blocks_max > 0);
                prop_assert!(namespace.geometry.blocks > 0);
            }
            supervisor.finish();
        }
    }
}
