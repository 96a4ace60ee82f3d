//! The reservation of one child: what keeps an older owner's writes from a remote replica.
//!
//! One a child whose device keeps reservations, owned by [`super::Tracked`], on the home core; the
//! commands go through the device's driver and never wait here. An owner registers a key made of
//! its generation, takes the reservation from whoever is older, which ends what those have in
//! flight, and claims the label only then (replica-truth section 5). Its type lets anyone read, so
//! that labels can be looked at; reads of an older owner are kept out by its lease (rule 5). A key
//! that no owner made is an operator's business: the child is left alone.
//!
//! The reservation is not made to outlive the target: a target that was started anew is one whose
//! every connection is distrusted until it was claimed anew.

use std::sync::Arc;

use bdev::nvme::status::StatusCodeType;
use bdev::reservation::device::{Answer, Outcome, Pending, Report, Request};
use bdev::reservation::{
    Command, DeviceReservations, Key, KeyCheck, PersistenceChange, PreemptMode, ReservationType,
};
use reactor::sleep::Waker;
use reactor::{Cx, Wake};

use crate::truth::names::{Generation, Promise};

/// What a child is reserved with.
const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// Reports that one claim looks at: each removes an older owner, but for few.
const ROUNDS_MAX: u32 = 64;

/// Highest byte of the keys that owners make.
const MARK: u64 = 0x6d;
const MARK_SHIFT: u32 = 56;
const COUNTER_SHIFT: u32 = 24;
const OWNER_BITS: u32 = 24;

/// The key of an owner: greater for a newer one. Nothing beyond 2^32 owners.
fn key_of(generation: Generation) -> Option<Key> {
    let counter = u64::from(u32::try_from(generation.counter).ok()?);
    let (high, _) = generation.owner.as_u64_pair();
    let owner = high >> (u64::BITS - OWNER_BITS);
    Some(Key(MARK << MARK_SHIFT | counter << COUNTER_SHIFT | owner))
}

/// The counter of the owner that made a key; nothing for a key of somebody else.
fn counter_of(key: Key) -> Option<u64> {
    (key.0 >> MARK_SHIFT == MARK).then_some(key.0 << 8 >> (8 + COUNTER_SHIFT))
}

/// What a claim has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody older writes any more; the label may be claimed with this promise.
    Held(Promise),
    /// It cannot be reserved after all, and is fenced by its label alone.
    Unable(Promise),
    /// An owner with this higher counter was here; the label says whether that was one of the
    /// volume's.
    Overtaken(u64, Promise),
    /// Somebody else has it, with this key.
    Foreign(Key),
    /// It did not answer.
    Lost,
}

/// What a report makes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Change(Command),
    Done,
    Overtaken(u64),
    Foreign(Key),
}

/// The next step towards being the only registrant, and the holder.
fn next(report: &Report, key: Key) -> Next {
    let is_other = |other: &Key| *other != key;
    let mut others = report.registrants.iter().map(|one| one.key).filter(is_other);
    let is_registered = report.registrants.iter().any(|one| one.key == key);
    let is_holder = report.registrants.iter().any(|one| one.key == key && one.is_holder);
    if let Some(foreign) = others.clone().find(|other| counter_of(*other).is_none()) {
        return Next::Foreign(foreign);
    }
    if let Some(newer) = others.clone().filter(|other| other.0 > key.0).max_by_key(|key| key.0) {
        return Next::Overtaken(counter_of(newer).expect("foreign keys were looked for"));
    }
    if !is_registered {
        let persistence = PersistenceChange::Keep;
        return Next::Change(Command::Register { key, persistence });
    }
    if let Some(target) = others.next() {
        let (current, kind, mode) = (key, KIND, PreemptMode::Abort);
        return Next::Change(Command::Preempt { current, target, kind, mode });
    }
    match is_holder && report.kind == Some(KIND) {
        true => Next::Done,
        false => Next::Change(Command::Acquire { current: key, kind: KIND }),
    }
}

