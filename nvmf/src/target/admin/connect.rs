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
    const fn of(status: Status) -> Self {
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
