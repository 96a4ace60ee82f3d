//! A thousand sessions with a target that lies: every I/O ends once, nothing is written but where a
//! read may write, and everything that was taken is given back.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bdev::{BlockDevice, Completions, Io, Lba, Memory, Operation, Token};
use reactor::cx::test_context;
use reactor::dma::{DmaBuffer, Segment};
use reactor::random::Random;
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, Nanos, VirtualClock};

use super::laws::{OwnTarget, own_description};
use super::mutate::{Liar, Mutated};
use super::remote::options;
use super::wire::{Peer, Wires};
use crate::initiator::remote::{RemoteDevice, Supervisor, WhenLost};
use crate::target::harness::Harness;

const SESSIONS: u64 = 1000;
/// Bytes of the memory of each I/O, and around it bytes that nobody may touch.
const IO_BYTES: u32 = 9216;
const GUARD_BYTES: u32 = 512;
const BUFFER_BYTES: u32 = IO_BYTES + 2 * GUARD_BYTES;
const GUARD: u8 = 0xa5;
const SOURCE: u8 = 0x3c;
const IOS: usize = 12;
const PASSES_MAX: u32 = 4_000;
const IDLE_PASSES: u32 = 8;
const IDLE_STEP: Nanos = Nanos::from_millis(250);

struct Hostile {
    cx: Cx,
    hand: VirtualClock,
    wires: Wires,
    target: OwnTarget,
    buffers: Vec<DmaBuffer>,
    liar: Rc<RefCell<Liar>>,
    idle: u32,
}

impl Hostile {
    fn new() -> Hostile {
        let (mut cx, hand) = test_context();
        let wires = Wires::install(&mut cx, MemoryLimits::default());
        let liar = Rc::new(RefCell::new(Liar::honest()));
        let shared = Rc::clone(&liar);
        wires.wrap(move |_, socket| Box::new(Mutated::new(socket, Rc::clone(&shared))));
        let target = OwnTarget(Harness::new(own_description()));
        let buffers = (0..IOS).map(|_| cx.dma.take(BUFFER_BYTES).unwrap()).collect();
        Hostile { cx, hand, wires, target, buffers, liar, idle: 0 }
    }

    fn step(&mut self, supervisor: &mut Supervisor) {
        self.idle += 1;
        let step = if self.idle > IDLE_PASSES { IDLE_STEP } else { Nanos::from_millis(1) };
        self.hand.advance(step);
        self.cx.advance_clock();
        self.target.step(&self.wires);
        self.wires.report(&mut self.cx);
        supervisor.poll(&mut self.cx);
    }

    /// One device from its opening to its end; gives how many I/Os succeeded.
    fn session(&mut self, seed: u64, liar: Liar) -> usize {
        *self.liar.borrow_mut() = liar;
        self.idle = 0;
        let mut random = Random::new(seed);
        let mut options = options(WhenLost::Wait(Duration::from_secs(5)));
        let digests = random.below(2) == 0;
        options.connect.header_digest = digests;
        options.connect.data_digest = digests;
        let name = String::from("remote");
        let (opening, mut supervisor) = RemoteDevice::open_stepped(name, options).unwrap();
        let mut succeeded = 0;
        for pass in 0.. {
            assert!(pass < PASSES_MAX, "it neither opens nor fails, seed {seed}");
            self.step(&mut supervisor);
            let Some(outcome) = opening.take() else { continue };
            if let Ok(device) = outcome {
                succeeded = self.use_device(&device, &mut supervisor, &mut random, seed);
            }
            break;
        }
        drop(opening);
        supervisor.poll(&mut self.cx);
        assert!(supervisor.is_ended());
        // A queue pair that was dropped leaves up to two buffers for the next to give back.
        assert!(self.cx.dma.taken() <= IOS as u32 + 2, "seed {seed}: {}", self.cx.dma.taken());
        succeeded
    }

