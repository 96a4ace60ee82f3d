//! Get Features and Set Features.
//!
//! Nothing is saved over a reset: every feature starts at its default when the controller is
//! enabled. NVMe Base 2.0 sections 5.15 and 5.27, NVM Command Set 1.0 section 4.1.3.

use std::collections::BTreeMap;

use bdev::Status;
use bdev::nvme::admin_command::FeatureSelect;
use bdev::nvme::command::{NAMESPACE_ID_ALL, SubmissionEntry};
use bdev::nvme::feature::{
    ARBITRATION, ASYNC_EVENT_CONFIGURATION, ERROR_RECOVERY, ErrorRecovery, HOST_BEHAVIOR,
    HOST_IDENTIFIER, KEEP_ALIVE_TIMER, NUMBER_OF_QUEUES, POWER_MANAGEMENT, QueueCounts,
    RESERVATION_MASK, RESERVATION_PERSISTENCE, TEMPERATURE_THRESHOLD, TemperatureThreshold,
    VOLATILE_WRITE_CACHE, WRITE_ATOMICITY, WRITE_CACHE_ENABLED, event, supported,
};
use bdev::nvme::opcode::AdminOpcode;
use bdev::nvme::reservation::PERSISTENCE_ON;
use bdev::reservation::PersistenceChange;
use reactor::Nanos;

use super::events;
use super::keep_alive::KeepAlive;
use crate::target::limits::TargetLimits;
use crate::target::namespace::NamespaceId;
use crate::target::reservation::notifications::Notifications;
use crate::target::subsystem::{Subsystem, SubsystemKind};

/// 0Eh: timestamp, 8 bytes of data.
const TIMESTAMP: u8 = 0x0e;

/// Features of an I/O controller.
const IO_FEATURES: [u8; 14] = [
    ARBITRATION,
    POWER_MANAGEMENT,
    TEMPERATURE_THRESHOLD,
    ERROR_RECOVERY,
    VOLATILE_WRITE_CACHE,
    NUMBER_OF_QUEUES,
    WRITE_ATOMICITY,
    ASYNC_EVENT_CONFIGURATION,
    TIMESTAMP,
    KEEP_ALIVE_TIMER,
    HOST_BEHAVIOR,
    HOST_IDENTIFIER,
    RESERVATION_MASK,
    RESERVATION_PERSISTENCE,
];
/// Features of a discovery controller (NVMe Base 2.0 figure 30).
const DISCOVERY_FEATURES: [u8; 3] = [ASYNC_EVENT_CONFIGURATION, KEEP_ALIVE_TIMER, HOST_IDENTIFIER];

/// EXHID: the 16-byte host identifier, the only one over fabrics.
const EXTENDED_HOST_ID: u32 = 1;
const HOST_ID_BYTES: u32 = 16;
const HOST_BEHAVIOR_BYTES: u32 = 512;
const TIMESTAMP_BYTES: u32 = 8;
/// Arbitration burst "no limit", the default; the weights are of a scheme that is not offered.
const ARBITRATION_DEFAULT: u32 = 0b111;
const TEMPERATURE_OVER_DEFAULT: u16 = 0xffff;
const TEMPERATURE_UNDER_DEFAULT: u16 = 0;
/// TMPSEL that stands for every sensor.
const ALL_SENSORS: u8 = 15;
/// Timestamp attributes, byte 6: bits 3:1 are 001b once the host has set it.
const TIMESTAMP_SET_BY_HOST: u8 = 1 << 1;

/// Which value Get Features asks for (SEL, cdw10 bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Select {
    Current,
    Default,
    /// What the feature can do rather than what it is.
    Capabilities,
}

impl Select {
    /// As nothing can be saved, the saved value is the default (section 5.15).
    fn of(entry: &SubmissionEntry) -> Result<Self, Status> {
        match entry.feature().select {
            FeatureSelect::Current => Ok(Self::Current),
            FeatureSelect::Default | FeatureSelect::Saved => Ok(Self::Default),
            FeatureSelect::Supported => Ok(Self::Capabilities),
            FeatureSelect::Reserved => Err(Status::INVALID_FIELD),
        }
    }
}

/// Bytes that a Get Features command brings, `None` if its completion says all.
pub(super) fn get_bytes(entry: &SubmissionEntry) -> Result<Option<u32>, Status> {
    if Select::of(entry)? == Select::Capabilities {
        return Ok(None);
    }
    match entry.feature().feature {
        HOST_IDENTIFIER if entry.cdw11.get() & EXTENDED_HOST_ID == 0 => Err(Status::INVALID_FIELD),
        HOST_IDENTIFIER => Ok(Some(HOST_ID_BYTES)),
        HOST_BEHAVIOR => Ok(Some(HOST_BEHAVIOR_BYTES)),
        TIMESTAMP => Ok(Some(TIMESTAMP_BYTES)),
        _ => Ok(None),
    }
}

