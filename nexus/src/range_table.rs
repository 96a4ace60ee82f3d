//! The ranges of one core's I/Os: which of them must wait for which.
//!
//! Owned by a core's queue pair, on its thread; plain memory. A write is entered when it arrives
//! and may start once no earlier write of the table overlaps it; the answer of a read is entered
//! when its data is there, if writes overlap it (replica-truth rule 21). Order is that of
//! arrival, so nobody starves and nobody waits in a circle. Between cores [`bdev::stripe_lock`]
//! does the same, coarser.
//!
//! Entries hang in lists by stripe of 64 KiB, found by hashing; one that spans more than two
//! stripes is wide, and wide ones are looked at by everybody. Each node counts what it waits for;
//! one that leaves counts those down that came after it. Entering and leaving cost the length of
//! a list.

use bdev::stripe_lock::STRIPE_BYTES;

/// Lists. 16 KiB of heads a queue pair.
const BUCKETS: usize = 4096;

/// Ends a list.
const NONE: u32 = u32::MAX;

/// Stripes that an entry is linked under at most.
const LINKS: usize = 2;

/// What an entry is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Absent,
    Writer,
    Reader,
}

/// A link of an entry in the list of one stripe; named by `index * LINKS + link`.
#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    start: u64,
    end: u64,
    arrival: u64,
    /// Earlier writers that overlap, counted once for each list in which both are found.
    blockers: u32,
    kind: Kind,
    /// Somebody counted this one.
    has_dependents: bool,
    /// Stripes that it is linked under; zero for a wide one.
    links: u8,
    link: [Link; LINKS],
}

const UNLINKED: Link = Link { next: NONE, previous: NONE };
const ABSENT: Node = Node {
    start: 0,
    end: 0,
    arrival: 0,
    blockers: 0,
    kind: Kind::Absent,
    has_dependents: false,
    links: 0,
    link: [UNLINKED; LINKS],
};

/// See the module. Entries are named by the slot of their I/O.
#[derive(Debug)]
pub(crate) struct RangeTable {
    heads: Box<[u32; BUCKETS]>,
    nodes: Box<[Node]>,
    /// Entries that span more stripes than they have links.
    wide: u32,
    writers: u32,
    arrivals: u64,
    stripe_shift: u32,
}

impl RangeTable {
    /// An empty table for slots below `slots`, on a volume of blocks of `block_bytes`.
    pub(crate) fn new(slots: u32, block_bytes: u32) -> RangeTable {
        let stripe_blocks = STRIPE_BYTES / u64::from(block_bytes);
        RangeTable {
            heads: Box::new([NONE; BUCKETS]),
            nodes: vec![ABSENT; slots as usize].into_boxed_slice(),
            wide: 0,
            writers: 0,
            arrivals: 0,
            stripe_shift: stripe_blocks.trailing_zeros(),
        }
    }

    /// Enters a write of `blocks` blocks (not zero). True when it may start at once.
    #[inline]
    pub(crate) fn enter_writer(&mut self, slot: u32, start: u64, blocks: u32) -> bool {
        let blockers = self.enter(slot, Kind::Writer, start, start + u64::from(blocks));
        self.writers += 1;
        blockers == 0
    }

    /// Enters the answer of a read, unless no write overlaps it. True when it may be given at once;
    /// then it was not entered.
    #[inline]
    pub(crate) fn enter_reader(&mut self, slot: u32, start: u64, blocks: u32) -> bool {
        if self.writers == 0 || self.is_alone(start, start + u64::from(blocks)) {
            return true;
        }
        self.enter_reader_among(slot, start, start + u64::from(blocks))
    }

    /// [`Self::enter_reader`] where there is somebody.
    #[inline(never)]
    fn enter_reader_among(&mut self, slot: u32, start: u64, end: u64) -> bool {
        let blockers = self.enter(slot, Kind::Reader, start, end);
        if blockers == 0 {
            self.unlink(slot);
        }
        blockers == 0
    }

    /// True when nobody at all is in the one stripe of a range. Where it says no, there may be.
    #[inline]
    fn is_alone(&self, start: u64, end: u64) -> bool {
        let (first, last) = (start >> self.stripe_shift, (end - 1) >> self.stripe_shift);
        first == last && self.wide == 0 && self.heads[bucket(first)] == NONE
    }

    /// Takes an entry out and hands each one that may go on now to `freed`.
    #[inline(always)]
    pub(crate) fn leave(&mut self, slot: u32, freed: &mut Vec<u32>) {
        let node = &self.nodes[slot as usize];
        debug_assert!(node.kind != Kind::Absent && node.blockers == 0);
        let (is_writer, has_dependents) = (node.kind == Kind::Writer, node.has_dependents);
        self.unlink(slot);
        if is_writer {
            self.writers -= 1;
            if has_dependents {
                self.release_dependents(slot, freed);
            }
        }
    }

