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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::subsystem::{HostPolicy, SubsystemConfig};
    use crate::target::testing::{config_of, discovery_subsystem, host_nqn, io_subsystem};
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    fn entry(subsystem: Subsystem, address: &str) -> DirectoryEntry {
        let address = address.parse().unwrap();
        DirectoryEntry { subsystem: Arc::new(subsystem), address, port_id: 2 }
    }

    fn private() -> Subsystem {
        let other = "nqn.2019-05.io.openebs:other-host".parse().unwrap();
        let config = config_of(vec![]);
        let hosts = HostPolicy::Only(vec![other]);
        Subsystem::new(SubsystemConfig { hosts, ..config }).unwrap()
    }

    fn directory() -> Directory {
        let entries = vec![
            entry(io_subsystem(), "127.0.0.1:4420"),
            entry(private(), "127.0.0.1:4421"),
            entry(discovery_subsystem(), "127.0.0.1:4420"),
            entry(io_subsystem(), "[fd00::1]:8420"),
        ];
        Directory::new(5, entries).unwrap()
    }

    fn whole() -> Vec<u8> {
        let mut out = vec![0xaa; 3072];
        directory().read(&host_nqn(), 0, &mut out).unwrap();
        out
    }

    #[test]
    fn the_header_counts_what_the_host_may_see() {
        let log = whole();
        let (header, _) = DiscoveryHeader::read_from_prefix(&log).unwrap();
        assert_eq!(header, DiscoveryHeader::new(5, 2));
    }

    #[test]
    fn an_entry_says_where_a_subsystem_is() {
        let log = whole();
        let record = &log[1024..2048];
        assert_eq!(record[..10], [3, 1, 2, 0b110, 2, 0, 0xff, 0xff, 128, 0]);
        assert_eq!(&record[32..36], b"4420");
        assert_eq!(&record[256..283], b"nqn.2019-05.io.openebs:test");
        assert_eq!(&record[512..521], b"127.0.0.1");
        assert_eq!(record[768], 0);
        let record = DiscoveryEntry::read_from_bytes(&log[2048..]).unwrap();
        assert_eq!(record.address_family, 2);
        assert_eq!(record.socket_address(), Some("[fd00::1]:8420".parse().unwrap()));
    }

    #[test]
    fn an_offset_at_the_end_reads_zeroes_and_one_past_is_refused() {
        let mut out = [0xaa; 8];
        assert_eq!(directory().read(&host_nqn(), 3072, &mut out), Ok(()));
        assert_eq!(out, [0; 8]);
        let past = directory().read(&host_nqn(), 3076, &mut out);
        assert_eq!(past, Err(Status::INVALID_FIELD));
        let far = directory().read(&host_nqn(), u64::MAX - 3, &mut out);
        assert_eq!(far, Err(Status::INVALID_FIELD));
    }

    #[test]
    fn a_full_directory_is_accepted_and_one_more_entry_is_refused() {
        let one = entry(io_subsystem(), "127.0.0.1:4420");
        let full = vec![one.clone(); DIRECTORY_ENTRIES_MAX];
        assert!(Directory::new(1, full).is_ok());
        let more = vec![one; DIRECTORY_ENTRIES_MAX + 1];
        let error = Directory::new(1, more).unwrap_err();
        assert_eq!(error, DirectoryFull(DIRECTORY_ENTRIES_MAX + 1));
    }

    proptest! {
        #[test]
        fn any_part_is_that_part_of_the_whole(start in 0usize..768, len in 0usize..5000) {
            let start = start * 4;
            let mut out = vec![0xaa; len];
            directory().read(&host_nqn(), start as u64, &mut out).unwrap();
            let mut expected = whole()[start..].to_vec();
            expected.resize(len, 0);
            prop_assert_eq!(out, expected);
        }
    }
}
