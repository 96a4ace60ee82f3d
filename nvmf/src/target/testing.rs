//! What tests of the admin side share: a device that only describes itself, and subsystems of it.

use std::sync::Arc;

use bdev::{BlockDevice, Geometry, Limits, OpenError, QueuePair};
use reactor::Cx;
use uuid::Uuid;

use super::namespace::{Access, Namespace, NamespaceId};
use super::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use crate::fabrics::Nqn;
use crate::fabrics::nqn::DISCOVERY_NQN;

/// Random bytes of the instance, in tests.
pub(crate) const INSTANCE: [u8; 16] = *b"instance of test";

pub(crate) fn subsystem_nqn() -> Nqn {
    "nqn.2019-05.io.openebs:test".parse().unwrap()
}

pub(crate) fn host_nqn() -> Nqn {
    "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6".parse().unwrap()
}

/// A subsystem with a namespace for each identifier and device.
pub(crate) fn config_of(namespaces: Vec<(u32, TestDevice)>) -> SubsystemConfig {
    let nqn = subsystem_nqn();
    let namespaces = namespaces
        .into_iter()
        .map(|(id, device)| {
            Namespace::new(&nqn, NamespaceId(id), Arc::new(device), Access::ReadWrite)
        })
        .collect();
    let config = SubsystemConfig::new(nqn, SubsystemKind::Nvm, INSTANCE);
    SubsystemConfig { namespaces, ..config }
}

/// A subsystem with two namespaces, 1 and 3, on default devices.
pub(crate) fn io_subsystem() -> Subsystem {
    let device = TestDevice::default;
    Subsystem::new(config_of(vec![(1, device()), (3, device())])).unwrap()
}

pub(crate) fn discovery_subsystem() -> Subsystem {
    let config = SubsystemConfig::new(DISCOVERY_NQN, SubsystemKind::Discovery, INSTANCE);
    Subsystem::new(config).unwrap()
}

/// Size, limits and identity, and nothing behind them.
#[derive(Clone, Debug)]
pub(crate) struct TestDevice {
    pub geometry: Geometry,
    pub limits: Limits,
    pub uuid: Option<Uuid>,
}

impl Default for TestDevice {
    fn default() -> Self {
        Self {
            geometry: Geometry { block_bytes: 512, blocks: 2048 },
            limits: Limits::default(),
            uuid: None,
        }
    }
}

impl BlockDevice for TestDevice {
    fn name(&self) -> &str {
        "test"
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn open_queue_pair(&self, _: &mut Cx, _: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let source = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(OpenError::System { device: self.name().to_owned(), source })
    }
}
