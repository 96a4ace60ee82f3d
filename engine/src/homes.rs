//! The homes of the nexuses that live on a core.
//!
//! Owned by the core's service, which polls them in every pass. Control threads put one there, ask
//! it, and take it away by closures ([`HomeWork`]), each of which finds its nexus by number: one
//! that is gone is not found, whatever came since.

use std::fmt;

use nexus::Home;
use nexus::truth::names::VoterHalf;
use nexus::truth::tracked::{Finding, Format, FormatError, Survey, SurveyError};
use reactor::{Cx, Wake};

/// Number of a nexus; none is given twice in the life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NexusId(pub u64);

/// Runs on a core, with the homes there.
type Work = dyn FnOnce(&mut Homes, &mut Cx) + Send;

/// What a control thread has done on the home core of a nexus.
pub(crate) struct HomeWork(pub Box<Work>);

impl fmt::Debug for HomeWork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HomeWork")
    }
}

/// What is done with children before they have a home.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Looks what they hold.
    Survey(Box<Survey>),
    /// Gives them their first labels.
    Format(Box<Format>),
}

/// What came of a chore.
#[derive(Clone, Debug)]
pub(crate) enum ChoreEnd {
    Surveyed(Result<Finding, SurveyError>),
    /// With what the record of the volume is to say.
    Formatted(Result<Box<VoterHalf>, FormatError>),
}

impl Chore {
    fn poll(&mut self, cx: &mut Cx) -> Option<ChoreEnd> {
        match self {
            Chore::Survey(survey) => survey.poll(cx).map(ChoreEnd::Surveyed),
            Chore::Format(format) => {
                let end = format.poll(cx)?;
                let first = || format.voter_half().cloned().unwrap_or_default();
                Some(ChoreEnd::Formatted(end.map(|()| Box::new(first()))))
            }
        }
    }

    fn give_up(&mut self, cx: &mut Cx) {
        match self {
            Chore::Survey(survey) => survey.give_up(cx),
            Chore::Format(format) => format.give_up(cx),
        }
    }

    fn is_still(&self) -> bool {
        match self {
            Chore::Survey(survey) => survey.is_still(),
            Chore::Format(format) => format.is_still(),
        }
    }

    fn wake(&self) -> Wake {
        match self {
            Chore::Survey(survey) => survey.wake(),
            Chore::Format(format) => format.wake(),
        }
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        match self {
            Chore::Survey(survey) => survey.arm(cx),
            Chore::Format(format) => format.arm(cx),
        }
    }
}

/// A chore of a nexus, until nothing of it is in flight and its end was heard.
#[derive(Debug)]
struct Errand {
    id: NexusId,
    chore: Chore,
    /// What came of it, once it is over.
    end: Option<ChoreEnd>,
    /// Nobody waits for its end any more.
    is_forgotten: bool,
}

impl Errand {
    fn poll(&mut self, cx: &mut Cx) {
        let end = self.chore.poll(cx);
        if self.end.is_none() && end.is_some() {
            // It may have ended at the first child that failed, with others in flight.
            self.chore.give_up(cx);
            self.end = end;
        }
    }

    fn is_under_way(&self) -> bool {
        self.end.is_none() || !self.chore.is_still()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Homes {
    hosted: Vec<(NexusId, Home)>,
    errands: Vec<Errand>,
    /// Homes that are gone but for labels in flight.
    leaving: Vec<Home>,
}

impl Homes {
    /// Polls a home here from now on. Its children come back by themselves.
    pub fn host(&mut self, id: NexusId, home: Home) {
        assert!(self.get(id).is_none(), "a nexus has one home");
        self.hosted.push((id, home.with_comebacks(nexus::home::Comebacks::ByThemselves)));
    }

    /// The home of a nexus, unless it is gone.
    pub fn get(&mut self, id: NexusId) -> Option<&mut Home> {
        self.hosted.iter_mut().find(|(hosted, _)| *hosted == id).map(|(_, home)| home)
    }

    /// Lets go of a home. No core has the nexus open.
    pub fn close(&mut self, cx: &mut Cx, id: NexusId) {
        let place = self.hosted.iter().position(|(hosted, _)| *hosted == id);
        if let Some((_, mut home)) = place.map(|place| self.hosted.remove(place))
            && !home.let_go(cx)
        {
            self.leaving.push(home);
        }
    }

    /// Ends all nexuses: what waits fails with a path error, what is in flight ends.
    pub fn end(&mut self) {
        self.hosted.iter_mut().for_each(|(_, home)| home.end());
    }

    /// Begins a chore for a nexus, unless that was done.
    pub fn begin_chore(
        &mut self,
        id: NexusId,
        make: impl Fn() -> Result<Chore, FormatError>,
    ) -> Result<(), FormatError> {
        if !self.errands.iter().any(|errand| errand.id == id && !errand.is_forgotten) {
            self.errands.push(Errand { id, chore: make()?, end: None, is_forgotten: false });
        }
        Ok(())
    }

    /// What came of the chore of a nexus; nothing while anything of it is under way.
    pub fn chore_end(&self, id: NexusId) -> Option<ChoreEnd> {
        let is_over =
            |errand: &&Errand| errand.id == id && !errand.is_forgotten && !errand.is_under_way();
        self.errands.iter().find(is_over)?.end.clone()
    }

    /// Forgets the chore of a nexus; what is in flight ends first.
    pub fn end_chore(&mut self, cx: &mut Cx, id: NexusId) {
        for errand in self.errands.iter_mut().filter(|errand| errand.id == id) {
            errand.chore.give_up(cx);
            errand.is_forgotten = true;
        }
        self.errands.retain(|errand| !errand.is_forgotten || !errand.chore.is_still());
    }

    fn poll_errands(&mut self, cx: &mut Cx) {
        if self.errands.is_empty() {
            return;
        }
        for errand in self.errands.iter_mut().filter(|errand| errand.is_under_way()) {
            errand.poll(cx);
        }
        self.errands.retain(|errand| !errand.is_forgotten || !errand.chore.is_still());
    }

    /// Does what there is to do; returns how much that was.
    pub fn poll(&mut self, cx: &mut Cx) -> usize {
        self.poll_errands(cx);
        self.leaving.retain_mut(|home| !home.let_go(cx));
        self.hosted.iter_mut().map(|(_, home)| home.poll(cx)).sum()
    }

    /// When the core is needed next for one of them.
    pub fn wake(&self) -> Wake {
        let homes = self.hosted.iter().map(|(_, home)| home.wake());
        let busy = self.errands.iter().filter(|errand| errand.is_under_way());
        let leaving = self.leaving.iter().map(Home::let_go_wake);
        homes
            .chain(leaving)
            .chain(busy.map(|errand| errand.chore.wake()))
            .fold(Wake::Never, Wake::soonest)
    }

    /// Makes descriptors fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        let mut busy = self.errands.iter_mut().filter(|errand| errand.is_under_way());
        self.hosted.iter_mut().all(|(_, home)| home.arm(cx))
            && self.leaving.iter_mut().all(|home| home.arm_let_go(cx))
            && busy.all(|errand| errand.chore.arm(cx))
    }
}
