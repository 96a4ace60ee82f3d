//! What a target is to be, before anything of it exists.
//!
//! Filled in by the daemon or the load generator, checked once by [`crate::Engine::start`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nvmf::fabrics::Nqn;
use nvmf::target::DigestPolicy;
use nvmf::target::limits::{
    NAMESPACES_LIMIT, QUEUE_ENTRIES_DEFAULT, QUEUE_ENTRIES_LIMIT, QUEUE_ENTRIES_MIN,
};
use nvmf::target::namespace::Access;
use reactor::cores::{CoreList, CoresError};
use reactor::dma::pool::CHUNKS_MIN;
use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::dma::{PagePreference, PoolConfig};
use reactor::reactor::IdlePolicy;

/// The port that the NVMe specification has registered for NVMe over Fabrics.
pub const PORT_DEFAULT: u16 = 4420;

/// Size of a hugepage in MiB.
const HUGE_PAGE_MIB: u32 = (HUGE_PAGE_BYTES >> 20) as u32;

/// Least DMA memory of a core, in MiB: a chunk for each size of buffer.
pub const DMA_MIB_MIN: u32 = CHUNKS_MIN as u32 * HUGE_PAGE_MIB;

/// Most DMA memory of a core, in MiB: 64 GiB, past any use and well inside every counter.
pub const DMA_MIB_MAX: u32 = 64 << 10;

/// DMA memory of a core unless configured, in MiB: 512 I/Os of the largest size.
pub const DMA_MIB_DEFAULT: u32 = 64;

/// Why a configuration cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is nothing to serve.
    #[error("there is no device to serve: name at least one, such as malloc:///ram0?size_mb=64")]
    NoDevice,
    /// More devices than a subsystem can have namespaces.
    #[error("{count} devices are too many: a target serves at most {NAMESPACES_LIMIT}")]
    TooManyDevices {
        /// How many were named.
        count: usize,
    },
    /// The size of I/O queues is out of its range.
    #[error(
        "a queue of {entries} entries cannot be: \
         choose {QUEUE_ENTRIES_MIN} to {QUEUE_ENTRIES_LIMIT}"
    )]
    QueueEntries {
        /// What was asked for.
        entries: u16,
    },
    /// The DMA memory of a core is out of its range.
    #[error("{mib} MiB of DMA memory a core cannot be: choose {DMA_MIB_MIN} to {DMA_MIB_MAX}")]
    DmaMemory {
        /// What was asked for.
        mib: u32,
    },
    /// A wildcard cannot be connected to.
    #[error("{address} cannot be advertised: name an address that hosts can connect to")]
    Advertise {
        /// What was asked for.
        address: IpAddr,
    },
    /// The cores cannot be used.
    #[error(transparent)]
    Cores(#[from] CoresError),
}

/// A target: what it serves, where, to whom, and on which cores.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// URIs of the devices; the first is namespace 1.
    pub devices: Vec<String>,
    /// Name of the subsystem.
    pub nqn: Nqn,
    /// Address to listen on; may be a wildcard.
    pub address: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// What discovery names instead of the address that the host came to.
    pub advertise: Option<IpAddr>,
    /// Hosts that may connect; none means every host.
    pub allow_hosts: Vec<Nqn>,
    /// Cores to run on; none means the first that the process may use.
    pub cores: Option<CoreList>,
    /// Whether hosts that ask for digests get them.
    pub digests: DigestPolicy,
    /// Whether hosts may write.
    pub access: Access,
    /// What a core does when there is nothing to do.
    pub idle: IdlePolicy,
    /// Which pages back the DMA memory.
    pub pages: PagePreference,
    /// DMA memory of each core in MiB, [`DMA_MIB_MIN`] to [`DMA_MIB_MAX`].
    pub dma_mib: u32,
    /// Most entries of an I/O queue, 2 to 1024.
    pub queue_entries: u16,
}

impl TargetConfig {
    /// A target of these devices under this name: loopback, port 4420, any host, one core.
    pub fn new(nqn: Nqn, devices: Vec<String>) -> TargetConfig {
        TargetConfig {
            devices,
            nqn,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: PORT_DEFAULT,
            advertise: None,
            allow_hosts: Vec::new(),
            cores: None,
            digests: DigestPolicy::AsAsked,
            access: Access::ReadWrite,
            idle: IdlePolicy::default(),
            pages: PagePreference::HugeFirst,
            dma_mib: DMA_MIB_DEFAULT,
            queue_entries: QUEUE_ENTRIES_DEFAULT,
        }
    }

