//! What a target is to be, before anything of it exists.
//!
//! Filled in by the daemon or the load generator, checked once by [`crate::Engine::start`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nvmf::fabrics::Nqn;
use nvmf::target::DigestPolicy;
use nvmf::target::limits::QUEUE_ENTRIES_DEFAULT;
use nvmf::target::namespace::Access;
use reactor::cores::{CoreList, CoresError};
use reactor::dma::pool::CHUNKS_MIN;
use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::dma::{PagePreference, PoolConfig};
use reactor::reactor::IdlePolicy;

use crate::command::{
    AddDevice, AddNamespace, AddPortal, AddSubsystem, AddVhost, Command, CreateNexus, GuestAccess,
    HostChoice, NexusCommand, VhostCommand,
};
use crate::registry;

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
    /// The DMA memory of a core is out of its range.
    #[error("{mib} MiB of DMA memory a core cannot be: choose {DMA_MIB_MIN} to {DMA_MIB_MAX}")]
    DmaMemory {
        /// What was asked for.
        mib: u32,
    },
    /// The cores cannot be used.
    #[error(transparent)]
    Cores(#[from] CoresError),
}

/// A target: what it serves, and on which cores.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// What is served from the start: carried out in this order before anything is listened on. As
    /// a port in use is found out when it is bound, portals are best added first.
    pub setup: Vec<Command>,
    /// Cores to run on; none means the first that the process may use.
    pub cores: Option<CoreList>,
    /// Whether hosts that ask for digests get them.
    pub digests: DigestPolicy,
    /// What a core does when there is nothing to do.
    pub idle: IdlePolicy,
    /// Which pages back the DMA memory.
    pub pages: PagePreference,
    /// DMA memory of each core in MiB, [`DMA_MIB_MIN`] to [`DMA_MIB_MAX`].
    pub dma_mib: u32,
}

/// A subsystem of one's own on one port: what the command line and the load generator want.
#[derive(Clone, Debug)]
pub struct OneSubsystem {
    /// A nexus, which is namespace 1.
    pub mirror: Option<CreateNexus>,
    /// URIs of the devices; the first is the next namespace.
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
    /// Whether hosts may write.
    pub access: Access,
    /// Most entries of an I/O queue, 2 to 1024.
    pub queue_entries: u16,
}

impl OneSubsystem {
    /// These devices under this name: loopback, port 4420, any host.
    pub fn new(nqn: Nqn, devices: Vec<String>) -> OneSubsystem {
        OneSubsystem {
            mirror: None,
            devices,
            nqn,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: PORT_DEFAULT,
            advertise: None,
            allow_hosts: Vec::new(),
            access: Access::ReadWrite,
            queue_entries: QUEUE_ENTRIES_DEFAULT,
        }
    }

    /// Where to listen.
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// The commands that make its devices, each with the device's name.
    fn device_setup(&self) -> Vec<(Command, String)> {
        let mirror = self.mirror.iter().map(|mirror| {
            let create = Command::Nexus(NexusCommand::Create(mirror.clone()));
            (create, mirror.nexus.clone())
        });
        let devices = self.devices.iter().map(|uri| {
            // What is no URI is refused before its name matters.
            let name = uri.parse().map(|uri| registry::device_name(&uri)).unwrap_or_default();
            (Command::AddDevice(AddDevice { uri: uri.clone() }), name)
        });
        mirror.chain(devices).collect()
    }

    /// The commands that make its devices, and put the first of them behind these sockets, in
    /// order; the devices of [`OneSubsystem::setup`] are the same.
    pub fn vhost_setup(&self, sockets: &[String]) -> Vec<Command> {
        let access = match self.access {
            Access::ReadWrite => GuestAccess::ReadWrite,
            Access::ReadOnly => GuestAccess::ReadOnly,
        };
        let devices = self.device_setup();
        let names = devices.iter().map(|(_, name)| name.clone());
        let serve = |(device, socket): (String, &String)| {
            let socket = socket.clone();
            Command::Vhost(VhostCommand::Add(AddVhost { socket, device, queues: None, access }))
        };
        let served: Vec<Command> = names.zip(sockets).map(serve).collect();
        devices.into_iter().map(|(make, _)| make).chain(served).collect()
    }

