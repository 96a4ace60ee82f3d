//! From an address to queue pairs, and what an I/O does on the wire.

use std::net::SocketAddr;

use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::opcode::NvmOpcode;
use bdev::nvme::status::Status;
use bdev::{Completions, Io, Lba, Memory, Operation, QueuePair, Token};
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, Nanos, VirtualClock};
use uuid::Uuid;

use super::controller::{BLOCK_BYTES, Behaviour, FakeController, NAMESPACE_ID, namespace_uuid};
use super::wire::{Peer, Wires};
use crate::fabrics::connect::ConnectParameter;
use crate::initiator::{ConnectError, ConnectOptions, Connector, Progress, RemoteNamespace};
use crate::pdu::Flags;

pub const NQN: &str = "nqn.2019-05.io.openebs:volume";

pub struct Setup {
    pub cx: Cx,
    pub hand: VirtualClock,
    pub wires: Wires,
    pub controller: FakeController,
    pub options: ConnectOptions,
}

pub fn setup(behaviour: Behaviour, limits: MemoryLimits) -> Setup {
    let (mut cx, hand) = test_context();
    let wires = Wires::install(&mut cx, limits);
    let controller = FakeController::new(behaviour);
    Setup { cx, hand, wires, controller, options: default_options() }
}

pub fn default_options() -> ConnectOptions {
    let address = SocketAddr::from(([127, 0, 0, 1], 4420));
    ConnectOptions::new(address, NQN.parse().unwrap(), Uuid::from_u128(7))
}

impl Setup {
    pub fn pass(&mut self) {
        self.controller.step(&self.wires);
        self.wires.report(&mut self.cx);
        self.hand.advance(Nanos::from_millis(1));
        self.cx.advance_clock();
    }

    pub fn connect(&mut self) -> Result<RemoteNamespace, ConnectError> {
        let mut connector = Connector::start(&mut self.cx, self.options.clone())?;
        for _ in 0..100_000 {
            match connector.poll(&mut self.cx) {
                Progress::Pending => self.pass(),
                Progress::Ready(namespace) => return Ok(*namespace),
                Progress::Failed(error) => return Err(error),
            }
        }
        panic!("neither connected nor failed");
    }

    /// Does one I/O to its end.
    pub fn perform(&mut self, remote: &mut RemoteNamespace, io: Io) -> Status {
        let queue_pair = &mut remote.queue_pairs[0];
        queue_pair.submit(&mut self.cx, io).expect("there is a credit");
        let mut completions = Completions::new();
        for _ in 0..1_000_000 {
            remote.queue_pairs[0].flush(&mut self.cx);
            self.pass();
            remote.queue_pairs[0].poll(&mut self.cx, &mut completions);
            if let Some(completion) = completions.drain().next() {
                assert_eq!(completion.token, io.token);
                return completion.status;
            }
        }
        panic!("never completed");
    }

    fn close(&mut self, mut remote: RemoteNamespace) {
        for queue_pair in &mut remote.queue_pairs {
            queue_pair.close(&mut self.cx);
        }
        remote.admin.close(&mut self.cx);
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8 ^ seed)).collect()
}

fn write_then_read(setup: &mut Setup, remote: &mut RemoteNamespace, blocks: u32, seed: u8) {
    let len_bytes = blocks * BLOCK_BYTES;
    let mut buffer: DmaBuffer = setup.cx.dma.take(len_bytes).unwrap();
    let bytes = pattern(len_bytes as usize, seed);
    buffer.bytes_mut()[..bytes.len()].copy_from_slice(&bytes);
    let segment = buffer.segment(len_bytes);
    let write = Io::write(Lba(5), blocks, segment, Token(1));
    assert_eq!(setup.perform(remote, write), Status::SUCCESS);
    let start = 5 * BLOCK_BYTES as usize;
    assert_eq!(setup.controller.disk[start..start + bytes.len()], bytes);
    segment.fill_zero();
    let read = Io::read(Lba(5), blocks, segment, Token(2));
    assert_eq!(setup.perform(remote, read), Status::SUCCESS);
    assert_eq!(buffer.bytes(len_bytes), bytes);
    let compare = Memory::One(segment);
    let compare = Io::with_memory(Operation::Compare, Lba(5), blocks, compare, Token(3));
    assert_eq!(setup.perform(remote, compare), Status::SUCCESS);
    setup.controller.disk[start + bytes.len() - 1] ^= 1;
    assert_eq!(setup.perform(remote, compare), Status::COMPARE_FAILURE);
    setup.cx.dma.give(buffer);
}

