//! What the device does about each message of a front end.
//!
//! Called by the message layer on the session's control thread, a message at a time. What the
//! device does not offer is refused: the front end is told, if it asked to be, and the session
//! ends, since what comes after a refusal cannot be relied upon. The messages are those of QEMU's
//! vhost-user document.

use std::fs::File;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::rings::{InflightArea, RingState, Rings, RingsError, Served};
use crate::block::config::WRITE_BACK_OFFSET;
use crate::block::request::SERIAL_BYTES;
use crate::block::{BlockConfig, Features, Rules};
use crate::memory::{
    FrontendAddress, GuestAddress, GuestRegion, Mapping, MemoryError, MemoryMap, REGIONS_MAX,
    RegionPlace,
};
use crate::virtqueue::RingAddresses;
use crate::virtqueue::inflight::queue_bytes;
use crate::virtqueue::layout::RING_SIZE_MAX;

/// Bytes of a configuration that a message can carry.
const CONFIG_BYTES_MAX: u32 = 256;

/// What is used of the protocol beyond its base.
const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// See the module.
#[derive(Debug)]
pub(super) struct Handler {
    served: Arc<Served>,
    rings: Rings,
    config: BlockConfig,
    offered: Features,
    queues: u16,
}

impl Handler {
    /// The device as a front end that has just connected finds it.
    pub fn new(
        served: Arc<Served>,
        (is_read_only, queues): (bool, u16),
        serial: [u8; SERIAL_BYTES],
    ) -> Handler {
        let geometry = served.device.geometry();
        let mut limits = served.device.limits();
        limits.read_only |= is_read_only;
        let features = Features::default();
        let rules = Rules { geometry, features, is_read_only: limits.read_only, serial };
        Handler {
            rings: Rings::new(Arc::clone(&served), rules, queues),
            config: BlockConfig::new(geometry, &limits, queues),
            offered: Features::offered(&limits, queues),
            queues,
            served,
        }
    }

    /// Bytes of the memory for requests in flight.
    fn inflight_bytes(&self, queues: u16, queue_size: u16) -> Result<u64> {
        let is_legal = (1..=self.queues).contains(&queues) && queue_size <= RING_SIZE_MAX;
        match is_legal && queue_size > 0 {
            true => Ok(u64::from(queues) * queue_bytes(queue_size)),
            false => Err(Error::InvalidParam),
        }
    }

    /// The front end is gone: nothing of its guest is in use when this returns.
    pub fn end(&mut self) {
        // A core that does not answer keeps the memory that it uses mapped by itself.
        let _ = self.rings.end_all();
        let _ = self.rings.set_memory(MemoryMap::default());
    }
}

impl From<RingsError> for Error {
    fn from(error: RingsError) -> Error {
        match error {
            RingsError::Index { .. }
            | RingsError::Ring(_)
            | RingsError::Inflight
            | RingsError::Running => Error::InvalidParam,
            other => Error::ReqHandlerError(std::io::Error::other(other)),
        }
    }
}

impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Error {
        Error::ReqHandlerError(std::io::Error::other(error))
    }
}

/// A refusal of what was not offered.
fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("the device does not offer this"))
}

/// Maps a region; the fields are copied, as the message is packed.
fn map(region: &VhostUserMemoryRegion, file: &File) -> Result<GuestRegion> {
    Ok(GuestRegion::map(place(region), file, region.mmap_offset)?)
}

fn place(region: &VhostUserMemoryRegion) -> RegionPlace {
    RegionPlace {
        guest: GuestAddress(region.guest_phys_addr),
        frontend: FrontendAddress(region.user_addr),
        len_bytes: region.memory_size,
    }
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(self.rings.end_all()?)
    }

    fn reset_device(&mut self) -> Result<()> {
        self.served.cache.set(1);
        Ok(self.rings.end_all()?)
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered.0)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let asked = Features(features);
        if !self.offered.contains(asked) {
            return Err(Error::InvalidParam);
        }
        self.rings.set_features(asked)?;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        if regions.len() != files.len() {
            return Err(Error::InvalidParam);
        }
        let mapped = regions.iter().zip(&files).map(|(region, file)| map(region, file));
        let memory = MemoryMap::new(mapped.collect::<Result<_>>()?)?;
        self.rings.set_memory(memory)?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        Ok(self.rings.set_size(index, num)?)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        // A log of dirty pages is not offered.
        if !flags.is_empty() {
            return Err(Error::InvalidParam);
        }
        let addresses = RingAddresses {
            descriptors: FrontendAddress(descriptor),
            available: FrontendAddress(available),
            used: FrontendAddress(used),
        };
        Ok(self.rings.set_addresses(index, addresses)?)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(self.rings.set_next_available(index, base)?)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let next = self.rings.end(index)?;
        Ok(VhostUserVringState::new(index, u32::from(next)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.rings.set_kick(u32::from(index), fd)?)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.rings.set_call(u32::from(index), fd)?)
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        Ok(self.rings.set_error(u32::from(index), fd)?)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL_FEATURES)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !PROTOCOL_FEATURES.bits() != 0 {
            return Err(Error::InvalidParam);
        }
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(u64::from(self.queues))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let state = if enable { RingState::Enabled } else { RingState::Disabled };
        Ok(self.rings.set_enabled(index, state)?)
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        let end = offset.checked_add(size).ok_or(Error::InvalidParam)?;
        if end > CONFIG_BYTES_MAX {
            return Err(Error::InvalidParam);
        }
        let write_back = self.served.cache.get();
        Ok(BlockConfig { write_back, ..self.config }.read(offset, size))
    }

    fn set_config(
        &mut self,
        offset: u32,
        bytes: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> Result<()> {
        match bytes {
            [write_back @ (0 | 1)] if offset == WRITE_BACK_OFFSET => {
                self.served.cache.set(*write_back);
                Ok(())
            }
            _ => Err(Error::InvalidParam),
        }
    }

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(&mut self, asked: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let VhostUserInflight { num_queues, queue_size, .. } = *asked;
        let mmap_size = self.inflight_bytes(num_queues, queue_size)?;
        let flags = MFdFlags::MFD_CLOEXEC;
        let file = memfd_create("vhost-inflight", flags).map_err(std::io::Error::from);
        let file = File::from(file.map_err(Error::ReqHandlerError)?);
        file.set_len(mmap_size).map_err(Error::ReqHandlerError)?;
        let given = VhostUserInflight { mmap_size, mmap_offset: 0, num_queues, queue_size };
        self.set_inflight_fd(&given, file.try_clone().map_err(Error::ReqHandlerError)?)?;
        Ok((given, file))
    }

    fn set_inflight_fd(&mut self, given: &VhostUserInflight, file: File) -> Result<()> {
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = *given;
        if mmap_size < self.inflight_bytes(num_queues, queue_size)? {
            return Err(Error::InvalidParam);
        }
        let mapping = Arc::new(Mapping::new(&file, mmap_offset, mmap_size)?);
        self.rings.set_inflight(InflightArea { mapping, room: queue_size });
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        let mapped = map(region, &file)?;
        let memory = self.rings.memory().with(mapped)?;
        self.rings.set_memory(memory)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        let memory = self.rings.memory().without(place(region))?;
        Ok(self.rings.set_memory(memory)?)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered()
    }
}
