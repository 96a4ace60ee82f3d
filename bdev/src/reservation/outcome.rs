//! What comes of a command: who is to be told, what is to be stored, or why not.

use thiserror::Error;

use super::registrant::RegistrantId;

/// Why a command changes nothing. Each front door has its own status for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    /// It is in conflict with a registration or with the reservation.
    #[error("in conflict with a registration or the reservation")]
    Conflict,
    /// A key of zero cannot be registered.
    #[error("a key of zero cannot be registered")]
    ZeroKey,
    /// Key zero preempts only a reservation that all registrants hold.
    #[error("key zero preempts only what all registrants hold")]
    ZeroPreemptKey,
    /// The reservation that is held is of another type than the one to be released.
    #[error("the reservation is of another type")]
    ReleaseType,
    /// [`super::REGISTRANTS_MAX`] are registered.
    #[error("no more registrants fit")]
    TooManyRegistrants,
    /// The device cannot keep reservations through a loss of power.
    #[error("reservations cannot be kept through a loss of power")]
    PersistenceUnsupported,
}

/// What a registrant is told of when another one's command takes something from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Its registration was removed by a preemption.
    RegistrationPreempted,
    /// The reservation was released, or became one of another type.
    ReservationReleased,
    /// All registrations and the reservation were cleared.
    ReservationPreempted,
}

/// An event and the registrant that it is for. The front door may find it masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Whom to tell.
    pub to: RegistrantId,
    /// What of.
    pub event: Event,
}

/// What comes of a command that succeeds. Never names the one that asked in a notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// Whom to tell what.
    pub notifications: Vec<Notification>,
    /// Whose commands are to be aborted, once every core has the new table. The one that asked is
    /// among them if it preempted its own key; the command that asked is not to be aborted.
    pub aborts: Vec<RegistrantId>,
    /// The [`super::AccessTable`] is another: every core needs it before the command is answered.
    pub access_changed: bool,
    /// The record is another: it must be stored before the command is answered.
    pub record_changed: bool,
}
