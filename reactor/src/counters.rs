//! What a core counts about itself: plain numbers, written by the core's thread alone and
//! published once in a while through atomics that nobody else writes (a load and a store, never a
//! read-modify-write), so that a reader on any thread sees recent values without asking the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Nanos;

/// Counters of a core, as its own thread sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreCounters {
    /// Passes of the loop.
    pub passes: u64,
    /// Passes that found work.
    pub busy_passes: u64,
    /// Time spent in passes that found work.
    pub busy_ns: u64,
    /// Time spent in passes that found none.
    pub spin_ns: u64,
    /// Time spent blocked.
    pub sleep_ns: u64,
    /// Times the core blocked.
    pub sleeps: u64,
    /// I/Os that its front doors answered.
    pub ios: u64,
    /// Bytes of those I/Os.
    pub io_bytes: u64,
    /// Sum of their service times, from the parse of the command to the reply handed to the socket.
    pub io_ns: u64,
    /// Connections open now.
    pub connections: u64,
    /// Input that was refused because it broke a protocol.
    pub protocol_errors: u64,
}

const FIELDS: usize = 11;

impl CoreCounters {
    fn to_array(self) -> [u64; FIELDS] {
        [
            self.passes,
            self.busy_passes,
            self.busy_ns,
            self.spin_ns,
            self.sleep_ns,
            self.sleeps,
            self.ios,
            self.io_bytes,
            self.io_ns,
            self.connections,
            self.protocol_errors,
        ]
    }

    fn from_array(values: [u64; FIELDS]) -> Self {
        let [
            passes,
            busy_passes,
            busy_ns,
            spin_ns,
            sleep_ns,
            sleeps,
            ios,
            io_bytes,
            io_ns,
            connections,
            protocol_errors,
        ] = values;
        CoreCounters {
            passes,
            busy_passes,
            busy_ns,
            spin_ns,
            sleep_ns,
            sleeps,
            ios,
            io_bytes,
            io_ns,
            connections,
            protocol_errors,
        }
    }

    /// What was counted since `earlier`; `connections` stays as it is now.
    #[must_use]
    pub fn since(self, earlier: CoreCounters) -> CoreCounters {
        let mut now = self.to_array();
        for (value, before) in now.iter_mut().zip(earlier.to_array()) {
            *value = value.wrapping_sub(before);
        }
        let mut difference = CoreCounters::from_array(now);
        difference.connections = self.connections;
        difference
    }

    /// Time that the core was busy, of all the time counted, as a share between 0 and 1.
    pub fn busy_share(&self) -> f64 {
        let all = self.busy_ns + self.spin_ns + self.sleep_ns;
        if all == 0 { 0.0 } else { self.busy_ns as f64 / all as f64 }
    }

    /// Time that the core was not blocked, of all the time counted: what the machine sees used.
    pub fn used_share(&self) -> f64 {
        let all = self.busy_ns + self.spin_ns + self.sleep_ns;
        if all == 0 { 0.0 } else { (self.busy_ns + self.spin_ns) as f64 / all as f64 }
    }
}

/// The published copy of a core's counters; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedCounters(Arc<[AtomicU64; FIELDS]>);

impl SharedCounters {
    /// Publishes; only the core's own thread does.
    pub fn publish(&self, counters: &CoreCounters) {
        for (cell, value) in self.0.iter().zip(counters.to_array()) {
            // Relaxed: each value stands for itself; a reader may see some newer than others.
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// The values last published. Any thread.
    pub fn read(&self) -> CoreCounters {
        // Relaxed: partner of `publish`, see there.
        CoreCounters::from_array(std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed)))
    }
}

/// How often a busy core publishes its counters.
pub const PUBLISH_INTERVAL: Nanos = Nanos::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_published() {
        let shared = SharedCounters::default();
        let counters = CoreCounters { passes: 1, protocol_errors: 9, ..Default::default() };
        shared.clone().publish(&counters);
        assert_eq!(shared.read(), counters);
    }

    #[test]
    fn shares_are_of_all_the_time_counted() {
        let counters = CoreCounters { busy_ns: 1, spin_ns: 1, sleep_ns: 2, ..Default::default() };
        assert!((counters.busy_share() - 0.25).abs() < 1e-9);
        assert!((counters.used_share() - 0.5).abs() < 1e-9);
    }
}
