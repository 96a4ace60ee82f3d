//! A host in the test's own thread: one queue of one namespace, by way of the initiator.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bdev::{Completions, Io, Lba, Operation, QueuePair, Status, Token};
use nvmf::fabrics::Nqn;
use nvmf::initiator::{ConnectError, ConnectOptions, Connector, Progress, RemoteNamespace};
use reactor::Cx;
use reactor::dma::DmaBuffer;
use reactor::socket::Wait;
use uuid::Uuid;

pub const NQN_A: &str = "nqn.2019-05.io.openebs:a";
pub const NQN_B: &str = "nqn.2019-05.io.openebs:b";

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Host {
    cx: Cx,
    buffer: DmaBuffer,
    namespace: Box<RemoteNamespace>,
    completions: Completions,
}

fn options(address: SocketAddr, subsystem: &str, namespace: u32) -> ConnectOptions {
    let host_id = Uuid::from_u128(0x6a1e_0f4d_0d51_4a1c_8b5b_7d4d_4a8f_9f10);
    ConnectOptions {
        namespace_id: Some(namespace),
        keep_alive_ms: 0,
        ..ConnectOptions::new(address, subsystem.parse().unwrap(), host_id)
    }
}

fn pass(cx: &mut Cx) {
    let mut ready = Vec::new();
    cx.network.poll(Wait::No, &mut ready);
    for event in ready {
        cx.device_readiness.note(event);
    }
    thread::sleep(Duration::from_micros(200));
}

impl Host {
    /// Its name.
    pub fn nqn() -> Nqn {
        options(SocketAddr::from(([127, 0, 0, 1], 1)), NQN_A, 1).host_nqn
    }

    pub fn connect(
        address: SocketAddr,
        subsystem: &str,
        namespace: u32,
    ) -> Result<Host, ConnectError> {
        let (mut cx, _) = reactor::cx::test_context();
        let options = options(address, subsystem, namespace);
        let mut connector = Connector::start(&mut cx, options)?;
        let until = Instant::now() + PATIENCE;
        loop {
            pass(&mut cx);
            match connector.poll(&mut cx) {
                Progress::Pending => assert!(Instant::now() < until, "nobody answers"),
                Progress::Failed(error) => return Err(error),
                Progress::Ready(namespace) => {
                    let buffer = cx.dma.take(4096).unwrap();
                    let completions = Completions::new();
                    return Ok(Host { cx, buffer, namespace, completions });
                }
            }
        }
    }

    /// Blocks of the namespace, when it was connected to.
    pub fn blocks(&self) -> u64 {
        self.namespace.geometry.blocks
    }

    pub fn submit(&mut self, operation: Operation) {
        let block_bytes = self.namespace.geometry.block_bytes;
        let memory = Io::write(Lba(0), 1, self.buffer.segment(block_bytes), Token(1)).memory;
        let io = Io::with_memory(operation, Lba(0), 1, memory, Token(1));
        let queue_pair = &mut self.namespace.queue_pairs[0];
        queue_pair.submit(&mut self.cx, io).unwrap();
        queue_pair.flush(&mut self.cx);
    }

    /// Goes on for a while; true when the I/O has come back.
    pub fn pass_for(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until {
            pass(&mut self.cx);
            self.namespace.admin.poll(&mut self.cx);
            let queue_pair = &mut self.namespace.queue_pairs[0];
            queue_pair.flush(&mut self.cx);
            if queue_pair.poll(&mut self.cx, &mut self.completions) > 0 {
                return true;
            }
        }
        false
    }

    /// Reads or writes the first block.
    pub fn run(&mut self, operation: Operation) -> Status {
        self.submit(operation);
        assert!(self.pass_for(PATIENCE), "no answer to {operation:?}");
        let status = self.completions.as_slice()[0].status;
        self.completions.drain();
        status
    }
}
