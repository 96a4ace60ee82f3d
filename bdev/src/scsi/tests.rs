//! The command layer over a RAM disk, as initiators see it.

use std::sync::Arc;

use proptest::prelude::any;
use proptest::test_runner::TestRunner;
use reactor::Cx;
use reactor::dma::DmaBuffer;
use uuid::Uuid;

use super::*;
use crate::io::{Completions, Io, Memory, Token};
use crate::narrow::Narrow;
use crate::queue_pair::QueuePair;
use crate::reservation::{Registrant, RegistrantId};
use crate::{BlockDevice, Geometry, Limits, Malloc, Operation, OperationSet, stack};

const BLOCK: usize = 512;
const BLOCKS: u64 = 3000;

struct World {
    cx: Cx,
    unit: LogicalUnit,
    queue_pair: Box<dyn QueuePair>,
}

impl World {
    fn new() -> World {
        World::over(OperationSet::ALL)
    }

    /// Over a device that does this much itself.
    fn over(operations: OperationSet) -> World {
        let (mut cx, _) = reactor::cx::test_context();
        let geometry = Geometry { block_bytes: BLOCK as u32, blocks: BLOCKS };
        let disk = Arc::new(Malloc::new("ram", geometry, None).unwrap());
        let device: Arc<dyn BlockDevice> = stack::complete(Arc::new(Narrow::new(
            disk.clone(),
            Limits { operations, ..disk.limits() },
        )));
        let queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
        let identity = Identity {
            uuid: Uuid::from_u128(7),
            device_name: "iqn.2019-05.io.openebs:a".into(),
            port_name: "iqn.2019-05.io.openebs:a,t,0x0001".into(),
            port: 1,
        };
        World { cx, unit: LogicalUnit::new(device, identity), queue_pair }
    }

    /// A nexus that has heard of the power that was turned on.
    fn nexus(&self, number: u8) -> Nexus {
        let mut nexus = self.fresh_nexus(number);
        let begun = self.unit.begin(&mut nexus, &cdb(&[0]), &[0]);
        let power_on = Sense::new(SenseKey::UnitAttention, SenseCode::POWER_ON);
        assert_eq!(begun, Begin::from(power_on));
        nexus
    }

    fn fresh_nexus(&self, number: u8) -> Nexus {
        self.unit.attach(Registrant::unnamed(RegistrantId::scsi([number; 16])))
    }

    fn run(&mut self, nexus: &mut Nexus, bytes: &[u8], data: &[u8]) -> (Verdict, Vec<u8>) {
        match self.unit.begin(nexus, &cdb(bytes), &[0]) {
            Begin::Answer(verdict) => (verdict, Vec::new()),
            Begin::Reply(reply) => (Verdict::GOOD, reply),
            Begin::Parameters(parameters) => {
                assert_eq!(parameters.len_bytes as usize, data.len());
                (self.unit.take_parameters(nexus, parameters, data), Vec::new())
            }
            Begin::Medium(medium) => self.work(medium, data),
        }
    }

    fn work(&mut self, medium: Medium, data: &[u8]) -> (Verdict, Vec<u8>) {
        assert_eq!(medium.data_out_bytes() as usize, data.len());
        let mut pieces: Vec<DmaBuffer> = Vec::new();
        for _ in 0..PIECES_MAX {
            pieces.push(self.cx.dma.take(PIECE_BYTES).unwrap());
        }
        let mut scratch = self.cx.dma.take(SCRATCH_BYTES).unwrap();
        for (piece, data) in pieces.iter_mut().zip(data.chunks(PIECE_BYTES as usize)) {
            piece.bytes_mut()[..data.len()].copy_from_slice(data);
        }
        let data: Vec<&[u8]> = data.chunks(PIECE_BYTES as usize).collect();
        let mut buffers = Buffers { data: &data, scratch: scratch.bytes_mut() };
        let (mut task, mut step) = Task::begin(medium, &mut buffers);
        let verdict = loop {
            let Step::Submit { operation, flags, lba, blocks, part } = step else { break step };
            let memory = memory(part, &pieces, &scratch);
            let io = Io { flags, ..Io::with_memory(operation, lba, blocks, memory, Token(1)) };
            self.queue_pair.submit(&mut self.cx, io).unwrap();
            self.queue_pair.flush(&mut self.cx);
            let mut completions = Completions::new();
            while self.queue_pair.poll(&mut self.cx, &mut completions) == 0 {}
            let status = completions.as_slice()[0].status;
            let mut buffers = Buffers { data: &data, scratch: scratch.bytes_mut() };
            step = task.completed(status, &mut buffers);
        };
        let Step::Done(verdict) = verdict else { unreachable!("the loop ends with a verdict") };
        let bytes = pieces.iter().flat_map(|piece| piece.bytes(PIECE_BYTES));
        let read = bytes.take(verdict.data_bytes as usize).copied().collect();
        pieces.into_iter().for_each(|piece| self.cx.dma.give(piece));
        self.cx.dma.give(scratch);
        (verdict, read)
    }

