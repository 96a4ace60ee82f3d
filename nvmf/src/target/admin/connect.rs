//! What a Connect command may ask for, judged before there is a controller or queue.
//!
//! Pure: the registry of controllers, which only the caller has, decides afterwards whether the
//! controller of an I/O queue exists, whose it is, and whether the queue is free. NVMe Base 2.0
//! section 6.3.

use std::sync::Arc;

use bdev::Status;
use bdev::nvme::command::SubmissionEntry;
use zerocopy::FromBytes;

use super::transfer::{Direction, Transfer, check_flags, described};
use crate::fabrics::Nqn;
use crate::fabrics::connect::{
    ADMIN_QUEUE_ID, CONNECT_DATA_BYTES, CONNECT_RECORD_FORMAT, CONTROLLER_ID_DYNAMIC,
    ConnectCommand, ConnectData, ConnectParameter, attribute,
};
use crate::target::limits::{ADMIN_QUEUE_ENTRIES_MAX, QUEUE_ENTRIES_MIN};
use crate::target::subsystem::{CONTROLLER_ID_MAX, Subsystem, SubsystemKind};

/// Which controller a queue is to belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedController {
    /// A new one: this is its admin queue.
    New,
    /// An existing one: this is an I/O queue of it.
    Existing(u16),
}

/// Whether completions must tell the host how far the submission queue is consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowControl {
    /// SQHD is kept.
    On,
    /// SQHD is FFFFh in every completion.
    Off,
}

/// A Connect that is good as far as can be told from itself.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// What the host connects to.
    pub subsystem: Arc<Subsystem>,
    /// Which controller of it.
    pub controller: RequestedController,
    /// 0 for the admin queue.
    pub queue_id: u16,
    /// Entries of the queue, counted from one.
    pub queue_entries: u16,
    /// Keep alive timeout in milliseconds, 0 for none; of the admin queue.
    pub keep_alive_ms: u32,
    /// Whether completions carry SQHD.
    pub flow_control: FlowControl,
    /// Who connects.
    pub host_nqn: Nqn,
    /// Which instance of it; an I/O queue must have that of its admin queue.
    pub host_id: [u8; 16],
}

/// Why a Connect is refused: status and dword 0 of the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Do Not Retry is set where a retry would fail again.
    pub status: Status,
    /// Which parameter, for Connect Invalid Parameters; else 0.
    pub result: u32,
}

impl Refusal {
    /// Refuses for a reason that no parameter stands for.
    pub const fn of(status: Status) -> Self {
        Self { status: status.with_do_not_retry(), result: 0 }
    }

    /// Refuses a parameter of the command or its data.
    pub const fn parameter(parameter: ConnectParameter) -> Self {
        let status = Status::CONNECT_INVALID_PARAMETERS.with_do_not_retry();
        Self { status, result: parameter.result() }
    }
}

/// The data of the first command of a connection: Connect data if it is Connect, and refused if it
/// is anything else.
pub fn connect_transfer(entry: &SubmissionEntry) -> Result<Transfer, Refusal> {
    check_flags(entry).map_err(Refusal::of)?;
    if ConnectCommand::of(entry).is_none() {
        return Err(Refusal::of(Status::COMMAND_SEQUENCE_ERROR));
    }
    let len_bytes = CONNECT_DATA_BYTES as u32;
    // No host knows SGLS by then: its descriptor is as long as the data, which has one length.
    if entry.sgl().length.get() != len_bytes {
        return Err(Refusal::of(Status::DATA_SGL_LENGTH_INVALID));
    }
    described(entry, Direction::HostToController, len_bytes).map_err(Refusal::of)
}

