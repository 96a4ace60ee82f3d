//! A nexus that keeps its truth on its replicas: crashes, losses, returns.

use std::sync::Arc;

use bdev::{BlockDevice, Completions, Io, Lba, QueuePair, Status, Token};
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;
use reactor::random::Random;
use reactor::{Cx, Nanos, VirtualClock};
use uuid::Uuid;

use super::Home;
use crate::child::{ChildIndex, ChildSet, ChildState, FaultReason};
use crate::config::{ChildConfig, Marking, NexusConfig, Standing};
use crate::intent::REGION_BYTES;
use crate::nexus::Nexus;
use crate::truth::Discard;
use crate::truth::label::LABEL_BYTES;
use crate::truth::names::{NexusId, Policy, RecordId};
use crate::truth::record::{FileRecord, Record, RecordPage, begin as begin_record};
use crate::truth::tracked::{
    Contents, Fence, Format, FormatError, FormatSpec, LeftOut, Opening, RecordSource, Tracked,
    TrackedConfig,
};
use crate::view::Locality;
use crate::volatile_disk::{DISK_BLOCK_BYTES, Given, Mood, VolatileDisk};

pub(super) const LABEL_BLOCKS: u64 = LABEL_BYTES / DISK_BLOCK_BYTES as u64;
pub(super) const REGION_BLOCKS: u64 = REGION_BYTES / DISK_BLOCK_BYTES as u64;
pub(super) const REGIONS: u64 = 24;
pub(super) const NEXUS: NexusId = NexusId(Uuid::from_u128(0xabc));
const BOOT: Uuid = Uuid::from_u128(0xb007);