    fn good(&mut self, nexus: &mut Nexus, bytes: &[u8], data: &[u8]) -> Vec<u8> {
        let (verdict, read) = self.run(nexus, bytes, data);
        assert_eq!((verdict.status, verdict.sense), (ScsiStatus::Good, None), "{bytes:x?}");
        read
    }

    fn sense(&mut self, nexus: &mut Nexus, bytes: &[u8], data: &[u8]) -> Sense {
        let (verdict, _) = self.run(nexus, bytes, data);
        verdict.sense.unwrap_or_else(|| panic!("{bytes:x?} ended with {:?}", verdict.status))
    }

    fn read(&mut self, nexus: &mut Nexus, lba: u8, blocks: u8) -> Vec<u8> {
        self.good(nexus, &[0x28, 0, 0, 0, 0, lba, 0, 0, blocks, 0], &[])
    }

    fn status(&mut self, nexus: &mut Nexus, bytes: &[u8], data: &[u8]) -> ScsiStatus {
        self.run(nexus, bytes, data).0.status
    }
}

fn memory(part: Option<Part>, pieces: &[DmaBuffer], scratch: &DmaBuffer) -> Memory {
    match part {
        None => Memory::None,
        Some(Part::Data { offset_bytes, len_bytes }) => {
            let whole = pieces[(offset_bytes / PIECE_BYTES) as usize].segment(PIECE_BYTES);
            Memory::One(whole.part(offset_bytes % PIECE_BYTES, len_bytes))
        }
        Some(Part::Scratch { len_bytes }) => Memory::One(scratch.segment(len_bytes)),
    }
}

fn cdb(bytes: &[u8]) -> [u8; opcode::CDB_BYTES] {
    let mut cdb = [0; opcode::CDB_BYTES];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn write_10(lba: u8, blocks: u8) -> [u8; 10] {
    [0x2a, 0, 0, 0, 0, lba, 0, 0, blocks, 0]
}

fn sixteen(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    [&[opcode, flags][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0, 0]].concat()
}

fn blocks_of(byte: u8, count: usize) -> Vec<u8> {
    vec![byte; count * BLOCK]
}

#[test]
fn what_is_written_is_read_and_the_last_block_is_the_last() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    world.good(&mut nexus, &write_10(3, 2), &blocks_of(7, 2));
    assert_eq!(
        world.read(&mut nexus, 2, 4)[..3 * BLOCK],
        [blocks_of(0, 1), blocks_of(7, 2)].concat()
    );
    world.good(&mut nexus, &sixteen(0x8a, 8, BLOCKS - 1, 1), &blocks_of(9, 1));
    let sense = world.sense(&mut nexus, &sixteen(0x88, 0, BLOCKS - 1, 2), &[]);
    assert_eq!((sense.code, sense.information), (SenseCode::LBA_OUT_OF_RANGE, Some(BLOCKS)));
    world.good(&mut nexus, &sixteen(0x88, 0, BLOCKS, 0), &[]);
    assert_eq!(
        world.sense(&mut nexus, &sixteen(0x88, 0, BLOCKS + 1, 0), &[]).code,
        SenseCode::LBA_OUT_OF_RANGE
    );
}

#[test]
fn the_longest_transfer_is_taken_and_one_block_more_is_refused() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    assert_eq!(world.good(&mut nexus, &sixteen(0x88, 0, 0, 2048), &[]).len(), 1 << 20);
    let sense = world.sense(&mut nexus, &sixteen(0x88, 0, 0, 2049), &[]);
    assert_eq!(sense, Sense::invalid_cdb(10));
}

