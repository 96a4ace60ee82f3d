//! A device that keeps nothing: writes vanish, reads are zeroes.
//!
//! Measures what everything above a device costs. `submit` decides the I/O at once and puts its
//! completion into a list, `poll` hands the list up; both a few nanoseconds an I/O. Each core has
//! a queue pair of its own and nothing is shared.

use reactor::{Cx, Wake};
use uuid::Uuid;

use crate::device::{BlockDevice, Geometry, Limits, OpenError};
use crate::io::{Completion, Completions, Io, IoFlags, Operation, Waiting};
use crate::legality::{self, GeometryError, Legality};
use crate::nvme::status::Status;
use crate::parts::parts;
use crate::queue_pair::{Busy, QueuePair};

/// Bytes looked at in one go when comparing with zeroes.
const COMPARE_BYTES: usize = 512;

/// The device.
#[derive(Debug)]
pub struct Null {
    name: String,
    geometry: Geometry,
    uuid: Option<Uuid>,
}

impl Null {
    /// A device of this size; it takes no memory, however large.
    pub fn new(
        name: impl Into<String>,
        geometry: Geometry,
        uuid: Option<Uuid>,
    ) -> Result<Null, GeometryError> {
        legality::check_geometry(geometry)?;
        Ok(Null { name: name.into(), geometry, uuid })
    }
}

impl BlockDevice for Null {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn limits(&self) -> Limits {
        // Nothing is kept, so any write leaves all or none of itself behind.
        Limits { atomic_blocks: u32::MAX, ..Limits::default() }
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn open_queue_pair(&self, _cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let depth = depth.max(1);
        Ok(Box::new(NullQueuePair {
            legality: Legality::new(self.geometry, self.limits()),
            depth,
            done: Waiting::new(depth),
        }))
    }
}

#[derive(Debug)]
struct NullQueuePair {
    legality: Legality,
    depth: u32,
    /// Decided, not yet handed up. Never grows past `depth`, its capacity.
    done: Waiting,
}

impl NullQueuePair {
    /// Decides any I/O.
    #[inline(never)]
    fn decide(&self, io: &Io) -> Completion {
        if let Err(status) = self.legality.check(io) {
            return Completion::new(io.token, status);
        }
        match io.operation {
            Operation::Read if io.flags.contains(IoFlags::ACCEPT_ZEROES) => {
                Completion { token: io.token, status: Status::SUCCESS, zeroes: true }
            }
            Operation::Read => {
                io.memory.segments().iter().for_each(|segment| segment.fill_zero());
                Completion::new(io.token, Status::SUCCESS)
            }
            Operation::Compare | Operation::CompareAndWrite => {
                let block_bytes = u64::from(self.legality.geometry().block_bytes);
                let equal = first_bytes_are_zero(io, u64::from(io.blocks) * block_bytes);
                let status = if equal { Status::SUCCESS } else { Status::COMPARE_FAILURE };
                Completion::new(io.token, status)
            }
            Operation::Write
            | Operation::Flush
            | Operation::WriteZeroes
            | Operation::Unmap
            | Operation::Verify => Completion::new(io.token, Status::SUCCESS),
        }
    }
}

#[inline(never)]
fn first_bytes_are_zero(io: &Io, len_bytes: u64) -> bool {
    let mut copy = [0_u8; COMPARE_BYTES];
    parts(&io.memory, 0, len_bytes).all(|part| {
        (0..part.len_bytes()).step_by(COMPARE_BYTES).all(|offset| {
            let len = ((part.len_bytes() - offset) as usize).min(COMPARE_BYTES);
            part.read(offset, &mut copy[..len]);
            copy[..len].iter().all(|byte| *byte == 0)
        })
    })
}

impl QueuePair for NullQueuePair {
    fn submit(&mut self, _cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.done.len() == self.depth as usize {
            return Err(Busy);
        }
        // The two that are measured; `decide` would say the same.
        let zeroes = io.operation == Operation::Read && io.flags.contains(IoFlags::ACCEPT_ZEROES);
        if (zeroes || io.operation == Operation::Write) && self.legality.is_plain(&io) {
            self.done.push(Completion { token: io.token, status: Status::SUCCESS, zeroes });
            return Ok(());
        }
        let completion = self.decide(&io);
        self.done.push(completion);
        Ok(())
    }