thread_local! {
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Each process draws other numbers, the same ones in every run of a test.
fn next_seed() -> u64 {
    SEED.set(SEED.get() + 1);
    SEED.get()
}

pub(super) fn disks(count: usize) -> Vec<Arc<VolatileDisk>> {
    (0..count).map(|_| VolatileDisk::new(LABEL_BLOCKS + REGIONS * REGION_BLOCKS)).collect()
}

pub(super) fn child_config(number: usize, disk: &Arc<VolatileDisk>) -> ChildConfig {
    ChildConfig {
        name: format!("child{number}"),
        device: disk.clone(),
        data_start_blocks: LABEL_BLOCKS,
        locality: Locality::Remote,
        standing: Standing::ByTruth,
    }
}

pub(super) fn spec() -> FormatSpec {
    FormatSpec {
        nexus: NEXUS,
        policy: Policy::Majority,
        record: None,
        blocks: None,
        contents: Contents::Equal,
        host: Uuid::nil(),
        boot: BOOT,
    }
}

pub(super) fn format_with(spec: FormatSpec, children: &[ChildConfig]) -> Result<(), FormatError> {
    let (mut cx, _) = test_context();
    cx.random = Random::new(next_seed());
    let mut format = Format::new(spec, children)?;
    for _ in 0..100 {
        if let Some(result) = format.poll(&mut cx) {
            return result;
        }
    }
    panic!("it never ends: {format:?}");
}

pub(super) fn format(disks: &[Arc<VolatileDisk>]) {
    let children = disks.iter().enumerate().map(|(at, disk)| child_config(at, disk));
    format_with(spec(), &children.collect::<Vec<_>>()).unwrap();
}

pub(super) fn settings() -> TrackedConfig {
    TrackedConfig {
        nexus: NEXUS,
        host: Uuid::nil(),
        boot: BOOT,
        record: RecordSource::None,
        opening: Opening::Ordinary,
        fence: Some(Fence::Exclusive),
    }
}

/// A nexus process: dropped without ceremony, it has crashed.
pub(super) struct Process {
    pub(super) nexus: Arc<Nexus>,
    pub(super) queue_pair: Box<dyn QueuePair>,
    pub(super) home: Home,
    pub(super) cx: Cx,
    pub(super) hand: VirtualClock,
    pub(super) buffer: DmaBuffer,
    /// The record answers in its own time.
    pub(super) record_is_slow: bool,
    pub(super) ended: Vec<(u64, Status)>,
}

impl Process {
    pub(super) fn start(disks: &[Arc<VolatileDisk>]) -> Process {
        Process::start_with(disks, settings())
    }

    pub(super) fn start_with(disks: &[Arc<VolatileDisk>], settings: TrackedConfig) -> Process {
        let children = disks.iter().enumerate().map(|(at, disk)| child_config(at, disk));
        Process::start_over(children.collect(), settings)
    }

    pub(super) fn start_over(children: Vec<ChildConfig>, settings: TrackedConfig) -> Process {
        let (mut cx, hand) = test_context();
        cx.random = Random::new(next_seed());
        let config = NexusConfig {
            name: String::from("nexus0"),
            uuid: Some(NEXUS.0),
            blocks: None,
            children,
            marking: Marking::Regions,
        };
        let nexus = Nexus::new(config).unwrap();
        let home = Home::new(nexus.clone(), &mut cx, Box::new(Tracked::new(settings)));
        let queue_pair = nexus.open_queue_pair(&mut cx, 16).unwrap();
        let buffer = cx.dma.take(DISK_BLOCK_BYTES).unwrap();
        Process {
            nexus,
            queue_pair,
            home,
            cx,
            hand,
            buffer,
            record_is_slow: false,
            ended: Vec::new(),
        }
    }

    pub(super) fn pass(&mut self) {
        let mut completions = Completions::new();
        self.queue_pair.flush(&mut self.cx);
        self.queue_pair.poll(&mut self.cx, &mut completions);
        self.ended.extend(completions.drain().map(|one| (one.token.0, one.status)));
        self.home.poll(&mut self.cx);
    }

    pub(super) fn passes(&mut self) {
        // A file is made durable in real time, of a machine that may have much else to do.
        for _ in 0..if self.record_is_slow { 400 } else { 60 } {
            self.pass();
            if self.record_is_slow {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }

    pub(super) fn wait(&mut self, time: Nanos) {
        self.hand.advance(time);
        self.cx.advance_clock();
        self.passes();
    }

    pub(super) fn open(&mut self) {
        for _ in 0..100 {
            self.passes();
            if self.home.is_assembled() {
                return self.passes();
            }
            self.wait(Nanos::from_millis(100));
        }
        panic!("it does not open: {:?}", self.home.refusal());
    }

    pub(super) fn submit_write(&mut self, block: u64, byte: u8) {
        let segment = self.buffer.segment(DISK_BLOCK_BYTES);
        segment.write(0, &[byte; DISK_BLOCK_BYTES as usize]);
        let io = Io::write(Lba(block), 1, segment, Token(block));
        self.queue_pair.submit(&mut self.cx, io).unwrap();
    }

    pub(super) fn write(&mut self, block: u64, byte: u8) {
        self.submit_write(block, byte);
        self.passes();
        assert_eq!(std::mem::take(&mut self.ended), [(block, Status::SUCCESS)]);
    }

    fn submit_read(&mut self, block: u64) {
        let segment = self.buffer.segment(DISK_BLOCK_BYTES);
        let io = Io::read(Lba(block), 1, segment, Token(block));
        self.queue_pair.submit(&mut self.cx, io).unwrap();
    }

    pub(super) fn read(&mut self, block: u64) -> u8 {
        self.submit_read(block);
        self.passes();
        assert_eq!(std::mem::take(&mut self.ended), [(block, Status::SUCCESS)]);
        self.buffer.bytes(1)[0]
    }

    fn flush(&mut self) {
        self.queue_pair.submit(&mut self.cx, Io::flush(Token(999))).unwrap();
        self.passes();
        assert_eq!(std::mem::take(&mut self.ended), [(999, Status::SUCCESS)]);
    }

    pub(super) fn members(&self) -> ChildSet {
        self.nexus.view().members
    }

    pub(super) fn state(&self, child: usize) -> ChildState {
        self.home.children().nth(child).unwrap().state
    }

    /// Regions that were copied.
    fn copied(&self) -> u64 {
        let moved = self.home.rebuild.copier.moved();
        (moved.copied_bytes + moved.skipped_bytes).div_ceil(REGION_BYTES)
    }

    /// Waits until all regions are equal.
    pub(super) fn equalize(&mut self) {
        for _ in 0..1000 {
            if self.home.unequal_regions() == 0 {
                return;
            }
            self.wait(Nanos::from_millis(10));
        }
        panic!("{} regions are not equal", self.home.unequal_regions());
    }

    /// Rebuilds a child that is out; returns how many regions that took.
    fn rebuild(&mut self, child: usize) -> u64 {
        let before = self.copied();
        let name = format!("child{child}");
        let index = self.home.begin_target(&mut self.cx, &name, Discard::No).unwrap();
        for _ in 0..2000 {
            self.wait(Nanos::from_millis(10));
            if self.members().contains(index) {
                return self.copied() - before;
            }
        }
        panic!("{:?}, {} left", self.state(child), self.home.truth.copies_left());
    }

    pub(super) fn close(mut self) {
        self.home.close();
        for _ in 0..20 {
            self.passes();
            if self.home.is_closed() {
                return;
            }
        }
        panic!("it does not close");
    }
}

fn set(children: &[usize]) -> ChildSet {
    children.iter().filter_map(|child| ChildIndex::new(*child)).collect()
}

pub(super) fn are_equal(disks: &[Arc<VolatileDisk>]) -> bool {
    let contents = disks.iter().map(|disk| disk.state().contents(LABEL_BLOCKS));
    let contents: Vec<_> = contents.collect();
    contents.windows(2).all(|pair| pair[0] == pair[1])
}

/// A block of a region.
pub(super) fn block_of(region: u64) -> u64 {
    region * REGION_BLOCKS + 3
}

#[test]
fn a_volume_is_created_written_closed_and_opened_again_with_nothing_to_copy() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.members(), set(&[0, 1, 2]));
    process.write(block_of(0), 7);
    process.write(block_of(5), 8);
    assert!(are_equal(&disks));
    process.close();
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.home.marked_regions(), 0);
    assert_eq!((process.read(block_of(0)), process.read(block_of(5))), (7, 8));
    assert_eq!(process.copied(), 0);
}

