//! Device URIs: which device, where, and how large.
//!
//! The grammar of every scheme, whether its device is built or not; what opens a device of a
//! scheme is the registry of crate `engine`, which answers [`NotBuilt`] for the others. Called on
//! control threads with text from a command line or an API, so every mistake has an error of its
//! own. Two spellings of a scheme are one: `io_uring` is [`Scheme::Uring`], `nvme` is
//! [`Scheme::Nvmf`].
//!
//! Displaying a URI and parsing the text again gives the same URI.

mod display;
mod error;
mod parse;
mod syntax;
#[cfg(test)]
mod tests;

use uuid::Uuid;

use crate::device::Geometry;
use crate::pcie::Recovery;

pub use error::{NotBuilt, UriError};

/// Longest URI, in bytes: as long as a path may be.
pub const URI_BYTES_MAX: usize = 4096;

/// Port of an NVMe over TCP target where the URI names none.
pub const NVMF_PORT_DEFAULT: u16 = 4420;

/// Port of an NVMe over TCP discovery controller where the URI names none (IANA: nvme-disc).
pub const NVMF_DISCOVERY_PORT_DEFAULT: u16 = 8009;

/// Discovery controllers that a URI may name.
pub const NVMF_DISCOVERY_CONTROLLERS_MAX: usize = 8;

/// Port of an iSCSI target where the URI names none.
pub const ISCSI_PORT_DEFAULT: u16 = 3260;

/// Longest NVMe qualified name, in bytes (NVMe Base 2.0 section 4.5).
pub const NQN_BYTES_MAX: usize = 223;

/// Longest iSCSI name, in bytes (RFC 7143 section 4.2.7.2).
pub const ISCSI_NAME_BYTES_MAX: usize = 223;

/// Largest logical unit number: that of flat space addressing (SAM-5 section 4.7.7.4).
pub const LUN_MAX: u16 = 16383;

/// Block size where the URI names none, in bytes.
pub const BLOCK_BYTES_DEFAULT: u32 = 512;

/// Kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `/dev/x`: an absolute path without a scheme.
    Path,
    /// `aio:///path`.
    Aio,
    /// `uring:///path` or `io_uring:///path`.
    Uring,
    /// `malloc:///name`.
    Malloc,
    /// `null:///name`.
    Null,
    /// `nvmf://host/nqn` or `nvme://nqn`, also `nvmf+tcp://`.
    Nvmf,
    /// `nvmf+rdma+tcp://host/nqn`.
    NvmfRdma,
    /// `pcie:///0000:01:00.0`.
    Pcie,
    /// `iscsi://host/iqn/lun`.
    Iscsi,
    /// `bdev:///name`.
    Bdev,
    /// `loopback:///name`.
    Loopback,
    /// `nexus:///name`.
    Nexus,
    /// `lvol:///name`.
    Lvol,
}

/// A device as its URI describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceUri {
    /// A file or block device, by whatever way the machine has; an absolute path, taken as it is.
    Path(String),
    /// A file or block device through Linux AIO.
    Aio(FileUri),
    /// A file or block device through `io_uring`.
    Uring(FileUri),
    /// A RAM disk.
    Malloc(MemoryUri),
    /// A device that keeps nothing.
    Null(MemoryUri),
    /// A namespace of an NVMe over fabrics target.
    Nvmf(NvmfUri),
    /// An NVMe controller on the PCI bus.
    Pcie(PcieUri),
    /// A logical unit of an iSCSI target.
    Iscsi(IscsiUri),
    /// A device that the engine has already.
    Bdev(NamedUri),
    /// The same, as a child of a nexus.
    Loopback(NamedUri),
    /// A nexus.
    Nexus(NamedUri),
    /// A replica in a pool.
    Lvol(NamedUri),
}

/// What `aio` and `uring` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileUri {
    /// Absolute path.
    pub path: String,
    /// `blk_size`: bytes a block, 512 or 4096.
    pub block_bytes: u32,
    /// `uuid`.
    pub uuid: Option<Uuid>,
}

