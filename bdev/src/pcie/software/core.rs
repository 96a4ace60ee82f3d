//! Registers and queues of a software controller, and what a step does.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use reactor::random::Random;
use zerocopy::{FromZeros, IntoBytes};

use super::faults::Fault;
use super::host::{Host, Unmapped};
use super::medium::Medium;
use super::{Config, Order};
use crate::nvme::command::{SUBMISSION_ENTRY_BYTES, SubmissionEntry};
use crate::nvme::completion::COMPLETION_ENTRY_BYTES;
use crate::nvme::log_page::AnaState;
use crate::nvme::register::{
    ADMIN_COMPLETION_QUEUE_OFFSET, ADMIN_QUEUE_ATTRIBUTES_OFFSET, ADMIN_SUBMISSION_QUEUE_OFFSET,
    CAPABILITIES_OFFSET, CONFIGURATION_OFFSET, Capabilities, Configuration, ControllerStatus,
    DOORBELL_OFFSET, STATUS_OFFSET, ShutdownRequest, ShutdownStatus, VERSION_OFFSET, Version,
};
use crate::nvme::status::Status;
use crate::reservation::{Persistence, Reservations};

/// Length of the BAR: registers, and doorbells of 512 queues.
pub(super) const BAR_BYTES: u32 = 0x2000;
/// Time that the controller says it needs to become ready.
const READY_TIMEOUT_MS: u32 = 2_000;
/// Violations that are kept.
const VIOLATIONS_MAX: usize = 16;

/// What a controller did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// I/O commands that were fetched.
    pub fetched: u64,
    /// I/O commands that were completed.
    pub completed: u64,
    /// Flushes among them.
    pub flushes: u64,
    /// Writes that had to be durable among them.
    pub forced: u64,
    /// Verifies among them.
    pub verifies: u64,
    /// Dataset Management among them.
    pub hints: u64,
    /// Resets: CC.EN taken away.
    pub resets: u64,
    /// Commands that were aborted by a command.
    pub aborted: u64,
    /// Orderly shutdowns.
    pub shutdowns: u64,
    /// Interrupts that somebody was told of.
    pub interrupts: u64,
}

#[derive(Debug)]
pub(super) struct SubmissionQueue {
    pub(super) address: u64,
    pub(super) entries: u16,
    pub(super) head: u16,
    pub(super) completion_queue: u16,
}

#[derive(Debug)]
pub(super) struct CompletionQueue {
    pub(super) address: u64,
    pub(super) entries: u16,
    pub(super) tail: u16,
    pub(super) phase: bool,
    pub(super) vector: Option<u16>,
}

/// A command that was fetched and has not ended.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) queue: u16,
    pub(super) entry: SubmissionEntry,
    pub(super) fault: Option<Fault>,
}

/// An end that was not posted yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) queue: u16,
    pub(super) command_id: u16,
    pub(super) status: Status,
    pub(super) result: u32,
    pub(super) fault: Option<Fault>,
}

/// An interrupt vector.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Vector {
    pub(super) eventfd: Option<RawFd>,
    pub(super) pending: bool,
}

/// A namespace and its blocks.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) config: super::NamespaceConfig,
    pub(super) data: Vec<u8>,
}

/// Flips bits of what the controller writes.
#[derive(Debug)]
pub(super) struct Mutator {
    pub(super) random: Random,
    pub(super) probability: f64,
}

