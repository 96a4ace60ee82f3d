//! The suite can fail: a device with any one defect is caught.

use std::panic::{AssertUnwindSafe, catch_unwind};

use reactor::Wake;
use uuid::Uuid;

use super::*;
use crate::device::OpenError;
use crate::io::{Completion, Completions, IoFlags, Operation};
use crate::queue_pair::{Busy, QueuePair};
use crate::{Malloc, below::Below};

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    LosesCompletions,
    CompletesTwice,
    CompletesInSubmit,
    CountsWrong,
    BusyWithCredits,
    PromisesTooMuch,
    Sleeps,
    LosesWrites,
    SkipsZeroing,
    AcceptsAnything,
    SaysZeroesUnasked,
    ChangesWrittenMemory,
    TouchesMemoryLater,
    ComparesNothing,
}

#[derive(Debug)]
struct Defective {
    inner: Malloc,
    defect: Defect,
}

impl BlockDevice for Defective {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.inner.uuid()
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let inner = self.inner.open_queue_pair(cx, depth)?;
        let below = Below::new(inner, depth);
        Ok(Box::new(DefectiveQueuePair { below, defect: self.defect, last_read: None, count: 0 }))
    }
}

#[derive(Debug)]
struct DefectiveQueuePair {
    below: Below,
    defect: Defect,
    last_read: Option<Io>,
    count: u32,
}

impl QueuePair for DefectiveQueuePair {
    fn submit(&mut self, cx: &mut Cx, mut io: Io) -> Result<(), Busy> {
        // Credits leave room for what is ready above, and are refused as they are counted.
        if self.credits() == 0 {
            return Err(Busy);
        }
        self.count += 1;
        let written = io.operation == Operation::Write && io.memory.len_bytes() > 0;
        match self.defect {
            Defect::BusyWithCredits if self.count.is_multiple_of(7) => return Err(Busy),
            Defect::LosesWrites if written => io = Io::flush_of(io),
            Defect::SkipsZeroing if io.operation == Operation::Unmap => io = Io::flush_of(io),
            Defect::ComparesNothing if io.operation == Operation::Compare => io = Io::flush_of(io),
            Defect::AcceptsAnything if io.blocks == 0 => io = Io::flush_of(io),
            Defect::ChangesWrittenMemory if written => io.memory.segments()[0].write(0, &[0xcc]),
            Defect::CompletesInSubmit => self.count = u32::MAX / 2,
            _ => {}
        }
        if io.operation == Operation::Read && io.memory.len_bytes() > 0 {
            if let (Defect::TouchesMemoryLater, Some(last)) = (self.defect, self.last_read)
                && matches!(last.memory, crate::Memory::One(_))
            {
                last.memory.segments()[0].write(0, &[0xcc]);
            }
            self.last_read = Some(io);
        }
        self.below.queue_pair.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.below.queue_pair.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        self.below.poll(cx);
        while let Some(completion) = self.below.next_polled() {
            match self.defect {
                Defect::LosesCompletions if self.count.is_multiple_of(5) => {}
                Defect::CompletesTwice if self.count.is_multiple_of(5) => {
                    self.below.push(completion);
                    self.below.push(completion);
                }
                Defect::SaysZeroesUnasked => {
                    self.below.push(Completion { zeroes: true, ..completion });
                }
                _ => self.below.push(completion),
            }
        }
        self.below.hand_up(completions)
    }

    fn credits(&self) -> u32 {
        let promised = if self.defect == Defect::PromisesTooMuch { 3 } else { 0 };
        self.below.queue_pair.credits().saturating_sub(self.below.ready()) + promised
    }

    fn inflight(&self) -> u32 {
        let inflight = self.below.queue_pair.inflight() + self.below.ready();
        match self.defect {
            Defect::CountsWrong => inflight.min(3),
            // As if one had ended there.
            Defect::CompletesInSubmit if self.count >= u32::MAX / 2 => inflight.saturating_sub(1),
            _ => inflight,
        }
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.below.queue_pair.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        if self.defect == Defect::Sleeps { Wake::Never } else { self.below.wake() }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.below.arm(cx)
    }
}

impl Io {
    /// A flush that completes in place of another I/O.
    fn flush_of(io: Io) -> Io {
        Io { flags: IoFlags::NONE, ..Io::flush(io.token) }
    }
}

fn survives(defect: Defect) -> bool {
    let geometry = Geometry { block_bytes: 512, blocks: 300 };
    let make = |_: &mut Cx| -> Arc<dyn BlockDevice> {
        let inner = Malloc::new("malloc0", geometry, None).unwrap();
        Arc::new(Defective { inner, defect })
    };
    let run = || check(make, Options { cases: 32, ..Options::default() });
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

#[test]
fn the_suite_passes_a_device_without_defect() {
    assert!(survives(Defect::None));
}

#[test]
fn the_suite_catches_every_defect() {
    use Defect::*;
    for defect in [
        LosesCompletions,
        CompletesTwice,
        CompletesInSubmit,
        CountsWrong,
        BusyWithCredits,
        PromisesTooMuch,
        Sleeps,
        LosesWrites,
        SkipsZeroing,
        AcceptsAnything,
        SaysZeroesUnasked,
        ChangesWrittenMemory,
        TouchesMemoryLater,
        ComparesNothing,
    ] {
        assert!(!survives(defect), "{defect:?} goes unnoticed");
    }
}