/// What `malloc` and `null` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryUri {
    /// The path without its leading slash.
    pub name: String,
    /// `size_mb` or `num_blocks`.
    pub size: Size,
    /// `blk_size`: bytes a block, 512 or 4096.
    pub block_bytes: u32,
    /// `uuid`.
    pub uuid: Option<Uuid>,
}

/// A size, as it was given. Never zero, nor too large for a [`Geometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// `size_mb`, in units of 2^20 bytes.
    Mebibytes(u64),
    /// `num_blocks`.
    Blocks(u64),
}

/// What `nvmf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmfUri {
    /// Where the subsystem is.
    pub place: NvmfPlace,
    /// NQN of the subsystem.
    pub subnqn: String,
    /// How to reach it.
    pub transport: NvmfTransport,
    /// `reftag`: check reference tags.
    pub reftag: bool,
    /// `guard`: check guards.
    pub guard: bool,
    /// `uuid`.
    pub uuid: Option<Uuid>,
    /// How to use it.
    pub choices: NvmfChoices,
}

/// Where a subsystem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvmfPlace {
    /// `nvmf://host[:port]/nqn`: there.
    At(HostPort),
    /// `nvme://nqn`: where one of these discovery controllers says, at most
    /// [`NVMF_DISCOVERY_CONTROLLERS_MAX`] (`discovery`); none are those of the machine's
    /// configuration.
    Discovered(Vec<HostPort>),
}

/// A service of a host; displayed as `host:port`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How a namespace of an NVMe over fabrics target is to be used; all of it has defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmfChoices {
    /// `namespace`: which one; the first that is active when none is given.
    pub namespace: Option<u32>,
    /// `hostnqn`: the name of this host.
    pub host_nqn: Option<String>,
    /// `hdgst`: digests over headers.
    pub header_digest: bool,
    /// `ddgst`: digests over data.
    pub data_digest: bool,
    /// `wait_ms`: how long new I/O waits for a target that is lost; it fails at once when none is
    /// given.
    pub wait_ms: Option<u32>,
    /// `io_timeout_ms`: how long an I/O may take.
    pub io_timeout_ms: Option<u32>,
    /// `keep_alive_ms`: how long the target may be silent; 0 for ever.
    pub keep_alive_ms: Option<u32>,
}

/// Longest time that a parameter can say, in milliseconds: an hour.
pub const MILLISECONDS_MAX: u32 = 3_600_000;

/// How to reach an NVMe over fabrics target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvmfTransport {
    /// TCP.
    Tcp,
    /// RDMA, or TCP where there is none.
    RdmaOrTcp,
}

/// What `iscsi` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiUri {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the target.
    pub target: String,
    /// Logical unit number, at most [`LUN_MAX`].
    pub lun: u16,
    /// `uuid`.
    pub uuid: Option<Uuid>,
}

/// What `bdev`, `loopback`, `nexus` and `lvol` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedUri {
    /// The path without its leading slash.
    pub name: String,
    /// `uuid`.
    pub uuid: Option<Uuid>,
}

/// What `pcie` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PcieUri {
    /// Where the controller is.
    pub address: PciAddress,
    /// `namespace`: which of its namespaces, from 1.
    pub namespace: u32,
    /// `recovery`: what becomes of I/O in flight when the controller is reset.
    pub recovery: Recovery,
}

impl PcieUri {
    /// Name of the device: its address, and the namespace when it is not the first.
    pub fn name(&self) -> String {
        match self.namespace {
            NAMESPACE_DEFAULT => self.address.to_string(),
            other => format!("{}/{other}", self.address),
        }
    }
}

/// The namespace of a controller that is meant when none is named.
pub const NAMESPACE_DEFAULT: u32 = 1;
/// The highest number of a namespace.
pub const NAMESPACE_MAX: u32 = u32::MAX - 1;

/// Place of a function on the PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// Domain, or segment.
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Device, at most 31.
    pub device: u8,
    /// Function, at most 7.
    pub function: u8,
}

