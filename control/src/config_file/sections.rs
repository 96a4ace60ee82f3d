//! The form of the configuration file: a struct a table, a field a key, no other key.
//!
//! What several keys say together keeps its place in the file ([`Spanned`]), so that
//! [`super::check`] can point at it.

use std::net::SocketAddr;
use std::path::PathBuf;

use engine::config::{DMA_MIB_MAX, DMA_MIB_MIN};
use nvmf::fabrics::Nqn;
use nvmf::target::limits::{NAMESPACES_LIMIT, QUEUE_ENTRIES_LIMIT, QUEUE_ENTRIES_MIN};
use nvmf::target::subsystem::{CONTROLLER_ID_MAX, CONTROLLER_ID_MIN};
use reactor::cores::CoreList;
use serde::Deserialize;
use toml::Spanned;
use uuid::Uuid;

use super::value::{Address, Text, Within};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// What it runs on.
    #[serde(default)]
    pub target: TargetSection,
    /// How it is controlled while it runs; without it, it is not.
    pub grpc: Option<GrpcSection>,
    /// Where hosts connect.
    #[serde(default)]
    pub portals: Vec<Spanned<PortalSection>>,
    /// What holds blocks.
    #[serde(default)]
    pub devices: Vec<Spanned<DeviceSection>>,
    /// Devices that are kept equal, and serve as one.
    #[serde(default)]
    pub nexuses: Vec<NexusSection>,
    /// What hosts connect to.
    #[serde(default)]
    pub subsystems: Vec<SubsystemSection>,
}

/// `[target]`: cores, memory and what holds for every connection.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSection {
    /// Cores to run on; the first that the process may use unless given.
    pub cores: Option<Text<CoreList>>,
    /// What a core does when there is nothing to do.
    #[serde(default)]
    pub idle: Idle,
    /// Which pages back the DMA memory.
    #[serde(default)]
    pub pages: Pages,
    /// DMA memory of each core in MiB.
    pub dma_mib: Option<Within<DMA_MIB_MIN, DMA_MIB_MAX>>,
    /// Whether hosts that ask for digests get them; they do unless it says false.
    pub digests: Option<bool>,
}

/// What an idle core does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Idle {
    /// Spins a little, then sleeps.
    #[default]
    Sleep,
    /// Never sleeps.
    Poll,
}

/// Which pages back the DMA memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pages {
    /// Hugepages as far as there are any.
    #[default]
    Huge,
    /// Ordinary pages.
    Ordinary,
}

/// `[grpc]`: where `mayastor-client` connects.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcSection {
    /// UNIX socket; [`api::SOCKET_DEFAULT`] unless given.
    pub socket: Option<Spanned<PathBuf>>,
    /// TCP address and port as well.
    pub address: Option<Text<SocketAddr>>,
}

/// `[[portals]]`: an address to listen on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortalSection {
    /// IPv4 or IPv6; may be a wildcard.
    pub address: Text<Address>,
    /// Port; 4420 unless given, 0 takes a free one.
    pub port: Option<u16>,
    /// Address that discovery names instead of the one that the host came to.
    pub advertise: Option<Spanned<Text<Address>>>,
}

/// `[[devices]]`: a device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSection {
    /// What to open. Its name is what the URI names, or the path.
    pub uri: Spanned<String>,
}

/// `[[nexuses]]`: a nexus, which is a device by its name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NexusSection {
    /// Its name.
    pub name: Spanned<String>,
    /// Its identity; one made of its name unless given.
    pub uuid: Option<Text<Uuid>>,
    /// Its length; that of its shortest child unless given.
    pub len_bytes: Option<u64>,
    /// Whether its children carry labels; labels unless all are memory that ends with the process.
    pub labels: Option<NexusLabels>,
    /// Who decides about its members; that of its labels unless given.
    pub policy: Option<NexusPolicy>,
    /// File of its record.
    pub record: Option<Spanned<String>>,
    /// Command that keeps its record instead.
    pub record_command: Option<Spanned<String>>,
    /// What to open, 1 to 16; `bdev:///NAME` for a device of the file.
    pub children: Spanned<Vec<Spanned<String>>>,
}

/// Whether the children of a nexus carry labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NexusLabels {
    /// They do not: all are taken to hold the same.
    None,
    /// All are blank, and get their first.
    Create,
    /// All are replicas of one volume, which is opened.
    Open,
    /// Whichever of the two they are.
    AsFound,
}

/// Who decides about the members of a nexus with labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NexusPolicy {
    /// Whoever runs it.
    Solo,
    /// More than half.
    Majority,
    /// The record and one member.
    Record,
}

/// `[[subsystems]]`: a subsystem.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubsystemSection {
    /// Its name.
    pub nqn: Spanned<Text<Nqn>>,
    /// Hosts that may connect; every host unless given.
    pub hosts: Option<Spanned<Vec<Spanned<Text<Nqn>>>>>,
    /// Identifiers of its controllers; all of them unless given.
    pub controller_ids: Option<Spanned<ControllerIds>>,
    /// Most entries of an I/O queue; 128 unless given.
    pub queue_entries: Option<Within<{ QUEUE_ENTRIES_MIN as u32 }, { QUEUE_ENTRIES_LIMIT as u32 }>>,
    /// Its namespaces.
    #[serde(default)]
    pub namespaces: Vec<NamespaceSection>,
}

/// `controller_ids = { first = 1, last = 1000 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerIds {
    /// First of the range.
    pub first: Within<{ CONTROLLER_ID_MIN as u32 }, { CONTROLLER_ID_MAX as u32 }>,
    /// Last of the range, not below the first.
    pub last: Within<{ CONTROLLER_ID_MIN as u32 }, { CONTROLLER_ID_MAX as u32 }>,
}

/// `[[subsystems.namespaces]]`: a device under a number.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceSection {
    /// Name of the device.
    pub device: Spanned<String>,
    /// Its number; the lowest free one unless given.
    pub nsid: Option<Spanned<Within<1, NAMESPACES_LIMIT>>>,
    /// Its identity; the device's own or a derived one unless given.
    pub uuid: Option<Spanned<Text<Uuid>>>,
    /// Whether writes are refused; they are not unless it says true.
    pub read_only: Option<bool>,
    /// How the target answers for it among other paths.
    #[serde(default)]
    pub ana: AnaState,
}

/// Asymmetric namespace access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnaState {
    /// The best path.
    #[default]
    Optimized,
    /// A path that works.
    NonOptimized,
    /// No path for now.
    Inaccessible,
    /// No path ever again.
    PersistentLoss,
    /// In transition.
    Change,
}