#[test]
fn a_subsystem_is_connected_and_described() {
    let mut setup = setup(Behaviour { ready_after: 3, ..Behaviour::default() }, Default::default());
    setup.options.io_queues = 8;
    setup.options.queue_depth = 1023;
    let remote = setup.connect().unwrap();
    assert_eq!(remote.namespace_id, NAMESPACE_ID);
    assert_eq!((remote.geometry.block_bytes, remote.geometry.blocks), (512, 1000));
    assert_eq!(remote.uuid, Some(namespace_uuid()));
    assert_eq!(remote.admin.identity().model, "fake");
    assert_eq!(remote.admin.identity().serial, "42");
    assert_eq!(remote.queue_pairs.len(), 4);
    assert_eq!(setup.controller.queue_sizes, [127; 4]);
    assert!(remote.queue_pairs.iter().all(|queue_pair| queue_pair.credits() == 127));
    assert!(remote.limits.volatile_cache && remote.limits.unmap_zeroes);
    let taken = setup.cx.dma.taken();
    assert!(taken > 0);
    setup.close(remote);
    assert_eq!(setup.cx.dma.taken(), 0, "closing gives every buffer back");
}

#[test]
fn data_comes_back_whatever_way_it_goes() {
    let limits = [
        MemoryLimits::default(),
        MemoryLimits { call_bytes: 1, ..MemoryLimits::default() },
        MemoryLimits { call_bytes: 7, stream_bytes: 50 },
        MemoryLimits { call_bytes: 1000, stream_bytes: 3000 },
    ];
    for (index, limits) in limits.into_iter().enumerate() {
        for digest in [false, true] {
            let behaviour = Behaviour {
                capsule_bytes: if digest { 64 } else { 64 + 512 },
                alignment: if digest { 31 } else { 0 },
                send_bytes: 700 * 4,
                ask_bytes: 5000,
                data_bytes_max: 4096,
                success: if digest { Flags::SUCCESS } else { Flags::NONE },
                ..Behaviour::default()
            };
            let mut setup = setup(behaviour, limits);
            setup.options.header_digest = digest;
            setup.options.data_digest = digest;
            // A stream of a byte a pass, a pass a millisecond.
            setup.options.connect_timeout = std::time::Duration::from_secs(1_000);
            let mut remote = setup.connect().unwrap();
            let seed = u8::try_from(index).unwrap();
            write_then_read(&mut setup, &mut remote, 1, seed);
            write_then_read(&mut setup, &mut remote, 31, seed);
        }
    }
}

#[test]
fn a_large_read_lands_in_place() {
    let mut setup = setup(Behaviour::default(), Default::default());
    let mut remote = setup.connect().unwrap();
    for _ in 0..3 {
        write_then_read(&mut setup, &mut remote, 256, 9);
    }
}

