//! The homes of the nexuses that live on a core.
//!
//! Owned by the core's service, which polls them in every pass. Control threads put one there, ask
//! it, and take it away by closures ([`HomeWork`]), each of which finds its nexus by number: one
//! that is gone is not found, whatever came since.

use std::fmt;

use nexus::Home;
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

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Homes {
    hosted: Vec<(NexusId, Home)>,
}

impl Homes {
    /// Polls a home here from now on.
    pub fn host(&mut self, id: NexusId, home: Home) {
        assert!(self.get(id).is_none(), "a nexus has one home");
        self.hosted.push((id, home));
    }

    /// The home of a nexus, unless it is gone.
    pub fn get(&mut self, id: NexusId) -> Option<&mut Home> {
        self.hosted.iter_mut().find(|(hosted, _)| *hosted == id).map(|(_, home)| home)
    }

    /// Lets go of a home. No core has the nexus open.
    pub fn close(&mut self, id: NexusId) {
        self.hosted.retain(|(hosted, _)| *hosted != id);
    }

    /// Does what there is to do; returns how much that was.
    pub fn poll(&mut self, cx: &mut Cx) -> usize {
        self.hosted.iter_mut().map(|(_, home)| home.poll(cx)).sum()
    }

    /// When the core is needed next for one of them.
    pub fn wake(&self) -> Wake {
        self.hosted.iter().fold(Wake::Never, |wake, (_, home)| wake.soonest(home.wake()))
    }

    /// Makes descriptors fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        self.hosted.iter_mut().all(|(_, home)| home.arm(cx))
    }
}