#[test]
fn after_a_crash_only_dirty_regions_are_copied_and_all_are_equal() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(2), 1);
    process.write(block_of(9), 2);
    // It reaches one member and then the process is gone.
    disks[1].set(Mood::Hung);
    disks[2].set(Mood::Hung);
    process.submit_write(block_of(9), 3);
    process.passes();
    assert_eq!(process.ended, []);
    drop(process);
    disks.iter().for_each(|disk| disk.set(Mood::Well));
    assert!(!are_equal(&disks));
    let mut process = Process::start(&disks);
    process.home.rebuild.copier.pause();
    process.open();
    // Dirty regions wait, others do not.
    assert_eq!(process.home.unequal_regions(), 2);
    process.submit_read(block_of(9));
    process.passes();
    assert_eq!(process.ended, []);
    assert_eq!(process.read(block_of(4)), 0);
    let order = process.home.truth.next_copy().unwrap();
    assert_eq!(order.region.0, 9, "what a host waits for goes first");
    process.home.truth.copy_failed(&mut process.cx, order, order.source);
    process.home.rebuild.copier.resume();
    process.equalize();
    assert_eq!(process.ended.len(), 1);
    assert_eq!(process.copied(), 2);
    assert!(are_equal(&disks));
}

#[test]
fn a_stale_replica_never_serves_in_either_order() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(1), 1);
    disks[0].set(Mood::Gone);
    process.write(block_of(1), 2);
    assert_eq!(process.members(), set(&[1, 2]));
    assert_eq!(process.state(0), ChildState::Faulted(FaultReason::IoError));
    process.flush();
    drop(process);
    // The one that was left behind first, with another that went on.
    disks[0].set(Mood::Well);
    for gone in [1, 2] {
        disks[gone].set(Mood::Gone);
        let mut process = Process::start(&disks);
        process.passes();
        process.wait(Nanos::from_secs(3));
        assert!(!process.home.is_assembled(), "two of three are one vote of two");
        let words = process.home.refusal().unwrap();
        assert!(words.contains("must answer, or --force"), "{words}");
        drop(process);
        disks[gone].set(Mood::Well);
    }
    // All of them: the stale one is left out, and rebuilt.
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.members(), set(&[1, 2]));
    assert_eq!(process.read(block_of(1)), 2);
    assert_eq!(process.rebuild(0), 1, "only what it lacked");
    assert!(are_equal(&disks));
    assert_eq!(process.members(), set(&[0, 1, 2]));
}

