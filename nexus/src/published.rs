//! Which view is in force.
//!
//! Its version is read with a plain load at every submit and poll, on any core; only when it
//! differs is the view itself fetched, under a lock that is otherwise taken by whoever changes it.
//! That is the one lock that a core takes between two I/Os; it is kept out of [`crate::mirror`].

use std::sync::{Arc, Mutex, PoisonError};

use reactor::sync::{AtomicUsize, Ordering, fence};

use crate::view::{Version, View};

/// The view in force.
#[derive(Debug)]
pub(crate) struct Published {
    version: AtomicUsize,
    current: Mutex<Arc<View>>,
}

impl Published {
    pub(crate) fn new(view: View) -> Published {
        Published { version: AtomicUsize::new(1), current: Mutex::new(Arc::new(view)) }
    }

    /// Number of the view in force.
    #[inline]
    pub(crate) fn version(&self) -> Version {
        // Acquire, partner: the release in `update`.
        Version(self.version.load(Ordering::Acquire))
    }

    /// The view in force, and a number that is not later than its own.
    pub(crate) fn fetch(&self) -> (Version, Arc<View>) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.version(), current.clone())
    }

    /// Changes the view; returns the number of the new one.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) -> Version {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&current);
        change(&mut view);
        *current = Arc::new(view);
        // Relaxed: only changed under the lock.
        let version = self.version.load(Ordering::Relaxed) + 1;
        // Release, partner: the acquire in `version`.
        self.version.store(version, Ordering::Release);
        // Partner: the fence in `Cell::activate`. Either the core that becomes active sees this
        // version, or whoever looks at its cell after this sees it active.
        fence(Ordering::SeqCst);
        Version(version)
    }
}
