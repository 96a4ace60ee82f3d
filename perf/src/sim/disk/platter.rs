//! The inside of a simulated disk: its I/Os under way, and what goes wrong with them.
//!
//! An I/O begins when the doorbell rings, takes effect some time later, and is answered later
//! still, in any order. What goes wrong with it is drawn when it begins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use bdev::session::{Continuity, Link, Sessions};
use bdev::{IoFlags, Operation, Status};
use reactor::Nanos;
use reactor::random::Random;
use uuid::Uuid;

use super::gate::{Check, Gate, Party, Passage};
use super::image::{Image, IoNumber, Order};
use crate::sim::content::{BLOCK_BYTES, Content, Stamp, stamp_of};
use crate::sim::trace::Trace;

/// Shared between the run and the devices by which the disk is open, all on one thread.
pub type SharedPlatter = Arc<Mutex<Platter>>;

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// From the doorbell to the effect, and from there to the answer, each up to this.
    pub most: Nanos,
    /// How many I/Os take much longer.
    pub slow_chance: f64,
    /// Up to how long.
    pub slow_most: Nanos,
}

/// How often an I/O goes wrong, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A read or compare fails.
    pub read_error: f64,
    /// A write or flush fails, having had no effect, all of it, or a part.
    pub write_error: f64,
    /// A write is refused without effect.
    pub refusal: f64,
    /// It is never answered, whether it has an effect or not.
    pub hang: f64,
}

/// What happened at a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// I/Os that were begun.
    pub begun: u64,
    /// Those that were made to fail.
    pub failed: u64,
    /// Those that were not answered.
    pub hung: u64,
    /// Losses of power.
    pub restarts: u64,
    /// Times that a controller did something wrong.
    pub misbehaved: u64,
}

/// What a queue pair sends: an I/O without its memory, which is the queue pair's affair.
#[derive(Clone, Debug)]
pub struct Command {
    /// By which the queue pair knows it.
    pub name: u64,
    /// What to do.
    pub operation: Operation,
    /// How.
    pub flags: IoFlags,
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub blocks: u32,
    /// What is written, or compared.
    pub data: Vec<u8>,
    /// Where it stands among the completions, if it is a flush.
    pub order: Order,
}

/// The end of a command.
#[derive(Clone, Debug)]
pub struct Answer {
    /// [`Command::name`].
    pub name: u64,
    /// How it ended.
    pub status: Status,
    /// What was read.
    pub data: Vec<u8>,
}

/// Names a queue pair of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueNumber(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Effect,
    Answer,
}

/// What becomes of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    /// Fails without effect.
    Nothing(Status),
    /// Fails, and is done all the same.
    Whole(Status),
    /// Fails, and is done in part.
    Part(Status),
}

#[derive(Debug)]
struct Begun {
    command: Command,
    queue: QueueNumber,
    fate: Fate,
    /// Nothing before it has had its effect.
    result: Option<Answer>,
    hangs: bool,
}

/// An answer that was not fetched yet.
#[derive(Debug)]
struct Finished {
    number: IoNumber,
    changed: std::ops::Range<u64>,
    answer: Answer,
}

/// See the module.
#[derive(Debug)]
pub struct Platter {
    /// Its number among the disks of a run.
    pub number: u64,
    /// Its blocks.
    pub image: Image,
    /// Its blocks that were ever written, by whom.
    pub applied: BTreeSet<(u64, Stamp)>,
    /// What happened.
    pub counts: Counts,
    is_write_through: bool,
    is_healed: bool,
    latency: Latency,
    faults: Faults,
    stalled_until: Nanos,
    now: Nanos,
    random: Random,
    trace: Trace,
    numbers: u64,
    order: u64,
    begun: BTreeMap<IoNumber, Begun>,
    schedule: BTreeSet<(Nanos, IoNumber, Phase)>,
    ended: BTreeMap<QueueNumber, VecDeque<Finished>>,
    parties: BTreeMap<QueueNumber, Party>,
    /// Nothing where only one process at a time has the disk.
    gate: Option<Gate>,
    /// Whose commands and answers are under way until then.
    cuts: BTreeMap<Party, Nanos>,
    /// Of all who have it open as a disk elsewhere, and may still.
    sessions: Vec<Weak<Sessions>>,
}