/// Judges a Connect command with the data that came with it. `find` looks a subsystem up by name.
pub fn check_connect(
    entry: &SubmissionEntry,
    data: &[u8],
    find: impl FnOnce(&Nqn) -> Option<Arc<Subsystem>>,
) -> Result<ConnectRequest, Refusal> {
    connect_transfer(entry)?;
    let command = ConnectCommand::of(entry).ok_or(Refusal::of(Status::COMMAND_SEQUENCE_ERROR))?;
    let data = ConnectData::ref_from_bytes(data)
        .map_err(|_| Refusal::of(Status::DATA_SGL_LENGTH_INVALID))?;
    if command.record_format.get() != CONNECT_RECORD_FORMAT {
        return Err(Refusal::of(Status::CONNECT_INCOMPATIBLE_FORMAT));
    }
    let subsystem_nqn = Nqn::from_field(&data.subsystem_nqn)
        .map_err(|_| Refusal::parameter(ConnectParameter::SubsystemNqn))?;
    let host_nqn = Nqn::from_field(&data.host_nqn)
        .map_err(|_| Refusal::parameter(ConnectParameter::HostNqn))?;
    let subsystem =
        find(&subsystem_nqn).ok_or(Refusal::parameter(ConnectParameter::SubsystemNqn))?;
    if !subsystem.hosts().allows(&host_nqn) {
        return Err(Refusal::of(Status::CONNECT_INVALID_HOST));
    }
    let controller = requested_controller(command, data, &subsystem)?;
    let queue_entries = queue_entries(command, &subsystem)?;
    let disables_flow_control = command.attributes & attribute::DISABLE_FLOW_CONTROL != 0;
    Ok(ConnectRequest {
        subsystem,
        controller,
        queue_id: command.queue_id.get(),
        queue_entries,
        keep_alive_ms: command.keep_alive_ms.get(),
        flow_control: if disables_flow_control { FlowControl::Off } else { FlowControl::On },
        host_nqn,
        host_id: data.host_id,
    })
}

/// The dynamic controller model: an admin queue takes whatever controller it is given (FFFFh), an
/// I/O queue names the one that it was given.
fn requested_controller(
    command: &ConnectCommand,
    data: &ConnectData,
    subsystem: &Subsystem,
) -> Result<RequestedController, Refusal> {
    let controller_id = data.controller_id.get();
    let queue_id = command.queue_id.get();
    if queue_id == ADMIN_QUEUE_ID {
        return match controller_id {
            CONTROLLER_ID_DYNAMIC => Ok(RequestedController::New),
            _ => Err(Refusal::parameter(ConnectParameter::ControllerId)),
        };
    }
    let has_io_queues = subsystem.kind() == SubsystemKind::Nvm;
    if !has_io_queues || queue_id > subsystem.limits().io_queues_max {
        return Err(Refusal::parameter(ConnectParameter::QueueId));
    }
    if controller_id > CONTROLLER_ID_MAX || !subsystem.controller_ids().contains(&controller_id) {
        return Err(Refusal::parameter(ConnectParameter::ControllerId));
    }
    Ok(RequestedController::Existing(controller_id))
}

