//! What two values of a configuration file say together, or one that the file must not say.
//!
//! Pure; called once the file has its form. The engine checks again, against the machine.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::SocketAddr;
use std::path::Path;

use bdev::uri::{DeviceUri, UriError};
use engine::command::limits::CHILDREN_MAX;
use engine::config::PORT_DEFAULT;
use engine::registry::{self, Registry};
use nvmf::fabrics::nqn::DISCOVERY_NQN;
use toml::Spanned;

use super::sections::{
    ConfigFile, ControllerIds, DeviceSection, NamespaceSection, NexusSection, PortalSection,
    SubsystemSection,
};

/// Something that cannot be, and the byte of the text where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Offset into the text.
    pub at: usize,
    /// What is wrong, and what is legal.
    pub text: String,
}

fn mistake<T>(place: &Spanned<T>, text: impl Into<String>) -> Mistake {
    Mistake { at: place.span().start, text: text.into() }
}

pub(super) fn check(file: &ConfigFile) -> Result<(), Mistake> {
    if let Some(socket) = file.grpc.as_ref().and_then(|grpc| grpc.socket.as_ref()) {
        let path: &Path = socket.get_ref();
        if !path.is_absolute() {
            return Err(mistake(socket, "a socket has an absolute path"));
        }
    }
    check_portals(&file.portals)?;
    let mut devices = device_names(&file.devices)?;
    for nexus in &file.nexuses {
        check_nexus(nexus, &mut devices)?;
    }
    let mut names = HashSet::new();
    for subsystem in &file.subsystems {
        let nqn = &subsystem.nqn;
        if nqn.get_ref().0 == DISCOVERY_NQN {
            let text = format!("{DISCOVERY_NQN} is the name of the discovery service");
            return Err(mistake(nqn, text + ", which is there always: choose another"));
        }
        if !names.insert(nqn.get_ref().0) {
            return Err(mistake(nqn, "there is a subsystem of this name above: choose another"));
        }
        check_subsystem(subsystem)?;
        check_namespaces(&subsystem.namespaces, &devices)?;
    }
    Ok(())
}

fn check_portals(portals: &[Spanned<PortalSection>]) -> Result<(), Mistake> {
    let mut known = HashSet::new();
    for place in portals {
        let portal = place.get_ref();
        if let Some(advertise) = &portal.advertise
            && advertise.get_ref().0.0.is_unspecified()
        {
            return Err(mistake(advertise, "name an address that hosts can connect to"));
        }
        let port = portal.port.unwrap_or(PORT_DEFAULT);
        let address = SocketAddr::new(portal.address.0.0, port);
        if port != 0 && !known.insert(address) {
            return Err(mistake(place, format!("{address} is there twice: remove one")));
        }
    }
    Ok(())
}

/// The names of the devices.
fn device_names(devices: &[Spanned<DeviceSection>]) -> Result<HashSet<String>, Mistake> {
    let registry = Registry::standard();
    let mut names = HashSet::with_capacity(devices.len());
    for device in devices {
        let place = &device.get_ref().uri;
        let text = place.get_ref();
        let uri: DeviceUri = text
            .parse()
            .map_err(|error: UriError| mistake(place, crate::failure::one_line(&error)))?;
        let built = registry.check_built(text, &uri);
        built.map_err(|error| mistake(place, crate::failure::one_line(&error)))?;
        let name = registry::device_name(&uri);
        if names.contains(&name) {
            let text = format!("there is a device {name} above: give this one another name");
            return Err(mistake(place, text));
        }
        names.insert(name);
    }
    Ok(names)
}

/// Adds the name of a nexus, and those of the devices that are opened for it, to the names.
fn check_nexus(nexus: &NexusSection, devices: &mut HashSet<String>) -> Result<(), Mistake> {
    let children = nexus.children.get_ref();
    if !(1..=CHILDREN_MAX).contains(&children.len()) {
        let text = format!("a nexus has 1 to {CHILDREN_MAX} children");
        return Err(mistake(&nexus.children, text));
    }
    if let (Some(_), Some(command)) = (&nexus.record, &nexus.record_command) {
        return Err(mistake(command, "a nexus has one record: a file or a command"));
    }
    let registry = Registry::standard();
    for place in children {
        let text = place.get_ref();
        let uri: DeviceUri = text
            .parse()
            .map_err(|error: UriError| mistake(place, crate::failure::one_line(&error)))?;
        let name = registry::device_name(&uri);
        if matches!(uri, DeviceUri::Bdev(_) | DeviceUri::Loopback(_)) {
            if !devices.contains(&name) {
                return Err(mistake(place, format!("there is no device {name} above")));
            }
            continue;
        }
        let built = registry.check_built(text, &uri);
        built.map_err(|error| mistake(place, crate::failure::one_line(&error)))?;
        if !devices.insert(name.clone()) {
            let text = format!("there is a device {name} above: give this one another name");
            return Err(mistake(place, text));
        }
    }
    let name = nexus.name.get_ref();
    if !devices.insert(name.clone()) {
        let text = format!("there is a device {name} above: give this nexus another name");
        return Err(mistake(&nexus.name, text));
    }
    Ok(())
}

fn check_subsystem(subsystem: &SubsystemSection) -> Result<(), Mistake> {
    if let Some(hosts) = &subsystem.hosts {
        if hosts.get_ref().is_empty() {
            let text = "name a host, or leave the key out to let every host connect";
            return Err(mistake(hosts, text));
        }
        let nqns = hosts.get_ref().iter().map(|host| (host, host.get_ref().0));
        if let Some(host) = first_twice(nqns) {
            return Err(mistake(host, "this host is there twice: remove one"));
        }
    }
    if let Some(place) = &subsystem.controller_ids {
        let ControllerIds { first, last } = place.get_ref();
        if first.0 > last.0 {
            return Err(mistake(place, "the last identifier is below the first"));
        }
    }
    Ok(())
}

fn check_namespaces(
    namespaces: &[NamespaceSection],
    devices: &HashSet<String>,
) -> Result<(), Mistake> {
    for namespace in namespaces {
        let name = namespace.device.get_ref();
        if !devices.contains(name) {
            let text = format!("there is no device {name}: add a [[devices]] with its uri");
            return Err(mistake(&namespace.device, text));
        }
    }
    let ids = namespaces.iter().filter_map(|one| one.nsid.as_ref());
    if let Some(place) = first_twice(ids.map(|id| (id, id.get_ref().0))) {
        return Err(mistake(place, "this number is there twice in the subsystem"));
    }
    let uuids = namespaces.iter().filter_map(|one| one.uuid.as_ref());
    if let Some(place) = first_twice(uuids.map(|uuid| (uuid, uuid.get_ref().0))) {
        return Err(mistake(place, "this uuid is there twice: a host would drop the second"));
    }
    Ok(())
}

/// The first thing whose key one before it has.
fn first_twice<T, K: Hash + Eq>(mut things: impl Iterator<Item = (T, K)>) -> Option<T> {
    let mut known = HashSet::new();
    things.find_map(|(thing, key)| (!known.insert(key)).then_some(thing))
}
