//! The keeper: one command after the other of each namespace, each as a whole on every core.
//!
//! Lives on the home core of a target, off the I/O path. Front doors hand in what their hosts ask,
//! by whatever names the asker of theirs (`A`), and act on what [`Keeper::next_action`] says. It
//! has no clock, no thread, no wire format and no I/O of its own. NVMe Base 2.0 section 8.19,
//! SPC-4 section 5.13.
//!
//! A command takes three steps, in this order:
//!
//! 1. It is applied to a copy of the state. What is to be kept through a loss of power is stored:
//!    only when it is on the medium does the copy take the place of the state.
//! 2. Every core gets the new [`AccessTable`] and says so once it lets nothing else pass and
//!    nothing that the table forbids is at the device any more.
//! 3. The asker is answered, and others are told.
//!
//! So whoever is told that a host was preempted can rely on that host's writes being over. A device
//! that gives an I/O back too late holds up whatever could tell of the new state: after
//! [`ANSWER_TIMEOUT`] the asker, and all who asked behind it, are answered
//! [`Answer::Interrupted`], to come again. The new state stays: to give a lost right back would let
//! writes pass that somebody relies on being refused.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use reactor::Nanos;
use uuid::Uuid;

use super::access::AccessTable;
use super::command::Command;
use super::outcome::{Notification, Outcome, Refusal};
use super::registrant::{Registrant, RegistrantId};
use super::state::Reservations;

/// Commands of one namespace that can wait behind the one under way.
pub const WAITING_MAX: usize = 64;

/// How long a command may take, its wait for others included. Well under the half minute that a
/// Linux host gives a command, so that it hears of the delay rather than resetting the controller.
pub const ANSWER_TIMEOUT: Nanos = Nanos::from_secs(10);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To change something.
    Change {
        /// Who asks.
        from: Registrant,
        /// What.
        command: Command,
    },
    /// What the state is.
    Look,
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The change is in force on every core, and on the medium if it is to be kept.
    Done,
    /// The state as it is.
    State(Box<Reservations>),
    /// Nothing has changed, for this reason.
    Refused(Refusal),
    /// Nothing has changed: the record could not be stored.
    NotStored,
    /// It took too long. What was asked may come into force yet, or is; to be asked again.
    Interrupted,
    /// Too many wait; nothing has changed.
    Busy,
    /// There is no such namespace, or none any more.
    NoNamespace,
}

/// What the owner of a keeper has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<A> {
    /// Store a record, then call [`Keeper::stored`].
    Store {
        /// Of which namespace.
        namespace: Uuid,
        /// To be named in the answer.
        ticket: u64,
        /// The record.
        record: Vec<u8>,
    },
    /// Give every core the new table; each calls back to [`Keeper::core_finished`].
    Distribute {
        /// Of which namespace.
        namespace: Uuid,
        /// To be named in the answer.
        round: u64,
        /// The table.
        table: AccessTable,
        /// Whose commands are to be aborted.
        aborts: Vec<RegistrantId>,
    },
    /// Tell a registrant, unless it does not want to hear of it.
    Notify {
        /// Of which namespace.
        namespace: Uuid,
        /// Whom, and of what.
        notification: Notification,
    },
    /// Answer.
    Answer {
        /// Whom.
        asker: A,
        /// What.
        answer: Answer,
    },
}

/// One that waits for an answer.
#[derive(Debug)]
struct Asker<A> {
    who: A,
    deadline: Nanos,
}

/// How far the command under way is. Its asker is gone once it was answered for taking too long.
#[derive(Debug)]
enum Step<A> {
    Idle,
    Storing {
        ticket: u64,
        next: Box<Reservations>,
        outcome: Outcome,
        asker: Option<Asker<A>>,
    },
    Distributing {
        round: u64,
        unfinished_cores: usize,
        notifications: Vec<Notification>,
        asker: Option<Asker<A>>,
    },
}

