//! The admin side as a host meets it: whole commands to a controller, answers checked byte by byte
//! at the offsets of the specification.

mod features;
mod identify;
mod log_page;
mod random;
mod reservations;

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::sgl::SglDescriptor;
use reactor::Nanos;
use zerocopy::little_endian::U32;

use super::keep_alive::ENABLE_TIMEOUT;
use super::*;
use crate::fabrics::command::{PropertyCommand, PropertySize};
use crate::target::namespace::NamespaceId;
use crate::target::statistics::IoStatistics;
use crate::target::subsystem::Subsystem;
use crate::target::testing::{discovery_subsystem, host_nqn, io_subsystem};

const START: Nanos = Nanos::from_secs(100);
const ENABLE: u32 = 0x0046_0001;
const SHUTDOWN: u32 = ENABLE | 1 << 14;

/// A controller with what surrounds it.
pub(super) struct Host {
    pub subsystem: Subsystem,
    pub directory: Directory,
    pub open_io_queues: u16,
    pub statistics: IoStatistics,
    pub now: Nanos,
    pub controller: AdminController,
    pub effect: Effect,
}

impl Host {
    pub fn connected(subsystem: Subsystem) -> Self {
        let options = ControllerOptions {
            controller_id: 7,
            host_nqn: host_nqn(),
            host_id: [9; 16],
            keep_alive_ms: 5000,
        };
        Self {
            controller: AdminController::new(options, &subsystem, START),
            subsystem,
            directory: Directory::default(),
            open_io_queues: 0,
            statistics: IoStatistics::default(),
            now: START,
            effect: Effect::None,
        }
    }

    pub fn ready(subsystem: Subsystem) -> Self {
        let mut host = Self::connected(subsystem);
        assert_eq!(host.configure(ENABLE), Ok(0));
        host
    }

    pub fn execute(
        &mut self,
        entry: &SubmissionEntry,
        data_in: &[u8],
        data_out: &mut [u8],
    ) -> AdminOutcome {
        let input = AdminInput {
            now: self.now,
            subsystem: &self.subsystem,
            open_io_queues: self.open_io_queues,
            controllers: &[3, 7],
            statistics: self.statistics,
            directory: Some(&self.directory),
        };
        let (outcome, effect) = self.controller.command(&input, entry, data_in, data_out);
        self.effect = effect;
        outcome
    }

    /// A command that carries no data.
    pub fn run(&mut self, entry: SubmissionEntry) -> Result<u64, Status> {
        let entry = entry.with_sgl(SglDescriptor::transport_data_block(0));
        match self.execute(&entry, &[], &mut []) {
            AdminOutcome::Complete { status, result } if status.is_success() => Ok(result),
            AdminOutcome::Complete { status, result } => {
                assert!(status.do_not_retry() && result == 0);
                Err(Status::from_code(status.code()))
            }
            other => panic!("data or nothing, instead of a completion: {other:?}"),
        }
    }

    /// A command that brings `len` bytes to the host.
    pub fn fetch(&mut self, entry: SubmissionEntry, len: u32) -> Result<Vec<u8>, Status> {
        let entry = entry.with_sgl(SglDescriptor::transport_data_block(len));
        let mut out = vec![0xaa; 131_072];
        match self.execute(&entry, &[], &mut out) {
            AdminOutcome::Data { len_bytes, .. } => {
                assert_eq!(len_bytes, len);
                out.truncate(usize::try_from(len).unwrap());
                Ok(out)
            }
            AdminOutcome::Complete { status, .. } => {
                assert!(status.do_not_retry() && !status.is_success());
                Err(Status::from_code(status.code()))
            }
            other => panic!("neither data nor a status: {other:?}"),
        }
    }

    /// A command that brings `data` to the controller, in its capsule.
    pub fn give(&mut self, entry: SubmissionEntry, data: &[u8]) -> Result<u64, Status> {
        let len = u32::try_from(data.len()).unwrap();
        let entry = entry.with_sgl(SglDescriptor::in_capsule(0, len));
        match self.execute(&entry, data, &mut []) {
            AdminOutcome::Complete { status, result } if status.is_success() => Ok(result),
            AdminOutcome::Complete { status, .. } => Err(Status::from_code(status.code())),
            other => panic!("{other:?}"),
        }
    }

    pub fn configure(&mut self, value: u32) -> Result<u64, Status> {
        let command = PropertyCommand::set(1, 0x14, PropertySize::Four, value.into());
        self.run(command.entry())
    }

