//! One core's queue pair on one namespace.
//!
//! `submit` writes the entry, `flush` rings the doorbell, `poll` takes completions: nothing here
//! allocates, locks or calls the system but `arm`, the first poll after a sleep, and a wish to the
//! supervisor when an I/O is late. An I/O is in one of three places: in line (no command free, no
//! bounce buffer, or the controller halted), in the device, or ended and to be handed up.
//!
//! A command identifier is a slot and that slot's generation, so a completion that is late, or
//! comes twice, names nothing and is taken for what it is: a device that cannot be trusted with
//! its queue, which is then not looked at until the controller was reset.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use reactor::socket::readiness::DESCRIPTOR_KEY;
use reactor::{Cx, Nanos, Wake};

use super::controller::Controller;
use super::encode;
use super::identity::Namespace;
use super::layout;
use super::options::{RETRIES_MAX, Recovery, TRANSFER_BYTES_MAX};
use super::platform::Notify;
use super::port::{Owner, Phase, Port, Shared, State, Wish};
use super::prp;
use super::regions::Table;
use super::ring::{Entry, Position, Ring};
use crate::device::Limits;
use crate::io::{Completion, Completions, Io, Memory, Operation};
use crate::legality;
use crate::nvme::status::Status;
use crate::queue_pair::{Busy, QueuePair};

/// Bits of a command identifier that are its slot.
const SLOT_BITS: u32 = 10;
const SLOT_MASK: u16 = (1 << SLOT_BITS) - 1;
/// Generations of a slot; the last is left out, so that no identifier is ffffh.
const GENERATIONS: u16 = (1 << (16 - SLOT_BITS)) - 1;
const _: () = assert!(super::options::QUEUE_ENTRIES <= 1 << SLOT_BITS);

/// No bounce buffer.
const NO_BOUNCE: u8 = u8::MAX;

/// How soon a wish is repeated that the supervisor had no room for.
const WISH_AGAIN: Nanos = Nanos::from_millis(10);

/// What an I/O ends with when its controller is gone.
pub const GONE: Status = Status::INTERNAL_PATH_ERROR;
/// What an I/O ends with when a reset took it and it is not to be sent again.
pub const RESET: Status = Status::CONTROLLER_PATHING_ERROR;

/// How far the ending of a late command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lateness {
    OnTime,
    /// Its abort was wished for.
    Aborting,
}

/// Whether the layer above still wants an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Kept,
    /// It asked for its end.
    Aborted,
}

/// A slot.
#[derive(Debug)]
struct Command {
    /// Of the I/O in the device; none when the slot is free.
    io: Option<Io>,
    deadline: Nanos,
    generation: u16,
    bounce: u8,
    retries: u8,
    lateness: Lateness,
    want: Want,
}

/// An I/O that was taken back from the device.
#[derive(Debug)]
struct Recalled {
    io: Io,
    retries: u8,
    lateness: Lateness,
    want: Want,
}

/// An I/O that waits for its turn.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    io: Io,
    retries: u8,
}

/// Who tells the core of completions while it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// The port's eventfd, in the core's epoll set; the vector is without it while polling.
    Polling,
    /// The port's eventfd, which the vector has now.
    Armed,
    /// Nobody.
    Nobody,
}

/// What a queue pair counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// I/Os that the device completed.
    pub completed: u64,
    /// Times that the eventfd fired while the core polled.
    pub interrupts_while_polling: u64,
    /// Times that the core was about to sleep and gave the vector its eventfd.
    pub arms: u64,
    /// I/Os that went through a bounce buffer.
    pub bounced: u64,
    /// I/Os that were sent again after a reset.
    pub retried: u64,
    /// Completions that named no command.
    pub violations: u64,
}

/// The queue pair.
#[derive(Debug)]
pub struct PcieQueuePair {
    ring: Ring,
    commands: Box<[Command]>,
    free: Vec<u16>,
    line: VecDeque<Waiting>,
    ended: VecDeque<Completion>,
    table: Table,
    namespace: Namespace,
    limits: Limits,
    depth: u32,
    /// Commands that the device has.
    in_device: u32,
    state: State,
    /// When the commands in the device are to be looked at for late ones.
    check_at: Nanos,
    /// The device broke the protocol: its completions are not looked at until the next reset.
    distrusted: bool,
    watch: Watch,
    free_bounces: Vec<u8>,
    counters: Counters,
    io_timeout: Nanos,
    port: usize,
    shared: Arc<Shared>,
    /// Keeps the supervisor at work.
    _controller: Arc<Controller>,
}

