//! Which regions are marked, and which marks go: all that were not written for a while, and the
//! idlest where there are too many (replica-truth rules 18 and 19).
//!
//! A mark goes in four steps: the bit that the cores look at is taken back, so that the next write
//! waits; every write that began before has ended on every core; the truth flushes every member;
//! and the labels are written. A write that comes in the first two steps has the bit back at once,
//! without label I/O: it tells that the region is in use, at no cost to writes that find their bit.

use std::collections::VecDeque;
use std::sync::Arc;

use reactor::{Cx, Nanos, Wake};

use super::Home;
use crate::intent::{IntentMap, REGION_BYTES, RegionIndex};
use crate::truth::activity::{DIRTY_BYTES_MAX_DEFAULT, dirty_regions_max};
use crate::view::Version;

/// A region that was not written for this long is cleared: long enough that a file system's steady
/// writes keep their marks, short enough that a crash later finds little.
pub const IDLE_BEFORE_CLEAR: Nanos = Nanos::from_secs(5);

/// Of the regions that may be marked, the part that is cleared together when there is no room: one
/// flush for many.
const CLEARED_TOGETHER: u64 = 4;

/// Of the regions that may be marked, the part that is kept free where new ones come: what is
/// cleared for them and what is marked meanwhile then go into the labels together.
const KEPT_FREE: u64 = 8;

/// How a region stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stand {
    /// No label has it.
    #[default]
    Clear,
    /// It is wanted, and there is no room.
    Waiting,
    /// The labels are being written.
    Asked,
    /// It may be written.
    Open,
    /// Its bit was taken back; writes that saw it may be in flight.
    Taken,
    /// The truth clears it.
    Clearing,
}

impl Stand {
    /// It is marked, or is being: it counts against the limit.
    fn is_marked(self) -> bool {
        !matches!(self, Stand::Clear | Stand::Waiting)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Marks {
    limit: u64,
    dirty_bytes_max: u64,
    /// By region, as far as any was ever marked: a byte each, and a look that costs next to nothing
    /// however many there are.
    stands: Vec<Stand>,
    /// Those that are marked, or are being.
    count: u64,
    /// Those that are [`Stand::Open`], and when each was last seen in use: the idlest first.
    open: VecDeque<(RegionIndex, Nanos)>,
    /// Those that the present round has taken back.
    taken: Vec<RegionIndex>,
    /// Those that are [`Stand::Waiting`], who came first first.
    waiting: VecDeque<RegionIndex>,
    /// Those that are wanted now; kept for its room.
    wanted: Vec<RegionIndex>,
    /// Marks were set that the cores have not been told of.
    has_news: bool,
    /// Regions were marked since the last round began that were not before. A working set that
    /// fits is left alone, however little it leaves free.
    has_grown: bool,
    /// The view since which the bits of a round are gone.
    round: Option<Version>,
    next_look: Nanos,
    /// The cores' map.
    intent: Option<Arc<IntentMap>>,
    /// All marks are to go: the volume is being closed.
    is_closing: bool,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks {
            limit: dirty_regions_max(DIRTY_BYTES_MAX_DEFAULT, REGION_BYTES),
            dirty_bytes_max: DIRTY_BYTES_MAX_DEFAULT,
            stands: Vec::new(),
            count: 0,
            open: VecDeque::new(),
            taken: Vec::new(),
            waiting: VecDeque::new(),
            wanted: Vec::new(),
            has_news: false,
            has_grown: false,
            round: None,
            next_look: Nanos(0),
            intent: None,
            is_closing: false,
        }
    }
}

impl Marks {
    /// For a nexus that has a map from the beginning.
    pub fn with(intent: Option<Arc<IntentMap>>) -> Marks {
        Marks { intent, ..Marks::default() }
    }

    fn stand(&self, region: RegionIndex) -> Stand {
        self.stands.get(place(region)).copied().unwrap_or_default()
    }

