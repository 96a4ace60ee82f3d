//! What to connect to and how.
//!
//! Built from a URI (`nvmf://host[:port]/nqn`) by whoever opens the device, on a control thread or
//! at start: resolving a name may block.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use uuid::Uuid;

use crate::fabrics::nqn::{Nqn, NqnError};

/// Port of a target when the URI names none (NVMe/TCP Transport 1.0 section 3.1: 4420).
pub const DEFAULT_PORT: u16 = 4420;
/// I/Os in flight on a queue unless told otherwise.
pub const DEFAULT_QUEUE_DEPTH: u32 = 128;
/// Most I/Os in flight on a queue: a queue of 1024 entries less the one that stays empty. It also
/// keeps ffffh from ever being a command identifier.
pub const QUEUE_DEPTH_MAX: u32 = 1023;
/// Most I/O queues of a controller: as many as our own target grants, so that a load generator of
/// one core can hold a hundred.
pub const IO_QUEUES_MAX: u16 = 128;
/// Keep-alive time-out asked for unless told otherwise, in milliseconds. Linux asks for 5 s.
pub const DEFAULT_KEEP_ALIVE_MS: u32 = 5_000;
/// How long connecting to a subsystem may take in all unless told otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What to connect to and how.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Address and port of the target.
    pub address: SocketAddr,
    /// Name of the subsystem.
    pub subsystem_nqn: Nqn,
    /// Name of this host.
    pub host_nqn: Nqn,
    /// Identifier of this host; never nil.
    pub host_id: Uuid,
    /// I/Os in flight on each I/O queue, 1 to [`QUEUE_DEPTH_MAX`]; the controller may allow fewer.
    pub queue_depth: u32,
    /// I/O queues, 1 to [`IO_QUEUES_MAX`]; the controller may allow fewer.
    pub io_queues: u16,
    /// The namespace to use; the first active one when none is given.
    pub namespace_id: Option<u32>,
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// Keep-alive time-out in milliseconds; 0 for none.
    pub keep_alive_ms: u32,
    /// How long connecting may take in all.
    pub connect_timeout: Duration,
}

/// Why options make no sense.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The name of the host does not resolve.
    #[error("cannot find the host of {authority}")]
    UnknownHost {
        /// Host and port as given.
        authority: String,
        /// The resolver's answer, when it gave one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The port is not a number from 1 to 65535.
    #[error("{text:?} is not a port: give a number from 1 to 65535")]
    BadPort {
        /// What was given.
        text: String,
    },
    /// The name is no NQN.
    #[error("{text:?} is not an NQN")]
    BadNqn {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: NqnError,
    },
    /// A span of time is out of its range.
    #[error("{name} must be from {least:?} to {most:?}")]
    BadTime {
        /// Which.
        name: &'static str,
        /// Shortest.
        least: Duration,
        /// Longest.
        most: Duration,
    },
    /// A number is out of its range.
    #[error("{name} must be from {least} to {most}")]
    OutOfRange {
        /// Which.
        name: &'static str,
        /// Smallest value.
        least: u32,
        /// Largest value.
        most: u32,
    },
}

impl ConnectOptions {
    /// Default options for a subsystem at an address. The host's name and identifier are made from
    /// `host_id`, as `nqn.2014-08.org.nvmexpress:uuid:…`.
    pub fn new(address: SocketAddr, subsystem_nqn: Nqn, host_id: Uuid) -> Self {
        let host_nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{host_id}");
        Self {
            address,
            subsystem_nqn,
            host_nqn: host_nqn.parse().expect("a name made of a UUID is valid"),
            host_id,
            queue_depth: DEFAULT_QUEUE_DEPTH,
            io_queues: 1,
            namespace_id: None,
            header_digest: false,
            data_digest: false,
            keep_alive_ms: DEFAULT_KEEP_ALIVE_MS,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
        }
    }

