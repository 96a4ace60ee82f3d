//! The initiator against a fake target over streams in memory.

mod connecting;
mod controller;
mod wire;
