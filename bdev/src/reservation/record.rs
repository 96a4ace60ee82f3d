//! The record of what outlives a loss of power: bytes that a device stores and gives back.
//!
//! A device that can keep it writes [`Reservations::encode`] whenever an outcome says that the
//! record has changed, and hands the bytes to [`Reservations::decode`] when it is opened again.
//! What comes back from a disk is not trusted: damage is an error with a name and never half a
//! state.
//!
//! Little-endian. A header of 24 bytes, then for each registration 28 bytes and its name. The
//! checksum is the CRC32C of all `len_bytes` bytes with its own field zero; what a medium has after
//! them, to the end of a block, does not matter.

use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::command::Persistence;
use super::kind::ReservationType;
use super::registrant::{Key, NAME_BYTES_MAX, Protocol, Registrant, RegistrantId, RegistrantName};
use super::state::{Holder, REGISTRANTS_MAX, Registration, Reservation, Reservations};

/// First bytes of a record.
const MAGIC: [u8; 8] = *b"RESERVED";
/// Version of the layout.
const VERSION: u16 = 1;
/// Length of the header.
const HEADER_BYTES: usize = 24;
/// Length of a registration without its name.
const ENTRY_BYTES: usize = 28;
/// No registrant in particular holds the reservation.
const NO_HOLDER: u16 = u16::MAX;

/// Most bytes of a record: what a device must have room for.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + REGISTRANTS_MAX * (ENTRY_BYTES + NAME_BYTES_MAX);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U16,
    /// 1 if the rest is kept; 0, and nothing follows, if it is not.
    persistence: u8,
    /// NVMe's code of the type; 0 for no reservation.
    kind: u8,
    registrations: U16,
    /// Index of the registration that holds it.
    holder: U16,
    len_bytes: U32,
    checksum: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    protocol: U16,
    name_bytes: U16,
    key: U64,
    id: [u8; 16],
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(core::mem::offset_of!(Header, checksum) == 20);
const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES);
const _: () = assert!(core::mem::offset_of!(Entry, id) == 12);

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// There are fewer bytes than the record has.
    #[error("a record of {need_bytes} bytes is cut to {have_bytes}")]
    Truncated {
        /// What it takes.
        need_bytes: usize,
        /// What there is.
        have_bytes: usize,
    },
    /// The first bytes are not those of a record.
    #[error("not a record of reservations")]
    Magic,
    /// The layout is of a version that is not known.
    #[error("a record of version {0}, of which nothing is known")]
    Version(u16),
    /// The stated length is shorter than a header or longer than any record.
    #[error("a record cannot have {0} bytes")]
    Length(u32),
    /// The bytes are not those that were written.
    #[error("checksum {computed:08x} where {stored:08x} was stored")]
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The bytes are those that were written and yet make no sense.
    #[error("a record with {0}")]
    Inconsistent(Inconsistency),
}

/// What is wrong with a record whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Inconsistency {
    /// More registrations than there may be.
    #[error("too many registrations")]
    TooManyRegistrations,
    /// A registration beyond its end, or bytes that belong to none.
    #[error("registrations of another length")]
    Length,
    /// A name that is too long.
    #[error("a name that is too long")]
    Name,
    /// A protocol that is not known, or an identity that it does not have.
    #[error("an identity that does not exist")]
    Identity,
    /// Two registrations of one registrant.
    #[error("two registrations of one registrant")]
    Duplicate,
    /// A key of zero.
    #[error("a key of zero")]
    Key,
    /// A type of reservation that does not exist.
    #[error("an unknown type of reservation")]
    Kind,
    /// A holder that is not registered, or one where there is none.
    #[error("a wrong holder")]
    Holder,
    /// A state of persistence that does not exist, or something kept that is not to be.
    #[error("a wrong state of persistence")]
    Persistence,
}

impl From<Inconsistency> for DecodeError {
    fn from(inconsistency: Inconsistency) -> Self {
        Self::Inconsistent(inconsistency)
    }
}

impl Reservations {
    /// The record of what is to outlive a loss of power, at most [`RECORD_BYTES_MAX`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let is_kept = self.persistence() == Persistence::On;
        let registrations = if is_kept { self.registrations() } else { &[] };
        let reservation = if is_kept { self.reservation() } else { None };
        let header = Header {
            magic: MAGIC,
            version: U16::new(VERSION),
            persistence: u8::from(is_kept),
            kind: reservation.map_or(0, |held| held.kind.nvme_code()),
            registrations: U16::new(small(registrations.len())),
            holder: U16::new(holder_index(registrations, reservation)),
            len_bytes: U32::ZERO,
            checksum: U32::ZERO,
        };
        let mut bytes = header.as_bytes().to_vec();
        for registration in registrations {
            let Registrant { id, name } = &registration.registrant;
            let entry = Entry {
                protocol: U16::new(u16::from(id.protocol() as u8)),
                name_bytes: U16::new(small(name.as_bytes().len())),
                key: U64::new(registration.key.0),
                id: id.bytes(),
            };
            bytes.extend_from_slice(entry.as_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        assert!(bytes.len() <= RECORD_BYTES_MAX, "registrants and names are bounded");
        seal(&mut bytes);
        bytes
    }

    /// What a record says. The device that kept it can keep another, so persistence is on or off.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (header, body) = open(bytes)?;
        let count = usize::from(header.registrations.get());
        if count > REGISTRANTS_MAX {
            return Err(Inconsistency::TooManyRegistrations.into());
        }
        let mut registrations: Vec<Registration> = Vec::with_capacity(count);
        let mut rest = body;
        for _ in 0..count {
            let (registration, after) = read_entry(rest)?;
            let id = registration.registrant.id;
            if registrations.iter().any(|other| other.registrant.id == id) {
                return Err(Inconsistency::Duplicate.into());
            }
            registrations.push(registration);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(Inconsistency::Length.into());
        }
        let reservation = read_reservation(&header, &registrations)?;
        let persistence = match header.persistence {
            0 if registrations.is_empty() => Persistence::Off,
            1 => Persistence::On,
            _ => return Err(Inconsistency::Persistence.into()),
        };
        Ok(Self::restored(registrations, reservation, persistence))
    }
}