impl Platter {
    /// A disk of zeroes.
    pub fn new(number: u64, seed: u64, latency: Latency, trace: Trace) -> Platter {
        let random = Random::new(seed.wrapping_mul(31).wrapping_add(number + 1));
        Platter {
            number,
            image: Image::new(),
            applied: BTreeSet::new(),
            counts: Counts::default(),
            is_write_through: false,
            is_healed: false,
            latency,
            faults: Faults::default(),
            stalled_until: Nanos(0),
            now: Nanos(0),
            random,
            trace,
            numbers: 0,
            order: 0,
            begun: BTreeMap::new(),
            schedule: BTreeSet::new(),
            ended: BTreeMap::new(),
            parties: BTreeMap::new(),
            gate: None,
            cuts: BTreeMap::new(),
            sessions: Vec::new(),
        }
    }

    /// Several processes may have it open.
    pub fn set_gate(&mut self, check: Check) {
        self.gate = Some(Gate::new(check));
    }

    /// Another process has it open as a disk elsewhere.
    pub(super) fn meet(&mut self) -> Arc<Sessions> {
        let sessions = Arc::new(Sessions::new());
        sessions.name_run(Some(self.run()));
        sessions.begin(Continuity::Kept, Link::Live);
        self.sessions.retain(|known| known.strong_count() > 0);
        self.sessions.push(Arc::downgrade(&sessions));
        sessions
    }

    /// Names this run of it.
    fn run(&self) -> Uuid {
        Uuid::from_u64_pair(self.number + 1, self.counts.restarts + 1)
    }

    /// What a process sends and is to hear is under way until then.
    pub fn cut(&mut self, party: Party, until: Nanos) {
        self.trace.note("disk is cut off", [self.number, party.0, until.0]);
        self.cuts.insert(party, until);
    }

    /// Without a volatile cache.
    pub fn set_write_through(&mut self) {
        self.is_write_through = true;
    }

    /// True when a loss of power may undo what was not flushed.
    pub fn has_volatile_cache(&self) -> bool {
        !self.is_write_through
    }

    /// What goes wrong from now on, and how long things take.
    pub fn set_faults(&mut self, faults: Faults, latency: Latency) {
        self.faults = faults;
        self.latency = latency;
    }

    /// Nothing has an effect or is answered for so long.
    pub fn stall(&mut self, until: Nanos) {
        self.trace.note("disk stalls", [self.number, until.0, 0]);
        self.stalled_until = until;
    }

    /// Nothing goes wrong any more, and what hung goes on.
    pub fn heal(&mut self) {
        self.is_healed = true;
        self.faults = Faults::default();
        self.latency.slow_chance = 0.0;
        self.stalled_until = Nanos(0);
        self.cuts.clear();
        for (_, number, phase) in std::mem::take(&mut self.schedule) {
            let at = self.later();
            self.schedule.insert((at, number, phase));
        }
        let hung = self.begun.iter().filter(|(_, begun)| begun.hangs);
        let hung: Vec<IoNumber> = hung.map(|(number, _)| *number).collect();
        for number in hung {
            let begun = self.begun.get_mut(&number).expect("it was just there");
            begun.hangs = false;
            if begun.result.is_some() {
                let at = self.later();
                self.schedule.insert((at, number, Phase::Answer));
            }
        }
    }

    fn later(&mut self) -> Nanos {
        let slow = self.random.chance(self.latency.slow_chance);
        let most = if slow { self.latency.slow_most } else { self.latency.most };
        self.now + Nanos(self.random.below(most.0.max(1)))
    }

    /// True once nothing is to go wrong any more.
    pub(super) fn is_healed(&self) -> bool {
        self.is_healed
    }

    /// The controller before the disk is about to do something wrong.
    pub(super) fn note_misbehaviour(&mut self, kind: u64) {
        self.counts.misbehaved += 1;
        self.trace.note("drive misbehaves", [self.number, kind, 0]);
    }

