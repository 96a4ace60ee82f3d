//! Binds the addresses that a target listens on, and says what stands in the way.
//!
//! Called on control threads; what is bound is then listened on by the first core.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use reactor::socket::epoll::bind_listener;

/// Why an address cannot be listened on; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PortalError {
    /// Something listens there already.
    #[error(
        "port {port} of {address} is in use: stop what listens there, or choose another port \
         (0 takes a free one)",
        port = .address.port(), address = .address.ip()
    )]
    PortInUse {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The process may not listen there.
    #[error(
        "no permission for port {port} of {address}: choose one above 1023, or grant the process \
         CAP_NET_BIND_SERVICE",
        port = .address.port(), address = .address.ip()
    )]
    NoPermission {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The machine does not have the address.
    #[error(
        "this machine does not have the address {address}: choose one of its own, or 0.0.0.0 or \
         :: for all of them",
        address = .address.ip()
    )]
    NoSuchAddress {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The system refused to listen for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl PortalError {
    /// The system's answer for this address, in words.
    pub fn new(address: SocketAddr, source: std::io::Error) -> PortalError {
        use std::io::ErrorKind;
        match source.kind() {
            ErrorKind::AddrInUse => PortalError::PortInUse { address },
            ErrorKind::PermissionDenied => PortalError::NoPermission { address },
            ErrorKind::AddrNotAvailable => PortalError::NoSuchAddress { address },
            _ => PortalError::Listen { address, source },
        }
    }
}

/// Binds an address; also where it is then listened on, as port 0 becomes a real one.
///
/// # Errors
///
/// What stands in the way.
pub fn bind(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), PortalError> {
    let refused = |source| PortalError::new(address, source);
    let listener = TcpListener::from(bind_listener(address).map_err(refused)?);
    let local = listener.local_addr().map_err(refused)?;
    Ok((OwnedFd::from(listener), local))
}

/// The command with which a Linux host connects. A wildcard is no address to connect to: what is
/// advertised stands in for it, or else the loopback address of its family.
pub fn connect_line(local: SocketAddr, advertised: Option<SocketAddr>, nqn: &str) -> String {
    let to = match (local.ip(), advertised) {
        (address, _) if !address.is_unspecified() => local,
        (_, Some(advertised)) => advertised,
        (IpAddr::V4(_), None) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), local.port()),
        (IpAddr::V6(_), None) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), local.port()),
    };
    format!("nvme connect -t tcp -a {} -s {} -n {nqn}", to.ip(), to.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connect_line_names_an_address_that_can_be_connected_to() {
        let line = |local: &str, advertised: Option<&str>| {
            let advertised = advertised.map(|address| address.parse().unwrap());
            connect_line(local.parse().unwrap(), advertised, "nqn.2019-05.io.openebs:test")
        };
        let expected = |address: &str| {
            format!("nvme connect -t tcp -a {address} -s 4420 -n nqn.2019-05.io.openebs:test")
        };
        assert_eq!(line("127.0.0.1:4420", None), expected("127.0.0.1"));
        assert_eq!(line("127.0.0.1:4420", Some("10.0.0.1:4420")), expected("127.0.0.1"));
        assert_eq!(line("0.0.0.0:4420", None), expected("127.0.0.1"));
        assert_eq!(line("0.0.0.0:1", Some("10.0.0.1:4420")), expected("10.0.0.1"));
        assert_eq!(line("[::]:4420", None), expected("::1"));
        assert_eq!(line("[fe80::1]:4420", None), expected("fe80::1"));
    }
}
