//! Any mixture of I/O, faults, time, aborts and resets, against a model of what the blocks hold.

use std::collections::BTreeMap;

use proptest::prelude::*;
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;
use reactor::{Cx, Nanos, VirtualClock};

use super::software::{Config, Fault, Feature};
use super::stepped::Stepped;
use super::{Options, Recovery};
use crate::io::{Completion, Completions, Io, Lba, Token};
use crate::nvme::status::Status;
use crate::queue_pair::QueuePair;

/// Places of 8 blocks, each with one I/O at a time.
const PLACES: u64 = 12;
const PLACE_BYTES: u32 = 4096;
/// Passes of half a second until everything must have ended: many I/O timeouts in a row.
const PASSES_MAX: usize = 4_000;

#[derive(Clone, Copy, Debug)]
enum Act {
    Write(u64),
    Read(u64),
    Inject(Fault),
    Pass,
    Wait(u64),
    AbortAll,
    Reset,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::Stuck),
        2 => Just(Fault::StuckForGood),
        4 => Just(Fault::Status(Status::INTERNAL_ERROR)),
        2 => Just(Fault::DoneButStatus(Status::UNRECOVERED_READ_ERROR)),
        1 => Just(Fault::WrongPhase),
        2 => Just(Fault::Twice),
        2 => any::<u16>().prop_map(Fault::UnknownId),
        2 => Just(Fault::Fatal),
        2 => Just(Fault::NotReady),
        1 => Just(Fault::NeverDisabled),
        1 => Just(Fault::NeverReady),
        1 => Just(Fault::Gone),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (0..PLACES).prop_map(Act::Write),
        12 => (0..PLACES).prop_map(Act::Read),
        10 => Just(Act::Pass),
        3 => (1_u64..40_000).prop_map(Act::Wait),
        2 => fault().prop_map(Act::Inject),
        1 => Just(Act::AbortAll),
        1 => Just(Act::Reset),
    ]
}

/// An I/O in flight.
struct Flight {
    place: u64,
    buffer: DmaBuffer,
    /// What it writes; none for a read.
    writes: Option<u8>,
}

struct Bench {
    cx: Cx,
    hand: VirtualClock,
    stepped: Stepped,
    /// By place: what it is known to hold.
    content: BTreeMap<u64, u8>,
    flights: BTreeMap<u64, Flight>,
    next: u64,
}

impl Bench {
    fn new(config: Config, options: Options) -> Bench {
        let (mut cx, hand) = test_context();
        let stepped = Stepped::open(&mut cx, config, options, PLACES as u32);
        let content = (0..PLACES).map(|place| (place, 0)).collect();
        Bench { cx, hand, stepped, content, flights: BTreeMap::new(), next: 0 }
    }

    fn submit(&mut self, place: u64, writes: Option<u8>) {
        if self.flights.values().any(|flight| flight.place == place) {
            return;
        }
        self.next += 1;
        let (token, lba) = (Token(self.next), Lba(place * 8));
        let mut buffer = self.cx.dma.take(PLACE_BYTES).unwrap();
        buffer.bytes_mut().fill(writes.unwrap_or(0xee));
        let segment = buffer.segment(PLACE_BYTES);
        let io = match writes {
            Some(_) => Io::write(lba, 8, segment, token),
            None => Io::read(lba, 8, segment, token),
        };
        self.stepped.submit(&mut self.cx, io).unwrap();
        self.flights.insert(self.next, Flight { place, buffer, writes });
    }

    fn ended(&mut self, completion: Completion) -> Result<(), TestCaseError> {
        let flight = self.flights.remove(&completion.token.0);
        let Some(Flight { place, buffer, writes }) = flight else {
            return Err(TestCaseError::fail("an I/O ended that was not in flight"));
        };
        match (writes, completion.status.is_success()) {
            (Some(value), true) => {
                self.content.insert(place, value);
            }
            // It may have been written or not.
            (Some(_), false) => {
                self.content.remove(&place);
            }
            (None, true) => {
                if let Some(value) = self.content.get(&place) {
                    let right = buffer.bytes(PLACE_BYTES).iter().all(|byte| byte == value);
                    prop_assert!(right, "place {place} reads what was last written");
                }
            }
            (None, false) => {}
        }
        self.cx.dma.give(buffer);
        Ok(())
    }

    fn pass(&mut self, span: Nanos) -> Result<(), TestCaseError> {
        self.hand.advance(span);
        self.cx.advance_clock();
        self.stepped.software.advance(span);
        let mut completions = Completions::new();
        self.stepped.pass(&mut self.cx, &mut completions);
        let inflight = self.stepped.inflight();
        let ended: Vec<_> = completions.drain().collect();
        ended.into_iter().try_for_each(|completion| self.ended(completion))?;
        prop_assert_eq!(inflight as usize, self.flights.len(), "credits never lie");
        Ok(())
    }

    fn run(&mut self, acts: &[Act]) -> Result<(), TestCaseError> {
        for (number, act) in acts.iter().enumerate() {
            match *act {
                Act::Write(place) => self.submit(place, Some((number % 251) as u8)),
                Act::Read(place) => self.submit(place, None),
                Act::Inject(fault) => self.stepped.software.inject(fault),
                Act::Pass => self.pass(Nanos(1_000))?,
                Act::Wait(span_ms) => self.pass(Nanos::from_millis(span_ms))?,
                Act::AbortAll => self.stepped.abort_all(&mut self.cx),
                Act::Reset => self.stepped.controller.reset(),
            }
        }
        for _ in 0..PASSES_MAX {
            if self.flights.is_empty() {
                break;
            }
            self.pass(Nanos::from_millis(500))?;
        }
        prop_assert!(self.flights.is_empty(), "every I/O ends");
        prop_assert_eq!(self.stepped.software.violations(), Vec::<String>::new());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_goes_wrong_every_io_ends_once_and_reads_what_was_written(
        acts in proptest::collection::vec(act(), 1..160), has_shadow: bool, fails: bool,
    ) {
        let shadow_doorbells = if has_shadow { Feature::Present } else { Feature::Absent };
        let recovery = if fails { Recovery::Fail } else { Recovery::Retry };
        let config = Config { shadow_doorbells, ..Config::default() };
        Bench::new(config, Options { recovery, ..Options::default() }).run(&acts)?;
    }
}