    /// The commands that make it, the portal first.
    pub fn setup(&self) -> Vec<Command> {
        let subsystem = self.nqn.as_str().to_owned();
        let mut setup = vec![
            Command::AddPortal(AddPortal {
                address: self.listen_address().to_string(),
                advertise: self.advertise.map(|address| address.to_string()),
            }),
            Command::AddSubsystem(AddSubsystem {
                subsystem: subsystem.clone(),
                hosts: match self.allow_hosts.as_slice() {
                    [] => HostChoice::Any,
                    _ => HostChoice::Named,
                },
                controller_ids: None,
                queue_entries: Some(u32::from(self.queue_entries)),
            }),
        ];
        setup.extend(self.allow_hosts.iter().map(|host| Command::AddHost {
            subsystem: subsystem.clone(),
            host: host.as_str().to_owned(),
        }));
        for (namespace, (make, device)) in (1..).zip(self.device_setup()) {
            setup.push(make);
            setup.push(Command::AddNamespace(AddNamespace {
                namespace: Some(namespace),
                access: self.access,
                ..AddNamespace::new(subsystem.clone(), device)
            }));
        }
        setup
    }
}

impl TargetConfig {
    /// A target that serves this, on one core.
    pub fn new(setup: Vec<Command>) -> TargetConfig {
        TargetConfig {
            setup,
            cores: None,
            digests: DigestPolicy::AsAsked,
            idle: IdlePolicy::default(),
            pages: PagePreference::HugeFirst,
            dma_mib: DMA_MIB_DEFAULT,
        }
    }

    /// Holds everything to its range that needs no look at the machine. What is in `setup` is
    /// checked as it is carried out.
    ///
    /// # Errors
    ///
    /// The first thing that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(DMA_MIB_MIN..=DMA_MIB_MAX).contains(&self.dma_mib) {
            return Err(ConfigError::DmaMemory { mib: self.dma_mib });
        }
        Ok(())
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
        TargetConfig::new(one(&["null:///null0?size_mb=64"]).setup())
    }

    fn one(devices: &[&str]) -> OneSubsystem {
        let nqn = "nqn.2019-05.io.openebs:test".parse().unwrap();
        OneSubsystem::new(nqn, devices.iter().map(|uri| String::from(*uri)).collect())
    }

    #[test]
    fn the_defaults_are_legal() {
        assert!(config().check().is_ok());
        assert_eq!(one(&[]).listen_address(), "127.0.0.1:4420".parse().unwrap());
        assert_eq!(config().pool().chunks, 32);
    }

    #[test]
    fn one_subsystem_is_made_by_commands_and_numbers_its_devices_from_one() {
        let setup = one(&["null:///b?size_mb=1", "/dev/a"]).setup();
        let found = setup.iter().filter_map(|command| match command {
            Command::AddNamespace(asked) => Some((asked.namespace, asked.device.as_str())),
            _ => None,
        });
        assert_eq!(found.collect::<Vec<_>>(), [(Some(1), "b"), (Some(2), "/dev/a")]);
        assert!(
            matches!(&setup[0], Command::AddPortal(asked) if asked.address == "127.0.0.1:4420")
        );
    }

    #[test]
    fn dma_memory_is_legal_up_to_both_ends_and_rounded_up_to_hugepages() {
        let with = |dma_mib| TargetConfig { dma_mib, ..config() }.check().is_ok();
        assert_eq!([7, 8, 65536, 65537].map(with), [false, true, true, false]);
        assert_eq!(TargetConfig { dma_mib: 9, ..config() }.pool().chunks, 5);
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
