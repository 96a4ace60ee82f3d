//! vhost-user-blk: a virtual machine gets a volume over shared memory.
//!
//! [`session`] speaks the protocol on a control thread, [`memory`] maps what the guest has,
//! [`core`] serves rings on reactors, over [`virtqueue`] and [`block`]. I/O goes straight from and
//! into the guest's memory, and no request crosses cores. The vhost-user protocol is that of QEMU's
//! documentation, the rest virtio 1.2.

pub mod block;
pub mod core;
pub mod memory;
pub mod session;
#[cfg(test)]
mod testing;
pub mod virtqueue;
