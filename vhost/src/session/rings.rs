//! The rings of a device as its session knows them: what the front end has said of each, and which
//! of them run on a core.
//!
//! On the session's control thread. A ring runs when the front end has said all that there is to
//! say, has handed over its kicks, and has it enabled (vhost-user, "Ring states"). Whatever changes
//! under a running ring stops it first, which waits for its requests, and starts it anew.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bdev::BlockDevice;
use reactor::inbox::CallError;

use super::cores::{self, Cores};
use crate::block::{CacheMode, Features, Rules};
use crate::core::setup::{DeviceKey, RingKey, RingSetup, StartError, Stopped};
use crate::core::signal::EventFd;
use crate::memory::{Mapping, MemoryMap};
use crate::virtqueue::{Inflight, Ring, RingAddresses, RingError};

/// How long a core may take to begin or to stop a ring, its requests aside.
const CORE_WITHIN: Duration = Duration::from_secs(10);

/// Requests that are under way when a ring stops are aborted after this long. As long as Linux
/// waits for a disk.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// The same once the device itself is to end.
const ENDING_WITHIN: Duration = Duration::from_secs(1);

/// How often they are aborted before they are left to their device.
const ABORTS_MAX: u32 = 1;

/// How often it is looked whether the device is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Why a ring could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RingsError {
    /// There is no such ring.
    #[error("there is no ring {index}")]
    Index {
        /// Its number.
        index: u32,
    },
    /// It runs, and this cannot be changed meanwhile.
    #[error("a ring that runs cannot be changed")]
    Running,
    /// What the front end said of it cannot be.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The core refused it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The core did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Its requests do not come back from the device.
    #[error("the requests of a ring do not come back from its device")]
    Stuck,
    /// What is under way has no place in the memory that was given for it.
    #[error("the memory for requests in flight does not hold those of the ring")]
    Inflight,
    /// A descriptor is none of the right kind, or the system has none left.
    #[error("a ring's descriptor is no eventfd, or cannot be doubled")]
    Descriptor(#[source] io::Error),
}

/// What there is of a device for all of its rings.
#[derive(Debug)]
pub(super) struct Served {
    pub key: DeviceKey,
    pub device: Arc<dyn BlockDevice>,
    pub cores: Arc<dyn Cores>,
    pub cache: Arc<CacheMode>,
    /// The core of the first queue; the others follow in turn.
    pub first_core: usize,
    /// Why a ring was given up, or a session ended, last.
    pub failure: Mutex<Option<String>>,
    /// The device is to end.
    pub is_ending: AtomicBool,
}

/// A ring's kicks.
#[derive(Debug)]
enum Kick {
    /// None were handed over: the ring does not run.
    Missing,
    /// There are none, and the ring is polled.
    Polled,
    /// By an eventfd.
    Event(File),
}

/// What is known of a ring.
#[derive(Debug)]
struct Vring {
    size: u32,
    addresses: Option<RingAddresses>,
    next_available: u16,
    kick: Kick,
    call: Option<File>,
    error: Option<File>,
    is_enabled: bool,
    is_running: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rings {
    served: Arc<Served>,
    vrings: Vec<Vring>,
    memory: Arc<MemoryMap>,
    rules: Rules,
    inflight: Option<InflightArea>,
}

/// Where the front end keeps what is under way in all rings.
#[derive(Debug)]
pub(super) struct InflightArea {
    pub mapping: Arc<Mapping>,
    /// Entries that each queue has room for.
    pub room: u16,
}

impl InflightArea {
    fn of_queue(&self, index: u32, size: u32) -> Result<Inflight, RingsError> {
        let number = |number| u16::try_from(number).map_err(|_| RingsError::Inflight);
        let (index, size) = (number(index)?, number(size)?);
        let part = Inflight::new(Arc::clone(&self.mapping), index, self.room, size);
        part.ok_or(RingsError::Inflight)
    }
}

impl Rings {
    /// As many rings as the device has queues, of which nothing is known.
    pub fn new(served: Arc<Served>, rules: Rules, queues: u16) -> Rings {
        let vring = |_| Vring {
            size: 0,
            addresses: None,
            next_available: 0,
            kick: Kick::Missing,
            call: None,
            error: None,
            is_enabled: false,
            is_running: false,
        };
        let vrings = (0..queues).map(vring).collect();
        Rings { served, vrings, memory: Arc::default(), rules, inflight: None }
    }

    /// What was negotiated, for rings that start from now on. As some front ends say it again while
    /// rings run, those that do are started anew.
    pub fn set_features(&mut self, features: Features) -> Result<(), RingsError> {
        if self.rules.features == features {
            return Ok(());
        }
        let running = self.running();
        self.stop(&running)?;
        self.rules.features = features;
        running.into_iter().try_for_each(|index| self.start_if_due(index))
    }

