//! Cores of cardboard: they hold what they serve, as long as they are told that I/O is at it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bdev::BlockDevice;
use nvmf::target::{ApplyError, PortalId, SubsystemId, TargetDescription};
use reactor::cores::CoreId;
use reactor::counters::CoreCounters;
use reactor::inbox::CallError;
use vhost_blk::session::cores::CoreWork;

use crate::conductor::stage::{Settlement, Stage};
use crate::homes::{HomeWork, Homes};

/// Work for the thread of the homes, and whom to tell of its end.
type Errand = (HomeWork, Sender<()>);

/// How often homes are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A namespace that a core has open.
type Root = (SubsystemId, u32);

#[derive(Debug, Default)]
pub struct FakeCore {
    description: Option<Arc<TargetDescription>>,
    open: BTreeMap<Root, Arc<dyn BlockDevice>>,
    /// Removed or replaced, with I/O that does not come back.
    retired: Vec<Arc<dyn BlockDevice>>,
}

/// See the module.
#[derive(Debug)]
pub struct FakeStage {
    cores: Vec<Mutex<FakeCore>>,
    /// Names of devices that keep their I/O.
    stuck: Mutex<BTreeSet<String>>,
    /// Places of cores that come to nothing.
    saturated: Mutex<BTreeSet<usize>>,
    listening: Mutex<BTreeMap<PortalId, OwnedFd>>,
    pub applied: AtomicUsize,
    /// To the thread that has the homes of all cores, once there are any.
    homes: OnceLock<Mutex<Sender<Errand>>>,
}

impl FakeStage {
    pub fn new(cores: usize) -> Arc<FakeStage> {
        Arc::new(FakeStage {
            cores: (0..cores).map(|_| Mutex::default()).collect(),
            stuck: Mutex::default(),
            saturated: Mutex::default(),
            listening: Mutex::default(),
            applied: AtomicUsize::new(0),
            homes: OnceLock::new(),
        })
    }

    pub fn set_stuck(&self, devices: &[&str]) {
        *self.stuck.lock().unwrap() = devices.iter().map(|name| String::from(*name)).collect();
        for core in &self.cores {
            self.let_go(&mut core.lock().unwrap());
        }
    }

    pub fn set_saturated(&self, places: &[usize]) {
        *self.saturated.lock().unwrap() = places.iter().copied().collect();
    }

    pub fn listening(&self) -> Vec<u16> {
        self.listening.lock().unwrap().keys().map(|id| id.0).collect()
    }

    /// Name and NSID of each namespace that a core serves.
    pub fn served(&self, place: usize) -> Vec<(String, u32)> {
        let core = self.cores[place].lock().unwrap();
        let Some(description) = &core.description else { return Vec::new() };
        let all = description.subsystems.values();
        let each = all.flat_map(|one| {
            one.namespaces().iter().map(|namespace| (one.nqn().to_string(), namespace.id.0))
        });
        each.collect()
    }

    fn let_go(&self, core: &mut FakeCore) {
        let stuck = self.stuck.lock().unwrap();
        core.retired.retain(|device| stuck.contains(device.name()));
    }

    fn reach(&self, place: usize, within: Duration) -> Result<(), CallError> {
        let until = Instant::now() + within;
        while self.saturated.lock().unwrap().contains(&place) {
            if Instant::now() >= until {
                return Err(CallError::Deadline);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Polls homes until nobody can ask for them any more.
fn keep_homes() -> Sender<Errand> {
    let (sender, errands) = mpsc::channel::<Errand>();
    thread::spawn(move || {
        let (mut cx, hand) = reactor::cx::test_context();
        let mut homes = Homes::default();
        loop {
            match errands.recv_timeout(POLL_INTERVAL) {
                Ok((work, done)) => {
                    (work.0)(&mut homes, &mut cx);
                    // The one who asked may have left.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            hand.advance(reactor::Nanos::from(POLL_INTERVAL));
            cx.advance_clock();
            homes.poll(&mut cx);
        }
    });
    sender
}

impl Stage for FakeStage {
    fn cores(&self) -> Vec<CoreId> {
        (0..self.cores.len()).map(|core| CoreId(u32::try_from(core).unwrap())).collect()
    }

    fn counters(&self, _: usize) -> CoreCounters {
        CoreCounters::default()
    }

    fn apply(
        &self,
        place: usize,
        within: Duration,
        description: Arc<TargetDescription>,
    ) -> Result<Result<(), ApplyError>, CallError> {
        self.reach(place, within)?;
        let mut core = self.cores[place].lock().unwrap();
        let mut open = BTreeMap::new();
        for (id, subsystem) in &description.subsystems {
            for namespace in subsystem.namespaces() {
                open.insert((*id, namespace.id.0), Arc::clone(&namespace.device));
            }
        }
        let before = std::mem::replace(&mut core.open, open);
        for (root, device) in before {
            let now = core.open.get(&root);
            if now.is_none_or(|now| !std::ptr::addr_eq(Arc::as_ptr(now), Arc::as_ptr(&device))) {
                core.retired.push(device);
            }
        }
        self.let_go(&mut core);
        core.description = Some(description);
        self.applied.fetch_add(1, Ordering::Relaxed);
        Ok(Ok(()))
    }

    fn settlement(&self, place: usize, within: Duration) -> Result<Settlement, CallError> {
        self.reach(place, within)?;
        let mut core = self.cores[place].lock().unwrap();
        self.let_go(&mut core);
        Ok(Settlement { is_settled: core.retired.is_empty(), failure: None })
    }

    fn listen(
        &self,
        within: Duration,
        portal: PortalId,
        socket: OwnedFd,
    ) -> Result<io::Result<()>, CallError> {
        self.reach(0, within)?;
        self.listening.lock().unwrap().insert(portal, socket);
        Ok(Ok(()))
    }

    fn stop_listening(&self, within: Duration, portal: PortalId) -> Result<(), CallError> {
        self.reach(0, within)?;
        self.listening.lock().unwrap().remove(&portal);
        Ok(())
    }

    fn at_home(&self, place: usize, within: Duration, work: HomeWork) -> Result<(), CallError> {
        self.reach(place, within)?;
        let homes = self.homes.get_or_init(|| Mutex::new(keep_homes()));
        let (done, ended) = mpsc::channel();
        homes.lock().unwrap().send((work, done)).unwrap();
        ended.recv().map_err(|_| CallError::Gone)
    }

    fn at_rings(&self, _: usize, _: Duration, _: CoreWork) -> Result<(), CallError> {
        Err(CallError::Gone)
    }
}
