//! Fused compare and write as a host sees it: the right pairs are one I/O, all others are told why.

use std::collections::BTreeMap;
use std::sync::Arc;

use bdev::fault::Failure;
use bdev::file::Backing;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use bdev::rules::{Match, Rule, RuleSet};
use bdev::{Aio, BlockDevice, Fault, Geometry, Malloc, OperationSet, Status, stack};
use proptest::prelude::*;
use reactor::Nanos;
use reactor::socket::memory::MemoryLimits;

use super::harness::Harness;
use super::tests::{Host, connected, connected_in, description_of, io};
use crate::pdu::Digests;

const BLOCK_BYTES: u32 = 512;
const COMPARE: u8 = 0x05;
const WRITE: u8 = 0x01;

/// How a half's data comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Capsule,
    Transport,
}

impl By {
    fn sgl(self, blocks: u32) -> SglDescriptor {
        match self {
            By::Capsule => SglDescriptor::in_capsule(0, blocks * BLOCK_BYTES),
            By::Transport => SglDescriptor::transport_data_block(blocks * BLOCK_BYTES),
        }
    }
}

/// A queue, the data of its commands, and how they ended.
struct Driver {
    harness: Harness,
    admin: Host,
    queue: Host,
    data: BTreeMap<u16, Vec<u8>>,
    ended: BTreeMap<u16, Status>,
}

impl Driver {
    fn new() -> Driver {
        Driver::of(connected(MemoryLimits::default(), Digests::default()))
    }

    fn of((harness, admin, queue): (Harness, Host, Host)) -> Driver {
        Driver { harness, admin, queue, data: BTreeMap::new(), ended: BTreeMap::new() }
    }

    fn send(&mut self, command: SubmissionEntry, byte: u8) {
        let bytes = vec![byte; command.sgl().length.get() as usize];
        let is_inside = command.sgl().identifier == 0x01;
        self.queue.command(&mut self.harness, command, if is_inside { &bytes } else { &[] });
        self.data.insert(command.command_id.get(), bytes);
    }

    /// Answers R2Ts, in PDUs of a block, until nothing comes any more.
    fn settle(&mut self) {
        for (id, status) in self.queue.serve(&mut self.harness, &self.data, BLOCK_BYTES) {
            assert_eq!(self.ended.insert(id, status), None, "command {id} ends once");
        }
    }

    fn end_of(&mut self, id: u16) -> Status {
        self.settle();
        self.ended.remove(&id).expect("the command was answered")
    }

    /// Both halves, and how they end.
    fn pair(&mut self, by: [By; 2], lba: u32, blocks: u32, bytes: [u8; 2]) -> [Status; 2] {
        self.send(half(1, 10, lba, blocks, by[0]), bytes[0]);
        self.send(half(2, 11, lba, blocks, by[1]), bytes[1]);
        [self.end_of(10), self.end_of(11)]
    }

    fn write(&mut self, lba: u32, blocks: u32, byte: u8) {
        self.send(io(WRITE, 20, lba, blocks, By::Capsule.sgl(blocks)), byte);
        assert_eq!(self.end_of(20), Status::SUCCESS);
    }

    /// True when the blocks are full of this byte.
    fn holds(&mut self, lba: u32, blocks: u32, byte: u8) -> bool {
        self.send(io(COMPARE, 21, lba, blocks, By::Transport.sgl(blocks)), byte);
        self.end_of(21).is_success()
    }

    fn check_rest(mut self) {
        self.settle();
        assert!(self.ended.is_empty(), "{:?}", self.ended);
        assert_eq!(self.harness.cx.dma.taken(), 0, "every buffer is back");
        drop(self.admin);
    }
}

/// Half 1 or 2 of a pair.
fn half(fuse: u8, id: u16, lba: u32, blocks: u32, by: By) -> SubmissionEntry {
    let opcode = if fuse == 1 { COMPARE } else { WRITE };
    let mut command = io(opcode, id, lba, blocks, by.sgl(blocks));
    command.flags |= fuse;
    command
}

