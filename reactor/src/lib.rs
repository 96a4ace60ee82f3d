//! The per-core machinery of the data plane: one pinned thread a core that polls everything.
//!
//! A [`Reactor`] runs a [`Service`] in a fixed order of phases (ARCHITECTURE 4), sleeps when every
//! layer allows it, and hands down a [`Cx`]: clock, random numbers, DMA buffers, sockets, counters.
//! Nothing here knows of block devices or protocols.

pub mod clock;
pub mod cores;
pub mod counters;
pub mod cx;
pub mod device_table;
pub mod dma;
pub mod executor;
pub mod histogram;
pub mod inbox;
pub mod local_channel;
pub mod mesh;
pub mod random;
pub mod reactor;
pub mod service;
pub mod slab;
pub mod sleep;
pub mod socket;
pub mod spsc;
pub mod sync;
pub mod timer;
pub mod timer_driver;
pub mod wake;

pub use clock::{Clock, Nanos, VirtualClock};
pub use cx::Cx;
pub use reactor::{Reactor, ReactorConfig, ReactorHandle};
pub use service::Service;
pub use wake::Wake;