#[derive(Debug)]
struct Claim {
    promise: Promise,
    key: Key,
    asked: Request,
    pending: Pending,
    rounds: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Warden {
    device: Arc<dyn DeviceReservations>,
    claim: Option<Claim>,
    /// What came of a claim, until it is taken.
    verdict: Option<Verdict>,
    /// The key under which it is held.
    held: Option<Key>,
    is_unable: bool,
    release: Option<Pending>,
    waker: Option<Waker>,
}

impl Warden {
    /// Of a child whose device can be reserved so.
    pub fn new(device: Option<Arc<dyn DeviceReservations>>) -> Option<Warden> {
        let device = device.filter(|device| device.abilities().has(KIND))?;
        Some(Warden {
            device,
            claim: None,
            verdict: None,
            held: None,
            is_unable: false,
            release: None,
            waker: None,
        })
    }

    /// True when writes of an older owner do not reach the child, and a conflict says that this
    /// owner is one.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// True when it turned out that the device cannot be reserved.
    pub fn is_unable(&self) -> bool {
        self.is_unable
    }

    /// True when a claim may begin.
    pub fn is_free(&self) -> bool {
        self.claim.is_none() && self.verdict.is_none()
    }

    /// Begins to take the reservation for an owner; see [`Warden::poll`].
    pub fn claim(&mut self, cx: &Cx, promise: Promise) {
        assert!(self.is_free(), "one claim at a time");
        self.waker.clone_from(&cx.waker);
        match key_of(promise.generation).filter(|_| !self.is_unable) {
            Some(key) => self.ask(promise, key, Request::Report, 0),
            None => self.verdict = Some(Verdict::Unable(promise)),
        }
    }

    fn ask(&mut self, promise: Promise, key: Key, asked: Request, rounds: u32) {
        let (reply, pending) = Pending::new(self.waker.clone());
        self.device.begin(asked, reply);
        self.claim = Some(Claim { promise, key, asked, pending, rounds });
    }

    /// The device has started anew, and knows of no registrations any more.
    pub fn restarted(&mut self) {
        self.held = None;
    }

    /// Forgets a claim; what was begun of it may still come into force.
    pub fn give_up(&mut self) {
        (self.claim, self.verdict) = (None, None);
    }

    /// What has come of the claim, if `take` wants it now.
    pub fn poll(&mut self, take: bool) -> Option<Verdict> {
        while let Some(outcome) = self.claim.as_ref().and_then(|claim| claim.pending.take()) {
            let claim = self.claim.take().expect("it was just looked at");
            self.verdict = self.go_on(claim, outcome);
        }
        if take { self.verdict.take() } else { None }
    }

    fn go_on(&mut self, claim: Claim, outcome: Outcome) -> Option<Verdict> {
        let Claim { promise, key, asked, rounds, .. } = claim;
        let request = match (outcome, asked) {
            (Ok(Answer::Report(report)), _) => match next(&report, key) {
                _ if rounds >= ROUNDS_MAX => return Some(Verdict::Lost),
                Next::Change(command) => Request::Change(command),
                Next::Done => {
                    self.held = Some(key);
                    return Some(Verdict::Held(promise));
                }
                Next::Overtaken(counter) => return Some(Verdict::Overtaken(counter, promise)),
                Next::Foreign(key) => return Some(Verdict::Foreign(key)),
            },
            (Ok(Answer::Changed), _) => Request::Report,
            (Err(status), Request::Change(Command::Register { .. }))
                if status.has_code(bdev::Status::RESERVATION_CONFLICT) =>
            {
                // An earlier claim of this host's.
                let (current, persistence) = (KeyCheck::Ignore, PersistenceChange::Keep);
                Request::Change(Command::Replace { current, key, persistence })
            }
            (Err(status), Request::Change(_))
                if status.has_code(bdev::Status::RESERVATION_CONFLICT) =>
            {
                // Somebody came in between: the next report says who.
                Request::Report
            }
            (Err(status), _) if status.code_type() == StatusCodeType::Path => {
                return Some(Verdict::Lost);
            }
            (Err(status), Request::Report) if is_refusal(status) => {
                // It says that it can, and does not.
                self.is_unable = true;
                return Some(Verdict::Unable(promise));
            }
            (Err(_), _) => return Some(Verdict::Lost),
        };
        let rounds = rounds + u32::from(request == Request::Report);
        self.ask(promise, key, request, rounds);
        None
    }