impl PcieQueuePair {
    /// A queue pair for `depth` I/Os over the port with this index, which was just taken.
    pub(super) fn new(
        cx: &mut Cx,
        controller: Arc<Controller>,
        port: usize,
        namespace: Namespace,
        depth: u32,
    ) -> PcieQueuePair {
        let shared = controller.shared().clone();
        let state = shared.state_after_take();
        let owned = &shared.ports[port];
        let slots = owned.place.entries - 1;
        // Position of the rings as they were left; if the controller was halted since, they are
        // started over when it is back.
        let ring = Ring::resume(owned.place, owned.position());
        owned.acknowledge(state);
        let watch = match cx.network.watch(owned.eventfd.as_fd(), DESCRIPTOR_KEY) {
            Ok(()) => Watch::Polling,
            // The last queue pair of this port was on this core too.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Watch::Polling,
            Err(_) => Watch::Nobody,
        };
        let watch = if shared.platform.vectors() > owned.queue_id { watch } else { Watch::Nobody };
        let command = |_| Command {
            io: None,
            deadline: Nanos(0),
            generation: 0,
            bounce: NO_BOUNCE,
            retries: 0,
            lateness: Lateness::OnTime,
            want: Want::Kept,
        };
        PcieQueuePair {
            ring,
            commands: (0..slots).map(command).collect(),
            free: (0..slots).rev().collect(),
            line: VecDeque::with_capacity(depth as usize),
            ended: VecDeque::with_capacity(depth as usize),
            table: Table::new(&shared.regions, cx.dma.region().id()),
            limits: namespace.limits(),
            namespace,
            depth,
            in_device: 0,
            state,
            check_at: Nanos(u64::MAX),
            distrusted: false,
            watch,
            free_bounces: (0..layout::BOUNCE_COUNT).collect(),
            counters: Counters::default(),
            io_timeout: Nanos(
                u64::try_from(shared.options.io_timeout.as_nanos()).unwrap_or(u64::MAX),
            ),
            port,
            shared,
            _controller: controller,
        }
    }

    /// What it counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Writes to doorbell registers so far.
    pub fn doorbell_writes(&self) -> u64 {
        self.ring.doorbell_writes()
    }

    fn port(&self) -> &Port {
        &self.shared.ports[self.port]
    }

    /// Whether an I/O is of the commonest kind, and legal: one segment, read or written. Any other
    /// is for [`legality::check`] to judge.
    #[inline]
    fn is_plain(&self, io: &Io) -> bool {
        let Memory::One(segment) = &io.memory else { return false };
        let geometry = &self.namespace.geometry;
        let bytes = u64::from(io.blocks) * u64::from(geometry.block_bytes);
        let known = matches!(io.operation, Operation::Read)
            || matches!(io.operation, Operation::Write) && !self.limits.read_only;
        known
            && io.blocks.wrapping_sub(1) < self.limits.io_blocks_max
            && bytes == u64::from(segment.len_bytes())
            && io.fits(geometry.blocks)
            && self.limits.boundary_blocks == 0
    }

    /// Writes the entry of an I/O, if there is room for it now.
    #[inline]
    fn place(&mut self, now: Nanos, io: &Io, retries: u8) -> bool {
        let Some(slot) = self.free.last().copied() else { return false };
        let command = &mut self.commands[usize::from(slot)];
        let command_id = command.generation << SLOT_BITS | slot;
        let namespace = &self.namespace;
        let mut bounce = NO_BOUNCE;
        let mut pages = [0; 2];
        if let Memory::One(segment) = &io.memory
            && let Some(address) = self.table.translate(*segment)
            && let Some(described) = prp::describe_short(address, segment.len_bytes())
        {
            pages = described;
        } else if !matches!(io.memory, Memory::None) {
            let view = self.shared.ports[self.port].place.view;
            let list = prp::List { view, offset_bytes: layout::list(slot) };
            let table = &self.table;
            let pieces = io
                .memory
                .segments()
                .iter()
                .map(|segment| Some((table.translate(*segment)?, segment.len_bytes())));
            pages = match prp::describe(pieces, list) {
                Ok(described) => described,
                Err(prp::Unfit) => {
                    let Some(index) = self.free_bounces.pop() else { return false };
                    bounce = index;
                    self.counters.bounced += 1;
                    fill_bounce(view, index, io, list)
                }
            };
        }
        let words = encode::words(io, command_id, namespace.id, namespace.unmapping, pages);
        self.free.pop();
        command.io = Some(*io);
        command.deadline = now + self.io_timeout;
        command.bounce = bounce;
        command.retries = retries;
        command.lateness = Lateness::OnTime;
        command.want = Want::Kept;
        if self.in_device == 0 {
            self.check_at = command.deadline;
        }
        self.in_device += 1;
        self.ring.push(words);
        true
    }

