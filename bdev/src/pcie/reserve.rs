//! Reservations that a drive keeps against other hosts on its fabric: a drive of two ports, or one
//! that is shared out by its firmware.
//!
//! Asked for on any thread; the supervisor of the controller sends the commands, one at a time,
//! over an I/O queue that no core has, and waits for each. A controller that has reservations is
//! asked for one queue more than the cores need, so there is one, unless it grants none. NVMe Base
//! 2.0 sections 7.2 to 7.5 and 8.19; the host identifier is a feature (section 5.27.1.25).

use std::sync::Arc;

use super::controller::Controller;
use super::encode;
use super::error::PcieError;
use super::layout;
use super::port::{Owner, Port, Shared, State};
use super::ring::{Position, Ring};
use crate::nvme::command::SubmissionEntry;
use crate::nvme::status::Status;
use crate::reservation::DeviceReservations;
use crate::reservation::device::{Abilities, Answer, Outcome, Reply, Report, Request};
use crate::reservation::nvme::host::CommandData;

/// Requests that wait for one controller's supervisor at most.
pub const REQUESTS_MAX: usize = 16;

/// A request that waits.
#[derive(Debug)]
pub struct Wanted {
    /// Of which namespace.
    pub namespace: u32,
    /// What.
    pub request: Request,
    /// Where the answer goes; dropped, it says that there was no way.
    pub reply: Reply,
}

/// The reservations of one namespace.
#[derive(Debug)]
pub struct PcieReservations {
    controller: Arc<Controller>,
    namespace: u32,
    abilities: Abilities,
}

impl PcieReservations {
    /// Those of a namespace that has these abilities.
    pub(super) fn new(
        controller: Arc<Controller>,
        namespace: u32,
        abilities: Abilities,
    ) -> PcieReservations {
        PcieReservations { controller, namespace, abilities }
    }
}

impl DeviceReservations for PcieReservations {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn begin(&self, request: Request, reply: Reply) {
        let shared = self.controller.shared();
        // One for which there is no room is dropped here, and so answered.
        let _ = shared.wanted.push(Wanted { namespace: self.namespace, request, reply });
        shared.call_supervisor();
    }
}

/// Sends a request to the drive and waits for its end. For the supervisor, while the controller is
/// live. A port that is left to the supervisor had a command in it that did not end.
///
/// # Errors
///
/// The controller is gone, or does not answer: it is to be reset.
pub(super) fn carry_out(
    shared: &Shared,
    state: State,
    (namespace, request): (u32, Request),
    is_alive: impl Fn() -> Result<(), PcieError>,
) -> Result<Outcome, PcieError> {
    let Some((entry, data)) = request.to_nvme(namespace) else {
        // A feature: who asks for it by itself asks through its registration here.
        return Ok(Err(Status::INVALID_FIELD));
    };
    let Some(port) = shared.ports.iter().rev().find(|port| port.take()) else {
        return Ok(Err(Status::INTERNAL_PATH_ERROR));
    };
    let mut ring = Ring::resume(port.place, port.position(state));
    port.acknowledge(state);
    match send(shared, port, &mut ring, (entry, data), is_alive) {
        Ok(outcome) => {
            port.leave(Owner::Nobody, ring.position());
            Ok(outcome)
        }
        Err(error) => {
            port.leave(Owner::Supervisor, Position::START);
            Err(error)
        }
    }
}

fn send(
    shared: &Shared,
    port: &Port,
    ring: &mut Ring,
    (entry, data): (SubmissionEntry, CommandData),
    is_alive: impl Fn() -> Result<(), PcieError>,
) -> Result<Outcome, PcieError> {
    let view = port.place.view;
    let at = layout::bounce(0);
    match data {
        CommandData::Sent(bytes, len) => view.write(at, &bytes[..len]),
        CommandData::Received(bytes) => view.zero(at, bytes as usize),
    }
    ring.push(encode::entry(entry.with_prp([view.address(at), 0])));
    ring.ring_tail();
    let timeout = shared.options.admin_timeout;
    let waited_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let deadline = shared.platform.now() + reactor::Nanos::from(timeout);
    let ended = loop {
        if let Some(ended) = ring.pop() {
            break ended;
        }
        is_alive()?;
        if shared.platform.now() >= deadline {
            return Err(PcieError::AdminTimeout { command: "a reservation command", waited_ms });
        }
        shared.platform.pause();
    };
    ring.ring_head();
    if ended.command_id != entry.command_id.get() {
        return Err(PcieError::Protocol);
    }
    if !ended.status.is_success() {
        return Ok(Err(ended.status));
    }
    let CommandData::Received(bytes) = data else { return Ok(Ok(Answer::Changed)) };
    let mut report = vec![0; bytes as usize];
    view.read(at, &mut report);
    let report = Report::from_nvme(&report).map(Answer::Report);
    Ok(report.ok_or(Status::DATA_TRANSFER_ERROR))
}
