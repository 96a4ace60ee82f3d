//! The per-core machinery of the data plane: one pinned thread a core that polls everything.

pub mod slab;
pub mod spsc;
pub mod sync;
