//! The properties of a controller, and the state machine that the host drives through them.
//!
//! Over fabrics the registers of a PCIe controller are read and written with Property Get and
//! Property Set. NVMe Base 2.0 sections 3.1.3 (properties), 3.5 (initialization), 3.6 (shutdown),
//! 6.5 and 6.6 (the commands).

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::register::{
    self, Capabilities, Configuration, ControllerStatus, ShutdownRequest, ShutdownStatus, Version,
};
use reactor::Nanos;
use zerocopy::little_endian::U32;

use super::controller::Effect;
use crate::fabrics::command::{PropertyCommand, PropertySize};
use crate::target::limits::TargetLimits;
use crate::target::subsystem::SubsystemKind;

/// Time within which a controller says that it gets ready; far above the truth.
const READY_TIMEOUT_MS: u32 = 10_000;
/// A reset or shutdown has this long to close the I/O queues and to get their I/O back; then the
/// controller fails. Below CAP.TO by some looks at the clock, so that a host reads CSTS.CFS before
/// it runs out of patience.
pub const QUIESCE_TIMEOUT: Nanos = Nanos::from_secs(9);
const _: () = assert!(QUIESCE_TIMEOUT.0 / 1_000_000 < READY_TIMEOUT_MS as u64);
/// CRTO counts in 500 ms; CRWMT is its low half, and CRIMT is of a mode that is not offered.
const READY_TIMEOUTS: u32 = READY_TIMEOUT_MS / 500;
/// CAP.CRMS.CRWMS: ready means that the medium is too; section 3.1.3.1 demands it of 2.0.
const READY_WITH_MEDIA: u64 = 1 << 59;

const SHUTDOWN_MASK: u32 = 0b11 << 14;
/// CSS, MPS and AMS: only 0 is offered of each.
const FIXED_MASK: u32 = 0b111 << 4 | 0b1111 << 7 | 0b111 << 11;
const ENTRY_SIZES_MASK: u32 = 0xff << 16;
/// CC.CRIME (bit 24) is read-only while CAP.CRIMS is 0; the rest is reserved.
const WRITABLE_MASK: u32 = 1 | FIXED_MASK | SHUTDOWN_MASK | ENTRY_SIZES_MASK;

/// Where a controller is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerState {
    /// CC.EN is 0: only fabrics commands are executed.
    Disabled,
    /// CC.EN and CSTS.RDY are 1: every command is executed.
    Ready,
    /// The host has shut the controller down; it must reset it before it goes on.
    ShutDown,
    /// CSTS.CFS is 1: the keep alive timer ran out, or a device did not give I/O back in time.
    /// Only the end of its connections follows.
    Failed,
}

/// Why CSTS does not say yet what CC asks for: I/O queues are there, or their I/O at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quiescing {
    /// Nothing is left.
    Done,
    /// CSTS.SHST says that the shutdown occurs.
    Shutdown,
    /// CSTS.RDY stays 1.
    Reset,
}

/// What drives the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// CC.EN 0 to 1.
    Enable,
    /// CC.EN 1 to 0.
    Disable,
    /// CC.SHN set.
    Shutdown,
    /// The keep alive timer ran out.
    Expire,
}

impl ControllerState {
    /// The one transition function. A host may write anything at any time, so every pair has an
    /// answer.
    const fn after(self, event: Event) -> (Self, Effect) {
        match (self, event) {
            (Self::Failed, _) => (Self::Failed, Effect::None),
            (_, Event::Expire) => (Self::Failed, Effect::None),
            (_, Event::Enable) => (Self::Ready, Effect::Enabled),
            (_, Event::Disable) => (Self::Disabled, Effect::Reset),
            (Self::ShutDown, Event::Shutdown) => (Self::ShutDown, Effect::None),
            (_, Event::Shutdown) => (Self::ShutDown, Effect::Shutdown),
        }
    }
}

/// The properties of one controller.
#[derive(Debug)]
pub(super) struct Properties {
    kind: SubsystemKind,
    capabilities: Capabilities,
    configuration: Configuration,
    state: ControllerState,
    quiescing: Quiescing,
}

