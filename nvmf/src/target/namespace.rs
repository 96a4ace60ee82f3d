//! A namespace: a block device under a number, with an identity that hosts remember.
//!
//! Immutable, part of a [`crate::target::subsystem::Subsystem`], read by every core.

use std::sync::Arc;

use bdev::nvme::log_page::AnaState;
use bdev::reservation::{Grant, StoreError};
use bdev::{BlockDevice, Geometry, Limits, Status};
use reactor::slab::SlotId;
use uuid::{Uuid, uuid};

use super::allocation::KnownAllocation;
use super::reservation::KeptReservations;
use super::statistics::NamespaceStatistics;
use crate::fabrics::Nqn;

/// The name space, in the sense of RFC 4122, of identities derived here. Never to be changed: a
/// host drops a namespace whose identity differs after a reconnect.
const IDENTITY_SPACE: Uuid = uuid!("6b1f6a52-86e5-4b1c-9d4e-0c5b7f1f2a90");

/// A namespace identifier: 1 to [`super::limits::NAMESPACES_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(pub u32);

/// Whether hosts may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As the device allows.
    ReadWrite,
    /// Writes are refused whatever the device allows.
    ReadOnly,
}

/// A block device under a number.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its number in its subsystem.
    pub id: NamespaceId,
    /// What holds its blocks.
    pub device: Arc<dyn BlockDevice>,
    /// Its identity, the same over restarts.
    pub uuid: Uuid,
    /// Whether hosts may write.
    pub access: Access,
    /// How good this way to it is. Every namespace is an ANA group of its own, numbered like it.
    pub ana: AnaState,
    /// The size of the device when the namespace was made: what hosts were told.
    pub geometry: Geometry,
    /// What hosts have moved; has a cell for each core, or else counts nothing. To be kept when a
    /// change makes the namespace anew.
    pub statistics: Arc<NamespaceStatistics>,
    /// The reservations that it starts with, and where they are kept.
    pub reservations: Arc<KeptReservations>,
    /// What is known of the blocks of its device.
    pub allocation: Arc<KnownAllocation>,
}

/// The way of a queue to a namespace: looked up for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespacePath {
    /// The core's root.
    pub root: SlotId,
    /// Why no I/O may go there at present.
    pub refusal: Option<Status>,
    /// What the reservation there lets the queue's host do.
    pub grant: Grant,
    /// Which namespace it is, whatever its number.
    pub uuid: Uuid,
}

impl Namespace {
    /// A namespace of the subsystem called `subsystem`, optimized, without statistics; its
    /// identity is the device's own, or else derived from the names.
    pub fn new(
        subsystem: &Nqn,
        id: NamespaceId,
        device: Arc<dyn BlockDevice>,
        access: Access,
    ) -> Self {
        let uuid = device.uuid().unwrap_or_else(|| Self::derived_uuid(subsystem, id));
        Self {
            id,
            uuid,
            access,
            ana: AnaState::Optimized,
            geometry: device.geometry(),
            statistics: Arc::new(NamespaceStatistics::new(0)),
            reservations: Arc::new(KeptReservations::none()),
            allocation: Arc::new(KnownAllocation::at_once(&*device)),
            device,
        }
    }

    /// The same with the reservations that its device has kept. Blocks: on a control thread, once
    /// for a device that is shared; what is made of the namespace later has them from it.
    ///
    /// # Errors
    ///
    /// There is a record, and it cannot be used.
    pub fn with_kept_reservations(self) -> Result<Self, StoreError> {
        let reservations = KeptReservations::load(&*self.device, self.uuid)?;
        Ok(Self { reservations: Arc::new(reservations), ..self })
    }

    /// The same with what its device knows of its blocks, where it takes a thread to ask. On a
    /// control thread, as [`Namespace::with_kept_reservations`].
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn with_known_allocation(self) -> std::io::Result<Self> {
        let allocation = KnownAllocation::of(&*self.device)?;
        Ok(Self { allocation: Arc::new(allocation), ..self })
    }

    /// The identity of a namespace whose device has none: the same for the same names, always.
    pub fn derived_uuid(subsystem: &Nqn, id: NamespaceId) -> Uuid {
        let name = format!("{subsystem}/{}", id.0);
        Uuid::new_v5(&IDENTITY_SPACE, name.as_bytes())
    }

    /// The NGUID (NVM Command Set 1.0 figure 97): the bytes of the UUID.
    pub fn nguid(&self) -> [u8; 16] {
        self.uuid.into_bytes()
    }

    /// Whether writes are refused, by the namespace or by its device.
    pub fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly || self.limits().read_only
    }

    /// Why I/O is refused in its ANA state (NVMe Base 2.0 section 8.1.3); each is an error of the
    /// path, so that the host tries another.
    pub(super) fn refusal(&self) -> Option<Status> {
        match self.ana {
            AnaState::Optimized | AnaState::NonOptimized => None,
            AnaState::Inaccessible => Some(Status::ANA_INACCESSIBLE),
            AnaState::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
            AnaState::Change => Some(Status::ANA_TRANSITION),
        }
    }

    /// What the device says of itself now.
    pub fn limits(&self) -> Limits {
        self.device.limits()
    }
}

/// A serial number of `DIGITS` hexadecimal digits, derived from a subsystem's name.
pub(super) fn derived_serial(subsystem: &Nqn) -> [u8; 20] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digest = Uuid::new_v5(&IDENTITY_SPACE, subsystem.as_str().as_bytes()).into_bytes();
    let mut serial = [0; 20];
    for (pair, byte) in serial.chunks_exact_mut(2).zip(digest) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 0xf)];
    }
    serial
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::testing::TestDevice;

    fn nqn() -> Nqn {
        "nqn.2019-05.io.openebs:test".parse().unwrap()
    }

    #[test]
    fn derived_identities_never_change() {
        let uuid = Namespace::derived_uuid(&nqn(), NamespaceId(1));
        assert_eq!(uuid.to_string(), "179387a0-c76b-509a-8cde-107cc1c97e87");
        assert_eq!(&derived_serial(&nqn()), b"3FDE31EAB00F550BB14F");
    }

    #[test]
    fn derived_identities_differ_by_namespace_and_subsystem() {
        let other: Nqn = "nqn.2019-05.io.openebs:other".parse().unwrap();
        let first = Namespace::derived_uuid(&nqn(), NamespaceId(1));
        assert_ne!(first, Namespace::derived_uuid(&nqn(), NamespaceId(2)));
        assert_ne!(first, Namespace::derived_uuid(&other, NamespaceId(1)));
        assert_ne!(derived_serial(&nqn()), derived_serial(&other));
    }

    #[test]
    fn a_device_with_an_identity_keeps_it() {
        let uuid = uuid!("12345678-9abc-4def-8123-456789abcdef");
        let device = TestDevice { uuid: Some(uuid), ..TestDevice::default() };
        let namespace = Namespace::new(&nqn(), NamespaceId(1), Arc::new(device), Access::ReadWrite);
        assert_eq!(namespace.uuid, uuid);
        assert_eq!(namespace.nguid(), *uuid.as_bytes());
    }

    #[test]
    fn a_namespace_is_read_only_by_itself_or_by_its_device() {
        let namespace = |access, read_only| {
            let mut device = TestDevice::default();
            device.limits.read_only = read_only;
            Namespace::new(&nqn(), NamespaceId(1), Arc::new(device), access).is_read_only()
        };
        assert!(!namespace(Access::ReadWrite, false));
        assert!(namespace(Access::ReadOnly, false));
        assert!(namespace(Access::ReadWrite, true));
    }
}