    /// Sends what is in line, as far as there is room.
    fn place_line(&mut self, now: Nanos) {
        while let Some(waiting) = self.line.front().copied()
            && self.place(now, &waiting.io, waiting.retries)
        {
            self.line.pop_front();
        }
    }

    fn can_send(&self) -> bool {
        self.state.phase() == Phase::Live && !self.distrusted
    }

    /// The I/O that a completion ends; none when it names no command.
    #[inline]
    fn finish(&mut self, entry: Entry) -> Option<Completion> {
        let slot = entry.command_id & SLOT_MASK;
        let command = self.commands.get_mut(usize::from(slot))?;
        if command.generation != entry.command_id >> SLOT_BITS {
            return None;
        }
        let io = command.io.take()?;
        if command.bounce != NO_BOUNCE {
            let bounce = std::mem::replace(&mut command.bounce, NO_BOUNCE);
            let view = self.shared.ports[self.port].place.view;
            if io.operation == Operation::Read && entry.status.is_success() {
                empty_bounce(view, bounce, &io);
            }
            self.free_bounces.push(bounce);
        }
        let mut status = entry.status;
        if command.lateness == Lateness::Aborting && status.has_code(Status::ABORT_REQUESTED) {
            // Nobody above asked for it, unless they did.
            status = match command.want {
                Want::Kept => Status::ABORTED_BY_HOST,
                Want::Aborted => status,
            };
        }
        release(command);
        self.free.push(slot);
        self.in_device -= 1;
        Some(Completion::new(io.token, status))
    }

    fn reap(&mut self, completions: &mut Completions) -> usize {
        let mut count = 0;
        while completions.room() > 0
            && let Some(entry) = self.ring.pop()
        {
            match self.finish(entry) {
                Some(completion) => {
                    completions.push(completion);
                    count += 1;
                }
                None => {
                    self.distrust();
                    break;
                }
            }
        }
        if count > 0 {
            self.counters.completed += count as u64;
            self.ring.ring_head();
        }
        count
    }

    #[cold]
    fn distrust(&mut self) {
        self.counters.violations += 1;
        self.distrusted = true;
        self.port().wish(Wish::ResetProtocol);
        self.shared.call_supervisor();
    }

    /// The supervisor has changed the state.
    #[cold]
    fn follow(&mut self, state: State) {
        // A reset that began and ended since the last look is not missed: the supervisor waits for
        // the acknowledgement of the halt.
        self.state = state;
        match state.phase() {
            Phase::Halted => {}
            Phase::Live => self.start_over(),
            Phase::Dead => self.end_all(GONE),
        }
        self.port().acknowledge(state);
    }

    /// The queues were made anew; the device has forgotten what it had.
    fn start_over(&mut self) {
        self.ring.restart();
        self.distrusted = false;
        for slot in 0..self.commands.len() {
            let Some(recalled) = self.recall(slot) else { continue };
            let Recalled { io, retries, lateness, want } = recalled;
            // What was late is tried once more only: it may be the reason for the reset.
            let tries = if lateness == Lateness::OnTime { RETRIES_MAX } else { 1 };
            let again = self.shared.options.recovery == Recovery::Retry && retries < tries;
            if want == Want::Aborted {
                self.ended.push_back(Completion::new(io.token, Status::ABORT_REQUESTED));
            } else if again {
                self.counters.retried += 1;
                self.line.push_front(Waiting { io, retries: retries + 1 });
            } else {
                self.ended.push_back(Completion::new(io.token, RESET));
            }
        }
        self.check_at = Nanos(u64::MAX);
    }

