//! A Linux guest under QEMU, as a test client of the data plane.
//!
//! The tests of this project must not depend on what the host kernel can do, so they boot a stock
//! Debian kernel, in software emulation, with an initramfs made of the programs of the build
//! machine. One guest serves as NVMe/TCP and iSCSI initiator, as a machine with emulated NVMe
//! drives behind an IOMMU, and as a place to run our own binaries.
//!
//! [`GuestImage::prepare`] builds the kernel and the initramfs once and keeps them.
//! [`Guest::builder`] describes a machine, [`Builder::boot`] starts it, [`Guest::run`] runs one
//! shell command in it and returns its exit code and both outputs. A guest ends with the value
//! that owns it, and with the process that owns that. The host is [`HOST_ADDRESS`] to the guest.
//!
//! A guest is for correctness; under emulation it says nothing about speed.

/// Identity of every guest as a macro, so that the image's texts can be constants.
macro_rules! host_id {
    () => {
        "5c5b8e52-3f0c-4d0e-9c0e-0a6a2f1d7b11"
    };
}
macro_rules! host_nqn {
    () => {
        concat!("nqn.2014-08.org.nvmexpress:uuid:", host_id!())
    };
}

mod builder;
mod cache;
mod client;
mod console;
mod cpio;
mod crowd;
mod disk;
mod error;
mod files;
mod image;
mod inputs;
mod kernel;
pub mod kernel_target;
mod load;
mod machine;
mod mirror;
pub mod nvme;
mod process;
mod programs;
mod qmp;
mod relay;
mod replica;
mod shared;
mod standins;
mod target;
mod tree;
#[path = "agent/wire.rs"]
mod wire;

pub use builder::{Access, Builder, Iommu, Network};
pub use cache::{CACHE_VARIABLE, Cache};
pub use client::Client;
pub use crowd::Crowd;
pub use disk::Disk;
pub use error::{Error, Result};
pub use image::{GuestImage, PACKAGES};
pub use load::Load;
pub use machine::{Guest, Output};
pub use mirror::Mirror;
pub use relay::Relay;
pub use replica::Replica;
pub use shared::{Lease, SharedGuest};
pub use target::Target;

/// Address under which a guest with [`Network::User`] reaches the loopback of the host.
pub const HOST_ADDRESS: &str = "10.0.2.2";
/// NVMe host identifier of every guest.
pub const HOST_ID: &str = host_id!();
/// NVMe qualified name of every guest as a host.
pub const HOST_NQN: &str = host_nqn!();