    /// Of this I/O of a queue pair nobody hears any more. If it has not had its effect, it has it
    /// now or never.
    pub(super) fn abandon(&mut self, queue: QueueNumber, name: u64) {
        let own =
            self.begun.iter().find(|(_, begun)| begun.queue == queue && begun.command.name == name);
        if let Some(number) = own.map(|(number, _)| *number) {
            if self.begun[&number].result.is_none() && self.random.chance(0.5) {
                self.take_effect(number);
            }
            self.begun.remove(&number);
            self.schedule.retain(|(_, other, _)| *other != number);
        }
        if let Some(ended) = self.ended.get_mut(&queue) {
            ended.retain(|finished| finished.answer.name != name);
        }
    }

    /// A queue pair is opened.
    pub(super) fn open(&mut self, party: Party) -> QueueNumber {
        self.numbers += 1;
        let queue = QueueNumber(self.numbers);
        self.parties.insert(queue, party);
        self.ended.insert(queue, VecDeque::new());
        queue
    }

    /// A queue pair is closed: of what it had under way nobody hears any more. What has not had its
    /// effect has it now or never.
    pub(super) fn close(&mut self, queue: QueueNumber) {
        for number in self.of_queue(queue) {
            if self.begun[&number].result.is_none() && self.random.chance(0.5) {
                self.take_effect(number);
            }
            self.begun.remove(&number);
        }
        self.schedule.retain(|(_, number, _)| self.begun.contains_key(number));
        self.ended.remove(&queue);
        self.parties.remove(&queue);
    }

    fn of_queue(&self, queue: QueueNumber) -> Vec<IoNumber> {
        let own = self.begun.iter().filter(|(_, begun)| begun.queue == queue);
        own.map(|(number, _)| *number).collect()
    }

    /// Where a flush that is submitted now stands among the completions.
    pub(super) fn order(&self) -> Order {
        Order(self.order)
    }

    /// An I/O begins.
    pub(super) fn begin(&mut self, command: Command, queue: QueueNumber) {
        self.numbers += 1;
        self.counts.begun += 1;
        let number = IoNumber(self.numbers);
        let (fate, hangs) = self.draw_fate(command.operation);
        self.counts.failed += u64::from(fate != Fate::Good);
        self.counts.hung += u64::from(hangs);
        self.begun.insert(number, Begun { command, queue, fate, result: None, hangs });
        let at = self.later();
        self.schedule.insert((at, number, Phase::Effect));
    }

    fn draw_fate(&mut self, operation: Operation) -> (Fate, bool) {
        let Faults { read_error, write_error, refusal, hang } = self.faults;
        let hangs = self.random.chance(hang);
        let changes = operation.changes_blocks();
        let asks = matches!(operation, Operation::Read | Operation::Compare | Operation::Verify);
        let draw = self.random.below(3);
        let fate = if asks && self.random.chance(read_error) {
            Fate::Nothing(Status::UNRECOVERED_READ_ERROR)
        } else if changes && self.random.chance(refusal) {
            Fate::Nothing(Status::CAPACITY_EXCEEDED)
        } else if !asks && self.random.chance(write_error) {
            match draw {
                0 => Fate::Nothing(Status::WRITE_FAULT),
                1 => Fate::Whole(Status::INTERNAL_PATH_ERROR),
                _ => Fate::Part(Status::WRITE_FAULT),
            }
        } else {
            Fate::Good
        };
        (fate, hangs)
    }

    /// Does what is due at `now`.
    pub fn advance(&mut self, now: Nanos) {
        self.now = now;
        while let Some(&(at, number, phase)) = self.schedule.first().filter(|next| next.0 <= now) {
            self.schedule.remove(&(at, number, phase));
            let until = self.stopped_until(number);
            if now < until {
                let again = until + Nanos(self.random.below(self.latency.most.0 + 1));
                self.schedule.insert((again, number, phase));
                continue;
            }
            match phase {
                Phase::Effect => {
                    self.take_effect(number);
                    if !self.begun[&number].hangs {
                        let at = self.later();
                        self.schedule.insert((at, number, Phase::Answer));
                    }
                }
                Phase::Answer => self.answer(number),
            }
        }
    }

