//! The register of controllers: which ids are in use, by which host, with which queues.
//!
//! Lives on the target's first core; the others ask by message when a host connects or goes away.
//! Plain data in and out. NVMe over Fabrics section 3.3 (Connect), NVMe Base 2.0 section 6.3.
//!
//! Nothing of a host's old I/O may reach a device behind its new I/O. So a queue that is gone is
//! closing until its last I/O has come back, a controller that is gone is ending until every core
//! has said so of its queues, and a Connect that would take the place of either waits.

use std::collections::{BTreeMap, VecDeque};

use bdev::Status;
use bdev::reservation::RegistrantId;
use bdev::reservation::nvme::HostController;
use reactor::Nanos;

use super::description::SubsystemId;
use super::message::{ConnectQuestion, ConnectionId, ControllerChange, ControllerKey, QueueKind};
use crate::fabrics::Nqn;
use crate::fabrics::connect::ConnectParameter;

/// Controllers that a target can have at once.
pub(super) const CONTROLLERS_MAX: usize = 4096;

/// Connects that can wait at once for something to end; one more is told that there is no room.
pub(super) const WAITING_MAX: usize = 1024;

/// How long a controller that is gone keeps its host from coming back while its I/O is at a device.
/// As long as a reset may take: after that, a device that answers nothing would shut the host out
/// of every other namespace too.
pub(super) const ENDING_TIMEOUT: Nanos = super::admin::QUIESCE_TIMEOUT;

/// The controller that a queue belongs to, or status and result of the refusal.
pub(super) type Outcome = Result<ControllerKey, (Status, u32)>;

/// How far a controller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// CC.EN is 0: no I/O queue may connect.
    Disabled,
    /// I/O queues may connect.
    Enabled,
    /// Its admin queue is gone. It is forgotten when its I/O queues are, at the latest by then.
    Ending(Nanos),
}

/// How far an I/O queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueLife {
    /// Its connection.
    Open(ConnectionId),
    /// Its connection is gone, or about to be; I/O may be at a device.
    Closing,
}

#[derive(Debug)]
struct Entry {
    usage: u32,
    host: HostIdentity,
    /// The connection of its admin queue.
    admin: ConnectionId,
    life: Life,
    queues: BTreeMap<u16, QueueLife>,
    /// The highest queue id that Set Features lets the host connect.
    io_queues_granted: u16,
    /// The last round of closing its queues, and how many cores have not finished it.
    round: u32,
    unfinished_cores: usize,
}

impl Entry {
    /// The number of its I/O queues. Those that close count: their identifiers are in use.
    fn count(&self, controller: ControllerKey) -> QueueCount {
        let count = u16::try_from(self.queues.len()).expect("queue ids are 16 bits, without 0");
        QueueCount { admin: self.admin, controller, count }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostIdentity {
    nqn: Nqn,
    id: [u8; 16],
}

/// What must be done about a change of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// Nothing.
    Nothing,
    /// Every core has to close its I/O queues and to say so, naming this round.
    CloseQueues(u32),
}

/// A Connect that is decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub connection: ConnectionId,
    pub queue: QueueKind,
    pub outcome: Outcome,
}

/// The register.
#[derive(Debug, Default)]
pub(super) struct Home {
    controllers: BTreeMap<(SubsystemId, u16), Entry>,
    last_id: BTreeMap<SubsystemId, u16>,
    usages: u32,
    /// Connects to decide, in order.
    asked: VecDeque<(ConnectionId, Box<ConnectQuestion>)>,
    /// Connects that wait for something to end, in order.
    waiting: VecDeque<(ConnectionId, Box<ConnectQuestion>)>,
    /// Controllers whose number of I/O queues has changed.
    counts: Vec<QueueCount>,
}

/// How many I/O queues a controller has, for the connection of its admin queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueCount {
    pub admin: ConnectionId,
    pub controller: ControllerKey,
    pub count: u16,
}

impl Home {
    /// Takes a Connect. It is decided by [`Home::decide`].
    pub fn ask(&mut self, connection: ConnectionId, question: Box<ConnectQuestion>) {
        self.asked.push_back((connection, question));
    }

