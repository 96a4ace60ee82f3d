//! The ceiling of this machine: a server that only answers, over the same sockets and the same
//! loop as the target, and a client that treats them as the initiator does.
//!
//! A read is a request of 72 bytes and an answer of 24 bytes and the payload; a write is 72 bytes
//! and the payload, answered by 24 bytes: what NVMe/TCP sends for the same (command capsule,
//! C2HData with the success flag, response capsule). Answers keep the order of the requests. The
//! server reads two lengths of a request and nothing else.

use std::net::SocketAddr;
use std::sync::mpsc;

use reactor::cores::CoreList;
use reactor::dma::PoolConfig;
use reactor::reactor::{Reactor, ReactorConfig, ReactorHandle};
use reactor::socket::epoll::bind_listener;

use crate::cycles::TickRate;
use crate::harness::{self, Collected, RunError};
use crate::options::EchoOptions;
use crate::report::Report;
use crate::reporter::{Gate, Reporter};

pub mod client;
pub mod cold;
pub mod server;
pub mod wire;

use client::{Client, ClientConfig};
use server::{Server, ServerConfig};

/// Runs the echo and reports what the machine can do.
///
/// # Errors
///
/// When a core, a socket or memory cannot be had, or a connection breaks.
pub fn run(options: &EchoOptions) -> Result<Report, RunError> {
    let allowed = CoreList::allowed()?;
    options.load.cores.check_within(&allowed)?;
    options.server_core.check_within(&allowed)?;
    let server_core = harness::single_core(&options.server_core, &options.load.cores)?;
    let rate = TickRate::calibrate();
    let listener = bind_listener(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = std::net::TcpListener::from(listener.try_clone()?).local_addr()?;
    let config = ReactorConfig {
        core: server_core,
        idle: options.server_idle.policy(),
        pool: PoolConfig { chunks: 0, ..PoolConfig::default() },
        seed: options.load.seed,
    };
    let serving = ServerConfig::new(options);
    let server = Reactor::new(config)?.start(move |cx| Server::new(cx, serving, listener))?;
    let result = load(options, address, rate, &server);
    harness::end(server);
    let Collected { measures, faults, server } = result?;
    Ok(Report::new(&measures, server, rate, faults))
}

fn load(
    options: &EchoOptions,
    address: SocketAddr,
    rate: TickRate,
    server: &ReactorHandle<Server>,
) -> Result<Collected, RunError> {
    let (events, reports) = mpsc::channel();
    let cores = options.load.cores.as_slice();
    let mut clients: Vec<ReactorHandle<Client>> = Vec::with_capacity(cores.len());
    let gate = Gate::new(cores.len());
    let mut failed = None;
    for (index, core) in cores.iter().enumerate() {
        let connections = options.load.connections_of(index);
        // Every connection has one more, to write from.
        let buffers = u64::from(connections) * (u64::from(options.load.depth) + 1);
        let reactor = Reactor::new(ReactorConfig {
            core: *core,
            idle: options.load.idle.policy(),
            pool: harness::pool_for(buffers, options.load.block_bytes),
            seed: options.load.seed.wrapping_add(u64::from(core.0) + 1),
        });
        let config = ClientConfig::new(&options.load, index, address, rate);
        let counters = Some(server.shared_counters());
        let reporter = Reporter::new(events.clone(), gate.clone(), counters);
        let client = reactor
            .map_err(RunError::from)
            .and_then(|reactor| reactor.start(move |cx| Client::new(cx, config, reporter)));
        match client {
            Ok(client) => clients.push(client),
            Err(error) => failed = Some(error),
        }
    }
    drop(events);
    let lifetime = options.load.window().lifetime();
    let result = match failed {
        Some(error) => Err(error),
        None => harness::collect(&reports, clients.len(), Some(server.core()), lifetime),
    };
    clients.into_iter().for_each(harness::end);
    result
}
