//! The discovery log: which subsystems there are, and where.
//!
//! A [`Directory`] is put together on a control thread, immutable, and shared by all cores; a
//! change makes a new one with a higher generation. Each host sees only what it may connect to.
//! NVMe Base 2.0 section 5.16.1.23.

use std::net::SocketAddr;
use std::sync::Arc;

use bdev::Status;
use zerocopy::little_endian::U16;

use crate::fabrics::Nqn;
use crate::fabrics::discovery::{
    DISCOVERY_ENTRY_BYTES, DISCOVERY_HEADER_BYTES, DiscoveryEntry, DiscoveryHeader, value,
};
use crate::target::limits::ADMIN_QUEUE_ENTRIES_MAX;
use crate::target::subsystem::{Subsystem, SubsystemKind};

/// Length of the header of the log, and of each entry.
const RECORD_BYTES: usize = DISCOVERY_ENTRY_BYTES;
/// Most entries of a directory: subsystems times listeners.
pub const DIRECTORY_ENTRIES_MAX: usize = 4096;

const _: () = assert!(DISCOVERY_HEADER_BYTES == RECORD_BYTES);

/// A subsystem at an address.
#[derive(Clone, Debug)]
pub struct DirectoryEntry {
    /// What is there. Discovery subsystems are left out of the log.
    pub subsystem: Arc<Subsystem>,
    /// Where hosts are told to connect.
    pub address: SocketAddr,
    /// Number of the listener, the same for all subsystems at one address.
    pub port_id: u16,
}

/// Everything there is to discover.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    generation: u64,
    entries: Vec<DirectoryEntry>,
}

/// More entries than [`DIRECTORY_ENTRIES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} subsystems and listeners to discover, more than 4096")]
pub struct DirectoryFull(pub usize);

impl Directory {
    /// A directory; `generation` is higher than that of the one before.
    pub fn new(generation: u64, mut entries: Vec<DirectoryEntry>) -> Result<Self, DirectoryFull> {
        entries.retain(|entry| entry.subsystem.kind() == SubsystemKind::Nvm);
        if entries.len() > DIRECTORY_ENTRIES_MAX {
            return Err(DirectoryFull(entries.len()));
        }
        Ok(Self { generation, entries })
    }

    /// Fills `out` with the log as `host` sees it, from `offset` on; zeroes follow its end. Only
    /// the entries that are asked for are built.
    pub(super) fn read(&self, host: &Nqn, offset: u64, out: &mut [u8]) -> Result<(), Status> {
        let allowed = |entry: &&DirectoryEntry| entry.subsystem.hosts().allows(host);
        let count = self.entries.iter().filter(allowed).count();
        let start = usize::try_from(offset).map_err(|_| Status::INVALID_FIELD)?;
        if start > (count + 1) * RECORD_BYTES {
            return Err(Status::INVALID_FIELD);
        }
        out.fill(0);
        let records = std::iter::once(None).chain(self.entries.iter().filter(allowed).map(Some));
        let mut skip = start % RECORD_BYTES;
        let mut rest = out;
        for record in records.skip(start / RECORD_BYTES) {
            if rest.is_empty() {
                break;
            }
            let bytes = match record {
                None => self.header(count),
                Some(entry) => entry.record(),
            };
            let len = rest.len().min(RECORD_BYTES - skip);
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(&bytes[skip..skip + len]);
            rest = after;
            skip = 0;
        }
        Ok(())
    }

    fn header(&self, count: usize) -> [u8; RECORD_BYTES] {
        let count = u64::try_from(count).expect("at most 4096 entries");
        zerocopy::transmute!(DiscoveryHeader::new(self.generation, count))
    }
}

impl DirectoryEntry {
    fn record(&self) -> [u8; RECORD_BYTES] {
        let nqn = self.subsystem.nqn();
        let mut entry = DiscoveryEntry::tcp(value::SUBSYSTEM_NVM, nqn, self.address, self.port_id);
        entry.admin_queue_entries = U16::new(ADMIN_QUEUE_ENTRIES_MAX);
        zerocopy::transmute!(entry)
    }
}
