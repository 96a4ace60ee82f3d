//! What can happen next in a world, and how likely.

use super::world::{World, child};
use crate::child::ChildIndex;
use crate::intent::RegionIndex;
use crate::truth::owner::Progress;
use crate::truth::planted::{self, Bug};

/// What can happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    DataArrives(usize),
    RequestArrives { index: usize, is_answered: bool },
    RequestLost(usize),
    Send(usize, usize),
    SendData(usize, ChildIndex),
    Flush(usize, ChildIndex),
    DeviceFlushes(ChildIndex),
    PowerLoss(ChildIndex),
    Start(usize),
    Open(usize),
    GiveUp(usize, ChildIndex),
    Offline(usize, ChildIndex),
    Back(usize, ChildIndex),
    Submit(usize, RegionIndex),
    Acknowledge(usize),
    Read(usize, ChildIndex, RegionIndex),
    Clear(usize, RegionIndex),
    Copy(usize, ChildIndex, RegionIndex),
    Rebuild(usize, ChildIndex),
    CopyToTarget(usize, RegionIndex),
    LoseTarget(usize),
    Admit(usize),
    Close(usize),
    Withdraw(usize),
    TakeBack(usize, ChildIndex),
    RecordEmptied,
    RecordBack(usize),
}

impl Event {
    /// Its kind, below [`Event::KINDS`], and how likely that is beside the others.
    pub fn kind(&self) -> (usize, usize) {
        match self {
            Event::DataArrives(_) => (0, 8),
            Event::RequestArrives { is_answered: true, .. } => (1, 30),
            Event::RequestArrives { is_answered: false, .. } => (2, 1),
            Event::RequestLost(_) => (3, 1),
            Event::Send(..) => (4, 30),
            Event::SendData(..) => (5, 20),
            Event::Flush(..) => (6, 4),
            Event::DeviceFlushes(_) => (7, 2),
            Event::PowerLoss(_) => (8, 2),
            Event::Start(_) => (9, 1),
            Event::Open(_) => (10, 6),
            Event::GiveUp(..) => (11, 2),
            Event::Offline(..) => (12, 1),
            Event::Back(..) => (13, 2),
            Event::Submit(..) => (14, 6),
            Event::Acknowledge(_) => (15, 20),
            Event::Read(..) => (16, 4),
            Event::Clear(..) => (17, 6),
            Event::Copy(..) => (18, 6),
            Event::Rebuild(..) => (19, 6),
            Event::CopyToTarget(..) => (20, 6),
            Event::LoseTarget(_) => (21, 1),
            Event::Admit(_) => (22, 6),
            Event::Close(_) => (23, 2),
            Event::Withdraw(_) => (24, 40),
            Event::TakeBack(..) => (25, 6),
            Event::RecordEmptied => (26, 1),
            Event::RecordBack(_) => (27, 2),
        }
    }

    /// Kinds of events.
    pub const KINDS: usize = 28;
}

