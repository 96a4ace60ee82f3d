//! A target of the engine's making that a test passes by hand, on its own thread and clock.

use std::net::{SocketAddr, TcpListener};

use engine::registry::Registry;
use engine::{Command, Conductor, ConductorOptions};
use nvmf::initiator::ConnectOptions;
use nvmf::target::{DigestPolicy, PortalId, TargetCore};
use reactor::socket::epoll::bind_listener;
use reactor::{Cx, mesh};

/// A target for one device that listens on the core of `cx`, and how to connect to it.
pub fn target(cx: &mut Cx, uri: &str) -> (TargetCore, ConnectOptions) {
    let socket = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
    let conductor = Conductor::new(ConductorOptions {
        registry: Registry::standard(),
        cores: 1,
        digests: DigestPolicy::AsAsked,
    });
    for command in perf::serve::subsystem(uri).setup() {
        // The test listens itself.
        if !matches!(command, Command::AddPortal(_)) {
            conductor.execute(&command).unwrap();
        }
    }
    let (_, waker) = reactor::sleep::pair().unwrap();
    let peers = mesh::connect(&[waker]).pop().unwrap();
    let mut target = TargetCore::new(conductor.description(), peers);
    target.listen(cx, PortalId(1), socket).unwrap();
    (target, perf::serve::connect_options(address))
}
