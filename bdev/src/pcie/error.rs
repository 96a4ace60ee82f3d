//! Why a controller cannot be used: one line each, with what to do about it where there is
//! something to do.

use crate::nvme::status::Status;

use super::memory::QueueMemoryError;

/// Why a controller, or a namespace of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PcieError {
    /// Nothing has the address.
    #[error("there is no PCI device {address}: look with `lspci -D`")]
    NoDevice {
        /// What was asked for.
        address: String,
    },
    /// It is something else.
    #[error("PCI device {address} is no NVMe controller (its class is {class})")]
    NotNvme {
        /// What was asked for.
        address: String,
        /// Its class, as the system says it.
        class: String,
    },
    /// The kernel uses it.
    #[error(
        "PCI device {address} is bound to {driver}: unmount what is on it and bind it to vfio-pci \
         with `mayastor setup --bind {address}`"
    )]
    Bound {
        /// What was asked for.
        address: String,
        /// The kernel's driver, or "no driver".
        driver: String,
    },
    /// There is no IOMMU.
    #[error(
        "PCI device {address} is behind no IOMMU: enable VT-d or AMD-Vi in the firmware and start \
         the kernel with intel_iommu=on or iommu=pt"
    )]
    NoIommu {
        /// What was asked for.
        address: String,
    },
    /// Other devices share its isolation.
    #[error(
        "IOMMU group {group} of PCI device {address} has {others} too: bind them to vfio-pci, or \
         move the drive to another slot"
    )]
    SharedGroup {
        /// What was asked for.
        address: String,
        /// Number of the group.
        group: String,
        /// The others that the kernel uses, separated by commas.
        others: String,
    },
    /// The process may not.
    #[error("{path} cannot be opened: run as root, or give this user the file")]
    Permission {
        /// Which file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Somebody has it.
    #[error("PCI device {address} is in use by another process, or twice by this one")]
    InUse {
        /// What was asked for.
        address: String,
    },
    /// The system refused something else.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// No memory for the queues.
    #[error("no memory for queues: {0}")]
    Memory(#[from] QueueMemoryError),
    /// The controller is one that this driver cannot use.
    #[error("the controller cannot be used: {0}")]
    Unsupported(&'static str),
    /// It did not become ready, or did not stop.
    #[error("the controller did not become {wanted} in {waited_ms} ms")]
    NotReady {
        /// "ready" or "disabled".
        wanted: &'static str,
        /// How long was waited.
        waited_ms: u64,
    },
    /// It reported a fatal error.
    #[error("the controller reported a fatal error")]
    Fatal,
    /// Its registers read as all ones.
    #[error("the controller is gone")]
    Gone,
    /// An admin command did not end.
    #[error("admin command {command} did not end in {waited_ms} ms")]
    AdminTimeout {
        /// Which.
        command: &'static str,
        /// How long was waited.
        waited_ms: u64,
    },
    /// An admin command failed.
    #[error("admin command {command} failed: {status}")]
    Admin {
        /// Which.
        command: &'static str,
        /// What the controller said.
        status: Status,
    },
    /// It completed what it was not asked.
    #[error("the controller completed an admin command that it was not given")]
    Protocol,
    /// What it says of itself cannot be.
    #[error("the controller says of itself what cannot be: {0}")]
    Identity(&'static str),
    /// It is not what it was before its reset.
    #[error("after its reset the controller is not the same: {0}")]
    Changed(&'static str),
    /// There is no such namespace.
    #[error("there is no namespace {namespace}; there are {there}")]
    NoNamespace {
        /// What was asked for.
        namespace: u32,
        /// Those that there are, separated by commas.
        there: String,
    },
    /// The namespace is one that this driver cannot use.
    #[error("namespace {namespace} cannot be used: {reason}")]
    Namespace {
        /// Which.
        namespace: u32,
        /// Why not.
        reason: &'static str,
    },
}
