//! Reservations of a namespace: who may read it, who may write it, and how hosts change that.
//!
//! One state machine for every front door. NVMe reservations (NVMe Base 2.0 section 8.19, commands
//! in sections 7.2 to 7.5) and SCSI persistent reservations (SPC-4 section 5.13) are the same
//! machine under two spellings, and a device that is shared by both at once has one of these:
//! whoever holds it over NVMe is in the way of a SCSI initiator too.
//!
//! [`Reservations`] is plain data with one transition function and lives on the home core of its
//! namespace. It reads no clock, keeps no lock and knows no wire format. What the other cores need
//! of it is an [`AccessTable`], which each of them keeps a copy of and asks before it submits;
//! [`Fences`] tell when nothing is at a device any more that the table forbids. The [`Keeper`]
//! takes each command through all of that and through a [`ReservationStore`].
//! [`record`] turns what survives a loss of power into bytes and back, [`nvme`] is the glue to
//! NVMe's commands, statuses and report. [`device`] is the other direction: reservations that a
//! device keeps itself, and that we ask for as its host.
//!
//! Where the two specifications differ, and who deals with it:
//!
//! * Who registers: a host, by its identifier, or an I_T nexus. The machine compares a
//!   [`RegistrantId`] and never looks inside. A SCSI front door derives one from initiator port and
//!   target port, and registers one for each target port where a command is for all of them. What
//!   a full status must say about a nexus that is no longer there is the [`RegistrantName`].
//! * Register: SCSI has one service action where NVMe has three actions. Key to zero is
//!   [`Command::Unregister`], key from zero is [`Command::Register`], key to key is
//!   [`Command::Replace`]; "ignore existing key" is [`KeyCheck::Ignore`]. To unregister what is not
//!   registered succeeds in SCSI without effect; its front door asks
//!   [`Reservations::registration`] first.
//! * Codes of the six types: [`ReservationType`] has both.
//! * Errors: a [`Refusal`] says what is wrong, each front door has its own status for it.
//! * Notifications: the three [`Event`]s are log page entries of NVMe and unit attentions of SCSI,
//!   raised by the same commands for the same registrants.

mod access;
mod command;
pub mod device;
mod fence;
pub mod keeper;
mod kind;
pub mod nvme;
#[cfg(test)]
mod oracle;
mod outcome;
pub mod record;
mod registrant;
mod state;
mod store;

pub use access::{Access, AccessClass, AccessTable, Grant, Role};
pub use command::{Command, KeyCheck, Persistence, PersistenceChange, PreemptMode};
pub use device::DeviceReservations;
pub use fence::Fences;
pub use keeper::Keeper;
pub use kind::ReservationType;
pub use outcome::{Event, Notification, Outcome, Refusal};
pub use record::DecodeError;
pub use registrant::{
    Key, NAME_BYTES_MAX, NameTooLong, Protocol, Registrant, RegistrantId, RegistrantName,
};
pub use state::{Holder, REGISTRANTS_MAX, Registration, Reservation, Reservations};
pub use store::{ReservationStore, StoreError, load};