fn holder_index(registrations: &[Registration], reservation: Option<Reservation>) -> u16 {
    let Some(Reservation { holder: Holder::One(id), .. }) = reservation else { return NO_HOLDER };
    let index = registrations.iter().position(|own| own.registrant.id == id);
    small(index.expect("a holder is registered"))
}

fn small(value: usize) -> u16 {
    u16::try_from(value).expect("counts and lengths of a record are bounded far below 65536")
}

/// Writes length and checksum into a record that has all else.
fn seal(bytes: &mut [u8]) {
    let len_bytes = u32::try_from(bytes.len()).expect("a record is at most RECORD_BYTES_MAX");
    let (header, _) = Header::mut_from_prefix(bytes).expect("a record begins with its header");
    header.len_bytes = U32::new(len_bytes);
    header.checksum = U32::ZERO;
    let checksum = crc_fast::crc32_iscsi(bytes);
    let (header, _) = Header::mut_from_prefix(bytes).expect("a record begins with its header");
    header.checksum = U32::new(checksum);
}

/// The header and what follows it, once both are known to be what was written.
fn open(bytes: &[u8]) -> Result<(Header, &[u8]), DecodeError> {
    let truncated = |need_bytes| DecodeError::Truncated { need_bytes, have_bytes: bytes.len() };
    let Ok((header, _)) = Header::read_from_prefix(bytes) else {
        return Err(truncated(HEADER_BYTES));
    };
    if header.magic != MAGIC {
        return Err(DecodeError::Magic);
    }
    if header.version.get() != VERSION {
        return Err(DecodeError::Version(header.version.get()));
    }
    let stated = header.len_bytes.get();
    let len_bytes = usize::try_from(stated).map_err(|_| DecodeError::Length(stated))?;
    if !(HEADER_BYTES..=RECORD_BYTES_MAX).contains(&len_bytes) {
        return Err(DecodeError::Length(stated));
    }
    let record = bytes.get(..len_bytes).ok_or_else(|| truncated(len_bytes))?;
    let mut unsealed = record.to_vec();
    seal(&mut unsealed);
    let (resealed, _) =
        Header::read_from_prefix(&unsealed).expect("a record begins with its header");
    let (stored, computed) = (header.checksum.get(), resealed.checksum.get());
    if stored != computed {
        return Err(DecodeError::Checksum { stored, computed });
    }
    Ok((header, &record[HEADER_BYTES..]))
}

fn read_entry(bytes: &[u8]) -> Result<(Registration, &[u8]), DecodeError> {
    let Ok((entry, rest)) = Entry::read_from_prefix(bytes) else {
        return Err(Inconsistency::Length.into());
    };
    let name_bytes = usize::from(entry.name_bytes.get());
    if name_bytes > NAME_BYTES_MAX {
        return Err(Inconsistency::Name.into());
    }
    let (name, rest) = rest.split_at_checked(name_bytes).ok_or(Inconsistency::Length)?;
    let name = RegistrantName::new(name).map_err(|_| Inconsistency::Name)?;
    let protocols = [Protocol::Nvme, Protocol::Scsi];
    let protocol = protocols.into_iter().find(|own| u16::from(*own as u8) == entry.protocol.get());
    let id = match protocol {
        Some(Protocol::Nvme) => RegistrantId::nvme(entry.id),
        Some(Protocol::Scsi) => Some(RegistrantId::scsi(entry.id)),
        None => None,
    };
    let id = id.ok_or(Inconsistency::Identity)?;
    let key = Key(entry.key.get());
    if key.is_zero() {
        return Err(Inconsistency::Key.into());
    }
    Ok((Registration { registrant: Registrant { id, name }, key }, rest))
}

fn read_reservation(
    header: &Header,
    registrations: &[Registration],
) -> Result<Option<Reservation>, DecodeError> {
    let holder = header.holder.get();
    if header.kind == 0 {
        return match holder {
            NO_HOLDER => Ok(None),
            _ => Err(Inconsistency::Holder.into()),
        };
    }
    let kind = ReservationType::from_nvme_code(header.kind).ok_or(Inconsistency::Kind)?;
    let holder = match (kind.is_held_by_all(), registrations.get(usize::from(holder))) {
        (true, None) if holder == NO_HOLDER && !registrations.is_empty() => Holder::AllRegistrants,
        (false, Some(registration)) => Holder::One(registration.registrant.id),
        _ => return Err(Inconsistency::Holder.into()),
    };
    Ok(Some(Reservation { kind, holder }))
}

#[cfg(test)]
mod tests;
