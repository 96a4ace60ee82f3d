//! Sleep and interrupts: none while a core polls, and whatever ends a sleep ends it.

use std::time::{Duration, Instant};

use reactor::cx::test_context;
use reactor::socket::Wait;
use reactor::{Cx, Wake};

use super::Options;
use super::software::{Config, Fault};
use super::stepped::Stepped;
use crate::io::{Completions, Io, Lba, Token};
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;

/// Far longer than any completion of these tests takes, and no hindrance to a test that fails.
const LONG: Duration = Duration::from_secs(20);

fn open(cx: &mut Cx) -> Stepped {
    Stepped::open(cx, Config::default(), Options::default(), 64)
}

fn read(stepped: &mut Stepped, cx: &mut Cx, token: u64) {
    let buffer = cx.dma.take(4096).unwrap();
    let segment = buffer.segment(4096);
    // What was read is of no interest, so that all reads may share a buffer.
    cx.dma.give(buffer);
    let io = Io::read(Lba(8 * (token % 100)), 8, segment, Token(token));
    stepped.submit(cx, io).unwrap();
}

/// Blocks as a reactor does, and says how long.
fn sleep(cx: &mut Cx) -> Duration {
    let started = Instant::now();
    cx.network.poll(Wait::AtMost(LONG), &mut Vec::new());
    started.elapsed()
}

#[test]
fn a_core_that_polls_takes_no_interrupt() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx);
    for token in 0..2_000 {
        read(&mut stepped, &mut cx, token);
        if token % 16 == 15 {
            assert_eq!(stepped.drain(&mut cx, 10).len(), 16);
        }
    }
    let counters = stepped.queue_pair().counters();
    assert_eq!((counters.completed, counters.arms), (2_000, 0));
    assert_eq!(counters.interrupts_while_polling, 0);
    assert_eq!(stepped.software.counts().interrupts, 0);
}

#[test]
fn interrupts_are_taken_in_a_sleep_and_none_in_the_busy_time_between() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx);
    let mut completions = Completions::new();
    for round in 0..50 {
        for token in 0..8 {
            read(&mut stepped, &mut cx, token);
            stepped.queue_pair().flush(&mut cx);
        }
        assert!(stepped.arm(&mut cx), "nothing has ended yet");
        // The drive ends all of them while the core sleeps.
        stepped.step();
        assert!(sleep(&mut cx) < LONG / 2, "a completion ends the sleep");
        assert_eq!(stepped.queue_pair().poll(&mut cx, &mut completions), 8);
        assert!(completions.drain().all(|one| one.status == Status::SUCCESS));
        // Busy: more of them end, each in the poll that looks for it.
        for token in 0..64 {
            read(&mut stepped, &mut cx, token);
        }
        assert_eq!(stepped.drain(&mut cx, 10).len(), 64);
        let counters = stepped.queue_pair().counters();
        assert_eq!((counters.arms, counters.interrupts_while_polling), (round + 1, 0));
        // One for each completion that ends the sleep, and one that the device kept pending while
        // the core polled and that comes when somebody is told again.
        let interrupts = stepped.software.counts().interrupts;
        assert_eq!(interrupts, 9 * round + 8);
    }
}

#[test]
fn what_ended_before_the_core_was_about_to_sleep_keeps_it_awake() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx);
    read(&mut stepped, &mut cx, 1);
    stepped.queue_pair().flush(&mut cx);
    stepped.step();
    assert!(!stepped.arm(&mut cx), "a completion is there");
    assert_eq!(stepped.drain(&mut cx, 10).len(), 1);
}

#[test]
fn a_core_without_io_sleeps_without_an_interrupt_to_wait_for() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx);
    assert_eq!(stepped.queue_pair().wake(), Wake::Never);
    assert!(stepped.arm(&mut cx));
    read(&mut stepped, &mut cx, 1);
    assert_eq!(stepped.queue_pair().wake(), Wake::Now, "its doorbell is to be rung");
    assert_eq!(stepped.drain(&mut cx, 10).len(), 1);
    assert_eq!(stepped.queue_pair().wake(), Wake::Never);
    assert_eq!(stepped.queue_pair().counters().arms, 0);
}

#[test]
fn an_interrupt_wakes_a_core_that_sleeps_through_a_slow_io() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx);
    let mut completions = Completions::new();
    read(&mut stepped, &mut cx, 1);
    stepped.queue_pair().flush(&mut cx);
    assert!(stepped.arm(&mut cx));
    let software = stepped.software.clone();
    let drive = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        software.step()
    });
    assert!(sleep(&mut cx) < LONG / 2, "the completion of another thread's ends the sleep");
    assert!(drive.join().unwrap());
    assert_eq!(stepped.queue_pair().poll(&mut cx, &mut completions), 1);
}

#[test]
fn a_reset_wakes_a_core_that_sleeps_with_io_in_the_drive() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx);
    stepped.software.inject(Fault::StuckForGood);
    read(&mut stepped, &mut cx, 1);
    stepped.queue_pair().flush(&mut cx);
    stepped.software.step();
    assert!(stepped.arm(&mut cx));
    stepped.software.inject(Fault::Fatal);
    // The supervisor sees it and halts every core.
    stepped.step();
    assert!(sleep(&mut cx) < LONG / 2, "the halt ends the sleep");
    assert_eq!(stepped.drain(&mut cx, 20).len(), 1);
}
