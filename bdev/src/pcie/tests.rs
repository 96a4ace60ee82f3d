//! The driver over the software controller.

use std::sync::Arc;

use reactor::Cx;
use reactor::cx::test_context;
use uuid::Uuid;

use super::software::{Config, Feature, NamespaceConfig, Order, SoftwareController};
use super::stepped::Stepped;
use super::*;
use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::io::{Completion, Io, IoFlags, Lba, Memory, Operation, Token};
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;
use crate::{laws, stack};

/// A device for the laws: every queue pair has a stepped controller of its own.
#[derive(Debug)]
struct Lawful {
    config: Config,
    limits: Limits,
}

impl Lawful {
    fn device(config: Config) -> Arc<dyn BlockDevice> {
        let software = SoftwareController::new(config.clone());
        let attached =
            Controller::attach_stepped("software", software.platform(), Options::default());
        let (controller, supervisor) = attached.unwrap();
        let limits = controller.namespaces()[0].limits();
        supervisor.finish();
        Arc::new(Lawful { config, limits })
    }
}

impl BlockDevice for Lawful {
    fn name(&self) -> &str {
        "lawful"
    }

    fn geometry(&self) -> Geometry {
        let NamespaceConfig { block_bytes, blocks, .. } = self.config.namespaces[0];
        Geometry { block_bytes, blocks }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn uuid(&self) -> Option<Uuid> {
        None
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        Ok(Box::new(Stepped::open(cx, self.config.clone(), Options::default(), depth)))
    }
}

fn namespace(block_bytes: u32, blocks: u64) -> Vec<NamespaceConfig> {
    vec![NamespaceConfig { block_bytes, blocks, uuid: None }]
}

fn law_options() -> laws::Options {
    laws::Options { cases: 24, ..laws::Options::default() }
}

#[test]
fn the_driver_keeps_the_laws() {
    laws::check(|_| Lawful::device(Config::default()), law_options());
}

#[test]
fn the_driver_keeps_the_laws_when_commands_end_in_any_order() {
    let config = Config { order: Order::Shuffled(7), ..Config::default() };
    laws::check(move |_| Lawful::device(config.clone()), law_options());
}

#[test]
fn the_driver_keeps_the_laws_with_doorbells_in_memory_and_blocks_of_4_kib() {
    let config = Config {
        namespaces: namespace(4096, 200),
        shadow_doorbells: Feature::Present,
        ..Config::default()
    };
    laws::check(move |_| Lawful::device(config.clone()), law_options());
}

#[test]
fn the_driver_keeps_the_laws_with_the_smallest_queue_and_transfer() {
    let config = Config { queue_entries_max: 4, transfer_shift: 1, ..Config::default() };
    laws::check(move |_| Lawful::device(config.clone()), law_options());
}

#[test]
fn a_poor_drive_that_is_completed_by_emulation_and_splitting_keeps_the_laws() {
    let config = Config {
        optional_commands: Feature::Absent,
        write_cache: Feature::Absent,
        transfer_shift: 1,
        ..Config::default()
    };
    laws::check(move |_| stack::complete(Lawful::device(config.clone())), law_options());
}

#[test]
fn the_driver_keeps_the_laws_where_unmapping_is_a_hint_alone() {
    let config = Config { zeroing_unmap: Feature::Absent, ..Config::default() };
    let raw = config.clone();
    laws::check(move |_| Lawful::device(raw.clone()), law_options());
    laws::check(move |_| stack::complete(Lawful::device(config.clone())), law_options());
}

fn open(cx: &mut Cx, config: Config) -> Stepped {
    Stepped::open(cx, config, Options::default(), 64)
}

/// Writes a pattern and reads it back; both must succeed.
fn verify(stepped: &mut Stepped, cx: &mut Cx, seed: u8) {
    let mut buffer = cx.dma.take(4096).unwrap();
    buffer.bytes_mut().fill(seed);
    let write = Io::write(Lba(8), 8, buffer.segment(4096), Token(1));
    stepped.submit(cx, write).unwrap();
    let ended = stepped.drain(cx, 100);
    assert_eq!(ended, [Completion::new(Token(1), Status::SUCCESS)]);
    buffer.bytes_mut().fill(0);
    stepped.submit(cx, Io::read(Lba(8), 8, buffer.segment(4096), Token(2))).unwrap();
    let ended = stepped.drain(cx, 100);
    assert_eq!(ended, [Completion::new(Token(2), Status::SUCCESS)]);
    assert!(buffer.bytes(4096).iter().all(|byte| *byte == seed));
    cx.dma.give(buffer);
}

#[test]
fn a_controller_is_identified_written_and_read() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx, Config::default());
    let identity = stepped.controller.identity();
    assert_eq!(identity.model, "Software NVMe controller");
    assert_eq!(identity.serial, "SOFTWARE0001");
    assert_eq!(stepped.controller.queues(), 4);
    let limits = stepped.controller.namespaces()[0].limits();
    assert_eq!((limits.io_blocks_max, limits.range_blocks_max), (256, 256));
    verify(&mut stepped, &mut cx, 0x5a);
    assert_eq!(stepped.software.violations(), [""; 0]);
    let software = stepped.software.clone();
    stepped.finish();
    assert_eq!(software.counts().shutdowns, 1);
    assert_eq!(software.violations(), [""; 0]);
}