    /// True when an entry of the slot is there.
    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.nodes[slot as usize].kind != Kind::Absent
    }

    #[inline(always)]
    fn enter(&mut self, slot: u32, kind: Kind, start: u64, end: u64) -> u32 {
        debug_assert!(!self.contains(slot), "an I/O is entered once");
        let (first, last) = (start >> self.stripe_shift, (end - 1) >> self.stripe_shift);
        if first != last || self.wide > 0 {
            return self.enter_long(slot, kind, start, end);
        }
        // Nearly every I/O: one stripe, and nobody else there.
        let mut blockers = 0;
        let name = slot * LINKS as u32;
        let next = std::mem::replace(&mut self.heads[bucket(first)], name);
        if next != NONE {
            blockers = self.count_list(next, start, end);
            self.nodes[next as usize / LINKS].link[next as usize % LINKS].previous = name;
        }
        self.arrivals += 1;
        let node = &mut self.nodes[slot as usize];
        (node.start, node.end, node.arrival) = (start, end, self.arrivals);
        (node.blockers, node.kind, node.has_dependents) = (blockers, kind, false);
        node.links = 1;
        node.link[0] = Link { next, previous: NONE };
        blockers
    }

    /// Counts whom a newcomer must wait for of a list that begins at `at`.
    fn count_list(&mut self, mut at: u32, start: u64, end: u64) -> u32 {
        let mut blockers = 0;
        while at != NONE {
            let node = &mut self.nodes[at as usize / LINKS];
            blockers += count(node, start, end);
            at = node.link[at as usize % LINKS].next;
        }
        blockers
    }

    /// [`Self::enter`] where there is more than one stripe, or somebody wide.
    #[cold]
    fn enter_long(&mut self, slot: u32, kind: Kind, start: u64, end: u64) -> u32 {
        let (first, last) = (start >> self.stripe_shift, (end - 1) >> self.stripe_shift);
        let spans = last - first + 1;
        let links = if spans > LINKS as u64 { 0 } else { spans as u8 };
        let mut blockers = 0;
        if links == 0 {
            for node in &mut self.nodes {
                blockers += count(node, start, end);
            }
        } else {
            for link in 0..u64::from(links) {
                blockers += self.count_list(self.heads[bucket(first + link)], start, end);
            }
            if self.wide > 0 {
                let wide = self.nodes.iter_mut().filter(|node| node.links == 0);
                blockers += wide.map(|node| count(node, start, end)).sum::<u32>();
            }
        }
        self.arrivals += 1;
        let arrival = self.arrivals;
        let node = &mut self.nodes[slot as usize];
        *node =
            Node { start, end, arrival, blockers, kind, has_dependents: false, links, ..ABSENT };
        self.link(slot, first, links);
        blockers
    }

    fn link(&mut self, slot: u32, first: u64, links: u8) {
        if links == 0 {
            self.wide += 1;
        }
        for link in 0..usize::from(links) {
            let name = slot * LINKS as u32 + link as u32;
            let head = &mut self.heads[bucket(first + link as u64)];
            let next = std::mem::replace(head, name);
            self.nodes[slot as usize].link[link] = Link { next, previous: NONE };
            if next != NONE {
                self.nodes[next as usize / LINKS].link[next as usize % LINKS].previous = name;
            }
        }
    }

    /// Takes a node out of its lists. Its range and number of links stay to be read.
    #[inline(always)]
    fn unlink(&mut self, slot: u32) {
        let node = &mut self.nodes[slot as usize];
        node.kind = Kind::Absent;
        let (first, links, link) = (node.start >> self.stripe_shift, node.links, node.link);
        if links == 0 {
            self.wide -= 1;
            return;
        }
        self.unlink_from(first, link[0]);
        if links > 1 {
            self.unlink_from(first + 1, link[1]);
        }
    }

    #[inline(always)]
    fn unlink_from(&mut self, stripe: u64, Link { next, previous }: Link) {
        match previous {
            NONE => self.heads[bucket(stripe)] = next,
            _ => {
                let before = &mut self.nodes[previous as usize / LINKS];
                before.link[previous as usize % LINKS].next = next;
            }
        }
        if next != NONE {
            self.nodes[next as usize / LINKS].link[next as usize % LINKS].previous = previous;
        }
    }

    /// Counts down everybody who counted `gone`, by the same walk as at their entry.
    #[cold]
    fn release_dependents(&mut self, gone: u32, freed: &mut Vec<u32>) {
        let gone = &self.nodes[gone as usize].clone();
        if gone.links > 0 {
            let first = gone.start >> self.stripe_shift;
            for link in 0..u64::from(gone.links) {
                let mut at = self.heads[bucket(first + link)];
                while at != NONE {
                    let slot = at / LINKS as u32;
                    let node = &mut self.nodes[slot as usize];
                    at = node.link[at as usize % LINKS].next;
                    release(node, gone, slot, freed);
                }
            }
        }
        if gone.links == 0 || self.wide > 0 {
            for (slot, node) in (0..).zip(&mut self.nodes) {
                if gone.links == 0 || node.links == 0 {
                    release(node, gone, slot, freed);
                }
            }
        }
    }
}

#[inline]
fn bucket(stripe: u64) -> usize {
    (stripe % BUCKETS as u64) as usize
}

