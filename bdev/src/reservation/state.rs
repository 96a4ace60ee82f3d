//! The registrations and the reservation of a namespace, and the one function that changes them.
//!
//! Lives on the namespace's home core, off the I/O path. A command either succeeds as a whole or
//! changes nothing. A front door whose device keeps the record applies a command to a clone, stores
//! the clone's record, and only then lets the clone take the place of the original. NVMe Base 2.0
//! section 8.19, SPC-4 section 5.13.

use super::access::AccessTable;
use super::command::{Command, KeyCheck, Persistence, PersistenceChange, PreemptMode};
use super::kind::ReservationType;
use super::outcome::{Event, Notification, Outcome, Refusal};
use super::registrant::{Key, Registrant, RegistrantId};

/// Most registrants of a namespace. Bounds the scan of the access table and the record on disk.
pub const REGISTRANTS_MAX: usize = 64;

/// A registrant and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Who.
    pub registrant: Registrant,
    /// Its key, never zero.
    pub key: Key,
}

/// Who holds a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One registrant.
    One(RegistrantId),
    /// Every registrant, those of the future too.
    AllRegistrants,
}

/// A reservation that is held. Its type says whether one or all hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its type.
    pub kind: ReservationType,
    /// Who holds it.
    pub holder: Holder,
}

impl Reservation {
    /// A reservation that `id` has acquired.
    pub const fn acquired(kind: ReservationType, id: RegistrantId) -> Self {
        let holder = if kind.is_held_by_all() { Holder::AllRegistrants } else { Holder::One(id) };
        Self { kind, holder }
    }
}

/// All reservation state of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservations {
    registrations: Vec<Registration>,
    reservation: Option<Reservation>,
    persistence: Persistence,
    generation: u32,
    version: u64,
}

impl Reservations {
    /// Of a namespace without any. `persistence` says whether its device can keep a record.
    pub const fn new(persistence: Persistence) -> Self {
        let registrations = Vec::new();
        Self { registrations, reservation: None, persistence, generation: 0, version: 0 }
    }

    /// Of a record that was kept; [`super::record`] has made sure that it makes sense. The
    /// generation starts over, as it does with power.
    pub(super) fn restored(
        registrations: Vec<Registration>,
        reservation: Option<Reservation>,
        persistence: Persistence,
    ) -> Self {
        let version = u64::from(reservation.is_some());
        let this = Self { registrations, reservation, persistence, generation: 0, version };
        this.assert_invariants();
        this
    }

    /// Registrations in the order in which they were made.
    pub fn registrations(&self) -> &[Registration] {
        &self.registrations
    }

    /// The registration of one.
    pub fn registration(&self, id: &RegistrantId) -> Option<&Registration> {
        self.registrations.iter().find(|registration| registration.registrant.id == *id)
    }

    /// The reservation, if any.
    pub const fn reservation(&self) -> Option<Reservation> {
        self.reservation
    }

    /// Whether one holds the reservation.
    pub fn is_holder(&self, id: &RegistrantId) -> bool {
        let reservation = self.reservation;
        reservation.is_some_and(|held| held.holder.includes(id)) && self.registration(id).is_some()
    }

    /// Whether they outlive a loss of power.
    pub const fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Counts commands that registered, preempted or cleared; wraps.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// What every core is to have a copy of.
    pub fn access_table(&self) -> AccessTable {
        let ids = self.registrations.iter().map(|registration| registration.registrant.id);
        AccessTable::new(self.version, self.reservation, ids)
    }

    /// Does what `from` asks, or nothing.
    pub fn apply(&mut self, from: &Registrant, command: Command) -> Result<Outcome, Refusal> {
        let before = self.clone();
        let mut outcome = Outcome::default();
        match command {
            Command::Register { key, persistence } => {
                let persistence = self.changed_persistence(persistence)?;
                self.register(from, key)?;
                self.persistence = persistence;
            }
            Command::Replace { current, key, persistence } => {
                let persistence = self.changed_persistence(persistence)?;
                self.replace(from, current, key)?;
                self.persistence = persistence;
            }
            Command::Unregister { current, persistence } => {
                let persistence = self.changed_persistence(persistence)?;
                self.unregister(&from.id, current, &mut outcome)?;
                self.persistence = persistence;
            }
            Command::Acquire { current, kind } => self.acquire(&from.id, current, kind)?,
            Command::Preempt { current, target, kind, mode } => {
                self.check_key(&from.id, KeyCheck::Is(current))?;
                let removed = self.preempt(&from.id, target, kind, &mut outcome)?;
                notify(&mut outcome, &from.id, &removed, Event::RegistrationPreempted);
                if mode == PreemptMode::Abort {
                    outcome.aborts = removed;
                }
            }
            Command::Release { current, kind } => {
                self.release(&from.id, current, kind, &mut outcome)?;
            }
            Command::Clear { current } => {
                self.check_key(&from.id, KeyCheck::Is(current))?;
                self.reservation = None;
                let removed = self.remove(|_| true);
                notify(&mut outcome, &from.id, &removed, Event::ReservationPreempted);
            }
            Command::SetPersistence(change) => {
                self.persistence = self.changed_persistence(change)?;
            }
        }
        if command.counts_as_generation() {
            self.generation = self.generation.wrapping_add(1);
        }
        self.note_changes(&before, &mut outcome);
        self.assert_invariants();
        Ok(outcome)
    }

