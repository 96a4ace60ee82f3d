//! What the cores of a target tell each other: only when a host comes or goes, never for an I/O.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bdev::Status;
use bdev::reservation::keeper::Request;
use bdev::reservation::{AccessTable, Notification, RegistrantId};
use reactor::mesh::CoreIndex;
use reactor::slab::SlotId;
use reactor::socket::AcceptedStream;
use uuid::Uuid;

use super::admin::ErrorReport;
use super::description::SubsystemId;
pub use super::reservation::keeping::{Asker, Reply};
use crate::fabrics::Nqn;

/// Names a connection within the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    /// The core that has it.
    pub core: CoreIndex,
    /// Its slot there.
    pub slot: SlotId,
}

/// Names a controller: ids are used again, so a use number comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ControllerKey {
    /// Its subsystem.
    pub subsystem: SubsystemId,
    /// Controller id.
    pub id: u16,
    /// Which use of that id.
    pub usage: u32,
}

/// Names a request of a connection: slots are used again, so the generation comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Its slot.
    pub slot: u16,
    /// Which use of the slot.
    pub generation: u32,
}

/// Which queue a Connect asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// The admin queue: a new controller.
    Admin,
    /// An I/O queue of a controller that exists.
    Io {
        /// Queue id, from 1.
        queue_id: u16,
        /// The controller's id.
        controller_id: u16,
    },
}

/// A Connect, as the home core judges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectQuestion {
    /// Its subsystem.
    pub subsystem: SubsystemId,
    /// Which queue.
    pub queue: QueueKind,
    /// The host's name.
    pub host_nqn: Nqn,
    /// The host's identifier.
    pub host_id: [u8; 16],
    /// Controller ids that the subsystem may give out.
    pub controller_ids: RangeInclusive<u16>,
}

/// What a controller's admin queue tells the home core about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerChange {
    /// CC.EN was set: I/O queues may connect.
    Enabled,
    /// Set Features, or a reset, changed how many I/O queues may connect: ids 1 to this many.
    QueuesGranted(u16),
    /// CC.EN was cleared, or it was shut down: its I/O queues go.
    Disabled {
        /// Which time, so that the answer to an earlier one is not taken for this one's.
        round: u32,
    },
    /// Its admin queue is gone, and the controller with it.
    Gone,
}

/// A command about the reservations of a namespace.
#[derive(Clone, Debug)]
pub struct ReservationQuestion {
    /// The namespace.
    pub namespace: Uuid,
    /// Whose command.
    pub asker: Asker,
    /// What it asks.
    pub request: Request,
}

/// Who may do what at a namespace.
#[derive(Clone, Debug)]
pub struct NewAccess {
    /// The namespace.
    pub namespace: Uuid,
    /// To be named in the answer.
    pub round: u64,
    /// Who may do what.
    pub table: AccessTable,
    /// Whose commands are to be aborted.
    pub aborts: Arc<[RegistrantId]>,
}

/// An Abort of a command of an I/O queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortQuestion {
    /// The admin queue that it came by.
    pub connection: ConnectionId,
    /// The Abort itself.
    pub request: RequestId,
    /// The controller.
    pub controller: ControllerKey,
    /// Which of its queues.
    pub queue_id: u16,
    /// Which command of that queue.
    pub command_id: u16,
}

/// How an Abort ends; the values are those of dword 0 (NVMe Base 2.0 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortOutcome {
    /// The command was aborted, and is answered.
    Aborted = 0,
    /// It is not there, or beyond recall.
    NotAborted = 1,
}