#[test]
fn force_unit_access_and_flush_reach_the_controller() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx, Config::default());
    let buffer = cx.dma.take(4096).unwrap();
    let mut write = Io::write(Lba(0), 8, buffer.segment(4096), Token(1));
    write.flags = IoFlags::FUA;
    stepped.submit(&mut cx, write).unwrap();
    stepped.submit(&mut cx, Io::flush(Token(2))).unwrap();
    assert_eq!(stepped.drain(&mut cx, 10).len(), 2);
    let counts = stepped.software.counts();
    assert_eq!((counts.forced, counts.flushes), (1, 1));
    cx.dma.give(buffer);
}

#[test]
fn every_namespace_has_its_own_blocks_and_a_bad_number_names_those_there_are() {
    let (mut cx, _) = test_context();
    let uuid = Uuid::from_u128(7);
    let mut namespaces = namespace(512, 100);
    namespaces.push(NamespaceConfig { block_bytes: 4096, blocks: 50, uuid: Some(uuid) });
    let stepped = open(&mut cx, Config { namespaces, ..Config::default() });
    let device = PcieDevice::new("two".into(), stepped.controller.clone(), 2).unwrap();
    assert_eq!(device.geometry(), Geometry { block_bytes: 4096, blocks: 50 });
    assert_eq!(device.uuid(), Some(uuid));
    let error = PcieDevice::new("three".into(), stepped.controller.clone(), 3).unwrap_err();
    assert_eq!(error.to_string(), "there is no namespace 3; there are 1, 2");
}

#[test]
fn one_doorbell_serves_all_that_a_pass_submits_and_all_that_a_poll_takes() {
    let (mut cx, _) = test_context();
    let mut stepped = open(&mut cx, Config::default());
    let buffer = cx.dma.take(4096).unwrap();
    for token in 0..32 {
        let io = Io::read(Lba(token), 8, buffer.segment(4096), Token(token));
        stepped.submit(&mut cx, io).unwrap();
    }
    assert_eq!(stepped.drain(&mut cx, 10).len(), 32);
    assert_eq!(stepped.queue_pair().doorbell_writes(), 2);
    cx.dma.give(buffer);
}

#[test]
fn an_unmap_gives_space_back_by_the_command_that_the_namespace_has_for_it() {
    for (zeroing_unmap, zeroes) in [(Feature::Present, true), (Feature::Absent, false)] {
        let (mut cx, _) = test_context();
        let mut stepped = open(&mut cx, Config { zeroing_unmap, ..Config::default() });
        assert_eq!(stepped.controller.namespaces()[0].limits().unmap_zeroes, zeroes);
        verify(&mut stepped, &mut cx, 0x5a);
        let io = Io::with_memory(Operation::Unmap, Lba(8), 8, Memory::None, Token(3));
        stepped.submit(&mut cx, io).unwrap();
        assert_eq!(stepped.drain(&mut cx, 10), [Completion::new(Token(3), Status::SUCCESS)]);
        let hints = stepped.software.counts().hints;
        assert_eq!(hints, u64::from(zeroing_unmap == Feature::Absent));
        assert_eq!(stepped.software.violations(), [""; 0]);
    }
}

#[test]
fn a_verify_is_a_command_of_the_drive_as_long_as_it_takes_and_no_longer() {
    let (mut cx, _) = test_context();
    // 8 KiB in blocks of 512 bytes, though a Write Zeroes may have 256.
    let config = Config { verify_shift: 1, ..Config::default() };
    let mut stepped = open(&mut cx, config);
    assert_eq!(stepped.controller.namespaces()[0].limits().range_blocks_max, 16);
    let mut verify = |lba, blocks| {
        let io = Io::with_memory(Operation::Verify, Lba(lba), blocks, Memory::None, Token(1));
        stepped.submit(&mut cx, io).unwrap();
        let ended = stepped.drain(&mut cx, 10);
        (ended[0].status, stepped.software.counts().verifies)
    };
    assert_eq!(verify(0, 16), (Status::SUCCESS, 1));
    assert_eq!(verify(0, 17), (Status::INVALID_FIELD, 1));
    assert_eq!(verify(999, 1), (Status::SUCCESS, 2));
    assert_eq!(verify(999, 2), (Status::LBA_OUT_OF_RANGE, 2));
    stepped.software.inject(software::Fault::Status(Status::UNRECOVERED_READ_ERROR));
    let io = Io::with_memory(Operation::Verify, Lba(5), 1, Memory::None, Token(2));
    stepped.submit(&mut cx, io).unwrap();
    let ended = stepped.drain(&mut cx, 10);
    assert_eq!(ended, [Completion::new(Token(2), Status::UNRECOVERED_READ_ERROR)]);
}

#[test]
fn a_drive_that_does_not_verify_is_read_instead_where_it_is_completed() {
    let (mut cx, _) = test_context();
    let config = Config { optional_commands: Feature::Absent, ..Config::default() };
    let device = Lawful::device(config);
    assert!(!device.limits().operations.contains(Operation::Verify));
    let mut pair = stack::complete(device).open_queue_pair(&mut cx, 4).unwrap();
    let io = Io::with_memory(Operation::Verify, Lba(0), 1000, Memory::None, Token(1));
    pair.submit(&mut cx, io).unwrap();
    let mut completions = crate::io::Completions::new();
    for _ in 0..100 {
        pair.flush(&mut cx);
        pair.poll(&mut cx, &mut completions);
    }
    assert_eq!(completions.as_slice(), [Completion::new(Token(1), Status::SUCCESS)]);
    drop(pair);
    assert_eq!(cx.dma.taken(), 0);
}