#[test]
fn compare_and_write_says_which_byte_differs_and_writes_nothing_then() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    let command = sixteen(0x89, 0, 4, 0);
    let command = [&command[..13], &[2, 0, 0]].concat();
    let pair = |first: Vec<u8>| [first, blocks_of(5, 2)].concat();
    world.good(&mut nexus, &command, &pair(blocks_of(0, 2)));
    assert_eq!(world.read(&mut nexus, 4, 2), blocks_of(5, 2));
    let mut wrong = blocks_of(5, 2);
    wrong[700] = 1;
    let sense = world.sense(&mut nexus, &command, &pair(wrong));
    assert_eq!((sense.key, sense.information), (SenseKey::Miscompare, Some(700)));
}

#[test]
fn what_is_longer_than_a_piece_is_written_verified_and_read_whole() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    let data: Vec<u8> = (0..700 * BLOCK).map(|at| (at / BLOCK % 251) as u8).collect();
    world.good(&mut nexus, &sixteen(0x8a, 0, 1, 700), &data);
    assert_eq!(world.good(&mut nexus, &sixteen(0x88, 0, 1, 700), &[]), data);
    world.good(&mut nexus, &sixteen(0x8f, 2, 1, 700), &data);
    world.good(&mut nexus, &sixteen(0x8e, 2, 3, 700), &data);
    world.good(&mut nexus, &sixteen(0x8b, 0, 3, 700), &data);
    assert_eq!(world.good(&mut nexus, &sixteen(0x88, 0, 3, 700), &[]), data);
}

#[test]
fn orwrite_adds_bits() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    world.good(&mut nexus, &write_10(0, 200), &blocks_of(0x50, 200));
    world.good(&mut nexus, &sixteen(0x8b, 0, 1, 198), &blocks_of(0x05, 198));
    let expected = [blocks_of(0x50, 1), blocks_of(0x55, 198), blocks_of(0x50, 1)].concat();
    assert_eq!(world.read(&mut nexus, 0, 200), expected);
}

#[test]
fn write_same_repeats_a_block_and_zeroes() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    world.good(&mut nexus, &sixteen(0x93, 0, 10, BLOCKS as u32 - 10), &blocks_of(3, 1));
    let none = world.sense(&mut nexus, &sixteen(0x93, 0, 10, 0), &blocks_of(3, 1));
    assert_eq!(none, Sense::invalid_cdb(10));
    assert_eq!(
        world.read(&mut nexus, 9, 200)[..2 * BLOCK],
        [blocks_of(0, 1), blocks_of(3, 1)].concat()
    );
    let last = world.good(&mut nexus, &sixteen(0x88, 0, BLOCKS - 1, 1), &[]);
    assert_eq!(last, blocks_of(3, 1));
    world.good(&mut nexus, &sixteen(0x93, 9, 20, 5), &[]);
    world.good(&mut nexus, &sixteen(0x93, 8, 25, 5), &blocks_of(0, 1));
    let expected = [blocks_of(3, 1), blocks_of(0, 10), blocks_of(3, 1)].concat();
    assert_eq!(world.read(&mut nexus, 19, 12), expected);
}

#[test]
fn unmapped_blocks_read_as_zeroes() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    world.good(&mut nexus, &write_10(0, 20), &blocks_of(1, 20));
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (lba, blocks) in [(2_u64, 3_u32), (10, 1)] {
        list.extend([&lba.to_be_bytes()[..], &blocks.to_be_bytes(), &[0; 4]].concat());
    }
    world.good(&mut nexus, &[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list);
    let read = world.read(&mut nexus, 0, 12);
    let zeroes: Vec<usize> =
        (0..12).filter(|block| read[block * BLOCK..][..BLOCK] == [0; BLOCK]).collect();
    assert_eq!(zeroes, [2, 3, 4, 10]);
}

const VERIFY_10: [u8; 10] = [0x2f, 0, 0, 0, 0, 0, 0, 0, 200, 0];