/// A message between cores.
#[derive(Debug)]
pub enum Message {
    /// A stream for this core to serve.
    Adopt(AcceptedStream),
    /// To the home core: may this queue be?
    Connect {
        /// The connection that asks.
        connection: ConnectionId,
        /// What its host asks for, checked for itself.
        request: Box<ConnectQuestion>,
    },
    /// The home core's answer.
    Connected {
        /// The connection that asked.
        connection: SlotId,
        /// Which queue.
        queue: QueueKind,
        /// The controller that the queue belongs to and the connection of its admin queue, or the
        /// status and result of the refusal.
        outcome: Result<(ControllerKey, ConnectionId), (Status, u32)>,
    },
    /// To the core of an admin queue: a command of an I/O queue was answered with an error.
    CommandFailed {
        /// The connection of the admin queue.
        connection: SlotId,
        /// The controller.
        controller: ControllerKey,
        /// What failed.
        report: ErrorReport,
    },
    /// To the home core: which controllers does this subsystem have?
    ListControllers {
        /// The connection that asks.
        connection: ConnectionId,
        /// For which of its requests.
        request: RequestId,
        /// The subsystem.
        subsystem: SubsystemId,
    },
    /// The home core's answer.
    ControllersListed {
        /// The connection that asked.
        connection: SlotId,
        /// For which of its requests.
        request: RequestId,
        /// The identifiers, ascending.
        controllers: Vec<u16>,
    },
    /// To the home core: abort a command of an I/O queue, wherever that is.
    Abort(AbortQuestion),
    /// From the home core, to the core of the queue: abort it.
    AbortOnQueue {
        /// The connection of the queue.
        connection: SlotId,
        /// What is asked.
        question: AbortQuestion,
    },
    /// To the core of the admin queue: how an Abort ends.
    AbortEnded {
        /// The connection of the admin queue.
        connection: SlotId,
        /// The Abort.
        request: RequestId,
        /// How it ends.
        outcome: AbortOutcome,
    },
    /// To the home core: an I/O queue closes; its I/O may still be at a device.
    QueueClosing {
        /// Its controller.
        controller: ControllerKey,
        /// Its queue id.
        queue_id: u16,
    },
    /// To the home core: nothing is left of an I/O queue.
    QueueClosed {
        /// Its controller.
        controller: ControllerKey,
        /// Its queue id.
        queue_id: u16,
    },
    /// To the home core: a controller changed.
    Controller {
        /// The controller.
        controller: ControllerKey,
        /// How.
        change: ControllerChange,
    },
    /// From the home core, to the core of the admin queue: the controller has so many I/O queues.
    QueuesOpen {
        /// The connection of the admin queue.
        connection: SlotId,
        /// The controller.
        controller: ControllerKey,
        /// How many.
        count: u16,
    },
    /// From the home core, to every core: close the I/O queues of this controller.
    CloseQueues {
        /// The controller.
        controller: ControllerKey,
        /// Which time; to be named in the answer.
        round: u32,
    },
    /// To the home core, from every core: of the I/O queues of this controller nothing is left
    /// here, nor of their I/O at any device.
    QueuesClosed {
        /// The controller.
        controller: ControllerKey,
        /// Which time.
        round: u32,
    },
    /// From the home core, to the core of the admin queue: nothing is left on any core.
    Quiesced {
        /// The connection of the admin queue.
        connection: SlotId,
        /// The controller.
        controller: ControllerKey,
        /// Which time.
        round: u32,
    },
    /// To the home core: a command about the reservations of a namespace.
    Reserve(Box<ReservationQuestion>),
    /// From the home core: its answer.
    Reserved {
        /// The command.
        asker: Asker,
        /// How it ends.
        reply: Reply,
    },
    /// From the home core, to every core: who may do what at a namespace from now on.
    Access(Box<NewAccess>),
    /// To the home core, from every core: nothing that this table forbids is under way here.
    AccessInForce {
        /// The namespace.
        namespace: Uuid,
        /// Which table.
        round: u64,
    },
    /// From the home core, to every core: a host is to be told of a reservation.
    ReservationNotice {
        /// The namespace.
        namespace: Uuid,
        /// Whom, and of what.
        notification: Notification,
    },
}
