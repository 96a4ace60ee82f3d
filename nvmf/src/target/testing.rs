//! A device that only describes itself, for tests of what is told to hosts about devices.

use bdev::{BlockDevice, Geometry, Limits, OpenError, QueuePair};
use reactor::Cx;
use uuid::Uuid;

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