    /// Rings that start from now on keep what is under way there.
    pub fn set_inflight(&mut self, area: InflightArea) {
        self.inflight = Some(area);
    }

    /// The guest's memory.
    pub fn memory(&self) -> &MemoryMap {
        &self.memory
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, RingsError> {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        self.vrings.get_mut(place).ok_or(RingsError::Index { index })
    }

    fn stopped_vring(&mut self, index: u32) -> Result<&mut Vring, RingsError> {
        let vring = self.vring(index)?;
        if vring.is_running { Err(RingsError::Running) } else { Ok(vring) }
    }

    /// Number of entries.
    pub fn set_size(&mut self, index: u32, size: u32) -> Result<(), RingsError> {
        self.stopped_vring(index)?.size = size;
        Ok(())
    }

    /// Where a ring goes on.
    pub fn set_next_available(&mut self, index: u32, next: u16) -> Result<(), RingsError> {
        self.stopped_vring(index)?.next_available = next;
        Ok(())
    }

    /// Where its parts are. A ring that runs is moved.
    pub fn set_addresses(
        &mut self,
        index: u32,
        addresses: RingAddresses,
    ) -> Result<(), RingsError> {
        if self.vring(index)?.is_running {
            self.stop(&[index])?;
        }
        self.vring(index)?.addresses = Some(addresses);
        self.start_if_due(index)
    }

    /// Hands over the kicks: without a file there are none, and the ring is polled.
    pub fn set_kick(&mut self, index: u32, file: Option<File>) -> Result<(), RingsError> {
        if self.vring(index)?.is_running {
            self.stop(&[index])?;
        }
        let kick = match file {
            Some(file) => Kick::Event(file),
            None => Kick::Polled,
        };
        self.vring(index)?.kick = kick;
        self.start_if_due(index)
    }

    /// How the driver is called.
    pub fn set_call(&mut self, index: u32, file: Option<File>) -> Result<(), RingsError> {
        let call = doubled(file.as_ref())?;
        let (key, place) = (self.key(index), self.core_of(index));
        let vring = self.vring(index)?;
        vring.call = file;
        if vring.is_running {
            let set = move |core: &mut crate::core::VhostCore, _: &mut _| core.set_call(key, call);
            cores::call(&*self.served.cores, place, CORE_WITHIN, set)?;
        }
        Ok(())
    }

    /// How the front end hears that the driver broke the protocol; for the next start.
    pub fn set_error(&mut self, index: u32, file: Option<File>) -> Result<(), RingsError> {
        self.vring(index)?.error = file;
        Ok(())
    }

    /// Enables or disables a ring.
    pub fn set_enabled(&mut self, index: u32, state: RingState) -> Result<(), RingsError> {
        let vring = self.vring(index)?;
        vring.is_enabled = state == RingState::Enabled;
        if vring.is_running && state == RingState::Disabled {
            return self.stop(&[index]);
        }
        self.start_if_due(index)
    }

    /// Stops a ring for good; where it would go on.
    pub fn end(&mut self, index: u32) -> Result<u16, RingsError> {
        if self.vring(index)?.is_running {
            self.stop(&[index])?;
        }
        let vring = self.vring(index)?;
        vring.kick = Kick::Missing;
        Ok(vring.next_available)
    }

    /// Stops all rings for good. Goes on whatever becomes of one of them.
    pub fn end_all(&mut self) -> Result<(), RingsError> {
        let ended = self.stop(&self.running());
        self.vrings.iter_mut().for_each(|vring| vring.kick = Kick::Missing);
        ended
    }

    /// The guest has other memory from now on. Nothing of the one before is in use when this
    /// returns.
    pub fn set_memory(&mut self, memory: MemoryMap) -> Result<(), RingsError> {
        let running = self.running();
        self.stop(&running)?;
        self.memory = Arc::new(memory);
        for index in running {
            match self.start_if_due(index) {
                // It is not in this memory: the front end will say where it is.
                Err(RingsError::Ring(RingError::Place)) => self.vring(index)?.addresses = None,
                other => other?,
            }
        }
        Ok(())
    }

    fn running(&self) -> Vec<u32> {
        let numbered = (0_u32..).zip(&self.vrings);
        numbered.filter(|(_, vring)| vring.is_running).map(|(index, _)| index).collect()
    }

    fn key(&self, index: u32) -> RingKey {
        RingKey { device: self.served.key, queue: index as u16 }
    }

    fn core_of(&self, index: u32) -> usize {
        (self.served.first_core + index as usize) % self.served.cores.count()
    }

    /// Starts a ring if all is said.
    fn start_if_due(&mut self, index: u32) -> Result<(), RingsError> {
        let (key, place) = (self.key(index), self.core_of(index));
        let is_enabled_from_the_start = !self.rules.features.contains(Features::PROTOCOL);
        let (rules, served) = (self.rules, Arc::clone(&self.served));
        let memory = Arc::clone(&self.memory);
        let size = self.vring(index)?.size;
        let part = |area: &InflightArea| area.of_queue(index, size);
        // Looked at only for a ring that starts.
        let inflight = self.inflight.as_ref().map(part);
        let vring = self.vring(index)?;
        let is_enabled = vring.is_enabled || is_enabled_from_the_start;
        let Some(addresses) = vring.addresses.filter(|_| is_enabled && !vring.is_running) else {
            return Ok(());
        };
        let kick = match &vring.kick {
            Kick::Missing => return Ok(()),
            Kick::Polled => None,
            Kick::Event(file) => doubled(Some(file))?.map(EventFd::into_descriptor),
        };
        let setup = RingSetup {
            ring: Ring::new(memory, vring.size, addresses)?,
            next_available: vring.next_available,
            inflight: inflight.transpose()?,
            device: Arc::clone(&served.device),
            rules,
            cache: Arc::clone(&served.cache),
            kick,
            call: doubled(vring.call.as_ref())?,
            error: doubled(vring.error.as_ref())?,
        };
        vring.is_running = true;
        let start = move |core: &mut crate::core::VhostCore, cx: &mut reactor::Cx| {
            core.start(cx, key, setup)
        };
        let outcome = cores::call(&*served.cores, place, CORE_WITHIN, start);
        // A core that has begun and not ended may have started it: it counts as running.
        let is_unknown = matches!(outcome, Err(CallError::Unfinished));
        vring.is_running = matches!(outcome, Ok(Ok(()))) || is_unknown;
        Ok(outcome??)
    }

    /// Stops rings and waits for their requests; all of them, whatever becomes of one.
    fn stop(&mut self, indices: &[u32]) -> Result<(), RingsError> {
        let (told, stopped) = mpsc::channel();
        let mut outcome = Ok(());
        for index in indices {
            let (key, place, told) = (self.key(*index), self.core_of(*index), told.clone());
            let stop =
                move |core: &mut crate::core::VhostCore, _: &mut _| core.stop_ring(key, told);
            let asked = cores::call(&*self.served.cores, place, CORE_WITHIN, stop);
            if let Err(error) = asked {
                outcome = Err(error.into());
            }
        }
        drop(told);
        let drained = self.hear_of_ends(&stopped);
        for index in indices {
            self.vring(*index)?.is_running = false;
        }
        outcome.and(drained)
    }

    /// Takes down where rings have ended, until the last of them has let go of its sender.
    fn hear_of_ends(&mut self, stopped: &Receiver<Stopped>) -> Result<(), RingsError> {
        let begin = Instant::now();
        let mut aborts = 0;
        loop {
            match stopped.recv_timeout(LOOK_INTERVAL) {
                Ok(end) => {
                    if let Some(failure) = end.failure {
                        self.served.set_failure(failure.to_string());
                    }
                    self.vring(u32::from(end.key.queue))?.next_available = end.next_available;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let drain = match self.served.is_ending() {
                        true => ENDING_WITHIN,
                        false => DRAIN_WITHIN,
                    };
                    if begin.elapsed() < drain * (aborts + 1) {
                        continue;
                    }
                    if aborts == ABORTS_MAX {
                        // The core keeps what it uses of the guest's memory mapped.
                        return Err(RingsError::Stuck);
                    }
                    aborts += 1;
                    self.abort();
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Has the cores abort what is at the device.
    fn abort(&self) {
        let key = self.served.key;
        for place in 0..self.served.cores.count() {
            let abort = move |core: &mut crate::core::VhostCore, cx: &mut reactor::Cx| {
                core.abort(cx, key);
            };
            // A core that does not answer is asked again when the next wait is over.
            let _ = cores::call(&*self.served.cores, place, CORE_WITHIN, abort);
        }
    }
}

/// Whether a ring is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RingState {
    Enabled,
    Disabled,
}

/// Another descriptor of the same eventfd.
fn doubled(file: Option<&File>) -> Result<Option<EventFd>, RingsError> {
    let double = |file: &File| file.try_clone().and_then(EventFd::new);
    file.map(double).transpose().map_err(RingsError::Descriptor)
}

impl Served {
    fn is_ending(&self) -> bool {
        // Relaxed: it is looked at again and again.
        self.is_ending.load(Ordering::Relaxed)
    }

    /// The device is to end: nobody waits for long any more.
    pub fn begin_to_end(&self) {
        // Relaxed: as in `is_ending`.
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// A guest or a front end did something wrong.
    pub fn set_failure(&self, failure: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    /// What was done wrong last.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