#[derive(Debug)]
struct Entry<A> {
    state: Reservations,
    step: Step<A>,
    waiting: VecDeque<(Asker<A>, Request)>,
    /// The last attempt to store failed, and what is on the medium is not known.
    is_record_doubtful: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Keeper<A> {
    namespaces: BTreeMap<Uuid, Entry<A>>,
    /// Records being stored of namespaces that are gone.
    leaving: Vec<u64>,
    actions: VecDeque<Action<A>>,
    cores: usize,
    /// Numbers tickets and rounds: none comes twice, whatever namespaces come and go.
    number: u64,
}

impl<A> Keeper<A> {
    /// One for a target of so many cores.
    pub const fn new(cores: usize) -> Self {
        Self {
            namespaces: BTreeMap::new(),
            leaving: Vec::new(),
            actions: VecDeque::new(),
            cores,
            number: 0,
        }
    }

    /// Serves exactly these namespaces from now on. One that is new starts from the state given,
    /// one that was served already goes on with its own.
    pub fn serve<'a>(&mut self, namespaces: impl Iterator<Item = (Uuid, &'a Reservations)>) {
        let mut before = mem::take(&mut self.namespaces);
        for (namespace, initial) in namespaces {
            let entry = before.remove(&namespace).unwrap_or_else(|| Entry {
                state: initial.clone(),
                step: Step::Idle,
                waiting: VecDeque::new(),
                is_record_doubtful: false,
            });
            self.namespaces.insert(namespace, entry);
        }
        for entry in before.into_values() {
            self.forget(entry);
        }
    }

    /// The state of a namespace; `None` for one that is not served.
    pub fn state(&self, namespace: Uuid) -> Option<&Reservations> {
        self.namespaces.get(&namespace).map(|entry| &entry.state)
    }

    /// Takes a request. Its answer comes as an action, perhaps at once.
    pub fn ask(&mut self, namespace: Uuid, who: A, request: Request, now: Nanos) {
        let Some(entry) = self.namespaces.get_mut(&namespace) else {
            return self.answer(who, Answer::NoNamespace);
        };
        if entry.waiting.len() >= WAITING_MAX {
            return self.answer(who, Answer::Busy);
        }
        let deadline = now + ANSWER_TIMEOUT;
        entry.waiting.push_back((Asker { who, deadline }, request));
        self.go_on(namespace);
    }

    /// A record is on the medium, or could not be put there.
    pub fn stored(&mut self, ticket: u64, result: StoreResult) {
        self.leaving.retain(|leaving| *leaving != ticket);
        let is_of = |entry: &Entry<A>| match &entry.step {
            Step::Storing { ticket: own, .. } => *own == ticket,
            _ => false,
        };
        let found = self.namespaces.iter_mut().find(|(_, entry)| is_of(entry));
        let Some((namespace, entry)) = found else { return };
        let namespace = *namespace;
        let Step::Storing { next, outcome, asker, .. } = mem::replace(&mut entry.step, Step::Idle)
        else {
            unreachable!("just looked at");
        };
        entry.is_record_doubtful = result == StoreResult::Failed;
        match result {
            StoreResult::Stored => self.commit(namespace, *next, outcome, asker),
            StoreResult::Failed => self.answer_one(asker, Answer::NotStored),
        }
        self.go_on(namespace);
    }

    /// A core has finished a round: it has the table, and nothing that it forbids is under way.
    pub fn core_finished(&mut self, namespace: Uuid, round: u64) {
        let Some(entry) = self.namespaces.get_mut(&namespace) else { return };
        match &mut entry.step {
            Step::Distributing { round: own, unfinished_cores, .. } if *own == round => {
                *unfinished_cores =
                    unfinished_cores.checked_sub(1).expect("a core finishes a round once");
                if *unfinished_cores > 0 {
                    return;
                }
            }
            _ => return,
        }
        let Step::Distributing { notifications, asker, .. } =
            mem::replace(&mut entry.step, Step::Idle)
        else {
            unreachable!("just looked at");
        };
        self.finish(namespace, notifications, asker);
        self.go_on(namespace);
    }

    /// Answers those whose time is over.
    pub fn expire(&mut self, now: Nanos) {
        let is_late = |asker: &Asker<A>| asker.deadline <= now;
        let mut late = Vec::new();
        for entry in self.namespaces.values_mut() {
            if let Step::Storing { asker, .. } | Step::Distributing { asker, .. } = &mut entry.step
                && asker.as_ref().is_some_and(is_late)
            {
                late.extend(asker.take());
            }
            // They asked in order, each with the same time to wait.
            while entry.waiting.front().is_some_and(|(asker, _)| is_late(asker)) {
                late.extend(entry.waiting.pop_front().map(|(asker, _)| asker));
            }
        }
        for asker in late {
            self.answer(asker.who, Answer::Interrupted);
        }
    }

    /// True while somebody waits for an answer, so that time passing may change something.
    pub fn is_timed(&self) -> bool {
        self.namespaces.values().any(|entry| !matches!(entry.step, Step::Idle))
    }

    /// True when nothing is being stored for a namespace that is gone: until then its record is not
    /// to be loaded again.
    pub fn is_settled(&self) -> bool {
        self.leaving.is_empty()
    }

    /// What to do next. To be asked until it says `None`, after each call that changes something.
    pub fn next_action(&mut self) -> Option<Action<A>> {
        self.actions.pop_front()
    }

    /// Begins what waits in line, while nothing is under way.
    fn go_on(&mut self, namespace: Uuid) {
        loop {
            let entry = self.namespaces.get_mut(&namespace).expect("the caller has looked it up");
            if !matches!(entry.step, Step::Idle) {
                return;
            }
            let Some((asker, request)) = entry.waiting.pop_front() else { return };
            match request {
                Request::Look => {
                    let state = Box::new(entry.state.clone());
                    self.answer(asker.who, Answer::State(state));
                }
                Request::Change { from, command } => self.change(namespace, asker, &from, command),
            }
        }
    }

    fn change(&mut self, namespace: Uuid, asker: Asker<A>, from: &Registrant, command: Command) {
        let entry = self.namespaces.get_mut(&namespace).expect("the caller has looked it up");
        let mut next = entry.state.clone();
        match next.apply(from, command) {
            Err(refusal) => self.answer(asker.who, Answer::Refused(refusal)),
            Ok(outcome) if outcome.record_changed || entry.is_record_doubtful => {
                self.number += 1;
                let ticket = self.number;
                let record = next.encode();
                let (next, asker) = (Box::new(next), Some(asker));
                entry.step = Step::Storing { ticket, next, outcome, asker };
                self.actions.push_back(Action::Store { namespace, ticket, record });
            }
            Ok(outcome) => self.commit(namespace, next, outcome, Some(asker)),
        }
    }

    /// The new state takes the place of the old one.
    fn commit(
        &mut self,
        namespace: Uuid,
        next: Reservations,
        outcome: Outcome,
        asker: Option<Asker<A>>,
    ) {
        let entry = self.namespaces.get_mut(&namespace).expect("the caller has looked it up");
        entry.state = next;
        let Outcome { notifications, aborts, access_changed, .. } = outcome;
        if !access_changed && aborts.is_empty() {
            return self.finish(namespace, notifications, asker);
        }
        self.number += 1;
        let round = self.number;
        let table = entry.state.access_table();
        let unfinished_cores = self.cores;
        entry.step = Step::Distributing { round, unfinished_cores, notifications, asker };
        self.actions.push_back(Action::Distribute { namespace, round, table, aborts });
    }

    fn finish(
        &mut self,
        namespace: Uuid,
        notifications: Vec<Notification>,
        asker: Option<Asker<A>>,
    ) {
        let notify = |notification| Action::Notify { namespace, notification };
        self.actions.extend(notifications.into_iter().map(notify));
        self.answer_one(asker, Answer::Done);
    }

    fn forget(&mut self, entry: Entry<A>) {
        let asker = match entry.step {
            Step::Idle => None,
            Step::Storing { ticket, asker, .. } => {
                self.leaving.push(ticket);
                asker
            }
            Step::Distributing { asker, .. } => asker,
        };
        self.answer_one(asker, Answer::NoNamespace);
        for (asker, _) in entry.waiting {
            self.answer(asker.who, Answer::NoNamespace);
        }
    }

    fn answer_one(&mut self, asker: Option<Asker<A>>, answer: Answer) {
        if let Some(asker) = asker {
            self.answer(asker.who, answer);
        }
    }

    fn answer(&mut self, asker: A, answer: Answer) {
        self.actions.push_back(Action::Answer { asker, answer });
    }
}

/// How an attempt to store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreResult {
    /// The record is on the medium.
    Stored,
    /// It is not, or not for sure.
    Failed,
}

#[cfg(test)]
mod tests;
