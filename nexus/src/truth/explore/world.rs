//! Replicas, a record and owners, with everything that can happen to them next.
//!
//! The owners are the real ones; replicas keep real labels and a number a region for their data.
//! A message may arrive at any later time or never, an owner may give up on any child, a replica
//! may lose power and with it what no flush covered. Writes are numbered as submitted;
//! `floor` is the newest one of a region that was acknowledged or read: nothing older may be read
//! again.

use std::sync::Arc;

use uuid::Uuid;

use super::possible::Event;
use crate::child::{ChildIndex, ChildSet};
use crate::intent::{REGION_BYTES, RegionIndex};
use crate::truth::activity::Activity;
use crate::truth::assembly::{Seen, Survey, assemble};
use crate::truth::label::{Cache, Configured, DataState, InSync, Label, Missing, Session, Shape};
use crate::truth::names::{
    Ballot, Epoch, Fork, ForkCause, Generation, Lineage, NexusId, Policy, Promise, RecordId,
    ReplicaId, VoterHalf,
};
use crate::truth::owner::{Answer, Discard, Flush, Owner, Progress, Request};
use crate::truth::planted::{self, Bug};
use crate::truth::quorum::{Roster, Voter};
use crate::truth::region_map::RegionMap;
use crate::truth::voter::{NotTaken, Overtaken};

/// Bounds of a world.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub replicas: usize,
    pub members: usize,
    pub regions: u64,
    pub writes: u8,
    pub owners: usize,
    pub policy: Policy,
    pub losses: u8,
    pub record_losses: u8,
    pub closes: u8,
    pub rebuilds: bool,
}

#[derive(Clone)]
pub struct Replica {
    pub label: Label,
    pub value: Vec<u8>,
    pub durable: Vec<u8>,
    pub boot: u128,
}

impl Replica {
    fn session(&self) -> Session {
        Session { boot: Uuid::from_u128(self.boot), cache: Cache::Volatile }
    }

    fn is_suspect(&self) -> bool {
        self.label.is_suspect(self.session())
    }
}

/// A host's write in flight at an owner.
#[derive(Clone, Copy)]
pub struct Write {
    pub number: u8,
    pub region: RegionIndex,
    /// Whom it goes to from the start: a target that is ready is waited for (rule 28).
    pub wanted: ChildSet,
    pub to: ChildSet,
    pub acked: ChildSet,
}

#[derive(Clone)]
pub struct Nexus {
    pub owner: Owner,
    pub activity: Activity,
    pub write: Option<Write>,
    pub may_read: bool,
    pub has_served: bool,
    pub is_started: bool,
    /// Replicas on which its session lives.
    pub linked: ChildSet,
}

/// Data on its way to a replica.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Data {
    pub number: u8,
    pub region: RegionIndex,
    pub generation: Generation,
    pub child: ChildIndex,
    pub from: usize,
}

/// A request on its way; nobody listens for the answer when its owner has given up on the child.
#[derive(Clone)]
pub struct Sent {
    pub request: Request,
    pub from: usize,
    pub is_heard: bool,
}

#[derive(Clone)]
pub struct World {
    pub config: Config,
    pub replicas: Vec<Replica>,
    pub record: VoterHalf,
    pub nexuses: Vec<Nexus>,
    pub data: Vec<Data>,
    pub sent: Vec<Sent>,
    pub next_write: u8,
    pub floor: Vec<u8>,
    pub losses_left: u8,
    pub record_losses_left: u8,
    pub closes_left: u8,
}

pub fn child(index: usize) -> ChildIndex {
    ChildIndex::new(index).unwrap()
}

fn promise(owner: usize) -> Promise {
    let generation =
        Generation { counter: owner as u64 + 1, owner: Uuid::from_u128(owner as u128 + 1) };
    Promise { generation, host: Uuid::nil() }
}

fn roster(config: Config) -> Roster {
    let replica = |index: usize| Configured {
        replica: ReplicaId(Uuid::from_u128(0x100 + index as u128)),
        hint: String::new(),
    };
    let record = (config.policy != Policy::Solo).then_some(RecordId(Uuid::from_u128(0x900)));
    Roster::new((0..config.replicas).map(replica).collect(), record)
}

