//! What the load consists of: which operation comes next, and where on the device.
//!
//! A [`Stream`] belongs to one connection and is asked on the core's thread for each I/O, so it
//! costs one random number and no division.

use bdev::{Lba, Operation};
use reactor::random::Random;

/// Reads and writes, and in which share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reads only.
    Read,
    /// Writes only.
    Write,
    /// Both.
    Mixed {
        /// Reads among a hundred, 0 to 100.
        read_percent: u8,
    },
}

/// In which order places are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other, and from the start again.
    Sequential,
    /// Any, each as likely as the other.
    Random,
}

/// The kinds of load that fio's `rw` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Random reads.
    #[value(name = "randread")]
    RandomRead,
    /// Random writes.
    #[value(name = "randwrite")]
    RandomWrite,
    /// Sequential reads and writes, mixed.
    #[value(name = "rw", alias = "readwrite")]
    Mixed,
    /// Random reads and writes, mixed.
    #[value(name = "randrw")]
    RandomMixed,
}

impl Pattern {
    /// Its order.
    pub fn order(self) -> Order {
        match self {
            Pattern::Read | Pattern::Write | Pattern::Mixed => Order::Sequential,
            Pattern::RandomRead | Pattern::RandomWrite | Pattern::RandomMixed => Order::Random,
        }
    }

    /// Its direction; `read_percent` is of a mixed one.
    pub fn direction(self, read_percent: u8) -> Direction {
        match self {
            Pattern::Read | Pattern::RandomRead => Direction::Read,
            Pattern::Write | Pattern::RandomWrite => Direction::Write,
            Pattern::Mixed | Pattern::RandomMixed => Direction::Mixed { read_percent },
        }
    }
}

/// A part of a device, cut into places of one I/O each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block.
    pub first: Lba,
    /// Number of places, at least one.
    pub places: u64,
    /// Blocks a place, and so an I/O.
    pub place_blocks: u32,
}

impl Extent {
    /// The first block of a place.
    #[inline]
    pub fn lba(&self, place: u64) -> Lba {
        Lba(self.first.0 + place * u64::from(self.place_blocks))
    }

    /// Part `index` of `count`, each with as many places; none when there are too few.
    #[must_use]
    pub fn part(&self, index: u64, count: u64) -> Option<Extent> {
        let places = self.places / count.max(1);
        (places > 0).then(|| Extent { first: self.lba(places * index), places, ..*self })
    }
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// A read or a write.
    pub operation: Operation,
    /// The place within the extent.
    pub place: u64,
}

/// The endless sequence of a connection's I/Os.
#[derive(Clone, Debug)]
pub struct Stream {
    direction: Direction,
    order: Order,
    extent: Extent,
    cursor: u64,
}

impl Stream {
    /// A stream over `extent` that, when sequential, starts at place `cursor`.
    pub fn new(direction: Direction, order: Order, extent: Extent, cursor: u64) -> Stream {
        assert!(extent.places > 0, "an extent has a place");
        Stream { direction, order, extent, cursor: cursor % extent.places }
    }

    /// What it runs over.
    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// The next step.
    #[inline]
    pub fn step(&mut self, random: &mut Random) -> Step {
        let operation = match self.direction {
            Direction::Read => Operation::Read,
            Direction::Write => Operation::Write,
            Direction::Mixed { read_percent } if random.below(100) < u64::from(read_percent) => {
                Operation::Read
            }
            Direction::Mixed { .. } => Operation::Write,
        };
        Step { operation, place: self.place(random) }
    }

    /// The next place alone.
    #[inline]
    pub fn place(&mut self, random: &mut Random) -> u64 {
        match self.order {
            Order::Random => random.below(self.extent.places),
            Order::Sequential => {
                let place = self.cursor;
                self.cursor = if place + 1 == self.extent.places { 0 } else { place + 1 };
                place
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { first: Lba(16), places: 4, place_blocks: 8 };

    #[test]
    fn sequential_places_follow_each_other_and_wrap() {
        let mut stream = Stream::new(Direction::Read, Order::Sequential, EXTENT, 2);
        let mut random = Random::new(1);
        let places: Vec<_> = (0..5).map(|_| stream.step(&mut random).place).collect();
        assert_eq!(places, [2, 3, 0, 1, 2]);
        assert_eq!(EXTENT.lba(3), Lba(40));
    }

    #[test]
    fn random_places_reach_the_whole_extent_and_nothing_else() {
        let mut stream = Stream::new(Direction::Write, Order::Random, EXTENT, 0);
        let mut random = Random::new(1);
        let mut seen = [false; 4];
        for _ in 0..200 {
            let step = stream.step(&mut random);
            assert_eq!(step.operation, Operation::Write);
            seen[usize::try_from(step.place).unwrap()] = true;
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn a_mix_has_its_share_of_reads() {
        let mut random = Random::new(1);
        for (read_percent, expected) in [(0, 0), (70, 7_000), (100, 10_000)] {
            let direction = Direction::Mixed { read_percent };
            let mut stream = Stream::new(direction, Order::Random, EXTENT, 0);
            let reads = (0..10_000)
                .filter(|_| stream.step(&mut random).operation == Operation::Read)
                .count();
            assert!(reads.abs_diff(expected) < 250, "{reads} of {read_percent} percent");
        }
    }

    #[test]
    fn parts_do_not_overlap_and_may_run_out() {
        let parts: Vec<_> = (0..2).map(|index| EXTENT.part(index, 2).unwrap()).collect();
        assert_eq!((parts[0].first, parts[0].places), (Lba(16), 2));
        assert_eq!((parts[1].first, parts[1].places), (Lba(32), 2));
        assert_eq!(EXTENT.part(0, 5), None);
    }
}