    /// Lets the child go: whoever comes next need not take it.
    pub fn release(&mut self) {
        self.give_up();
        let Some(key) = self.held.take() else { return };
        let (current, persistence) = (KeyCheck::Is(key), PersistenceChange::Keep);
        let (reply, pending) = Pending::new(self.waker.clone());
        self.device.begin(Request::Change(Command::Unregister { current, persistence }), reply);
        self.release = Some(pending);
    }

    /// True when nothing is left of a release.
    pub fn is_released(&mut self) -> bool {
        if self.release.as_ref().is_some_and(|pending| pending.take().is_some()) {
            self.release = None;
        }
        self.release.is_none()
    }

    /// When it must be polled next: answers wake the core, where it has something to be woken by.
    pub fn wake(&self) -> Wake {
        let is_waiting = self.claim.is_some() || self.release.is_some();
        match (&self.verdict, is_waiting && self.waker.is_none()) {
            (None, false) => Wake::Never,
            _ => Wake::Now,
        }
    }
}

fn is_refusal(status: bdev::Status) -> bool {
    status.has_code(bdev::Status::INVALID_OPCODE) || status.has_code(bdev::Status::INVALID_FIELD)
}

#[cfg(test)]
mod tests {
    use bdev::reservation::device::Reported;
    use uuid::Uuid;

    use super::*;

    fn generation(counter: u64, owner: u128) -> Generation {
        Generation { counter, owner: Uuid::from_u128(owner) }
    }

    fn key(counter: u64) -> Key {
        key_of(generation(counter, 0)).unwrap()
    }

    fn report(registrants: &[(Key, bool)]) -> Report {
        let entry = |(key, is_holder): &(Key, bool)| Reported {
            host_id: [0; 16],
            key: *key,
            is_holder: *is_holder,
        };
        let kind = registrants.iter().any(|(_, is_holder)| *is_holder).then_some(KIND);
        let registrants = registrants.iter().map(entry).collect();
        Report { kind, registrants, ..Report::default() }
    }

    #[test]
    fn a_newer_owner_has_a_greater_key_up_to_the_last() {
        let last = u64::from(u32::MAX);
        for (older, newer) in [
            (generation(1, 9 << 104), generation(2, 1 << 104)),
            (generation(2, 1 << 104), generation(2, 2 << 104)),
            (generation(last - 1, u128::MAX), generation(last, 0)),
        ] {
            assert!(key_of(older).unwrap().0 < key_of(newer).unwrap().0);
            assert_eq!(counter_of(key_of(older).unwrap()), Some(older.counter));
        }
        assert_eq!(key_of(generation(last + 1, 0)), None);
        assert_eq!(counter_of(Key(1)), None);
    }

    #[test]
    fn a_claim_registers_removes_older_owners_and_acquires() {
        let persistence = PersistenceChange::Keep;
        let preempt = |target| {
            let (current, mode) = (key(3), PreemptMode::Abort);
            Next::Change(Command::Preempt { current, target, kind: KIND, mode })
        };
        let register = Next::Change(Command::Register { key: key(3), persistence });
        let acquire = Next::Change(Command::Acquire { current: key(3), kind: KIND });
        let (own, old, older) = (key(3), key(2), key(1));
        assert_eq!(next(&report(&[]), own), register);
        assert_eq!(next(&report(&[(old, true)]), own), register);
        assert_eq!(next(&report(&[(old, true), (own, false)]), own), preempt(old));
        assert_eq!(next(&report(&[(own, true), (older, false)]), own), preempt(older));
        assert_eq!(next(&report(&[(own, false)]), own), acquire);
        assert_eq!(next(&report(&[(own, true)]), own), Next::Done);
        let other_kind = Some(ReservationType::WriteExclusive);
        let other_kind = Report { kind: other_kind, ..report(&[(own, true)]) };
        assert_eq!(next(&other_kind, own), acquire);
    }

    #[test]
    fn a_newer_owner_and_a_strangers_key_are_left_alone() {
        let own = key(3);
        let newer = report(&[(own, true), (key(5), false), (key(4), false)]);
        assert_eq!(next(&newer, own), Next::Overtaken(5));
        assert_eq!(next(&report(&[(Key(7), false), (key(5), true)]), own), Next::Foreign(Key(7)));
    }
}
