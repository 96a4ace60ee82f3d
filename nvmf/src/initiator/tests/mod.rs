//! The initiator against a fake target over streams in memory.

mod changes;
mod connecting;
mod controller;
mod cores;
mod cuts;
mod discovery;
mod faults;
mod faulty;
mod hostile;
mod laws;
mod loopback;
mod mutate;
mod remote;
mod reserving;
mod restarts;
mod wire;
