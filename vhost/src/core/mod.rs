//! The rings of one core: a part of the core's service, phase by phase.
//!
//! Rings come and go by closures of control threads ([`VhostCore::start`] and
//! [`VhostCore::stop_ring`]); in between no lock, no allocation and no other thread is involved.
//! Queues of a device are spread over the cores by the session, and each stays on its core until it
//! is stopped: no request ever crosses cores.

mod ring;
mod root;
pub mod setup;
pub mod signal;
mod slot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bdev::{BlockDevice, Completions, OpenError};
use reactor::{Cx, Nanos, Wake};

use crate::virtqueue::ChainBuffer;
use ring::ServedRing;
use root::{Root, RootPlace};
use setup::{DeviceKey, RINGS_PER_CORE_MAX, RingKey, RingSetup, StartError, StoppedSender};
use signal::EventFd;
use slot::{RingPlace, from_token};

/// See the module.
#[derive(Debug, Default)]
pub struct VhostCore {
    rings: Vec<Option<ServedRing>>,
    roots: Vec<Option<Root>>,
    chain: ChainBuffer,
    completions: Completions,
    /// Rings that are there.
    count: usize,
    /// When what is at devices is aborted, once the core ends.
    stopping: Option<Nanos>,
}

impl VhostCore {
    /// Begins to serve a ring.
    ///
    /// # Errors
    ///
    /// Each by its name in [`StartError`].
    pub fn start(&mut self, cx: &mut Cx, key: RingKey, setup: RingSetup) -> Result<(), StartError> {
        if self.stopping.is_some() {
            return Err(StartError::Ending);
        }
        if self.find(key).is_some() {
            return Err(StartError::Stuck);
        }
        let place = match self.rings.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.rings.len() < RINGS_PER_CORE_MAX => {
                self.rings.push(None);
                self.rings.len() - 1
            }
            None => return Err(StartError::TooMany),
        };
        let root = self.root_of(cx, key.device, &setup.device)?;
        let number = u16::try_from(place).expect("a core has few rings");
        let started = ServedRing::start(cx, key, root, RingPlace(number), setup);
        match started {
            Ok(ring) => {
                self.rings[place] = Some(ring);
                self.count += 1;
                self.roots[root.0].as_mut().expect("it was just found").rings += 1;
                Ok(())
            }
            Err(error) => {
                self.close_unused(root);
                Err(error)
            }
        }
    }

    /// Takes nothing new from a ring; `told` hears of it when its last request is answered. False
    /// when there is no such ring.
    pub fn stop_ring(&mut self, key: RingKey, told: StoppedSender) -> bool {
        let found = self.find(key);
        found.map(|ring| ring.stop(told)).is_some()
    }

    /// Calls the driver of a ring in another way. False when there is no such ring.
    pub fn set_call(&mut self, key: RingKey, call: Option<EventFd>) -> bool {
        let found = self.find(key);
        found.map(|ring| ring.set_call(call)).is_some()
    }

    /// Aborts what the rings of a device have there: it is to end now.
    pub fn abort(&mut self, cx: &mut Cx, device: DeviceKey) {
        let its = |root: &&mut Root| root.key == device;
        self.roots.iter_mut().flatten().filter(its).for_each(|root| root.abort_all(cx));
    }

    /// Number of rings.
    pub fn ring_count(&self) -> usize {
        self.count
    }

    fn find(&mut self, key: RingKey) -> Option<&mut ServedRing> {
        self.rings.iter_mut().flatten().find(|ring| ring.key == key)
    }

    fn root_of(
        &mut self,
        cx: &mut Cx,
        key: DeviceKey,
        device: &Arc<dyn BlockDevice>,
    ) -> Result<RootPlace, OpenError> {
        let is_it = |root: &Option<Root>| root.as_ref().is_some_and(|root| root.key == key);
        if let Some(place) = self.roots.iter().position(is_it) {
            return Ok(RootPlace(place));
        }
        let root = Root::open(cx, key, device)?;
        let place = match self.roots.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                self.roots.push(None);
                self.roots.len() - 1
            }
        };
        self.roots[place] = Some(root);
        Ok(RootPlace(place))
    }

    fn close_unused(&mut self, place: RootPlace) {
        let is_unused = |root: &Root| root.rings == 0;
        if self.roots[place.0].as_ref().is_some_and(is_unused) {
            self.roots[place.0] = None;
        }
    }

    /// Takes requests from all rings; returns how many.
    pub fn receive(&mut self, cx: &mut Cx) -> usize {
        if self.count == 0 {
            return 0;
        }
        let VhostCore { rings, roots, chain, .. } = self;
        let mut work = 0;
        for ring in rings.iter_mut().flatten() {
            let root = roots[ring.root.0].as_mut().expect("a ring's root is there");
            work += ring.receive(cx, root, chain);
        }
        work
    }

    /// Rings doorbells, takes completions, and lets them climb into the rings; returns how many.
    pub fn poll_devices(&mut self, cx: &mut Cx) -> usize {
        if self.count == 0 {
            return 0;
        }
        let is_late = self.stopping.is_some_and(|deadline| cx.now() >= deadline);
        let VhostCore { rings, roots, completions, .. } = self;
        let busy = |root: &&mut Root| root.is_busy();
        roots.iter_mut().flatten().filter(busy).for_each(|root| root.flush(cx));
        let mut work = 0;
        for root in roots.iter_mut().flatten().filter(busy) {
            if is_late {
                root.abort_all(cx);
            }
            root.poll(cx, completions);
            for index in 0..completions.as_slice().len() {
                let completion = completions.as_slice()[index];
                let (place, ..) = from_token(completion.token);
                let ring = rings[usize::from(place.0)].as_mut();
                ring.expect("a ring outlives its tokens").complete(cx, root, completion);
                work += 1;
            }
            completions.clear();
        }
        work
    }

    /// Shows drivers what has ended, and ends rings that are over.
    pub fn send(&mut self, cx: &mut Cx) -> usize {
        if self.count == 0 {
            return 0;
        }
        let mut work = 0;
        for place in 0..self.rings.len() {
            let Some(ring) = &mut self.rings[place] else { continue };
            work += ring.publish();
            if ring.is_over() {
                self.end_ring(cx, place);
                work += 1;
            }
        }
        work
    }

    #[cold]
    fn end_ring(&mut self, cx: &mut Cx, place: usize) {
        let ring = self.rings[place].take().expect("it was just found");
        self.count -= 1;
        let root = ring.root;
        self.roots[root.0].as_mut().expect("a ring's root is there").rings -= 1;
        self.close_unused(root);
        ring.end_serving(cx);
    }

    /// When the rings next need the core.
    pub fn wake(&self, cx: &Cx) -> Wake {
        let deadline = self.stopping.map_or(Wake::Never, |by| Wake::At(by.max(cx.now())));
        let rings = self.rings.iter().flatten().map(ServedRing::wake);
        let roots = self.roots.iter().flatten().map(Root::wake);
        rings.chain(roots).fold(deadline, Wake::soonest)
    }

    /// Asks all drivers for kicks and all devices for news; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        self.rings.iter_mut().flatten().all(ServedRing::arm)
            && self.roots.iter_mut().flatten().all(|root| root.arm(cx))
    }

    /// Takes nothing new from any ring; what is at devices is aborted at `deadline`.
    pub fn stop(&mut self, deadline: Nanos) {
        self.stopping = Some(deadline);
        let running = |ring: &&mut ServedRing| !ring.is_stopping();
        for ring in self.rings.iter_mut().flatten().filter(running) {
            // Nobody waits for this one.
            ring.stop(std::sync::mpsc::channel().0);
        }
    }

    /// True once all have ended.
    pub fn stopped(&self) -> bool {
        self.stopping.is_some() && self.count == 0
    }
}
