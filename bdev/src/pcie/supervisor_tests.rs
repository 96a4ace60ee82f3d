//! The supervisor rests while there is nothing to look after, and comes when it is called.

use std::time::{Duration, Instant};

use reactor::cx::test_context;
use reactor::{Cx, Nanos};

use super::port::{Owner, Phase, State};
use super::ring::Position;
use super::software::{Config, Fault, SoftwareController};
use super::stepped::Stepped;
use super::supervisor::EventNews;
use super::{Controller, ControllerEvent, Options, PcieDevice, Recovery, ResetReason};
use crate::io::{Completion, Completions, Io, Lba, Token};
use crate::nvme::log_page::critical_warning;
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn serve(stepped: &Stepped) -> Option<Nanos> {
    stepped.supervisor.borrow_mut().as_mut().unwrap().serve()
}

fn read(stepped: &mut Stepped, cx: &mut Cx) {
    let buffer = cx.dma.take(4096).unwrap();
    let segment = buffer.segment(4096);
    cx.dma.give(buffer);
    stepped.submit(cx, Io::read(Lba(0), 8, segment, Token(1))).unwrap();
}

fn is_called(stepped: &Stepped) -> bool {
    let doorbell = nix::poll::PollFd::new(
        stepped.controller.shared().doorbell(),
        nix::poll::PollFlags::POLLIN,
    );
    nix::poll::poll(&mut [doorbell], nix::poll::PollTimeout::ZERO).unwrap() > 0
}

#[test]
fn it_looks_while_io_is_in_the_device_and_rests_when_there_is_none() {
    let (mut cx, _) = test_context();
    let options = Options::default();
    let interval = Some(Nanos::from(options.health_interval));
    let mut stepped = Stepped::open(&mut cx, Config::default(), options, 8);
    assert_eq!(serve(&stepped), interval, "without interrupts it has to look for events");
    let news = EventNews::Interrupt;
    stepped.supervisor.borrow_mut().as_mut().unwrap().set_event_news(news);
    assert_eq!(serve(&stepped), None);
    for _ in 0..3 {
        assert!(!is_called(&stepped));
        read(&mut stepped, &mut cx);
        assert!(is_called(&stepped), "the first I/O calls it");
        assert_eq!(serve(&stepped), interval);
        read(&mut stepped, &mut cx);
        assert!(!is_called(&stepped), "and the next do not");
        stepped.queue_pair().flush(&mut cx);
        stepped.software.step();
        let mut completions = Completions::new();
        assert_eq!(stepped.queue_pair().poll(&mut cx, &mut completions), 2);
        // It looks once more, so that I/O one at a time does not call it each time.
        assert_eq!(serve(&stepped), interval);
        assert_eq!(serve(&stepped), None);
    }
}

#[test]
fn a_core_that_stops_for_a_reset_calls_it() {
    let (mut cx, _) = test_context();
    let mut stepped = Stepped::open(&mut cx, Config::default(), Options::default(), 8);
    read(&mut stepped, &mut cx);
    stepped.queue_pair().flush(&mut cx);
    stepped.controller.reset();
    assert!(is_called(&stepped));
    let halt = Nanos::from(Options::default().halt_timeout);
    assert_eq!(serve(&stepped), Some(halt), "it waits for the core, not for a while");
    assert!(!is_called(&stepped));
    stepped.queue_pair().flush(&mut cx);
    assert!(is_called(&stepped));
    serve(&stepped);
    let events: Vec<_> = std::iter::from_fn(|| stepped.controller.take_event()).collect();
    let asked = ControllerEvent::Resetting(ResetReason::Asked);
    assert_eq!(events, [asked, ControllerEvent::Recovered]);
}

#[test]
fn a_reset_does_not_wait_for_a_core_that_rests_and_takes_nothing_from_it() {
    for recovery in [Recovery::Retry, Recovery::Fail] {
        let (mut cx, _) = test_context();
        let options = Options { recovery, ..Options::default() };
        let mut stepped = Stepped::open(&mut cx, Config::default(), options, 8);
        for _ in 0..3 {
            read(&mut stepped, &mut cx);
            let ended = stepped.drain(&mut cx, 20);
            assert_eq!(ended, [Completion::new(Token(1), Status::SUCCESS)]);
            // Nobody polls meanwhile.
            stepped.controller.reset();
            serve(&stepped);
            let events: Vec<_> = std::iter::from_fn(|| stepped.controller.take_event()).collect();
            let asked = ControllerEvent::Resetting(ResetReason::Asked);
            assert_eq!(events, [asked, ControllerEvent::Recovered]);
        }
        assert_eq!(stepped.queue_pair().counters().retried, 0);
        assert_eq!(stepped.software.violations(), [""; 0]);
    }
}