/// The controller, under the platform's lock.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) registers: Arc<[AtomicU32]>,
    pub(super) host: Host,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) vectors: Vec<Vector>,
    pub(super) submission: BTreeMap<u16, SubmissionQueue>,
    pub(super) completion: BTreeMap<u16, CompletionQueue>,
    pub(super) commands: Vec<Command>,
    pub(super) ended: VecDeque<Ended>,
    /// Keeps the blocks, where the controller does not.
    pub(super) medium: Option<Box<dyn Medium>>,
    /// What the medium has, by its names.
    pub(super) at_medium: BTreeMap<u64, Command>,
    pub(super) names: u64,
    pub(super) event_requests: Vec<u16>,
    pub(super) events: VecDeque<u32>,
    pub(super) critical_warning: u8,
    /// Of its first namespace, and who the driver's host says it is.
    pub(super) reservations: Reservations,
    pub(super) host_id: [u8; 16],
    /// State of each ANA group; none where it does not report them.
    pub(super) access: Vec<(u32, AnaState)>,
    pub(super) shadow: Option<[u64; 2]>,
    pub(super) faults: VecDeque<Fault>,
    pub(super) mutator: Option<Mutator>,
    pub(super) violations: Vec<String>,
    pub(super) counts: Counts,
    random: Option<Random>,
    ready_in: Option<u32>,
    gone: bool,
    /// Not ready by itself, until it is disabled.
    fallen: bool,
    never_ready: bool,
    never_disabled: bool,
}

/// Tells one who waits of an interrupt.
pub(super) fn fire(eventfd: RawFd) {
    super::platform::write_eventfd(eventfd);
}

impl Core {
    pub(super) fn new(config: Config, medium: Option<Box<dyn Medium>>) -> Core {
        let count = BAR_BYTES as usize / 4;
        let registers: Arc<[AtomicU32]> = (0..count).map(|_| AtomicU32::new(0)).collect();
        let data = |one: &super::NamespaceConfig| {
            let bytes = usize::try_from(one.blocks).expect("small") * one.block_bytes as usize;
            let bytes = if medium.is_some() { 0 } else { bytes };
            Namespace { config: *one, data: vec![0; bytes] }
        };
        let core = Core {
            namespaces: config.namespaces.iter().map(data).collect(),
            vectors: vec![Vector::default(); usize::from(config.vectors)],
            random: match config.order {
                Order::Arrival => None,
                Order::Shuffled(seed) => Some(Random::new(seed)),
            },
            access: config.access.clone(),
            config,
            registers,
            host: Host::default(),
            submission: BTreeMap::new(),
            completion: BTreeMap::new(),
            commands: Vec::new(),
            ended: VecDeque::new(),
            medium,
            at_medium: BTreeMap::new(),
            names: 0,
            event_requests: Vec::new(),
            events: VecDeque::new(),
            critical_warning: 0,
            reservations: Reservations::new(Persistence::Off),
            host_id: [0; 16],
            shadow: None,
            faults: VecDeque::new(),
            mutator: None,
            violations: Vec::new(),
            counts: Counts::default(),
            ready_in: None,
            gone: false,
            fallen: false,
            never_ready: false,
            never_disabled: false,
        };
        core.set_constant_registers();
        core
    }

    fn set_constant_registers(&self) {
        let last = self.config.queue_entries_max - 1;
        let capabilities = Capabilities::for_fabrics(last, READY_TIMEOUT_MS);
        self.set64(CAPABILITIES_OFFSET, capabilities.0);
        self.set(VERSION_OFFSET, Version::V2_0.0);
    }

    pub(super) fn get(&self, offset: u32) -> u32 {
        // Acquire, partner: the driver's volatile store after its barrier.
        u32::from_le(self.registers[offset as usize / 4].load(Ordering::Acquire))
    }

    fn get64(&self, offset: u32) -> u64 {
        u64::from(self.get(offset)) | u64::from(self.get(offset + 4)) << 32
    }

    fn set(&self, offset: u32, value: u32) {
        // Release, partner: the driver's read of a status after which it looks at memory.
        self.registers[offset as usize / 4].store(value.to_le(), Ordering::Release);
    }

    fn set64(&self, offset: u32, value: u64) {
        self.set(offset, (value & u64::from(u32::MAX)) as u32);
        self.set(offset + 4, (value >> 32) as u32);
    }