    fn end_all(&mut self, status: Status) {
        for slot in 0..self.commands.len() {
            if let Some(recalled) = self.recall(slot) {
                self.ended.push_back(Completion::new(recalled.io.token, status));
            }
        }
        let waiting = self.line.drain(..).map(|one| Completion::new(one.io.token, status));
        self.ended.extend(waiting);
        self.check_at = Nanos(u64::MAX);
    }

    /// Takes an I/O back from the device, which can no longer reach its memory.
    fn recall(&mut self, slot: usize) -> Option<Recalled> {
        let command = &mut self.commands[slot];
        let io = command.io.take()?;
        if command.bounce != NO_BOUNCE {
            self.free_bounces.push(std::mem::replace(&mut command.bounce, NO_BOUNCE));
        }
        let Command { retries, lateness, want, .. } = *command;
        release(command);
        self.free.push(u16::try_from(slot).expect("slots fit a command identifier"));
        self.in_device -= 1;
        Some(Recalled { io, retries, lateness, want })
    }

    /// Looks for late commands: aborts them first, has the controller reset after.
    #[cold]
    fn check_late(&mut self, now: Nanos) {
        let abort_timeout = self.shared.options.abort_timeout;
        let abort_timeout = Nanos(u64::try_from(abort_timeout.as_nanos()).unwrap_or(u64::MAX));
        let mut next = Nanos(u64::MAX);
        let port = &self.shared.ports[self.port];
        for (slot, command) in self.commands.iter_mut().enumerate() {
            if command.io.is_none() {
                continue;
            }
            if command.deadline <= now {
                let id = command.generation << SLOT_BITS | (slot & usize::from(SLOT_MASK)) as u16;
                command.deadline = match command.lateness {
                    Lateness::OnTime if port.wish(Wish::Abort(id)) => {
                        command.lateness = Lateness::Aborting;
                        now + abort_timeout
                    }
                    Lateness::OnTime => now + WISH_AGAIN,
                    Lateness::Aborting => {
                        port.wish(Wish::ResetLate);
                        now + abort_timeout
                    }
                };
                self.shared.call_supervisor();
            }
            next = next.min(command.deadline);
        }
        self.check_at = next;
    }

    /// The core is awake: the vector loses its eventfd.
    #[cold]
    fn disarm(&mut self) {
        let port = self.port();
        if self.shared.platform.notify(port.queue_id, Notify::Nobody).is_err() {
            // It stays as it is; an interrupt more is no harm.
        }
        let _ = port.eventfd.read();
        self.watch = Watch::Polling;
    }
}

fn release(command: &mut Command) {
    command.generation += 1;
    if command.generation == GENERATIONS {
        command.generation = 0;
    }
}

/// Copies the memory of an I/O to a bounce buffer, and describes that.
#[cold]
fn fill_bounce(view: super::memory::View, index: u8, io: &Io, list: prp::List) -> [u64; 2] {
    let start = layout::bounce(index);
    let mut at = start;
    for segment in io.memory.segments() {
        if io.operation != Operation::Read {
            view.gather(at, *segment);
        }
        at += segment.len_bytes() as usize;
    }
    let len_bytes = u32::try_from(at - start).expect("no longer than a transfer");
    assert!(len_bytes <= TRANSFER_BYTES_MAX, "the limits keep to it");
    let whole = std::iter::once(Some((view.address(start), len_bytes)));
    prp::describe(whole, list).expect("a bounce buffer is aligned and contiguous")
}

/// Copies a bounce buffer to the memory of its read.
#[cold]
fn empty_bounce(view: super::memory::View, index: u8, io: &Io) {
    let mut at = layout::bounce(index);
    for segment in io.memory.segments() {
        view.scatter(at, *segment);
        at += segment.len_bytes() as usize;
    }
}

