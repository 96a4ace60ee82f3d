//! Where a device keeps the record of reservations through a loss of power.
//!
//! A device that has such a place hands it out by
//! [`crate::BlockDevice::reservation_store`]. It is called on control threads, since both calls
//! block; [`load`] when the device is shared, [`ReservationStore::save`] for each change.

use std::fmt::Debug;

use thiserror::Error;
use uuid::Uuid;

use super::command::Persistence;
use super::record::DecodeError;
use super::state::Reservations;
use crate::device::BlockDevice;

/// A place for one record.
pub trait ReservationStore: Debug + Send + Sync {
    /// The record that was saved last, whole; `None` if none was. `namespace` is whose it must be.
    ///
    /// # Errors
    ///
    /// What is there cannot be read, or is another namespace's.
    fn load(&self, namespace: Uuid) -> Result<Option<Vec<u8>>, StoreError>;

    /// Replaces the record. When it returns, the new one is on the medium; when the process or the
    /// power is lost before, either the old one is or the new one, whole.
    ///
    /// # Errors
    ///
    /// The system refused. Either record may be on the medium.
    fn save(&self, namespace: Uuid, record: &[u8]) -> Result<(), StoreError>;

    /// Where it is, for messages.
    fn place(&self) -> String;
}

/// Why a record could not be loaded or saved; each says what to do where something can be done.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {action} the record of reservations {place}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Where.
        place: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It is longer than any record can be.
    #[error(
        "{place} is longer than any record of reservations: restore it from a copy, or remove it \
         to start without reservations"
    )]
    TooLong {
        /// Where.
        place: String,
    },
    /// It is no record.
    #[error(
        "{place} is damaged: restore it from a copy, or remove it to start without reservations"
    )]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// It is the record of another namespace.
    #[error(
        "{place} has the reservations of namespace {found}, not of {wanted}: give the device that \
         uuid, or remove the record to start without reservations"
    )]
    Foreign {
        /// Where.
        place: String,
        /// Whose it is.
        found: Uuid,
        /// Whose it should be.
        wanted: Uuid,
    },
}

/// The reservations that a namespace starts with: those that its device has kept, or none.
///
/// # Errors
///
/// There is a record and it cannot be used. It is not passed over: hosts rely on it.
pub fn load(device: &dyn BlockDevice, namespace: Uuid) -> Result<Reservations, StoreError> {
    let Some(store) = device.reservation_store() else {
        return Ok(Reservations::new(Persistence::Unsupported));
    };
    match store.load(namespace)? {
        None => Ok(Reservations::new(Persistence::Off)),
        Some(record) => Reservations::decode(&record)
            .map_err(|source| StoreError::Damaged { place: store.place(), source }),
    }
}