#[test]
fn a_volume_of_two_freezes_without_its_second_voter_and_thaws_when_that_is_back() {
    let disks = disks(2);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(1), 1);
    disks[1].set(Mood::Gone);
    process.submit_write(block_of(1), 2);
    process.passes();
    process.wait(Nanos::from_secs(60));
    assert_eq!(process.ended, [], "held, not failed");
    disks[1].set(Mood::Well);
    process.wait(Nanos::from_secs(10));
    assert_eq!(std::mem::take(&mut process.ended), [(block_of(1), Status::SUCCESS)]);
    assert_eq!(process.members(), set(&[0]), "it has voted for its own exclusion");
    assert_eq!(process.read(block_of(1)), 2);
    process.rebuild(1);
    assert!(are_equal(&disks));
}

#[test]
fn with_a_record_one_of_two_goes_on_alone_and_the_other_never_opens_alone() {
    let path = std::env::temp_dir().join(format!("nexus-tracked-record-{}", std::process::id()));
    let id = RecordId(Uuid::from_u128(0x4ec));
    let disks = disks(2);
    let children: Vec<_> = (0..2).map(|at| child_config(at, &disks[at])).collect();
    let (mut cx, _) = test_context();
    let spec = FormatSpec { record: Some(id), ..spec() };
    let mut format = Format::new(spec, &children).unwrap();
    while format.poll(&mut cx).is_none() {}
    FileRecord::make_file(&path).unwrap();
    let open = || FileRecord::new(&path, RecordPage::new(id, NEXUS));
    let mut record = open();
    begin_record(&mut record, format.voter_half().unwrap()).unwrap();
    let with = |record| TrackedConfig { record: RecordSource::Given(record), ..settings() };
    let mut process = Process::start_with(&disks, with(Box::new(record)));
    process.record_is_slow = true;
    process.open();
    disks[1].set(Mood::Gone);
    process.write(block_of(1), 2);
    assert_eq!(process.members(), set(&[0]));
    drop(process);
    // The one left behind, and the record: it knows that the other went on.
    disks[0].set(Mood::Gone);
    disks[1].set(Mood::Well);
    let mut record = open();
    while record.read().is_err() {
        // The thread of the process that crashed has to let go of it.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut process = Process::start_with(&disks, with(Box::new(record)));
    process.record_is_slow = true;
    process.passes();
    process.wait(Nanos::from_secs(3));
    process.wait(Nanos::from_secs(20));
    assert!(!process.home.is_assembled());
    // And when the other comes, the volume opens by itself.
    disks[0].set(Mood::Well);
    process.open();
    assert_eq!(process.members(), set(&[0]));
    assert_eq!(process.read(block_of(1)), 2);
    drop(process);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(path.with_extension("lock")).unwrap();
}

#[test]
fn an_older_owner_is_fenced_by_a_newer_one() {
    let polled = || TrackedConfig { fence: Some(Fence::Polled), ..settings() };
    let disks = disks(2);
    format(&disks);
    let mut older = Process::start_with(&disks, polled());
    older.open();
    older.write(block_of(1), 1);
    let mut newer = Process::start_with(&disks, polled());
    newer.passes();
    assert!(!newer.home.is_assembled(), "the older one may still read");
    newer.wait(Nanos::from_secs(4));
    assert!(!newer.home.is_assembled());
    older.wait(Nanos::from_secs(2));
    older.submit_write(block_of(1), 9);
    older.passes();
    assert_eq!(older.ended, [(block_of(1), Status::INTERNAL_PATH_ERROR)]);
    newer.wait(Nanos::from_secs(1));
    assert!(newer.home.is_assembled());
    assert_eq!(newer.read(block_of(1)), 1);
    newer.write(block_of(2), 5);
    // Nothing that the older one does reaches a label any more.
    older.wait(Nanos::from_secs(20));
    newer.wait(Nanos::from_secs(2));
    newer.write(block_of(3), 6);
}

#[test]
fn a_damaged_copy_of_a_label_is_repaired_and_two_are_refused() {
    let disks = disks(1);
    format(&disks);
    for copy in [0, 256] {
        disks[0].state().spoil(copy);
        let mut process = Process::start(&disks);
        process.open();
        process.write(block_of(1), 4);
    }
    disks[0].state().spoil(0);
    disks[0].state().spoil(256);
    let mut process = Process::start(&disks);
    process.passes();
    let words = process.home.refusal().unwrap();
    assert!(words.contains("both copies of the label are damaged"), "{words}");
}

#[test]
fn a_mark_goes_only_behind_a_flush_that_follows_the_last_write() {
    let disks = disks(2);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(2), 1);
    assert_eq!(process.home.marked_regions(), 1);
    disks[1].state().given.clear();
    process.write(block_of(2), 2);
    process.wait(Nanos::from_secs(6));
    process.wait(Nanos::from_secs(6));
    assert_eq!(process.home.marked_regions(), 0);
    let given = disks[1].state().given.clone();
    let data = given.iter().rposition(|given| *given == Given::Write(LABEL_BLOCKS + block_of(2)));
    let after = &given[data.unwrap() + 1..];
    assert_eq!(after[0], Given::Flush, "{given:?}");
    assert!(after[1..].contains(&Given::Write(1)), "the page of the map: {given:?}");
    drop(process);
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.copied(), 0, "nothing was dirty");
}

