//! What happens to a controller beside its I/O, for an operator to read.
//!
//! The supervisor of a controller adds events on its own thread. A process that has a
//! [`Listener`] hears of each at once; without one they wait to be taken. Either way they are
//! counted.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;

use super::ana;
use super::options::EVENTS_MAX;
use crate::nvme::async_event::AsyncEvent;
use crate::nvme::log_page::{AnaState, critical_warning};

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
    /// It reaches a group of namespaces otherwise than before.
    Access {
        /// ANA group.
        group: u32,
        /// How it reaches it now.
        state: AnaState,
    },
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
                // A warning that has passed by the time that the log is read is none.
                f.write_str(if *warnings == 0 { "health:" } else { "health warning:" })?;
                for (bit, text) in WARNINGS {
                    if warnings & bit != 0 {
                        write!(f, " {text};")?;
                    }
                }
                let celsius = i32::from(*temperature_kelvin) - 273;
                write!(f, " {celsius} C, {spare_percent} % spare, {used_percent} % used")
            }
            ControllerEvent::Told(event) => write!(f, "asynchronous event {event:?}"),
            ControllerEvent::Access { group, state } => {
                write!(f, "ANA group {group} is {}", ana::words(*state))
            }
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

/// Told of an event by the supervisor of the controller with this name, on its own thread.
pub type Listener = fn(controller: &str, event: &ControllerEvent);

static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Has the events of all controllers that are attached from now on told to `listener`, in the place
/// of [`super::Controller::take_event`]. The first that is given to a process stays; false for any
/// other.
pub fn listen(listener: Listener) -> bool {
    LISTENER.set(listener).is_ok()
}

/// How often what happened to a controller since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// It told of its health.
    pub health: u64,
    /// It told of something else.
    pub told: u64,
    /// Late I/Os that were aborted.
    pub aborted: u64,
    /// Resets that were begun.
    pub resets: u64,
}

impl fmt::Display for EventCounts {
    /// A list of those that are not zero; nothing when all are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.health, "of its health"),
            (self.told, "of others"),
            (self.aborted, "of late I/Os"),
            (self.resets, "of resets"),
        ];
        let mut separator = "events: ";
        for (count, what) in all.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {what}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// The events of a controller: counted, and kept where nobody listens.
#[derive(Debug)]
pub struct Events {
    queue: ArrayQueue<ControllerEvent>,
    listener: Option<Listener>,
    dropped: AtomicU64,
    health: AtomicU64,
    told: AtomicU64,
    aborted: AtomicU64,
    resets: AtomicU64,
}

impl Default for Events {
    /// For the process's listener, if it has one.
    fn default() -> Self {
        Events::new(LISTENER.get().copied())
    }
}

impl Events {
    /// None yet.
    pub fn new(listener: Option<Listener>) -> Events {
        Events {
            queue: ArrayQueue::new(EVENTS_MAX),
            listener,
            dropped: AtomicU64::new(0),
            health: AtomicU64::new(0),
            told: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            resets: AtomicU64::new(0),
        }
    }

    /// Adds an event of the controller with this name. Where nobody listens it is counted and
    /// dropped when [`EVENTS_MAX`] wait. For the supervisor.
    pub fn add(&self, controller: &str, event: ControllerEvent) {
        let count = match event {
            ControllerEvent::Health { .. } => Some(&self.health),
            ControllerEvent::Told(_) | ControllerEvent::Access { .. } => Some(&self.told),
            ControllerEvent::Aborted { .. } => Some(&self.aborted),
            ControllerEvent::Resetting(_) => Some(&self.resets),
            ControllerEvent::Recovered
            | ControllerEvent::Removed
            | ControllerEvent::WantedBack
            | ControllerEvent::GivenUp(_) => None,
        };
        // Relaxed, here and below: numbers and nothing else.
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(listener) = self.listener {
            listener(controller, &event);
        } else if self.queue.push(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the oldest that is kept. Any control thread.
    pub fn take(&self) -> Option<ControllerEvent> {
        self.queue.pop()
    }

    /// How many were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many there were. Any thread.
    pub fn counts(&self) -> EventCounts {
        EventCounts {
            health: self.health.load(Ordering::Relaxed),
            told: self.told.load(Ordering::Relaxed),
            aborted: self.aborted.load(Ordering::Relaxed),
            resets: self.resets.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_limit_are_counted_and_dropped() {
        let events = Events::new(None);
        for _ in 0..EVENTS_MAX {
            events.add("a", ControllerEvent::Recovered);
        }
        assert_eq!(events.dropped(), 0);
        events.add("a", ControllerEvent::Removed);
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

    #[test]
    fn a_health_log_without_a_warning_is_not_called_one() {
        let health = ControllerEvent::Health {
            warnings: 0,
            temperature_kelvin: 300,
            spare_percent: 100,
            used_percent: 0,
        };
        assert_eq!(health.to_string(), "health: 27 C, 100 % spare, 0 % used");
    }

    #[test]
    fn who_listens_hears_all_and_nothing_waits() {
        static HEARD: AtomicU64 = AtomicU64::new(0);
        let listener = |controller: &str, event: &ControllerEvent| {
            assert_eq!((controller, event), ("a", &ControllerEvent::Recovered));
            HEARD.fetch_add(1, Ordering::Relaxed);
        };
        let events = Events::new(Some(listener));
        for _ in 0..=EVENTS_MAX {
            events.add("a", ControllerEvent::Recovered);
        }
        assert_eq!(HEARD.load(Ordering::Relaxed), EVENTS_MAX as u64 + 1);
        assert_eq!((events.dropped(), events.take()), (0, None));
    }

    #[test]
    fn events_are_counted_by_kind_and_read_as_a_list() {
        let events = Events::new(None);
        assert_eq!(events.counts().to_string(), "");
        for reason in [ResetReason::Asked, ResetReason::IoTimeout] {
            events.add("a", ControllerEvent::Resetting(reason));
            events.add("a", ControllerEvent::Recovered);
        }
        events.add("a", ControllerEvent::Aborted { queue_id: 1 });
        assert_eq!(events.counts(), EventCounts { resets: 2, aborted: 1, ..Default::default() });
        assert_eq!(events.counts().to_string(), "events: 1 of late I/Os, 2 of resets");
    }
}