    fn flush(&mut self, _cx: &mut Cx) {}

    fn poll(&mut self, _cx: &mut Cx, completions: &mut Completions) -> usize {
        self.done.hand_up(completions)
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    fn inflight(&self) -> u32 {
        u32::try_from(self.done.len()).expect("no more than the depth")
    }

    /// Everything in flight is done already and ends at the next poll.
    fn abort_all(&mut self, _cx: &mut Cx) {}

    fn wake(&self) -> Wake {
        if self.done.is_empty() { Wake::Never } else { Wake::Now }
    }

    fn arm(&mut self, _cx: &mut Cx) -> bool {
        self.done.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::{Lba, Memory, Token};
    use crate::laws;

    const BLOCKS: u64 = 1 << 40;

    fn one(operation: Operation, flags: IoFlags, fill: u8) -> (Completion, Vec<u8>) {
        let (mut cx, _) = reactor::cx::test_context();
        let geometry = Geometry { block_bytes: 4096, blocks: BLOCKS };
        let device = Null::new("null0", geometry, None).unwrap();
        let mut queue_pair = device.open_queue_pair(&mut cx, 1).unwrap();
        let mut buffer = cx.dma.take(8192).unwrap();
        buffer.bytes_mut().fill(fill);
        let len_bytes = u32::try_from(operation.memory_bytes(1, 4096)).unwrap();
        let memory = match len_bytes {
            0 => Memory::None,
            _ => Memory::One(buffer.segment(len_bytes)),
        };
        let io = Io::with_memory(operation, Lba(BLOCKS - 1), 1, memory, Token(7));
        queue_pair.submit(&mut cx, Io { flags, ..io }).unwrap();
        assert_eq!(queue_pair.submit(&mut cx, io), Err(Busy));
        let mut completions = Completions::new();
        assert_eq!(queue_pair.poll(&mut cx, &mut completions), 1);
        (completions.as_slice()[0], buffer.bytes(4096).to_vec())
    }

    #[test]
    fn a_read_fills_its_memory_with_zeroes() {
        let (completion, bytes) = one(Operation::Read, IoFlags::NONE, 0xee);
        assert_eq!(completion, Completion::new(Token(7), Status::SUCCESS));
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_reader_that_supplies_zeroes_keeps_its_memory() {
        let (completion, bytes) = one(Operation::Read, IoFlags::ACCEPT_ZEROES, 0xee);
        assert!(completion.zeroes && completion.status.is_success());
        assert!(bytes.iter().all(|byte| *byte == 0xee));
    }

    #[test]
    fn compares_are_with_zeroes() {
        assert_eq!(one(Operation::Compare, IoFlags::NONE, 0).0.status, Status::SUCCESS);
        assert_eq!(one(Operation::Compare, IoFlags::NONE, 1).0.status, Status::COMPARE_FAILURE);
        let swap = one(Operation::CompareAndWrite, IoFlags::NONE, 1).0;
        assert_eq!(swap.status, Status::COMPARE_FAILURE);
    }

    #[test]
    fn the_null_device_keeps_the_laws_and_nothing_else() {
        let make = |_: &mut Cx| -> Arc<dyn BlockDevice> {
            Arc::new(Null::new("null0", Geometry { block_bytes: 512, blocks: 300 }, None).unwrap())
        };
        laws::check(make, laws::Options { keeps: laws::Keeps::Nothing, ..Default::default() });
    }

    #[test]
    fn a_device_without_blocks_is_refused() {
        let geometry = Geometry { block_bytes: 512, blocks: 0 };
        assert_eq!(Null::new("null0", geometry, None).unwrap_err(), GeometryError::Empty);
    }
}