    fn stopped_until(&self, number: IoNumber) -> Nanos {
        let cut = || self.cuts.get(&self.parties[&self.begun[&number].queue]).copied();
        match self.cuts.is_empty() {
            true => self.stalled_until,
            false => cut().unwrap_or_default().max(self.stalled_until),
        }
    }

    /// When something is next due.
    pub fn next_event(&self) -> Option<Nanos> {
        self.schedule.first().map(|(at, ..)| *at)
    }

    fn answer(&mut self, number: IoNumber) {
        let Some(begun) = self.begun.remove(&number) else { return };
        let answer = begun.result.expect("an answer follows the effect");
        let Command { operation, start, blocks, .. } = begun.command;
        let is_change = answer.status.is_success() && operation.changes_blocks();
        let changed = if is_change { start..start + u64::from(blocks) } else { 0..0 };
        let ended = self.ended.get_mut(&begun.queue).expect("its queue pair is open");
        ended.push_back(Finished { number, changed, answer });
    }

    fn take_effect(&mut self, number: IoNumber) {
        let mut begun = self.begun.remove(&number).expect("it was begun");
        let mut data = Vec::new();
        let command = &begun.command;
        if self.is_barred(command, begun.queue) {
            begun.fate = Fate::Nothing(Status::RESERVATION_CONFLICT);
        }
        let status = match begun.fate {
            Fate::Good => self.perform(number, command, 1.0, &mut data),
            Fate::Nothing(status) => status,
            Fate::Whole(status) => {
                self.perform(number, command, 1.0, &mut data);
                status
            }
            Fate::Part(status) => {
                let share = if command.operation == Operation::Flush { 0.0 } else { 0.5 };
                self.perform(number, command, share, &mut data);
                status
            }
        };
        let place = command.start << 16 | u64::from(command.blocks);
        let what = u64::from(command.operation as u8) << 32 | u64::from(status.code());
        self.trace.note("disk effect", [self.number, place, what]);
        begun.result = Some(Answer { name: command.name, status, data });
        self.begun.insert(number, begun);
    }

    /// Whether somebody else has the disk. Who takes it ends what others have under way.
    fn is_barred(&mut self, command: &Command, queue: QueueNumber) -> bool {
        let Some(gate) = &mut self.gate else { return false };
        let party = self.parties[&queue];
        let passage = gate.pass(party, command.operation, command.start);
        match passage {
            Passage::Free => {}
            Passage::Barred => {
                self.trace.note("disk bars", [self.number, party.0, command.start]);
            }
            Passage::Claim => {
                self.trace.note("disk is claimed", [self.number, party.0, 0]);
                let (gate, parties) = (&*gate, &self.parties);
                let others =
                    self.begun.values_mut().filter(|other| gate.bars(parties[&other.queue]));
                for other in others.filter(|other| other.result.is_none()) {
                    other.fate = Fate::Nothing(Status::RESERVATION_CONFLICT);
                }
            }
        }
        passage == Passage::Barred
    }

    /// Does an I/O, to each block with this chance.
    fn perform(
        &mut self,
        number: IoNumber,
        command: &Command,
        share: f64,
        data: &mut Vec<u8>,
    ) -> Status {
        match command.operation {
            Operation::Read => {
                for (block, _) in command.each_block() {
                    data.extend_from_slice(self.image.read(block));
                }
            }
            Operation::Write | Operation::WriteZeroes | Operation::Unmap => {
                let is_durable = self.is_write_through || command.flags.contains(IoFlags::FUA);
                for (block, content) in command.each_block() {
                    if share < 1.0 && !self.random.chance(share) {
                        continue;
                    }
                    self.note_applied(block, &content);
                    match is_durable {
                        true => self.image.write_through(block, content),
                        false => self.image.write(block, content, number),
                    }
                }
            }
            Operation::Verify => {}
            Operation::Flush if share < 1.0 => {}
            Operation::Flush => self.image.flush(command.order, &mut self.random),
            Operation::Compare => {
                let is_equal = |(block, content)| *self.image.read(block) == content;
                if !command.each_block().all(is_equal) {
                    return Status::COMPARE_FAILURE;
                }
            }
            Operation::CompareAndWrite => return Status::INVALID_OPCODE,
        }
        Status::SUCCESS
    }

