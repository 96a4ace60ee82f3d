//! Children that are out and can be reached: they are rebuilt without being asked.
//!
//! The one place that decides whether, when and how often: for those that were lost while the
//! volume served, and for those that were behind when it was opened, or came later. Only what is
//! out by itself comes back so. What an operator took out, or whose rebuild one gave up, waits for
//! the operator (`nexus online`, `rebuild start`). So does a local device that has failed here: its
//! errors do not go away by themselves, nothing tells when it is well again, and each attempt would
//! make hosts wait for a disk that fails. One that was merely behind is brought back, once.
//! One at a time, and less and less often where it does not last: host writes wait for a target as
//! they do for a member. On the home core. A device that could not be opened is opened by the
//! engine, as that blocks, by the pace that is said here ([`ABSENT`]).

use bdev::session::{Link, SessionState};
use reactor::{Cx, Nanos, Wake};

use super::closing::Closing;
use super::{Child, Home};
use crate::child::{ChildIndex, ChildState, FaultReason};
use crate::config::{ConfigError, Standing};
use crate::truth::{Discard, NotRebuilt};

/// How often lost children are looked at.
const LOOK_INTERVAL: Nanos = Nanos::from_millis(100);

/// How long is waited before an attempt: twice as long for each that was in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Before the first attempt.
    pub first: Nanos,
    /// The longest wait.
    pub longest: Nanos,
}

/// For a child that was connected anew since it was lost, or that was never lost here.
pub const FRESH: BackOff = BackOff { first: Nanos::from_millis(200), longest: LONGEST_WAIT };

/// For a child that failed and was reachable all the time.
pub const SAME_SESSION: BackOff = BackOff { first: Nanos::from_secs(10), longest: LONGEST_WAIT };

/// For a child whose device could not be opened, to open it: that costs the volume nothing, so
/// one that comes is noticed within seconds.
pub const ABSENT: BackOff =
    BackOff { first: Nanos::from_millis(250), longest: Nanos::from_secs(5) };

/// The longest wait between two rebuilds of a child.
pub const LONGEST_WAIT: Nanos = Nanos::from_secs(60);

impl BackOff {
    /// How long is waited after so many attempts in vain.
    pub fn wait(self, attempts: u32) -> Nanos {
        let doubled = self.first.0.saturating_mul(1 << attempts.min(16));
        Nanos(doubled.min(self.longest.0))
    }
}

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
    /// The session of the device when it was lost; nothing while it was not lost here.
    lost_in: Option<u64>,
    /// Since when it was seen in its present state.
    since: Option<(ChildState, Nanos)>,
    attempts: u32,
}

impl Comeback {
    /// Of a child that is known to be a member, or is being judged.
    pub fn free() -> Comeback {
        Comeback { is_held: false, lost_in: None, since: None, attempts: 0 }
    }

    /// Of a child that is put in like this.
    pub fn of(standing: Standing) -> Comeback {
        match standing {
            Standing::Member | Standing::ByTruth => Comeback::free(),
            Standing::OutOfSync => Comeback::held(),
        }
    }

    /// Of a child that waits for an operator.
    pub fn held() -> Comeback {
        Comeback { is_held: true, ..Comeback::free() }
    }

    /// It was lost, in this session of its device.
    pub fn lost(&mut self, session: u64) {
        self.lost_in = Some(session);
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
        let back_off = if self.lost_in == Some(session) { SAME_SESSION } else { FRESH };
        back_off.wait(self.attempts)
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
        match self.begin_target(cx, &name, Discard::No) {
            Err(ConfigError::Busy)
            | Err(ConfigError::NotRebuilt { source: NotRebuilt::Busy, .. }) => {
                // At the next look.
                return 0;
            }
            Ok(_) | Err(_) => {}
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
        let session = match self.config.device.sessions() {
            Some(sessions) => sessions.state(),
            None if self.comeback.lost_in.is_some() || self.comeback.attempts > 0 => {
                return Sight::Well;
            }
            None => SessionState { number: 0, link: Link::Live },
        };
        let is_due = now.since(since) >= self.comeback.wait(session.number);
        match session.link {
            _ if self.comeback.is_held => Sight::Well,
            Link::Live if is_due => Sight::Ready,
            _ => Sight::Watched,
        }
    }
}
