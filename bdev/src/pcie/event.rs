//! What happens to a controller beside its I/O, for the engine to take and an operator to read.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

use super::options::EVENTS_MAX;
use crate::nvme::async_event::AsyncEvent;
use crate::nvme::log_page::critical_warning;

/// Why a controller was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// An I/O was late and its abort did not end it.
    IoTimeout,
    /// An admin command was late.
    AdminTimeout,
    /// It said that it had a fatal error (CSTS.CFS).
    FatalStatus,
    /// It broke the protocol: a completion of no command, or one a second time.
    Protocol,
    /// It was found disabled, by somebody else or of itself.
    NotReady,
    /// An operator wanted it.
    Asked,
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResetReason::IoTimeout => "an I/O did not end",
            ResetReason::AdminTimeout => "an admin command did not end",
            ResetReason::FatalStatus => "it reported a fatal error",
            ResetReason::Protocol => "it completed what was not asked",
            ResetReason::NotReady => "it was not ready",
            ResetReason::Asked => "somebody asked for it",
        })
    }
}

/// Something that happened to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerEvent {
    /// Its health log warns: bits of [`critical_warning`], and its temperature.
    Health {
        /// Bits of [`critical_warning`].
        warnings: u8,
        /// Composite temperature.
        temperature_kelvin: u16,
        /// Share of its spare blocks that is left, in percent.
        spare_percent: u8,
        /// Share of its life that is used, in percent; may exceed 100.
        used_percent: u8,
    },
    /// It told of something else.
    Told(AsyncEvent),
    /// A late I/O was aborted.
    Aborted {
        /// On which queue.
        queue_id: u16,
    },
    /// It is being reset.
    Resetting(ResetReason),
    /// It is back; I/O goes on.
    Recovered,
    /// It is not there any more.
    Removed,
    /// The system wants it back.
    WantedBack,
    /// It was given up after resets that did not help.
    GivenUp(ResetReason),
}

impl fmt::Display for ControllerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControllerEvent::Health {
                warnings,
                temperature_kelvin,
                spare_percent,
                used_percent,
            } => {
                f.write_str("health warning:")?;
                for (bit, text) in WARNINGS {
                    if warnings & bit != 0 {
                        write!(f, " {text};")?;
                    }
                }
                let celsius = i32::from(*temperature_kelvin) - 273;
                write!(f, " {celsius} C, {spare_percent} % spare, {used_percent} % used")
            }
            ControllerEvent::Told(event) => write!(f, "asynchronous event {event:?}"),
            ControllerEvent::Aborted { queue_id } => {
                write!(f, "aborted an I/O that is late on queue {queue_id}")
            }
            ControllerEvent::Resetting(reason) => write!(f, "resetting: {reason}"),
            ControllerEvent::Recovered => f.write_str("back after the reset"),
            ControllerEvent::Removed => f.write_str("removed"),
            ControllerEvent::WantedBack => f.write_str("wanted back by the system"),
            ControllerEvent::GivenUp(reason) => write!(f, "given up: {reason}"),
        }
    }
}

const WARNINGS: [(u8, &str); 5] = [
    (critical_warning::SPARE, "spare blocks run out"),
    (critical_warning::TEMPERATURE, "temperature out of bounds"),
    (critical_warning::RELIABILITY, "reliability degraded by errors"),
    (critical_warning::READ_ONLY, "media is read-only"),
    (critical_warning::VOLATILE_BACKUP, "backup of volatile memory failed"),
];

/// Events that were not taken yet.
#[derive(Debug)]
pub struct Events {
    queue: ArrayQueue<ControllerEvent>,
    dropped: AtomicU64,
}

impl Default for Events {
    fn default() -> Self {
        Events { queue: ArrayQueue::new(EVENTS_MAX), dropped: AtomicU64::new(0) }
    }
}

impl Events {
    /// Adds one; counted and dropped when [`EVENTS_MAX`] wait. For the supervisor.
    pub fn add(&self, event: ControllerEvent) {
        if self.queue.push(event).is_err() {
            // Relaxed: a number and nothing else.
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the oldest. Any control thread.
    pub fn take(&self) -> Option<ControllerEvent> {
        self.queue.pop()
    }

    /// How many were dropped.
    pub fn dropped(&self) -> u64 {
        // Relaxed: see `add`.
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_limit_are_counted_and_dropped() {
        let events = Events::default();
        for _ in 0..EVENTS_MAX {
            events.add(ControllerEvent::Recovered);
        }
        assert_eq!(events.dropped(), 0);
        events.add(ControllerEvent::Removed);
        assert_eq!(events.dropped(), 1);
        let taken = std::iter::from_fn(|| events.take()).collect::<Vec<_>>();
        assert_eq!(taken, [ControllerEvent::Recovered; EVENTS_MAX]);
    }

    #[test]
    fn a_health_warning_reads_as_a_sentence() {
        let health = ControllerEvent::Health {
            warnings: critical_warning::SPARE | critical_warning::READ_ONLY,
            temperature_kelvin: 343,
            spare_percent: 3,
            used_percent: 101,
        };
        let text = "health warning: spare blocks run out; media is read-only; \
                    70 C, 3 % spare, 101 % used";
        assert_eq!(health.to_string(), text);
    }
}