impl World {
    /// The first owner serves epoch 1; replicas that are no members hold junk.
    pub fn new(config: Config) -> World {
        let roster = roster(config);
        let regions = config.regions;
        let shape = Shape::new(regions * REGION_BYTES / 512, 512).unwrap();
        let members =
            (0..config.members).fold(ChildSet::EMPTY, |set, index| set.with(child(index)));
        let electorate = roster.electorate(members, config.policy);
        let mut half = VoterHalf {
            promised: Promise::default(),
            ballot: Ballot { epoch: Epoch(1), generation: Generation::default() },
            current: electorate.clone(),
            previous: electorate,
            policy: config.policy,
            settled: true,
            ..VoterHalf::default()
        };
        let lineage = Lineage(Uuid::from_u128(0x700));
        half.fork(Fork { lineage, epoch: Epoch(1), cause: ForkCause::Created });
        let replica = |place: ChildIndex| {
            let session = Session { boot: Uuid::from_u128(1), cache: Cache::Volatile };
            let nexus = NexusId(Uuid::from_u128(0x800));
            let mut label = Label::blank(roster.replica(place), nexus, shape, session);
            let is_member = members.contains(place);
            if is_member {
                label.voter = half.clone();
                label.state = DataState::Member;
                label.in_sync = InSync { lineage, epoch: Epoch(1) };
            }
            for (slot, absent) in label.missing.iter_mut().zip(roster.all().minus(members)) {
                let lacks = RegionMap::full(regions);
                let replica = roster.replica(absent);
                *slot = Some(Missing { replica, in_sync_epoch: Epoch(0), lacks });
            }
            let value = vec![if is_member { 1 } else { 0 }; regions as usize];
            Replica { label, durable: value.clone(), value, boot: 1 }
        };
        let nexus = |index: usize| Nexus {
            owner: Owner::new(promise(index), roster.clone()),
            activity: Activity::new(),
            write: None,
            may_read: true,
            has_served: false,
            is_started: index == 0,
            linked: ChildSet::EMPTY,
        };
        let mut world = World {
            config,
            replicas: roster.all().iter().map(replica).collect(),
            record: half,
            nexuses: (0..config.owners).map(nexus).collect(),
            data: Vec::new(),
            sent: Vec::new(),
            next_write: 2,
            floor: vec![1; regions as usize],
            losses_left: config.losses,
            record_losses_left: config.record_losses,
            closes_left: config.closes,
        };
        world.settle(0);
        world.apply(&Event::Open(0)).unwrap();
        world.settle(0);
        assert!(world.nexuses[0].has_served, "the first owner opens");
        world
    }

    /// Makes all requests of an owner succeed.
    fn settle(&mut self, owner: usize) {
        while !self.nexuses[owner].owner.requests().is_empty() {
            self.apply(&Event::Send(owner, 0)).unwrap();
            self.apply(&Event::RequestArrives { index: 0, is_answered: true }).unwrap();
        }
    }

    /// What must hold in every state.
    pub fn check(&self) -> Result<(), String> {
        let served = self.nexuses.iter().filter(|nexus| nexus.has_served);
        let newest = served.max_by_key(|nexus| nexus.owner.generation()).expect("one has served");
        if let Progress::InForce { members, .. } = newest.owner.progress() {
            self.check_equal(newest, members)?;
        }
        if planted::any() {
            return Ok(());
        }
        let seen: Vec<Option<Seen>> = self
            .replicas
            .iter()
            .map(|replica| Some(Seen { label: replica.label.clone(), session: replica.session() }))
            .collect();
        let roster = roster(self.config);
        for record in [Some(&self.record), None] {
            let record = record.filter(|_| self.config.policy != Policy::Solo);
            if let Err(refusal) = assemble(Survey { roster: &roster, seen: &seen, record }) {
                return Err(format!("refused with all replicas here: {refusal}"));
            }
        }
        Ok(())
    }