const WAYS: [[By; 2]; 4] = [
    [By::Capsule, By::Capsule],
    [By::Transport, By::Transport],
    [By::Capsule, By::Transport],
    [By::Transport, By::Capsule],
];

#[test]
fn equal_blocks_are_replaced_and_others_are_left_however_the_data_comes() {
    for call_bytes in [usize::MAX, 7, 1000] {
        for digests in [Digests::default(), Digests { header: true, data: true }] {
            let limits = MemoryLimits { call_bytes, ..MemoryLimits::default() };
            let mut driver = Driver::of(connected(limits, digests));
            for (lba, by) in (100..).step_by(8).zip(WAYS) {
                driver.write(lba, 4, 1);
                assert_eq!(driver.pair(by, lba, 4, [1, 2]), [Status::SUCCESS; 2], "{by:?}");
                assert!(driver.holds(lba, 4, 2));
                let failed = [Status::COMPARE_FAILURE, Status::ABORTED_FAILED_FUSED];
                assert_eq!(driver.pair(by, lba, 4, [1, 3]), failed, "{by:?}");
                assert!(driver.holds(lba, 4, 2));
            }
            driver.check_rest();
        }
    }
}

#[test]
fn a_half_whose_neighbour_is_no_half_is_told_so() {
    let mut driver = Driver::new();
    for by in [By::Capsule, By::Transport] {
        driver.send(half(1, 1, 0, 1, by), 0);
        driver.write(50, 1, 9);
        assert_eq!(driver.end_of(1), Status::ABORTED_MISSING_FUSED);
        driver.send(half(2, 2, 0, 1, by), 7);
        assert_eq!(driver.end_of(2), Status::ABORTED_MISSING_FUSED);
        driver.send(half(1, 3, 0, 1, by), 0);
        let pair = driver.pair([by, by], 0, 1, [0, 0]);
        assert_eq!(driver.end_of(3), Status::ABORTED_MISSING_FUSED);
        assert_eq!(pair, [Status::SUCCESS; 2]);
        assert!(driver.holds(0, 1, 0), "no half was executed alone");
    }
    driver.check_rest();
}

#[test]
fn the_half_at_fault_says_what_and_the_other_that_it_was_not_it() {
    let mut driver = Driver::new();
    let beyond = Status::LBA_OUT_OF_RANGE.with_do_not_retry();
    let field = Status::INVALID_FIELD.with_do_not_retry();
    let length = Status::DATA_SGL_LENGTH_INVALID.with_do_not_retry();
    for by in WAYS {
        assert_eq!(driver.pair(by, u32::MAX, 1, [0, 0]), [beyond, Status::ABORTED_FAILED_FUSED]);
        for (lba, blocks) in [(1, 1), (0, 2), (4, 1)] {
            driver.send(half(1, 1, 0, 1, by[0]), 0);
            driver.send(half(2, 2, lba, blocks, by[1]), 5);
            assert_eq!([driver.end_of(1), driver.end_of(2)], [field; 2], "{by:?} {lba} {blocks}");
        }
        driver.send(half(1, 1, 0, 1, by[0]), 0);
        let short = half(2, 2, 0, 1, by[1]).with_sgl(SglDescriptor::transport_data_block(508));
        driver.send(short, 5);
        let ends = [driver.end_of(1), driver.end_of(2)];
        assert_eq!(ends, [Status::ABORTED_FAILED_FUSED, length]);
        assert!(driver.holds(0, 8, 0), "nothing was written");
    }
    driver.check_rest();
}

