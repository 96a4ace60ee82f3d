//! The initiator against a fake target over streams in memory.

mod connecting;
mod controller;
mod cores;
mod discovery;
mod faults;
mod faulty;
mod laws;
mod loopback;
mod remote;
mod restarts;
mod wire;