    fn check_equal(&self, newest: &Nexus, members: ChildSet) -> Result<(), String> {
        let replicas = members.iter().map(|child| &self.replicas[child.get()]);
        let replicas: Vec<&Replica> = replicas.collect();
        let generation = newest.owner.generation();
        if replicas.iter().any(|replica| replica.label.voter.promised.generation != generation) {
            return Ok(());
        }
        for region in self.regions() {
            let fine = || replicas.iter().filter(|replica| !replica.is_suspect());
            let writing = newest.write.is_some_and(|write| write.region == region);
            let marked = writing || fine().any(|replica| replica.label.dirty.contains(region));
            let values: Vec<u8> = fine().map(|replica| replica.value[region.0 as usize]).collect();
            if !marked && values.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(format!("members differ in region {}, which is not marked", region.0));
            }
        }
        Ok(())
    }

    /// Makes an event happen. An error is a broken promise to a host.
    pub fn apply(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::DataArrives(index) => self.data_arrives(index),
            Event::RequestArrives { index, is_answered } => {
                self.request_arrives(index, is_answered)
            }
            Event::RequestLost(index) => {
                let Sent { request, from, is_heard } = self.sent.remove(index);
                if is_heard {
                    self.answer(from, request.voter(), Answer::Lost);
                }
            }
            Event::Send(from, number) => {
                let request = self.nexuses[from].owner.requests().swap_remove(number);
                self.nexuses[from].owner.sent(request.clone());
                self.sent.push(Sent { request, from, is_heard: true });
            }
            Event::SendData(from, place) => self.send_data(from, place),
            Event::Flush(index, place) => {
                let ticket = self.nexuses[index].activity.flush_begins(place);
                self.flush(place);
                self.nexuses[index].activity.flush_ends(ticket);
            }
            Event::DeviceFlushes(place) => self.flush(place),
            Event::PowerLoss(place) => self.lose_power(place),
            Event::RecordEmptied => self.empty_record(),
            Event::RecordBack(index) => self.nexuses[index].owner.record_back(),
            Event::Start(index) => self.nexuses[index].is_started = true,
            Event::Open(index) => drop(self.nexuses[index].owner.open()),
            Event::GiveUp(index, place) => self.give_up(index, place),
            Event::Offline(index, place) => {
                let owner = &mut self.nexuses[index].owner;
                owner.begin_change(owner.members().without(place));
            }
            Event::Back(index, place) => self.nexuses[index].owner.child_back(place),
            Event::Submit(index, region) => self.submit(index, region),
            Event::Acknowledge(index) => return self.acknowledge(index),
            Event::Read(index, place, region) => return self.read(index, place, region),
            Event::Clear(index, region) => self.clear(index, region),
            Event::Copy(index, to, region) => self.copy(index, to, region),
            Event::Rebuild(index, place) => {
                let nexus = &mut self.nexuses[index];
                if nexus.owner.rebuild(place, Discard::No).is_ok() {
                    self.deafen(index, place);
                }
            }
            Event::CopyToTarget(index, region) => self.copy_to_target(index, region),
            Event::LoseTarget(index) => {
                let target = self.nexuses[index].owner.target().map(|target| target.child);
                target.iter().for_each(|place| self.give_up(index, *place));
            }
            Event::Admit(index) => drop(self.nexuses[index].owner.admit()),
            Event::Close(index) => {
                if self.nexuses[index].owner.close() {
                    self.closes_left -= 1;
                    self.nexuses[index].may_read = false;
                }
            }
            Event::Withdraw(index) => self.nexuses[index].owner.withdraw(),
            Event::TakeBack(index, place) => {
                let session = self.replicas[place.get()].session();
                self.replicas[place.get()].label.session = session;
                self.nexuses[index].linked = self.nexuses[index].linked.with(place);
            }
        }
        self.note_service();
        Ok(())
    }

    /// An owner that has just come into force has waited for the leases it must wait for.
    fn note_service(&mut self) {
        for index in 0..self.nexuses.len() {
            let nexus = &self.nexuses[index];
            if nexus.has_served || !matches!(nexus.owner.progress(), Progress::InForce { .. }) {
                continue;
            }
            let waits = nexus.owner.must_wait_for_lease();
            let generation = nexus.owner.generation();
            self.nexuses[index].has_served = true;
            if waits && !planted::is(Bug::NoLease) && !planted::is(Bug::NoReadGeneration) {
                let older = self.nexuses.iter_mut().filter(|other| other.is_started);
                older
                    .filter(|other| other.owner.generation() < generation)
                    .for_each(|other| other.may_read = false);
            }
        }
    }

    fn answer(&mut self, from: usize, voter: Voter, answer: Answer) {
        if let (Voter::Replica(place), Answer::Lost) = (voter, &answer) {
            self.unlink(from, place);
        }
        self.nexuses[from].owner.answered(voter, answer);
    }

    /// A session has ended: nobody listens any more, and nothing is covered by a flush.
    fn unlink(&mut self, from: usize, place: ChildIndex) {
        let nexus = &mut self.nexuses[from];
        nexus.activity.session_ended(place);
        self.deafen(from, place);
    }

    fn deafen(&mut self, from: usize, place: ChildIndex) {
        for sent in &mut self.sent {
            if sent.from == from && sent.request.voter() == Voter::Replica(place) {
                sent.is_heard = false;
            }
        }
    }

    fn give_up(&mut self, index: usize, place: ChildIndex) {
        self.unlink(index, place);
        self.nexuses[index].owner.child_lost(place);
    }

    fn request_arrives(&mut self, index: usize, is_answered: bool) {
        let Sent { request, from, is_heard } = self.sent.remove(index);
        let voter = request.voter();
        let answer = match request {
            Request::Claim { voter: Voter::Record, promise } => {
                match self.record.promise(promise) {
                    Ok(()) => Answer::Record(Box::new(self.record.clone())),
                    Err(overtaken) => Answer::Refused(overtaken),
                }
            }
            Request::WriteRecord { half } => match self.record.accept_at_record(&half) {
                Ok(()) => Answer::Written,
                Err(NotTaken::Overtaken(overtaken)) => Answer::Refused(overtaken),
                Err(NotTaken::Emptied) => Answer::Lost,
            },
            Request::Claim { voter: Voter::Replica(place), promise } => {
                self.claim(from, place, promise, is_heard)
            }
            Request::WriteLabel { child: place, flush, label } => {
                self.write_label(from, place, flush, Arc::unwrap_or_clone(label))
            }
        };
        match is_heard {
            true if is_answered => self.answer(from, voter, answer),
            true => self.answer(from, voter, Answer::Lost),
            false => {}
        }
    }

    /// A new session: nothing of the owner's old one arrives later.
    fn claim(&mut self, from: usize, place: ChildIndex, promise: Promise, opens: bool) -> Answer {
        let replica = &mut self.replicas[place.get()];
        if let Err(overtaken) = replica.label.voter.promise(promise) {
            return Answer::Refused(overtaken);
        }
        let seen = Seen { label: replica.label.clone(), session: replica.session() };
        if opens {
            let late = planted::is(Bug::LateCommand);
            self.data.retain(|data| (data.from, data.child) != (from, place) || late);
            self.sent
                .retain(|sent| sent.from != from || sent.request.voter() != Voter::Replica(place));
            let nexus = &mut self.nexuses[from];
            nexus.linked = nexus.linked.with(place);
            if let Some(write) = &mut nexus.write {
                write.to = write.to.without(place);
                write.acked = write.acked.without(place);
            }
        }
        Answer::Seen(Box::new(seen))
    }

    fn write_label(
        &mut self,
        from: usize,
        place: ChildIndex,
        flush: Flush,
        label: Label,
    ) -> Answer {
        let replica = &mut self.replicas[place.get()];
        let promised = replica.label.voter.promised.generation;
        if promised > label.voter.promised.generation {
            return Answer::Refused(Overtaken { promised });
        }
        if !self.nexuses[from].linked.contains(place) {
            return Answer::Lost;
        }
        if flush == Flush::First {
            replica.durable = replica.value.clone();
        }
        replica.label = label;
        Answer::Written
    }

    fn send_data(&mut self, from: usize, place: ChildIndex) {
        let nexus = &mut self.nexuses[from];
        let generation = nexus.owner.generation();
        let write = nexus.write.as_mut().unwrap();
        write.to = write.to.with(place);
        let Write { number, region, .. } = *write;
        self.data.push(Data { number, region, generation, child: place, from });
    }

    fn data_arrives(&mut self, index: usize) {
        let data = self.data.remove(index);
        let replica = &mut self.replicas[data.child.get()];
        let is_promised = replica.label.voter.promised.generation == data.generation;
        let linked = self.nexuses[data.from].linked.contains(data.child);
        if !linked || !is_promised && !planted::is(Bug::NoGenerationCheck) {
            return;
        }
        replica.value[data.region.0 as usize] = data.number;
        if self.config.losses == 0 {
            self.flush(data.child);
        }
        if let Some(write) = &mut self.nexuses[data.from].write
            && write.number == data.number
        {
            write.acked = write.acked.with(data.child);
        }
    }

    fn flush(&mut self, place: ChildIndex) {
        let replica = &mut self.replicas[place.get()];
        replica.durable = replica.value.clone();
    }

    fn lose_power(&mut self, place: ChildIndex) {
        self.losses_left -= 1;
        let replica = &mut self.replicas[place.get()];
        replica.value = replica.durable.clone();
        replica.boot += 1;
        self.data.retain(|data| data.child != place);
        for nexus in &mut self.nexuses {
            nexus.linked = nexus.linked.without(place);
            nexus.activity.session_ended(place);
            if let Some(write) = &mut nexus.write {
                write.acked = write.acked.without(place);
            }
        }
        // What no other member had and no flush covered may go.
        let served = self.nexuses.iter().filter(|nexus| nexus.has_served);
        let newest = served.max_by_key(|nexus| nexus.owner.generation()).expect("one has served");
        let members = newest.owner.in_force().map_or(ChildSet::EMPTY, |(_, members)| members);
        if members.contains(place) {
            for (region, floor) in self.floor.iter_mut().enumerate() {
                let values = members.iter().map(|child| self.replicas[child.get()].value[region]);
                *floor = (*floor).min(values.max().unwrap_or(0));
            }
        }
    }

    fn empty_record(&mut self) {
        self.record_losses_left -= 1;
        self.record = VoterHalf::default();
    }

    fn clear(&mut self, index: usize, region: RegionIndex) {
        let nexus = &mut self.nexuses[index];
        if nexus.owner.clear(region) {
            nexus.activity.cleared(region);
        }
    }

    fn submit(&mut self, index: usize, region: RegionIndex) {
        let nexus = &mut self.nexuses[index];
        if nexus.owner.is_wanted(region) {
            nexus.owner.mark(region);
        }
        nexus.activity.write_begins(region);
        let number = self.next_write;
        let wanted = nexus.owner.written_by_hosts();
        let (to, acked) = (ChildSet::EMPTY, ChildSet::EMPTY);
        nexus.write = Some(Write { number, region, wanted, to, acked });
        self.next_write += 1;
    }

    fn acknowledge(&mut self, index: usize) -> Result<(), String> {
        let nexus = &mut self.nexuses[index];
        let Some(Write { number, region, .. }) = nexus.write.take() else { return Ok(()) };
        nexus.activity.write_ends(region);
        let generation = nexus.owner.generation();
        let place = region.0 as usize;
        for newer in &self.nexuses {
            if newer.owner.generation() <= generation || !newer.has_served {
                continue;
            }
            let unequal = newer.owner.pending().is_some_and(|pending| pending.contains(region));
            let members = newer.owner.members();
            let source = newer.owner.source().filter(|_| unequal);
            let holders = source.map_or(members, ChildSet::only);
            let lacks = |replica: &Replica| replica.value[place] < number && !replica.is_suspect();
            if holders.iter().any(|child| lacks(&self.replicas[child.get()])) {
                return Err(format!("acknowledges {number}, which a newer owner's members lack"));
            }
        }
        self.floor[place] = self.floor[place].max(number);
        Ok(())
    }

    fn read(
        &mut self,
        _index: usize,
        place: ChildIndex,
        region: RegionIndex,
    ) -> Result<(), String> {
        let got = self.replicas[place.get()].value[region.0 as usize];
        let floor = &mut self.floor[region.0 as usize];
        if got < *floor {
            return Err(format!("reads {got}, though {floor} was acknowledged or read before"));
        }
        *floor = got;
        Ok(())
    }

    fn copy(&mut self, index: usize, to: ChildIndex, region: RegionIndex) {
        let source = self.nexuses[index].owner.source().unwrap();
        if self.copy_block(index, source, to, region) {
            self.nexuses[index].owner.copied(to, region);
        }
    }

    fn copy_to_target(&mut self, index: usize, region: RegionIndex) {
        let owner = &self.nexuses[index].owner;
        let (source, to) = (owner.source().unwrap(), owner.target().unwrap().child);
        if self.copy_block(index, source, to, region) {
            self.nexuses[index].owner.rebuilt(region);
        }
    }

    fn copy_block(
        &mut self,
        index: usize,
        source: ChildIndex,
        to: ChildIndex,
        region: RegionIndex,
    ) -> bool {
        if !self.is_open(index, source) || !self.is_open(index, to) {
            return false;
        }
        let activity = &mut self.nexuses[index].activity;
        activity.write_begins(region);
        activity.write_ends(region);
        let value = self.replicas[source.get()].value[region.0 as usize];
        self.replicas[to.get()].value[region.0 as usize] = value;
        if self.config.losses == 0 {
            self.flush(to);
        }
        true
    }
}
