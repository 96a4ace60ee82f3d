//! The record of reservations of a file: another file beside it.
//!
//! `DISK.reservations` beside `DISK`, made when a host first asks for persistence. A file of its
//! own rather than an extended attribute: attributes are lost by most copies (`cp`, `scp`, object
//! stores, file systems without them) and hold less than a record can have, 4 KiB on ext4; a file
//! is seen, copied and restored like the disk itself. It says whose it is, so that the record of
//! one disk is never taken for another's.
//!
//! Replaced by a write to a new file, which is renamed over the old one once it is on the medium;
//! then the directory is made durable. Called on control threads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::offset_of;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::reservation::record::RECORD_BYTES_MAX;
use crate::reservation::{DecodeError, ReservationStore, StoreError};

const MAGIC: [u8; 8] = *b"RESVFILE";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
/// Longest file of this kind.
const FILE_BYTES_MAX: usize = HEADER_BYTES + RECORD_BYTES_MAX;

/// What comes before the record.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    /// Whose record it is.
    namespace: [u8; 16],
    version: U32,
    /// CRC32C of what comes before. The record has its own.
    checksum: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(offset_of!(Header, checksum) == HEADER_BYTES - 4);

impl Header {
    fn of(namespace: Uuid) -> Self {
        let mut header = Self {
            magic: MAGIC,
            namespace: namespace.into_bytes(),
            version: U32::new(VERSION),
            checksum: U32::ZERO,
        };
        header.checksum = U32::new(header.computed_checksum());
        header
    }

    fn computed_checksum(&self) -> u32 {
        crc_fast::crc32_iscsi(&self.as_bytes()[..offset_of!(Header, checksum)])
    }
}

/// The file beside a file.
#[derive(Debug)]
pub(crate) struct Sidecar {
    path: PathBuf,
}

impl Sidecar {
    /// That of the disk at `path`, wherever links lead from there.
    pub(crate) fn beside(path: &str) -> Self {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        Self { path: with_suffix(&path, ".reservations") }
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> StoreError {
        let place = self.place();
        move |source| StoreError::System { action, place: place.clone(), source }
    }

    fn damaged(&self, source: DecodeError) -> StoreError {
        StoreError::Damaged { place: self.place(), source }
    }

    fn check(&self, header: &Header, namespace: Uuid) -> Result<(), StoreError> {
        if header.magic != MAGIC {
            return Err(self.damaged(DecodeError::Magic));
        }
        let (stored, computed) = (header.checksum.get(), header.computed_checksum());
        if stored != computed {
            return Err(self.damaged(DecodeError::Checksum { stored, computed }));
        }
        if header.version.get() != VERSION {
            let version = u16::try_from(header.version.get()).unwrap_or(u16::MAX);
            return Err(self.damaged(DecodeError::Version(version)));
        }
        let found = Uuid::from_bytes(header.namespace);
        if found != namespace {
            return Err(StoreError::Foreign { place: self.place(), found, wanted: namespace });
        }
        Ok(())
    }
}

impl ReservationStore for Sidecar {
    fn load(&self, namespace: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("open")(error)),
        };
        let mut bytes = Vec::new();
        let room = FILE_BYTES_MAX as u64 + 1;
        file.take(room).read_to_end(&mut bytes).map_err(self.failed("read"))?;
        if bytes.len() > FILE_BYTES_MAX {
            return Err(StoreError::TooLong { place: self.place() });
        }
        let Ok((header, record)) = Header::read_from_prefix(&bytes) else {
            let (need_bytes, have_bytes) = (HEADER_BYTES, bytes.len());
            return Err(self.damaged(DecodeError::Truncated { need_bytes, have_bytes }));
        };
        self.check(&header, namespace)?;
        Ok(Some(record.to_vec()))
    }

    fn save(&self, namespace: Uuid, record: &[u8]) -> Result<(), StoreError> {
        assert!(record.len() <= RECORD_BYTES_MAX, "records are bounded");
        let new = with_suffix(&self.path, ".new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        // Nobody gets another file overwritten by a link that stands in the way.
        let options = options.custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&new).map_err(self.failed("create"))?;
        let written = file
            .write_all(Header::of(namespace).as_bytes())
            .and_then(|()| file.write_all(record))
            .and_then(|()| file.sync_all());
        written.map_err(self.failed("write"))?;
        std::fs::rename(&new, &self.path).map_err(self.failed("replace"))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(self.failed("keep"))?;
        folder.sync_all().map_err(self.failed("keep"))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
