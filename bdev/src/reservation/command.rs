//! What a host may ask of the reservations of a namespace.
//!
//! Built by a front door from its wire format, after it has refused every value that has no
//! meaning. NVMe Base 2.0 sections 7.2 to 7.4, SPC-4 section 6.14.

use super::kind::ReservationType;
use super::registrant::Key;

/// The key that a registrant says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCheck {
    /// It must be this one.
    Is(Key),
    /// Whatever it is (IEKEY of NVMe, "ignore existing key" of SCSI).
    Ignore,
}

/// Whether registrations and reservation outlive a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The device below cannot keep them.
    Unsupported,
    /// They do not.
    Off,
    /// They do.
    On,
}

/// What a registration does to [`Persistence`] on the way (CPTPL of NVMe, APTPL of SCSI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistenceChange {
    /// Nothing.
    Keep,
    /// They are lost with power.
    Off,
    /// They are kept.
    On,
}

/// What becomes of the commands of those whom a preemption unregisters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreemptMode {
    /// They run to their end.
    Finish,
    /// They are aborted ("preempt and abort").
    Abort,
}

/// A command of one registrant, or of one that wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Register a key. To register the key again that is registered is no error.
    Register {
        /// The key.
        key: Key,
        /// What becomes of persistence.
        persistence: PersistenceChange,
    },
    /// Replace the registered key. With [`KeyCheck::Ignore`] there need not be one.
    Replace {
        /// The key until now.
        current: KeyCheck,
        /// The key from now on.
        key: Key,
        /// What becomes of persistence.
        persistence: PersistenceChange,
    },
    /// Unregister; what the registrant alone holds is released.
    Unregister {
        /// The key until now.
        current: KeyCheck,
        /// What becomes of persistence.
        persistence: PersistenceChange,
    },
    /// Acquire a reservation.
    Acquire {
        /// The registrant's key.
        current: Key,
        /// Type of the reservation.
        kind: ReservationType,
    },
    /// Unregister all that have a key and, if the holder is among them, take its place.
    Preempt {
        /// The registrant's key.
        current: Key,
        /// The key of those to be unregistered. Zero means all others, where all hold.
        target: Key,
        /// Type of the reservation that takes the place of the old one.
        kind: ReservationType,
        /// What becomes of their commands.
        mode: PreemptMode,
    },
    /// Release the reservation. Of one that does not hold it: no effect, no error.
    Release {
        /// The registrant's key.
        current: Key,
        /// Type of the reservation that is held.
        kind: ReservationType,
    },
    /// Release the reservation, whoever holds it, and unregister everyone.
    Clear {
        /// The registrant's key.
        current: Key,
    },
    /// Change persistence alone (a feature of NVMe).
    SetPersistence(PersistenceChange),
}
