//! What a layer above must know of a device that can come and go: a remote one.
//!
//! A session is one unbroken association with the device. [`Sessions`] is shared by its driver,
//! which alone changes it, and by whoever mirrors over it, on any thread. The rule that a mirror
//! needs: what completed before a restart and was not flushed before it may be lost there. So a
//! flush covers what completed before it only if [`Sessions::restarts`] was the same when the first
//! of those I/Os was submitted and after the flush completed.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use uuid::Uuid;

/// Whether I/O can reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It cannot; the driver tries to connect anew.
    Lost,
    /// It can.
    Live,
    /// The device is connected, and says that this way to it is closed at present.
    Inaccessible,
    /// What answers there is another device, or this one no longer fit for use. It is tried again.
    Refused,
}

/// A session and how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// Its number, from 1; grows with each session. 0 before the first.
    pub number: u64,
    /// How it is.
    pub link: Link,
}

const LINK_BITS: u32 = 2;

impl SessionState {
    /// The state before the first session.
    pub const NONE: SessionState = SessionState { number: 0, link: Link::Lost };

    fn to_word(self) -> u64 {
        let link = match self.link {
            Link::Lost => 0,
            Link::Live => 1,
            Link::Inaccessible => 2,
            Link::Refused => 3,
        };
        self.number << LINK_BITS | link
    }

    fn from_word(word: u64) -> SessionState {
        let link = match word & ((1 << LINK_BITS) - 1) {
            0 => Link::Lost,
            1 => Link::Live,
            2 => Link::Inaccessible,
            _ => Link::Refused,
        };
        SessionState { number: word >> LINK_BITS, link }
    }
}

/// Whether a new session may have lost what the one before had completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// The device has run on; only the way to it was lost.
    Kept,
    /// It was restarted, or does not say: what was not flushed may be lost.
    Restarted,
}

/// The sessions of a device.
#[derive(Debug, Default)]
pub struct Sessions {
    word: AtomicU64,
    restarts: AtomicU64,
    /// The run's name in two halves, zeroes for none; odd while they are changed.
    run: [AtomicU64; 2],
    run_version: AtomicU64,
}

impl Sessions {
    /// None yet.
    pub fn new() -> Sessions {
        Sessions::default()
    }

    /// The session now, or the last.
    pub fn state(&self) -> SessionState {
        // Acquire, partner: the release in `set`. Whoever sees a session sees its restart too.
        SessionState::from_word(self.word.load(Ordering::Acquire))
    }

    /// How often what was not flushed may have been lost.
    pub fn restarts(&self) -> u64 {
        // Acquire, partner: the release in `begin`.
        self.restarts.load(Ordering::Acquire)
    }

    /// Which run of the device the session is of, the same whoever asks; nothing for a device that
    /// does not say.
    pub fn run(&self) -> Option<Uuid> {
        loop {
            // Acquire, partner: the release in `name_run`.
            let before = self.run_version.load(Ordering::Acquire);
            // Relaxed: the fence orders both before the second look at the version.
            let [high, low] = [0, 1].map(|half| self.run[half].load(Ordering::Relaxed));
            // Partner: the release fence in `name_run`.
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.run_version.load(Ordering::Relaxed) == before {
                let run = Uuid::from_u64_pair(high, low);
                return (!run.is_nil()).then_some(run);
            }
            std::hint::spin_loop();
        }
    }

    /// Names the run of the session that is begun next. By the driver only.
    pub fn name_run(&self, run: Option<Uuid>) {
        let (high, low) = run.unwrap_or_default().as_u64_pair();
        // Relaxed: only this thread writes.
        let version = self.run_version.load(Ordering::Relaxed);
        self.run_version.store(version + 1, Ordering::Relaxed);
        // Partner: the acquire fence in `run`: whoever sees a half sees the odd version.
        fence(Ordering::Release);
        self.run[0].store(high, Ordering::Relaxed);
        self.run[1].store(low, Ordering::Relaxed);
        // Release, partner: the acquire in `run`.
        self.run_version.store(version + 2, Ordering::Release);
    }

    /// Begins the next session, in this state. By the driver only, on one thread, before any I/O
    /// of the session.
    pub fn begin(&self, continuity: Continuity, link: Link) -> SessionState {
        if continuity == Continuity::Restarted {
            // Only this thread writes. Release, partner: the acquire in `restarts`.
            self.restarts.store(self.restarts.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
        let state = SessionState { number: self.state().number + 1, link };
        self.set(state);
        state
    }

    /// Changes how the session is. By the driver only, on the same thread.
    pub fn change(&self, link: Link) {
        self.set(SessionState { link, ..self.state() });
    }

    fn set(&self, state: SessionState) {
        // Release, partner: the acquire in `state`.
        self.word.store(state.to_word(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_a_number_of_its_own_and_every_link_reads_as_written() {
        let sessions = Sessions::new();
        assert_eq!(sessions.state(), SessionState::NONE);
        assert_eq!(sessions.begin(Continuity::Kept, Link::Live).number, 1);
        for link in [Link::Inaccessible, Link::Refused, Link::Lost, Link::Live] {
            sessions.change(link);
            assert_eq!(sessions.state(), SessionState { number: 1, link });
        }
        assert_eq!(sessions.begin(Continuity::Kept, Link::Lost).number, 2);
    }

    #[test]
    fn only_a_restart_counts_as_one() {
        let sessions = Sessions::new();
        sessions.begin(Continuity::Kept, Link::Live);
        sessions.change(Link::Lost);
        sessions.begin(Continuity::Kept, Link::Live);
        assert_eq!(sessions.restarts(), 0);
        assert_eq!(sessions.run(), None);
        let run = Some(Uuid::from_u128(7));
        sessions.name_run(run);
        sessions.begin(Continuity::Restarted, Link::Live);
        assert_eq!((sessions.restarts(), sessions.run()), (1, run));
    }
}