impl Properties {
    pub fn new(kind: SubsystemKind, limits: &TargetLimits) -> Self {
        let common = Capabilities::for_fabrics(limits.queue_entries_max - 1, READY_TIMEOUT_MS);
        Self {
            kind,
            capabilities: Capabilities(common.0 | READY_WITH_MEDIA),
            configuration: Configuration::default(),
            state: ControllerState::Disabled,
            quiescing: Quiescing::Done,
        }
    }

    pub fn state(&self) -> ControllerState {
        self.state
    }

    /// Nothing is left of the I/O queues: a reset or shutdown is complete.
    pub fn quiesced(&mut self) {
        self.quiescing = Quiescing::Done;
    }

    /// The keep alive timer ran out, or the time to quiesce did: a fatal error of the controller
    /// (section 3.9.5).
    pub fn expire(&mut self) {
        (self.state, _) = self.state.after(Event::Expire);
    }

    /// Executes Property Get (section 6.5).
    pub fn get(&self, entry: &SubmissionEntry) -> Result<u64, Status> {
        let command = PropertyCommand::of(entry).ok_or(Status::INVALID_OPCODE)?;
        let four = |value: u32| (PropertySize::Four, u64::from(value));
        let (size, value) = match command.offset.get() {
            register::CAPABILITIES_OFFSET => (PropertySize::Eight, self.capabilities.0),
            register::VERSION_OFFSET => four(Version::V2_0.0),
            register::CONFIGURATION_OFFSET => four(self.configuration.0),
            register::STATUS_OFFSET => four(self.status().0),
            register::READY_TIMEOUTS_OFFSET => four(READY_TIMEOUTS),
            _ => return Err(Status::INVALID_FIELD),
        };
        if command.size() == Some(size) { Ok(value) } else { Err(Status::INVALID_FIELD) }
    }

    /// Executes Property Set (section 6.6). CC alone can be written.
    pub fn set(&mut self, entry: &SubmissionEntry) -> Result<Effect, Status> {
        let command = PropertyCommand::of(entry).ok_or(Status::INVALID_OPCODE)?;
        let is_four_bytes = command.size() == Some(PropertySize::Four);
        if command.offset.get() != register::CONFIGURATION_OFFSET || !is_four_bytes {
            return Err(Status::INVALID_FIELD);
        }
        let [value, _]: [U32; 2] = zerocopy::transmute!(command.value);
        self.configure(Configuration(value.get() & WRITABLE_MASK))
    }

