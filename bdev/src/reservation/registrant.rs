//! Who registers, and with what key.
//!
//! A front door makes a [`Registrant`] once, when a host connects, and keeps it with the
//! connection. NVMe Base 2.0 section 8.19 (hosts), SPC-4 section 5.13.1 (I_T nexuses).

use std::sync::Arc;

use thiserror::Error;

/// Most bytes of a name: an iSCSI TransportID with its session identifier is 248 at most (SPC-4
/// section 7.6.4.6), a target port identifier takes two more.
pub const NAME_BYTES_MAX: usize = 256;

/// The family of front doors that a registrant comes through. Keeps a host identifier, which a
/// host may choose at will, from ever meaning somebody else's I_T nexus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// An NVMe host, by its host identifier.
    Nvme = 1,
    /// A SCSI I_T nexus, by an identifier that its front door derives.
    Scsi = 2,
}

/// Identity of a registrant. Compared and never looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistrantId {
    protocol: Protocol,
    bytes: [u8; 16],
}

impl RegistrantId {
    /// The identity of an NVMe host. `None` for the identifier zero: it says that the host did not
    /// set one, so two controllers that have it are of different hosts.
    pub fn nvme(host_id: [u8; 16]) -> Option<Self> {
        (host_id != [0; 16]).then_some(Self { protocol: Protocol::Nvme, bytes: host_id })
    }

    /// The identity of an I_T nexus, as its front door derives it.
    pub const fn scsi(nexus_id: [u8; 16]) -> Self {
        Self { protocol: Protocol::Scsi, bytes: nexus_id }
    }

    /// The family of its front door.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The identifier within the family.
    pub const fn bytes(&self) -> [u8; 16] {
        self.bytes
    }
}

/// A name is longer than [`NAME_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a registrant's name of {len_bytes} bytes; at most {NAME_BYTES_MAX}")]
pub struct NameTooLong {
    /// Its length.
    pub len_bytes: usize,
}

/// What a front door wants back with a registration, for its reports: SCSI's TransportID and target
/// port. NVMe has none. Opaque here, and kept through a loss of power.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrantName(Arc<[u8]>);

impl RegistrantName {
    /// A name.
    pub fn new(bytes: &[u8]) -> Result<Self, NameTooLong> {
        if bytes.len() > NAME_BYTES_MAX {
            return Err(NameTooLong { len_bytes: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One that may register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// What it is told from others by.
    pub id: RegistrantId,
    /// What its front door wants back.
    pub name: RegistrantName,
}

impl Registrant {
    /// One without a name.
    pub fn unnamed(id: RegistrantId) -> Self {
        Self { id, name: RegistrantName::default() }
    }
}

/// A reservation key. Zero is never registered: it stands for "none" in both specifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(pub u64);

impl Key {
    /// Not a key.
    pub const ZERO: Self = Self(0);

    /// Whether it is no key.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_an_identifier_is_nobody() {
        assert_eq!(RegistrantId::nvme([0; 16]), None);
        let mut host_id = [0; 16];
        host_id[15] = 1;
        assert_eq!(RegistrantId::nvme(host_id).unwrap().bytes(), host_id);
    }

    #[test]
    fn a_nexus_is_never_a_host() {
        assert_ne!(RegistrantId::nvme([7; 16]), Some(RegistrantId::scsi([7; 16])));
    }

    #[test]
    fn a_name_may_be_of_the_greatest_length_and_no_longer() {
        let longest = [b'n'; NAME_BYTES_MAX];
        assert_eq!(RegistrantName::new(&longest).unwrap().as_bytes(), longest);
        let error = RegistrantName::new(&[b'n'; NAME_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(error, NameTooLong { len_bytes: NAME_BYTES_MAX + 1 });
    }
}
