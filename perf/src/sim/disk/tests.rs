//! The laws of queue pairs over a simulated disk, and what it may lose and what not.

use std::sync::{Arc, Mutex};

use reactor::Nanos;
use reactor::random::Random;

use super::image::{Image, IoNumber, Order};
use super::{Latency, Platter};
use crate::sim::content::{Content, Stamp, encode};
use crate::sim::trace::{Lines, Trace};

fn content(stamp: u64) -> Content {
    encode(1, 0, Stamp(stamp))
}

fn lost(image: &Image, seed: u64) -> Content {
    let mut image = image.clone();
    image.lose_power(&mut Random::new(seed));
    *image.read(0)
}

#[test]
fn a_flush_covers_what_was_handed_up_before_it_and_need_not_cover_more() {
    let mut image = Image::new();
    image.write(0, content(1), IoNumber(1));
    image.done(0..1, IoNumber(1), Order(1));
    image.write(0, content(2), IoNumber(2));
    let mut outcomes = [false; 3];
    for seed in 0..100 {
        let mut flushed = image.clone();
        flushed.flush(Order(2), &mut Random::new(seed));
        let found = lost(&flushed, seed + 1000);
        (0..3).filter(|stamp| found == content(*stamp)).for_each(|stamp| {
            outcomes[stamp as usize] = true;
        });
    }
    assert_eq!(outcomes, [false, true, true]);
}

#[test]
fn what_was_not_flushed_comes_back_as_any_of_what_it_was() {
    let mut image = Image::new();
    (1..3).for_each(|number| image.write(0, content(number), IoNumber(number)));
    assert_eq!(image.at_risk(), 1);
    for stamp in 0..3 {
        assert!((0..100).any(|seed| lost(&image, seed) == content(stamp)), "{stamp}");
    }
    image.write_through(0, content(3));
    assert!((0..100).all(|seed| lost(&image, seed) == content(3)));
}

#[test]
fn a_disk_that_heals_answers_what_hung() {
    let latency = Latency { most: Nanos(10), slow_chance: 0.0, slow_most: Nanos(0) };
    let mut platter = Platter::new(0, 1, latency, Trace::new(Lines::None));
    platter.set_faults(super::Faults { hang: 1.0, ..Default::default() }, latency);
    let shared = Arc::new(Mutex::new(platter));
    let disk = super::Disk::new(shared.clone(), 100, 4);
    let (mut cx, _) = reactor::cx::test_context();
    let mut queue_pair = bdev::BlockDevice::open_queue_pair(&disk, &mut cx, 4).unwrap();
    queue_pair.submit(&mut cx, bdev::Io::flush(bdev::Token(1))).unwrap();
    queue_pair.flush(&mut cx);
    let mut completions = bdev::Completions::new();
    shared.lock().unwrap().advance(Nanos(1_000));
    assert_eq!(queue_pair.poll(&mut cx, &mut completions), 0);
    shared.lock().unwrap().heal();
    shared.lock().unwrap().advance(Nanos(2_000));
    assert_eq!(queue_pair.poll(&mut cx, &mut completions), 1);
}
