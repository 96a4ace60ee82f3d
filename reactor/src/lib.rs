//! The per-core machinery of the data plane: one pinned thread a core that polls everything.

pub mod cores;
pub mod slab;
pub mod spsc;
pub mod sync;
