//! Our own NVMe/TCP target in this process: `run --serve URI` and the tests load it over loopback.
//!
//! One core, one subsystem, one namespace, on a port of the system's choice. Started by main.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bdev::BlockDevice;
use nvmf::fabrics::Nqn;
use nvmf::initiator::ConnectOptions;
use nvmf::target::TargetCore;
use nvmf::target::description::{DigestPolicy, TargetDescription};
use nvmf::target::namespace::{Access, Namespace, NamespaceId};
use nvmf::target::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use reactor::sleep::Waker;
use reactor::socket::epoll::bind_listener;
use reactor::{Cx, mesh};
use uuid::Uuid;

use crate::device::HOST_NAME;
use crate::harness::RunError;

/// The subsystem's name.
const SUBSYSTEM: &str = "nqn.2019-05.io.openebs:mayastor-perf";

/// A target that is bound and not served yet.
#[derive(Debug)]
pub struct Bound {
    description: Arc<TargetDescription>,
    socket: OwnedFd,
    address: SocketAddr,
    name: Nqn,
}

impl Bound {
    /// Binds a target for `device` to a free port of the loopback.
    ///
    /// # Errors
    ///
    /// When there is no port, or the device cannot be served.
    pub fn new(device: Arc<dyn BlockDevice>) -> Result<Bound, RunError> {
        let socket = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = std::net::TcpListener::from(socket.try_clone()?).local_addr()?;
        let name: Nqn = SUBSYSTEM.parse().expect("the name is an NQN");
        let instance = Uuid::new_v5(&Uuid::NAMESPACE_URL, SUBSYSTEM.as_bytes()).into_bytes();
        let mut config = SubsystemConfig::new(name, SubsystemKind::Nvm, instance);
        config.namespaces = vec![Namespace::new(&name, NamespaceId(1), device, Access::ReadWrite)];
        let refuse = |error| RunError::Target {
            target: SUBSYSTEM.to_owned(),
            reason: crate::device::chain(&error),
        };
        let subsystem = Subsystem::new(config).map_err(refuse)?;
        let description = TargetDescription {
            subsystems: vec![Arc::new(subsystem)],
            digests: DigestPolicy::AsAsked,
            advertised: Vec::new(),
        };
        Ok(Bound { description: Arc::new(description), socket, address, name })
    }

    /// How a host connects to it.
    pub fn connect_options(&self) -> ConnectOptions {
        let host_id = Uuid::new_v5(&Uuid::NAMESPACE_URL, HOST_NAME);
        ConnectOptions::new(self.address, self.name, host_id)
    }

    /// Serves it on the core of `cx`, which `waker` wakes. On the core's own thread.
    ///
    /// # Errors
    ///
    /// When the socket cannot be watched.
    pub fn serve(self, cx: &mut Cx, waker: Waker) -> Result<TargetCore, RunError> {
        let peers = mesh::connect(&[waker]).pop().expect("one core has one set of peers");
        let mut core = TargetCore::new(self.description, peers);
        core.listen(cx, self.socket)?;
        Ok(core)
    }
}
