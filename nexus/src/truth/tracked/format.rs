//! Makes replicas of blank devices: the first label of each, in two steps, so that a crash in the
//! middle leaves nothing that looks like a volume (replica-truth section 6, "Create").
//!
//! Driven by whoever creates the volume, on one core, before a nexus is made of the children.
//! Nothing that holds anything else is touched.

use std::sync::Arc;

use reactor::{Cx, Wake};
use uuid::Uuid;

use super::desk::{Desk, Fence, News};
use super::opening::hint;
use super::random_uuid;
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};
use crate::config::{self, ChildConfig};
use crate::home::Ports;
use crate::truth::label::store::LabelError;
use crate::truth::label::{
    Configured, DataState, InSync, LABEL_BYTES, Label, Session, Shape, ShapeError,
};
use crate::truth::names::{
    Ballot, Epoch, Fork, ForkCause, Generation, Lineage, NexusId, Policy, Promise, RecordId,
    ReplicaId, VoterHalf,
};
use crate::truth::owner::{Answer, Flush};
use crate::truth::quorum::Roster;
use crate::truth::region_map::RegionMap;

/// What the children hold after their labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The same, byte for byte: new memory or new files, which read as zeroes.
    Equal,
    /// Nobody knows: when the volume is opened first, all of it is copied from one of them.
    Unknown,
}

/// What is to be created.
#[derive(Clone, Copy, Debug)]
pub struct FormatSpec {
    /// The volume.
    pub nexus: NexusId,
    /// Who decides about its members.
    pub policy: Policy,
    /// The record that votes, where the policy has one.
    pub record: Option<RecordId>,
    /// Length in blocks; nothing for what the smallest child has room for.
    pub blocks: Option<u64>,
    /// What is there already.
    pub contents: Contents,
    /// This host.
    pub host: Uuid,
    /// Its run, see [`super::TrackedConfig::boot`].
    pub boot: Uuid,
}

/// Why children are not formatted. None was changed, but by [`FormatError::Lost`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No child, or too many.
    #[error("a volume has 1 to {CHILDREN_MAX} children, not {count}")]
    Count {
        /// How many there are.
        count: usize,
    },
    /// A child has blocks of another length than the first.
    #[error("{name} has blocks of {block_bytes} bytes, the others have blocks of {needed}")]
    BlockBytes {
        /// Which.
        name: String,
        /// Its block size.
        block_bytes: u32,
        /// That of the first.
        needed: u32,
    },
    /// A child is shorter than the volume and its label.
    #[error("{name} has {blocks} blocks, label and volume need {needed}")]
    TooSmall {
        /// Which.
        name: String,
        /// Of the device.
        blocks: u64,
        /// Of label and volume.
        needed: u64,
    },
    /// No label fits the volume.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A child is a replica already.
    #[error("{name} is a replica of volume {}", nexus.0)]
    Taken {
        /// Which.
        name: String,
        /// Whose.
        nexus: NexusId,
    },
    /// A child holds something else, or a label that cannot be read.
    #[error("{name} is not blank")]
    NotBlank {
        /// Which.
        name: String,
        /// What was found.
        #[source]
        source: LabelError,
    },
    /// A child failed or did not answer; some may be formatted. To be tried again.
    #[error("{name} does not take its label")]
    Lost {
        /// Which.
        name: String,
    },
}

/// How far a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Looking,
    /// It is blank; waits for the others.
    Blank,
    /// It gets a label that says target.
    Claiming,
    Claimed,
    /// It becomes a member.
    Writing,
    Done,
}

/// See the module.
#[derive(Debug)]
pub struct Format {
    spec: FormatSpec,
    shape: Shape,
    has_begun: bool,
    /// Highest counter that an earlier attempt has left behind.
    heard: u64,
    ports: Ports,
    desks: Vec<(Desk, Stage)>,
    replicas: Vec<Option<ReplicaId>>,
    labels: Vec<Label>,
}

