//! What a controller says of itself and of its namespaces, checked before it is used.
//!
//! Read by the supervisor's thread while the controller is brought up; plain values afterwards.
//! NVMe Base 2.0 section 5.17, NVM Command Set 1.0 section 4.1.5.

use uuid::Uuid;

use super::encode::Unmapping;
use super::error::PcieError;
use super::options::{PAGE_BYTES, TRANSFER_BYTES_MAX};
use crate::device::{Geometry, Limits, OperationSet};
use crate::io::Operation;
use crate::legality;
use crate::nvme::identify::{
    IDENTIFY_BYTES, IdentifyController, IdentifyNamespace, NamespaceIdentity,
    NvmIdentifyController, controller_field, identities, namespace_field,
};
use crate::nvme::nvm_command::BLOCKS_MAX;

/// CTRATT: host identifiers of 128 bits.
const LONG_HOST_IDS: u32 = 1;

/// OACS: Doorbell Buffer Config is supported.
const SHADOW_DOORBELLS: u16 = 1 << 8;

/// Longest shift of MDTS and WZSL that says anything: more than 2^20 pages is no limit.
const SHIFT_MAX: u8 = 20;

/// Whether the controller has doorbells in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowDoorbells {
    /// It looks at those.
    Supported,
    /// It has registers only.
    Absent,
}

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerIdentity {
    /// Model, without the blanks at its end.
    pub model: String,
    /// Serial number, without the blanks at its end.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Longest transfer, in bytes.
    pub transfer_bytes_max: u32,
    /// Most bytes of a Write Zeroes; none where only its block count limits it.
    pub zeroing_bytes_max: Option<u64>,
    /// Most bytes of a Verify; none where only its block count limits it.
    pub verify_bytes_max: Option<u64>,
    /// Optional commands (ONCS).
    pub nvm_commands: u16,
    /// Doorbells in memory.
    pub shadow_doorbells: ShadowDoorbells,
    /// It may lose what it completed, until a flush.
    pub volatile_cache: bool,
    /// Blocks that a write changes all or none of when power is lost.
    pub atomic_blocks: u32,
    /// Event requests that may wait at once.
    pub event_requests: u8,
    /// Optional events (OAES).
    pub events: u32,
    /// It takes host identifiers of 128 bits; of 64 otherwise.
    pub long_host_ids: bool,
    /// It tells how it reaches groups of namespaces (ANA).
    pub reports_access: bool,
    /// Namespace identifiers go up to this.
    pub namespace_count: u32,
    /// Time that an orderly shutdown may take, in microseconds (RTD3E); 0 when not said.
    pub shutdown_us: u32,
}

fn text(bytes: &[u8]) -> String {
    let printable = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' };
    bytes.iter().map(printable).collect::<String>().trim_end().to_owned()
}

/// Bytes of a shift in pages; none for a shift of zero, which means no limit.
fn bytes_of_shift(shift: u8) -> Option<u64> {
    (shift != 0 && shift <= SHIFT_MAX).then(|| u64::from(PAGE_BYTES) << shift)
}

impl ControllerIdentity {
    /// Reads Identify Controller.
    ///
    /// # Errors
    ///
    /// It is a controller that has no I/O, or queue entries of other sizes.
    pub fn read(data: &IdentifyController) -> Result<ControllerIdentity, PcieError> {
        if !matches!(data.controller_type, 0 | controller_field::TYPE_IO) {
            return Err(PcieError::Unsupported("it is no I/O controller"));
        }
        let sizes_fit = |sizes: u8, shift: u8| (sizes & 0xf) <= shift && shift <= sizes >> 4;
        if !sizes_fit(data.submission_entry_sizes, 6) || !sizes_fit(data.completion_entry_sizes, 4)
        {
            return Err(PcieError::Identity("queue entries of 64 and 16 bytes are not supported"));
        }
        let shadow_doorbells = match data.admin_commands.get() & SHADOW_DOORBELLS {
            0 => ShadowDoorbells::Absent,
            _ => ShadowDoorbells::Supported,
        };
        let transfer = bytes_of_shift(data.transfer_size_max).unwrap_or(u64::MAX);
        let transfer = transfer.min(u64::from(TRANSFER_BYTES_MAX));
        Ok(ControllerIdentity {
            model: text(&data.model_number),
            serial: text(&data.serial_number),
            firmware: text(&data.firmware_revision),
            transfer_bytes_max: u32::try_from(transfer).unwrap_or(TRANSFER_BYTES_MAX),
            // No transfers, but controllers older than WZSL and VSL count them as such.
            zeroing_bytes_max: bytes_of_shift(data.transfer_size_max),
            verify_bytes_max: bytes_of_shift(data.transfer_size_max),
            nvm_commands: data.nvm_commands.get(),
            shadow_doorbells,
            volatile_cache: data.volatile_write_cache & controller_field::WRITE_CACHE_PRESENT != 0,
            atomic_blocks: u32::from(data.atomic_write_power_fail.get()) + 1,
            event_requests: data.async_event_limit.saturating_add(1),
            events: data.async_events.get(),
            long_host_ids: data.attributes.get() & LONG_HOST_IDS != 0,
            reports_access: data.multi_path & controller_field::ANA_REPORTING != 0,
            namespace_count: data.namespace_count.get(),
            shutdown_us: data.entry_latency_us.get(),
        })
    }

    /// Whether it has the commands of reservations.
    pub fn keeps_reservations(&self) -> bool {
        self.nvm_commands & controller_field::RESERVATIONS != 0
    }