    /// Holds everything to its range that needs no look at the machine.
    ///
    /// # Errors
    ///
    /// The first thing that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let count = self.devices.len();
        if count == 0 {
            return Err(ConfigError::NoDevice);
        }
        if count > NAMESPACES_LIMIT as usize {
            return Err(ConfigError::TooManyDevices { count });
        }
        if !(QUEUE_ENTRIES_MIN..=QUEUE_ENTRIES_LIMIT).contains(&self.queue_entries) {
            return Err(ConfigError::QueueEntries { entries: self.queue_entries });
        }
        if !(DMA_MIB_MIN..=DMA_MIB_MAX).contains(&self.dma_mib) {
            return Err(ConfigError::DmaMemory { mib: self.dma_mib });
        }
        match self.advertise {
            Some(address) if address.is_unspecified() => Err(ConfigError::Advertise { address }),
            _ => Ok(()),
        }
    }

    /// Where to listen.
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// The cores to run on: those that were named, if the process may use them, or its first.
    ///
    /// # Errors
    ///
    /// A core that the process may not use, or a system that does not say which it may.
    pub fn resolve_cores(&self) -> Result<CoreList, ConfigError> {
        let allowed = CoreList::allowed()?;
        match &self.cores {
            Some(cores) => {
                cores.check_within(&allowed)?;
                Ok(cores.clone())
            }
            None => {
                let first = allowed.as_slice().first().ok_or(CoresError::Unreadable)?;
                Ok(first.to_string().parse()?)
            }
        }
    }

    /// The DMA memory of one core.
    pub fn pool(&self) -> PoolConfig {
        let chunks = self.dma_mib.div_ceil(HUGE_PAGE_MIB) as usize;
        PoolConfig { chunks, pages: self.pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TargetConfig {
        let nqn = "nqn.2019-05.io.openebs:test".parse().unwrap();
        TargetConfig::new(nqn, vec![String::from("null:///null0?size_mb=64")])
    }

    #[test]
    fn the_defaults_are_legal() {
        assert!(config().check().is_ok());
        assert_eq!(config().listen_address(), "127.0.0.1:4420".parse().unwrap());
        assert_eq!(config().pool().chunks, 32);
    }

    #[test]
    fn one_device_is_needed_and_one_too_many_is_refused() {
        let with = |count: usize| {
            let devices = vec![String::from("null:///null0?size_mb=64"); count];
            TargetConfig { devices, ..config() }.check()
        };
        assert!(matches!(with(0), Err(ConfigError::NoDevice)));
        assert!(with(1024).is_ok());
        assert!(matches!(with(1025), Err(ConfigError::TooManyDevices { count: 1025 })));
    }

    #[test]
    fn queue_sizes_are_legal_up_to_both_ends() {
        let with = |queue_entries| TargetConfig { queue_entries, ..config() }.check().is_ok();
        assert_eq!([1, 2, 1024, 1025].map(with), [false, true, true, false]);
    }

    #[test]
    fn dma_memory_is_legal_up_to_both_ends_and_rounded_up_to_hugepages() {
        let with = |dma_mib| TargetConfig { dma_mib, ..config() }.check().is_ok();
        assert_eq!([7, 8, 65536, 65537].map(with), [false, true, true, false]);
        assert_eq!(TargetConfig { dma_mib: 9, ..config() }.pool().chunks, 5);
    }

    #[test]
    fn a_wildcard_is_not_advertised() {
        for (address, legal) in [("10.0.0.1", true), ("0.0.0.0", false), ("::", false)] {
            let advertise = Some(address.parse().unwrap());
            let config = TargetConfig { advertise, ..config() };
            assert_eq!(config.check().is_ok(), legal, "{address}");
        }
    }

    #[test]
    fn without_cores_the_first_allowed_one_is_taken() {
        let allowed = CoreList::allowed().unwrap();
        let cores = config().resolve_cores().unwrap();
        assert_eq!(cores.as_slice(), &allowed.as_slice()[..1]);
    }

    #[test]
    fn a_core_that_may_not_be_used_is_refused() {
        let config = TargetConfig { cores: Some("1023".parse().unwrap()), ..config() };
        let refused = config.resolve_cores();
        assert!(matches!(refused, Err(ConfigError::Cores(CoresError::NotAllowed { .. }))));
    }
}