    fn register(&mut self, from: &Registrant, key: Key) -> Result<(), Refusal> {
        if key.is_zero() {
            return Err(Refusal::ZeroKey);
        }
        match self.registration(&from.id) {
            Some(registration) if registration.key == key => Ok(()),
            Some(_) => Err(Refusal::Conflict),
            None => self.add(from, key),
        }
    }

    fn replace(&mut self, from: &Registrant, check: KeyCheck, key: Key) -> Result<(), Refusal> {
        if key.is_zero() {
            return Err(Refusal::ZeroKey);
        }
        if check == KeyCheck::Ignore && self.registration(&from.id).is_none() {
            // "Without regard to its registration status": it registers.
            return self.add(from, key);
        }
        self.check_key(&from.id, check)?;
        for registration in &mut self.registrations {
            if registration.registrant.id == from.id {
                registration.key = key;
            }
        }
        Ok(())
    }

    fn unregister(
        &mut self,
        from: &RegistrantId,
        check: KeyCheck,
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        self.check_key(from, check)?;
        self.remove(|registration| registration.registrant.id == *from);
        let Some(held) = self.reservation else { return Ok(()) };
        if held.holder == Holder::One(*from) {
            self.reservation = None;
            self.notify_of_release(held.kind, from, outcome);
        }
        Ok(())
    }

    fn acquire(
        &mut self,
        from: &RegistrantId,
        current: Key,
        kind: ReservationType,
    ) -> Result<(), Refusal> {
        self.check_key(from, KeyCheck::Is(current))?;
        let wanted = Reservation::acquired(kind, *from);
        match self.reservation {
            // To acquire once more what is held is no error, to change its type is one.
            Some(held) if held != wanted => Err(Refusal::Conflict),
            _ => {
                self.reservation = Some(wanted);
                Ok(())
            }
        }
    }

    /// Unregisters those whom `target` names and says who they were.
    fn preempt(
        &mut self,
        from: &RegistrantId,
        target: Key,
        kind: ReservationType,
        outcome: &mut Outcome,
    ) -> Result<Vec<RegistrantId>, Refusal> {
        let Some(held) = self.reservation else { return self.remove_by_key(target) };
        match held.holder {
            Holder::AllRegistrants if target.is_zero() => {
                let removed = self.remove(|other| other.registrant.id != *from);
                self.reservation = Some(Reservation::acquired(kind, *from));
                Ok(removed)
            }
            Holder::One(_) if target.is_zero() => Err(Refusal::ZeroPreemptKey),
            Holder::One(holder) if self.has_key(&holder, target) => {
                let removed =
                    self.remove(|other| other.key == target && other.registrant.id != *from);
                self.reservation = Some(Reservation::acquired(kind, *from));
                if held.kind != kind {
                    let remaining = self.ids();
                    notify(outcome, from, &remaining, Event::ReservationReleased);
                }
                Ok(removed)
            }
            Holder::One(_) | Holder::AllRegistrants => self.remove_by_key(target),
        }
    }

