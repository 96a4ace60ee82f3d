//! One core's queue pair on one namespace.
//!
//! `submit` writes the entry, `flush` rings the doorbell, `poll` takes completions: nothing here
//! allocates, locks or calls the system but `arm`, the first poll after a sleep, and a wish to the
//! supervisor when an I/O is late. An I/O is in one of three places: in line (no command free, no
//! bounce buffer, or the controller halted), in the device, or ended and to be handed up.
//!
//! A completion that names no command ([`super::commands`]) is taken for what it is: a device that
//! cannot be trusted with its queue, which is then not looked at until the controller was reset.
//!
//! A read or write of one piece in two pages at most, in memory of the core's own, is sent by the
//! shortest way there is ([`PcieQueuePair::short`]); all else goes the long way round.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use reactor::socket::readiness::DESCRIPTOR_KEY;
use reactor::{Cx, Nanos, Wake};

use super::commands::{Command, Commands, Lateness, NO_BOUNCE, Want};
use super::controller::Controller;
use super::encode::{self, Unmapping};
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

/// How soon a wish is repeated that the supervisor had no room for.
const WISH_AGAIN: Nanos = Nanos::from_millis(10);

/// What an I/O ends with when its controller is gone for good. Not to be tried again: a host that
/// has several paths tries a path error anew for ever, and a local drive has no other path.
pub const GONE: Status = Status::INTERNAL_PATH_ERROR.with_do_not_retry();
/// What an I/O ends with when a reset took it and it is not to be sent again.
pub const RESET: Status = Status::CONTROLLER_PATHING_ERROR;

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

/// What a queue pair is of, and how it is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) namespace: Namespace,
    /// What becomes of I/O in flight at a reset.
    pub(super) recovery: Recovery,
}

/// The most blocks of I/Os that are looked at no further.
#[derive(Clone, Copy, Debug)]
struct ShortMax {
    read: u32,
    write: u32,
}

