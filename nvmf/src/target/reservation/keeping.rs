//! The keeper of reservations on the home core, those who ask it, and those who store for it.
//!
//! Called by the home core with what hosts ask and what cores report; what is to be sent comes out
//! as values. On the home core's thread, off the path of I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bdev::Status;
use bdev::nvme::reservation::ReportForm;
use bdev::reservation::keeper::{Action, Answer, Request, StoreResult};
use bdev::reservation::nvme::HostController;
use bdev::reservation::{AccessTable, Keeper, Notification, Persistence, RegistrantId};
use reactor::Nanos;
use uuid::Uuid;

use super::kept::{KeptReservations, RESULTS_MAX, Stored};
use crate::target::description::{SubsystemId, TargetDescription};
use crate::target::message::ConnectionId;

/// How soon a result is looked for while a record is being stored.
pub const STORE_LOOK_INTERVAL: Nanos = Nanos::from_millis(1);

/// A command that waits for the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its connection.
    pub connection: ConnectionId,
    /// Its slot there.
    pub slot: u16,
    /// Which use of the slot.
    pub generation: u32,
    /// The subsystem that it came to.
    pub subsystem: SubsystemId,
    /// What it wants to know.
    pub wants: Wants,
}

/// What a command wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// How it ended.
    Status,
    /// The report.
    Report,
    /// Whether reservations persist (feature 83h).
    Persistence,
}

/// What a command is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// With a status.
    Status(Status),
    /// With a report, as long as it is.
    Report(Box<[u8]>),
    /// With a feature's value.
    Value(u32),
}

/// What the home core has to send.
#[derive(Debug)]
pub enum ToSend {
    /// To every core: this table is in force.
    Access { namespace: Uuid, round: u64, table: AccessTable, aborts: Arc<[RegistrantId]> },
    /// To every core: tell this host.
    Notice { namespace: Uuid, notification: Notification },
    /// To one that asked.
    Reply { asker: Asker, reply: Reply },
}

/// See the module.
#[derive(Debug)]
pub struct Keeping {
    keeper: Keeper<Asker>,
    kept: BTreeMap<Uuid, Arc<KeptReservations>>,
    results: Receiver<Stored>,
    /// Given to those who store.
    results_to: SyncSender<Stored>,
    /// Records that are being stored.
    storing: usize,
}

impl Keeping {
    /// For a target of so many cores that serves `description`.
    pub fn new(cores: usize, description: &TargetDescription) -> Self {
        let (results_to, results) = sync_channel(RESULTS_MAX);
        let (keeper, kept) = (Keeper::new(cores), BTreeMap::new());
        let mut this = Self { keeper, kept, results, results_to, storing: 0 };
        this.serve(description);
        this
    }

    /// Serves the namespaces of this description.
    pub fn serve(&mut self, description: &TargetDescription) {
        let namespaces = description.subsystems.values().flat_map(|one| one.namespaces());
        let kept = namespaces.map(|one| (one.uuid, Arc::clone(&one.reservations)));
        self.kept = kept.collect();
        self.keeper.serve(self.kept.iter().map(|(namespace, kept)| (*namespace, kept.initial())));
    }

    /// Takes a command.
    pub fn ask(&mut self, namespace: Uuid, asker: Asker, request: Request, now: Nanos) {
        self.keeper.ask(namespace, asker, request, now);
    }

    /// A core has a table in force.
    pub fn core_finished(&mut self, namespace: Uuid, round: u64) {
        self.keeper.core_finished(namespace, round);
    }

    /// Answers who has waited too long.
    pub fn expire(&mut self, now: Nanos) {
        self.keeper.expire(now);
    }

    /// True while time passing may change something.
    pub fn is_timed(&self) -> bool {
        self.keeper.is_timed()
    }

    /// True while a record is being stored, so that results are to be looked for.
    pub fn is_storing(&self) -> bool {
        self.storing > 0
    }

    /// True when no record of a namespace that is gone is being stored.
    pub fn is_settled(&self) -> bool {
        self.keeper.is_settled()
    }

    /// Takes what those who store have to say; true if there was something.
    pub fn take_stored(&mut self) -> bool {
        let before = self.storing;
        while self.storing > 0
            && let Ok((ticket, result)) = self.results.try_recv()
        {
            self.storing -= 1;
            self.keeper.stored(ticket, result);
        }
        self.storing < before
    }

    /// What to send next; `controllers` names those of a subsystem, for reports.
    pub fn next(
        &mut self,
        controllers: impl Fn(SubsystemId) -> Vec<HostController>,
    ) -> Option<ToSend> {
        loop {
            match self.keeper.next_action()? {
                Action::Store { namespace, ticket, record } => {
                    let kept = self.kept.get(&namespace);
                    if kept.is_some_and(|kept| kept.store(ticket, record, &self.results_to)) {
                        self.storing += 1;
                    } else {
                        self.keeper.stored(ticket, StoreResult::Failed);
                    }
                }
                Action::Distribute { namespace, round, table, aborts } => {
                    let aborts = aborts.into();
                    return Some(ToSend::Access { namespace, round, table, aborts });
                }
                Action::Notify { namespace, notification } => {
                    return Some(ToSend::Notice { namespace, notification });
                }
                Action::Answer { asker, answer } => {
                    let reply = reply(&asker, answer, &controllers);
                    return Some(ToSend::Reply { asker, reply });
                }
            }
        }
    }
}

fn reply(
    asker: &Asker,
    answer: Answer,
    controllers: impl Fn(SubsystemId) -> Vec<HostController>,
) -> Reply {
    let final_error = |status: Status| Reply::Status(status.with_do_not_retry());
    match answer {
        Answer::Done => Reply::Status(Status::SUCCESS),
        Answer::State(state) => match asker.wants {
            Wants::Report => {
                let controllers = controllers(asker.subsystem);
                Reply::Report(state.nvme_report(&controllers, ReportForm::Extended).into())
            }
            Wants::Persistence => Reply::Value(u32::from(state.persistence() == Persistence::On)),
            Wants::Status => Reply::Status(Status::SUCCESS),
        },
        Answer::Refused(refusal) => final_error(refusal.nvme_status()),
        Answer::NoNamespace => final_error(Status::INVALID_NAMESPACE_OR_FORMAT),
        // All of these may go another way next time.
        Answer::NotStored => Reply::Status(Status::INTERNAL_ERROR),
        Answer::Interrupted | Answer::Busy => Reply::Status(Status::COMMAND_INTERRUPTED),
    }
}