#[test]
fn verification_without_data_is_the_devices_or_reads() {
    let reads = OperationSet::ALL.without(Operation::Verify);
    for (operations, expected, is_buffered) in
        [(OperationSet::ALL, Operation::Verify, false), (reads, Operation::Read, true)]
    {
        let mut world = World::over(operations);
        let mut nexus = world.nexus(1);
        let begun = world.unit.begin(&mut nexus, &cdb(&VERIFY_10), &[0]);
        let Begin::Medium(medium) = begun else { panic!("{begun:?}") };
        assert_eq!(medium.scratch_bytes() > 0, is_buffered);
        let mut buffers = Buffers { data: &[], scratch: &mut [] };
        let (_, step) = Task::begin(medium, &mut buffers);
        let Step::Submit { operation, .. } = step else { panic!("{step:?}") };
        assert_eq!(operation, expected);
        world.good(&mut nexus, &VERIFY_10, &[]);
        let outside = world.sense(&mut nexus, &sixteen(0x8f, 0, BLOCKS - 1, 2), &[]);
        assert_eq!(outside.code, SenseCode::LBA_OUT_OF_RANGE);
    }
}

#[test]
fn verification_compares_what_it_is_told_to() {
    let mut world = World::new();
    let mut nexus = world.nexus(1);
    world.good(&mut nexus, &[0x2e, 2, 0, 0, 0, 0, 0, 0, 2, 0], &blocks_of(8, 2));
    world.good(&mut nexus, &VERIFY_10, &[]);
    world.good(&mut nexus, &[0x2f, 2, 0, 0, 0, 0, 0, 0, 2, 0], &blocks_of(8, 2));
    world.good(&mut nexus, &[0x2f, 6, 0, 0, 0, 0, 0, 0, 2, 0], &blocks_of(8, 1));
    let sense = world.sense(&mut nexus, &[0x2f, 6, 0, 0, 0, 0, 0, 0, 3, 0], &blocks_of(8, 1));
    assert_eq!(sense.key, SenseKey::Miscompare);
    assert_eq!(
        world.sense(&mut nexus, &[0x2f, 4, 0, 0, 0, 0, 0, 0, 3, 0], &[]),
        Sense::invalid_cdb(1)
    );
}

