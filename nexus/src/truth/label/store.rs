//! Where a label's pages are on a replica, which of the two copies of each holds, and which pages
//! a new label writes, in what order.
//!
//! Each page has two copies, and of those that are whole the one with the higher sequence holds.
//! A page is always written over the copy that does not hold, so a torn write takes nothing away.
//! A head is answered for only when both of its copies are written. A page of a map is so after
//! one, as long as the other follows before anything else is written to it: a mark costs one write
//! before the data.
//!
//! Maps before the head: a bit more in a map is never wrong, and a slot that a head names has its
//! pages.

use std::sync::Arc;

use zerocopy::FromBytes;

use super::head::{self, Senseless};
use super::wire::{MapPage, PAGE_BYTES, PAGE_REGIONS, PAYLOAD_BYTES, PageKind, Sight, look, seal};
use super::{Label, PageAddress};
use crate::truth::names::{Epoch, NexusId, Promise, ReplicaId};
use crate::truth::region_map::RegionMap;

/// Copies of every page.
pub const COPIES: usize = 2;

/// Why a replica's label cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// There is none: both places are empty.
    #[error("the device has no label")]
    Absent,
    /// There is something else in its place.
    #[error("the device begins with something that is not a label")]
    Foreign,
    /// A later program has written it.
    #[error(
        "the label has format version {version}, this program knows up to {}: \
         open the volume with the newer program",
        super::wire::VERSION
    )]
    Newer {
        /// Its version.
        version: u32,
    },
    /// No copy is whole.
    #[error("both copies of the label are damaged")]
    Damaged,
    /// A copy is whole, and not to be understood.
    #[error("the label is whole, but {0}")]
    Senseless(#[from] Senseless),
}

/// A page to be written, so that it is durable when the write completes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageWrite {
    /// Which.
    pub page: PageAddress,
    /// To which copy.
    pub copy: usize,
    /// What.
    pub bytes: Arc<[u8; PAGE_BYTES]>,
}

impl PageWrite {
    /// Bytes from the start of the replica.
    pub fn offset_bytes(&self) -> u64 {
        self.page.offset_bytes(self.copy)
    }
}

/// What writing a label takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes of a step may be in flight together; the next step follows when they are done.
    pub steps: Vec<Vec<PageWrite>>,
    /// After how many steps the label counts as written.
    pub durable_after: usize,
}

/// What was read of a page, and which copy is to be written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageState {
    page: PageAddress,
    sequence: u64,
    next_copy: usize,
}

/// Damage that was tolerated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub page: PageAddress,
    /// Which copy; nothing when both, so that the whole page of the map counts as set.
    pub copy: Option<usize>,
}

/// A replica's label as it is on the device.
#[derive(Clone, Debug)]
pub struct LabelStore {
    label: Arc<Label>,
    pages: Vec<PageState>,
    /// The page made last: when it was written it is made into the next one, in its place.
    spare: Arc<[u8; PAGE_BYTES]>,
}

impl LabelStore {
    /// A label for a device that has none; everything is written.
    pub fn create(label: Label) -> (LabelStore, Plan) {
        let state = |page| PageState { page, sequence: 0, next_copy: 0 };
        let pages = PageAddress::all(label.shape).map(state).collect();
        let mut store = LabelStore::of(label, pages);
        let every = store.pages.iter().map(|state| state.page).collect();
        let plan = store.plan(every);
        (store, plan)
    }

    /// Reads the label of a device; `read` gives a page of a copy. Says what damage it tolerated.
    pub fn load<E: From<LabelError>>(
        mut read: impl FnMut(PageAddress, usize) -> Result<Box<[u8; PAGE_BYTES]>, E>,
    ) -> Result<(LabelStore, Vec<Damage>), E> {
        let copies = [read(PageAddress::Head, 0)?, read(PageAddress::Head, 1)?];
        let mut damage = Vec::new();
        let (state, held) = choose_head([&copies[0], &copies[1]], &mut damage)?;
        let mut label = head::decode(&copies[held]).map_err(LabelError::from)?;
        let mut pages = Vec::new();
        for page in PageAddress::all(label.shape) {
            let PageAddress::Map { map, number } = page else { break };
            let copies = [read(page, 0)?, read(page, 1)?];
            pages.push(take_map_page(&mut label, (map, number), copies, &mut damage));
        }
        pages.push(state);
        Ok((LabelStore::of(label, pages), damage))
    }

    fn of(label: Label, pages: Vec<PageState>) -> LabelStore {
        LabelStore { label: Arc::new(label), pages, spare: Arc::new([0; PAGE_BYTES]) }
    }

    /// The promise in the two copies of a head, without the rest of the label.
    pub fn promise_of(copies: [&[u8; PAGE_BYTES]; COPIES]) -> Result<Promise, LabelError> {
        let (_, held) = choose_head(copies, &mut Vec::new())?;
        Ok(head::decode(copies[held])?.voter.promised)
    }

