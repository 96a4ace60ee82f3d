//! The initiator against a fake target over streams in memory.

mod connecting;
mod controller;
mod faults;
mod laws;
mod loopback;
mod remote;
mod wire;