/// SQSIZE is zero-based; 0 would be a queue of one entry, which can hold nothing.
fn queue_entries(command: &ConnectCommand, subsystem: &Subsystem) -> Result<u16, Refusal> {
    let refusal = Refusal::parameter(ConnectParameter::QueueSize);
    let entries = command.queue_size.get().checked_add(1).ok_or(refusal)?;
    let entries_max = match command.queue_id.get() {
        ADMIN_QUEUE_ID => ADMIN_QUEUE_ENTRIES_MAX,
        _ => subsystem.limits().queue_entries_max,
    };
    if (QUEUE_ENTRIES_MIN..=entries_max).contains(&entries) { Ok(entries) } else { Err(refusal) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabrics::connect::ConnectOptions;
    use crate::target::subsystem::{HostPolicy, SubsystemConfig};
    use crate::target::testing::{
        config_of, discovery_subsystem, host_nqn, io_subsystem, subsystem_nqn,
    };
    use bdev::nvme::sgl::SglDescriptor;
    use proptest::prelude::*;
    use zerocopy::little_endian::{U16, U32};
    use zerocopy::{FromZeros, IntoBytes};

    const ADMIN: ConnectOptions =
        ConnectOptions { queue_id: 0, queue_size: 31, attributes: 0, keep_alive_ms: 5000 };
    const IO: ConnectOptions =
        ConnectOptions { queue_id: 1, queue_size: 127, attributes: 4, keep_alive_ms: 0 };

    fn data(controller_id: u16) -> ConnectData {
        let mut data = ConnectData::new_zeroed();
        data.host_id = [9; 16];
        data.controller_id = U16::new(controller_id);
        data.subsystem_nqn = subsystem_nqn().to_field();
        data.host_nqn = host_nqn().to_field();
        data
    }

    fn find(nqn: &Nqn) -> Option<Arc<Subsystem>> {
        [io_subsystem(), discovery_subsystem()]
            .into_iter()
            .find(|subsystem| subsystem.nqn() == nqn)
            .map(Arc::new)
    }

    fn check(options: ConnectOptions, data: &ConnectData) -> Result<ConnectRequest, Refusal> {
        check_connect(&ConnectCommand::new(1, options).entry(), data.as_bytes(), find)
    }

    fn refused(options: ConnectOptions, data: &ConnectData) -> Refusal {
        check(options, data).unwrap_err()
    }

    #[test]
    fn an_admin_queue_asks_for_a_new_controller() {
        let request = check(ADMIN, &data(0xffff)).unwrap();
        assert_eq!(request.controller, RequestedController::New);
        assert_eq!((request.queue_id, request.queue_entries), (0, 32));
        assert_eq!(request.keep_alive_ms, 5000);
        assert_eq!(request.flow_control, FlowControl::On);
        assert_eq!(request.host_nqn, host_nqn());
        assert_eq!(request.host_id, [9; 16]);
        assert_eq!(*request.subsystem.nqn(), subsystem_nqn());
    }

    #[test]
    fn an_io_queue_names_its_controller() {
        let request = check(IO, &data(7)).unwrap();
        assert_eq!(request.controller, RequestedController::Existing(7));
        assert_eq!((request.queue_id, request.queue_entries), (1, 128));
        assert_eq!(request.flow_control, FlowControl::Off);
    }

    #[test]
    fn an_admin_queue_cannot_choose_its_controller() {
        for controller_id in [0, 1, 0xffef, 0xfffe] {
            let expected = Refusal::parameter(ConnectParameter::ControllerId);
            assert_eq!(refused(ADMIN, &data(controller_id)), expected);
        }
    }

    #[test]
    fn an_io_queue_must_name_a_possible_controller() {
        for controller_id in [0, 0xfff0, 0xfffe, 0xffff] {
            let expected = Refusal::parameter(ConnectParameter::ControllerId);
            assert_eq!(refused(IO, &data(controller_id)), expected);
        }
    }

    #[test]
    fn queue_identifiers_are_accepted_up_to_the_limit() {
        let with = |queue_id| check(ConnectOptions { queue_id, ..IO }, &data(7));
        assert!(with(128).is_ok());
        let expected = Refusal::parameter(ConnectParameter::QueueId);
        assert_eq!(with(129).unwrap_err(), expected);
        assert_eq!(with(0xffff).unwrap_err(), expected);
    }

    #[test]
    fn queue_sizes_are_accepted_up_to_their_limits() {
        for (options, last) in [(IO, 127), (ADMIN, 127)] {
            let controller_id = if options.queue_id == 0 { 0xffff } else { 7 };
            let with =
                |queue_size| check(ConnectOptions { queue_size, ..options }, &data(controller_id));
            assert_eq!(with(1).unwrap().queue_entries, 2);
            assert_eq!(with(last).unwrap().queue_entries, last + 1);
            for wrong in [0, last + 1, 0xffff] {
                let expected = Refusal::parameter(ConnectParameter::QueueSize);
                assert_eq!(with(wrong).unwrap_err(), expected, "size {wrong}");
            }
        }
    }

    #[test]
    fn the_discovery_subsystem_has_no_io_queues() {
        let mut data = data(7);
        data.subsystem_nqn = discovery_subsystem().nqn().to_field();
        assert_eq!(refused(IO, &data), Refusal::parameter(ConnectParameter::QueueId));
        data.controller_id = U16::new(0xffff);
        assert!(check(ADMIN, &data).is_ok());
    }

    #[test]
    fn an_unknown_or_malformed_subsystem_is_refused_by_its_offset() {
        let mut data = data(0xffff);
        let unknown: Nqn = "nqn.2019-05.io.openebs:unknown".parse().unwrap();
        for field in [unknown.to_field(), [b'n'; 256], [0; 256]] {
            data.subsystem_nqn = field;
            let refusal = refused(ADMIN, &data);
            assert!(refusal.status.has_code(Status::CONNECT_INVALID_PARAMETERS));
            assert!(refusal.status.do_not_retry());
            assert_eq!(refusal.result, 0x0001_0100);
        }
    }

    #[test]
    fn a_malformed_host_is_refused_by_its_offset() {
        let mut data = data(0xffff);
        for field in [[b'n'; 256], [0; 256]] {
            data.host_nqn = field;
            assert_eq!(refused(ADMIN, &data).result, 0x0001_0200);
        }
    }

    #[test]
    fn a_host_that_is_not_on_the_list_is_refused() {
        let only = |host: Nqn| {
            let config = config_of(vec![]);
            let config = SubsystemConfig { hosts: HostPolicy::Only(vec![host]), ..config };
            let subsystem = Arc::new(Subsystem::new(config).unwrap());
            let entry = ConnectCommand::new(1, ADMIN).entry();
            check_connect(&entry, data(0xffff).as_bytes(), |_| Some(subsystem))
        };
        assert!(only(host_nqn()).is_ok());
        let refusal = only("nqn.2019-05.io.openebs:other".parse().unwrap()).unwrap_err();
        assert_eq!(refusal, Refusal::of(Status::CONNECT_INVALID_HOST));
    }

    #[test]
    fn an_unknown_record_format_is_refused() {
        let mut command = ConnectCommand::new(1, ADMIN);
        command.record_format = U16::new(1);
        let answer = check_connect(&command.entry(), data(0xffff).as_bytes(), find);
        let expected = Refusal::of(Status::CONNECT_INCOMPATIBLE_FORMAT);
        assert_eq!(answer.unwrap_err(), expected);
    }

    #[test]
    fn data_that_is_missing_short_or_long_is_refused() {
        let entry = ConnectCommand::new(1, ADMIN).entry();
        let bytes = [0; 2048];
        for len in [0, 1, 1023, 1025, 2048] {
            let answer = check_connect(&entry, &bytes[..len], find);
            assert_eq!(answer.unwrap_err(), Refusal::of(Status::DATA_SGL_LENGTH_INVALID));
            let length = u32::try_from(len).unwrap();
            let entry = entry.with_sgl(SglDescriptor::in_capsule(0, length));
            let answer = check_connect(&entry, data(0xffff).as_bytes(), find);
            assert_eq!(answer.unwrap_err(), Refusal::of(Status::DATA_SGL_LENGTH_INVALID));
        }
    }

    #[test]
    fn a_first_command_that_is_not_connect_is_refused() {
        let mut entry = ConnectCommand::new(1, ADMIN).entry();
        entry.namespace_id = U32::new(4);
        let expected = Refusal::of(Status::COMMAND_SEQUENCE_ERROR);
        assert_eq!(connect_transfer(&entry), Err(expected));
        entry = ConnectCommand::new(1, ADMIN).entry();
        entry.opcode = 0x06;
        assert_eq!(connect_transfer(&entry), Err(expected));
    }

    proptest! {
        #[test]
        fn any_connect_is_judged_without_panic(
            command in any::<[u8; 64]>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..1100),
            options in (any::<u16>(), any::<u16>(), any::<u8>(), any::<u32>()),
            controller_id: u16,
        ) {
            let raw: SubmissionEntry = zerocopy::transmute!(command);
            prop_assert!(check_connect(&raw, &bytes, find).is_err());
            let (queue_id, queue_size, attributes, keep_alive_ms) = options;
            let options = ConnectOptions { queue_id, queue_size, attributes, keep_alive_ms };
            if let Ok(request) = check(options, &data(controller_id)) {
                prop_assert_eq!(request.queue_entries, queue_size + 1);
                prop_assert!(request.queue_entries <= 128 && request.queue_id <= 128);
                let is_admin = request.controller == RequestedController::New;
                prop_assert_eq!(is_admin, queue_id == 0);
            }
        }
    }
}