    fn release(
        &mut self,
        from: &RegistrantId,
        current: Key,
        kind: ReservationType,
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        self.check_key(from, KeyCheck::Is(current))?;
        match self.reservation {
            Some(held) if held.holder.includes(from) => {
                if held.kind != kind {
                    return Err(Refusal::ReleaseType);
                }
                self.reservation = None;
                self.notify_of_release(kind, from, outcome);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells the other registrants that they have lost what they shared with the holder. Of the
    /// two types that only the holder had the use of, nobody is told.
    fn notify_of_release(&self, kind: ReservationType, from: &RegistrantId, outcome: &mut Outcome) {
        if kind.is_shared_with_registrants() {
            notify(outcome, from, &self.ids(), Event::ReservationReleased);
        }
    }

    fn add(&mut self, from: &Registrant, key: Key) -> Result<(), Refusal> {
        if self.registrations.len() == REGISTRANTS_MAX {
            return Err(Refusal::TooManyRegistrants);
        }
        self.registrations.push(Registration { registrant: from.clone(), key });
        Ok(())
    }

    /// Removes all registrations with a key, which must be some.
    fn remove_by_key(&mut self, key: Key) -> Result<Vec<RegistrantId>, Refusal> {
        let removed = self.remove(|registration| registration.key == key);
        if removed.is_empty() { Err(Refusal::Conflict) } else { Ok(removed) }
    }

    /// Removes registrations. What all registrants held ends with the last of them.
    fn remove(&mut self, is_gone: impl Fn(&Registration) -> bool) -> Vec<RegistrantId> {
        let gone = self.registrations.iter().filter(|registration| is_gone(registration));
        let removed = gone.map(|registration| registration.registrant.id).collect();
        self.registrations.retain(|registration| !is_gone(registration));
        let is_held_by_all =
            self.reservation.is_some_and(|held| held.holder == Holder::AllRegistrants);
        if self.registrations.is_empty() && is_held_by_all {
            self.reservation = None;
        }
        removed
    }

    fn check_key(&self, id: &RegistrantId, check: KeyCheck) -> Result<(), Refusal> {
        let registration = self.registration(id).ok_or(Refusal::Conflict)?;
        match check {
            KeyCheck::Is(key) if key != registration.key => Err(Refusal::Conflict),
            KeyCheck::Is(_) | KeyCheck::Ignore => Ok(()),
        }
    }

    fn has_key(&self, id: &RegistrantId, key: Key) -> bool {
        self.registration(id).is_some_and(|registration| registration.key == key)
    }

    fn ids(&self) -> Vec<RegistrantId> {
        self.registrations.iter().map(|registration| registration.registrant.id).collect()
    }

    fn changed_persistence(&self, change: PersistenceChange) -> Result<Persistence, Refusal> {
        match (self.persistence, change) {
            (Persistence::Unsupported, PersistenceChange::On) => {
                Err(Refusal::PersistenceUnsupported)
            }
            (Persistence::Unsupported, _) => Ok(Persistence::Unsupported),
            (persistence, PersistenceChange::Keep) => Ok(persistence),
            (_, PersistenceChange::Off) => Ok(Persistence::Off),
            (_, PersistenceChange::On) => Ok(Persistence::On),
        }
    }

    fn note_changes(&mut self, before: &Self, outcome: &mut Outcome) {
        outcome.access_changed = self.access_table() != before.access_table();
        outcome.record_changed = self.kept() != before.kept();
        if outcome.access_changed {
            self.version += 1;
        }
    }

    /// What outlives a loss of power: nothing, unless asked for.
    fn kept(&self) -> Option<(&[Registration], Option<Reservation>)> {
        let is_kept = self.persistence == Persistence::On;
        is_kept.then_some((&self.registrations, self.reservation))
    }

    fn assert_invariants(&self) {
        assert!(self.registrations.len() <= REGISTRANTS_MAX, "registrants are bounded");
        assert!(self.registrations.iter().all(|own| !own.key.is_zero()), "no key is zero");
        let Some(held) = self.reservation else { return };
        assert!(!self.registrations.is_empty(), "what is held has a registrant");
        match held.holder {
            Holder::AllRegistrants => assert!(held.kind.is_held_by_all()),
            Holder::One(id) => {
                assert!(!held.kind.is_held_by_all());
                assert!(self.registration(&id).is_some(), "a holder is registered");
            }
        }
    }
}

impl Command {
    /// Whether it counts once it has succeeded: NVMe Base 2.0 section 7.5 (GEN), SPC-4 section
    /// 6.14.2. To acquire and to release do not.
    const fn counts_as_generation(self) -> bool {
        match self {
            Self::Register { .. }
            | Self::Replace { .. }
            | Self::Unregister { .. }
            | Self::Preempt { .. }
            | Self::Clear { .. } => true,
            Self::Acquire { .. } | Self::Release { .. } | Self::SetPersistence(_) => false,
        }
    }
}

/// Notes an event for all of `ids` but the one that asked.
fn notify(outcome: &mut Outcome, from: &RegistrantId, ids: &[RegistrantId], event: Event) {
    let others = ids.iter().filter(|id| *id != from);
    outcome.notifications.extend(others.map(|id| Notification { to: *id, event }));
}

#[cfg(test)]
mod tests;
