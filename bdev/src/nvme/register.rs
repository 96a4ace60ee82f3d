//! Controller registers: capabilities, version, configuration and status.
//!
//! Memory-mapped for the NVMe over PCIe driver, properties over fabrics; the offsets are the same.
//! Values are plain and any bits are valid; how they are read and written is the owner's business.
//! NVMe Base 2.0 section 3.1.3.

/// Offset of CAP, 8 bytes.
pub const CAPABILITIES_OFFSET: u32 = 0x00;
/// Offset of VS, 4 bytes.
pub const VERSION_OFFSET: u32 = 0x08;
/// Offset of INTMS, 4 bytes. Not over fabrics.
pub const INTERRUPT_MASK_SET_OFFSET: u32 = 0x0c;
/// Offset of INTMC, 4 bytes. Not over fabrics.
pub const INTERRUPT_MASK_CLEAR_OFFSET: u32 = 0x10;
/// Offset of CC, 4 bytes.
pub const CONFIGURATION_OFFSET: u32 = 0x14;
/// Offset of CSTS, 4 bytes.
pub const STATUS_OFFSET: u32 = 0x1c;
/// Offset of NSSR, 4 bytes.
pub const SUBSYSTEM_RESET_OFFSET: u32 = 0x20;
/// Offset of AQA, 4 bytes. Not over fabrics.
pub const ADMIN_QUEUE_ATTRIBUTES_OFFSET: u32 = 0x24;
/// Offset of ASQ, 8 bytes. Not over fabrics.
pub const ADMIN_SUBMISSION_QUEUE_OFFSET: u32 = 0x28;
/// Offset of ACQ, 8 bytes. Not over fabrics.
pub const ADMIN_COMPLETION_QUEUE_OFFSET: u32 = 0x30;
/// Offset of CRTO, 4 bytes.
pub const READY_TIMEOUTS_OFFSET: u32 = 0x68;
/// Offset of the first doorbell. Not over fabrics.
pub const DOORBELL_OFFSET: u32 = 0x1000;

/// What is written to NSSR to reset the subsystem: "NVMe" in ASCII.
pub const SUBSYSTEM_RESET_VALUE: u32 = 0x4e56_4d65;

/// The unit of CAP.TO.
const TIMEOUT_UNIT_MS: u32 = 500;
const PAGE_SHIFT_LEAST: u64 = 12;

const fn bits(value: u64, shift: u32, width: u32) -> u64 {
    value >> shift & ((1 << width) - 1)
}

/// CAP: what the controller can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// The NVM command set is supported (CAP.CSS bit 0).
    pub const COMMAND_SET_NVM: u64 = 1 << 37;
    /// One or more I/O command sets are supported (CAP.CSS bit 6).
    pub const COMMAND_SETS: u64 = 1 << 43;
    /// Queues must be physically contiguous (CAP.CQR).
    pub const CONTIGUOUS_QUEUES: u64 = 1 << 16;
    /// The subsystem can be reset (CAP.NSSRS).
    pub const SUBSYSTEM_RESET: u64 = 1 << 36;

    /// What a fabrics controller says: 4 KiB pages, NVM command set, contiguous queues.
    ///
    /// `queue_entries_last` is the largest queue size, 0's based; `timeout_ms` is rounded up to
    /// the register's unit of 500 ms and saturates.
    pub const fn for_fabrics(queue_entries_last: u16, timeout_ms: u32) -> Self {
        let units = timeout_ms.div_ceil(TIMEOUT_UNIT_MS);
        let units = if units > 0xff { 0xff } else { units };
        Self(
            queue_entries_last as u64
                | Self::CONTIGUOUS_QUEUES
                | (units as u64) << 24
                | Self::COMMAND_SET_NVM,
        )
    }

    /// Largest queue size, 0's based (CAP.MQES).
    pub const fn queue_entries_last(self) -> u16 {
        bits(self.0, 0, 16) as u16
    }

    /// Longest time in milliseconds for CSTS.RDY to follow CC.EN (CAP.TO).
    pub const fn timeout_ms(self) -> u32 {
        bits(self.0, 24, 8) as u32 * TIMEOUT_UNIT_MS
    }

    /// Distance in bytes between doorbells (CAP.DSTRD).
    pub const fn doorbell_stride_bytes(self) -> u32 {
        4 << bits(self.0, 32, 4)
    }

    /// Smallest memory page in bytes (CAP.MPSMIN).
    pub const fn page_bytes_min(self) -> u64 {
        1 << (PAGE_SHIFT_LEAST + bits(self.0, 48, 4))
    }

    /// Largest memory page in bytes (CAP.MPSMAX).
    pub const fn page_bytes_max(self) -> u64 {
        1 << (PAGE_SHIFT_LEAST + bits(self.0, 52, 4))
    }

    /// Whether all bits of `mask` are set.
    pub const fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }
}