impl World {
    /// All that can happen.
    pub fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = (0..self.data.len()).map(Event::DataArrives).collect();
        for index in 0..self.sent.len() {
            events.extend([
                Event::RequestArrives { index, is_answered: true },
                Event::RequestArrives { index, is_answered: false },
                Event::RequestLost(index),
            ]);
        }
        for index in 0..self.replicas.len() {
            let replica = &self.replicas[index];
            if replica.value != replica.durable {
                events.push(Event::DeviceFlushes(child(index)));
            }
            if self.losses_left > 0 {
                events.push(Event::PowerLoss(child(index)));
            }
        }
        if self.record_losses_left > 0 {
            events.push(Event::RecordEmptied);
        }
        for index in 0..self.nexuses.len() {
            self.owner_events(index, &mut events);
        }
        events
    }

    fn owner_events(&self, index: usize, events: &mut Vec<Event>) {
        let nexus = &self.nexuses[index];
        let owner = &nexus.owner;
        if !nexus.is_started {
            if index == 0 || self.nexuses[index - 1].is_started {
                events.push(Event::Start(index));
            }
            return;
        }
        if owner.is_overtaken() || owner.is_closed() || owner.progress() == Progress::Resigned {
            return;
        }
        events.extend((0..owner.requests().len()).map(|request| Event::Send(index, request)));
        match owner.progress() {
            Progress::Claiming => events.push(Event::Open(index)),
            Progress::InForce { members, .. } => {
                self.serving_events(index, events);
                let many = members.len() > 1;
                events.extend(members.iter().filter(|_| many).flat_map(|member| {
                    [Event::GiveUp(index, member), Event::Offline(index, member)]
                }));
            }
            _ => {
                events.extend(owner.members().iter().map(|child| Event::GiveUp(index, child)));
                events.push(Event::Withdraw(index));
            }
        }
        for place in owner.roster().all() {
            events.push(Event::Back(index, place));
            events.push(Event::TakeBack(index, place));
            if self.is_open(index, place) {
                events.push(Event::Flush(index, place));
            }
            for region in self.regions() {
                events.push(Event::Read(index, place, region));
            }
            events.push(Event::SendData(index, place));
        }
        if owner.is_record_lost() {
            events.push(Event::RecordBack(index));
        }
        events.push(Event::Acknowledge(index));
        events.retain(|event| !self.is_idle_event(event));
    }

    fn serving_events(&self, index: usize, events: &mut Vec<Event>) {
        let owner = &self.nexuses[index].owner;
        for region in self.regions() {
            events.push(Event::Submit(index, region));
            events.push(Event::Clear(index, region));
            events.push(Event::CopyToTarget(index, region));
            events.extend(owner.copies(region).iter().map(|to| Event::Copy(index, to, region)));
        }
        if self.config.rebuilds {
            let absent = owner.roster().all().minus(owner.members());
            events.extend(absent.iter().map(|child| Event::Rebuild(index, child)));
        }
        events.extend([Event::LoseTarget(index), Event::Admit(index), Event::Close(index)]);
    }

    /// Events that cannot happen now, or would change nothing.
    fn is_idle_event(&self, event: &Event) -> bool {
        match *event {
            Event::Acknowledge(index) => !self.may_acknowledge(index),
            Event::SendData(index, place) => !self.may_send(index, place),
            Event::Read(index, place, region) => !self.may_read(index, place, region),
            Event::Clear(index, region) => !self.may_clear(index, region),
            Event::CopyToTarget(index, region) => !self.may_copy_to_target(index, region),
            Event::Submit(index, region) => {
                let nexus = &self.nexuses[index];
                nexus.write.is_some()
                    || self.next_write >= self.config.writes + 2
                    || !nexus.owner.is_equal(region)
            }
            Event::Rebuild(index, _) | Event::Close(index) if self.is_busy(index) => true,
            Event::Rebuild(index, _) => self.nexuses[index].owner.target().is_some(),
            Event::Close(index) => {
                self.closes_left == 0 || self.nexuses[index].owner.marked_regions() > 0
            }
            Event::LoseTarget(index) => self.nexuses[index].owner.target().is_none(),
            Event::Admit(index) => !self.may_admit(index),
            Event::Withdraw(index) => {
                !planted::is(Bug::EpochWithdrawn) || self.nexuses[index].owner.joining().is_empty()
            }
            Event::TakeBack(index, place) => {
                !planted::is(Bug::SilentRejoin)
                    || self.nexuses[index].linked.contains(place)
                    || !self.nexuses[index].owner.members().contains(place)
                    || self.replicas[place.get()].label.voter.promised.generation
                        != self.nexuses[index].owner.generation()
            }
            Event::Back(index, place) => !self.nexuses[index].owner.is_lost(place),
            _ => false,
        }
    }

    pub fn regions(&self) -> impl Iterator<Item = RegionIndex> + use<> {
        (0..self.config.regions).map(RegionIndex)
    }

    fn is_busy(&self, index: usize) -> bool {
        self.nexuses[index].write.is_some()
    }

    /// The owner's session at a replica lives, and nobody newer was promised.
    pub fn is_open(&self, index: usize, place: ChildIndex) -> bool {
        let nexus = &self.nexuses[index];
        let promised = self.replicas[place.get()].label.voter.promised.generation;
        nexus.linked.contains(place)
            && nexus.owner.claimed().replicas.contains(place)
            && promised == nexus.owner.generation()
    }

    fn may_acknowledge(&self, index: usize) -> bool {
        let nexus = &self.nexuses[index];
        let Some(write) = nexus.write else { return false };
        let early = planted::is(Bug::AckBeforeEpoch) && nexus.has_served;
        let target = nexus.owner.target().map(|target| target.child);
        let target = target.filter(|target| write.wanted.union(write.to).contains(*target));
        let need = target.iter().fold(nexus.owner.members(), |need, target| need.with(*target));
        (early || !nexus.owner.is_changing()) && write.acked.contains_all(need)
    }

    fn may_send(&self, index: usize, place: ChildIndex) -> bool {
        let nexus = &self.nexuses[index];
        let Some(write) = nexus.write else { return false };
        nexus.owner.written_by_hosts().contains(place)
            && !write.to.contains(place)
            && nexus.linked.contains(place)
            && nexus.owner.claimed().replicas.contains(place)
            && nexus.owner.is_marked(place, write.region)
    }

    fn may_read(&self, index: usize, place: ChildIndex, region: RegionIndex) -> bool {
        let nexus = &self.nexuses[index];
        let unchecked = planted::is(Bug::NoReadGeneration) || planted::is(Bug::NoGenerationCheck);
        let in_flight = nexus.write.is_some_and(|write| write.region == region);
        nexus.has_served
            && nexus.may_read
            && nexus.owner.readable().contains(place)
            && (self.is_open(index, place) || unchecked && nexus.linked.contains(place))
            && (!in_flight || planted::is(Bug::ReadInFlight))
            && nexus.owner.is_equal(region)
    }

    fn may_clear(&self, index: usize, region: RegionIndex) -> bool {
        let nexus = &self.nexuses[index];
        let owner = &nexus.owner;
        let target = owner.target().map(|target| target.child);
        let group = target.iter().fold(owner.members(), |group, target| group.with(*target));
        let has_mark = !owner.is_wanted(region) || owner.target().is_some();
        has_mark
            && nexus.activity.is_clearable(region, group)
            && group
                .iter()
                .all(|place| self.is_open(index, place) || planted::is(Bug::ClearUnflushed))
    }

    fn may_copy_to_target(&self, index: usize, region: RegionIndex) -> bool {
        let owner = &self.nexuses[index].owner;
        let (Some(target), Some(source)) = (owner.target(), owner.source()) else { return false };
        let busy = self.nexuses[index].write.is_some_and(|write| write.region == region);
        target.is_ready
            && target.todo.contains(region)
            && !busy
            && self.is_open(index, target.child)
            && self.is_open(index, source)
    }

    fn may_admit(&self, index: usize) -> bool {
        let owner = &self.nexuses[index].owner;
        let Some(target) = owner.target() else { return false };
        let replica = &self.replicas[target.child.get()];
        target.is_ready
            && target.todo.is_empty()
            && !self.is_busy(index)
            && self.is_open(index, target.child)
            && replica.value == replica.durable
    }
}
