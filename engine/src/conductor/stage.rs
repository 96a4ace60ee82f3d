//! The cores as the conductor sees them: what can be asked of each, and that it may take its time.
//!
//! [`CoreSet`] is the real one. Every call blocks the calling control thread, for as long as it
//! says at most.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nvmf::target::{ApplyError, PortalId, TargetDescription};
use reactor::ReactorHandle;
use reactor::cores::CoreId;
use reactor::counters::{CoreCounters, SharedCounters};
use reactor::inbox::CallError;
use vhost_blk::session::cores::CoreWork;

use crate::core::EngineCore;
use crate::homes::HomeWork;

/// The cores of a target. Places count from 0; the first listens.
pub(crate) trait Stage: Debug + Send + Sync {
    /// Which cores, by place.
    fn cores(&self) -> Vec<CoreId>;

    /// What a core has last published of its counters; asks nobody.
    fn counters(&self, place: usize) -> CoreCounters;

    /// Has a core serve a description. The inner error is a namespace that it could not open.
    fn apply(
        &self,
        place: usize,
        within: Duration,
        description: Arc<TargetDescription>,
    ) -> Result<Result<(), ApplyError>, CallError>;

    /// Whether nothing that was removed or replaced is in use on a core any more, and what of it
    /// has gone wrong since it was last asked.
    fn settlement(&self, place: usize, within: Duration) -> Result<Settlement, CallError>;

    /// Has the first core listen.
    fn listen(
        &self,
        within: Duration,
        portal: PortalId,
        socket: OwnedFd,
    ) -> Result<io::Result<()>, CallError>;

    /// Has the first core listen there no more.
    fn stop_listening(&self, within: Duration, portal: PortalId) -> Result<(), CallError>;

    /// Works on the nexuses that have their home on a core.
    fn at_home(&self, place: usize, within: Duration, work: HomeWork) -> Result<(), CallError>;

    /// Works on the rings of virtual machines on a core.
    fn at_rings(&self, place: usize, within: Duration, work: CoreWork) -> Result<(), CallError>;
}

/// How far a core is with what was removed or replaced.
#[derive(Debug, Default)]
pub(crate) struct Settlement {
    /// Nothing of it is in use any more.
    pub is_settled: bool,
    /// A namespace whose changed device could not be opened.
    pub failure: Option<ApplyError>,
}

/// Running cores.
#[derive(Debug)]
pub(crate) struct CoreSet {
    /// Taken for writing only to join them.
    handles: RwLock<Vec<ReactorHandle<EngineCore>>>,
    cores: Vec<CoreId>,
    counters: Vec<SharedCounters>,
}

impl CoreSet {
    /// Cores that were just started.
    pub fn new(handles: Vec<ReactorHandle<EngineCore>>) -> CoreSet {
        let cores = handles.iter().map(ReactorHandle::core).collect();
        let counters = handles.iter().map(ReactorHandle::shared_counters).collect();
        CoreSet { handles: RwLock::new(handles), cores, counters }
    }

    /// Readers of the counters of each core.
    pub fn shared_counters(&self) -> Vec<SharedCounters> {
        self.counters.clone()
    }

    /// Looks at the handles; empty once they were taken.
    pub fn with_handles<R>(&self, look: impl FnOnce(&[ReactorHandle<EngineCore>]) -> R) -> R {
        look(&self.handles.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the handles, unless a call is still under way.
    pub fn take_handles(&self) -> Option<Vec<ReactorHandle<EngineCore>>> {
        match self.handles.try_write() {
            Ok(mut handles) => Some(std::mem::take(&mut handles)),
            Err(_) => None,
        }
    }

    /// Runs a closure on a core and returns its result.
    pub fn call<R: Send + 'static>(
        &self,
        place: usize,
        within: Duration,
        closure: impl FnOnce(&mut reactor::reactor::Core<EngineCore>) -> R + Send + 'static,
    ) -> Result<R, CallError> {
        self.with_handles(|handles| {
            handles.get(place).ok_or(CallError::Gone)?.call(within, closure)
        })
    }
}

impl Stage for CoreSet {
    fn cores(&self) -> Vec<CoreId> {
        self.cores.clone()
    }

    fn counters(&self, place: usize) -> CoreCounters {
        self.counters.get(place).map(SharedCounters::read).unwrap_or_default()
    }

    fn apply(
        &self,
        place: usize,
        within: Duration,
        description: Arc<TargetDescription>,
    ) -> Result<Result<(), ApplyError>, CallError> {
        self.call(place, within, move |core| core.service.target.apply(&mut core.cx, description))
    }

    fn settlement(&self, place: usize, within: Duration) -> Result<Settlement, CallError> {
        self.call(place, within, |core| {
            let target = &mut core.service.target;
            let failure = target.take_failure();
            Settlement { is_settled: target.is_settled(), failure }
        })
    }

    fn listen(
        &self,
        within: Duration,
        portal: PortalId,
        socket: OwnedFd,
    ) -> Result<io::Result<()>, CallError> {
        self.call(0, within, move |core| core.service.target.listen(&mut core.cx, portal, socket))
    }

    fn stop_listening(&self, within: Duration, portal: PortalId) -> Result<(), CallError> {
        self.call(0, within, move |core| core.service.target.stop_listening(portal))
    }

    fn at_home(&self, place: usize, within: Duration, work: HomeWork) -> Result<(), CallError> {
        self.call(place, within, move |core| (work.0)(&mut core.service.homes, &mut core.cx))
    }

    fn at_rings(&self, place: usize, within: Duration, work: CoreWork) -> Result<(), CallError> {
        self.call(place, within, move |core| (work.0)(&mut core.service.rings, &mut core.cx))
    }
}
