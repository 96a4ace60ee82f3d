//! Opens a namespace of a remote target by its URI.
//!
//! Called by the registry on control threads: resolving a name and connecting block, the latter for
//! as long as the connection options let it.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::time::Duration;

use bdev::BlockDevice;
use bdev::uri::{HostPort, NvmfPlace, NvmfUri};
use nvmf::fabrics::nqn::NqnError;
use nvmf::initiator::remote::{OpenRemoteError, RemoteDevice, RemoteOptions, WhenLost};
use nvmf::initiator::{ConnectOptions, IO_QUEUES_MAX, OptionsError, resolve};
use uuid::Uuid;

use crate::discovery_config::{self, ConfigError};

/// What names this machine for good (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";
/// Where there is no such name, what names it until it is booted again.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The space of the host identifiers that are made of them.
const HOST_SPACE: Uuid = uuid::uuid!("0c9d2f0e-2a55-4b62-9f0c-7a3b5f6f1a11");

/// Why a remote namespace could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// What the URI says makes no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The name of this host is no NQN.
    #[error("{text:?} is no host NQN")]
    HostNqn {
        /// The name.
        text: String,
        /// What is wrong with it.
        #[source]
        source: NqnError,
    },
    /// Reference tags or guards are asked for.
    #[error("protection information is not built: leave reftag and guard out")]
    Protection,
    /// The machine's list of discovery controllers cannot be used.
    #[error(transparent)]
    Discovery(#[from] ConfigError),
    /// It cannot be connected.
    #[error(transparent)]
    Open(#[from] OpenRemoteError),
}

/// In whose name a namespace is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// This machine's.
    Machine,
    /// That of one owner of a volume, by the number of its nexus in this process. Reservations
    /// belong to hosts, so an owner that others are to be told from is a host of its own, also on
    /// one machine; the target's name for the machine stays the same.
    Owner(u64),
}

/// Connects to the namespace that a URI names.
///
/// # Errors
///
/// Each by its name in [`RemoteError`].
pub fn open(uri: &NvmfUri) -> Result<RemoteDevice, RemoteError> {
    open_as(uri, Host::Machine)
}

/// The same in another name.
///
/// # Errors
///
/// As [`open`].
pub fn open_as(uri: &NvmfUri, host: Host) -> Result<RemoteDevice, RemoteError> {
    let mut options = options(uri)?;
    if let Host::Owner(owner) = host {
        options.connect.host_id = owner_id(owner);
    }
    let device = RemoteDevice::open(uri.subnqn.clone(), options)?;
    match (uri.uuid, device.uuid()) {
        (Some(asked), Some(found)) if asked != found => {
            Err(OpenRemoteError::OtherIdentity { asked, found }.into())
        }
        _ => Ok(device),
    }
}

/// How to connect, and how to behave.
fn options(uri: &NvmfUri) -> Result<RemoteOptions, RemoteError> {
    let NvmfUri { place, subnqn, choices, .. } = uri;
    if uri.reftag || uri.guard {
        return Err(RemoteError::Protection);
    }
    let (authorities, is_discovered) = match place {
        NvmfPlace::At(place) => (vec![place.to_string()], false),
        NvmfPlace::Discovered(list) if list.is_empty() => (discovery_config::read()?, true),
        NvmfPlace::Discovered(list) => (list.iter().map(HostPort::to_string).collect(), true),
    };
    let mut connect = ConnectOptions::from_uri_parts(&authorities[0], subnqn, host_id())?;
    if let Some(text) = &choices.host_nqn {
        let refuse = |source| RemoteError::HostNqn { text: text.clone(), source };
        connect.host_nqn = text.parse().map_err(refuse)?;
    }
    connect.namespace_id = choices.namespace;
    connect.header_digest = choices.header_digest;
    connect.data_digest = choices.data_digest;
    connect.keep_alive_ms = choices.keep_alive_ms.unwrap_or(connect.keep_alive_ms);
    // One for each core, and one more while a queue pair takes the place of another.
    connect.io_queues = IO_QUEUES_MAX;
    let mut options = RemoteOptions::new(connect);
    if is_discovered {
        let controllers = authorities.iter().map(|authority| resolve(authority));
        options.discovery = controllers.collect::<Result<_, _>>()?;
    }
    let span = |ms: u32| Duration::from_millis(ms.into());
    if let Some(wait) = choices.wait_ms {
        options.when_lost = WhenLost::Wait(span(wait));
    }
    if let Some(timeout) = choices.io_timeout_ms {
        options.io_timeout = span(timeout);
    }
    options.check()?;
    Ok(options)
}