#[test]
fn every_operation_becomes_its_command() {
    for (deallocate, unmap) in
        [(0b1001, NvmOpcode::WriteZeroes), (0b0001, NvmOpcode::DatasetManagement)]
    {
        let behaviour = Behaviour { deallocate, capsule_bytes: 64, ..Behaviour::default() };
        let mut setup = setup(behaviour, Default::default());
        let mut remote = setup.connect().unwrap();
        setup.controller.disk.fill(1);
        assert_eq!(setup.perform(&mut remote, Io::flush(Token(1))), Status::SUCCESS);
        for (operation, lba) in [(Operation::WriteZeroes, 1), (Operation::Unmap, 4)] {
            let io = Io::with_memory(operation, Lba(lba), 2, Memory::None, Token(lba));
            assert_eq!(setup.perform(&mut remote, io), Status::SUCCESS);
        }
        let zero_blocks: Vec<_> = setup.controller.disk[..4096]
            .chunks(512)
            .map(|block| block.iter().all(|byte| *byte == 0))
            .collect();
        assert_eq!(zero_blocks, [false, true, true, false, true, true, false, false]);
        let flush = NvmOpcode::Flush.value();
        let zeroes = NvmOpcode::WriteZeroes.value();
        assert_eq!(setup.controller.seen, [flush, zeroes, unmap.value()]);
    }
}

#[test]
fn an_illegal_io_completes_with_its_error_and_sends_nothing() {
    let mut setup = setup(Behaviour::default(), Default::default());
    let mut remote = setup.connect().unwrap();
    let beyond = Io::with_memory(Operation::Unmap, Lba(999), 2, Memory::None, Token(1));
    assert_eq!(setup.perform(&mut remote, beyond), Status::LBA_OUT_OF_RANGE);
    let buffer = setup.cx.dma.take(1024).unwrap();
    let halves = Memory::One(buffer.segment(1024));
    let fused = Io::with_memory(Operation::CompareAndWrite, Lba(0), 1, halves, Token(2));
    assert_eq!(setup.perform(&mut remote, fused), Status::INVALID_OPCODE);
    assert_eq!(setup.controller.seen, []);
    setup.cx.dma.give(buffer);
}

#[test]
fn refusals_of_connect_have_words_of_their_own() {
    let refused = |refusal: CompletionEntry| {
        let behaviour = Behaviour { refusal: Some(refusal), ..Behaviour::default() };
        setup(behaviour, Default::default()).connect().unwrap_err()
    };
    let unknown = refused(ConnectParameter::SubsystemNqn.refusal(0));
    assert!(matches!(unknown, ConnectError::UnknownSubsystem { .. }), "{unknown}");
    for refusal in [
        ConnectParameter::HostNqn.refusal(0),
        CompletionEntry::new(0, 0, Status::CONNECT_INVALID_HOST.with_do_not_retry()),
    ] {
        let not_allowed = refused(refusal);
        assert!(matches!(not_allowed, ConnectError::HostNotAllowed { .. }), "{not_allowed}");
    }
    let busy = refused(CompletionEntry::new(0, 0, Status::CONNECT_CONTROLLER_BUSY));
    assert!(matches!(busy, ConnectError::Refused { .. }), "{busy}");
}

#[test]
fn a_target_that_says_nothing_is_given_up_in_time() {
    let mut setup = setup(Behaviour { mute: true, ..Behaviour::default() }, Default::default());
    let error = setup.connect().unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(setup.cx.now() < Nanos::from_millis(10_100));
    assert_eq!(setup.cx.dma.taken(), 0);
}

#[test]
fn keep_alives_go_out_at_half_the_time_and_a_dead_target_is_noticed() {
    let mut setup = setup(Behaviour::default(), Default::default());
    setup.options.keep_alive_ms = 100;
    let mut remote = setup.connect().unwrap();
    for _ in 0..1000 {
        remote.admin.poll(&mut setup.cx);
        setup.pass();
    }
    assert!((15..=20).contains(&setup.controller.keep_alives), "{}", setup.controller.keep_alives);
    assert_eq!(remote.admin.failure(), None);
    for _ in 0..200 {
        remote.admin.poll(&mut setup.cx);
        setup.hand.advance(Nanos::from_millis(1));
        setup.cx.advance_clock();
    }
    assert!(remote.admin.failure().is_some());
}
