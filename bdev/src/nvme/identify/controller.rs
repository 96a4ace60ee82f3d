//! Identify Controller (CNS 01h and, for the NVM command set, 06h).
//!
//! NVMe Base 2.0 section 5.17.2.1 (figure 275), NVM Command Set 1.0 section 4.1.5.2.

use super::IDENTIFY_BYTES;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Values and bits of fields of [`IdentifyController`].
pub mod controller_field {
    /// CMIC: the subsystem may have more than one port.
    pub const MULTI_PORT: u8 = 1 << 0;
    /// CMIC: the subsystem may have more than one controller.
    pub const MULTI_CONTROLLER: u8 = 1 << 1;
    /// CMIC: asymmetric namespace access is reported.
    pub const ANA_REPORTING: u8 = 1 << 3;
    /// OAES: namespace attribute notices.
    pub const EVENT_NAMESPACE: u32 = 1 << 8;
    /// OAES: firmware activation notices.
    pub const EVENT_FIRMWARE: u32 = 1 << 9;
    /// OAES: asymmetric namespace access change notices.
    pub const EVENT_ANA: u32 = 1 << 11;
    /// OAES: discovery log page change notices.
    pub const EVENT_DISCOVERY: u32 = 1 << 31;
    /// CTRATT: host identifiers of 128 bits.
    pub const HOST_ID_128: u32 = 1 << 0;
    /// CTRATT: any command restarts the keep alive timer.
    pub const TRAFFIC_KEEP_ALIVE: u32 = 1 << 6;
    /// CNTRLTYPE: I/O controller.
    pub const TYPE_IO: u8 = 1;
    /// CNTRLTYPE: discovery controller.
    pub const TYPE_DISCOVERY: u8 = 2;
    /// CNTRLTYPE: administrative controller.
    pub const TYPE_ADMIN: u8 = 3;
    /// FRMW: slot 1 cannot be written.
    pub const FIRMWARE_SLOT_1_READ_ONLY: u8 = 1 << 0;
    /// FRMW: one firmware slot.
    pub const FIRMWARE_ONE_SLOT: u8 = 1 << 1;
    /// LPA: SMART log a namespace.
    pub const LOG_SMART_PER_NAMESPACE: u8 = 1 << 0;
    /// LPA: commands supported and effects log.
    pub const LOG_EFFECTS: u8 = 1 << 1;
    /// LPA: extended data, that is 32-bit lengths and offsets.
    pub const LOG_EXTENDED: u8 = 1 << 2;
    /// ANACAP: the state optimized is reported.
    pub const ANA_OPTIMIZED: u8 = 1 << 0;
    /// ANACAP: the state non-optimized is reported.
    pub const ANA_NON_OPTIMIZED: u8 = 1 << 1;
    /// ANACAP: the state inaccessible is reported.
    pub const ANA_INACCESSIBLE: u8 = 1 << 2;
    /// ANACAP: the state persistent loss is reported.
    pub const ANA_PERSISTENT_LOSS: u8 = 1 << 3;
    /// ANACAP: the state change is reported.
    pub const ANA_CHANGE: u8 = 1 << 4;
    /// ANACAP: the group of a namespace never changes while it is attached.
    pub const ANA_GROUP_FIXED: u8 = 1 << 6;
    /// ONCS: Compare.
    pub const COMPARE: u16 = 1 << 0;
    /// ONCS: Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// ONCS: Dataset Management.
    pub const DATASET_MANAGEMENT: u16 = 1 << 2;
    /// ONCS: Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// ONCS: Save and Select fields of Set and Get Features.
    pub const SAVE_SELECT: u16 = 1 << 4;
    /// ONCS: reservations.
    pub const RESERVATIONS: u16 = 1 << 5;
    /// ONCS: Verify.
    pub const VERIFY: u16 = 1 << 7;
    /// ONCS: Copy.
    pub const COPY: u16 = 1 << 8;
    /// OACS: Get LBA Status.
    pub const GET_LBA_STATUS: u16 = 1 << 9;
    /// FUSES: compare and write.
    pub const COMPARE_AND_WRITE: u16 = 1 << 0;
    /// VWC: a volatile write cache is present.
    pub const WRITE_CACHE_PRESENT: u8 = 1 << 0;
    /// VWC: Flush with namespace identifier FFFFFFFFh is not supported.
    pub const FLUSH_ALL_UNSUPPORTED: u8 = 0b10 << 1;
    /// VWC: Flush with namespace identifier FFFFFFFFh is supported.
    pub const FLUSH_ALL_SUPPORTED: u8 = 0b11 << 1;
    /// SGLS: SGLs are supported, without a demand on alignment.
    pub const SGL_SUPPORTED: u32 = 0b01;
    /// SGLS: keyed SGL data block descriptors.
    pub const SGL_KEYED: u32 = 1 << 2;
    /// SGLS: the address of a data block may be an offset into the capsule.
    pub const SGL_OFFSET: u32 = 1 << 20;
    /// SGLS: transport SGL data block descriptors.
    pub const SGL_TRANSPORT: u32 = 1 << 21;
}