impl QueuePair for PcieQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        if self.credits() == 0 {
            return Err(Busy);
        }
        if !self.is_plain(&io)
            && let Err(status) = legality::check(&io, &self.namespace.geometry, &self.limits)
        {
            self.ended.push_back(Completion::new(io.token, status));
            return Ok(());
        }
        if io.operation == Operation::Flush && !self.limits.volatile_cache {
            self.ended.push_back(Completion::new(io.token, Status::SUCCESS));
            return Ok(());
        }
        if self.state.phase() == Phase::Dead {
            self.ended.push_back(Completion::new(io.token, GONE));
            return Ok(());
        }
        if !self.can_send() || !self.line.is_empty() || !self.place(cx.now(), &io, 0) {
            self.line.push_back(Waiting { io, retries: 0 });
        }
        Ok(())
    }

    fn flush(&mut self, _cx: &mut Cx) {
        // A doorbell must not be rung on a controller that is being reset.
        let state = self.shared.state();
        if state != self.state {
            self.follow(state);
        }
        if self.can_send() {
            self.ring.ring_tail();
        }
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        if self.watch == Watch::Armed {
            self.disarm();
        }
        let state = self.shared.state();
        if state != self.state {
            self.follow(state);
        }
        let mut count = 0;
        if !self.ended.is_empty() {
            count = self.ended.len().min(completions.room());
            for completion in self.ended.drain(..count) {
                completions.push(completion);
            }
        }
        if !self.can_send() {
            return count;
        }
        if self.in_device > 0 {
            let reaped = self.reap(completions);
            if reaped > 0 {
                self.port().publish_completed(self.counters.completed);
            }
            count += reaped;
            if cx.now() >= self.check_at {
                self.check_late(cx.now());
            }
        }
        if !self.line.is_empty() && !self.distrusted {
            self.place_line(cx.now());
        }
        if !self.distrusted {
            self.ring.ring_tail();
        }
        count
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight()
    }

    fn inflight(&self) -> u32 {
        let waiting = self.line.len() + self.ended.len();
        self.in_device + u32::try_from(waiting).expect("no more than the depth")
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        let waiting = self.line.drain(..);
        let aborted = waiting.map(|one| Completion::new(one.io.token, Status::ABORT_REQUESTED));
        self.ended.extend(aborted);
        // The device's own are late from now on: aborted one after the other, then reset.
        if self.in_device > 0 && self.can_send() {
            for command in self.commands.iter_mut().filter(|command| command.io.is_some()) {
                command.want = Want::Aborted;
                command.deadline = command.deadline.min(cx.now());
            }
            self.check_at = cx.now();
        }
    }

    fn wake(&self) -> Wake {
        if !self.ended.is_empty() || self.ring.has_unrung() && self.can_send() {
            return Wake::Now;
        }
        if self.in_device == 0 && self.line.is_empty() {
            return Wake::Never;
        }
        let room = !self.free.is_empty() && !self.free_bounces.is_empty();
        let stalled = !self.line.is_empty() && room && self.can_send();
        match self.watch {
            Watch::Nobody => Wake::Now,
            _ if stalled => Wake::Now,
            Watch::Polling | Watch::Armed => Wake::At(self.check_at),
        }
    }

    fn arm(&mut self, _cx: &mut Cx) -> bool {
        match self.wake() {
            Wake::Never => return true,
            Wake::Now => return false,
            Wake::At(_) | Wake::Descriptor => {}
        }
        let port = &self.shared.ports[self.port];
        if self.watch == Watch::Polling {
            // What is in it by now was no completion's doing, unless the vector was not let go.
            if port.eventfd.read().is_ok_and(|fired| fired > 0) {
                self.counters.interrupts_while_polling += 1;
            }
            let whom = Notify::Eventfd(port.eventfd.as_fd());
            if self.shared.platform.notify(port.queue_id, whom).is_err() {
                return false;
            }
            self.watch = Watch::Armed;
            self.counters.arms += 1;
        }
        !self.ring.has_completion() && self.shared.state() == self.state
    }
}

impl Drop for PcieQueuePair {
    fn drop(&mut self) {
        if self.watch == Watch::Armed {
            self.disarm();
        }
        let state = self.shared.state();
        if state != self.state {
            self.follow(state);
        }
        let idle = self.in_device == 0 && !self.distrusted;
        let (owner, position) = match (self.state.phase(), idle) {
            (Phase::Live, true) => (Owner::Nobody, self.ring.position()),
            // Made anew by the supervisor in either case.
            (Phase::Halted, _) | (Phase::Live, false) => (Owner::Supervisor, Position::START),
            (Phase::Dead, _) => (Owner::Nobody, Position::START),
        };
        self.shared.ports[self.port].leave(owner, position);
        if owner == Owner::Supervisor {
            self.shared.call_supervisor();
        }
    }
}
