//! What a target serves, as all its cores see it.
//!
//! Put together on a control thread; immutable and shared. A change makes a new one, which
//! [`super::TargetCore::apply`] brings to each core.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use reactor::dma::pool::LARGEST_BUFFER_BYTES;

use super::admin::{Directory, DirectoryEntry};
use super::subsystem::{HostPolicy, Subsystem, SubsystemKind};
use crate::fabrics::Nqn;

/// Whether hosts that ask for digests get them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestPolicy {
    /// As the host asks.
    AsAsked,
    /// Never (`--no-digest`).
    Never,
}

/// Names a subsystem between cores. Never used again in a process, so that late news of one that
/// is gone reach no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubsystemId(pub u32);

/// Names a listening socket; PORTID of the discovery log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortalId(pub u16);

/// Where the target listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Its name.
    pub id: PortalId,
    /// The address that is listened on; may be a wildcard.
    pub local: SocketAddr,
    /// The address that discovery names instead.
    pub advertised: Option<SocketAddr>,
}

/// A target: its subsystems and what hosts are told of it. A change makes a new one.
#[derive(Clone, Debug)]
pub struct TargetDescription {
    /// Grows with every change: GENCTR of the discovery log.
    pub generation: u64,
    /// The subsystems, discovery included.
    pub subsystems: BTreeMap<SubsystemId, Arc<Subsystem>>,
    /// Where the target listens; none means that discovery names the address the host came to.
    pub portals: Vec<Portal>,
    /// Digests.
    pub digests: DigestPolicy,
}

impl TargetDescription {
    /// The first description of a target with these subsystems, numbered from 0 in this order.
    pub fn new(subsystems: Vec<Subsystem>) -> TargetDescription {
        let ids = (0..).map(SubsystemId);
        TargetDescription {
            generation: 1,
            subsystems: ids.zip(subsystems.into_iter().map(Arc::new)).collect(),
            portals: Vec::new(),
            digests: DigestPolicy::AsAsked,
        }
    }

    /// The subsystem called `nqn`.
    pub fn find(&self, nqn: &Nqn) -> Option<(SubsystemId, &Arc<Subsystem>)> {
        let found = self.subsystems.iter().find(|(_, subsystem)| subsystem.nqn() == nqn);
        found.map(|(id, subsystem)| (*id, subsystem))
    }

    /// What a discovery controller names to a host that came to `local`.
    pub fn directory(&self, local: Option<SocketAddr>) -> Option<Directory> {
        let addresses = self.addresses(local);
        let nvm = self.subsystems.values().filter(|one| one.kind() == SubsystemKind::Nvm);
        let entries = nvm.flat_map(|subsystem| {
            addresses.iter().map(|(portal, address)| DirectoryEntry {
                subsystem: Arc::clone(subsystem),
                address: *address,
                port_id: portal.0,
            })
        });
        Directory::new(self.generation, entries.collect()).ok()
    }

    /// Each portal with the address that a host which came to `local` should use. A wildcard is
    /// reached by the address that the host knows, if that is of its family.
    fn addresses(&self, local: Option<SocketAddr>) -> Vec<(PortalId, SocketAddr)> {
        if self.portals.is_empty() {
            return local.map(|address| (PortalId(0), address)).into_iter().collect();
        }
        let address = |portal: &Portal| match (portal.advertised, local) {
            (Some(advertised), _) => Some(advertised),
            (None, _) if !portal.local.ip().is_unspecified() => Some(portal.local),
            (None, Some(known)) if known.is_ipv4() == portal.local.is_ipv4() => {
                Some(SocketAddr::new(known.ip(), portal.local.port()))
            }
            (None, _) => None,
        };
        self.portals.iter().filter_map(|one| Some((one.id, address(one)?))).collect()
    }

    /// True when `other` names the same to discover, to every host.
    pub fn is_discovered_like(&self, other: &TargetDescription) -> bool {
        let shown = |description: &TargetDescription| -> Vec<(Nqn, HostPolicy)> {
            let nvm =
                description.subsystems.values().filter(|one| one.kind() == SubsystemKind::Nvm);
            nvm.map(|one| (*one.nqn(), one.hosts().clone())).collect()
        };
        self.portals == other.portals && shown(self) == shown(other)
    }

    /// The largest transfer of any of its subsystems, in bytes.
    pub fn transfer_bytes_max(&self) -> u32 {
        let largest = self.subsystems.values().map(|one| one.limits().transfer_bytes_max).max();
        largest.unwrap_or(LARGEST_BUFFER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::testing::io_subsystem;

    fn described(portals: &[(&str, Option<&str>)]) -> TargetDescription {
        let portal = |(id, (local, advertised)): (u16, &(&str, Option<&str>))| Portal {
            id: PortalId(id),
            local: local.parse().unwrap(),
            advertised: advertised.map(|address| address.parse().unwrap()),
        };
        let portals = (1..).zip(portals).map(portal).collect();
        TargetDescription { portals, ..TargetDescription::new(vec![io_subsystem()]) }
    }

    fn addresses(portals: &[(&str, Option<&str>)], local: &str) -> Vec<(u16, String)> {
        let found = described(portals).addresses(Some(local.parse().unwrap()));
        found.into_iter().map(|(portal, address)| (portal.0, address.to_string())).collect()
    }

    #[test]
    fn without_portals_a_host_is_sent_where_it_came_to() {
        assert_eq!(addresses(&[], "10.0.0.1:4420"), [(0, String::from("10.0.0.1:4420"))]);
    }

    #[test]
    fn a_wildcard_is_named_by_the_address_that_the_host_knows() {
        let portals = [("0.0.0.0:4420", None), ("[::]:4420", None), ("10.0.0.2:4421", None)];
        let named = [(1, String::from("10.0.0.1:4420")), (3, String::from("10.0.0.2:4421"))];
        assert_eq!(addresses(&portals, "10.0.0.1:4421"), named);
    }

    #[test]
    fn what_is_advertised_is_named_instead() {
        let portals = [("0.0.0.0:4420", Some("192.0.2.1:5000"))];
        let named = [(1, String::from("192.0.2.1:5000"))];
        assert_eq!(addresses(&portals, "[fd00::1]:4420"), named);
    }

    #[test]
    fn only_names_hosts_and_portals_are_there_to_discover() {
        let one = described(&[]);
        assert!(one.is_discovered_like(&TargetDescription { generation: 9, ..one.clone() }));
        assert!(!one.is_discovered_like(&described(&[("10.0.0.1:4420", None)])));
        let none = TargetDescription { subsystems: BTreeMap::new(), ..one.clone() };
        assert!(!one.is_discovered_like(&none));
    }
}