    /// Takes what Identify Controller of the NVM command set adds, where there is that.
    pub fn add(&mut self, data: &NvmIdentifyController) {
        if let Some(bytes) = bytes_of_shift(data.write_zeroes_size_max) {
            self.zeroing_bytes_max = Some(bytes);
        }
        if let Some(bytes) = bytes_of_shift(data.verify_size_max) {
            self.verify_bytes_max = Some(bytes);
        }
    }
}

/// A namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its identifier.
    pub id: u32,
    /// Its size.
    pub geometry: Geometry,
    /// How it unmaps.
    pub unmapping: Unmapping,
    /// Its identity, when it has one.
    pub uuid: Option<Uuid>,
    /// Reservations that it keeps (RESCAP); 0 where it keeps none.
    pub reservations: u8,
    limits: Limits,
}

impl Namespace {
    /// Reads Identify Namespace and its identification descriptors.
    ///
    /// # Errors
    ///
    /// A size that cannot be, or a format that is not for this driver: it carries no metadata.
    pub fn read(
        id: u32,
        controller: &ControllerIdentity,
        data: &IdentifyNamespace,
        descriptors: Option<&[u8; IDENTIFY_BYTES]>,
    ) -> Result<Namespace, PcieError> {
        let refuse = |reason| PcieError::Namespace { namespace: id, reason };
        let format = data.format();
        if format.metadata_bytes.get() != 0 {
            return Err(refuse("it is formatted with metadata; format it without"));
        }
        if !(9..=12).contains(&format.data_shift) {
            return Err(refuse("its blocks are not of 512 to 4096 bytes"));
        }
        let geometry =
            Geometry { block_bytes: 1 << format.data_shift, blocks: data.size_blocks.get() };
        legality::check_geometry(geometry).map_err(|_| refuse("its size cannot be"))?;
        let reads_zero = data.deallocate & 0b111 == namespace_field::DEALLOCATED_READS_ZERO;
        let may_deallocate = data.deallocate & namespace_field::WRITE_ZEROES_DEALLOCATES != 0;
        let has = |command: u16| controller.nvm_commands & command != 0;
        let unmapping = if reads_zero && may_deallocate && has(controller_field::WRITE_ZEROES) {
            Unmapping::Deallocating
        } else if has(controller_field::DATASET_MANAGEMENT) {
            Unmapping::Hinting
        } else {
            Unmapping::Zeroing
        };
        let uuid = descriptors.and_then(identity).or_else(|| nguid(data));
        let limits = limits(controller, data, geometry.block_bytes, unmapping);
        let reservations = if controller.keeps_reservations() { data.reservations } else { 0 };
        Ok(Namespace { id, geometry, unmapping, uuid, reservations, limits })
    }

    /// What a command of it may be like.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

fn nguid(data: &IdentifyNamespace) -> Option<Uuid> {
    (data.nguid != [0; 16]).then(|| Uuid::from_bytes(data.nguid))
}

/// The UUID among the descriptors.
fn identity(descriptors: &[u8; IDENTIFY_BYTES]) -> Option<Uuid> {
    identities(descriptors).map_while(Result::ok).find_map(|identity| match identity {
        NamespaceIdentity::Uuid(uuid) if !uuid.is_nil() => Some(uuid),
        _ => None,
    })
}

fn limits(
    controller: &ControllerIdentity,
    data: &IdentifyNamespace,
    block_bytes: u32,
    unmapping: Unmapping,
) -> Limits {
    let io_blocks_max = (controller.transfer_bytes_max / block_bytes).min(BLOCKS_MAX);
    let blocks_of = |bytes: Option<u64>| {
        let blocks = bytes.map(|bytes| bytes / u64::from(block_bytes));
        blocks.and_then(|blocks| u32::try_from(blocks).ok()).unwrap_or(BLOCKS_MAX)
    };
    let mut range_blocks_max = blocks_of(controller.zeroing_bytes_max);
    let has = |command: u16| controller.nvm_commands & command != 0;
    let mut operations = OperationSet::BASIC;
    if has(controller_field::WRITE_ZEROES) {
        operations = operations.with(Operation::WriteZeroes).with(Operation::Unmap);
    }
    if unmapping == Unmapping::Hinting {
        operations = operations.with(Operation::Unmap);
    }
    if has(controller_field::COMPARE) {
        operations = operations.with(Operation::Compare);
    }
    if has(controller_field::VERIFY) {
        operations = operations.with(Operation::Verify);
        // One limit stands for both, so it is that of the lesser.
        range_blocks_max = range_blocks_max.min(blocks_of(controller.verify_bytes_max));
    }
    let atomic_blocks = match data.features & namespace_field::OWN_ATOMICS {
        0 => controller.atomic_blocks,
        _ => u32::from(data.atomic_write_power_fail.get()) + 1,
    };
    // A write over an atomic boundary may be torn there.
    let bounded = data.atomic_boundary_power_fail.get() != 0;
    Limits {
        io_blocks_max,
        range_blocks_max: range_blocks_max.clamp(1, BLOCKS_MAX),
        segments_max: u32::MAX,
        boundary_blocks: u32::from(data.optimal_boundary_blocks.get()),
        alignment_bytes: 1,
        atomic_blocks: if bounded { 1 } else { atomic_blocks.min(io_blocks_max) },
        operations,
        volatile_cache: controller.volatile_cache,
        unmap_zeroes: unmapping != Unmapping::Hinting,
        read_only: data.attributes & namespace_field::WRITE_PROTECTED != 0,
    }
}
