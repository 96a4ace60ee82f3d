//! Memory that the device is shown after a queue pair was opened: a pool that grew, a guest's.

use reactor::Cx;
use reactor::cx::test_context;

use super::Options;
use super::regions::Regions;
use super::software::{Config, SoftwareController};
use super::stepped::Stepped;
use crate::io::{Completion, Io, Lba, Token};
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;

/// Writes a page out of the other core's memory and reads it into there again.
fn verify(stepped: &mut Stepped, cx: &mut Cx, other: &mut Cx, seed: u8) {
    let mut buffer = other.dma.take(4096).unwrap();
    buffer.bytes_mut().fill(seed);
    stepped.submit(cx, Io::write(Lba(8), 8, buffer.segment(4096), Token(1))).unwrap();
    assert_eq!(stepped.drain(cx, 100), [Completion::new(Token(1), Status::SUCCESS)]);
    buffer.bytes_mut().fill(0);
    stepped.submit(cx, Io::read(Lba(8), 8, buffer.segment(4096), Token(2))).unwrap();
    assert_eq!(stepped.drain(cx, 100), [Completion::new(Token(2), Status::SUCCESS)]);
    assert!(buffer.bytes(4096).iter().all(|byte| *byte == seed));
    other.dma.give(buffer);
}

#[test]
fn memory_that_is_shown_later_is_reached_and_before_that_is_copied() {
    let (mut cx, _) = test_context();
    let (mut other, _) = test_context();
    let mut stepped = Stepped::open(&mut cx, Config::default(), Options::default(), 8);
    verify(&mut stepped, &mut cx, &mut other, 0x11);
    assert_eq!(stepped.queue_pair().counters().bounced, 2);
    let mappings = stepped.software.mappings();
    for _ in 0..2 {
        stepped.controller.share(other.dma.region()).unwrap();
        verify(&mut stepped, &mut cx, &mut other, 0x22);
    }
    assert_eq!(stepped.queue_pair().counters().bounced, 2);
    assert_eq!(stepped.software.mappings(), mappings + 1, "it is mapped once");
    assert_eq!(stepped.software.violations(), [""; 0]);
}

#[test]
fn a_device_is_shown_as_many_regions_as_there_is_room_for_and_not_one_more() {
    let software = SoftwareController::new(Config::default());
    let platform = software.platform();
    let regions = Regions::with_room(2);
    let contexts: Vec<_> = (0..3).map(|_| test_context().0).collect();
    for cx in &contexts[..2] {
        regions.add(&*platform, cx.dma.region()).unwrap();
        regions.add(&*platform, cx.dma.region()).unwrap();
    }
    let error = regions.add(&*platform, contexts[2].dma.region()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded);
    assert_eq!(software.mappings(), 2, "what has no room is not left mapped");
}