    fn note_applied(&mut self, block: u64, content: &Content) {
        if let Some(stamp) = stamp_of(content) {
            self.applied.insert((block, stamp));
        }
    }

    /// What has ended for a queue pair, oldest first.
    pub(super) fn take_ended(&mut self, queue: QueueNumber) -> Option<Answer> {
        let Finished { number, changed, answer } = self.ended.get_mut(&queue)?.pop_front()?;
        self.order += 1;
        self.image.done(changed, number, Order(self.order));
        Some(answer)
    }

    pub(super) fn has_ended(&self, queue: QueueNumber) -> bool {
        self.ended.get(&queue).is_some_and(|ended| !ended.is_empty())
    }

    /// When something of a queue pair is next due.
    pub(super) fn due(&self, queue: QueueNumber) -> Option<Nanos> {
        let own = |(_, number, _): &&(Nanos, IoNumber, Phase)| {
            self.begun.get(number).is_some_and(|begun| begun.queue == queue)
        };
        self.schedule.iter().find(own).map(|(at, ..)| *at)
    }

    /// What a queue pair has under way ends soon: with success if it was done, aborted otherwise.
    pub(super) fn abort(&mut self, queue: QueueNumber) {
        for number in self.of_queue(queue) {
            let begun = self.begun.get_mut(&number).expect("it was just there");
            begun.hangs = false;
            if begun.result.is_none() && self.random.chance(0.5) {
                begun.fate = Fate::Nothing(Status::ABORT_REQUESTED);
                self.take_effect(number);
            } else if begun.result.is_none() {
                self.take_effect(number);
            }
            self.schedule.retain(|(_, other, _)| *other != number);
            let at = self.later();
            self.schedule.insert((at, number, Phase::Answer));
        }
    }

    /// Power is lost and comes back: what was not flushed may be gone, what was under way fails.
    pub fn lose_power(&mut self) {
        let under_way: Vec<IoNumber> = self.begun.keys().copied().collect();
        for number in under_way {
            let begun = self.begun.get_mut(&number).expect("it was just there");
            begun.hangs = false;
            if begun.result.is_none() {
                let status = Status::INTERNAL_PATH_ERROR;
                begun.fate = if begun.command.operation.changes_blocks() && self.random.chance(0.5)
                {
                    Fate::Part(status)
                } else {
                    Fate::Nothing(status)
                };
                self.take_effect(number);
            }
            // Nobody hears of what was done at the last moment.
            let begun = self.begun.get_mut(&number).expect("it was just there");
            let (name, status) = (begun.command.name, Status::INTERNAL_PATH_ERROR);
            begun.result = Some(Answer { name, status, data: Vec::new() });
            self.schedule.retain(|(_, other, _)| *other != number);
            let at = self.later();
            self.schedule.insert((at, number, Phase::Answer));
        }
        let lost = self.image.lose_power(&mut self.random);
        self.counts.restarts += 1;
        let run = self.run();
        for sessions in self.sessions.iter().filter_map(Weak::upgrade) {
            sessions.name_run(Some(run));
            sessions.begin(Continuity::Restarted, Link::Live);
        }
        self.trace.note("disk loses power", [self.number, lost, 0]);
    }

    /// I/Os under way, or ended and not fetched.
    pub fn inflight(&self) -> usize {
        self.begun.len() + self.ended.values().map(VecDeque::len).sum::<usize>()
    }
}

impl Command {
    /// Its blocks, each with what is written to it or compared with it; zeroes where there is
    /// nothing.
    fn each_block(&self) -> impl Iterator<Item = (u64, Content)> {
        let content = |at: usize| {
            let bytes = self.data.get(at..at + BLOCK_BYTES as usize);
            let zeroes = [0; BLOCK_BYTES as usize];
            bytes.map_or(zeroes, |bytes| bytes.try_into().expect("a block's worth"))
        };
        let offsets = (0..).step_by(BLOCK_BYTES as usize);
        let range = self.start..self.start + u64::from(self.blocks);
        range.zip(offsets).map(move |(block, at)| (block, content(at)))
    }
}
