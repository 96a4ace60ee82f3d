//! What hosts have moved through a namespace: a cell a core, written by that core alone.
//!
//! The core counts in its own memory and stores here now and then, without a read-modify-write;
//! any thread may sum. For the SMART log (NVMe Base 2.0 section 5.16.1.3) and for the engine's
//! counters. Kept over changes of the description.

use std::sync::atomic::{AtomicU64, Ordering};

use bdev::{Io, Operation};
use reactor::mesh::CoreIndex;

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStatistics {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read commands; compares count as such.
    pub read_commands: u64,
    /// Write commands.
    pub write_commands: u64,
}

impl IoStatistics {
    /// Counts an I/O in blocks of `block_bytes`.
    pub fn add(&mut self, io: &Io, block_bytes: u32) {
        let bytes = u64::from(io.blocks) * u64::from(block_bytes);
        match io.operation {
            Operation::Read | Operation::Compare => {
                self.read_commands += 1;
                self.read_bytes += bytes;
            }
            Operation::Write | Operation::CompareAndWrite => {
                self.write_commands += 1;
                self.written_bytes += bytes;
            }
            // Without data, as far as hosts go.
            Operation::Flush | Operation::WriteZeroes | Operation::Unmap | Operation::Verify => {}
        }
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: IoStatistics) -> IoStatistics {
        IoStatistics {
            read_bytes: self.read_bytes.wrapping_add(other.read_bytes),
            written_bytes: self.written_bytes.wrapping_add(other.written_bytes),
            read_commands: self.read_commands.wrapping_add(other.read_commands),
            write_commands: self.write_commands.wrapping_add(other.write_commands),
        }
    }
}

/// One core's cell, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell([AtomicU64; 4]);

/// What was moved through a namespace, by core.
#[derive(Debug)]
pub struct NamespaceStatistics {
    cells: Box<[Cell]>,
}

impl NamespaceStatistics {
    /// Nothing yet, for a target of so many cores.
    pub fn new(cores: usize) -> NamespaceStatistics {
        NamespaceStatistics { cells: (0..cores).map(|_| Cell::default()).collect() }
    }

    /// What one core has stored.
    pub fn of_core(&self, core: CoreIndex) -> IoStatistics {
        let Some(Cell(cell)) = self.cells.get(usize::from(core.0)) else {
            return IoStatistics::default();
        };
        // Relaxed: each number is true by itself; nothing else is read on the strength of it.
        let [read_bytes, written_bytes, read_commands, write_commands] =
            [0, 1, 2, 3].map(|index: usize| cell[index].load(Ordering::Relaxed));
        IoStatistics { read_bytes, written_bytes, read_commands, write_commands }
    }

    /// What all cores have stored together.
    pub fn total(&self) -> IoStatistics {
        let cores = u16::try_from(self.cells.len()).unwrap_or(u16::MAX);
        let each = (0..cores).map(|core| self.of_core(CoreIndex(core)));
        each.fold(IoStatistics::default(), IoStatistics::with)
    }

    /// Stores what a core has counted. On that core only; a core that has no cell is not counted.
    pub(super) fn store(&self, core: CoreIndex, moved: &IoStatistics) {
        let Some(Cell(cell)) = self.cells.get(usize::from(core.0)) else { return };
        let IoStatistics { read_bytes, written_bytes, read_commands, write_commands } = *moved;
        let numbers = [read_bytes, written_bytes, read_commands, write_commands];
        for (place, number) in cell.iter().zip(numbers) {
            place.store(number, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::{Lba, Memory, Token};

    fn io(operation: Operation, blocks: u32) -> Io {
        Io::with_memory(operation, Lba(0), blocks, Memory::None, Token(0))
    }

    #[test]
    fn reads_and_writes_are_counted_apart_and_the_rest_is_not() {
        let mut moved = IoStatistics::default();
        for (operation, blocks) in [
            (Operation::Read, 2),
            (Operation::Compare, 1),
            (Operation::Write, 4),
            (Operation::Unmap, 100),
            (Operation::Flush, 0),
        ] {
            moved.add(&io(operation, blocks), 512);
        }
        assert_eq!((moved.read_commands, moved.read_bytes), (2, 3 * 512));
        assert_eq!((moved.write_commands, moved.written_bytes), (1, 4 * 512));
    }

    #[test]
    fn the_total_is_of_all_cores_and_a_core_goes_on_where_it_was() {
        let statistics = NamespaceStatistics::new(2);
        for core in [0, 1] {
            let core = CoreIndex(core);
            let mut moved = statistics.of_core(core);
            moved.add(&io(Operation::Read, 1), 4096);
            statistics.store(core, &moved);
            let mut again = statistics.of_core(core);
            again.add(&io(Operation::Read, 1), 4096);
            statistics.store(core, &again);
        }
        assert_eq!(statistics.total().read_commands, 4);
        assert_eq!(statistics.total().read_bytes, 4 * 4096);
    }
}