impl MemoryUri {
    /// Blocks and their size. A size in mebibytes is a whole number of blocks.
    pub fn geometry(&self) -> Geometry {
        let block_bytes = self.block_bytes;
        let blocks = match self.size {
            Size::Mebibytes(count) => count * (MEBIBYTE_BYTES / u64::from(block_bytes)),
            Size::Blocks(count) => count,
        };
        Geometry { block_bytes, blocks }
    }
}

/// Bytes in the unit of `size_mb`.
const MEBIBYTE_BYTES: u64 = 1 << 20;

impl Scheme {
    /// Those with a name in a URI.
    pub const NAMED: [Scheme; 12] = [
        Scheme::Aio,
        Scheme::Uring,
        Scheme::Malloc,
        Scheme::Null,
        Scheme::Nvmf,
        Scheme::NvmfRdma,
        Scheme::Pcie,
        Scheme::Iscsi,
        Scheme::Bdev,
        Scheme::Loopback,
        Scheme::Nexus,
        Scheme::Lvol,
    ];

    /// All spellings, the one displayed first. None for a bare path.
    pub const fn spellings(self) -> &'static [&'static str] {
        match self {
            Scheme::Path => &[],
            Scheme::Aio => &["aio"],
            Scheme::Uring => &["uring", "io_uring"],
            Scheme::Malloc => &["malloc"],
            Scheme::Null => &["null"],
            Scheme::Nvmf => &["nvmf", "nvme", "nvmf+tcp"],
            Scheme::NvmfRdma => &["nvmf+rdma+tcp"],
            Scheme::Pcie => &["pcie"],
            Scheme::Iscsi => &["iscsi"],
            Scheme::Bdev => &["bdev"],
            Scheme::Loopback => &["loopback"],
            Scheme::Nexus => &["nexus"],
            Scheme::Lvol => &["lvol"],
        }
    }

    /// The scheme of a spelling, in capitals or not.
    fn from_spelling(text: &str) -> Option<Scheme> {
        let spelled = |scheme: &Scheme| {
            scheme.spellings().iter().any(|spelling| spelling.eq_ignore_ascii_case(text))
        };
        Scheme::NAMED.into_iter().find(spelled)
    }
}

impl DeviceUri {
    /// Kind of the device.
    pub fn scheme(&self) -> Scheme {
        match self {
            DeviceUri::Path(_) => Scheme::Path,
            DeviceUri::Aio(_) => Scheme::Aio,
            DeviceUri::Uring(_) => Scheme::Uring,
            DeviceUri::Malloc(_) => Scheme::Malloc,
            DeviceUri::Null(_) => Scheme::Null,
            DeviceUri::Nvmf(uri) if uri.transport == NvmfTransport::RdmaOrTcp => Scheme::NvmfRdma,
            DeviceUri::Nvmf(_) => Scheme::Nvmf,
            DeviceUri::Pcie(_) => Scheme::Pcie,
            DeviceUri::Iscsi(_) => Scheme::Iscsi,
            DeviceUri::Bdev(_) => Scheme::Bdev,
            DeviceUri::Loopback(_) => Scheme::Loopback,
            DeviceUri::Nexus(_) => Scheme::Nexus,
            DeviceUri::Lvol(_) => Scheme::Lvol,
        }
    }

    /// The identity that the URI gives the device, if it does.
    pub fn uuid(&self) -> Option<Uuid> {
        match self {
            DeviceUri::Path(_) | DeviceUri::Pcie(_) => None,
            DeviceUri::Aio(uri) | DeviceUri::Uring(uri) => uri.uuid,
            DeviceUri::Malloc(uri) | DeviceUri::Null(uri) => uri.uuid,
            DeviceUri::Nvmf(uri) => uri.uuid,
            DeviceUri::Iscsi(uri) => uri.uuid,
            DeviceUri::Bdev(uri)
            | DeviceUri::Loopback(uri)
            | DeviceUri::Nexus(uri)
            | DeviceUri::Lvol(uri) => uri.uuid,
        }
    }
}
