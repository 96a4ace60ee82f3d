//! Tests of the label's format and of its two copies.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::store::{Damage, LabelError, LabelStore, PageWrite, Plan};
use super::wire::{PAGE_BYTES, Sight, look, seal};
use super::*;
use crate::truth::names::{
    Ballot, Electorate, Fork, ForkCause, Generation, Members, Policy, Promise, RecordId,
    RecordVoter,
};

/// A device of which only what was written is kept.
#[derive(Clone, Default)]
struct Disk(BTreeMap<u64, Box<[u8; PAGE_BYTES]>>);

impl Disk {
    fn write(&mut self, write: &PageWrite) {
        self.0.insert(write.offset_bytes(), Box::new(*write.bytes));
    }

    fn run(&mut self, plan: &Plan) {
        plan.steps.iter().flatten().for_each(|write| self.write(write));
    }

    fn damage(&mut self, page: PageAddress, copy: usize) {
        self.0.get_mut(&page.offset_bytes(copy)).unwrap()[100] ^= 1;
    }

    fn load(&self) -> Result<(LabelStore, Vec<Damage>), LabelError> {
        LabelStore::load(|page, copy| {
            let bytes = self.0.get(&page.offset_bytes(copy)).cloned();
            Ok::<_, LabelError>(bytes.unwrap_or_else(|| Box::new([0; PAGE_BYTES])))
        })
    }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A label in which every field has a value of its own.
fn sample() -> Label {
    let shape = Shape::new(40_000 << 13, 512).unwrap();
    let session = Session { boot: id(0x11), cache: Cache::Volatile };
    let mut label = Label::blank(ReplicaId(id(0xa1)), NexusId(id(0xbb)), shape, session);
    let replicas = [0xa1, 0xa2, 0xa3].map(|number| ReplicaId(id(number)));
    let electorate = |members: &[ReplicaId], votes| Electorate {
        members: Members::new(members.to_vec()).unwrap(),
        record: Some(RecordVoter { id: RecordId(id(0xcc)), votes }),
    };
    let generation = |counter| Generation { counter, owner: id(0xd0 + u128::from(counter)) };
    label.voter = VoterHalf {
        promised: Promise { generation: generation(9), host: id(0xee) },
        ballot: Ballot { epoch: Epoch(7), generation: generation(8) },
        current: electorate(&replicas[..2], 1),
        previous: electorate(&replicas, 0),
        policy: Policy::Majority,
        settled: true,
        ..VoterHalf::default()
    };
    label.voter.fork(Fork { lineage: Lineage(id(1)), epoch: Epoch(1), cause: ForkCause::Created });
    label.voter.fork(Fork { lineage: Lineage(id(2)), epoch: Epoch(5), cause: ForkCause::Forced });
    label.configured = replicas
        .map(|replica| Configured { replica, hint: "nvmf://10.0.0.1:4420/nqn".into() })
        .into();
    label.state = DataState::Member;
    label.clean = false;
    label.in_sync = InSync { lineage: Lineage(id(2)), epoch: Epoch(7) };
    let lacks = RegionMap::new(shape.regions());
    label.missing[1] = Some(Missing { replica: replicas[2], in_sync_epoch: Epoch(6), lacks });
    [0, 77, 32_000, 39_999].into_iter().for_each(|region| label.mark(RegionIndex(region)));
    label
}

fn written(label: &Label) -> (Disk, LabelStore) {
    let mut disk = Disk::default();
    let (store, plan) = LabelStore::create(label.clone());
    disk.run(&plan);
    (disk, store)
}

#[test]
fn a_label_comes_back_as_it_was_written() {
    let (disk, _) = written(&sample());
    let (store, damage) = disk.load().unwrap();
    assert_eq!(store.label(), &sample());
    assert_eq!(damage, []);
}

/// The checksum over all pages of the sample, and some bytes at their documented offsets. When this
/// fails the format has changed: raise the version.
#[test]
fn the_image_of_version_1_is_golden() {
    let (disk, _) = written(&sample());
    let head = &disk.0[&0];
    assert_eq!(&head[..12], b"MIRLABEL\x01\0\0\0");
    assert_eq!(head[32..48], id(0xa1).into_bytes());
    assert_eq!(head[116..120], [1, 0, 1, 1]);
    assert_eq!(head[160..168], 7u64.to_le_bytes());
    assert_eq!(head[1152 + 18..1152 + 25], *b"nvmf://");
    let image: Vec<u8> = disk
        .0
        .iter()
        .flat_map(|(offset, page)| offset.to_le_bytes().into_iter().chain(page.iter().copied()))
        .collect();
    assert_eq!(image.len(), 22 * (PAGE_BYTES + 8));
    assert_eq!(crc_fast::crc32_iscsi(&image), GOLDEN_CRC32C);
}

const GOLDEN_CRC32C: u32 = 2_702_069_960;

#[test]
fn one_damaged_copy_of_a_head_is_tolerated_and_two_are_refused() {
    for copy in 0..2 {
        let (mut disk, _) = written(&sample());
        disk.damage(PageAddress::Head, copy);
        let (store, damage) = disk.load().unwrap();
        assert_eq!(store.label(), &sample());
        assert_eq!(damage, [Damage { page: PageAddress::Head, copy: Some(copy) }]);
        disk.damage(PageAddress::Head, 1 - copy);
        assert_eq!(disk.load().unwrap_err(), LabelError::Damaged);
    }
}

#[test]
fn a_page_of_a_map_without_a_copy_counts_as_set() {
    let page = PageAddress::Map { map: 2, number: 1 };
    let (mut disk, _) = written(&sample());
    disk.damage(page, 0);
    assert_eq!(disk.load().unwrap().0.label(), &sample());
    disk.damage(page, 1);
    let (store, damage) = disk.load().unwrap();
    assert_eq!(damage, [Damage { page, copy: None }]);
    let lacks = &store.label().missing[1].as_ref().unwrap().lacks;
    assert_eq!(lacks.len(), 2 + 8_000);
    assert_eq!(store.label().dirty, sample().dirty);
}

#[test]
fn a_page_that_lies_elsewhere_is_not_taken() {
    let (mut disk, _) = written(&sample());
    let from = PageAddress::Map { map: 0, number: 0 };
    let to = PageAddress::Map { map: 0, number: 1 };
    for copy in 0..2 {
        let page = disk.0[&from.offset_bytes(copy)].clone();
        disk.0.insert(to.offset_bytes(copy), page);
    }
    assert_eq!(disk.load().unwrap().1, [Damage { page: to, copy: None }]);
}

#[test]
fn a_newer_label_is_refused_with_its_version_and_an_empty_or_foreign_device_as_such() {
    let (mut disk, _) = written(&sample());
    let page = disk.0.get_mut(&0).unwrap();
    page[8] = 2;
    seal(page);
    let error = disk.load().unwrap_err();
    assert_eq!(error, LabelError::Newer { version: 2 });
    assert!(error.to_string().contains("format version 2, this program knows up to 1"));
    assert_eq!(Disk::default().load().unwrap_err(), LabelError::Absent);
    disk.0.values_mut().for_each(|page| page.fill(b'x'));
    assert_eq!(disk.load().unwrap_err(), LabelError::Foreign);
}

#[test]
fn whatever_write_is_torn_the_label_is_the_old_one_or_the_new_one_with_marks_of_both() {
    let (disk, mut store) = written(&sample());
    let mut new = sample();
    new.voter.ballot.epoch = Epoch(8);
    new.mark(RegionIndex(5));
    let plan = store.write(new.clone());
    let writes: Vec<&PageWrite> = plan.steps.iter().flatten().collect();
    assert_eq!((plan.steps.len(), writes.len()), (4, 6));
    for torn in 0..writes.len() {
        let mut disk = disk.clone();
        writes[..torn].iter().for_each(|write| disk.write(write));
        let place = writes[torn].offset_bytes();
        let mut half = disk.0[&place].clone();
        half[PAGE_BYTES / 2..].copy_from_slice(&writes[torn].bytes[PAGE_BYTES / 2..]);
        half[..512].copy_from_slice(&writes[torn].bytes[..512]);
        disk.0.insert(place, half);
        let (store, _) = disk.load().unwrap();
        assert!(sample().dirty.iter().all(|region| store.label().dirty.contains(region)));
        match store.label().voter.ballot.epoch {
            Epoch(7) => assert!(torn < 6),
            Epoch(8) => assert_eq!(store.label(), &new),
            other => panic!("epoch {other:?}"),
        }
    }
}

#[test]
fn a_mark_is_durable_after_one_write_a_map_and_its_head_stays() {
    let (mut disk, mut store) = written(&sample());
    let mut marked = sample();
    marked.mark(RegionIndex(1));
    let plan = store.write(marked.clone());
    assert_eq!((plan.steps.len(), plan.durable_after), (2, 1));
    assert_eq!(plan.steps[0].len(), 2, "the dirty map and one slot");
    plan.steps[0].iter().for_each(|write| disk.write(write));
    assert_eq!(disk.load().unwrap().0.label(), &marked);
    assert_eq!(store.write(marked), Plan::default());
}

#[test]
fn pages_of_an_earlier_absence_are_not_believed() {
    let (mut disk, mut store) = written(&sample());
    let mut later = sample();
    later.missing[1].as_mut().unwrap().in_sync_epoch = Epoch(9);
    let plan = store.write(later);
    plan.steps[2..].iter().flatten().for_each(|write| disk.write(write));
    let (store, damage) = disk.load().unwrap();
    let missing = store.label().missing[1].as_ref().unwrap();
    assert_eq!(missing.lacks.len(), 40_000);
    assert_eq!(damage.len(), 2);
}

#[test]
fn a_volume_that_grows_gets_the_pages_it_needs() {
    let (mut disk, mut store) = written(&sample());
    let mut grown = sample();
    grown.shape = Shape::with_regions(100_000 << 13, 512, grown.shape.region_bytes()).unwrap();
    grown.dirty = grown.dirty.resized(grown.shape.regions());
    let missing = grown.missing[1].as_mut().unwrap();
    missing.lacks = missing.lacks.resized(grown.shape.regions());
    disk.run(&store.write(grown.clone()));
    assert_eq!(disk.load().unwrap(), (disk.load().unwrap().0, vec![]));
    assert_eq!(disk.load().unwrap().0.label(), &grown);
}

impl PartialEq for LabelStore {
    fn eq(&self, other: &LabelStore) -> bool {
        self.label() == other.label()
    }
}

#[test]
fn a_restart_matters_only_where_a_cache_may_lose() {
    let mut label = sample();
    let now = |boot, cache| Session { boot: id(boot), cache };
    assert!(label.is_suspect(now(0x12, Cache::Volatile)));
    assert!(label.is_suspect(now(0x12, Cache::Durable)), "the cache of then may have lost");
    assert!(!label.is_suspect(now(0x11, Cache::Volatile)));
    label.session.cache = Cache::Durable;
    assert!(!label.is_suspect(now(0x12, Cache::Durable)));
}

proptest! {
    #[test]
    fn any_bytes_are_a_label_or_an_error(
        places in proptest::collection::vec((0..PAGE_BYTES, any::<u8>()), 1..20),
        noise in proptest::collection::vec(any::<u8>(), PAGE_BYTES),
        reseal in any::<bool>(),
    ) {
        let (mut disk, _) = written(&sample());
        for copy in 0..2 {
            let page = disk.0.get_mut(&PageAddress::Head.offset_bytes(copy)).unwrap();
            places.iter().for_each(|(place, byte)| page[*place] = *byte);
            if reseal {
                seal(page);
            }
        }
        if let Ok((store, _)) = disk.load() {
            // What is understood is understood again.
            let (again, _) = written(store.label());
            let again = again.load().unwrap().0;
            prop_assert_eq!(again.label(), store.label());
        }
        let mut noise: [u8; PAGE_BYTES] = noise.try_into().unwrap();
        prop_assert_eq!(look(&noise), Sight::Foreign);
        noise[..8].copy_from_slice(&super::wire::MAGIC);
        prop_assert_eq!(look(&noise), Sight::Damaged);
    }

    #[test]
    fn records_come_back_and_any_bytes_are_one_or_an_error(
        places in proptest::collection::vec((0..PAGE_BYTES, any::<u8>()), 0..20),
    ) {
        let (record, nexus) = (RecordId(id(0xcc)), NexusId(id(0xbb)));
        let mut page = encode_record(&sample().voter, record, nexus, 3);
        prop_assert_eq!(decode_record(&page).unwrap(), (record, nexus, sample().voter));
        places.iter().for_each(|(place, byte)| page[*place] = *byte);
        let _ = decode_record(&page);
    }
}

#[test]
fn a_device_that_does_not_fit_is_refused_with_the_reason() {
    let mut label = sample();
    let needed = label.shape.blocks() + LABEL_BYTES / 512;
    assert_eq!(label.check(label.nexus, needed, 512), Ok(()));
    let small = label.check(label.nexus, needed - 1, 512);
    assert_eq!(small, Err(Misfit::TooSmall { blocks: needed - 1, needed }));
    let other = label.check(label.nexus, needed, 4096).unwrap_err();
    assert_eq!(other, Misfit::BlockBytes { found: 4096, wanted: 512 });
    let stranger = label.check(NexusId(id(1)), needed, 512).unwrap_err().to_string();
    assert!(stranger.contains("belongs to volume 00000000"), "{stranger}");
    label.state = DataState::Retired;
    assert!(matches!(label.check(label.nexus, needed, 512), Err(Misfit::Retired { .. })));
}