    /// The label, with all that was planned.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// Makes `label` the replica's, and says what to write. The steps of one plan are done before
    /// those of the next begin.
    pub fn write(&mut self, label: impl Into<Arc<Label>>) -> Plan {
        let label = label.into();
        assert_eq!(self.label.replica, label.replica, "a label stays with its replica");
        let old = std::mem::replace(&mut self.label, label);
        let grown = self.label.shape != old.shape;
        if grown {
            self.grow();
        }
        let changed = |page: &PageAddress| match *page {
            PageAddress::Map { map, number } => {
                grown || !is_same_map_page(&old, &self.label, map, number)
            }
            PageAddress::Head => !is_same_head(&old, &self.label),
        };
        let pages = self.pages.iter().map(|state| state.page).filter(changed).collect();
        self.plan(pages)
    }

    /// What to write so that damaged pages are whole again.
    pub fn repair(&mut self, damage: &[Damage]) -> Plan {
        let mut pages: Vec<PageAddress> = damage.iter().map(|damage| damage.page).collect();
        pages.sort_unstable();
        pages.dedup();
        self.plan(pages)
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.pages);
        for page in PageAddress::all(self.label.shape) {
            let known = old.iter().find(|state| state.page == page).copied();
            self.pages.push(known.unwrap_or(PageState { page, sequence: 0, next_copy: 0 }));
        }
    }

    fn plan(&mut self, pages: Vec<PageAddress>) -> Plan {
        let mut steps = vec![Vec::new(); 2 * COPIES];
        for page in pages {
            let place = self.pages.iter().position(|state| state.page == page);
            let state = &mut self.pages[place.expect("a label has this page")];
            state.sequence = state.sequence.checked_add(1).expect("2^64 writes never happen");
            let first = if page == PageAddress::Head { COPIES } else { 0 };
            if Arc::get_mut(&mut self.spare).is_none() {
                self.spare = Arc::new([0; PAGE_BYTES]);
            }
            let bytes = Arc::get_mut(&mut self.spare).expect("nobody else has it");
            encode_page(&self.label, page, state.sequence, bytes);
            let bytes = self.spare.clone();
            let copies = [state.next_copy, 1 - state.next_copy];
            steps[first].push(PageWrite { page, copy: copies[0], bytes: bytes.clone() });
            steps[first + 1].push(PageWrite { page, copy: copies[1], bytes });
        }
        let maps_only = steps[COPIES].is_empty();
        steps.retain(|step| !step.is_empty());
        let durable_after = if maps_only { steps.len().min(1) } else { steps.len() };
        Plan { steps, durable_after }
    }
}

fn is_same_head(old: &Label, new: &Label) -> bool {
    is_same_beside_maps(old, new) || head::encode(old, 0) == head::encode(new, 0)
}

/// True when only maps differ, as they do between one mark and the next: two heads would be the
/// same, and need not be made to see it.
fn is_same_beside_maps(old: &Label, new: &Label) -> bool {
    let Label {
        replica,
        nexus,
        shape,
        voter,
        configured,
        state,
        clean,
        in_sync,
        session,
        dirty: _,
        missing: _,
    } = old;
    let names = |label: &Label| {
        label
            .missing
            .each_ref()
            .map(|slot| slot.as_ref().map(|missing| (missing.replica, missing.in_sync_epoch)))
    };
    (*replica, *nexus, *shape, *state) == (new.replica, new.nexus, new.shape, new.state)
        && (*clean, *in_sync, *session) == (new.clean, new.in_sync, new.session)
        && *configured == new.configured
        && *voter == new.voter
        && names(old) == names(new)
}

