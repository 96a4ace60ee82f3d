//! What a core tells about itself: which view it follows, and whether anything is in flight.
//!
//! One a queue pair, written by its core with plain stores, read by the home core. A core without
//! I/O is not polled and so follows nothing; but it looks at the view before its next I/O, so the
//! home core need not wait for it. The proof is a store and a load on each side with a fence
//! between, as for a core's sleep:
//!
//! | core that gets its first I/O | home core                  |
//! |------------------------------|----------------------------|
//! | says that it is active       | publishes a view           |
//! | full fence                   | full fence                 |
//! | looks at the version         | looks who is active        |

use reactor::sync::{AtomicBool, AtomicUsize, Ordering, fence};

use crate::child::ChildSet;
use crate::published::Published;
use crate::view::Version;

/// See the module. On cache lines of its own: its core writes it at every change from idle to busy.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Cell {
    is_active: AtomicBool,
    followed: AtomicUsize,
    /// Number of the view under which nothing was in flight that had begun.
    drained: AtomicUsize,
    /// Number of the view such that every write that is in flight began under it or a later one.
    past: AtomicUsize,
    /// Children on which a queue pair is open here.
    open: AtomicUsize,
    /// What [`crate::meter::Meter`] has counted.
    ended: AtomicUsize,
    time_ns: AtomicUsize,
    inflight: AtomicUsize,
}

impl Cell {
    /// The core is about to have I/O. Returns the version to follow.
    #[inline]
    pub(crate) fn activate(&self, published: &Published) -> Version {
        // Relaxed: the fence orders it before the look at the version.
        self.is_active.store(true, Ordering::Relaxed);
        // Partner: the fence in `Published::update`.
        fence(Ordering::SeqCst);
        published.version()
    }

    /// The core has no I/O any more.
    #[inline]
    pub(crate) fn rest(&self) {
        // Release, partner: the acquire in `has_followed`: who sees the core at rest sees all that
        // it did.
        self.is_active.store(false, Ordering::Release);
    }

    /// The core follows this view.
    pub(crate) fn set_followed(&self, version: Version) {
        // Release, partner: the acquire in `has_followed`.
        self.followed.store(version.0, Ordering::Release);
    }

    /// Under this view, nothing that has begun is in flight.
    pub(crate) fn set_drained(&self, version: Version) {
        // Release, partner: the acquire in `is_drained`.
        self.drained.store(version.0, Ordering::Release);
    }

    /// Every write in flight began under this view or a later one.
    pub(crate) fn set_past(&self, version: Version) {
        // Release, partner: the acquire in `is_past`.
        self.past.store(version.0, Ordering::Release);
    }

    /// The children that are open on the core.
    pub(crate) fn set_open(&self, children: ChildSet) {
        let bits = children.iter().fold(0, |bits, child| bits | 1 << child.get());
        // Release, partner: the acquire in `has_open`.
        self.open.store(bits, Ordering::Release);
    }

    /// I/Os that have ended, the time that all of them spent here, and those in flight.
    #[inline]
    pub(crate) fn set_load(&self, ended: usize, time_ns: usize, inflight: usize) {
        // Relaxed, all: figures for a guess, of which each is right by itself.
        self.ended.store(ended, Ordering::Relaxed);
        self.time_ns.store(time_ns, Ordering::Relaxed);
        self.inflight.store(inflight, Ordering::Relaxed);
    }

    /// What was told last.
    pub(crate) fn load(&self) -> (usize, usize, usize) {
        // Relaxed, all: as in `set_load`.
        let load = |figure: &AtomicUsize| figure.load(Ordering::Relaxed);
        (load(&self.ended), load(&self.time_ns), load(&self.inflight))
    }

    /// Home core, after publishing `version`: the core does nothing any more that an older view
    /// allowed.
    pub(crate) fn has_followed(&self, version: Version) -> bool {
        // Acquire both, partners: the releases in `rest` and `set_followed`.
        !self.is_active.load(Ordering::Acquire)
            || self.followed.load(Ordering::Acquire) >= version.0
    }

    /// Home core, after publishing `version` with admission stopped: nothing that has begun is in
    /// flight on the core.
    pub(crate) fn is_drained(&self, version: Version) -> bool {
        // Acquire both, partners: the releases in `rest` and `set_drained`.
        !self.is_active.load(Ordering::Acquire) || self.drained.load(Ordering::Acquire) >= version.0
    }

    /// Home core, after publishing `version`: no write is in flight that began before.
    pub(crate) fn is_past(&self, version: Version) -> bool {
        // Acquire both, partners: the releases in `rest` and `set_past`.
        !self.is_active.load(Ordering::Acquire) || self.past.load(Ordering::Acquire) >= version.0
    }

    /// Nothing is in flight on the core.
    pub(crate) fn is_at_rest(&self) -> bool {
        // Acquire, partner: the release in `rest`.
        !self.is_active.load(Ordering::Acquire)
    }

    /// The core has a queue pair open on one of `children`.
    pub(crate) fn has_open(&self, children: ChildSet) -> bool {
        // Acquire, partner: the release in `set_open`.
        let open = self.open.load(Ordering::Acquire);
        children.iter().any(|child| open & (1 << child.get()) != 0)
    }
}
