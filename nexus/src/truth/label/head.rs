//! Heads to bytes and back. Total over any bytes: what is no head is refused with the field that
//! shows it, and nothing is guessed.

use std::sync::Arc;

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros};

use super::wire::{
    Head, MAGIC, PAGE_BYTES, PageHeader, PageKind, VERSION, WireConfigured, WireFork,
    WireGeneration, WireSlot, seal,
};
use super::{
    CONFIGURED_MAX, Cache, Configured, DataState, HINT_BYTES_MAX, InSync, Label, MISSING_SLOTS,
    Missing, Session, Shape,
};
use crate::truth::names::{
    Ballot, Electorate, Epoch, Fork, ForkCause, Generation, HISTORY_MAX, Lineage, MEMBERS_MAX,
    Members, NexusId, Policy, Promise, RecordId, RecordVoter, ReplicaId, VoterHalf,
};
use crate::truth::region_map::RegionMap;

/// A whole page whose contents make no sense; names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its field {0} makes no sense")]
pub struct Senseless(pub &'static str);

fn header(kind: PageKind, sequence: u64, replica: Uuid, nexus: NexusId) -> PageHeader {
    PageHeader {
        magic: MAGIC,
        version: U32::new(VERSION),
        checksum: U32::ZERO,
        sequence: U64::new(sequence),
        kind: kind as u8,
        map: 0,
        reserved: [0; 2],
        number: U32::ZERO,
        replica: replica.into_bytes(),
        nexus: nexus.0.into_bytes(),
        slot_replica: [0; 16],
        slot_epoch: U64::ZERO,
        reserved_tail: [0; 8],
    }
}

/// Header of a page of a map. `owner` is whose slot it is.
pub(super) fn map_header(
    label: &Label,
    sequence: u64,
    map: u8,
    number: u32,
    owner: Option<(ReplicaId, Epoch)>,
) -> PageHeader {
    let (replica, epoch) = owner.unwrap_or_default();
    PageHeader {
        map,
        number: U32::new(number),
        slot_replica: replica.0.into_bytes(),
        slot_epoch: U64::new(epoch.0),
        ..header(PageKind::Map, sequence, label.replica.0, label.nexus)
    }
}

/// The head of a label, sealed.
pub(super) fn encode(label: &Label, sequence: u64) -> [u8; PAGE_BYTES] {
    let mut head = Head::new_zeroed();
    head.header = header(PageKind::Head, sequence, label.replica.0, label.nexus);
    head.blocks = U64::new(label.shape.blocks());
    head.block_bytes = U32::new(label.shape.block_bytes());
    head.region_bytes = U64::new(label.shape.region_bytes());
    head.state = match label.state {
        DataState::Member => 1,
        DataState::Target => 2,
        DataState::Retired => 3,
    };
    head.clean = u8::from(label.clean);
    head.cache_volatile = u8::from(label.session.cache == Cache::Volatile);
    head.boot = label.session.boot.into_bytes();
    head.in_sync_lineage = label.in_sync.lineage.0.into_bytes();
    head.in_sync_epoch = U64::new(label.in_sync.epoch.0);
    for (slot, missing) in head.slots.iter_mut().zip(&label.missing) {
        let Some(missing) = missing else { continue };
        *slot = WireSlot {
            replica: missing.replica.0.into_bytes(),
            in_sync_epoch: U64::new(missing.in_sync_epoch.0),
        };
    }
    assert!(label.configured.len() <= CONFIGURED_MAX, "the configuration was checked");
    head.configured_count = label.configured.len() as u8;
    for (wire, configured) in head.configured.iter_mut().zip(&*label.configured) {
        put_configured(wire, configured);
    }
    put_voter(&mut head, &label.voter);
    finish(head)
}

/// The record as a file keeps it: a head without a data half.
pub fn encode_record(
    voter: &VoterHalf,
    record: RecordId,
    nexus: NexusId,
    sequence: u64,
) -> [u8; PAGE_BYTES] {
    let mut head = Head::new_zeroed();
    head.header = header(PageKind::Record, sequence, record.0, nexus);
    put_voter(&mut head, voter);
    finish(head)
}

fn finish(head: Head) -> [u8; PAGE_BYTES] {
    let mut page = zerocopy::transmute!(head);
    seal(&mut page);
    page
}

fn put_configured(wire: &mut WireConfigured, configured: &Configured) {
    let hint = configured.hint.as_bytes();
    assert!(hint.len() <= HINT_BYTES_MAX, "the configuration was checked");
    wire.replica = configured.replica.0.into_bytes();
    wire.hint_bytes = hint.len() as u8;
    wire.hint[..hint.len()].copy_from_slice(hint);
}

fn put_voter(head: &mut Head, voter: &VoterHalf) {
    head.promised = put_generation(voter.promised.generation);
    head.promised_host = voter.promised.host.into_bytes();
    head.epoch = U64::new(voter.ballot.epoch.0);
    head.epoch_generation = put_generation(voter.ballot.generation);
    head.settled = u8::from(voter.settled);
    head.policy = match voter.policy {
        Policy::Majority => 1,
        Policy::Record => 2,
        Policy::Solo => 3,
    };
    head.members_count = put_members(&mut head.members, &voter.current.members);
    head.previous_members_count = put_members(&mut head.previous_members, &voter.previous.members);
    (head.record, head.record_votes) = put_record(voter.current.record);
    (head.previous_record, head.previous_record_votes) = put_record(voter.previous.record);
    head.lineage = voter.lineage.0.into_bytes();
    assert!(voter.history.len() <= HISTORY_MAX, "forks are forgotten in time");
    head.history_count = voter.history.len() as u8;
    for (wire, fork) in head.history.iter_mut().zip(&*voter.history) {
        *wire = WireFork {
            lineage: fork.lineage.0.into_bytes(),
            epoch: U64::new(fork.epoch.0),
            cause: match fork.cause {
                ForkCause::Created => 1,
                ForkCause::Forced => 2,
            },
            reserved: [0; 7],
        };
    }
}

fn put_generation(generation: Generation) -> WireGeneration {
    WireGeneration { counter: U64::new(generation.counter), owner: generation.owner.into_bytes() }
}

fn put_members(wire: &mut [[u8; 16]; MEMBERS_MAX], members: &Members) -> u8 {
    for (wire, member) in wire.iter_mut().zip(members.as_slice()) {
        *wire = member.0.into_bytes();
    }
    members.len() as u8
}

fn put_record(record: Option<RecordVoter>) -> ([u8; 16], u8) {
    record.map_or(([0; 16], 0), |record| (record.id.0.into_bytes(), record.votes))
}

/// A label from the bytes of a whole head of this version; its maps are empty yet.
pub(super) fn decode(page: &[u8; PAGE_BYTES]) -> Result<Label, Senseless> {
    let head = Head::ref_from_bytes(page).map_err(|_| Senseless("length"))?;
    if head.header.kind != PageKind::Head as u8 {
        return Err(Senseless("kind"));
    }
    let replica = ReplicaId(required(head.header.replica, "replica")?);
    let nexus = NexusId(required(head.header.nexus, "nexus")?);
    let shape =
        Shape::with_regions(head.blocks.get(), head.block_bytes.get(), head.region_bytes.get());
    let shape = shape.map_err(|_| Senseless("size"))?;
    let mut missing = [const { None }; MISSING_SLOTS];
    for (slot, wire) in missing.iter_mut().zip(&head.slots) {
        let owner = Uuid::from_bytes(wire.replica);
        *slot = (!owner.is_nil()).then(|| Missing {
            replica: ReplicaId(owner),
            in_sync_epoch: Epoch(wire.in_sync_epoch.get()),
            lacks: RegionMap::new(shape.regions()),
        });
    }
    if !are_distinct(missing.iter().flatten().map(|missing| missing.replica)) {
        return Err(Senseless("slots"));
    }
    Ok(Label {
        replica,
        nexus,
        shape,
        voter: take_voter(head)?,
        configured: take_configured(head)?.into(),
        state: match head.state {
            1 => DataState::Member,
            2 => DataState::Target,
            3 => DataState::Retired,
            _ => return Err(Senseless("state")),
        },
        clean: take_flag(head.clean, "clean")?,
        in_sync: InSync {
            lineage: Lineage(Uuid::from_bytes(head.in_sync_lineage)),
            epoch: Epoch(head.in_sync_epoch.get()),
        },
        session: Session {
            boot: Uuid::from_bytes(head.boot),
            cache: match take_flag(head.cache_volatile, "cache")? {
                true => Cache::Volatile,
                false => Cache::Durable,
            },
        },
        dirty: RegionMap::new(shape.regions()),
        missing,
    })
}

/// A record from the bytes of a whole page of this version.
pub fn decode_record(page: &[u8; PAGE_BYTES]) -> Result<(RecordId, NexusId, VoterHalf), Senseless> {
    let head = Head::ref_from_bytes(page).map_err(|_| Senseless("length"))?;
    if head.header.kind != PageKind::Record as u8 {
        return Err(Senseless("kind"));
    }
    let record = RecordId(required(head.header.replica, "record")?);
    let nexus = NexusId(required(head.header.nexus, "nexus")?);
    Ok((record, nexus, take_voter(head)?))
}

fn take_voter(head: &Head) -> Result<VoterHalf, Senseless> {
    let policy = match head.policy {
        1 => Policy::Majority,
        2 => Policy::Record,
        3 => Policy::Solo,
        _ => return Err(Senseless("policy")),
    };
    let history = head.history.get(..usize::from(head.history_count));
    let history = history.ok_or(Senseless("history"))?.iter().map(|wire| {
        let cause = match wire.cause {
            1 => ForkCause::Created,
            2 => ForkCause::Forced,
            _ => return Err(Senseless("history")),
        };
        let lineage = Lineage(Uuid::from_bytes(wire.lineage));
        Ok(Fork { lineage, epoch: Epoch(wire.epoch.get()), cause })
    });
    Ok(VoterHalf {
        promised: Promise {
            generation: take_generation(&head.promised),
            host: Uuid::from_bytes(head.promised_host),
        },
        ballot: Ballot {
            epoch: Epoch(head.epoch.get()),
            generation: take_generation(&head.epoch_generation),
        },
        current: take_electorate(
            (&head.members, head.members_count),
            (head.record, head.record_votes),
        )?,
        previous: take_electorate(
            (&head.previous_members, head.previous_members_count),
            (head.previous_record, head.previous_record_votes),
        )?,
        policy,
        settled: take_flag(head.settled, "settled")?,
        lineage: Lineage(Uuid::from_bytes(head.lineage)),
        history: Arc::new(history.collect::<Result<_, _>>()?),
    })
}

fn take_generation(wire: &WireGeneration) -> Generation {
    Generation { counter: wire.counter.get(), owner: Uuid::from_bytes(wire.owner) }
}

fn take_electorate(
    (members, count): (&[[u8; 16]; MEMBERS_MAX], u8),
    (record, votes): ([u8; 16], u8),
) -> Result<Electorate, Senseless> {
    let listed = members.get(..usize::from(count)).ok_or(Senseless("members"))?;
    let listed: Vec<ReplicaId> =
        listed.iter().map(|bytes| ReplicaId(Uuid::from_bytes(*bytes))).collect();
    let is_ordered = listed.windows(2).all(|pair| pair[0] < pair[1]);
    if !is_ordered || listed.iter().any(|member| member.0.is_nil()) {
        return Err(Senseless("members"));
    }
    let id = Uuid::from_bytes(record);
    if id.is_nil() && votes != 0 || usize::from(votes) > MEMBERS_MAX {
        return Err(Senseless("record"));
    }
    let record = (!id.is_nil()).then_some(RecordVoter { id: RecordId(id), votes });
    Ok(Electorate { members: Members::new(listed).ok_or(Senseless("members"))?, record })
}

fn take_configured(head: &Head) -> Result<Vec<Configured>, Senseless> {
    let listed = head.configured.get(..usize::from(head.configured_count));
    let listed = listed.ok_or(Senseless("configured"))?.iter().map(|wire| {
        let replica = ReplicaId(required(wire.replica, "configured")?);
        let hint = wire.hint.get(..usize::from(wire.hint_bytes));
        let hint = hint.and_then(|hint| std::str::from_utf8(hint).ok());
        Ok(Configured { replica, hint: hint.ok_or(Senseless("hint"))?.to_owned() })
    });
    let listed: Vec<Configured> = listed.collect::<Result<_, _>>()?;
    let distinct = are_distinct(listed.iter().map(|configured| configured.replica));
    if distinct { Ok(listed) } else { Err(Senseless("configured")) }
}

fn are_distinct(replicas: impl Iterator<Item = ReplicaId>) -> bool {
    let mut replicas: Vec<ReplicaId> = replicas.collect();
    replicas.sort_unstable();
    replicas.windows(2).all(|pair| pair[0] != pair[1])
}

fn take_flag(byte: u8, field: &'static str) -> Result<bool, Senseless> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Senseless(field)),
    }
}

fn required(bytes: [u8; 16], field: &'static str) -> Result<Uuid, Senseless> {
    let uuid = Uuid::from_bytes(bytes);
    if uuid.is_nil() { Err(Senseless(field)) } else { Ok(uuid) }
}
