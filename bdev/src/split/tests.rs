//! The laws over a device with narrow limits, and what is particular to cutting.

use super::*;
use crate::device::OperationSet;
use crate::io::{Completions, Lba, Memory, Token};
use crate::narrow::Narrow;
use crate::rules::{Count, Match, Rule, RuleSet};
use crate::segment_list::SegmentList;
use crate::{Fault, Malloc, fault, laws};

const NARROW: Limits = Limits {
    io_blocks_max: 3,
    range_blocks_max: 7,
    segments_max: 2,
    boundary_blocks: 4,
    alignment_bytes: 1,
    atomic_blocks: 2,
    operations: OperationSet::ALL,
    volatile_cache: false,
    unmap_zeroes: true,
    read_only: false,
};

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 300 };

fn disk(limits: Limits) -> Arc<dyn BlockDevice> {
    let disk = Arc::new(Malloc::new("malloc0", GEOMETRY, None).unwrap());
    Arc::new(Narrow::new(disk, limits))
}

fn check_laws(verdict: laws::Verdict, limits: Limits) {
    let make = |_: &mut Cx| -> Arc<dyn BlockDevice> { Arc::new(Split::new(disk(limits))) };
    laws::check(make, laws::Options { verdict, ..laws::Options::default() });
}

#[test]
fn a_device_with_narrow_limits_keeps_the_laws_when_split() {
    check_laws(|io, geometry, _| check(io, geometry, &NARROW), NARROW);
}

const SHORT: Limits =
    Limits { boundary_blocks: 0, segments_max: u32::MAX, io_blocks_max: 5, ..NARROW };

#[test]
fn a_device_with_short_ios_keeps_the_laws_when_split() {
    check_laws(|io, geometry, _| check(io, geometry, &SHORT), SHORT);
}

#[test]
fn a_device_is_wrapped_only_for_a_limit() {
    assert!(!is_needed(&Limits { alignment_bytes: 512, ..Limits::default() }));
    for limits in [
        Limits { io_blocks_max: u32::MAX - 1, ..Limits::default() },
        Limits { range_blocks_max: u32::MAX - 1, ..Limits::default() },
        Limits { segments_max: u32::MAX - 1, ..Limits::default() },
        Limits { boundary_blocks: 1, ..Limits::default() },
    ] {
        assert!(is_needed(&limits));
    }
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let (mut cx, _) = reactor::cx::test_context();
    let buffer = cx.dma.take(4096).unwrap();
    let verdict = |operation, blocks, segments: u32, limits: &Limits| {
        let len = u32::try_from(Operation::memory_bytes(operation, blocks, 512)).unwrap();
        let mut list = SegmentList::default();
        let whole = buffer.segment(len);
        list.fill((0..segments).map(|at| whole.part(at * len / segments, len / segments)));
        let io = Io::with_memory(operation, Lba(0), blocks, list.memory(), Token(0));
        check(&io, &GEOMETRY, limits)
    };
    let count = Err(Status::INVALID_SGL_DESCRIPTOR_COUNT);
    assert_eq!(verdict(Operation::Write, 1, 2, &SHORT), Ok(()));
    assert_eq!(verdict(Operation::Write, 1, 2, &NARROW), Ok(()));
    assert_eq!(verdict(Operation::Write, 1, 4, &NARROW), count);
    assert_eq!(verdict(Operation::CompareAndWrite, 1, 2, &NARROW), Ok(()));
    assert_eq!(verdict(Operation::CompareAndWrite, 1, 4, &NARROW), count);
    let atomic = Err(Status::ATOMIC_WRITE_UNIT_EXCEEDED);
    assert_eq!(verdict(Operation::CompareAndWrite, 2, 1, &NARROW), atomic);
    assert_eq!(verdict(Operation::CompareAndWrite, 2, 1, &SHORT), Ok(()));
    assert_eq!(verdict(Operation::CompareAndWrite, 3, 1, &SHORT), atomic);
}

#[test]
fn the_first_error_of_the_pieces_is_the_error_of_the_whole() {
    let (mut cx, _) = reactor::cx::test_context();
    let failing = |lba, status| Rule {
        meets: Match { lbas: lba..lba + 1, count: Count::First(1), ..Match::default() },
        effect: fault::Failure::After(status),
    };
    let rules = vec![failing(4, Status::WRITE_FAULT), failing(8, Status::INTERNAL_ERROR)];
    let faulty = Fault::new(disk(NARROW), RuleSet { rules, seed: 0 });
    let split = Split::new(Arc::new(faulty));
    let mut queue_pair = split.open_queue_pair(&mut cx, 1).unwrap();
    let buffer = cx.dma.take(16 << 10).unwrap();
    let write = Io::write(Lba(0), 32, buffer.segment(16 << 10), Token(3));
    queue_pair.submit(&mut cx, write).unwrap();
    let mut completions = Completions::new();
    for _ in 0..100 {
        queue_pair.flush(&mut cx);
        queue_pair.poll(&mut cx, &mut completions);
    }
    let ended: Vec<_> = completions.drain().collect();
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].token, ended[0].status), (Token(3), Status::WRITE_FAULT));
}

#[test]
fn limits_that_cannot_be_met_are_an_error_at_open() {
    let (mut cx, _) = reactor::cx::test_context();
    for limits in
        [Limits { io_blocks_max: 0, ..NARROW }, Limits { alignment_bytes: 1024, ..NARROW }]
    {
        let split = Split::new(disk(limits));
        assert!(split.open_queue_pair(&mut cx, 1).is_err());
    }
    let split = Split::new(disk(Limits { alignment_bytes: 512, ..NARROW }));
    assert!(split.open_queue_pair(&mut cx, 1).is_ok());
    let unmap = Io::with_memory(Operation::Unmap, Lba(0), 300, Memory::None, Token(0));
    assert_eq!(check(&unmap, &GEOMETRY, &NARROW), Ok(()));
}