#[test]
fn random_writes_go_on_with_few_marks() {
    let disks = disks(2);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.home.set_dirty_bytes_max(16 * REGION_BYTES);
    for round in 1..4 {
        for region in 0..REGIONS {
            process.write(block_of(region), round);
            assert!(process.home.marked_regions() <= 16);
        }
    }
    drop(process);
    let mut process = Process::start(&disks);
    process.open();
    process.equalize();
    assert!((1..=16).contains(&process.copied()), "{}", process.copied());
    assert!((0..REGIONS).all(|region| process.read(block_of(region)) == 3));
}

#[test]
fn a_member_whose_device_restarts_is_out_and_is_rebuilt_with_what_it_may_have_lost() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(1), 1);
    process.flush();
    process.write(block_of(6), 2);
    disks[2].lose_power();
    assert_eq!(disks[2].state().first_byte(LABEL_BLOCKS + block_of(6)), 0, "it was in the cache");
    process.passes();
    assert_eq!(process.members(), set(&[0, 1]));
    assert_eq!(process.state(2), ChildState::Faulted(FaultReason::OutOfSync));
    assert_eq!(process.read(block_of(6)), 2);
    process.write(block_of(8), 3);
    assert_eq!(process.rebuild(2), 3);
    assert!(are_equal(&disks));
}

#[test]
fn a_suspect_is_left_out_after_a_crash() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(1), 1);
    drop(process);
    disks[0].lose_power();
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.members(), set(&[1, 2]), "the first may lack what was in its cache");
    process.equalize();
    assert_eq!(process.read(block_of(1)), 1);
    assert_eq!(process.rebuild(0), 1);
    assert!(are_equal(&disks));
}

#[test]
fn a_child_that_hangs_on_its_label_is_out_in_time() {
    let disks = disks(3);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    disks[1].set(Mood::Hung);
    process.submit_write(block_of(1), 1);
    process.passes();
    assert_eq!(process.ended, []);
    process.wait(Nanos::from_secs(4));
    process.wait(Nanos::from_millis(200));
    assert_eq!(std::mem::take(&mut process.ended), [(block_of(1), Status::SUCCESS)]);
    assert_eq!(process.state(1), ChildState::Faulted(FaultReason::TimedOut));
    assert_eq!(process.members(), set(&[0, 2]));
}

#[test]
fn no_member_becomes_a_target_while_the_volume_is_opened() {
    let disks = disks(2);
    format(&disks);
    let mut process = Process::start(&disks);
    while !process.home.is_assembled() {
        let begun = process.home.begin_target(&mut process.cx, "child1", Discard::No);
        assert!(begun.is_err());
        process.pass();
        process.hand.advance(Nanos::from_micros(1));
        process.cx.advance_clock();
    }
    process.write(block_of(2), 2);
    assert_eq!(process.members(), set(&[0, 1]));
    process.close();
}

#[test]
fn a_child_is_taken_offline_with_its_own_vote_and_comes_back() {
    let disks = disks(2);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.home.offline(&mut process.cx, "child1").unwrap();
    process.passes();
    assert_eq!(process.members(), set(&[0]));
    process.write(block_of(3), 3);
    assert_eq!(process.rebuild(1), 1);
    assert_eq!(process.members(), set(&[0, 1]));
    assert!(are_equal(&disks));
}