#[test]
fn a_descriptor_longer_than_a_half_spoils_nothing() {
    let mut driver = Driver::new();
    for by in WAYS {
        driver.write(0, 8, 1);
        let long = |fuse, by: By| half(fuse, u16::from(fuse), 0, 1, by).with_sgl(by.sgl(8));
        driver.send(long(1, by[0]), 1);
        driver.send(long(2, by[1]), 2);
        assert_eq!([driver.end_of(1), driver.end_of(2)], [Status::SUCCESS; 2], "{by:?}");
        assert!(driver.holds(0, 1, 2) && driver.holds(1, 7, 1));
    }
    driver.check_rest();
}

#[test]
fn pairs_are_as_long_as_is_announced_and_no_longer() {
    let mut driver = Driver::new();
    let by = [By::Transport; 2];
    assert_eq!(driver.pair(by, 0, 128, [0, 4]), [Status::SUCCESS; 2]);
    assert!(driver.holds(0, 128, 4));
    let [compare, write] = driver.pair(by, 0, 129, [4, 5]);
    assert!(compare.has_code(Status::ATOMIC_WRITE_UNIT_EXCEEDED), "{compare}");
    assert_eq!(write, Status::ABORTED_FAILED_FUSED);
    driver.check_rest();
}

fn faulty(failure: Failure) -> Driver {
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks: 8192 };
    let inner: Arc<dyn BlockDevice> = Arc::new(Malloc::new("ram", geometry, None).unwrap());
    let without_swap = OperationSet::ALL.without(bdev::Operation::CompareAndWrite);
    let only_swap = bdev::Operation::ALL
        .into_iter()
        .filter(|one| without_swap.contains(*one))
        .fold(OperationSet::ALL, OperationSet::without);
    let meets = Match { operations: only_swap, ..Match::default() };
    let rules = RuleSet { rules: vec![Rule { meets, effect: failure }], seed: 0 };
    let description = description_of(Arc::new(Fault::new(inner, rules)));
    let harness = Harness::new(description);
    Driver::of(connected_in(harness, MemoryLimits::default(), Digests::default()))
}

#[test]
fn a_device_without_the_operation_refuses_the_field_and_other_errors_go_to_both_halves() {
    let field = Status::INVALID_FIELD.with_do_not_retry();
    let mut driver = faulty(Failure::Before(Status::INVALID_OPCODE));
    assert_eq!(driver.pair(WAYS[0], 0, 1, [0, 1]), [field; 2]);
    driver.check_rest();
    let mut driver = faulty(Failure::After(Status::WRITE_FAULT));
    assert_eq!(driver.pair(WAYS[1], 0, 1, [0, 1]), [Status::WRITE_FAULT; 2]);
    driver.check_rest();
    let mut driver = faulty(Failure::Before(Status::ATOMIC_WRITE_UNIT_EXCEEDED));
    let ends = [Status::ATOMIC_WRITE_UNIT_EXCEEDED, Status::ABORTED_FAILED_FUSED];
    assert_eq!(driver.pair(WAYS[1], 0, 1, [0, 1]), ends);
    driver.check_rest();
}