#[test]
fn a_unit_attention_waits_for_a_command_that_reports_it() {
    let mut world = World::new();
    let mut nexus = world.fresh_nexus(1);
    assert_eq!(world.good(&mut nexus, &[0x12, 0, 0, 0, 96, 0], &[]).len(), 96);
    assert_eq!(world.good(&mut nexus, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]).len(), 16);
    assert_eq!(world.sense(&mut nexus, &[0xff], &[]).code, SenseCode::POWER_ON);
    assert_eq!(world.sense(&mut nexus, &[0xff], &[]).code, SenseCode::INVALID_OPCODE);
    world.unit.reset();
    let told = world.good(&mut nexus, &[3, 0, 0, 0, 18, 0], &[]);
    assert_eq!((told[2], told[12], told[13]), (6, 0x29, 3));
    assert_eq!(world.good(&mut nexus, &[3, 1, 0, 0, 8, 0], &[]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn whoever_changes_a_mode_page_is_not_told_and_the_others_are() {
    let mut world = World::new();
    let (mut one, mut two) = (world.nexus(1), world.nexus(2));
    let list = [0, 0, 0, 0, 0x0a, 10, 4, 0x10, 8, 0, 0, 0, 0, 0, 0, 0];
    world.good(&mut one, &[0x15, 0x10, 0, 0, 16, 0], &list);
    world.good(&mut one, &[0], &[]);
    assert_eq!(one.sense_format(), SenseFormat::Descriptor);
    let told = world.sense(&mut two, &[0], &[]);
    assert_eq!(told.code, SenseCode::MODE_PARAMETERS_CHANGED);
    let refused = world.sense(&mut two, &write_10(0, 1), &blocks_of(0, 1));
    assert_eq!(refused.code, SenseCode::SOFTWARE_WRITE_PROTECTED);
    world.unit.reset();
    world.sense(&mut two, &[0], &[]);
    world.good(&mut two, &write_10(0, 1), &blocks_of(0, 1));
}

fn reserve_out(action: u8, kind: u8) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

fn keys(current: u64, service: u64) -> Vec<u8> {
    [&current.to_be_bytes()[..], &service.to_be_bytes(), &[0; 8]].concat()
}

#[test]
fn a_persistent_reservation_is_in_the_way_of_others_only() {
    let mut world = World::new();
    let (mut one, mut two) = (world.nexus(1), world.nexus(2));
    world.good(&mut one, &reserve_out(0, 0), &keys(0, 11));
    world.good(&mut one, &reserve_out(1, 3), &keys(11, 0));
    world.good(&mut one, &write_10(0, 1), &blocks_of(1, 1));
    let conflict = ScsiStatus::ReservationConflict;
    assert_eq!(world.status(&mut two, &write_10(0, 1), &blocks_of(0, 1)), conflict);
    assert_eq!(world.status(&mut two, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]), conflict);
    world.good(&mut two, &[0], &[]);
    let held = world.good(&mut two, &[0x5e, 1, 0, 0, 0, 0, 0, 0, 255, 0], &[]);
    assert_eq!((held.len(), held[15], held[21]), (24, 11, 3));
    world.good(&mut two, &reserve_out(0, 0), &keys(0, 22));
    world.good(&mut two, &reserve_out(4, 1), &keys(22, 11));
    let told = world.sense(&mut one, &[0], &[]);
    assert_eq!(told.code, SenseCode::REGISTRATIONS_PREEMPTED);
    assert_eq!(world.status(&mut one, &write_10(0, 1), &blocks_of(1, 1)), conflict);
    assert_eq!(world.read(&mut one, 0, 1), blocks_of(1, 1));
    world.good(&mut two, &reserve_out(3, 0), &keys(22, 0));
    world.good(&mut one, &write_10(0, 1), &blocks_of(2, 1));
}

#[test]
fn reserve_holds_the_unit_until_release_reset_or_the_end_of_the_nexus() {
    let mut world = World::new();
    let (mut one, mut two) = (world.nexus(1), world.nexus(2));
    let conflict = ScsiStatus::ReservationConflict;
    world.good(&mut one, &[0x16], &[]);
    assert_eq!(world.status(&mut two, &[0], &[]), conflict);
    world.good(&mut two, &[0x17], &[]);
    assert_eq!(world.status(&mut two, &[0x16], &[]), conflict);
    world.good(&mut one, &[0x17], &[]);
    world.good(&mut two, &[0x16], &[]);
    assert_eq!(world.status(&mut one, &[0], &[]), conflict);
    world.unit.detach(&two);
    world.good(&mut one, &[0x16], &[]);
}

#[test]
fn a_unit_that_is_not_there_says_so() {
    let Begin::Reply(inquiry) = absent_unit(&cdb(&[0x12, 0, 0, 0, 36, 0]), &[0]) else {
        panic!("INQUIRY is answered for every unit");
    };
    assert_eq!(inquiry[0], 0x7f);
    let missing = Sense::illegal(SenseCode::UNIT_NOT_SUPPORTED);
    assert_eq!(absent_unit(&cdb(&[0]), &[0]), Begin::from(missing));
}

#[test]
fn no_cdb_and_no_parameters_are_too_strange() {
    let world = std::cell::RefCell::new(World::new());
    let bytes = proptest::collection::vec(any::<u8>(), BLOCK);
    let strategy = (any::<[u8; 16]>(), 0..opcode::COMMANDS.len(), bytes);
    TestRunner::default()
        .run(&strategy, |(noise, index, bytes)| {
            strange_command(&mut world.borrow_mut(), noise, index, &bytes);
            Ok(())
        })
        .unwrap();
}

/// A command of the table with random fields, and as many random bytes as it asks for.
fn strange_command(world: &mut World, noise: [u8; 16], index: usize, bytes: &[u8]) {
    let mut nexus = world.fresh_nexus(1);
    let data = |len: u32| bytes.iter().copied().cycle().take(len as usize).collect::<Vec<u8>>();
    let mut cdb = [0; opcode::CDB_BYTES];
    for (at, usage) in opcode::COMMANDS[index].usage.iter().enumerate() {
        cdb[at] = noise[at] & usage;
    }
    cdb[0] = opcode::COMMANDS[index].opcode();
    cdb[1] |= opcode::COMMANDS[index].service_action.unwrap_or(0);
    for _ in 0..2 {
        match world.unit.begin(&mut nexus, &cdb, &[0]) {
            Begin::Medium(medium) => {
                world.work(medium, &data(medium.data_out_bytes()));
            }
            Begin::Parameters(parameters) => {
                let data = data(parameters.len_bytes);
                world.unit.take_parameters(&mut nexus, parameters, &data);
            }
            Begin::Answer(_) | Begin::Reply(_) => {}
        }
    }
    world.unit.detach(&nexus);
}
