//! Why the machine was not changed: one line each, with what to do about it.

use std::io;

use bdev::pcie::PcieError;

/// Why set-up refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address cannot be driven.
    #[error(transparent)]
    Device(#[from] PcieError),
    /// The driver is not there.
    #[error("the kernel has no driver {driver} now: run `modprobe {driver}`")]
    NoDriver {
        /// Which.
        driver: &'static str,
    },
    /// Somebody uses it.
    #[error(
        "PCI device {address} is in use and stays as it is: {uses}; end that, or add --force and \
         lose it"
    )]
    InUse {
        /// What was asked for.
        address: String,
        /// All uses, separated by commas.
        uses: String,
    },
    /// It is not one that may be given back.
    #[error("PCI device {address} is not bound to vfio-pci but to {driver}: nothing to unbind")]
    NotBound {
        /// What was asked for.
        address: String,
        /// Its driver, or "no driver".
        driver: String,
    },
    /// The process may not.
    #[error("{path} cannot be written: run as root")]
    Permission {
        /// Which file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a value.
    #[error("the kernel does not take {text:?} in {path}")]
    Write {
        /// Which file.
        path: String,
        /// What was written.
        text: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It did not take the device.
    #[error("{driver} did not take PCI device {address}, which has {now} now: see `dmesg`")]
    NotTaken {
        /// What was asked for.
        address: String,
        /// Who should have.
        driver: &'static str,
        /// Its driver, or "no driver".
        now: String,
    },
    /// There is no such node.
    #[error("there is no NUMA node {node}; there are {there}")]
    NoNode {
        /// What was asked for.
        node: u32,
        /// Those that there are, separated by commas.
        there: String,
    },
    /// They would take the machine's memory.
    #[error("{pages} hugepages leave too little memory for everything else: at most {most}")]
    TooManyPages {
        /// What was asked for.
        pages: u64,
        /// What would be taken.
        most: u64,
    },
    /// The kernel has none of this size.
    #[error("the kernel has no hugepages of 2 MiB: use one with CONFIG_HUGETLBFS")]
    NoHugepages,
    /// Memory is in pieces.
    #[error(
        "the kernel found {total} of {pages} hugepages: run `echo 1 > /proc/sys/vm/compact_memory` \
         and try again, or reserve them sooner after the start"
    )]
    FewerPages {
        /// What was asked for.
        pages: u64,
        /// What there is.
        total: u64,
    },
}
