//! What a target serves, as all its cores see it.
//!
//! Put together on a control thread before the cores start; immutable and shared.

use std::net::SocketAddr;
use std::sync::Arc;

use reactor::dma::pool::LARGEST_BUFFER_BYTES;

use super::admin::{Directory, DirectoryEntry};
use super::subsystem::{Subsystem, SubsystemKind};
use crate::fabrics::Nqn;

/// Whether hosts that ask for digests get them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestPolicy {
    /// As the host asks.
    AsAsked,
    /// Never (`--no-digest`).
    Never,
}

/// A target: its subsystems and what hosts are told of it.
#[derive(Clone, Debug)]
pub struct TargetDescription {
    /// The subsystems, discovery included; their index names them between cores.
    pub subsystems: Vec<Arc<Subsystem>>,
    /// Digests.
    pub digests: DigestPolicy,
    /// The addresses that discovery names; none means the one that the host came to.
    pub advertised: Vec<SocketAddr>,
}

impl TargetDescription {
    /// The index of the subsystem called `nqn`.
    pub fn find(&self, nqn: &Nqn) -> Option<u16> {
        let index = self.subsystems.iter().position(|one| one.nqn() == nqn)?;
        u16::try_from(index).ok()
    }

    /// What a discovery controller names to a host that came to `local`.
    pub fn directory(&self, local: Option<SocketAddr>) -> Option<Directory> {
        let own: Vec<SocketAddr> = local.into_iter().collect();
        let addresses = if self.advertised.is_empty() { &own } else { &self.advertised };
        let nvm = self.subsystems.iter().filter(|one| one.kind() == SubsystemKind::Nvm);
        let entries = nvm.flat_map(|subsystem| {
            addresses.iter().enumerate().map(|(port, address)| DirectoryEntry {
                subsystem: Arc::clone(subsystem),
                address: *address,
                port_id: u16::try_from(port).unwrap_or(u16::MAX),
            })
        });
        Directory::new(1, entries.collect()).ok()
    }

    /// The largest transfer of any of its subsystems, in bytes.
    pub fn transfer_bytes_max(&self) -> u32 {
        let largest = self.subsystems.iter().map(|one| one.limits().transfer_bytes_max).max();
        largest.unwrap_or(LARGEST_BUFFER_BYTES)
    }
}
