//! What cores tell the home core: children that failed, errors to count.
//!
//! Off the path of an I/O: something has failed already. Bounded; a letter that finds the box full
//! is kept by its core, or is only a count.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bdev::OpenError;
use reactor::sync::{AtomicBool, Ordering};

use crate::child::{CHILDREN_MAX, ChildIndex, FaultReason};

/// Letters that wait for the home core at most.
pub(crate) const LETTERS_MAX: usize = 1024;

/// What a device says that cannot be opened, with its cause.
pub(crate) fn in_words(error: &OpenError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// A letter to the home core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Letter {
    /// A core has stopped using a child. `kept` is the count of [`crate::view::View::kept`] that it
    /// knew: the answer is a view without the child, or a higher count.
    Failed {
        /// Which.
        child: ChildIndex,
        /// Why.
        reason: FaultReason,
        /// See above.
        kept: u32,
    },
    /// A child is reserved for a newer owner. The answer is the end of the volume here.
    Fenced,
    /// An I/O failed on a child, and then succeeded there or elsewhere.
    Error {
        /// Which child.
        child: ChildIndex,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mailbox {
    any: AtomicBool,
    letters: Mutex<VecDeque<Letter>>,
    /// What a child's device last said when a core could not open it.
    words: Mutex<[Option<String>; CHILDREN_MAX]>,
}

impl Mailbox {
    pub(crate) fn new() -> Mailbox {
        let letters = Mutex::new(VecDeque::with_capacity(LETTERS_MAX));
        let words = Mutex::new([const { None }; CHILDREN_MAX]);
        Mailbox { any: AtomicBool::new(false), letters, words }
    }

    /// Notes what a child's device says that cannot be opened; nothing for another child in its
    /// place.
    pub(crate) fn explain(&self, child: ChildIndex, words: Option<String>) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)[child.get()] = words;
    }

    /// What a child's device last said that could not be opened.
    pub(crate) fn words(&self, child: ChildIndex) -> Option<String> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)[child.get()].clone()
    }

    /// Posts a letter; false when the box is full.
    pub(crate) fn post(&self, letter: Letter) -> bool {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        if letters.len() == LETTERS_MAX {
            return false;
        }
        letters.push_back(letter);
        // Release, partner: the acquire in `has_any`.
        self.any.store(true, Ordering::Release);
        true
    }

    /// True when a letter waits.
    #[inline]
    pub(crate) fn has_any(&self) -> bool {
        // Acquire, partner: the release in `post`.
        self.any.load(Ordering::Acquire)
    }

    /// Takes the oldest letter.
    pub(crate) fn take(&self) -> Option<Letter> {
        if !self.has_any() {
            return None;
        }
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let letter = letters.pop_front();
        if letters.is_empty() {
            // Relaxed: under the lock, which a post takes too.
            self.any.store(false, Ordering::Relaxed);
        }
        letter
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_taken_in_order_and_one_too_many_is_refused() {
        let mailbox = Mailbox::new();
        let child = ChildIndex::new(3).unwrap();
        assert!(!mailbox.has_any());
        for kept in 0..LETTERS_MAX as u32 {
            assert!(mailbox.post(Letter::Failed { child, reason: FaultReason::Rpc, kept }));
        }
        assert!(!mailbox.post(Letter::Error { child }));
        let first = Letter::Failed { child, reason: FaultReason::Rpc, kept: 0 };
        assert_eq!(mailbox.take(), Some(first));
        assert!(mailbox.post(Letter::Error { child }));
        while mailbox.has_any() {
            assert!(mailbox.take().is_some());
        }
        assert_eq!(mailbox.take(), None);
    }
}