impl Format {
    /// Checks the children; nothing is read or written yet.
    pub fn new(spec: FormatSpec, children: &[ChildConfig]) -> Result<Format, FormatError> {
        let count = children.len();
        let first = children.first().filter(|_| count <= CHILDREN_MAX);
        let first = first.ok_or(FormatError::Count { count })?;
        let needed = first.device.geometry().block_bytes;
        let label_blocks = LABEL_BYTES / u64::from(needed);
        let rooms = children.iter().map(|child| child.device.geometry().blocks);
        let shortest = rooms.min().unwrap_or(0).saturating_sub(label_blocks);
        let blocks = spec.blocks.unwrap_or(shortest);
        let shape = Shape::new(blocks, needed)?;
        let mut ports = Ports::new();
        let mut desks = Vec::new();
        for (place, child) in ChildIndex::all().zip(children) {
            let name = child.name.clone();
            let geometry = child.device.geometry();
            let block_bytes = geometry.block_bytes;
            if block_bytes != needed {
                return Err(FormatError::BlockBytes { name, block_bytes, needed });
            }
            let needed = label_blocks + blocks;
            if geometry.blocks < needed {
                return Err(FormatError::TooSmall { name, blocks: geometry.blocks, needed });
            }
            ports.place(place, Some(config::prepare(child).device));
            let fence = Fence::Exclusive;
            let desk = Desk::new(place, &name, &*child.device, spec.boot, fence);
            desks.push((desk, Stage::Looking));
        }
        let replicas = vec![None; desks.len()];
        Ok(Format {
            spec,
            shape,
            has_begun: false,
            heard: 0,
            ports,
            desks,
            replicas,
            labels: Vec::new(),
        })
    }

    /// Length of the volume in blocks.
    pub fn blocks(&self) -> u64 {
        self.shape.blocks()
    }

    /// What the record is to say of a volume that has one, once the labels are written.
    pub fn voter_half(&self) -> Option<&VoterHalf> {
        self.labels.first().map(|label| &label.voter)
    }

    /// Goes on; says what came of it when it is over.
    pub fn poll(&mut self, cx: &mut Cx) -> Option<Result<(), FormatError>> {
        if !std::mem::replace(&mut self.has_begun, true) {
            for (desk, _) in &mut self.desks {
                desk.name_run(|| random_uuid(cx));
                desk.learn(cx.now());
            }
        }
        let desks = &mut self.desks;
        self.ports.poll(cx, |cx, child, completion| {
            desks[child.get()].0.completed(cx, &completion);
        });
        for place in 0..self.desks.len() {
            if let Err(error) = self.go_on(cx, place) {
                return Some(Err(error));
            }
        }
        self.step(cx);
        let is_done = |(desk, stage): &(Desk, Stage)| *stage == Stage::Done && desk.is_free();
        self.desks.iter().all(is_done).then_some(Ok(()))
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        if !self.has_begun {
            return Wake::Now;
        }
        let desks = self.desks.iter().map(|(desk, _)| desk.wake());
        desks.fold(self.ports.wake(), Wake::soonest)
    }

