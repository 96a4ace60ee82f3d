//! The NVMe-oF/TCP target.

pub mod admin;
pub mod limits;
pub mod namespace;
pub mod subsystem;
#[cfg(test)]
mod testing;