    fn use_device(
        &mut self,
        device: &RemoteDevice,
        supervisor: &mut Supervisor,
        random: &mut Random,
        seed: u64,
    ) -> usize {
        let Ok(mut queue_pair) = device.open_queue_pair(&mut self.cx, IOS as u32) else { return 0 };
        let ios: Vec<Io> = (0..IOS).map(|index| self.io(index, random)).collect();
        for (index, io) in ios.iter().enumerate() {
            let bytes = self.buffers[index].bytes_mut();
            bytes.fill(GUARD);
            let fill = if io.operation == Operation::Read { 0 } else { SOURCE };
            bytes[GUARD_BYTES as usize..][..IO_BYTES as usize].fill(fill);
            queue_pair.submit(&mut self.cx, *io).expect("there is a credit for each");
        }
        let mut ended = [false; IOS];
        let mut succeeded = 0;
        let mut completions = Completions::new();
        for pass in 0.. {
            assert!(pass < PASSES_MAX, "I/O that never ends, seed {seed}: {ended:?}");
            queue_pair.flush(&mut self.cx);
            self.step(supervisor);
            queue_pair.poll(&mut self.cx, &mut completions);
            for completion in completions.drain() {
                self.idle = 0;
                let index = usize::try_from(completion.token.0).unwrap();
                assert!(!std::mem::replace(&mut ended[index], true), "once, seed {seed}");
                succeeded += usize::from(completion.status.is_success());
            }
            if ended.iter().all(|ended| *ended) {
                break;
            }
        }
        assert_eq!(queue_pair.inflight(), 0);
        ios.iter().zip(&self.buffers).for_each(|(io, buffer)| check_memory(io, buffer, seed));
        succeeded
    }

    fn io(&self, index: usize, random: &mut Random) -> Io {
        let blocks = u32::try_from(random.below(u64::from(IO_BYTES / 512))).unwrap() + 1;
        let whole: Segment = self.buffers[index].segment(BUFFER_BYTES);
        let data = |blocks: u32| Memory::One(whole.part(GUARD_BYTES, blocks * 512));
        let (operation, blocks, memory) = match random.below(8) {
            0 => (Operation::Flush, 0, Memory::None),
            1 => (Operation::WriteZeroes, blocks, Memory::None),
            2 => (Operation::Unmap, blocks, Memory::None),
            3 => (Operation::Compare, blocks, data(blocks)),
            4 => (Operation::CompareAndWrite, 1, data(2)),
            5 => (Operation::Write, blocks, data(blocks)),
            _ => (Operation::Read, blocks, data(blocks)),
        };
        let lba = if operation == Operation::Flush { 0 } else { random.below(380) };
        Io::with_memory(operation, Lba(lba), blocks, memory, Token(index as u64))
    }
}

/// Nothing but a read's own memory was written to.
fn check_memory(io: &Io, buffer: &DmaBuffer, seed: u64) {
    let bytes = buffer.bytes(BUFFER_BYTES);
    let (before, rest) = bytes.split_at(GUARD_BYTES as usize);
    let (data, after) = rest.split_at(IO_BYTES as usize);
    let guards = before.iter().chain(after);
    assert!(guards.into_iter().all(|byte| *byte == GUARD), "a guard is gone, seed {seed}");
    let (rest, expected) = match io.operation {
        Operation::Read => (&data[io.blocks as usize * 512..], 0),
        _ => (data, SOURCE),
    };
    assert!(rest.iter().all(|byte| *byte == expected), "{io:?}, seed {seed}");
}

#[test]
fn a_thousand_sessions_with_a_target_that_lies_end_every_io_once() {
    let mut hostile = Hostile::new();
    let (mut lies, mut succeeded) = (0, 0);
    for seed in 0..SESSIONS {
        succeeded += hostile.session(seed, Liar::new(seed));
        lies += hostile.liar.borrow().lies;
    }
    // The test bites only if there is much of both.
    assert!(lies > SESSIONS / 2 && succeeded > 1000, "{lies} lies, {succeeded} I/Os succeeded");
    let honest = hostile.session(SESSIONS, Liar::honest());
    assert!(honest > 0, "it works with one that does not lie");
}
