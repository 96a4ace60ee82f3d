//! One ring of a guest on its core: requests out of the ring to the device, answers back into it.
//!
//! Owned by [`super::VhostCore`]. A ring that stops takes nothing new and tells whoever stopped it
//! when its last request is answered; only then does it let go of the guest's memory. A driver that
//! breaks the protocol loses its ring, and nobody else notices.

use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bdev::{Completion, IoFlags};
use reactor::socket::readiness::DESCRIPTOR_KEY;
use reactor::{Cx, Wake};

use super::root::{Root, RootPlace};
use super::setup::{RingFailure, RingKey, RingSetup, StartError, Stopped, StoppedSender};
use super::signal::EventFd;
use super::slot::{RingPlace, SlotIndex, Slots};
use crate::block::{BlockStatus, CacheMode, Features, Plan, Rules};
use crate::virtqueue::{Call, ChainBuffer, SplitQueue};

/// Requests taken from a ring in one pass.
const REQUESTS_PER_PASS: usize = 64;

/// How far a ring is.
#[derive(Debug)]
enum Phase {
    /// Requests are taken.
    Running,
    /// None are taken any more: the driver broke the protocol.
    Broken(RingFailure),
    /// None are taken any more, and somebody waits for the last answer.
    Stopping(StoppedSender, Option<RingFailure>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct ServedRing {
    pub key: RingKey,
    pub root: RootPlace,
    place: RingPlace,
    phase: Phase,
    queue: SplitQueue,
    rules: Rules,
    cache: Arc<CacheMode>,
    slots: Slots,
    /// Requests with an I/O that found no credit. Never more than there are slots.
    parked: Vec<SlotIndex>,
    kick: Option<OwnedFd>,
    call: Option<EventFd>,
    error: Option<EventFd>,
}

impl ServedRing {
    /// Begins to serve a ring.
    pub fn start(
        cx: &mut Cx,
        key: RingKey,
        root: RootPlace,
        place: RingPlace,
        setup: RingSetup,
    ) -> Result<ServedRing, StartError> {
        let features = setup.features().of_queue();
        let RingSetup { ring, next_available, inflight, rules, cache, kick, call, error, .. } =
            setup;
        if let Some(kick) = &kick {
            cx.network.watch(kick.as_fd(), DESCRIPTOR_KEY).map_err(StartError::Watch)?;
        }
        let size = ring.size();
        let mut queue = SplitQueue::new(ring, features, next_available);
        if let Some(inflight) = inflight {
            queue = queue.with_inflight(inflight);
        }
        Ok(ServedRing {
            key,
            root,
            place,
            phase: Phase::Running,
            queue,
            rules,
            cache,
            slots: Slots::new(size),
            parked: Vec::with_capacity(usize::from(size)),
            kick,
            call,
            error,
        })
    }

    /// Takes nothing new; tells when the last request is answered.
    pub fn stop(&mut self, told: StoppedSender) {
        let failure = match mem::replace(&mut self.phase, Phase::Running) {
            Phase::Running => None,
            Phase::Broken(failure) => Some(failure),
            Phase::Stopping(_, failure) => failure,
        };
        self.phase = Phase::Stopping(told, failure);
    }

    /// True when somebody waits for its end.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(..))
    }

    /// The driver is called in another way from now on. It is called at once, as it may have missed
    /// a call on the way before.
    pub fn set_call(&mut self, call: Option<EventFd>) {
        self.call = call;
        self.signal();
    }

    /// Takes requests and submits what they ask for; returns how many.
    #[inline]
    pub fn receive(&mut self, cx: &mut Cx, root: &mut Root, chain: &mut ChainBuffer) -> usize {
        if !self.parked.is_empty() {
            self.submit_parked(cx, root);
        }
        if !matches!(self.phase, Phase::Running) {
            return 0;
        }
        self.queue.disarm();
        let waiting = match self.queue.look() {
            Ok(0) => return 0,
            Ok(waiting) => usize::from(waiting),
            Err(error) => return self.give_up(cx, error.into()),
        };
        let room = self.slots.free_count().min(root.credits()).min(REQUESTS_PER_PASS);
        let count = if self.parked.is_empty() { waiting.min(room) } else { 0 };
        for taken in 0..count {
            if let Err(failure) = self.take_one(cx, root, chain) {
                return taken + self.give_up(cx, failure);
            }
        }
        count
    }

    fn take_one(
        &mut self,
        cx: &mut Cx,
        root: &mut Root,
        chain: &mut ChainBuffer,
    ) -> Result<(), RingFailure> {
        let Some(head) = self.queue.take(chain)? else { return Ok(()) };
        let flags = self.write_flags();
        let slot = self.slots.next_free().expect("no more are taken than there is room for");
        let plan = match slot.request.parse(chain, &self.rules) {
            Ok(plan) => plan,
            Err(error) => {
                self.queue.untake();
                return Err(error.into());
            }
        };
        let index = self.slots.take(head, plan, flags);
        match plan {
            Plan::Ended(status) => self.end(index, status),
            _ => self.submit(cx, root, index),
        }
        Ok(())
    }

    /// Writes are durable at once where the driver has no flush, or wants no cache.
    fn write_flags(&self) -> IoFlags {
        let features = self.rules.features;
        let is_cached = features.contains(Features::FLUSH)
            && (!features.contains(Features::CONFIG_WRITE_BACK) || self.cache.get() != 0);
        if is_cached { IoFlags::NONE } else { IoFlags::FUA }
    }

    fn submit(&mut self, cx: &mut Cx, root: &mut Root, index: SlotIndex) {
        let io = self.slots.get(index).io(self.place, index);
        let io = io.expect("a request that has not ended has an I/O due");
        if !root.submit(cx, io) {
            self.parked.push(index);
        }
    }

    #[cold]
    fn submit_parked(&mut self, cx: &mut Cx, root: &mut Root) {
        let count = root.credits().min(self.parked.len());
        for _ in 0..count {
            let index = self.parked.remove(0);
            self.submit(cx, root, index);
        }
    }

    /// An I/O of the ring has ended.
    #[inline]
    pub fn complete(&mut self, cx: &mut Cx, root: &mut Root, completion: Completion) {
        let (index, slot) = self.slots.of_token(completion.token);
        match slot.advance(BlockStatus::from(completion.status)) {
            Some(status) => self.end(index, status),
            None => self.submit(cx, root, index),
        }
    }

    fn end(&mut self, index: SlotIndex, status: BlockStatus) {
        let slot = self.slots.get(index);
        let (head, written_bytes) = (slot.head, slot.request.finish(status));
        self.slots.free(index);
        self.queue.give_back(head, written_bytes);
    }

    /// Shows the driver what has ended in this pass, and calls it once if it wants that.
    #[inline]
    pub fn publish(&mut self) -> usize {
        if !self.queue.has_unpublished() {
            return 0;
        }
        if self.queue.publish() == Call::Wanted {
            self.signal();
        }
        1
    }

    /// The ring is of no use any more. Requests under way are still answered.
    #[cold]
    fn give_up(&mut self, cx: &mut Cx, failure: RingFailure) -> usize {
        cx.counters.protocol_errors += 1;
        self.phase = Phase::Broken(failure);
        if let Some(error) = &self.error {
            error.signal();
        }
        1
    }

    fn signal(&self) {
        if let Some(call) = &self.call {
            call.signal();
        }
    }

    /// True when it was stopped, and its last request is answered.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopping(..)) && self.is_idle()
    }

