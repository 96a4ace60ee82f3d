//! What children hold before anybody writes to them: a volume, the beginning of one, or nothing.
//!
//! Driven by whoever opens a volume, on one core, before a nexus is made of the children. Only
//! reads. [`Survey::poll`] ends with a [`Finding`]: children are formatted where all are blank, and
//! opened where all are replicas of one volume. A blank one among replicas is refused: it may be
//! the wrong device, and an operator who means it adds it as a child. One that cannot be read
//! among replicas is what an absent one is: the volume is opened without it, or waits for it.

use reactor::{Cx, Wake};
use uuid::Uuid;

use super::desk::{Desk, Fence, News};
use crate::child::ChildIndex;
use crate::config::{self, ChildConfig};
use crate::home::Ports;
use crate::truth::label::Label;
use crate::truth::label::store::LabelError;
use crate::truth::names::{NexusId, Policy, RecordId};

/// What all children are, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// None holds anything, or they are what is left of a creation of this volume. All have
    /// answered.
    Blank(Option<NexusId>),
    /// Replicas of this volume, those that did not answer aside.
    Volume {
        /// Which.
        nexus: NexusId,
        /// Its length, as the newest label has it.
        blocks: u64,
        /// Who decides about its members.
        policy: Policy,
        /// The record that votes, as the newest label has it.
        record: Option<RecordId>,
    },
}

/// Why children are neither formatted nor opened. None was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// One is a replica, another is blank.
    #[error(
        "{blank} is blank and {replica} is a replica of volume {}: open the volume without it, and \
         add it then",
        nexus.0
    )]
    Mixed {
        /// Which has no label.
        blank: String,
        /// Which has one.
        replica: String,
        /// Whose.
        nexus: NexusId,
    },
    /// Replicas of two volumes.
    #[error("{name} is a replica of volume {}, {other_name} of volume {}", nexus.0, other.0)]
    TwoVolumes {
        /// Which.
        name: String,
        /// Whose.
        nexus: NexusId,
        /// Another.
        other_name: String,
        /// Whose that is.
        other: NexusId,
    },
    /// Those that hold something else, have a label that cannot be read, or did not answer, where
    /// no other holds a volume.
    #[error("{}", in_words(others))]
    NotBlank {
        /// Which, in order, and what was found; nothing for no answer.
        others: Vec<(String, Option<LabelError>)>,
    },
}

/// What one child was found to be.
#[derive(Clone, Debug)]
enum Sight {
    Blank,
    /// A creation of this volume had begun with it.
    Begun(NexusId),
    Replica(Box<Label>),
    Other(LabelError),
    Silent,
}

/// See the module.
#[derive(Debug)]
pub struct Survey {
    ports: Ports,
    desks: Vec<(Desk, Option<Sight>)>,
    has_begun: bool,
}

impl Survey {
    /// Nothing is read yet. At most [`crate::child::CHILDREN_MAX`] children are looked at.
    pub fn new(children: &[ChildConfig]) -> Survey {
        let mut ports = Ports::new();
        let mut desks = Vec::new();
        for (place, child) in ChildIndex::all().zip(children) {
            ports.place(place, Some(config::prepare(child).device));
            let (boot, fence) = (Uuid::nil(), Fence::Exclusive);
            desks.push((Desk::new(place, &child.name, &*child.device, boot, fence), None));
        }
        Survey { ports, desks, has_begun: false }
    }

    /// Goes on; says what was found when all have answered or failed.
    pub fn poll(&mut self, cx: &mut Cx) -> Option<Result<Finding, SurveyError>> {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.desks.iter_mut().for_each(|(desk, _)| desk.learn(cx.now()));
        }
        let desks = &mut self.desks;
        self.ports.poll(cx, |cx, child, completion| {
            desks[child.get()].0.completed(cx, &completion);
        });
        for (desk, sight) in &mut self.desks {
            while let Some(news) = desk.poll(cx, &mut self.ports) {
                *sight = Some(Sight::of(news));
            }
        }
        let is_done = |(desk, sight): &(Desk, Option<Sight>)| sight.is_some() && desk.is_free();
        self.desks.iter().all(is_done).then(|| self.conclude())
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

    /// Stops; [`Survey::poll`] is to be called until [`Survey::is_still`].
    pub fn give_up(&mut self, cx: &mut Cx) {
        self.desks.iter_mut().for_each(|(desk, _)| desk.give_up(cx, &mut self.ports));
    }