    /// Decides on the next Connect that was asked and need not wait.
    ///
    /// To be called when no message of another core is left to take: whatever the host was told
    /// before it sent its Connect had been said here before, but perhaps by another core, whose
    /// message then is taken later than the Connect.
    pub fn decide(&mut self) -> Option<Decided> {
        while let Some((connection, question)) = self.asked.pop_front() {
            match self.connect(connection, &question) {
                Some(outcome) => {
                    return Some(Decided { connection, queue: question.queue, outcome });
                }
                None if self.waiting.len() < WAITING_MAX => {
                    self.waiting.push_back((connection, question));
                }
                None => {
                    let outcome = Err((Status::CONNECT_CONTROLLER_BUSY, 0));
                    return Some(Decided { connection, queue: question.queue, outcome });
                }
            }
        }
        None
    }

    /// The next controller whose number of I/O queues has changed. To be told before the Connect
    /// that changed it is answered.
    pub fn next_count(&mut self) -> Option<QueueCount> {
        self.counts.pop()
    }

    /// The connection of the admin queue of a controller that was just decided on.
    pub fn admin_of(&self, controller: ControllerKey) -> ConnectionId {
        let key = (controller.subsystem, controller.id);
        self.controllers.get(&key).expect("a controller that a Connect was granted").admin
    }

    /// The identifiers of a subsystem's controllers, ascending.
    pub fn controllers(&self, subsystem: SubsystemId) -> Vec<u16> {
        let all = self.controllers.range((subsystem, 0)..=(subsystem, u16::MAX));
        let alive = all.filter(|(_, entry)| !matches!(entry.life, Life::Ending(_)));
        alive.map(|((_, id), _)| *id).collect()
    }

    /// The connection of an I/O queue of a controller, unless it is closing.
    pub fn queue_of(&self, controller: ControllerKey, queue_id: u16) -> Option<ConnectionId> {
        let entry = self.controllers.get(&(controller.subsystem, controller.id))?;
        match entry.queues.get(&queue_id).filter(|_| entry.usage == controller.usage)? {
            QueueLife::Open(connection) => Some(*connection),
            QueueLife::Closing => None,
        }
    }

    /// The controllers of a subsystem whose hosts have an identifier.
    pub fn host_controllers(&self, subsystem: SubsystemId) -> Vec<HostController> {
        let of_it = self.controllers.range((subsystem, 0)..=(subsystem, u16::MAX));
        let alive = of_it.filter(|(_, entry)| !matches!(entry.life, Life::Ending(_)));
        let known = alive.filter_map(|((_, controller_id), entry)| {
            let host = RegistrantId::nvme(entry.host.id)?;
            Some(HostController { host, controller_id: *controller_id })
        });
        known.collect()
    }

    /// True while time passing may change something.
    pub fn is_timed(&self) -> bool {
        self.controllers.values().any(|entry| matches!(entry.life, Life::Ending(_)))
    }

    /// Forgets controllers whose queues should long be closed.
    pub fn expire(&mut self, now: Nanos) {
        let before = self.controllers.len();
        self.controllers.retain(|_, entry| !matches!(entry.life, Life::Ending(by) if by <= now));
        if self.controllers.len() < before {
            self.ask_again();
        }
    }

    /// A queue of a controller closes; its I/O may still be at a device.
    pub fn queue_closing(&mut self, controller: ControllerKey, queue_id: u16) {
        let life = self.entry(controller).and_then(|entry| entry.queues.get_mut(&queue_id));
        if let Some(life) = life {
            *life = QueueLife::Closing;
        }
    }

    /// Nothing is left of a queue. Late news of an earlier use of the id are ignored.
    pub fn queue_closed(&mut self, controller: ControllerKey, queue_id: u16) {
        if let Some(entry) = self.entry(controller)
            && entry.queues.remove(&queue_id).is_some()
        {
            let news = entry.count(controller);
            self.counts.push(news);
            self.ask_again();
        }
    }

    /// A controller changed; `cores` have to close its queues if this says so.
    pub fn change(
        &mut self,
        controller: ControllerKey,
        change: ControllerChange,
        cores: usize,
        now: Nanos,
    ) -> Follows {
        let Some(entry) = self.entry(controller) else { return Follows::Nothing };
        if matches!(entry.life, Life::Ending(_)) {
            return Follows::Nothing;
        }
        entry.round = match change {
            ControllerChange::Enabled => {
                entry.life = Life::Enabled;
                return Follows::Nothing;
            }
            ControllerChange::QueuesGranted(count) => {
                entry.io_queues_granted = count;
                return Follows::Nothing;
            }
            ControllerChange::Disabled { round } => {
                entry.life = Life::Disabled;
                round
            }
            ControllerChange::Gone => {
                entry.life = Life::Ending(now + ENDING_TIMEOUT);
                entry.round.wrapping_add(1)
            }
        };
        entry.unfinished_cores = cores;
        Follows::CloseQueues(entry.round)
    }