    /// Makes descriptors fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        self.ports.arm(cx)
    }

    /// Stops; [`Format::poll`] is to be called until [`Format::is_still`].
    pub fn give_up(&mut self, cx: &mut Cx) {
        self.desks.iter_mut().for_each(|(desk, _)| desk.give_up(cx, &mut self.ports));
    }

    /// True when nothing of it is in flight, so that it may be dropped.
    pub fn is_still(&self) -> bool {
        self.desks.iter().all(|(desk, _)| !desk.is_busy())
    }

    fn go_on(&mut self, cx: &mut Cx, place: usize) -> Result<(), FormatError> {
        let (desk, stage) = &mut self.desks[place];
        while let Some(news) = desk.poll(cx, &mut self.ports) {
            let name = desk.name.clone();
            match news {
                News::Learned(Err(LabelError::Absent)) => *stage = Stage::Blank,
                News::Learned(Err(source)) => return Err(FormatError::NotBlank { name, source }),
                News::Learned(Ok(label)) => {
                    // What an earlier attempt has left behind.
                    if label.nexus != self.spec.nexus || !label.is_begun_only() {
                        return Err(FormatError::Taken { name, nexus: label.nexus });
                    }
                    self.heard = self.heard.max(label.voter.promised.generation.counter);
                    self.replicas[place] = Some(label.replica);
                    *stage = Stage::Blank;
                }
                News::Answer(Answer::Seen(_)) => *stage = Stage::Claimed,
                News::Answer(Answer::Written) => *stage = Stage::Done,
                _ => return Err(FormatError::Lost { name }),
            }
        }
        Ok(())
    }

    /// The next step, when all have done the last one.
    fn step(&mut self, cx: &mut Cx) {
        let all = |stage: Stage| self.desks.iter().all(|(desk, at)| *at == stage && desk.is_free());
        if all(Stage::Blank) {
            // Above what was promised to an earlier attempt.
            let counter = self.heard.checked_add(1).expect("2^64 attempts there never are");
            let generation = Generation { counter, owner: random_uuid(cx) };
            let promise = Promise { generation, host: self.spec.host };
            self.labels = self.make_labels(cx, promise);
            for ((desk, stage), label) in self.desks.iter_mut().zip(&self.labels) {
                let Label { replica, nexus, shape, session, .. } = *label;
                desk.set_fresh(Label::blank(replica, nexus, shape, session));
                desk.claim(cx.now(), promise);
                *stage = Stage::Claiming;
            }
        } else if all(Stage::Claimed) {
            for ((desk, stage), label) in self.desks.iter_mut().zip(&self.labels) {
                desk.write(cx.now(), Flush::First, Arc::new(label.clone()));
                *stage = Stage::Writing;
            }
        }
    }

    fn make_labels(&self, cx: &mut Cx, promise: Promise) -> Vec<Label> {
        let replica = |known: &Option<ReplicaId>| known.unwrap_or(ReplicaId(Uuid::nil()));
        let mut configured: Vec<Configured> = Vec::new();
        for (known, (desk, _)) in self.replicas.iter().zip(&self.desks) {
            let id = match replica(known) {
                ReplicaId(id) if id.is_nil() => ReplicaId(random_uuid(cx)),
                known => known,
            };
            configured.push(Configured { replica: id, hint: hint(&desk.name) });
        }
        let roster = Roster::new(configured.clone(), self.spec.record);
        let all: ChildSet = roster.all();
        let electorate = roster.electorate(all, self.spec.policy);
        let epoch = Epoch(1);
        let mut half = VoterHalf {
            promised: promise,
            ballot: Ballot { epoch, generation: promise.generation },
            current: electorate.clone(),
            previous: electorate,
            policy: self.spec.policy,
            settled: true,
            ..VoterHalf::default()
        };
        let lineage = Lineage(random_uuid(cx));
        half.fork(Fork { lineage, epoch, cause: ForkCause::Created });
        let regions = self.shape.regions();
        let dirty = match self.spec.contents {
            Contents::Equal => RegionMap::new(regions),
            Contents::Unknown => RegionMap::full(regions),
        };
        let label = |(Configured { replica, .. }, session): (&Configured, Session)| {
            let mut label = Label::blank(*replica, self.spec.nexus, self.shape, session);
            label.voter = half.clone();
            label.configured = configured.as_slice().into();
            label.state = DataState::Member;
            label.in_sync = InSync { lineage, epoch };
            label.dirty = dirty.clone();
            label
        };
        let sessions = self.desks.iter().map(|(desk, _)| desk.session());
        configured.iter().zip(sessions).map(label).collect()
    }
}