/// VS: which version of the specification the controller follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// NVMe 1.3.
    pub const V1_3: Self = Self::new(1, 3, 0);
    /// NVMe 1.4.
    pub const V1_4: Self = Self::new(1, 4, 0);
    /// NVMe 2.0.
    pub const V2_0: Self = Self::new(2, 0, 0);

    /// A version of its three numbers.
    pub const fn new(major: u16, minor: u8, tertiary: u8) -> Self {
        Self((major as u32) << 16 | (minor as u32) << 8 | tertiary as u32)
    }

    /// Major version number.
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Minor version number.
    pub const fn minor(self) -> u8 {
        self.0.to_le_bytes()[1]
    }
}

/// A request to shut down (CC.SHN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownRequest {
    /// None.
    None,
    /// Orderly.
    Normal,
    /// At once.
    Abrupt,
    /// The reserved value 3.
    Reserved,
}

/// How far a shutdown is (CSTS.SHST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownStatus {
    /// None was asked for.
    None,
    /// Under way.
    Occurring,
    /// Done.
    Complete,
    /// The reserved value 3.
    Reserved,
}

/// CC: what the host wants of the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configuration(pub u32);

impl Configuration {
    /// Size of a submission queue entry as CC.IOSQES states it, a power of two.
    pub const SUBMISSION_ENTRY_SHIFT: u8 = 6;
    /// Size of a completion queue entry as CC.IOCQES states it, a power of two.
    pub const COMPLETION_ENTRY_SHIFT: u8 = 4;

    const ENABLE: u32 = 1 << 0;
    const SHUTDOWN_SHIFT: u32 = 14;

    /// What a host writes to enable a controller: NVM command set, 4 KiB pages, round robin.
    pub const fn enabled() -> Self {
        Self(
            Self::ENABLE
                | (Self::SUBMISSION_ENTRY_SHIFT as u32) << 16
                | (Self::COMPLETION_ENTRY_SHIFT as u32) << 20,
        )
    }

    /// The same configuration with a request to shut down.
    #[must_use]
    pub const fn with_shutdown(self, request: ShutdownRequest) -> Self {
        let value = match request {
            ShutdownRequest::None => 0,
            ShutdownRequest::Normal => 1,
            ShutdownRequest::Abrupt => 2,
            ShutdownRequest::Reserved => 3,
        };
        Self(self.0 & !(0b11 << Self::SHUTDOWN_SHIFT) | value << Self::SHUTDOWN_SHIFT)
    }

    /// Whether the controller is to be enabled (CC.EN).
    pub const fn is_enabled(self) -> bool {
        self.0 & Self::ENABLE != 0
    }

    /// Which I/O command set is selected (CC.CSS): 0 NVM, 6 all supported, 7 admin only.
    pub const fn command_set(self) -> u8 {
        bits(self.0 as u64, 4, 3) as u8
    }

    /// Memory page size in bytes (CC.MPS).
    pub const fn page_bytes(self) -> u64 {
        1 << (PAGE_SHIFT_LEAST + bits(self.0 as u64, 7, 4))
    }

    /// Arbitration mechanism (CC.AMS), 0 for round robin.
    pub const fn arbitration(self) -> u8 {
        bits(self.0 as u64, 11, 3) as u8
    }

    /// Whether and how to shut down (CC.SHN).
    pub const fn shutdown(self) -> ShutdownRequest {
        match bits(self.0 as u64, Self::SHUTDOWN_SHIFT, 2) {
            0 => ShutdownRequest::None,
            1 => ShutdownRequest::Normal,
            2 => ShutdownRequest::Abrupt,
            _ => ShutdownRequest::Reserved,
        }
    }

    /// Size of submission queue entries, as a power of two (CC.IOSQES).
    pub const fn submission_entry_shift(self) -> u8 {
        bits(self.0 as u64, 16, 4) as u8
    }

    /// Size of completion queue entries, as a power of two (CC.IOCQES).
    pub const fn completion_entry_shift(self) -> u8 {
        bits(self.0 as u64, 20, 4) as u8
    }
}

/// CSTS: how the controller is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerStatus(pub u32);

impl ControllerStatus {
    const READY: u32 = 1 << 0;
    const FATAL: u32 = 1 << 1;
    const SHUTDOWN_SHIFT: u32 = 2;