/// A file has no compare-and-write of its own. Two queues on two cores count up in one block by
/// fused pairs, each from what it has seen last; a pair that comes too late is told so.
#[test]
fn pairs_of_two_cores_on_a_file_lose_no_increment() {
    const COUNT: u8 = 60;
    let name = format!("fused-{}.disk", std::process::id());
    let path = std::env::current_exe().unwrap().with_file_name(name);
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let backing = Backing::open(path.to_str().unwrap(), Some(BLOCK_BYTES)).unwrap();
    std::fs::remove_file(&path).unwrap();
    let file = Arc::new(Aio::new(Arc::new(backing), None).unwrap());
    let device = stack::complete(file);
    let harness = Harness::with_cores(description_of(device), 2);
    let (limits, digests) = (MemoryLimits::default(), Digests::default());
    let (mut harness, _admin, first) = connected_in(harness, limits, digests);
    let mut second = Host::initialize_on(&mut harness, 1, limits, digests);
    assert!(second.connect(&mut harness, 2, 1).status().is_success());
    let mut queues = [first, second];
    let mut seen = [0; 2];
    let mut wins = 0;
    while wins < COUNT {
        // Both at once; the one that has seen the newest wins.
        for (queue, seen) in queues.iter_mut().zip(seen) {
            for (fuse, id, byte) in [(1, 10, seen), (2, 11, seen + 1)] {
                let command = half(fuse, id, 5, 1, By::Capsule);
                queue.command(&mut harness, command, &[byte; BLOCK_BYTES as usize]);
            }
        }
        let mut won = 0;
        for (queue, seen) in queues.iter_mut().zip(&mut seen) {
            let mut ends = Vec::new();
            while ends.len() < 2 {
                ends.extend(queue.serve(&mut harness, &BTreeMap::new(), BLOCK_BYTES));
            }
            ends.sort_unstable_by_key(|(id, _)| *id);
            match ends[0].1 {
                status if status.is_success() => {
                    assert_eq!(ends[1].1, Status::SUCCESS);
                    won += 1;
                }
                status => {
                    assert!(status.has_code(Status::COMPARE_FAILURE), "{status}");
                    assert_eq!(ends[1].1, Status::ABORTED_FAILED_FUSED);
                }
            }
            *seen = wins + 1;
        }
        assert_eq!(won, 1, "of two that have seen the same, one");
        wins += won;
    }
    assert_eq!(harness.buffers_taken(), 0);
}

#[test]
fn a_first_half_alone_is_waited_for_as_long_as_for_any_data() {
    for by in [By::Capsule, By::Transport] {
        let mut driver = Driver::new();
        driver.send(half(1, 1, 0, 1, by), 0);
        driver.settle();
        for _ in 0..13 {
            assert!(!driver.admin.end.is_closed());
            let keep_alive =
                SubmissionEntry::new(0x18, 9, 0).with_sgl(SglDescriptor::transport_data_block(0));
            driver.admin.command(&mut driver.harness, keep_alive, &[]);
            assert!(driver.admin.completion(&mut driver.harness).status().is_success());
            driver.harness.wait(Nanos::from_secs(1));
        }
        assert!(driver.queue.end.is_closed(), "{by:?}");
        assert_eq!(driver.harness.cx.dma.taken(), 0);
    }
}

#[test]
fn a_queue_that_is_lost_amid_a_pair_leaves_nothing_behind() {
    for by in WAYS {
        for sent in 1..=2 {
            let mut driver = Driver::new();
            driver.send(half(1, 1, 0, 1, by[0]), 0);
            if sent == 2 {
                driver.send(half(2, 2, 0, 1, by[1]), 0);
            }
            driver.harness.pass();
            let Driver { mut harness, admin, queue, .. } = driver;
            drop(queue);
            harness.pump();
            assert_eq!(harness.cx.dma.taken(), 0);
            assert_eq!(harness.connections(), 1);
            drop(admin);
        }
    }
}

#[test]
fn many_pairs_end_where_buffers_are_few() {
    // The pool of one chunk has 16 of the largest buffers, of which a connection may hold four.
    let harness = Harness::with_pool(super::tests::description(), 1);
    let mut driver = Driver::of(connected_in(harness, MemoryLimits::default(), Digests::default()));
    for round in 0..4_u8 {
        for pair in 0..14_u16 {
            let by = WAYS[usize::from(pair) % 4];
            driver.send(half(1, 2 * pair, u32::from(pair) * 8, 8, by[0]), round);
            driver.send(half(2, 2 * pair + 1, u32::from(pair) * 8, 8, by[1]), round + 1);
        }
        driver.settle();
        for pair in 0..14_u16 {
            let ends = [2 * pair, 2 * pair + 1].map(|id| driver.ended.remove(&id).unwrap());
            if ends[1].has_code(Status::COMMAND_INTERRUPTED) {
                // To be tried again by the host: the first was in its capsule, the second not.
                assert_eq!(ends[0], Status::ABORTED_FAILED_FUSED);
                let lba = u32::from(pair) * 8;
                let again = driver.pair(WAYS[0], lba, 8, [round, round + 1]);
                assert_eq!(again, [Status::SUCCESS; 2]);
            } else {
                assert_eq!(ends, [Status::SUCCESS; 2], "pair {pair} of round {round}");
            }
        }
    }
    driver.check_rest();
}