    fn set(&mut self, region: RegionIndex, stand: Stand, now: Nanos) {
        let place = place(region);
        if place >= self.stands.len() {
            self.stands.resize(place + 1, Stand::Clear);
        }
        let before = std::mem::replace(&mut self.stands[place], stand);
        self.count += u64::from(stand.is_marked());
        self.count -= u64::from(before.is_marked());
        if before == Stand::Open {
            // Rare: a round takes what is idle from the queue itself.
            self.open.retain(|(open, _)| *open != region);
        }
        if stand == Stand::Open {
            self.open.push_back((region, now));
        }
    }

    /// The labels have it no more.
    pub fn cleared(&mut self, region: RegionIndex) {
        if self.stand(region) == Stand::Clearing {
            self.set(region, Stand::Clear, Nanos(0));
        }
    }

    fn is_full(&self) -> bool {
        self.count >= self.limit
    }

    /// New ones come, and there is little room left.
    fn is_crowded(&self) -> bool {
        let room = self.limit.saturating_sub(self.count);
        self.has_grown && room <= self.limit / KEPT_FREE
    }

    /// Takes the next to go: at most `count` of those not used since `before`, the idlest first.
    fn take_idlest(&mut self, count: usize, before: Nanos) -> usize {
        self.taken.clear();
        while self.taken.len() < count
            && let Some((region, used_at)) = self.open.front().copied()
            && used_at <= before
        {
            self.open.pop_front();
            self.stands[place(region)] = Stand::Taken;
            self.taken.push(region);
        }
        self.taken.len()
    }

    pub fn wake(&self) -> Wake {
        match self.round {
            // Cores are few microseconds away, or tell the home core.
            Some(_) => Wake::Now,
            None if self.count == 0 => Wake::Never,
            None => Wake::At(self.next_look),
        }
    }
}

fn place(region: RegionIndex) -> usize {
    usize::try_from(region.0).expect("regions are countable")
}

impl Home {
    /// Bytes that may be marked dirty in all: what is made equal after a crash.
    pub fn set_dirty_bytes_max(&mut self, bytes: u64) {
        self.marks.dirty_bytes_max = bytes;
        self.marks.limit = dirty_regions_max(bytes, self.truth.region_bytes());
    }

    /// Regions that are marked, or are being.
    pub fn marked_regions(&self) -> u64 {
        self.marks.count
    }

    /// Cores wait for marks, or copies, that nobody has asked the truth for yet. Who waits wakes
    /// this core only where it sees it asleep, so this is looked at after a sleep was announced.
    pub(super) fn is_any_wanted(&self) -> bool {
        let is_wanted = |map: &Arc<IntentMap>| map.is_any_wanted();
        let equal = || self.nexus.view().equal.as_ref().is_some_and(is_wanted);
        self.marks.intent.as_ref().is_some_and(is_wanted) || self.unequal > 0 && equal()
    }

    /// The map for the cores of a volume that was just assembled. What is marked from before is
    /// cleared in its time.
    pub(super) fn begin_marks(&mut self, cx: &mut Cx, blocks: u64) -> Option<Arc<IntentMap>> {
        if !self.truth.marks_regions() {
            return self.nexus.view().intent.clone();
        }
        let region_bytes = self.truth.region_bytes();
        let dirty_bytes_max = self.marks.dirty_bytes_max;
        let limit = dirty_regions_max(dirty_bytes_max, region_bytes);
        let next_look = cx.now() + IDLE_BEFORE_CLEAR;
        let is_closing = self.marks.is_closing;
        // What waits is woken by the new view.
        self.marks = Marks { limit, dirty_bytes_max, next_look, is_closing, ..Marks::default() };
        for region in self.truth.marked().iter().flat_map(|marked| marked.iter()) {
            self.marks.set(region, Stand::Open, cx.now());
        }
        let block_bytes = self.nexus.block_bytes();
        let intent = Arc::new(IntentMap::with_regions(blocks, block_bytes, region_bytes));
        self.marks.intent = Some(intent.clone());
        Some(intent)
    }

