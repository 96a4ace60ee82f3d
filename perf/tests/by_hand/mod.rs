//! A target of the engine's making that a test passes by hand, on its own thread and clock.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use bdev::emulate::Sharing;
use engine::assembly;
use engine::registry::Registry;
use nvmf::initiator::ConnectOptions;
use nvmf::target::TargetCore;
use reactor::socket::epoll::bind_listener;
use reactor::{Cx, mesh};

/// A target for one device that listens on the core of `cx`, and how to connect to it.
pub fn target(cx: &mut Cx, uri: &str) -> (TargetCore, ConnectOptions) {
    let config = perf::serve::config(uri);
    let socket = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
    let devices = Registry::standard().open_all(&config.devices, Sharing::OneCore).unwrap();
    let description = assembly::describe(&config, devices, address.port(), [7; 16]).unwrap();
    let (_, waker) = reactor::sleep::pair().unwrap();
    let peers = mesh::connect(&[waker]).pop().unwrap();
    let mut target = TargetCore::new(Arc::new(description), peers);
    target.listen(cx, assembly::PORTAL, socket).unwrap();
    (target, perf::serve::connect_options(address))
}
