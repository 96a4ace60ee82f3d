//! Children that were lost and can be reached again: they are rebuilt without being asked.
//!
//! Only what failed by itself comes back so. What an operator took out, or whose rebuild one gave
//! up, waits for the operator; so does a local device, whose errors do not go away by themselves.
//! One at a time, and less and less often where it does not last: host writes wait for a target as
//! they do for a member. On the home core.

use bdev::session::Link;
use reactor::{Cx, Nanos, Wake};

use super::closing::Closing;
use super::{Child, Home};
use crate::child::{ChildIndex, ChildState, FaultReason};
use crate::config::ConfigError;
use crate::truth::Discard;

/// How often lost children are looked at.
const LOOK_INTERVAL: Nanos = Nanos::from_millis(100);

/// From a loss to the first attempt, for a device that was connected anew meanwhile; twice as long
/// for each attempt after that.
const FIRST_WAIT: Nanos = Nanos::from_millis(200);

/// The same for a device that failed and was reachable all the time.
const SAME_SESSION_WAIT: Nanos = Nanos::from_secs(10);

/// The longest wait.
pub const LONGEST_WAIT: Nanos = Nanos::from_secs(60);

/// A child that is a member for so long is well again.
const STABLE_AFTER: Nanos = Nanos::from_secs(60);

/// Who brings children back that were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Comebacks {
    /// An operator, by [`Home::begin_target`].
    #[default]
    AsTold,
    /// The home does, as soon as they can be reached.
    ByThemselves,
}

/// What is known of a child's coming back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comeback {
    /// Nothing is done before an operator says so.
    is_held: bool,
    /// The session of the device when it was lost.
    lost_in: u64,
    /// Since when it was seen in its present state.
    since: Option<(ChildState, Nanos)>,
    attempts: u32,
}

impl Comeback {
    /// Of a child that is known to be a member, or is being judged.
    pub fn free() -> Comeback {
        Comeback { is_held: false, lost_in: 0, since: None, attempts: 0 }
    }

    /// Of a child that waits for an operator.
    pub fn held() -> Comeback {
        Comeback { is_held: true, ..Comeback::free() }
    }

    /// It was lost, in this session of its device.
    pub fn lost(&mut self, session: u64) {
        self.lost_in = session;
    }

    /// An operator does not want it back.
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    /// Somebody brings it back.
    pub fn release(&mut self) {
        self.is_held = false;
    }

    /// Since when it has been in this state, as far as it was looked at.
    fn note(&mut self, state: ChildState, now: Nanos) -> Nanos {
        match self.since {
            Some((known, since)) if known == state => since,
            _ => {
                self.since = Some((state, now));
                now
            }
        }
    }

    fn wait(&self, session: u64) -> Nanos {
        let least = if session == self.lost_in { SAME_SESSION_WAIT } else { FIRST_WAIT };
        let doubled = least.0.saturating_mul(1 << self.attempts.min(16));
        Nanos(doubled.min(LONGEST_WAIT.0))
    }
}

/// When children are looked at next; nothing while there is none to be looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    comebacks: Comebacks,
    next: Option<Nanos>,
}

impl Looks {
    /// A child was lost.
    pub fn begin(&mut self) {
        if self.comebacks == Comebacks::ByThemselves {
            self.next.get_or_insert(Nanos(0));
        }
    }

    pub fn wake(&self) -> Wake {
        self.next.map_or(Wake::Never, Wake::At)
    }
}

impl Home {
    /// Says who brings children back that were lost; nobody but an operator unless told.
    #[must_use]
    pub fn with_comebacks(mut self, comebacks: Comebacks) -> Home {
        self.looks.comebacks = comebacks;
        self.looks.begin();
        self
    }

    /// Begins to rebuild a child that can be reached again, if it is time; returns how much there
    /// was to do.
    pub(super) fn see_to_comebacks(&mut self, cx: &mut Cx) -> usize {
        match self.looks.next {
            Some(next) if next <= cx.now() => {}
            _ => return 0,
        }
        let (mut is_any, mut ready) = (false, None);
        for child in ChildIndex::all() {
            let Some(known) = &mut self.children[child.get()] else { continue };
            match known.look(cx.now()) {
                Sight::Well => {}
                Sight::Watched => is_any = true,
                Sight::Ready => (is_any, ready) = (true, ready.or(Some(child))),
            }
        }
        self.looks.next = is_any.then(|| cx.now() + LOOK_INTERVAL);
        match ready {
            Some(child) if self.may_begin() => self.bring_back(cx, child),
            _ => 0,
        }
    }

    /// True when the volume serves, and nothing is being rebuilt.
    fn may_begin(&self) -> bool {
        let stops = self.stops;
        let serves = !(stops.unassembled || stops.by_truth || stops.by_operator || stops.ended);
        let is_still = !self.is_changing() && self.rebuild.job.is_none();
        serves && is_still && self.closing == Closing::No
    }

    fn bring_back(&mut self, cx: &mut Cx, child: ChildIndex) -> usize {
        let known = self.children[child.get()].as_mut().expect("it was just looked at");
        let name = known.config.name.clone();
        if let Err(ConfigError::Busy) = self.begin_target(cx, &name, Discard::No) {
            // At the next look.
            return 0;
        }
        let known = self.children[child.get()].as_mut().expect("it is still there");
        known.comeback.attempts = known.comeback.attempts.saturating_add(1);
        known.comeback.since = None;
        1
    }
}

/// What a look at a child says.
enum Sight {
    /// There is nothing to do for it.
    Well,
    /// It is to be looked at again.
    Watched,
    /// It can be brought back now.
    Ready,
}

impl Child {
    fn look(&mut self, now: Nanos) -> Sight {
        let since = self.comeback.note(self.state, now);
        match self.state {
            ChildState::Open if self.comeback.attempts == 0 => return Sight::Well,
            ChildState::Open => {
                if now.since(since) >= STABLE_AFTER {
                    self.comeback.attempts = 0;
                }
                return Sight::Watched;
            }
            ChildState::Rebuilding | ChildState::Init => return Sight::Watched,
            ChildState::Faulted(reason) if reason != FaultReason::Rpc => {}
            _ => return Sight::Well,
        }
        let Some(sessions) = self.config.device.sessions() else { return Sight::Well };
        let session = sessions.state();
        let is_due = now.since(since) >= self.comeback.wait(session.number);
        match session.link {
            _ if self.comeback.is_held => Sight::Well,
            Link::Live if is_due => Sight::Ready,
            _ => Sight::Watched,
        }
    }
}