/// A power state descriptor.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PowerState {
    /// MP: largest power, in units of 10 mW unless the flags say otherwise.
    pub power_max: U16,
    /// Reserved.
    pub reserved_2: u8,
    /// Bit 0: unit is 0.1 mW; bit 1: no I/O is done in this state.
    pub flags: u8,
    /// ENLAT.
    pub entry_latency_us: U32,
    /// EXLAT.
    pub exit_latency_us: U32,
    /// RRT, RRL, RWT, RWL: relative throughput and latency of reads and writes.
    pub relative: [u8; 4],
    /// IDLP.
    pub idle_power: U16,
    /// IPS.
    pub idle_power_scale: u8,
    /// Reserved.
    pub reserved_19: u8,
    /// ACTP.
    pub active_power: U16,
    /// APW and APS.
    pub active_power_scale: u8,
    /// Reserved.
    pub reserved_23: [u8; 9],
}

/// Identify Controller (figure 275).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IdentifyController {
    /// VID.
    pub pci_vendor_id: U16,
    /// SSVID.
    pub pci_subsystem_vendor_id: U16,
    /// SN, ASCII padded with spaces.
    pub serial_number: [u8; 20],
    /// MN, ASCII padded with spaces.
    pub model_number: [u8; 40],
    /// FR, ASCII padded with spaces.
    pub firmware_revision: [u8; 8],
    /// RAB, a power of two.
    pub arbitration_burst: u8,
    /// IEEE OUI.
    pub ieee_oui: [u8; 3],
    /// CMIC; see [`controller_field`].
    pub multi_path: u8,
    /// MDTS: largest transfer, a power of two in units of the smallest page; 0 for no limit.
    pub transfer_size_max: u8,
    /// CNTLID.
    pub controller_id: U16,
    /// VER.
    pub version: U32,
    /// RTD3R.
    pub resume_latency_us: U32,
    /// RTD3E.
    pub entry_latency_us: U32,
    /// OAES: optional asynchronous events supported.
    pub async_events: U32,
    /// CTRATT; see [`controller_field`].
    pub attributes: U32,
    /// RRLS.
    pub read_recovery_levels: U16,
    /// Reserved.
    pub reserved_102: [u8; 9],
    /// CNTRLTYPE; see [`controller_field`].
    pub controller_type: u8,
    /// FGUID.
    pub fru_guid: [u8; 16],
    /// CRDT1 to CRDT3: command retry delays in units of 100 ms.
    pub retry_delays_100ms: [U16; 3],
    /// Reserved.
    pub reserved_134: [u8; 119],
    /// NVMSR.
    pub subsystem_report: u8,
    /// VWCI.
    pub write_cycles: u8,
    /// MEC.
    pub management_endpoint: u8,
    /// OACS: optional admin commands supported.
    pub admin_commands: U16,
    /// ACL: concurrent Abort commands, 0's based.
    pub abort_limit: u8,
    /// AERL: outstanding Asynchronous Event Requests, 0's based.
    pub async_event_limit: u8,
    /// FRMW; see [`controller_field`].
    pub firmware_updates: u8,
    /// LPA; see [`controller_field`].
    pub log_page_attributes: u8,
    /// ELPE: entries of the error log, 0's based.
    pub error_log_entries: u8,
    /// NPSS: number of power states, 0's based.
    pub power_states: u8,
    /// AVSCC.
    pub vendor_commands: u8,
    /// APSTA.
    pub autonomous_power: u8,
    /// WCTEMP.
    pub warning_temperature_kelvin: U16,
    /// CCTEMP.
    pub critical_temperature_kelvin: U16,
    /// MTFA.
    pub firmware_activation_100ms: U16,
    /// HMPRE, in units of 4 KiB.
    pub host_memory_preferred: U32,
    /// HMMIN, in units of 4 KiB.
    pub host_memory_min: U32,
    /// TNVMCAP.
    pub capacity_bytes: [u8; 16],
    /// UNVMCAP.
    pub unallocated_bytes: [u8; 16],
    /// RPMBS.
    pub replay_protection: U32,
    /// EDSTT.
    pub self_test_minutes: U16,
    /// DSTO.
    pub self_test_options: u8,
    /// FWUG.
    pub firmware_granularity: u8,
    /// KAS: granularity of the keep alive timer in units of 100 ms; 0 if there is none.
    pub keep_alive_granularity_100ms: U16,
    /// HCTMA.
    pub thermal_management: U16,
    /// MNTMT.
    pub thermal_min_kelvin: U16,
    /// MXTMT.
    pub thermal_max_kelvin: U16,
    /// SANICAP.
    pub sanitize: U32,
    /// HMMINDS.
    pub host_memory_descriptor_min: U32,
    /// HMMAXD.
    pub host_memory_descriptors_max: U16,
    /// NSETIDMAX.
    pub nvm_set_id_max: U16,
    /// ENDGIDMAX.
    pub endurance_group_id_max: U16,
    /// ANATT.
    pub ana_transition_seconds: u8,
    /// ANACAP; see [`controller_field`].
    pub ana_capabilities: u8,
    /// ANAGRPMAX.
    pub ana_group_id_max: U32,
    /// NANAGRPID.
    pub ana_group_count: U32,
    /// PELS, in units of 64 KiB.
    pub persistent_event_log: U32,
    /// DID.
    pub domain_id: U16,
    /// Reserved.
    pub reserved_358: [u8; 10],
    /// MEGCAP.
    pub endurance_group_bytes_max: [u8; 16],
    /// Reserved.
    pub reserved_384: [u8; 128],
    /// SQES: required (3:0) and largest (7:4) entry size, powers of two.
    pub submission_entry_sizes: u8,
    /// CQES: required (3:0) and largest (7:4) entry size, powers of two.
    pub completion_entry_sizes: u8,
    /// MAXCMD: most commands that a queue should hold at once.
    pub commands_max: U16,
    /// NN: largest namespace identifier.
    pub namespace_count: U32,
    /// ONCS; see [`controller_field`].
    pub nvm_commands: U16,
    /// FUSES: bit 0 compare and write.
    pub fused_operations: U16,
    /// FNA.
    pub format_attributes: u8,
    /// VWC; see [`controller_field`].
    pub volatile_write_cache: u8,
    /// AWUN, blocks, 0's based.
    pub atomic_write: U16,
    /// AWUPF, blocks, 0's based.
    pub atomic_write_power_fail: U16,
    /// ICSVSCC.
    pub vendor_nvm_commands: u8,
    /// NWPC.
    pub write_protection: u8,
    /// ACWU, blocks, 0's based.
    pub atomic_compare_write: U16,
    /// CDFS.
    pub copy_formats: U16,
    /// SGLS; see [`controller_field`].
    pub sgl_support: U32,
    /// MNAN.
    pub namespaces_allowed: U32,
    /// MAXDNA.
    pub domain_bytes_max: [u8; 16],
    /// MAXCNA.
    pub controllers_max: U32,
    /// Reserved.
    pub reserved_564: [u8; 204],
    /// SUBNQN, NUL terminated.
    pub subsystem_nqn: [u8; 256],
    /// Reserved.
    pub reserved_1024: [u8; 768],
    /// IOCCSZ: I/O command capsule in units of 16 bytes.
    pub command_capsule_size: U32,
    /// IORCSZ: I/O response capsule in units of 16 bytes.
    pub response_capsule_size: U32,
    /// ICDOFF: in-capsule data offset in units of 16 bytes; 0 over TCP.
    pub capsule_data_offset: U16,
    /// FCATT: bit 0 set for the static controller model.
    pub fabrics_attributes: u8,
    /// MSDBD.
    pub sgl_descriptors_max: u8,
    /// OFCS: bit 0 set if Disconnect of single queues is supported.
    pub fabrics_commands: U16,
    /// DCTYPE.
    pub discovery_type: u8,
    /// Reserved.
    pub reserved_1807: [u8; 241],
    /// Power state descriptors.
    pub power_state: [PowerState; 32],
    /// Vendor specific.
    pub vendor: [u8; 1024],
}