    pub fn hold(&mut self, command_id: u16) -> Result<(), Status> {
        let entry = SubmissionEntry::async_event_request(command_id);
        let entry = entry.with_sgl(SglDescriptor::transport_data_block(0));
        match self.execute(&entry, &[], &mut []) {
            AdminOutcome::Held => Ok(()),
            AdminOutcome::Complete { status, .. } => Err(Status::from_code(status.code())),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_host_enables_resets_and_shuts_down_its_controller() {
    let mut host = Host::connected(io_subsystem());
    host.configure(ENABLE).unwrap();
    assert_eq!(host.effect, Effect::Enabled);
    host.configure(SHUTDOWN).unwrap();
    assert_eq!(host.effect, Effect::Shutdown);
    host.configure(0).unwrap();
    assert_eq!(host.effect, Effect::Reset);
    assert_eq!(host.controller.state(), ControllerState::Disabled);
}

#[test]
fn commands_before_enabling_and_after_shutdown_are_out_of_sequence() {
    let mut host = Host::connected(io_subsystem());
    for value in [0, SHUTDOWN] {
        if value != 0 {
            host.configure(ENABLE).unwrap();
            host.configure(value).unwrap();
        }
        let keep_alive = SubmissionEntry::keep_alive(1);
        assert_eq!(host.run(keep_alive), Err(Status::COMMAND_SEQUENCE_ERROR));
        assert_eq!(host.hold(2), Err(Status::COMMAND_SEQUENCE_ERROR));
        let identify = SubmissionEntry::new(0x06, 1, 0);
        assert_eq!(host.fetch(identify, 4096), Err(Status::COMMAND_SEQUENCE_ERROR));
        let status = PropertyCommand::get(1, 0x1c, PropertySize::Four);
        assert!(host.run(status.entry()).is_ok());
    }
}

#[test]
fn a_silent_host_is_given_up_at_its_deadline_and_not_before() {
    let mut host = Host::ready(io_subsystem());
    host.now = START + Nanos::from_secs(3);
    host.run(SubmissionEntry::keep_alive(1)).unwrap();
    let deadline = START + Nanos::from_secs(8);
    assert_eq!(host.controller.deadline(), Some(deadline));
    assert!(!host.controller.expire(Nanos(deadline.0 - 1)));
    assert!(host.controller.expire(deadline));
    assert_eq!(host.controller.state(), ControllerState::Failed);
    assert_eq!(host.hold(1), Err(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn a_host_that_never_enables_its_controller_is_given_up() {
    let host = Host::connected(io_subsystem());
    assert_eq!(host.controller.deadline(), Some(START + ENABLE_TIMEOUT));
}

#[test]
fn a_notice_answers_a_request_once_the_host_wants_it() {
    let mut host = Host::ready(io_subsystem());
    host.hold(11).unwrap();
    host.controller.notice_ana_change();
    assert_eq!(host.controller.next_event(), None);
    host.run(SubmissionEntry::set_feature(1, 0x0b, 1 << 11 | 1 << 8)).unwrap();
    host.controller.notice_ana_change();
    let expected = HeldCompletion { command_id: 11, status: Status::SUCCESS, result: 0x000c_0302 };
    assert_eq!(host.controller.next_event(), Some(expected));
}

#[test]
fn a_discovery_controller_tells_of_a_changed_log() {
    let mut host = Host::ready(discovery_subsystem());
    host.run(SubmissionEntry::set_feature(1, 0x0b, 1 << 31)).unwrap();
    host.hold(11).unwrap();
    host.controller.notice_discovery_change();
    assert_eq!(host.controller.next_event().unwrap().result, 0x0070_f002);
}

#[test]
fn abort_ends_a_request_for_events_and_nothing_else() {
    let abort = |queue: u32, command: u32| {
        let mut entry = SubmissionEntry::new(0x08, 1, 0);
        entry.cdw10 = U32::new(queue | command << 16);
        entry
    };
    let mut host = Host::ready(io_subsystem());
    host.hold(11).unwrap();
    assert_eq!(host.run(abort(0, 12)), Ok(1));
    assert_eq!(host.run(abort(1, 11)), Ok(1));
    assert_eq!(host.controller.next_event(), None);
    assert_eq!(host.run(abort(0, 11)), Ok(0));
    let ended = host.controller.next_event().unwrap();
    assert_eq!((ended.command_id, ended.status), (11, Status::ABORT_REQUESTED));
}

#[test]
fn a_reset_ends_requests_and_returns_features_to_their_defaults() {
    let mut host = Host::ready(io_subsystem());
    host.hold(11).unwrap();
    host.run(SubmissionEntry::set_feature(1, 0x0b, 1 << 8)).unwrap();
    host.configure(ENABLE & !1).unwrap();
    let ended = host.controller.next_event().unwrap();
    assert_eq!((ended.command_id, ended.status), (11, Status::ABORTED_SQ_DELETION));
    assert_eq!(host.configure(ENABLE), Err(Status::COMMAND_SEQUENCE_ERROR));
    host.controller.quiesced(host.controller.round(), host.now);
    host.configure(ENABLE).unwrap();
    assert_eq!(host.run(SubmissionEntry::get_feature(1, 0x0b)), Ok(0));
}

#[test]
fn a_changed_namespace_is_listed_until_the_host_has_read_it() {
    let mut host = Host::ready(io_subsystem());
    host.controller.notice_namespace_change(NamespaceId(3));
    let log = |retain: u32| {
        let mut entry = SubmissionEntry::new(0x02, 1, 0xffff_ffff);
        entry.cdw10 = U32::new(0x04 | retain << 15 | 1023 << 16);
        entry
    };
    assert_eq!(host.fetch(log(1), 4096).unwrap()[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host.fetch(log(0), 4096).unwrap()[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host.fetch(log(0), 4096).unwrap()[..8], [0; 8]);
}

#[test]
fn commands_that_are_not_offered_are_invalid() {
    let mut host = Host::ready(io_subsystem());
    for opcode in [0x00, 0x01, 0x04, 0x05, 0x0d, 0x10, 0x19, 0x1a, 0x7c, 0x80, 0x84, 0xc0, 0xff] {
        let entry = SubmissionEntry::new(opcode, 1, 0);
        assert_eq!(host.run(entry), Err(Status::INVALID_OPCODE), "opcode {opcode:#x}");
    }
}

#[test]
fn a_buffer_that_is_too_small_is_an_error_and_no_panic() {
    let mut host = Host::ready(io_subsystem());
    let mut entry = SubmissionEntry::new(0x06, 1, 0);
    entry.cdw10 = U32::new(1);
    let entry = entry.with_sgl(SglDescriptor::transport_data_block(4096));
    let outcome = host.execute(&entry, &[], &mut [0; 4095]);
    let status = Status::INTERNAL_ERROR.with_do_not_retry();
    assert_eq!(outcome, AdminOutcome::Complete { status, result: 0 });
}