/// One if a newcomer of this range must wait for the node, which then knows that it has dependents.
#[inline]
fn count(node: &mut Node, start: u64, end: u64) -> u32 {
    let blocks = node.kind == Kind::Writer && node.start < end && start < node.end;
    if blocks {
        node.has_dependents = true;
    }
    u32::from(blocks)
}

fn release(node: &mut Node, gone: &Node, slot: u32, freed: &mut Vec<u32>) {
    let overlaps = node.start < gone.end && gone.start < node.end;
    if node.kind == Kind::Absent || node.arrival < gone.arrival || !overlaps {
        return;
    }
    node.blockers -= 1;
    if node.blockers == 0 {
        freed.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;

    const SLOTS: u32 = 24;

    fn table() -> RangeTable {
        RangeTable::new(SLOTS, 512)
    }

    fn left(table: &mut RangeTable, slot: u32) -> Vec<u32> {
        let mut freed = Vec::new();
        table.leave(slot, &mut freed);
        freed.sort_unstable();
        freed
    }

    #[test]
    fn a_write_waits_for_the_earlier_writes_that_it_overlaps() {
        let mut table = table();
        assert!(table.enter_writer(0, 0, 8));
        assert!(table.enter_writer(1, 8, 8));
        assert!(!table.enter_writer(2, 4, 8));
        assert!(!table.enter_writer(3, 11, 1));
        assert_eq!(left(&mut table, 0), [0; 0]);
        assert_eq!(left(&mut table, 1), [2]);
        assert_eq!(left(&mut table, 2), [3]);
        assert_eq!(left(&mut table, 3), [0; 0]);
    }

    #[test]
    fn the_answer_of_a_read_waits_for_writes_and_holds_up_nobody() {
        let mut table = table();
        assert!(table.enter_reader(0, 0, 8));
        assert!(table.enter_writer(1, 0, 8));
        assert!(!table.enter_reader(0, 7, 8));
        assert!(table.enter_reader(2, 8, 8));
        assert!(table.enter_writer(3, 8, 8), "a read that waits holds up no write");
        assert_eq!(left(&mut table, 1), [0]);
    }

    #[test]
    fn a_wide_write_is_met_by_all_whichever_came_first() {
        let mut table = table();
        let wide = 3 * (STRIPE_BYTES / 512) as u32;
        assert!(table.enter_writer(0, 5, 1));
        assert!(!table.enter_writer(1, 0, wide));
        assert!(!table.enter_writer(2, 200, 1));
        assert!(!table.enter_writer(3, 100, wide));
        assert_eq!(left(&mut table, 0), [1]);
        assert_eq!(left(&mut table, 1), [2]);
        assert_eq!(left(&mut table, 2), [3]);
    }

    /// What the table must say, by comparing everything with everything.
    #[derive(Default)]
    struct Oracle {
        entries: Vec<(u32, bool, u64, u64)>,
    }

    impl Oracle {
        fn blocked(&self, place: usize) -> bool {
            let (_, _, start, end) = self.entries[place];
            let earlier = &self.entries[..place];
            earlier.iter().any(|(_, writes, from, to)| *writes && *from < end && start < *to)
        }

        fn free(&self) -> Vec<u32> {
            let places = (0..self.entries.len()).filter(|place| !self.blocked(*place));
            places.map(|place| self.entries[place].0).collect()
        }
    }

    fn check(steps: &[(bool, u64, u32, usize)]) -> Result<(), TestCaseError> {
        let (mut table, mut oracle) = (table(), Oracle::default());
        let mut freed = Vec::new();
        for (writes, start, blocks, leaver) in steps {
            let taken = |slot: &u32| oracle.entries.iter().any(|(other, ..)| other == slot);
            if let Some(slot) = (0..SLOTS).find(|slot| !taken(slot)) {
                oracle.entries.push((slot, *writes, *start, start + u64::from(*blocks)));
                let free = !oracle.blocked(oracle.entries.len() - 1);
                let said = match writes {
                    true => table.enter_writer(slot, *start, *blocks),
                    false => table.enter_reader(slot, *start, *blocks),
                };
                prop_assert_eq!(said, free);
                if free && !writes {
                    oracle.entries.pop();
                }
            }
            let free = oracle.free();
            if free.is_empty() || *leaver % 3 == 0 {
                continue;
            }
            let slot = free[leaver % free.len()];
            oracle.entries.retain(|(other, ..)| *other != slot);
            freed.clear();
            table.leave(slot, &mut freed);
            freed.sort_unstable();
            let mut now: Vec<u32> = oracle.free();
            now.retain(|slot| !free.contains(slot));
            now.sort_unstable();
            prop_assert_eq!(&freed, &now);
        }
        Ok(())
    }

    #[test]
    fn the_table_agrees_with_comparing_all_with_all() {
        let blocks = prop_oneof![4 => 1_u32..40, 2 => 100_u32..200, 1 => 200_u32..2000];
        let start = prop_oneof![0_u64..600, (0_u64..600).prop_map(|at| at + 4096 * 128)];
        let steps = prop::collection::vec((any::<bool>(), start, blocks, any::<usize>()), 1..80);
        TestRunner::default().run(&steps, |steps| check(&steps)).unwrap();
    }
}