/// Identify Controller of the NVM command set (CNS 06h).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct NvmIdentifyController {
    /// VSL: largest Verify, a power of two in units of the smallest page; 0 for no limit.
    pub verify_size_max: u8,
    /// WZSL: largest Write Zeroes, likewise.
    pub write_zeroes_size_max: u8,
    /// WUSL: largest Write Uncorrectable, likewise.
    pub write_uncorrectable_size_max: u8,
    /// DMRL: most ranges of Dataset Management; 0 for no limit.
    pub dataset_ranges_max: u8,
    /// DMRSL: most blocks of a range; 0 for no limit.
    pub dataset_range_blocks_max: U32,
    /// DMSL: most blocks of all ranges together; 0 for no limit.
    pub dataset_blocks_max: U64,
    /// Reserved.
    pub reserved_16: [u8; 4080],
}

const _: () = assert!(size_of::<PowerState>() == 32);
const _: () = assert!(size_of::<IdentifyController>() == IDENTIFY_BYTES);
const _: () = assert!(size_of::<NvmIdentifyController>() == IDENTIFY_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn fields_are_at_the_offsets_of_the_specification() {
        assert_eq!(offset_of!(IdentifyController, controller_id), 78);
        assert_eq!(offset_of!(IdentifyController, version), 80);
        assert_eq!(offset_of!(IdentifyController, attributes), 96);
        assert_eq!(offset_of!(IdentifyController, controller_type), 111);
        assert_eq!(offset_of!(IdentifyController, retry_delays_100ms), 128);
        assert_eq!(offset_of!(IdentifyController, admin_commands), 256);
        assert_eq!(offset_of!(IdentifyController, log_page_attributes), 261);
        assert_eq!(offset_of!(IdentifyController, capacity_bytes), 280);
        assert_eq!(offset_of!(IdentifyController, keep_alive_granularity_100ms), 320);
        assert_eq!(offset_of!(IdentifyController, ana_transition_seconds), 342);
        assert_eq!(offset_of!(IdentifyController, ana_capabilities), 343);
        assert_eq!(offset_of!(IdentifyController, ana_group_id_max), 344);
        assert_eq!(offset_of!(IdentifyController, persistent_event_log), 352);
        assert_eq!(offset_of!(IdentifyController, domain_id), 356);
        assert_eq!(offset_of!(IdentifyController, endurance_group_bytes_max), 368);
        assert_eq!(offset_of!(IdentifyController, submission_entry_sizes), 512);
        assert_eq!(offset_of!(IdentifyController, commands_max), 514);
        assert_eq!(offset_of!(IdentifyController, namespace_count), 516);
        assert_eq!(offset_of!(IdentifyController, nvm_commands), 520);
        assert_eq!(offset_of!(IdentifyController, volatile_write_cache), 525);
        assert_eq!(offset_of!(IdentifyController, sgl_support), 536);
        assert_eq!(offset_of!(IdentifyController, namespaces_allowed), 540);
        assert_eq!(offset_of!(IdentifyController, subsystem_nqn), 768);
        assert_eq!(offset_of!(IdentifyController, command_capsule_size), 1792);
        assert_eq!(offset_of!(IdentifyController, fabrics_attributes), 1802);
        assert_eq!(offset_of!(IdentifyController, discovery_type), 1806);
        assert_eq!(offset_of!(IdentifyController, power_state), 2048);
        assert_eq!(offset_of!(IdentifyController, vendor), 3072);
        assert_eq!(offset_of!(IdentifyController, subsystem_report), 253);
    }
}