/// True when a page of a map is the same in both.
fn is_same_map_page(old: &Label, new: &Label, map: u8, number: u32) -> bool {
    let first = u64::from(number) * PAGE_REGIONS;
    match (map_of(old, map), map_of(new, map)) {
        (None, None) => true,
        (Some(one), Some(other)) => {
            slot_owner(old, map) == slot_owner(new, map)
                && one.is_same_page(other, first, PAGE_REGIONS)
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Of two copies the one that holds, and what follows from it for the next write.
fn choose_head(
    copies: [&[u8; PAGE_BYTES]; COPIES],
    damage: &mut Vec<Damage>,
) -> Result<(PageState, usize), LabelError> {
    let sights = copies.map(look);
    if let Some(version) = sights.iter().find_map(|sight| match sight {
        Sight::Newer(version) => Some(*version),
        _ => None,
    }) {
        return Err(LabelError::Newer { version });
    }
    match held(sights) {
        Some((sequence, copy)) => {
            if !matches!(sights[1 - copy], Sight::Whole(_)) {
                damage.push(Damage { page: PageAddress::Head, copy: Some(1 - copy) });
            }
            let next_copy = 1 - copy;
            Ok((PageState { page: PageAddress::Head, sequence, next_copy }, copy))
        }
        None if sights.contains(&Sight::Damaged) => Err(LabelError::Damaged),
        None if sights == [Sight::Blank; COPIES] => Err(LabelError::Absent),
        None => Err(LabelError::Foreign),
    }
}

fn held(sights: [Sight; COPIES]) -> Option<(u64, usize)> {
    match sights {
        [Sight::Whole(zero), Sight::Whole(one)] if one > zero => Some((one, 1)),
        [Sight::Whole(zero), _] => Some((zero, 0)),
        [_, Sight::Whole(one)] => Some((one, 1)),
        _ => None,
    }
}

/// An absent replica and its last epoch: whose map a slot is.
type SlotOwner = Option<(ReplicaId, Epoch)>;

fn slot_owner(label: &Label, map: u8) -> SlotOwner {
    let slot = usize::from(map).checked_sub(1)?;
    label.missing[slot].as_ref().map(|missing| (missing.replica, missing.in_sync_epoch))
}

fn map_of(label: &Label, map: u8) -> Option<&RegionMap> {
    match usize::from(map).checked_sub(1) {
        None => Some(&label.dirty),
        Some(slot) => label.missing[slot].as_ref().map(|missing| &missing.lacks),
    }
}

/// Makes a page, over whatever is there.
fn encode_page(label: &Label, page: PageAddress, sequence: u64, bytes: &mut [u8; PAGE_BYTES]) {
    let PageAddress::Map { map, number } = page else {
        *bytes = head::encode(label, sequence);
        return;
    };
    // A slot that is free has pages of nobody's.
    let owner = slot_owner(label, map);
    let header = head::map_header(label, sequence, map, number, owner);
    let contents: &mut MapPage = zerocopy::transmute_mut!(bytes);
    contents.header = header;
    match map_of(label, map) {
        Some(regions) => {
            regions.write_page(u64::from(number) * PAGE_REGIONS, &mut contents.bits);
        }
        None => contents.bits.fill(0),
    }
    seal(bytes);
}

/// Takes a page of a map over into the label. Where no copy is to be had, every region of the page
/// counts as set: more to copy, never less.
fn take_map_page(
    label: &mut Label,
    (map, number): (u8, u32),
    copies: [Box<[u8; PAGE_BYTES]>; COPIES],
    damage: &mut Vec<Damage>,
) -> PageState {
    let page = PageAddress::Map { map, number };
    let owner = slot_owner(label, map);
    let (replica, nexus) = (label.replica, label.nexus);
    let sights = [0, 1].map(|copy| match look(&copies[copy]) {
        Sight::Whole(sequence) if is_page(&copies[copy], page, replica, nexus) => {
            Sight::Whole(sequence)
        }
        Sight::Blank => Sight::Blank,
        _ => Sight::Damaged,
    });
    let held = held(sights);
    let is_used = map == 0 || owner.is_some();
    let contents = held.and_then(|(_, copy)| MapPage::ref_from_bytes(&copies[copy][..]).ok());
    let contents = contents.filter(|contents| page_owner(contents) == owner);
    if is_used {
        let lost = match (contents, held) {
            (None, _) => Some(None),
            (Some(_), Some((_, copy))) if sights[1 - copy] == Sight::Damaged => {
                Some(Some(1 - copy))
            }
            _ => None,
        };
        damage.extend(lost.map(|copy| Damage { page, copy }));
        let bits = contents.map_or([0xff; PAYLOAD_BYTES], |contents| contents.bits);
        let lacks = match usize::from(map).checked_sub(1) {
            None => Some(&mut label.dirty),
            Some(slot) => label.missing[slot].as_mut().map(|missing| &mut missing.lacks),
        };
        lacks.expect("the map is used").read_page(u64::from(number) * PAGE_REGIONS, &bits);
    }
    let (sequence, copy) = held.unwrap_or((0, 1));
    PageState { page, sequence, next_copy: 1 - copy }
}

fn page_owner(page: &MapPage) -> SlotOwner {
    let replica = uuid::Uuid::from_bytes(page.header.slot_replica);
    (!replica.is_nil()).then(|| (ReplicaId(replica), Epoch(page.header.slot_epoch.get())))
}

/// Whether a whole page is the one that belongs here, and not misdirected.
fn is_page(
    bytes: &[u8; PAGE_BYTES],
    page: PageAddress,
    replica: ReplicaId,
    nexus: NexusId,
) -> bool {
    let (Ok(contents), PageAddress::Map { map, number }) = (MapPage::ref_from_bytes(bytes), page)
    else {
        return false;
    };
    let header = &contents.header;
    header.kind == PageKind::Map as u8
        && (header.map, header.number.get()) == (map, number)
        && header.replica == replica.0.into_bytes()
        && header.nexus == nexus.0.into_bytes()
}
