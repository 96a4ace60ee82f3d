//! The roots of a core: which namespaces it has open, and which of them have something to do.
//!
//! Owned by the core's state. Opened when the core first serves a queue of the subsystem; a
//! namespace that is removed leaves once its I/O has come back. A pass looks only at the busy ones,
//! so that a thousand idle namespaces cost it nothing.

use std::collections::BTreeMap;

use bdev::{Completions, Io, OpenError};
use reactor::mesh::CoreIndex;
use reactor::slab::{Slab, SlotId};
use reactor::{Cx, Wake};

use super::description::SubsystemId;
use super::namespace::{Namespace, NamespaceId};
use super::root::Root;

/// Namespaces that a core can have open at once, over all subsystems.
pub const ROOTS_PER_CORE_MAX: u32 = 4096;

/// Why a core could not open a namespace.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The device refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The core has too many open.
    #[error("a core has at most {ROOTS_PER_CORE_MAX} namespaces open: remove some first")]
    TooMany,
}

/// The namespaces that a core has open.
#[derive(Debug)]
pub(super) struct Roots {
    core: CoreIndex,
    slots: Slab<Box<Root>>,
    index: BTreeMap<(SubsystemId, NamespaceId), SlotId>,
    /// Those with something in flight or waiting, each once.
    busy: Vec<SlotId>,
}

impl Roots {
    /// None, for a core.
    pub fn new(core: CoreIndex) -> Roots {
        Roots {
            core,
            slots: Slab::with_capacity(ROOTS_PER_CORE_MAX),
            index: BTreeMap::new(),
            busy: Vec::with_capacity(ROOTS_PER_CORE_MAX as usize),
        }
    }

    /// The root of a namespace, opened now if it was not.
    pub fn find_or_open(
        &mut self,
        cx: &mut Cx,
        subsystem: SubsystemId,
        namespace: &Namespace,
    ) -> Result<SlotId, RootError> {
        if let Some(id) = self.index.get(&(subsystem, namespace.id)) {
            return Ok(*id);
        }
        let root = Box::new(Root::open(cx, namespace, self.core)?);
        let id = self.slots.insert(root).map_err(|_| RootError::TooMany)?;
        self.index.insert((subsystem, namespace.id), id);
        Ok(id)
    }

    /// A root that still takes I/O.
    pub fn get(&self, id: SlotId) -> Option<&Root> {
        self.slots.get(id).map(|root| &**root).filter(|root| !root.is_retired())
    }

    /// Submits an I/O; given back when the namespace is gone.
    pub fn submit(&mut self, cx: &mut Cx, id: SlotId, io: Io) -> Result<(), Io> {
        let Some(root) = self.slots.get_mut(id).filter(|root| !root.is_retired()) else {
            return Err(io);
        };
        if !std::mem::replace(&mut root.is_listed, true) {
            self.busy.push(id);
        }
        root.submit(cx, io);
        Ok(())
    }

    /// Makes room for the I/Os of another queue, so that waiting never allocates.
    pub fn reserve(&mut self, id: SlotId, entries: usize) {
        if let Some(root) = self.slots.get_mut(id) {
            root.reserve(entries);
        }
    }

    /// Takes back the room for a queue that is gone.
    pub fn unreserve(&mut self, id: SlotId, entries: usize) {
        if let Some(root) = self.slots.get_mut(id) {
            root.unreserve(entries);
        }
    }

    /// The namespaces that are open.
    pub fn open(&self) -> impl Iterator<Item = (SubsystemId, NamespaceId)> {
        self.index.keys().copied()
    }

    /// Follows a namespace that was changed, if it is open here.
    pub fn follow(
        &mut self,
        cx: &mut Cx,
        subsystem: SubsystemId,
        namespace: &Namespace,
    ) -> Result<(), RootError> {
        let Some(id) = self.index.get(&(subsystem, namespace.id)) else { return Ok(()) };
        let root = self.slots.get_mut(*id).expect("the index names what is there");
        let followed = root.follow(cx, namespace);
        // The queue pair may be changed at once, and what waits for it begin.
        if !std::mem::replace(&mut root.is_listed, true) {
            self.busy.push(*id);
        }
        Ok(followed?)
    }

    /// The subsystem of a namespace whose changed device could not be opened once the one before
    /// it was done, and why; each failure once.
    pub fn take_failure(&mut self) -> Option<(SubsystemId, RootError)> {
        self.index.iter().find_map(|((subsystem, _), id)| {
            let root = self.slots.get_mut(*id).expect("the index names what is there");
            Some((*subsystem, root.take_failure()?.into()))
        })
    }

    /// Takes back what waits for a namespace's device and is chosen; it is to be answered by the
    /// caller.
    pub fn withdraw(&mut self, id: SlotId, is_chosen: impl Fn(&Io) -> bool) -> Vec<Io> {
        self.slots.get_mut(id).map(|root| root.withdraw(is_chosen)).unwrap_or_default()
    }

    /// A namespace is gone: nothing new goes to its device. Returns what had not begun; it is to
    /// be answered by the caller.
    pub fn retire(&mut self, subsystem: SubsystemId, namespace: NamespaceId) -> Vec<Io> {
        let Some(id) = self.index.remove(&(subsystem, namespace)) else { return Vec::new() };
        let root = self.slots.get_mut(id).expect("the index names what is there");
        let waiting = root.retire();
        if root.is_idle() && !root.is_listed {
            self.slots.remove(id);
        }
        waiting
    }

    /// True when no root is leaving or changing its queue pair.
    pub fn are_settled(&self) -> bool {
        let is_changing = |id: &SlotId| self.slots.get(*id).is_some_and(|root| root.is_changing());
        self.slots.len() as usize == self.index.len() && !self.busy.iter().any(is_changing)
    }

    /// Number of busy roots.
    pub fn busy_count(&self) -> usize {
        self.busy.len()
    }

    /// Rings the doorbell of every busy root, before any of them is polled: what several roots have
    /// for one leaf, such as the core's ring, then reaches it together.
    pub fn flush(&mut self, cx: &mut Cx) {
        for id in &self.busy {
            self.slots.get_mut(*id).expect("a busy root is there").flush(cx);
        }
    }

    /// Polls the busy root at `place`; returns how many completions there are.
    pub fn poll(&mut self, cx: &mut Cx, place: usize, completions: &mut Completions) -> usize {
        let root = self.slots.get_mut(self.busy[place]).expect("a busy root is there");
        root.poll(cx, completions)
    }

    /// Takes the root at `place` off the list if it has nothing left to do; true if it did.
    pub fn unlist_if_idle(&mut self, place: usize) -> bool {
        let id = self.busy[place];
        let root = self.slots.get_mut(id).expect("a busy root is there");
        if !root.is_idle() || root.is_changing() {
            return false;
        }
        root.is_listed = false;
        root.publish();
        if root.is_retired() {
            self.slots.remove(id);
        }
        self.busy.swap_remove(place);
        true
    }

    /// Tells what was moved through the busy ones.
    pub fn publish(&self) {
        self.busy().for_each(Root::publish);
    }

    /// When they must be polled next.
    pub fn wake(&self, wake: Wake) -> Wake {
        self.busy().fold(wake, |wake, root| wake.soonest(root.wake()))
    }

    /// Makes their descriptors fire; false when something is there already.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        let slots = &mut self.slots;
        self.busy.iter().all(|id| slots.get_mut(*id).expect("a busy root is there").arm(cx))
    }

    fn busy(&self) -> impl Iterator<Item = &Root> {
        self.busy.iter().map(|id| &**self.slots.get(*id).expect("a busy root is there"))
    }
}
