//! What the demo plays with: three replicas served over NVMe/TCP, and a nexus over them.
//!
//! One engine on one core. Every replica has a subsystem of its own, so that it can be cut off
//! alone; the nexus reaches each over loopback as it would another node, and is served itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bdev::BlockDevice;
use engine::command::{
    AddDevice, AddNamespace, AddPortal, AddSubsystem, CreateNexus, NexusCommand, NexusInfo, OfChild,
};
use engine::registry::Registry;
use engine::{Command, CommandError, Engine, Reply, TargetConfig};

use super::DemoError;

/// Copies.
pub(super) const REPLICAS: usize = 3;

/// Which one is cut off.
pub(super) const VICTIM: usize = 2;

/// Name of the nexus.
const NEXUS: &str = "demo";

/// DMA memory of the core, in MiB.
const DMA_MIB: u32 = 32;

/// How long a rebuild may take to begin, until it is tried again.
const REBUILD_BEGINS_WITHIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct Scene {
    engine: Engine,
    address: SocketAddr,
}

fn replica_nqn(replica: usize) -> String {
    format!("nqn.2019-05.io.openebs:demo-replica-{replica}")
}

/// Name of the device of a replica.
fn device(replica: usize) -> String {
    format!("replica-{replica}")
}

impl Scene {
    /// Serves replicas of this size, and the nexus.
    pub fn set(size_mib: u32) -> Result<Scene, DemoError> {
        let address = String::from("127.0.0.1:0");
        let portal = Command::AddPortal(AddPortal { address, advertise: None });
        let config = TargetConfig { dma_mib: DMA_MIB, ..TargetConfig::new(vec![portal]) };
        let engine = Engine::start(&config)?;
        let address = engine.local_addresses()[0];
        let scene = Scene { engine, address };
        for replica in 0..REPLICAS {
            let uri = format!("malloc:///{}?size_mb={size_mib}&blk_size=4096", device(replica));
            scene.run(Command::AddDevice(AddDevice { uri }))?;
            scene.serve(&replica_nqn(replica), &device(replica))?;
        }
        let children = (0..REPLICAS).map(|replica| scene.uri(&replica_nqn(replica))).collect();
        let nexus = String::from(NEXUS);
        let create = CreateNexus { nexus, children, ..CreateNexus::default() };
        scene.run(Command::Nexus(NexusCommand::Create(create)))?;
        scene.serve(&Scene::nqn(), NEXUS)?;
        Ok(scene)
    }

    /// Name of the nexus's subsystem.
    fn nqn() -> String {
        format!("nqn.2019-05.io.openebs:{NEXUS}")
    }

    fn uri(&self, nqn: &str) -> String {
        format!("nvmf://{}/{nqn}", self.address)
    }

    fn run(&self, command: Command) -> Result<Reply, CommandError> {
        self.engine.execute(&command)
    }

    fn serve(&self, nqn: &str, device: &str) -> Result<(), CommandError> {
        let subsystem = AddSubsystem { subsystem: nqn.to_owned(), ..AddSubsystem::default() };
        self.run(Command::AddSubsystem(subsystem))?;
        self.run(Command::AddNamespace(AddNamespace::new(nqn, device)))?;
        Ok(())
    }

    /// A host's way to the nexus.
    pub fn open_nexus(&self) -> Result<Arc<dyn BlockDevice>, DemoError> {
        self.open(&Scene::nqn())
    }

    /// A host's way to one replica.
    pub fn open_replica(&self, replica: usize) -> Result<Arc<dyn BlockDevice>, DemoError> {
        self.open(&replica_nqn(replica))
    }

    fn open(&self, nqn: &str) -> Result<Arc<dyn BlockDevice>, DemoError> {
        let (_, device) = Registry::standard().open(&self.uri(nqn))?;
        Ok(device)
    }

    /// The nexus as it is.
    pub fn nexus(&self) -> Result<NexusInfo, DemoError> {
        match self.run(Command::Nexus(NexusCommand::List))? {
            Reply::Nexuses(mut all) if !all.is_empty() => Ok(all.remove(0)),
            _ => Err(DemoError::NoNexus),
        }
    }

    /// Cuts the victim off: its connections close, and it cannot be connected to.
    pub fn cut(&self) -> Result<(), DemoError> {
        let subsystem = replica_nqn(VICTIM);
        self.run(Command::RemoveSubsystem { subsystem })?;
        Ok(())
    }

    /// Ends that.
    pub fn mend(&self) -> Result<(), DemoError> {
        Ok(self.serve(&replica_nqn(VICTIM), &device(VICTIM))?)
    }

    /// Has the victim rebuilt.
    pub fn rebuild(&self) -> Result<(), CommandError> {
        let uri = self.uri(&replica_nqn(VICTIM));
        let uri = uri.parse::<bdev::DeviceUri>().map(|uri| uri.to_string()).unwrap_or(uri);
        let child = OfChild { nexus: String::from(NEXUS), uri };
        let command = Command::Nexus(NexusCommand::StartRebuild(child));
        self.engine.execute_within(&command, REBUILD_BEGINS_WITHIN)?;
        Ok(())
    }

    /// Ends everything.
    pub fn end(self) {
        // What goes wrong now changes nothing of what was found.
        let _ = self.engine.stop(Duration::from_millis(100));
    }
}