    fn configure(&mut self, new: Configuration) -> Result<Effect, Status> {
        let old = self.configuration;
        if new.is_enabled() {
            self.check_settings(new)?;
        }
        // Undefined by section 3.1.3.5 while CSTS.RDY is not 0 yet; refused.
        let is_enabling = !old.is_enabled() && new.is_enabled();
        if is_enabling && self.quiescing != Quiescing::Done {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let asks_shutdown = |of: Configuration| of.shutdown() != ShutdownRequest::None;
        self.configuration = new;
        let mut effect = Effect::None;
        let events = [
            is_enabling.then_some(Event::Enable),
            (old.is_enabled() && !new.is_enabled()).then_some(Event::Disable),
            (!asks_shutdown(old) && asks_shutdown(new)).then_some(Event::Shutdown),
        ];
        for event in events.into_iter().flatten() {
            let (state, next) = self.state.after(event);
            self.state = state;
            // A reset already ends all that a shutdown would.
            if effect != Effect::Reset {
                effect = next;
            }
        }
        self.quiescing = match (effect, self.quiescing) {
            (Effect::Reset, _) => Quiescing::Reset,
            (Effect::Shutdown, Quiescing::Done) => Quiescing::Shutdown,
            (_, unchanged) => unchanged,
        };
        Ok(effect)
    }

    /// Only what CAP offers can be enabled. Entry sizes are of I/O queues, which a discovery
    /// controller has none of.
    fn check_settings(&self, new: Configuration) -> Result<(), Status> {
        let sizes_are_good = self.kind == SubsystemKind::Discovery
            || new.submission_entry_shift() == Configuration::SUBMISSION_ENTRY_SHIFT
                && new.completion_entry_shift() == Configuration::COMPLETION_ENTRY_SHIFT;
        let is_offered = new.0 & FIXED_MASK == 0 && sizes_are_good;
        if is_offered { Ok(()) } else { Err(Status::INVALID_FIELD) }
    }

    fn status(&self) -> ControllerStatus {
        let status = ControllerStatus::default();
        let is_ready = self.configuration.is_enabled() || self.quiescing == Quiescing::Reset;
        let status = if is_ready { status.with_ready() } else { status };
        let shutdown = match self.quiescing {
            Quiescing::Done => ShutdownStatus::Complete,
            Quiescing::Shutdown | Quiescing::Reset => ShutdownStatus::Occurring,
        };
        match self.state {
            ControllerState::Disabled | ControllerState::Ready => status,
            ControllerState::ShutDown => status.with_shutdown(shutdown),
            ControllerState::Failed => status.with_fatal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENABLE: u32 = 0x0046_0001;
    const SHUTDOWN_NORMAL: u32 = 1 << 14;
    const SHUTDOWN_ABRUPT: u32 = 2 << 14;

    fn properties() -> Properties {
        Properties::new(SubsystemKind::Nvm, &TargetLimits::default())
    }

    fn entry(size: u32, offset: u32, value: u32) -> SubmissionEntry {
        let mut entry = SubmissionEntry::new(0x7f, 1, 0);
        entry.cdw10 = U32::new(size);
        entry.cdw11 = U32::new(offset);
        entry.cdw12 = U32::new(value);
        entry
    }

    fn set(properties: &mut Properties, value: u32) -> Result<Effect, Status> {
        properties.set(&entry(0, 0x14, value))
    }

    fn csts(properties: &Properties) -> u64 {
        properties.get(&entry(0, 0x1c, 0)).unwrap()
    }

    #[test]
    fn capabilities_say_what_the_limits_are() {
        let capabilities = properties().get(&entry(1, 0, 0)).unwrap();
        assert_eq!(capabilities & 0xffff, 127);
        assert_eq!(capabilities >> 16 & 1, 1);
        assert_eq!(capabilities >> 24 & 0xff, 20);
        assert_eq!(capabilities >> 37 & 0xff, 1);
        assert_eq!(capabilities >> 48 & 0xff, 0);
        assert_eq!(capabilities >> 59 & 3, 1);
        assert_eq!(properties().get(&entry(0, 8, 0)), Ok(0x2_0000));
        assert_eq!(properties().get(&entry(0, 0x68, 0)), Ok(20));
    }

    #[test]
    fn a_property_is_read_in_its_own_size_only() {
        for (offset, size) in [(0, 1), (8, 0), (0x14, 0), (0x1c, 0), (0x68, 0)] {
            for tried in 0..8 {
                let answer = properties().get(&entry(tried, offset, 0));
                assert_eq!(answer.is_ok(), tried == size, "offset {offset} size {tried}");
            }
        }
    }

    #[test]
    fn unknown_properties_are_refused() {
        for offset in [0x04, 0x0c, 0x18, 0x20, 0x24, 0x6c, u32::MAX] {
            assert_eq!(properties().get(&entry(0, offset, 0)), Err(Status::INVALID_FIELD));
        }
    }

    #[test]
    fn only_the_configuration_can_be_written() {
        for offset in [0, 8, 0x1c, 0x20, 0x68] {
            assert_eq!(properties().set(&entry(0, offset, 1)), Err(Status::INVALID_FIELD));
        }
        assert_eq!(properties().set(&entry(1, 0x14, ENABLE)), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn a_controller_is_enabled_reset_and_enabled_again() {
        let mut properties = properties();
        assert_eq!(csts(&properties), 0);
        assert_eq!(set(&mut properties, ENABLE), Ok(Effect::Enabled));
        assert_eq!((properties.state(), csts(&properties)), (ControllerState::Ready, 1));
        assert_eq!(set(&mut properties, ENABLE), Ok(Effect::None));
        assert_eq!(set(&mut properties, ENABLE & !1), Ok(Effect::Reset));
        assert_eq!((properties.state(), csts(&properties)), (ControllerState::Disabled, 1));
        assert_eq!(set(&mut properties, ENABLE), Err(Status::COMMAND_SEQUENCE_ERROR), "too soon");
        properties.quiesced();
        assert_eq!((properties.state(), csts(&properties)), (ControllerState::Disabled, 0));
        assert_eq!(set(&mut properties, ENABLE), Ok(Effect::Enabled));
        assert_eq!(properties.get(&entry(0, 0x14, 0)), Ok(u64::from(ENABLE)));
    }

    #[test]
    fn a_shutdown_completes_and_a_reset_follows_it() {
        for request in [SHUTDOWN_NORMAL, SHUTDOWN_ABRUPT] {
            let mut properties = properties();
            set(&mut properties, ENABLE).unwrap();
            assert_eq!(set(&mut properties, ENABLE | request), Ok(Effect::Shutdown));
            assert_eq!((properties.state(), csts(&properties)), (ControllerState::ShutDown, 5));
            properties.quiesced();
            assert_eq!((properties.state(), csts(&properties)), (ControllerState::ShutDown, 9));
            assert_eq!(set(&mut properties, ENABLE | request), Ok(Effect::None));
            assert_eq!(set(&mut properties, 0), Ok(Effect::Reset));
            assert_eq!(csts(&properties), 1);
            properties.quiesced();
            assert_eq!(csts(&properties), 0);
        }
    }

    #[test]
    fn a_disabled_controller_can_be_shut_down_and_enabled_later() {
        let mut properties = properties();
        assert_eq!(set(&mut properties, SHUTDOWN_NORMAL), Ok(Effect::Shutdown));
        assert_eq!(csts(&properties), 4);
        properties.quiesced();
        assert_eq!(csts(&properties), 8);
        assert_eq!(set(&mut properties, ENABLE), Ok(Effect::Enabled));
        assert_eq!(csts(&properties), 1);
    }

    #[test]
    fn reset_and_shutdown_in_one_write_are_a_reset() {
        let mut properties = properties();
        set(&mut properties, ENABLE).unwrap();
        assert_eq!(set(&mut properties, SHUTDOWN_NORMAL), Ok(Effect::Reset));
        assert_eq!(csts(&properties), 5);
        properties.quiesced();
        assert_eq!(csts(&properties), 8);
    }

    #[test]
    fn settings_that_are_not_offered_are_refused_and_change_nothing() {
        for wrong in [ENABLE | 6 << 4, ENABLE | 1 << 7, ENABLE | 1 << 11, 1, ENABLE ^ 1 << 16] {
            let mut properties = properties();
            assert_eq!(set(&mut properties, wrong), Err(Status::INVALID_FIELD));
            assert_eq!(properties.state(), ControllerState::Disabled);
            assert_eq!(properties.get(&entry(0, 0x14, 0)), Ok(0));
        }
    }

    #[test]
    fn a_discovery_controller_needs_no_entry_sizes() {
        let limits = TargetLimits::default();
        let mut properties = Properties::new(SubsystemKind::Discovery, &limits);
        assert_eq!(set(&mut properties, 1), Ok(Effect::Enabled));
    }

    #[test]
    fn an_expired_controller_stays_failed() {
        let mut properties = properties();
        set(&mut properties, ENABLE).unwrap();
        properties.expire();
        assert_eq!((properties.state(), csts(&properties)), (ControllerState::Failed, 3));
        for value in [0, ENABLE, ENABLE | SHUTDOWN_NORMAL] {
            assert_eq!(set(&mut properties, value), Ok(Effect::None));
            assert_eq!(properties.state(), ControllerState::Failed);
        }
    }
}
