//! Serves RAM disks over iSCSI: for the public conformance suite, and to try initiators.
//!
//! `serve ADDRESS SIZE_MB UNITS CORE...` listens on the address, say 127.0.0.1:3260, until it is
//! killed. The target is `iqn.2019-05.io.openebs:ram`.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use bdev::scsi::{Identity, LogicalUnit};
use bdev::{BlockDevice, Geometry, Malloc, stack};
use iscsi::target::{Initiators, Message, Sessions, Target, TargetCore, TargetDescription};
use reactor::cores::CoreId;
use reactor::dma::{PagePreference, PoolConfig};
use reactor::mesh;
use reactor::reactor::{IdlePolicy, ReactorConfig};
use reactor::{Nanos, Reactor};
use uuid::Uuid;

const NAME: &str = "iqn.2019-05.io.openebs:ram";
const BLOCK_BYTES: u32 = 512;

fn unit(number: u16, size_mb: u64) -> Result<(u16, Arc<LogicalUnit>), Box<dyn Error>> {
    let blocks = (size_mb << 20) / u64::from(BLOCK_BYTES);
    let geometry = Geometry { block_bytes: BLOCK_BYTES, blocks };
    let disk = Malloc::new(format!("ram{number}"), geometry, None)?;
    let device: Arc<dyn BlockDevice> = stack::complete(Arc::new(disk));
    let identity = Identity {
        uuid: Uuid::from_u128(0x7261_6d00 + u128::from(number)),
        device_name: NAME.to_owned(),
        port_name: format!("{NAME},t,0x0001"),
        port: 1,
    };
    Ok((number, Arc::new(LogicalUnit::new(device, identity))))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, size_mb, units, cores @ ..] = &arguments[..] else {
        return Err("usage: serve ADDRESS SIZE_MB UNITS CORE...".into());
    };
    let address: SocketAddr = address.parse()?;
    let (size_mb, units): (u64, u16) = (size_mb.parse()?, units.parse()?);
    let units = (0..units).map(|number| unit(number, size_mb)).collect::<Result<_, _>>()?;
    let target =
        Target { name: NAME.to_owned(), units, credentials: None, initiators: Initiators::Any };
    let description = Arc::new(TargetDescription::new(vec![target]));
    let sessions = Arc::new(Sessions::default());
    let pool = PoolConfig { chunks: 16, pages: PagePreference::HugeFirst };
    let idle = IdlePolicy::Adaptive { spin: Nanos::from_micros(100) };
    let mut reactors = Vec::new();
    for core in cores {
        let core = CoreId(core.parse()?);
        reactors.push(Reactor::new(ReactorConfig { core, idle, pool, seed: 1 })?);
    }
    let wakers: Vec<_> = reactors.iter().map(|reactor| reactor.waker().clone()).collect();
    let mut listener = Some(TcpListener::bind(address)?);
    let mut handles = Vec::new();
    for (reactor, peers) in reactors.into_iter().zip(mesh::connect::<Message>(&wakers)) {
        let (description, sessions) = (Arc::clone(&description), Arc::clone(&sessions));
        let listener = listener.take();
        handles.push(
            reactor
                .start(move |cx| {
                    let mut core = TargetCore::new(description, sessions, peers);
                    if let Some(listener) = listener {
                        listener.set_nonblocking(true)?;
                        core.listen(cx, listener.into())?;
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(core)
                })
                .map_err(|error| error.to_string())?,
        );
    }
    for handle in handles {
        handle.join().map_err(|_| "a core has panicked")?;
    }
    Ok(())
}