    /// Has marked what writes wait for, and goes on with what is to be cleared.
    pub(super) fn see_to_marks(&mut self, cx: &mut Cx) -> usize {
        let Some(intent) = self.marks.intent.clone() else { return 0 };
        let mut wanted = std::mem::take(&mut self.marks.wanted);
        intent.take_wanted(|region| wanted.push(region));
        let mut work = wanted.len();
        for region in wanted.drain(..) {
            self.want_mark(cx, &intent, region);
        }
        self.marks.wanted = wanted;
        work += self.end_round(cx);
        while !self.marks.is_full()
            && let Some(region) = self.marks.waiting.pop_front()
        {
            self.marks.set(region, Stand::Clear, cx.now());
            self.want_mark(cx, &intent, region);
            work += 1;
        }
        work += self.begin_round(cx, &intent);
        if std::mem::take(&mut self.marks.has_news) {
            intent.announce();
            self.nexus.wake_all();
        }
        work
    }

    fn want_mark(&mut self, cx: &mut Cx, intent: &IntentMap, region: RegionIndex) {
        let now = cx.now();
        match self.marks.stand(region) {
            Stand::Asked | Stand::Waiting => {}
            Stand::Taken => self.open_up_to_writes(region, now),
            // The mark came after the write had looked.
            Stand::Open if intent.is_marked(region) => {}
            // Marked by an owner before this one, or on its way out.
            Stand::Open | Stand::Clearing => {
                self.marks.set(region, Stand::Asked, now);
                self.truth.begin_mark(cx, region);
            }
            Stand::Clear if self.marks.is_full() => {
                self.marks.set(region, Stand::Waiting, now);
                self.marks.waiting.push_back(region);
            }
            Stand::Clear => {
                self.marks.has_grown = true;
                self.marks.set(region, Stand::Asked, now);
                self.truth.begin_mark(cx, region);
            }
        }
    }

    pub(super) fn set_marked(&mut self, cx: &mut Cx, region: RegionIndex) {
        self.open_up_to_writes(region, cx.now());
    }

    /// Writes may go to the region; the cores are told with all others of the same poll.
    fn open_up_to_writes(&mut self, region: RegionIndex, now: Nanos) {
        self.marks.set(region, Stand::Open, now);
        if let Some(intent) = &self.marks.intent {
            intent.set_marked(region);
        }
        self.marks.has_news = true;
    }

    /// Takes bits back, of regions that are idle or must make room.
    fn begin_round(&mut self, cx: &mut Cx, intent: &IntentMap) -> usize {
        let marks = &mut self.marks;
        let is_time = cx.now() >= marks.next_look;
        let is_full = !marks.waiting.is_empty() || marks.is_crowded();
        if marks.round.is_some() || !(is_full || is_time || marks.is_closing) {
            return 0;
        }
        let count = match () {
            () if marks.is_closing => marks.take_idlest(usize::MAX, cx.now()),
            () if is_full => {
                let least = usize::try_from(marks.limit / CLEARED_TOGETHER).unwrap_or(usize::MAX);
                marks.take_idlest(marks.waiting.len().max(least), cx.now())
            }
            () => {
                let idle_since = Nanos(cx.now().0.saturating_sub(IDLE_BEFORE_CLEAR.0));
                marks.take_idlest(usize::MAX, idle_since)
            }
        };
        marks.next_look = cx.now() + IDLE_BEFORE_CLEAR;
        if count == 0 {
            return 0;
        }
        marks.taken.iter().for_each(|region| intent.take_back(*region));
        marks.has_grown = false;
        // Another number for the same view: what begins under it has seen the bits gone.
        marks.round = Some(self.nexus.publish(|_| ()));
        count
    }

    /// When no write is in flight that may have seen the bits, the truth clears what is not wanted
    /// again.
    fn end_round(&mut self, cx: &mut Cx) -> usize {
        let Some(version) = self.marks.round else { return 0 };
        if !self.nexus.all_users(|_, cell| cell.is_past(version)) {
            return 0;
        }
        self.marks.round = None;
        let taken = std::mem::take(&mut self.marks.taken);
        for region in &taken {
            if self.marks.stand(*region) == Stand::Taken {
                self.marks.set(*region, Stand::Clearing, cx.now());
                self.truth.begin_clear(cx, *region);
            }
        }
        taken.len()
    }