#[test]
fn force_opens_from_a_replica_that_was_left_behind_and_the_other_is_a_stranger_then() {
    let disks = disks(2);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(1), 1);
    process.home.offline(&mut process.cx, "child0").unwrap();
    process.passes();
    process.write(block_of(1), 2);
    drop(process);
    disks[1].set(Mood::Gone);
    let opening = Opening::Forced { child: String::from("child0"), left_out: LeftOut::Accepted };
    let mut process = Process::start_with(&disks, TrackedConfig { opening, ..settings() });
    process.open();
    assert_eq!(process.members(), set(&[0]));
    assert_eq!(process.read(block_of(1)), 1, "what was written since is given up");
    drop(process);
    disks[1].set(Mood::Well);
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.members(), set(&[0]));
    assert_eq!(process.rebuild(1), REGIONS, "all of it");
    assert!(are_equal(&disks));
}

#[test]
fn a_blank_child_is_added_and_gets_a_label_with_its_data() {
    let disks = disks(2);
    format(&disks[..1]);
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.members(), set(&[0]));
    process.write(block_of(4), 4);
    assert_eq!(process.rebuild(1), REGIONS);
    process.write(block_of(4), 5);
    process.close();
    let mut process = Process::start(&disks);
    process.open();
    assert_eq!(process.members(), set(&[0, 1]));
    assert_eq!(process.read(block_of(4)), 5);
}

#[test]
fn only_blank_children_that_fit_are_formatted() {
    let disks = disks(2);
    format(&disks);
    let children: Vec<_> = (0..2).map(|at| child_config(at, &disks[at])).collect();
    let taken = format_with(spec(), &children);
    assert!(matches!(taken, Err(FormatError::Taken { nexus: NEXUS, .. })), "{taken:?}");
    assert_eq!(format_with(spec(), &[]), Err(FormatError::Count { count: 0 }));
    let blank = VolatileDisk::new(LABEL_BLOCKS + 10);
    let long = FormatSpec { blocks: Some(11), ..spec() };
    let small = format_with(long, &[child_config(0, &blank)]);
    assert!(matches!(small, Err(FormatError::TooSmall { needed: 523, .. })), "{small:?}");
    let fits = FormatSpec { blocks: Some(10), ..spec() };
    assert_eq!(format_with(fits, &[child_config(0, &blank)]), Ok(()));
    let foreign = VolatileDisk::new(LABEL_BLOCKS + 10);
    foreign.state().spoil(0);
    let foreign = format_with(spec(), &[child_config(0, &foreign)]);
    assert!(matches!(foreign, Err(FormatError::NotBlank { .. })), "{foreign:?}");
    let mut odd = child_config(1, &disks[0]);
    let geometry = bdev::Geometry { block_bytes: 512, blocks: 1 << 20 };
    odd.device = Arc::new(bdev::Malloc::new("odd", geometry, None).unwrap());
    let odd = format_with(spec(), &[child_config(0, &VolatileDisk::new(1024)), odd]);
    assert!(matches!(odd, Err(FormatError::BlockBytes { needed: 4096, .. })), "{odd:?}");
}

#[test]
fn children_of_another_volume_are_refused() {
    let disks = disks(1);
    let other = FormatSpec { nexus: NexusId(Uuid::from_u128(5)), ..spec() };
    format_with(other, &[child_config(0, &disks[0])]).unwrap();
    let mut process = Process::start(&disks);
    process.passes();
    let words = process.home.refusal().unwrap();
    assert!(words.contains("child0: the replica belongs to volume"), "{words}");
}

#[test]
fn the_last_replica_in_sync_that_comes_back_without_its_cache_makes_the_volume_assemble_anew() {
    let disks = disks(2);
    format(&disks);
    let mut process = Process::start(&disks);
    process.open();
    process.write(block_of(1), 1);
    disks[1].set(Mood::Gone);
    process.submit_write(block_of(1), 2);
    process.passes();
    assert_eq!(process.ended, [], "frozen: it would be alone");
    disks[0].lose_power();
    disks[1].set(Mood::Well);
    process.passes();
    for _ in 0..10 {
        process.wait(Nanos::from_secs(2));
    }
    assert_eq!(std::mem::take(&mut process.ended), [(block_of(1), Status::SUCCESS)]);
    assert_eq!(process.read(block_of(1)), 2);
    assert!(!process.members().is_empty());
}