#[test]
fn io_that_begins_while_a_controller_is_halted_waits_for_its_end() {
    let (mut cx, _) = test_context();
    let mut stepped = Stepped::open(&mut cx, Config::default(), Options::default(), 8);
    let device = PcieDevice::new("other".into(), stepped.controller.clone(), 1).unwrap();
    let mut resting = device.open(&mut cx, 8).unwrap();
    read(&mut stepped, &mut cx);
    stepped.queue_pair().flush(&mut cx);
    stepped.controller.reset();
    serve(&stepped);
    let buffer = cx.dma.take(4096).unwrap();
    let segment = buffer.segment(4096);
    cx.dma.give(buffer);
    resting.submit(&mut cx, Io::read(Lba(0), 8, segment, Token(2))).unwrap();
    resting.flush(&mut cx);
    assert_eq!(resting.doorbell_writes(), 0, "none is rung on a controller that is halted");
    assert_eq!(stepped.drain(&mut cx, 20).len(), 1);
    let mut completions = Completions::new();
    for _ in 0..20 {
        resting.flush(&mut cx);
        stepped.step();
        resting.poll(&mut cx, &mut completions);
    }
    assert_eq!(completions.as_slice(), [Completion::new(Token(2), Status::SUCCESS)]);
}

#[test]
fn a_queue_that_is_left_by_who_did_not_see_a_reset_begins_anew() {
    let (mut cx, _) = test_context();
    let mut stepped = Stepped::open(&mut cx, Config::default(), Options::default(), 8);
    let port = &stepped.controller.shared().ports[0];
    let (seen, halted) = (State::FIRST, State::FIRST.then(Phase::Halted));
    port.acknowledge(seen);
    port.leave(Owner::QueuePair, Position { tail: 5, head: 5, phase: 1 });
    assert_eq!(port.position(seen).tail, 5);
    assert_eq!(port.position(halted.then(Phase::Live)), Position::START);
    port.leave(Owner::QueuePair, Position::START);
    read(&mut stepped, &mut cx);
    assert_eq!(stepped.drain(&mut cx, 20).len(), 1);
}

#[test]
fn resets_that_were_asked_for_are_never_too_many() {
    let (mut cx, _) = test_context();
    let mut stepped = Stepped::open(&mut cx, Config::default(), Options::default(), 8);
    for _ in 0..3 * super::options::RESETS_MAX {
        stepped.controller.reset();
        for _ in 0..4 {
            stepped.pass(&mut cx, &mut Completions::new());
        }
    }
    assert!(!stepped.supervisor.borrow().as_ref().unwrap().is_dead());
    read(&mut stepped, &mut cx);
    let ended = stepped.drain(&mut cx, 20);
    assert!(ended.iter().all(|completion| completion.status == Status::SUCCESS), "{ended:?}");
}

/// The next event of a controller whose supervisor is a thread.
fn event(controller: &Controller) -> ControllerEvent {
    let started = Instant::now();
    loop {
        if let Some(event) = controller.take_event() {
            return event;
        }
        assert!(started.elapsed() < LONG, "an event comes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A controller whose supervisor would look by itself far too late.
fn attach(software: &SoftwareController) -> Controller {
    let options = Options { health_interval: Duration::from_secs(3600), ..Options::default() };
    Controller::attach("thread", software.platform(), options).unwrap()
}

#[test]
fn a_supervisor_at_rest_hears_of_health_and_of_being_wanted_back() {
    let software = SoftwareController::new(Config::default());
    let runner = software.run().unwrap();
    let controller = attach(&software);
    for warnings in [critical_warning::SPARE, critical_warning::READ_ONLY] {
        software.warn(warnings);
        let heard = event(&controller);
        assert!(matches!(heard, ControllerEvent::Health { warnings: w, .. } if w == warnings));
    }
    software.want_back();
    assert_eq!(event(&controller), ControllerEvent::WantedBack);
    let started = Instant::now();
    while software.is_held() {
        assert!(started.elapsed() < LONG, "it is given back");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(software.counts().shutdowns, 1, "the drive heard of its end");
    assert_eq!(software.mappings(), 0);
    drop(controller);
    drop(runner);
}

#[test]
fn io_of_a_drive_that_is_wanted_back_ends_and_what_comes_after_fails() {
    let (mut cx, _) = test_context();
    let mut stepped = Stepped::open(&mut cx, Config::default(), Options::default(), 8);
    stepped.software.inject(Fault::StuckForGood);
    read(&mut stepped, &mut cx);
    stepped.queue_pair().flush(&mut cx);
    stepped.software.step();
    stepped.software.want_back();
    let gone = super::queue_pair::GONE;
    let ended = stepped.drain(&mut cx, 20);
    assert!(ended.len() == 1 && ended[0].status == gone, "{ended:?}");
    assert!(!stepped.software.is_held());
    read(&mut stepped, &mut cx);
    assert_eq!(stepped.drain(&mut cx, 20)[0].status, gone);
    let device = PcieDevice::new("again".into(), stepped.controller.clone(), 1).unwrap();
    let error = device.open(&mut cx, 8).unwrap_err();
    assert!(error.to_string().contains("is gone") || format!("{error:?}").contains("is gone"));
}