    /// Default options from the pieces of `nvmf://AUTHORITY/NQN`, resolving the name of the host.
    ///
    /// # Errors
    /// Those of the authority and the NQN.
    pub fn from_uri_parts(authority: &str, nqn: &str, host_id: Uuid) -> Result<Self, OptionsError> {
        let subsystem_nqn =
            nqn.parse().map_err(|source| OptionsError::BadNqn { text: nqn.to_owned(), source })?;
        Ok(Self::new(resolve(authority)?, subsystem_nqn, host_id))
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(&self) -> Result<(), OptionsError> {
        check_range("the queue depth", self.queue_depth, QUEUE_DEPTH_MAX)?;
        check_range("the number of I/O queues", self.io_queues.into(), IO_QUEUES_MAX.into())
    }
}

fn check_range(name: &'static str, value: u32, most: u32) -> Result<(), OptionsError> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(OptionsError::OutOfRange { name, least: 1, most })
}

/// Finds the address of `host`, `host:port`, `[v6]` or `[v6]:port`. May block.
///
/// # Errors
/// The host is not known, or the port is none.
pub fn resolve(authority: &str) -> Result<SocketAddr, OptionsError> {
    let unknown = |source| OptionsError::UnknownHost { authority: authority.to_owned(), source };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| unknown(None))?;
            (host, if port.is_empty() { None } else { Some(port.trim_start_matches(':')) })
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err(OptionsError::BadPort { text: text.to_owned() }),
        },
    };
    if host.is_empty() {
        return Err(unknown(None));
    }
    let mut addresses = (host, port).to_socket_addrs().map_err(|source| unknown(Some(source)))?;
    addresses.next().ok_or_else(|| unknown(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NQN: &str = "nqn.2019-05.io.openebs:nexus-1";

    fn of(authority: &str) -> Result<SocketAddr, OptionsError> {
        let host_id = Uuid::from_u128(7);
        ConnectOptions::from_uri_parts(authority, NQN, host_id).map(|options| options.address)
    }

    #[test]
    fn the_port_has_a_default_and_addresses_of_both_kinds_are_taken() {
        assert_eq!(of("127.0.0.1").unwrap(), "127.0.0.1:4420".parse().unwrap());
        assert_eq!(of("127.0.0.1:8420").unwrap(), "127.0.0.1:8420".parse().unwrap());
        assert_eq!(of("[::1]:1").unwrap(), "[::1]:1".parse().unwrap());
        assert_eq!(of("[::1]").unwrap(), "[::1]:4420".parse().unwrap());
    }

    #[test]
    fn authorities_without_host_or_with_a_bad_port_are_refused() {
        for bad in ["127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:", "127.0.0.1:x"] {
            assert!(matches!(of(bad), Err(OptionsError::BadPort { .. })), "{bad}");
        }
        for bad in ["", ":4420", "[::1"] {
            assert!(matches!(of(bad), Err(OptionsError::UnknownHost { .. })), "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_no_nqn_is_refused() {
        let refused = ConnectOptions::from_uri_parts("127.0.0.1", "iqn.2019", Uuid::from_u128(7));
        assert!(matches!(refused, Err(OptionsError::BadNqn { .. })));
    }

    #[test]
    fn depth_and_queues_are_taken_at_their_limits_and_refused_past_them() {
        let address = SocketAddr::from(([127, 0, 0, 1], 4420));
        let mut options = ConnectOptions::new(address, NQN.parse().unwrap(), Uuid::from_u128(7));
        for (depth, legal) in [(0, false), (1, true), (1023, true), (1024, false)] {
            options.queue_depth = depth;
            assert_eq!(options.check().is_ok(), legal, "{depth}");
        }
        options.queue_depth = 1;
        for (queues, legal) in [(0, false), (1, true), (128, true), (129, false)] {
            options.io_queues = queues;
            assert_eq!(options.check().is_ok(), legal, "{queues}");
        }
    }
}