/// The identifier of this host, always the same: a target keeps what a host's lost connection has
/// left undone from the connections that come after, and knows the host by this.
fn host_id() -> Uuid {
    let read = |path| std::fs::read_to_string(path).ok().filter(|text| !text.trim().is_empty());
    let name = read(MACHINE_ID).or_else(|| read(BOOT_ID)).unwrap_or_default();
    Uuid::new_v5(&HOST_SPACE, name.trim().as_bytes())
}

/// The identifier of an owner, another one in each run of the process.
fn owner_id(owner: u64) -> Uuid {
    static RUN: OnceLock<Uuid> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let halves = [0, 1].map(|half: u64| RandomState::new().hash_one(half));
        Uuid::from_u64_pair(halves[0], halves[1])
    });
    Uuid::new_v5(run, &owner.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use bdev::uri::DeviceUri;

    use super::*;

    fn of(text: &str) -> Result<RemoteOptions, RemoteError> {
        let DeviceUri::Nvmf(uri) = text.parse().unwrap() else { panic!("an nvmf URI") };
        options(&uri)
    }

    #[test]
    fn what_a_uri_says_is_what_is_done() {
        let plain = of("nvmf://127.0.0.1/nqn.2019-05.io:a").unwrap();
        assert_eq!(plain.connect.address, "127.0.0.1:4420".parse().unwrap());
        assert_eq!(plain.when_lost, WhenLost::Fail);
        let all = "nvmf://[::1]:8420/nqn.2019-05.io:a?namespace=3&hdgst&ddgst&wait_ms=7\
                   &io_timeout_ms=500&keep_alive_ms=0&hostnqn=nqn.2019-05.io:h";
        let all = of(all).unwrap();
        assert_eq!(all.connect.address, "[::1]:8420".parse().unwrap());
        assert_eq!((all.connect.namespace_id, all.connect.keep_alive_ms), (Some(3), 0));
        assert!(all.connect.header_digest && all.connect.data_digest);
        assert_eq!(all.when_lost, WhenLost::Wait(Duration::from_millis(7)));
        assert_eq!(all.io_timeout, Duration::from_millis(500));
        assert_eq!(all.connect.host_nqn.as_str(), "nqn.2019-05.io:h");
        assert_eq!(all.connect.host_id, plain.connect.host_id);
    }

    #[test]
    fn each_owner_is_a_host_of_its_own() {
        assert_eq!(owner_id(1), owner_id(1));
        assert_ne!(owner_id(1), owner_id(2));
        assert!(![owner_id(1), owner_id(2)].contains(&host_id()));
    }

    #[test]
    fn a_name_alone_is_looked_for_at_the_discovery_controllers_given() {
        let found = of("nvme://nqn.2019-05.io:a?discovery=127.0.0.1,[::1]:4420").unwrap();
        let controllers = ["127.0.0.1:8009".parse().unwrap(), "[::1]:4420".parse().unwrap()];
        assert_eq!(found.discovery, controllers);
        assert_eq!(found.connect.subsystem_nqn.as_str(), "nqn.2019-05.io:a");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (query, text) in [
            ("guard", "protection"),
            ("io_timeout_ms=9", "time-out"),
            ("wait_ms=600001", "wait"),
            ("hostnqn=nqn.x", "host NQN"),
        ] {
            let error = of(&format!("nvmf://127.0.0.1/nqn.2019-05.io:a?{query}")).unwrap_err();
            assert!(error.to_string().contains(text), "{query}: {error}");
        }
    }
}