    /// A core has closed all I/O queues of a controller that it had. After the last core: the
    /// connection of the admin queue, to be told.
    pub fn core_finished(&mut self, controller: ControllerKey, round: u32) -> Option<ConnectionId> {
        let entry = self.entry(controller).filter(|entry| entry.round == round)?;
        entry.unfinished_cores =
            entry.unfinished_cores.checked_sub(1).expect("a core finishes a round once");
        if entry.unfinished_cores > 0 {
            return None;
        }
        let admin = entry.admin;
        if matches!(entry.life, Life::Ending(_)) {
            self.controllers.remove(&(controller.subsystem, controller.id));
            self.ask_again();
            return None;
        }
        Some(admin)
    }

    /// Something has ended: whoever waited is decided anew, before those who ask now.
    fn ask_again(&mut self) {
        while let Some(waiting) = self.waiting.pop_back() {
            self.asked.push_front(waiting);
        }
    }

    fn entry(&mut self, controller: ControllerKey) -> Option<&mut Entry> {
        self.controllers
            .get_mut(&(controller.subsystem, controller.id))
            .filter(|entry| entry.usage == controller.usage)
    }

    /// Makes a controller for an admin queue, finds it for an I/O queue. `None`: it has to wait.
    fn connect(&mut self, connection: ConnectionId, request: &ConnectQuestion) -> Option<Outcome> {
        let host = HostIdentity { nqn: request.host_nqn, id: request.host_id };
        match request.queue {
            QueueKind::Admin => {
                let is_ending = |(key, entry): (&(SubsystemId, u16), &Entry)| {
                    key.0 == request.subsystem
                        && entry.host == host
                        && matches!(entry.life, Life::Ending(_))
                };
                if self.controllers.iter().any(is_ending) {
                    return None;
                }
                Some(self.create(connection, request, host))
            }
            QueueKind::Io { queue_id, controller_id } => {
                let key = (request.subsystem, controller_id);
                self.attach(key, (queue_id, connection), &host)
            }
        }
    }

    fn create(
        &mut self,
        admin: ConnectionId,
        request: &ConnectQuestion,
        host: HostIdentity,
    ) -> Outcome {
        if self.controllers.len() >= CONTROLLERS_MAX {
            return Err((Status::CONNECT_CONTROLLER_BUSY, 0));
        }
        let subsystem = request.subsystem;
        let range = &request.controller_ids;
        let last = self.last_id.get(&subsystem).copied();
        // Ids are used again as late as can be, so that a host's stale id finds nobody.
        let after = last.filter(|last| last < range.end()).map_or(*range.start(), |last| last + 1);
        let free = (after..=*range.end())
            .chain(*range.start()..after)
            .find(|id| !self.controllers.contains_key(&(subsystem, *id)))
            .ok_or((Status::CONNECT_CONTROLLER_BUSY, 0))?;
        self.last_id.insert(subsystem, free);
        self.usages = self.usages.wrapping_add(1);
        let usage = self.usages;
        let entry = Entry {
            usage,
            host,
            admin,
            life: Life::Disabled,
            queues: BTreeMap::new(),
            io_queues_granted: u16::MAX,
            round: 0,
            unfinished_cores: 0,
        };
        self.controllers.insert((subsystem, free), entry);
        Ok(ControllerKey { subsystem, id: free, usage })
    }