    /// Has all marks cleared, and is asked again until there is none.
    pub(super) fn clear_all(&mut self) -> bool {
        self.marks.is_closing = true;
        self.marks.count == 0
    }
}

#[cfg(test)]
mod tests {
    use bdev::{Io, Lba, Token};

    use super::super::tracked_tests::{Process, REGION_BLOCKS, disks, format};
    use super::*;

    fn open(process: &mut Process) {
        while !process.home.is_assembled() {
            process.wait(Nanos::from_millis(100));
        }
        process.passes();
        assert!(is_asleep(process));
    }

    /// Whether a home core that has looked at everything goes to sleep.
    fn is_asleep(process: &mut Process) -> bool {
        process.home.wake() != Wake::Now && process.home.arm(&mut process.cx)
    }

    fn submit(process: &mut Process, what: fn(Lba, Io) -> Io, region: u64) {
        let segment = process.buffer.segment(4096);
        let lba = Lba(region * REGION_BLOCKS);
        let io = what(lba, Io::read(lba, 1, segment, Token(region)));
        process.queue_pair.submit(&mut process.cx, io).unwrap();
    }

    fn write(lba: Lba, io: Io) -> Io {
        match io.memory {
            bdev::Memory::One(segment) => Io::write(lba, 1, segment, io.token),
            other => unreachable!("one segment, not {other:?}"),
        }
    }

    #[test]
    fn a_core_that_goes_to_sleep_hears_of_a_mark_or_copy_that_is_wanted_meanwhile() {
        let disks = disks(3);
        format(&disks);
        let mut process = Process::start(&disks);
        open(&mut process);
        submit(&mut process, write, 7);
        assert!(!is_asleep(&mut process), "a write waits for its mark");
        process.passes();
        assert_eq!(process.ended.len(), 1);
        assert!(is_asleep(&mut process));
        drop(process);
        let mut process = Process::start(&disks);
        process.home.rebuild.copier.pause();
        open(&mut process);
        assert_eq!(process.home.unequal_regions(), 1);
        submit(&mut process, |_, io| io, 7);
        assert!(!is_asleep(&mut process), "a read waits for a copy");
        process.home.rebuild.copier.resume();
        process.equalize();
        assert_eq!(process.ended.len(), 1);
    }

    #[test]
    fn the_idlest_go_first_and_only_those_that_may() {
        let [one, two, three] = [1, 2, 3].map(RegionIndex);
        let marks = || {
            let mut marks = Marks { limit: 3, ..Marks::default() };
            marks.set(one, Stand::Open, Nanos::from_secs(0));
            marks.set(two, Stand::Open, Nanos::from_secs(1));
            assert!(!marks.is_full());
            marks.set(three, Stand::Asked, Nanos::from_secs(2));
            assert!(marks.is_full());
            // It is used again.
            marks.set(one, Stand::Asked, Nanos::from_secs(3));
            marks.set(one, Stand::Open, Nanos::from_secs(3));
            marks
        };
        let taken = |count, before_s| {
            let mut marks = marks();
            marks.take_idlest(count, Nanos::from_secs(before_s));
            marks.taken
        };
        assert_eq!(taken(9, 9), [two, one]);
        assert_eq!(taken(1, 9), [two]);
        assert_eq!(taken(9, 2), [two]);
    }

    #[test]
    fn what_is_cleared_makes_room_and_what_waits_takes_none() {
        let mut marks = Marks { limit: 1, ..Marks::default() };
        let [one, two] = [1, 2].map(RegionIndex);
        marks.set(one, Stand::Asked, Nanos(0));
        marks.set(two, Stand::Waiting, Nanos(0));
        assert_eq!((marks.count, marks.is_full()), (1, true));
        marks.cleared(one);
        assert!(marks.is_full(), "it was wanted again before the answer came");
        marks.set(one, Stand::Clearing, Nanos(0));
        marks.cleared(one);
        assert_eq!((marks.count, marks.is_full()), (0, false));
    }
}