    fn status(&self) -> ControllerStatus {
        ControllerStatus(self.get(STATUS_OFFSET))
    }

    /// The driver broke the protocol.
    pub(super) fn violation(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// Something that goes wrong at once, or with the next command.
    pub(super) fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Gone => {
                self.gone = true;
                self.abandon(None);
                for register in self.registers.iter() {
                    register.store(u32::MAX, Ordering::Release);
                }
            }
            Fault::Fatal => {
                let status = self.status().with_fatal();
                self.set(STATUS_OFFSET, status.0);
            }
            Fault::NotReady => {
                self.fallen = true;
                self.set(STATUS_OFFSET, 0);
            }
            Fault::NeverReady => self.never_ready = true,
            Fault::NeverDisabled => self.never_disabled = true,
            other => self.faults.push_back(other),
        }
    }

    /// A reset of the function.
    pub(super) fn function_reset(&mut self) {
        if self.gone {
            return;
        }
        self.never_disabled = false;
        self.stop();
        self.set(CONFIGURATION_OFFSET, 0);
        self.set(STATUS_OFFSET, 0);
    }

    fn stop(&mut self) {
        self.submission.clear();
        self.completion.clear();
        self.commands.clear();
        self.abandon(None);
        self.ended.clear();
        self.event_requests.clear();
        self.shadow = None;
        self.host_id = [0; 16];
        self.ready_in = None;
        self.fallen = false;
        for offset in (DOORBELL_OFFSET..BAR_BYTES).step_by(4) {
            self.set(offset, 0);
        }
    }

    /// Looks at the registers and does what is to be done; true when there was something.
    pub(super) fn step(&mut self) -> bool {
        if self.gone {
            return false;
        }
        let configuration = Configuration(self.get(CONFIGURATION_OFFSET));
        let status = self.status();
        if !configuration.is_enabled() {
            if (status.is_ready() || self.ready_in.is_some()) && !self.never_disabled {
                self.counts.resets += 1;
                self.stop();
                self.set(STATUS_OFFSET, 0);
                return true;
            }
            if status.is_fatal() && !self.never_disabled {
                self.set(STATUS_OFFSET, 0);
            }
            return false;
        }
        if status.is_fatal() {
            return false;
        }
        if !status.is_ready() {
            return self.become_ready();
        }
        if configuration.shutdown() != ShutdownRequest::None {
            if status.shutdown() != ShutdownStatus::Complete {
                self.counts.shutdowns += 1;
                self.set(STATUS_OFFSET, status.with_shutdown(ShutdownStatus::Complete).0);
            }
            return false;
        }
        self.work()
    }

    fn become_ready(&mut self) -> bool {
        if self.never_ready || self.fallen {
            return false;
        }
        let left = *self.ready_in.get_or_insert(self.config.ready_steps);
        if left > 0 {
            self.ready_in = Some(left - 1);
            return true;
        }
        let attributes = self.get(ADMIN_QUEUE_ATTRIBUTES_OFFSET);
        let entries = |value: u32| (value & 0xfff) as u16 + 1;
        let address = self.get64(ADMIN_SUBMISSION_QUEUE_OFFSET);
        let queue =
            SubmissionQueue { address, entries: entries(attributes), head: 0, completion_queue: 0 };
        self.submission.insert(0, queue);
        let queue = CompletionQueue {
            address: self.get64(ADMIN_COMPLETION_QUEUE_OFFSET),
            entries: entries(attributes >> 16),
            tail: 0,
            phase: true,
            vector: Some(0),
        };
        self.completion.insert(0, queue);
        self.set(STATUS_OFFSET, ControllerStatus::default().with_ready().0);
        true
    }

    fn work(&mut self) -> bool {
        let mut busy = false;
        let queues: Vec<u16> = self.submission.keys().copied().collect();
        for queue in queues {
            busy |= self.fetch(queue);
        }
        busy |= self.execute();
        busy |= self.take_from_medium();
        self.tell_events();
        busy | self.post()
    }

    /// The doorbell with this index, from the register or from memory.
    fn doorbell(&mut self, index: u32) -> u32 {
        match self.shadow {
            Some([doorbells, answers]) if index >= 2 => {
                let offset = u64::from(index) * 4;
                let value = self.host.read32(doorbells + offset).unwrap_or(0);
                // "Ring me when you pass this": what was just seen.
                let _ = self.host.publish32(answers + offset, value);
                // SeqCst, partner: the driver's, between its doorbell and its look at the answer.
                fence(Ordering::SeqCst);
                self.host.read32(doorbells + offset).unwrap_or(0)
            }
            _ => self.get(DOORBELL_OFFSET + index * 4),
        }
    }

    fn fetch(&mut self, queue: u16) -> bool {
        let tail = self.doorbell(2 * u32::from(queue));
        let Some(submission) = self.submission.get(&queue) else { return false };
        let (address, entries, mut head) =
            (submission.address, submission.entries, submission.head);
        if tail >= u32::from(entries) {
            self.violation(format!("tail {tail} of queue {queue} with {entries} entries"));
            return false;
        }
        let mut busy = false;
        while u32::from(head) != tail {
            let mut entry = SubmissionEntry::new_zeroed();
            let at = address + u64::from(head) * SUBMISSION_ENTRY_BYTES as u64;
            if self.host.read(at, entry.as_mut_bytes()).is_err() {
                self.violation(format!("queue {queue} is not mapped"));
                return busy;
            }
            head = if head + 1 == entries { 0 } else { head + 1 };
            busy = true;
            let id = entry.command_id.get();
            if self
                .commands
                .iter()
                .any(|one| one.queue == queue && one.entry.command_id.get() == id)
            {
                self.violation(format!("command {id:#x} of queue {queue} twice"));
            }
            let fault = if queue == 0 { None } else { self.faults.pop_front() };
            self.counts.fetched += u64::from(queue != 0);
            self.commands.push(Command { queue, entry, fault });
        }
        if let Some(submission) = self.submission.get_mut(&queue) {
            submission.head = head;
        }
        busy
    }

    /// Executes fetched commands: all of them, or some by chance.
    fn execute(&mut self) -> bool {
        let commands = std::mem::take(&mut self.commands);
        let mut busy = false;
        let mut kept = Vec::new();
        for command in commands {
            let stuck = matches!(command.fault, Some(Fault::Stuck | Fault::StuckForGood));
            let later =
                command.queue != 0 && self.random.as_mut().is_some_and(|random| random.chance(0.5));
            if stuck || later {
                kept.push(command);
                continue;
            }
            busy = true;
            if command.queue == 0 {
                // It may abort what was kept, or take its queue away.
                self.commands.append(&mut kept);
                self.execute_admin(&command);
                kept = std::mem::take(&mut self.commands);
            } else {
                self.execute_io(&command);
            }
        }
        self.commands = kept;
        if self.random.as_mut().is_some_and(|random| random.chance(0.5)) {
            self.ended.make_contiguous().reverse();
        }
        busy
    }

    fn execute_io(&mut self, command: &Command) {
        let ended = match command.fault {
            Some(Fault::Status(status)) => (status, 0),
            _ if let Some(done) = self.reserve(&command.entry) => match done {
                Ok(()) => (Status::SUCCESS, 0),
                Err(status) => (status, 0),
            },
            _ if self.medium.is_some() => return self.begin_at_medium(command),
            fault => {
                let done = self.io(&command.entry);
                match fault {
                    Some(Fault::DoneButStatus(status)) => (status, 0),
                    _ => done,
                }
            }
        };
        self.end(command, ended.0, ended.1);
    }

    pub(super) fn end(&mut self, command: &Command, status: Status, result: u32) {
        self.ended.push_back(Ended {
            queue: command.queue,
            command_id: command.entry.command_id.get(),
            status,
            result,
            fault: command.fault,
        });
    }

    fn tell_events(&mut self) {
        while let (Some(result), Some(command_id)) =
            (self.events.front().copied(), self.event_requests.last().copied())
        {
            self.events.pop_front();
            self.event_requests.pop();
            let status = Status::SUCCESS;
            self.ended.push_back(Ended { queue: 0, command_id, status, result, fault: None });
        }
    }

    /// Writes completions, as far as there is room in their queues.
    fn post(&mut self) -> bool {
        let mut kept = VecDeque::new();
        let mut busy = false;
        while let Some(ended) = self.ended.pop_front() {
            if let Some(Fault::UnknownId(command_id)) = ended.fault {
                self.post_one(Ended { command_id, fault: None, ..ended });
            }
            if !self.post_one(ended) {
                kept.push_back(ended);
                continue;
            }
            if ended.fault == Some(Fault::Twice) {
                self.post_one(Ended { fault: None, ..ended });
            }
            busy = true;
        }
        self.ended = kept;
        busy
    }

    fn post_one(&mut self, ended: Ended) -> bool {
        let Some(submission) = self.submission.get(&ended.queue) else { return true };
        let (head, number) = (submission.head, submission.completion_queue);
        let released = self.doorbell(2 * u32::from(number) + 1);
        let Some(queue) = self.completion.get_mut(&number) else { return true };
        let (entries, vector) = (queue.entries, queue.vector);
        if released >= u32::from(entries) {
            self.violation(format!("head {released} of queue {number} with {entries} entries"));
            return false;
        }
        let next = if queue.tail + 1 == entries { 0 } else { queue.tail + 1 };
        if u32::from(next) == released {
            return false;
        }
        let phase = queue.phase != (ended.fault == Some(Fault::WrongPhase));
        let address = queue.address + u64::from(queue.tail) * COMPLETION_ENTRY_BYTES as u64;
        queue.tail = next;
        if next == 0 {
            queue.phase = !queue.phase;
        }
        let dwords = [
            ended.result,
            0,
            u32::from(head) | u32::from(ended.queue) << 16,
            u32::from(ended.command_id) | u32::from(ended.status.to_wire(phase)) << 16,
        ];
        if self.write_completion(address, dwords).is_err() {
            self.violation(format!("completion queue {number} is not mapped"));
        }
        if ended.queue != 0 {
            self.counts.completed += 1;
        }
        self.interrupt(vector);
        true
    }

    fn write_completion(&mut self, address: u64, mut dwords: [u32; 4]) -> Result<(), Unmapped> {
        if let Some(Mutator { random, probability }) = &mut self.mutator
            && random.chance(*probability)
        {
            for _ in 0..1 + random.below(3) {
                let (dword, bit) = (random.below(4) as usize, random.below(32));
                dwords[dword] ^= 1 << bit;
            }
        }
        for (index, dword) in dwords.into_iter().enumerate() {
            self.host.publish32(address + index as u64 * 4, dword)?;
        }
        Ok(())
    }

    /// A queue that is gone has no doorbell that was rung.
    pub(super) fn clear_doorbell(&mut self, index: u32) {
        self.set(DOORBELL_OFFSET + index * 4, 0);
        if let Some([doorbells, answers]) = self.shadow {
            let _ = self.host.publish32(doorbells + u64::from(index) * 4, 0);
            let _ = self.host.publish32(answers + u64::from(index) * 4, 0);
        }
    }

    fn interrupt(&mut self, vector: Option<u16>) {
        let Some(vector) = vector.and_then(|vector| self.vectors.get_mut(usize::from(vector)))
        else {
            return;
        };
        match vector.eventfd {
            Some(eventfd) => {
                self.counts.interrupts += 1;
                fire(eventfd);
            }
            None => vector.pending = true,
        }
    }
}