/// A command of a random row.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    fuse: u8,
    lba: u32,
    byte: u8,
    by: By,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let by = prop_oneof![Just(By::Capsule), Just(By::Transport)];
    // The last block is beyond the device.
    let lba = prop_oneof![6 => 0_u32..2, 1 => Just(8192)];
    (0_u8..3, lba, 0_u8..2, by).prop_map(|(fuse, lba, byte, by)| Drawn { fuse, lba, byte, by })
}

/// What a row of commands must come to: by the rules, without a thought of how it is done.
fn expected(row: &[Drawn], disk: &mut [u8; 2]) -> Vec<Status> {
    let beyond = Status::LBA_OUT_OF_RANGE.with_do_not_retry();
    let is_beyond = |one: &Drawn| one.lba >= 8192;
    let mut ends = Vec::new();
    let mut index = 0;
    while let Some(one) = row.get(index) {
        index += 1;
        let next = row.get(index);
        match one.fuse {
            0 if is_beyond(one) => ends.push(beyond),
            0 => {
                disk[one.lba as usize] = one.byte;
                ends.push(Status::SUCCESS);
            }
            2 => ends.push(Status::ABORTED_MISSING_FUSED),
            _ => {
                let Some(second) = next.filter(|next| next.fuse == 2) else {
                    let missing = Status::ABORTED_MISSING_FUSED;
                    ends.push(if is_beyond(one) { beyond } else { missing });
                    continue;
                };
                index += 1;
                let field = Status::INVALID_FIELD.with_do_not_retry();
                let failed = Status::ABORTED_FAILED_FUSED;
                ends.extend(match second {
                    _ if is_beyond(one) => [beyond, failed],
                    second if is_beyond(second) => [failed, beyond],
                    second if second.lba != one.lba => [field, field],
                    _ if disk[one.lba as usize] != one.byte => [Status::COMPARE_FAILURE, failed],
                    second => {
                        disk[one.lba as usize] = second.byte;
                        [Status::SUCCESS; 2]
                    }
                });
            }
        }
    }
    ends
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_row_of_halves_and_writes_ends_as_the_rules_say(
        mut row in proptest::collection::vec(drawn(), 1..24),
        settles in proptest::collection::vec(any::<bool>(), 24),
    ) {
        // Something that is no half ends the row, so that no first half waits for a second.
        row.push(Drawn { fuse: 0, lba: 0, byte: 0, by: By::Capsule });
        let mut driver = Driver::new();
        let mut disk = [0; 2];
        let ends = expected(&row, &mut disk);
        for (index, one) in row.iter().enumerate() {
            // Writes are executed when their data comes: what follows a pair must come after it.
            if one.fuse != 2 || settles[index % settles.len()] {
                driver.settle();
            }
            let id = u16::try_from(index).unwrap();
            let command = match one.fuse {
                0 => io(WRITE, id, one.lba, 1, one.by.sgl(1)),
                fuse => half(fuse, id, one.lba, 1, one.by),
            };
            driver.send(command, one.byte);
        }
        driver.settle();
        let found: Vec<Status> = driver.ended.values().copied().collect();
        prop_assert_eq!(found, ends);
        driver.ended.clear();
        for (lba, byte) in disk.into_iter().enumerate() {
            prop_assert!(driver.holds(u32::try_from(lba).unwrap(), 1, byte));
        }
        driver.check_rest();
    }
}