    /// The same status, ready for commands.
    #[must_use]
    pub const fn with_ready(self) -> Self {
        Self(self.0 | Self::READY)
    }

    /// The same status, with a fatal error.
    #[must_use]
    pub const fn with_fatal(self) -> Self {
        Self(self.0 | Self::FATAL)
    }

    /// The same status, so far in a shutdown.
    #[must_use]
    pub const fn with_shutdown(self, status: ShutdownStatus) -> Self {
        let value = match status {
            ShutdownStatus::None => 0,
            ShutdownStatus::Occurring => 1,
            ShutdownStatus::Complete => 2,
            ShutdownStatus::Reserved => 3,
        };
        Self(self.0 & !(0b11 << Self::SHUTDOWN_SHIFT) | value << Self::SHUTDOWN_SHIFT)
    }

    /// Whether it takes commands (CSTS.RDY).
    pub const fn is_ready(self) -> bool {
        self.0 & Self::READY != 0
    }

    /// Whether it has had a fatal error (CSTS.CFS).
    pub const fn is_fatal(self) -> bool {
        self.0 & Self::FATAL != 0
    }

    /// How far a shutdown is (CSTS.SHST).
    pub const fn shutdown(self) -> ShutdownStatus {
        match self.0 >> Self::SHUTDOWN_SHIFT & 0b11 {
            0 => ShutdownStatus::None,
            1 => ShutdownStatus::Occurring,
            2 => ShutdownStatus::Complete,
            _ => ShutdownStatus::Reserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fabrics_controller_states_what_linux_looks_for() {
        let capabilities = Capabilities::for_fabrics(127, 7_500);
        assert_eq!(capabilities.0, 0x0000_0020_0f01_007f);
        assert_eq!(capabilities.queue_entries_last(), 127);
        assert_eq!(capabilities.timeout_ms(), 7_500);
        assert_eq!(capabilities.page_bytes_min(), 4096);
        assert_eq!(capabilities.doorbell_stride_bytes(), 4);
        assert!(capabilities.has(Capabilities::COMMAND_SET_NVM));
    }

    #[test]
    fn a_timeout_rounds_up_and_saturates() {
        assert_eq!(Capabilities::for_fabrics(1, 1).timeout_ms(), 500);
        assert_eq!(Capabilities::for_fabrics(1, 127_500).timeout_ms(), 127_500);
        assert_eq!(Capabilities::for_fabrics(1, 127_501).timeout_ms(), 127_500);
    }

    #[test]
    fn the_configuration_that_linux_writes_reads_as_it_means() {
        let configuration = Configuration(0x0046_0001);
        assert_eq!(configuration, Configuration::enabled());
        assert!(configuration.is_enabled());
        assert_eq!(configuration.submission_entry_shift(), 6);
        assert_eq!(configuration.completion_entry_shift(), 4);
        assert_eq!(configuration.page_bytes(), 4096);
        assert_eq!(configuration.command_set(), 0);
        assert_eq!(configuration.arbitration(), 0);
        let shutdown = configuration.with_shutdown(ShutdownRequest::Normal);
        assert_eq!(shutdown.0, 0x0046_4001);
        assert_eq!(shutdown.shutdown(), ShutdownRequest::Normal);
    }

    #[test]
    fn status_bits_are_apart() {
        let status = ControllerStatus::default().with_ready();
        let done = status.with_shutdown(ShutdownStatus::Complete);
        assert_eq!(done.0, 0b1001);
        assert_eq!(done.shutdown(), ShutdownStatus::Complete);
        assert!(done.is_ready() && !done.is_fatal());
        assert!(status.with_fatal().is_fatal());
        assert_eq!(done.with_shutdown(ShutdownStatus::Occurring).0, 0b0101);
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::V1_3 < Version::V1_4 && Version::V1_4 < Version::V2_0);
        assert_eq!(Version::V1_4.0, 0x0001_0400);
        assert_eq!((Version::V1_3.major(), Version::V1_3.minor()), (1, 3));
    }

    proptest! {
        #[test]
        fn any_bits_can_be_read(capabilities: u64, configuration: u32, status: u32) {
            let capabilities = Capabilities(capabilities);
            prop_assert!(capabilities.page_bytes_min() >= 4096);
            prop_assert!(capabilities.page_bytes_max() >= 4096);
            prop_assert!(capabilities.doorbell_stride_bytes() >= 4);
            prop_assert!(Configuration(configuration).page_bytes() >= 4096);
            let _ = Configuration(configuration).shutdown();
            let _ = ControllerStatus(status).shutdown();
        }
    }
}