/// Bytes that a Set Features command takes.
pub(super) fn set_bytes(entry: &SubmissionEntry) -> Result<Option<u32>, Status> {
    match entry.feature().feature {
        // Over fabrics the host identifier is given with Connect (section 5.27.1.25).
        HOST_IDENTIFIER => Err(Status::COMMAND_SEQUENCE_ERROR),
        HOST_BEHAVIOR => Ok(Some(HOST_BEHAVIOR_BYTES)),
        TIMESTAMP => Ok(Some(TIMESTAMP_BYTES)),
        _ => Ok(None),
    }
}

/// What else of the controller and its surroundings features look at.
#[derive(Debug)]
pub(super) struct FeatureContext<'a> {
    pub now: Nanos,
    pub subsystem: &'a Subsystem,
    pub open_io_queues: u16,
    pub host_id: &'a [u8; 16],
    pub keep_alive: &'a mut KeepAlive,
    pub notifications: &'a mut Notifications,
}

/// The features of one controller.
#[derive(Debug)]
pub(super) struct Features {
    arbitration: u32,
    power_management: u32,
    temperature_over: u16,
    temperature_under: u16,
    /// Time limited error recovery by namespace, at most one entry each.
    error_recovery: BTreeMap<NamespaceId, u16>,
    write_atomicity: u32,
    async_events: u32,
    /// Queues granted.
    queues: QueueCounts,
    host_behavior: [u8; 3],
    /// What the host set, and when.
    timestamp: Option<(u64, Nanos)>,
    enabled_at: Nanos,
}

impl Features {
    /// Every feature at its default, as after a reset.
    pub fn new(limits: &TargetLimits, now: Nanos) -> Self {
        Self {
            arbitration: ARBITRATION_DEFAULT,
            power_management: 0,
            temperature_over: TEMPERATURE_OVER_DEFAULT,
            temperature_under: TEMPERATURE_UNDER_DEFAULT,
            error_recovery: BTreeMap::new(),
            write_atomicity: 0,
            async_events: 0,
            queues: at_most(limits.io_queues_max),
            host_behavior: [0; 3],
            timestamp: None,
            enabled_at: now,
        }
    }

    /// The events that the host wants to be told of.
    pub fn async_events(&self) -> u32 {
        self.async_events
    }

    /// How many I/O queues the host may connect: what it was last granted, or all before it asks.
    pub fn io_queues(&self) -> u16 {
        let both = self.queues.submission.min(self.queues.completion);
        u16::try_from(both).expect("granted no more than a limit of 16 bits")
    }

    /// Executes Get Features; returns dword 0 and fills `out`, which is as long as
    /// [`get_bytes`] says.
    pub fn get(
        &self,
        cx: &FeatureContext<'_>,
        entry: &SubmissionEntry,
        out: &mut [u8],
    ) -> Result<u32, Status> {
        let feature = entry.feature().feature;
        check_supported(feature, cx.subsystem)?;
        let select = Select::of(entry)?;
        if select == Select::Capabilities {
            return Ok(capabilities(feature));
        }
        let defaults = Self::new(cx.subsystem.limits(), self.enabled_at);
        let values = if select == Select::Default { &defaults } else { self };
        let field = entry.cdw11.get();
        Ok(match feature {
            ARBITRATION => values.arbitration,
            POWER_MANAGEMENT => values.power_management,
            TEMPERATURE_THRESHOLD => u32::from(values.temperature(field)?),
            ERROR_RECOVERY => {
                let id = NamespaceId(entry.namespace_id.get());
                cx.subsystem.namespace(id).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
                u32::from(values.error_recovery.get(&id).copied().unwrap_or(0))
            }
            VOLATILE_WRITE_CACHE => WRITE_CACHE_ENABLED,
            NUMBER_OF_QUEUES => values.queues.value(),
            WRITE_ATOMICITY => values.write_atomicity,
            ASYNC_EVENT_CONFIGURATION => values.async_events,
            KEEP_ALIVE_TIMER if select == Select::Default => 0,
            KEEP_ALIVE_TIMER => cx.keep_alive.timeout_ms(),
            TIMESTAMP => {
                out.copy_from_slice(&values.timestamp_now(cx.now));
                0
            }
            RESERVATION_MASK => {
                let id = NamespaceId(entry.namespace_id.get());
                cx.subsystem.namespace(id).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
                if select == Select::Default { 0 } else { cx.notifications.mask(id) }
            }
            // Of the current value the keeper is asked.
            RESERVATION_PERSISTENCE => 0,
            HOST_BEHAVIOR => {
                out.fill(0);
                out[..3].copy_from_slice(&values.host_behavior);
                0
            }
            HOST_IDENTIFIER => {
                out.copy_from_slice(cx.host_id);
                0
            }
            _ => return Err(Status::INVALID_FIELD),
        })
    }