    /// True when nothing of it is in flight, so that it may be dropped.
    pub fn is_still(&self) -> bool {
        self.desks.iter().all(|(desk, _)| !desk.is_busy())
    }

    fn conclude(&self) -> Result<Finding, SurveyError> {
        let volume = self.only_volume(|sight| match sight {
            Sight::Replica(label) => Some(label.nexus),
            _ => None,
        })?;
        let begun = self.only_volume(|sight| match sight {
            Sight::Begun(nexus) => Some(*nexus),
            _ => None,
        })?;
        let Some(Volume { nexus, name: replica }) = volume else {
            self.check_all_blank()?;
            return Ok(Finding::Blank(begun.map(|begun| begun.nexus)));
        };
        // A creation that was cut short while it made members: nobody has written anything, and
        // those that came too late are no members.
        if let Some(begun) = begun.filter(|begun| begun.nexus != nexus) {
            return Err(two_volumes(&begun, nexus, &replica));
        }
        let is_blank = |(_, sight): &&(Desk, Option<Sight>)| matches!(sight, Some(Sight::Blank));
        match self.desks.iter().find(is_blank) {
            Some((desk, _)) => {
                let blank = desk.name.clone();
                Err(SurveyError::Mixed { blank, replica, nexus })
            }
            None => Ok(self.describe(nexus)),
        }
    }

    /// The volume, as the newest label has it.
    fn describe(&self, nexus: NexusId) -> Finding {
        let labels = self.desks.iter().filter_map(|(_, sight)| match sight {
            Some(Sight::Replica(label)) => Some(label),
            _ => None,
        });
        let newest = labels.max_by_key(|label| label.voter.ballot).expect("one was seen");
        let (blocks, policy) = (newest.shape.blocks(), newest.voter.policy);
        let record = newest.voter.current.record.map(|record| record.id);
        Finding::Volume { nexus, blocks, policy, record }
    }

    /// The volume that is seen at all where one is seen.
    fn only_volume(
        &self,
        see: impl Fn(&Sight) -> Option<NexusId>,
    ) -> Result<Option<Volume>, SurveyError> {
        let mut first: Option<Volume> = None;
        for (desk, sight) in &self.desks {
            let Some(nexus) = sight.as_ref().and_then(&see) else { continue };
            match &first {
                Some(first) if first.nexus != nexus => {
                    return Err(two_volumes(first, nexus, &desk.name));
                }
                Some(_) => {}
                None => first = Some(Volume { nexus, name: desk.name.clone() }),
            }
        }
        Ok(first)
    }

    fn check_all_blank(&self) -> Result<(), SurveyError> {
        let other = |(desk, sight): &(Desk, Option<Sight>)| {
            let name = desk.name.clone();
            match sight.as_ref().expect("all have been looked at") {
                Sight::Other(error) => Some((name, Some(error.clone()))),
                Sight::Silent => Some((name, None)),
                Sight::Blank | Sight::Begun(..) | Sight::Replica(..) => None,
            }
        };
        let others: Vec<_> = self.desks.iter().filter_map(other).collect();
        if others.is_empty() { Ok(()) } else { Err(SurveyError::NotBlank { others }) }
    }
}

fn in_words(others: &[(String, Option<LabelError>)]) -> String {
    let words = |(name, found): &(String, Option<LabelError>)| match found {
        Some(error) => format!("{name} is no replica and not blank: {error}"),
        None => format!("{name} does not tell what it holds"),
    };
    others.iter().map(words).collect::<Vec<_>>().join("; ")
}

/// A volume and a child that is of it.
#[derive(Debug)]
struct Volume {
    nexus: NexusId,
    name: String,
}

fn two_volumes(one: &Volume, other: NexusId, other_name: &str) -> SurveyError {
    let (name, other_name) = (one.name.clone(), other_name.to_owned());
    SurveyError::TwoVolumes { name, nexus: one.nexus, other_name, other }
}

impl Sight {
    fn of(news: News) -> Sight {
        match news {
            News::Learned(Err(LabelError::Absent)) => Sight::Blank,
            News::Learned(Err(error)) => Sight::Other(error),
            News::Learned(Ok(label)) => match label.is_begun_only() {
                true => Sight::Begun(label.nexus),
                false => Sight::Replica(label),
            },
            _ => Sight::Silent,
        }
    }
}