    fn attach(
        &mut self,
        key: (SubsystemId, u16),
        (queue_id, connection): (u16, ConnectionId),
        host: &HostIdentity,
    ) -> Option<Outcome> {
        // Another host's controller is answered like one that does not exist.
        let unknown = (Status::CONNECT_INVALID_PARAMETERS, ConnectParameter::ControllerId.result());
        let found = self.controllers.get_mut(&key);
        let Some(entry) = found.filter(|entry| entry.host == *host) else {
            return Some(Err(unknown));
        };
        // NVMe over Fabrics 3.3: a queue that exists, or a controller that is not enabled.
        let out_of_sequence = Err((Status::COMMAND_SEQUENCE_ERROR, 0));
        let not_granted =
            Err((Status::CONNECT_INVALID_PARAMETERS, ConnectParameter::QueueId.result()));
        match (entry.life, entry.queues.get(&queue_id)) {
            (Life::Ending(_), _) => Some(Err(unknown)),
            (Life::Disabled, _) | (Life::Enabled, Some(QueueLife::Open(_))) => {
                Some(out_of_sequence)
            }
            (Life::Enabled, Some(QueueLife::Closing)) => None,
            (Life::Enabled, None) if queue_id > entry.io_queues_granted => Some(not_granted),
            (Life::Enabled, None) => {
                let controller = ControllerKey { subsystem: key.0, id: key.1, usage: entry.usage };
                entry.queues.insert(queue_id, QueueLife::Open(connection));
                let news = entry.count(controller);
                self.counts.push(news);
                Some(Ok(controller))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::mesh::CoreIndex;
    use reactor::slab::SlotId;

    const CORES: usize = 2;
    const START: Nanos = Nanos::from_secs(3);
    const SEQUENCE: Outcome = Err((Status::COMMAND_SEQUENCE_ERROR, 0));

    fn connection(slot: u64) -> ConnectionId {
        ConnectionId { core: CoreIndex(1), slot: SlotId::from_token(slot) }
    }

    fn question(queue: QueueKind, host_id: u8) -> Box<ConnectQuestion> {
        Box::new(ConnectQuestion {
            subsystem: SubsystemId(1),
            queue,
            host_nqn: "nqn.2014-08.org.example:host".parse().unwrap(),
            host_id: [host_id; 16],
            controller_ids: 1..=3,
        })
    }

    fn io(queue_id: u16, controller: ControllerKey) -> QueueKind {
        QueueKind::Io { queue_id, controller_id: controller.id }
    }

    /// Asks and is answered at once, or waits.
    fn ask(home: &mut Home, queue: QueueKind, host_id: u8) -> Option<Outcome> {
        home.ask(connection(9), question(queue, host_id));
        home.decide().map(|decided| decided.outcome)
    }

    fn create(home: &mut Home) -> Outcome {
        ask(home, QueueKind::Admin, 1).unwrap()
    }

    fn change(home: &mut Home, controller: ControllerKey, change: ControllerChange) -> Follows {
        home.change(controller, change, CORES, START)
    }

    fn enabled(home: &mut Home) -> ControllerKey {
        let made = create(home).unwrap();
        assert_eq!(change(home, made, ControllerChange::Enabled), Follows::Nothing);
        made
    }

    #[test]
    fn an_io_queue_needs_an_enabled_controller_of_its_own_host() {
        let mut home = Home::default();
        let made = create(&mut home).unwrap();
        assert_eq!(ask(&mut home, io(1, made), 1), Some(SEQUENCE));
        change(&mut home, made, ControllerChange::Enabled);
        assert_eq!(ask(&mut home, io(1, made), 1), Some(Ok(made)));
        assert_eq!(ask(&mut home, io(1, made), 1), Some(SEQUENCE), "it is there already");
        let other_host = ask(&mut home, io(2, made), 2).unwrap().unwrap_err();
        assert_eq!(other_host.0, Status::CONNECT_INVALID_PARAMETERS);
        home.queue_closed(made, 1);
        assert_eq!(ask(&mut home, io(1, made), 1), Some(Ok(made)));
    }

    #[test]
    fn a_connect_waits_for_the_queue_whose_place_it_takes() {
        let mut home = Home::default();
        let made = enabled(&mut home);
        assert_eq!(ask(&mut home, io(1, made), 1), Some(Ok(made)));
        assert_eq!(home.queue_of(made, 1), Some(connection(9)));
        assert_eq!(home.queue_of(ControllerKey { usage: made.usage + 1, ..made }, 1), None);
        home.queue_closing(made, 1);
        assert_eq!(home.queue_of(made, 1), None);
        assert_eq!(ask(&mut home, io(1, made), 1), None);
        assert_eq!(ask(&mut home, io(2, made), 1), Some(Ok(made)), "another queue need not wait");
        home.queue_closed(made, 1);
        assert_eq!(home.decide().unwrap().outcome, Ok(made));
        assert_eq!(home.decide(), None);
        assert_eq!(ask(&mut home, io(1, made), 1), Some(SEQUENCE), "now it is there");
    }

    #[test]
    fn the_last_queue_granted_connects_and_one_past_it_does_not() {
        let mut home = Home::default();
        let made = enabled(&mut home);
        change(&mut home, made, ControllerChange::QueuesGranted(2));
        let (status, result) = ask(&mut home, io(3, made), 1).unwrap().unwrap_err();
        assert_eq!(status, Status::CONNECT_INVALID_PARAMETERS);
        assert_eq!(result, ConnectParameter::QueueId.result());
        assert_eq!(home.next_count(), None);
        assert_eq!(ask(&mut home, io(2, made), 1), Some(Ok(made)));
        let news = |count| Some(QueueCount { admin: connection(9), controller: made, count });
        assert_eq!(home.next_count(), news(1));
        home.queue_closing(made, 2);
        assert_eq!(home.next_count(), None, "its identifier is in use still");
        home.queue_closed(made, 2);
        assert_eq!(home.next_count(), news(0));
    }

    #[test]
    fn as_many_connects_wait_as_may_and_one_more_is_told_to_come_again() {
        let mut home = Home::default();
        let made = enabled(&mut home);
        ask(&mut home, io(1, made), 1);
        home.queue_closing(made, 1);
        for _ in 0..WAITING_MAX {
            assert_eq!(ask(&mut home, io(1, made), 1), None);
        }
        let busy = Err((Status::CONNECT_CONTROLLER_BUSY, 0));
        assert_eq!(ask(&mut home, io(1, made), 1), Some(busy));
    }

    #[test]
    fn a_controller_is_told_when_the_last_core_has_closed_its_queues() {
        let mut home = Home::default();
        let made = enabled(&mut home);
        let disabled = |round| ControllerChange::Disabled { round };
        assert_eq!(change(&mut home, made, disabled(1)), Follows::CloseQueues(1));
        assert_eq!(ask(&mut home, io(2, made), 1), Some(SEQUENCE));
        assert_eq!(home.core_finished(made, 1), None);
        assert_eq!(change(&mut home, made, disabled(2)), Follows::CloseQueues(2));
        assert_eq!(home.core_finished(made, 1), None, "news of the round before");
        assert_eq!(home.core_finished(made, 2), None);
        assert_eq!(home.core_finished(made, 2), Some(connection(9)));
    }

    #[test]
    fn a_host_waits_for_the_end_of_its_last_controller_and_no_other_host_does() {
        let mut home = Home::default();
        let made = enabled(&mut home);
        assert_eq!(change(&mut home, made, ControllerChange::Gone), Follows::CloseQueues(1));
        assert_eq!(ask(&mut home, QueueKind::Admin, 1), None);
        assert!(ask(&mut home, QueueKind::Admin, 2).unwrap().is_ok());
        assert_eq!(
            ask(&mut home, io(1, made), 1).unwrap().unwrap_err().0,
            Status::CONNECT_INVALID_PARAMETERS
        );
        for _ in 0..CORES {
            assert_eq!(home.core_finished(made, 1), None, "nobody is left to be told");
        }
        assert!(home.decide().unwrap().outcome.is_ok());
        assert!(!home.is_timed());
    }

    #[test]
    fn a_host_waits_no_longer_than_the_deadline() {
        let mut home = Home::default();
        let made = enabled(&mut home);
        change(&mut home, made, ControllerChange::Gone);
        assert_eq!(ask(&mut home, QueueKind::Admin, 1), None);
        home.expire(START + ENDING_TIMEOUT - Nanos(1));
        assert_eq!(home.decide(), None);
        home.expire(START + ENDING_TIMEOUT);
        assert!(home.decide().unwrap().outcome.is_ok());
        assert_eq!(home.core_finished(made, 1), None, "late news");
    }

    #[test]
    fn ids_run_out_and_come_back_with_another_usage() {
        let mut home = Home::default();
        let made: Vec<_> = (0..3).map(|_| create(&mut home).unwrap()).collect();
        assert_eq!(made.iter().map(|key| key.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(create(&mut home), Err((Status::CONNECT_CONTROLLER_BUSY, 0)));
        change(&mut home, made[1], ControllerChange::Gone);
        for _ in 0..CORES {
            home.core_finished(made[1], 1);
        }
        let again = create(&mut home).unwrap();
        assert_eq!(again.id, 2);
        assert_ne!(again.usage, made[1].usage);
        let old_news = change(&mut home, made[1], ControllerChange::Disabled { round: 5 });
        assert_eq!(old_news, Follows::Nothing, "of an id used again");
    }
}