    /// Executes Set Features with `data` as long as [`set_bytes`] says; returns dword 0.
    pub fn set(
        &mut self,
        cx: &mut FeatureContext<'_>,
        entry: &SubmissionEntry,
        data: &[u8],
    ) -> Result<u32, Status> {
        let feature = entry.feature().feature;
        check_supported(feature, cx.subsystem)?;
        if entry.feature().save {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        let namespace_id = entry.namespace_id.get();
        let is_of_controller = matches!(namespace_id, 0 | NAMESPACE_ID_ALL);
        if !is_per_namespace(feature) && !is_of_controller {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
        }
        let value = entry.cdw11.get();
        match feature {
            ARBITRATION => self.arbitration = value & 0xffff_ff07,
            // Power state 0 is the only one (NPSS is 0); the workload hint may be anything.
            POWER_MANAGEMENT if value & 0x1f == 0 => self.power_management = value & 0xe0,
            TEMPERATURE_THRESHOLD => self.set_temperature(value)?,
            ERROR_RECOVERY => self.set_error_recovery(cx.subsystem, namespace_id, value)?,
            // Turning the cache off would make every write wait for the medium; not offered.
            VOLATILE_WRITE_CACHE if value & WRITE_CACHE_ENABLED == 0 => {
                return Err(Status::FEATURE_NOT_CHANGEABLE);
            }
            VOLATILE_WRITE_CACHE => {}
            NUMBER_OF_QUEUES => return self.set_queues(cx, value),
            WRITE_ATOMICITY => self.write_atomicity = value & 1,
            ASYNC_EVENT_CONFIGURATION => self.set_async_events(cx.subsystem.kind(), value)?,
            KEEP_ALIVE_TIMER => cx.keep_alive.set_timeout_ms(value),
            TIMESTAMP => self.set_timestamp(cx.now, data)?,
            HOST_BEHAVIOR => self.set_host_behavior(data)?,
            RESERVATION_MASK => cx.notifications.set_mask(cx.subsystem, namespace_id, value)?,
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }

    /// There is the composite temperature (sensor 0) only, with a threshold over and one under.
    fn temperature(&self, field: u32) -> Result<u16, Status> {
        let asked = TemperatureThreshold(field);
        match (asked.sensor(), asked.kind()) {
            (0, 0) => Ok(self.temperature_over),
            (0, 1) => Ok(self.temperature_under),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn set_temperature(&mut self, field: u32) -> Result<(), Status> {
        let asked = TemperatureThreshold(field);
        match (asked.sensor(), asked.kind()) {
            (0 | ALL_SENSORS, 0) => self.temperature_over = asked.kelvin(),
            (0 | ALL_SENSORS, 1) => self.temperature_under = asked.kelvin(),
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(())
    }

    /// DULBE is not offered: deallocated blocks read as zeroes (NVM Command Set 1.0 section
    /// 4.1.3.2).
    fn set_error_recovery(
        &mut self,
        subsystem: &Subsystem,
        namespace_id: u32,
        value: u32,
    ) -> Result<(), Status> {
        let asked = ErrorRecovery(value);
        if asked.deallocated_is_error() {
            return Err(Status::INVALID_FIELD);
        }
        let limit = asked.time_limit_100ms();
        if namespace_id == NAMESPACE_ID_ALL {
            let all = subsystem.namespaces().iter().map(|namespace| (namespace.id, limit));
            self.error_recovery = all.collect();
            return Ok(());
        }
        let id = NamespaceId(namespace_id);
        subsystem.namespace(id).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT)?;
        self.error_recovery.insert(id, limit);
        Ok(())
    }

    /// Section 5.27.1.5: the number is fixed once an I/O queue is there.
    fn set_queues(&mut self, cx: &FeatureContext<'_>, value: u32) -> Result<u32, Status> {
        let asked = QueueCounts::from_value(value).ok_or(Status::INVALID_FIELD)?;
        if cx.open_io_queues != 0 {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let most = at_most(cx.subsystem.limits().io_queues_max);
        self.queues = QueueCounts {
            submission: asked.submission.min(most.submission),
            completion: asked.completion.min(most.completion),
        };
        Ok(self.queues.value())
    }

    fn set_async_events(&mut self, kind: SubsystemKind, value: u32) -> Result<(), Status> {
        let health = if kind == SubsystemKind::Nvm { event::SMART_MASK } else { 0 };
        if value & !(events::supported_mask(kind) | health) != 0 {
            return Err(Status::INVALID_FIELD);
        }
        self.async_events = value;
        Ok(())
    }

    /// Milliseconds since 1970 in 48 bits (figure 319).
    fn set_timestamp(&mut self, now: Nanos, data: &[u8]) -> Result<(), Status> {
        let [a, b, c, d, e, f, _, _] =
            *data.first_chunk().ok_or(Status::DATA_SGL_LENGTH_INVALID)?;
        self.timestamp = Some((u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), now));
        Ok(())
    }

    fn timestamp_now(&self, now: Nanos) -> [u8; 8] {
        const NANOS_PER_MS: u64 = 1_000_000;
        let (start_ms, since, attributes) = match self.timestamp {
            Some((start_ms, since)) => (start_ms, since, TIMESTAMP_SET_BY_HOST),
            None => (0, self.enabled_at, 0),
        };
        let value_ms = start_ms.wrapping_add(now.since(since).0 / NANOS_PER_MS);
        let [a, b, c, d, e, f, ..] = value_ms.to_le_bytes();
        [a, b, c, d, e, f, attributes, 0]
    }

    /// ACRE, ETDAS and LBAFEE, a byte of 0 or 1 each (figure 328). None changes what this
    /// controller does, as it uses neither retry delays nor the formats that they enable.
    fn set_host_behavior(&mut self, data: &[u8]) -> Result<(), Status> {
        let flags: [u8; 3] = *data.first_chunk().ok_or(Status::DATA_SGL_LENGTH_INVALID)?;
        if flags.iter().any(|flag| *flag > 1) {
            return Err(Status::INVALID_FIELD);
        }
        self.host_behavior = flags;
        Ok(())
    }
}

/// The features that controllers of the subsystem have.
pub(super) fn supported_by(subsystem: &Subsystem) -> Vec<u8> {
    match subsystem.kind() {
        SubsystemKind::Discovery => DISCOVERY_FEATURES.to_vec(),
        SubsystemKind::Nvm => {
            // Without a cache its feature is not there (section 5.27.1.4).
            let is_there =
                |feature: &u8| *feature != VOLATILE_WRITE_CACHE || subsystem.has_volatile_cache();
            IO_FEATURES.into_iter().filter(is_there).collect()
        }
    }
}

/// Whether a feature has a value for each namespace rather than one for the controller.
pub(super) const fn is_per_namespace(feature: u8) -> bool {
    matches!(feature, ERROR_RECOVERY | RESERVATION_MASK | RESERVATION_PERSISTENCE)
}

/// Whether a command is for the keeper of reservations: it sets, or asks for the current value of,
/// reservation persistence.
pub(super) fn is_of_keeper(opcode: AdminOpcode, entry: &SubmissionEntry) -> bool {
    let is_asked = match opcode {
        AdminOpcode::SetFeatures => true,
        AdminOpcode::GetFeatures => Select::of(entry) == Ok(Select::Current),
        _ => false,
    };
    is_asked && entry.feature().feature == RESERVATION_PERSISTENCE
}

/// What such a command asks the keeper, of one namespace: each has an answer of its own.
pub(super) fn persistence(
    subsystem: &Subsystem,
    opcode: AdminOpcode,
    entry: &SubmissionEntry,
) -> Result<(NamespaceId, Option<PersistenceChange>), Status> {
    check_supported(RESERVATION_PERSISTENCE, subsystem)?;
    let id = NamespaceId(entry.namespace_id.get());
    if opcode == AdminOpcode::GetFeatures {
        return Ok((id, None));
    }
    if entry.feature().save {
        return Err(Status::FEATURE_NOT_SAVEABLE);
    }
    match entry.cdw11.get() {
        0 => Ok((id, Some(PersistenceChange::Off))),
        PERSISTENCE_ON => Ok((id, Some(PersistenceChange::On))),
        _ => Err(Status::INVALID_FIELD),
    }
}

fn check_supported(feature: u8, subsystem: &Subsystem) -> Result<(), Status> {
    let is_supported = supported_by(subsystem).contains(&feature);
    if is_supported { Ok(()) } else { Err(Status::INVALID_FIELD) }
}

fn capabilities(feature: u8) -> u32 {
    match feature {
        _ if is_per_namespace(feature) => supported::CHANGEABLE | supported::PER_NAMESPACE,
        VOLATILE_WRITE_CACHE | HOST_IDENTIFIER => 0,
        _ => supported::CHANGEABLE,
    }
}

fn at_most(queues: u16) -> QueueCounts {
    QueueCounts { submission: queues.into(), completion: queues.into() }
}
