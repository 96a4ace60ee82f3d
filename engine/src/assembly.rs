//! From a configuration and its open devices to the description that all cores of a target share.
//!
//! Called once by [`crate::Engine::start`], on a control thread. One NVM subsystem with a
//! namespace a device, numbered from 1 in the order given, and the discovery subsystem that names
//! it (NVMe over Fabrics 1.1 section 1.5.4).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bdev::BlockDevice;
use nvmf::fabrics::Nqn;
use nvmf::fabrics::nqn::DISCOVERY_NQN;
use nvmf::target::limits::TargetLimits;
use nvmf::target::namespace::{Namespace, NamespaceId};
use nvmf::target::subsystem::{
    HostPolicy, Subsystem, SubsystemConfig, SubsystemError, SubsystemKind,
};
use nvmf::target::{Portal, PortalId, TargetDescription};
use uuid::Uuid;

use crate::config::TargetConfig;

/// The one portal.
pub const PORTAL: PortalId = PortalId(1);

/// Why devices and configuration do not make a target.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// Two namespaces have one identity; a host would drop the second.
    #[error("devices {first} and {second} have the same uuid {uuid}: give each its own")]
    SameIdentity {
        /// Name of the one device.
        first: String,
        /// Name of the other.
        second: String,
        /// Their identity.
        uuid: Uuid,
    },
    /// The name of the discovery service cannot be that of a subsystem with namespaces.
    #[error("{DISCOVERY_NQN} is the name of the discovery service: choose another")]
    DiscoveryName,
    /// A subsystem that cannot be.
    #[error(transparent)]
    Subsystem(#[from] Box<SubsystemError>),
}

/// Describes the target. `instance` is drawn at random once a process; `port` is the one that is
/// listened on.
pub fn describe(
    config: &TargetConfig,
    devices: Vec<Arc<dyn BlockDevice>>,
    port: u16,
    instance: [u8; 16],
) -> Result<TargetDescription, AssemblyError> {
    if config.nqn == DISCOVERY_NQN {
        return Err(AssemblyError::DiscoveryName);
    }
    let namespaces = namespaces(config, devices)?;
    let limits = TargetLimits { queue_entries_max: config.queue_entries, ..Default::default() };
    let hosts = match config.allow_hosts.as_slice() {
        [] => HostPolicy::Any,
        named => HostPolicy::Only(named.to_vec()),
    };
    let subsystem = SubsystemConfig {
        hosts,
        namespaces,
        limits,
        ..SubsystemConfig::new(config.nqn, SubsystemKind::Nvm, instance)
    };
    // Any host may ask; each is told only of what it may connect to.
    let discovery = SubsystemConfig::new(DISCOVERY_NQN, SubsystemKind::Discovery, instance);
    let mut subsystems = Vec::new();
    for one in [subsystem, discovery] {
        subsystems.push(Subsystem::new(one).map_err(Box::new)?);
    }
    let portal = Portal {
        id: PORTAL,
        local: SocketAddr::new(config.address, port),
        advertised: config.advertise.map(|address| SocketAddr::new(address, port)),
    };
    Ok(TargetDescription {
        portals: vec![portal],
        digests: config.digests,
        ..TargetDescription::new(subsystems)
    })
}

fn namespaces(
    config: &TargetConfig,
    devices: Vec<Arc<dyn BlockDevice>>,
) -> Result<Vec<Namespace>, AssemblyError> {
    let mut owners: HashMap<Uuid, String> = HashMap::new();
    let mut namespaces = Vec::with_capacity(devices.len());
    for (id, device) in (1..).map(NamespaceId).zip(devices) {
        let namespace = Namespace::new(&config.nqn, id, device, config.access);
        let second = namespace.device.name().to_owned();
        let uuid = namespace.uuid;
        if let Some(first) = owners.insert(uuid, second.clone()) {
            return Err(AssemblyError::SameIdentity { first, second, uuid });
        }
        namespaces.push(namespace);
    }
    Ok(namespaces)
}