    /// True when no request is under way and the driver knows of all that were.
    pub fn is_idle(&self) -> bool {
        self.slots.are_idle() && !self.queue.has_unpublished()
    }

    /// Lets go of everything and tells whoever stopped it.
    pub fn end_serving(self, cx: &mut Cx) {
        if let Some(kick) = &self.kick {
            cx.network.unwatch(kick.as_fd());
        }
        let next_available = self.queue.next_available();
        let ServedRing { key, phase, queue, slots, .. } = self;
        // The memory first: whoever is told may unmap it.
        drop((queue, slots));
        if let Phase::Stopping(told, failure) = phase {
            // Who does not wait any more needs no answer.
            let _ = told.send(Stopped { key, next_available, failure });
        }
    }

    /// When it needs the core.
    pub fn wake(&self) -> Wake {
        let is_running = matches!(self.phase, Phase::Running);
        if self.is_over() || is_running && self.kick.is_none() {
            return Wake::Now;
        }
        Wake::Descriptor
    }

    /// Asks for a kick; false when there is a request already that could be taken.
    pub fn arm(&mut self) -> bool {
        let has_room = self.slots.free_count() > 0 && self.parked.is_empty();
        !matches!(self.phase, Phase::Running) || !has_room || self.queue.arm()
    }
}
