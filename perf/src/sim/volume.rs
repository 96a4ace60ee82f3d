//! What the hosts of a run know of the volume: what they wrote, what they were answered, and
//! whether that can be true.

use std::collections::BTreeMap;

use bdev::{IoFlags, Operation};

use super::content::{self, BLOCK_BYTES, Stamp};
use super::register::{Moment, Register, WriteName};
use super::violation::Violation;

/// An I/O of a host.
#[derive(Clone, Debug)]
pub struct HostIo {
    /// What it does.
    pub operation: Operation,
    /// How.
    pub flags: IoFlags,
    /// Its first block.
    pub start: u64,
    /// Its blocks; none for a flush.
    pub blocks: u32,
    /// Its number, and what it writes.
    pub stamp: Stamp,
    /// What a compare expects, a block each.
    pub expected: Vec<Stamp>,
    /// When it was submitted.
    pub began: Moment,
}

impl HostIo {
    /// Its blocks.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.start..self.start + u64::from(self.blocks)
    }

    fn write_name(&self) -> Option<WriteName> {
        match self.operation {
            Operation::Write | Operation::CompareAndWrite => Some(WriteName::Data(self.stamp)),
            Operation::WriteZeroes | Operation::Unmap => Some(WriteName::Zeroes(self.stamp)),
            Operation::Read | Operation::Compare | Operation::Flush | Operation::Verify => None,
        }
    }

    /// What its blocks hold after it, if it changes them.
    pub fn written(&self) -> Option<Stamp> {
        self.write_name().map(|name| match name {
            WriteName::Data(stamp) => stamp,
            WriteName::Zeroes(_) => Stamp::ZERO,
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Volume {
    seed: u64,
    moment: u64,
    stamps: u64,
    registers: BTreeMap<u64, Register>,
    /// What was last written or read, for compares that are to succeed.
    believed: BTreeMap<u64, Stamp>,
}

impl Volume {
    /// A volume of zeroes.
    pub fn new(seed: u64) -> Volume {
        let (registers, believed) = Default::default();
        Volume { seed, moment: 0, stamps: 0, registers, believed }
    }

    fn next_moment(&mut self) -> Moment {
        self.moment += 1;
        Moment(self.moment)
    }

    /// Prepares an I/O.
    pub fn begin(
        &mut self,
        operation: Operation,
        flags: IoFlags,
        start: u64,
        blocks: u32,
    ) -> HostIo {
        self.stamps += 1;
        let (stamp, began) = (Stamp(self.stamps), self.next_moment());
        let mut io = HostIo { operation, flags, start, blocks, stamp, expected: Vec::new(), began };
        if matches!(operation, Operation::Compare | Operation::CompareAndWrite) {
            let believed = |block| self.believed.get(&block).copied().unwrap_or_default();
            io.expected = io.range().map(believed).collect();
        }
        if let Some(name) = io.write_name() {
            for block in io.range() {
                self.registers.entry(block).or_default().begin_write(name, began);
            }
        }
        io
    }

    /// What the memory of an I/O holds at its beginning.
    pub fn memory(&self, io: &HostIo) -> Vec<u8> {
        let block = |(block, stamp)| content::encode(self.seed, block, stamp);
        let own = io.range().map(|number| block((number, io.stamp)));
        let expected = io.range().zip(io.expected.iter().copied()).map(block);
        match io.operation {
            Operation::Write => own.flatten().collect(),
            Operation::Compare => expected.flatten().collect(),
            Operation::CompareAndWrite => expected.chain(own).flatten().collect(),
            // What a read leaves alone is found out.
            Operation::Read => vec![0xa5; (io.blocks * BLOCK_BYTES) as usize],
            Operation::Flush | Operation::WriteZeroes | Operation::Unmap | Operation::Verify => {
                Vec::new()
            }
        }
    }

    /// An I/O has ended well. `memory` is that of a read; nothing where it found zeroes.
    pub fn succeeded(&mut self, io: &HostIo, memory: Option<&[u8]>) -> Result<(), Violation> {
        let ended = self.next_moment();
        if let Some(name) = io.write_name() {
            for block in io.range() {
                let register = self.registers.entry(block).or_default();
                register.acknowledge(name, ended);
                if io.flags.contains(IoFlags::FUA) {
                    register.make_durable(name);
                }
                self.believed.insert(block, io.written().unwrap_or_default());
            }
        }
        match io.operation {
            Operation::Read => {
                for (block, at) in io.range().zip((0..).step_by(BLOCK_BYTES as usize)) {
                    let stamp = match memory {
                        Some(memory) => {
                            let content = &memory[at..at + BLOCK_BYTES as usize];
                            content::decode(self.seed, block, content)
                        }
                        None => Some(Stamp::ZERO),
                    };
                    let stamp = stamp.ok_or(Violation::Garbage { block })?;
                    self.believed.insert(block, stamp);
                    self.was_read(block, stamp, io.began, ended)?;
                }
            }
            Operation::Compare | Operation::CompareAndWrite => {
                for (block, stamp) in io.range().zip(io.expected.clone()) {
                    self.was_read(block, stamp, io.began, ended)?;
                }
            }
            Operation::Flush => {
                self.registers.values_mut().for_each(|register| register.flushed(io.began));
            }
            Operation::Write | Operation::WriteZeroes | Operation::Unmap | Operation::Verify => {}
        }
        Ok(())
    }

    /// All power is lost, and with it what was not durable.
    pub fn lose_power(&mut self) -> Result<(), Violation> {
        self.believed.clear();
        for (block, register) in &mut self.registers {
            let block = *block;
            register.lose_power().map_err(|source| Violation::History { block, source })?;
        }
        Ok(())
    }

    /// An I/O has ended with an error. Whether a write was done nobody knows.
    pub fn failed(&mut self, io: &HostIo) {
        self.next_moment();
        for block in io.range() {
            self.believed.remove(&block);
        }
    }

    fn was_read(
        &mut self,
        block: u64,
        stamp: Stamp,
        began: Moment,
        ended: Moment,
    ) -> Result<(), Violation> {
        let register = self.registers.entry(block).or_default();
        register.read(stamp, began, ended).map_err(|source| Violation::History { block, source })
    }

    /// Which write a block's content is from.
    pub fn decode(&self, block: u64, content: &[u8]) -> Option<Stamp> {
        content::decode(self.seed, block, content)
    }

    /// What was last read from a block or written to it.
    pub fn believed(&self, block: u64) -> Option<Stamp> {
        self.believed.get(&block).copied()
    }

    /// Whether all that was written and read can be put in an order.
    pub fn check(&self) -> Result<(), Violation> {
        for (block, register) in &self.registers {
            let block = *block;
            register.check().map_err(|source| Violation::History { block, source })?;
        }
        Ok(())
    }
}