/// The queue pair.
#[derive(Debug)]
pub struct PcieQueuePair {
    ring: Ring,
    commands: Commands,
    line: VecDeque<Waiting>,
    ended: VecDeque<Completion>,
    table: Table,
    namespace: Namespace,
    recovery: Recovery,
    limits: Limits,
    /// The number of the namespace in the upper half, as an entry has it.
    namespace_word: u64,
    /// Longest read and write that may go the short way; none where there is more to be looked at.
    short_blocks_max: ShortMax,
    depth: u32,
    /// I/Os in line, in the device, or ended and not yet handed up.
    inflight: u32,
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
        use_of: Use,
        depth: u32,
    ) -> PcieQueuePair {
        let Use { namespace, recovery } = use_of;
        let shared = controller.shared().clone();
        let state = shared.state_after_take();
        let owned = &shared.ports[port];
        let slots = u8::try_from(owned.place.entries - 1).expect("QUEUE_ENTRIES is 256 at most");
        // Position of the rings as they were left; if the controller was halted since, they are
        // started over when it is back.
        let ring = Ring::resume(owned.place, owned.position(state));
        owned.acknowledge(state);
        let watch = match cx.network.watch(owned.eventfd.as_fd(), DESCRIPTOR_KEY) {
            Ok(()) => Watch::Polling,
            // The last queue pair of this port was on this core too.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Watch::Polling,
            Err(_) => Watch::Nobody,
        };
        let watch = if shared.platform.vectors() > owned.queue_id { watch } else { Watch::Nobody };
        let limits = namespace.limits();
        let read = if limits.boundary_blocks == 0 { limits.io_blocks_max } else { 0 };
        let write = if limits.read_only { 0 } else { read };
        PcieQueuePair {
            ring,
            commands: Commands::new(slots),
            line: VecDeque::with_capacity(depth as usize),
            ended: VecDeque::with_capacity(depth as usize),
            table: Table::new(&shared.regions, cx.dma.region().id()),
            limits,
            namespace_word: u64::from(namespace.id) << 32,
            namespace,
            recovery,
            short_blocks_max: ShortMax { read, write },
            depth,
            inflight: 0,
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

    /// [`QueuePair::wake`] of a core that hears of completions, by whatever way: of those that are
    /// there, [`PcieQueuePair::has_news`] knows.
    pub fn wake_when_told(&self) -> Wake {
        if !self.ended.is_empty() || self.ring.has_unrung() && self.can_send() {
            return Wake::Now;
        }
        if self.commands.in_device() == 0 && self.line.is_empty() {
            return Wake::Never;
        }
        let room = self.commands.next_slot().is_some() && !self.free_bounces.is_empty();
        let stalled = !self.line.is_empty() && room && self.can_send();
        if stalled { Wake::Now } else { Wake::At(self.check_at) }
    }

    /// Whether a completion is there, or the controller is about to be reset, or was.
    pub fn has_news(&self) -> bool {
        let has_completion = self.commands.in_device() > 0 && self.ring.has_completion();
        has_completion && self.can_send() || self.shared.state() != self.state
    }

    /// Whether entries were written that the doorbell was not rung for.
    pub fn has_unrung(&self) -> bool {
        self.ring.has_unrung()
    }

    fn port(&self) -> &Port {
        &self.shared.ports[self.port]
    }

    /// The pages of an I/O of the commonest kind, and legal: one segment in at most two pages of
    /// the core's own memory, read or written. Any other is for [`legality::check`] to judge.
    #[inline]
    fn short(&self, io: &Io) -> Option<[u64; 2]> {
        let Memory::One(segment) = io.memory else { return None };
        let blocks_max = match io.operation {
            Operation::Read => self.short_blocks_max.read,
            Operation::Write => self.short_blocks_max.write,
            _ => 0,
        };
        let geometry = &self.namespace.geometry;
        let bytes = u64::from(io.blocks) * u64::from(geometry.block_bytes);
        let legal = io.blocks.wrapping_sub(1) < blocks_max
            && bytes == u64::from(segment.len_bytes())
            && io.fits(geometry.blocks);
        if !legal {
            return None;
        }
        prp::describe_short(self.table.translate_own(segment)?, segment.len_bytes())
    }

    /// Sends an I/O that is not of the commonest kind, ends it, or puts it in line.
    #[cold]
    #[inline(never)]
    fn submit_any(&mut self, now: Nanos, io: &Io) {
        let at_once = match legality::check(io, &self.namespace.geometry, &self.limits) {
            Err(status) => Some(status),
            Ok(()) if io.operation == Operation::Flush && !self.limits.volatile_cache => {
                Some(Status::SUCCESS)
            }
            Ok(()) if self.state.phase() == Phase::Dead => Some(GONE),
            Ok(()) => None,
        };
        if let Some(status) = at_once {
            self.ended.push_back(Completion::new(io.token, status));
        } else if !self.can_send() || !self.line.is_empty() || !self.place(now, io, 0) {
            self.line.push_back(Waiting { io: *io, retries: 0 });
        }
    }

    /// Writes the entry of any I/O, if there is room for it now.
    #[inline(never)]
    fn place(&mut self, now: Nanos, io: &Io, retries: u8) -> bool {
        let Some(slot) = self.commands.next_slot() else { return false };
        let mut bounce = NO_BOUNCE;
        let mut pages = [0; 2];
        let hints = self.namespace.unmapping == Unmapping::Hinting;
        if io.operation == Operation::Unmap && hints {
            return self.place_hint(now, io, slot, retries);
        }
        if !matches!(io.memory, Memory::None) {
            let view = self.shared.ports[self.port].place.view;
            let list = prp::List { view, offset_bytes: layout::list(slot) };
            pages = match self.describe(io, list) {
                Ok(described) => described,
                Err(prp::Unfit) => {
                    let Some(index) = self.free_bounces.pop() else { return false };
                    bounce = index;
                    self.counters.bounced += 1;
                    fill_bounce(view, index, io, list)
                }
            };
        }
        let command_id = self.begin(now, io, bounce, retries);
        let namespace = &self.namespace;
        let words = encode::words(io, command_id, namespace.id, namespace.unmapping, pages);
        self.ring.push(words);
        true
    }

    /// Writes the entry of an unmap by Dataset Management; its range is where a list would be.
    fn place_hint(&mut self, now: Nanos, io: &Io, slot: u8, retries: u8) -> bool {
        let view = self.shared.ports[self.port].place.view;
        view.store(layout::list(slot), encode::range(io));
        let command_id = self.begin(now, io, NO_BOUNCE, retries);
        let range = view.address(layout::list(slot));
        self.ring.push(encode::deallocation(command_id, self.namespace.id, range));
        true
    }

    /// The pages of the memory of an I/O.
    fn describe(&mut self, io: &Io, list: prp::List) -> Result<[u64; 2], prp::Unfit> {
        let describe = |table: &Table| {
            let pieces = io
                .memory
                .segments()
                .iter()
                .map(|segment| Some((table.translate(*segment)?, segment.len_bytes())));
            prp::describe(pieces, list)
        };
        match describe(&self.table) {
            // The device may have been shown more memory since the last look.
            Err(prp::Unfit) if self.table.renew(&self.shared.regions) => describe(&self.table),
            described => described,
        }
    }

    /// Makes an I/O a command of the device's.
    #[inline]
    fn begin(&mut self, now: Nanos, io: &Io, bounce: u8, retries: u8) -> u16 {
        let deadline = now + self.io_timeout;
        if self.commands.in_device() == 0 {
            self.check_at = deadline;
            self.port().publish_first();
            self.shared.call_watch();
        }
        self.commands.begin(io, deadline, bounce, retries)
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
        let command = self.commands.end(entry.command_id)?;
        let token = command.io.token;
        if command.is_ordinary() {
            return Some(Completion::new(token, entry.status));
        }
        let command = *command;
        Some(Completion::new(token, self.finish_other(&command, entry.status)))
    }

    /// How an I/O ended that was late, or went through a bounce buffer.
    #[cold]
    #[inline(never)]
    fn finish_other(&mut self, command: &Command, status: Status) -> Status {
        if command.bounce != NO_BOUNCE {
            let view = self.shared.ports[self.port].place.view;
            if command.io.operation == Operation::Read && status.is_success() {
                empty_bounce(view, command.bounce, &command.io);
            }
            self.free_bounces.push(command.bounce);
        }
        let aborted = command.lateness == Lateness::Aborting;
        if aborted && status.has_code(Status::ABORT_REQUESTED) && command.want == Want::Kept {
            // Nobody above asked for it.
            return Status::ABORTED_BY_HOST;
        }
        status
    }

    fn reap(&mut self, completions: &mut Completions) -> usize {
        let mut count = 0;
        for _ in 0..completions.room() {
            let Some(entry) = self.ring.pop() else { break };
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
            self.inflight -= u32::try_from(count).expect("no more than the depth");
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
        // the acknowledgement of the halt, where the device has something of this queue pair.
        self.state = state;
        match state.phase() {
            Phase::Halted => {}
            Phase::Live => self.start_over(),
            Phase::Dead => self.end_all(GONE),
        }
        let port = self.port();
        port.publish_in_device(self.commands.in_device());
        port.acknowledge(state);
        if state.phase() == Phase::Halted {
            self.shared.call_supervisor();
        }
    }

    /// The queues were made anew; the device has forgotten what it had.
    fn start_over(&mut self) {
        // The first commands after a rest, during which there was a reset: no reset took them.
        let is_unsent = self.ring.unrung() >= self.commands.in_device();
        self.ring.restart();
        self.distrusted = false;
        let retry = self.recovery == Recovery::Retry;
        let PcieQueuePair { commands, ended, line, free_bounces, counters, .. } = self;
        commands.recall(|command| {
            free_bounces.extend((command.bounce != NO_BOUNCE).then_some(command.bounce));
            let (io, retries) = (command.io, command.retries);
            // What was late is tried once more only: it may be the reason for the reset.
            let tries = if command.lateness == Lateness::OnTime { RETRIES_MAX } else { 1 };
            if is_unsent && command.want == Want::Kept {
                line.push_front(Waiting { io, retries: command.retries });
            } else if command.want == Want::Aborted {
                ended.push_back(Completion::new(io.token, Status::ABORT_REQUESTED));
            } else if retry && retries < tries {
                counters.retried += 1;
                line.push_front(Waiting { io, retries: retries + 1 });
            } else {
                ended.push_back(Completion::new(io.token, RESET));
            }
        });
        self.check_at = Nanos(u64::MAX);
    }

    fn end_all(&mut self, status: Status) {
        let PcieQueuePair { commands, ended, free_bounces, .. } = self;
        commands.recall(|command| {
            free_bounces.extend((command.bounce != NO_BOUNCE).then_some(command.bounce));
            ended.push_back(Completion::new(command.io.token, status));
        });
        let waiting = self.line.drain(..).map(|one| Completion::new(one.io.token, status));
        self.ended.extend(waiting);
        self.check_at = Nanos(u64::MAX);
    }

    /// Looks for late commands: aborts them first, has the controller reset after.
    #[cold]
    fn check_late(&mut self, now: Nanos) {
        let abort_timeout = self.shared.options.abort_timeout;
        let abort_timeout = Nanos(u64::try_from(abort_timeout.as_nanos()).unwrap_or(u64::MAX));
        let mut next = Nanos(u64::MAX);
        let port = &self.shared.ports[self.port];
        let shared = &self.shared;
        self.commands.for_each(|id, command| {
            if command.deadline <= now {
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
                shared.call_supervisor();
            }
            next = next.min(command.deadline);
        });
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
        if self.inflight >= self.depth {
            return Err(Busy);
        }
        self.inflight += 1;
        if self.can_send()
            && self.line.is_empty()
            && self.commands.next_slot().is_some()
            && let Some(pages) = self.short(&io)
        {
            let command_id = self.begin(cx.now(), &io, NO_BOUNCE, 0);
            self.ring.push(encode::plain(&io, command_id, self.namespace_word, pages));
        } else {
            self.submit_any(cx.now(), &io);
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
            self.inflight -= u32::try_from(count).expect("no more than the depth");
        }
        if !self.can_send() {
            return count;
        }
        if self.commands.in_device() > 0 {
            let reaped = self.reap(completions);
            if reaped > 0 {
                let port = &self.shared.ports[self.port];
                port.publish_completed(self.counters.completed);
                port.publish_in_device(self.commands.in_device());
            }
            count += reaped;
            if cx.now() >= self.check_at {
                self.check_late(cx.now());
            }
        }
        if !self.line.is_empty() && !self.distrusted {
            self.place_line(cx.now());
        }
        if self.ring.has_unrung() {
            self.flush(cx);
        }
        count
    }

    fn credits(&self) -> u32 {
        self.depth - self.inflight
    }

    fn inflight(&self) -> u32 {
        self.inflight
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        let waiting = self.line.drain(..);
        let aborted = waiting.map(|one| Completion::new(one.io.token, Status::ABORT_REQUESTED));
        self.ended.extend(aborted);
        // The device's own are late from now on: aborted one after the other, then reset.
        if self.commands.in_device() > 0 && self.can_send() {
            self.commands.for_each(|_, command| {
                command.want = Want::Aborted;
                command.deadline = command.deadline.min(cx.now());
            });
            self.check_at = cx.now();
        }
    }

    fn wake(&self) -> Wake {
        match self.wake_when_told() {
            Wake::At(_) if self.watch == Watch::Nobody => Wake::Now,
            wake => wake,
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
        let idle = self.commands.in_device() == 0 && !self.distrusted;
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