/// The command with which a Linux host connects. A wildcard is no address to connect to: what is
/// advertised stands in for it, or else the loopback address of its family.
pub fn connect_line(local: SocketAddr, advertise: Option<IpAddr>, nqn: &Nqn) -> String {
    let address = match (local.ip(), advertise) {
        (address, _) if !address.is_unspecified() => address,
        (_, Some(advertised)) => advertised,
        (IpAddr::V4(_), None) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (IpAddr::V6(_), None) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    format!("nvme connect -t tcp -a {address} -s {} -n {nqn}", local.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::{Geometry, Null};
    use nvmf::target::SubsystemId;
    use nvmf::target::namespace::Access;

    const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 2048 };

    fn config() -> TargetConfig {
        TargetConfig::new("nqn.2019-05.io.openebs:test".parse().unwrap(), Vec::new())
    }

    fn device(name: &str, uuid: Option<u128>) -> Arc<dyn BlockDevice> {
        Arc::new(Null::new(name, GEOMETRY, uuid.map(Uuid::from_u128)).unwrap())
    }

    fn first(target: &TargetDescription) -> &Subsystem {
        &target.subsystems[&SubsystemId(0)]
    }

    fn described(config: &TargetConfig, devices: Vec<Arc<dyn BlockDevice>>) -> TargetDescription {
        describe(config, devices, 4420, [7; 16]).unwrap()
    }

    #[test]
    fn namespaces_are_numbered_from_one_in_the_order_given() {
        let target = described(&config(), vec![device("b", None), device("a", Some(5))]);
        let found: Vec<_> = first(&target)
            .namespaces()
            .iter()
            .map(|namespace| (namespace.id.0, namespace.device.name().to_owned()))
            .collect();
        assert_eq!(found, [(1, String::from("b")), (2, String::from("a"))]);
        assert_eq!(first(&target).namespaces()[1].uuid, Uuid::from_u128(5));
    }

    #[test]
    fn there_is_a_discovery_subsystem_for_every_host() {
        let host: Nqn = "nqn.2014-08.org.nvmexpress:host".parse().unwrap();
        let config = TargetConfig { allow_hosts: vec![config().nqn], ..config() };
        let target = described(&config, vec![device("a", None)]);
        let kinds: Vec<_> = target.subsystems.values().map(|one| one.kind()).collect();
        assert_eq!(kinds, [SubsystemKind::Nvm, SubsystemKind::Discovery]);
        assert!(!first(&target).hosts().allows(&host));
        assert!(target.subsystems[&SubsystemId(1)].hosts().allows(&host));
    }

    #[test]
    fn options_reach_the_subsystem() {
        let config = TargetConfig {
            queue_entries: 1024,
            access: Access::ReadOnly,
            advertise: Some("10.1.2.3".parse().unwrap()),
            ..config()
        };
        let target = described(&config, vec![device("a", None)]);
        let subsystem = first(&target);
        assert_eq!(subsystem.limits().queue_entries_max, 1024);
        assert!(subsystem.namespaces()[0].is_read_only());
        assert_eq!(target.portals[0].advertised, Some("10.1.2.3:4420".parse().unwrap()));
    }

    #[test]
    fn two_devices_with_one_identity_are_refused() {
        let devices = vec![device("a", Some(5)), device("b", Some(5))];
        let refused = describe(&config(), devices, 4420, [7; 16]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "devices a and b have the same uuid 00000000-0000-0000-0000-000000000005: \
             give each its own"
        );
    }

    #[test]
    fn the_discovery_name_is_not_for_namespaces() {
        let config = TargetConfig { nqn: DISCOVERY_NQN, ..config() };
        let refused = describe(&config, vec![device("a", None)], 4420, [7; 16]);
        assert!(matches!(refused, Err(AssemblyError::DiscoveryName)));
    }

    #[test]
    fn the_connect_line_names_an_address_that_can_be_connected_to() {
        let line = |local: &str, advertise: Option<&str>| {
            let advertise = advertise.map(|address| address.parse().unwrap());
            connect_line(local.parse().unwrap(), advertise, &config().nqn)
        };
        let expected = |address: &str| {
            format!("nvme connect -t tcp -a {address} -s 4420 -n nqn.2019-05.io.openebs:test")
        };
        assert_eq!(line("127.0.0.1:4420", None), expected("127.0.0.1"));
        assert_eq!(line("127.0.0.1:4420", Some("10.0.0.1")), expected("127.0.0.1"));
        assert_eq!(line("0.0.0.0:4420", None), expected("127.0.0.1"));
        assert_eq!(line("0.0.0.0:4420", Some("10.0.0.1")), expected("10.0.0.1"));
        assert_eq!(line("[::]:4420", None), expected("::1"));
        assert_eq!(line("[fe80::1]:4420", None), expected("fe80::1"));
    }
}
