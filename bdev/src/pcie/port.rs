//! What the cores and the supervisor of a controller share: a few atomic words for each queue.
//!
//! [`State`] says whether I/O may flow; the supervisor writes it, every queue pair reads it once a
//! poll and once a flush. A [`Port`] is one I/O queue pair of the controller: free, open on a core,
//! or left behind with commands in it. Words are loaded and stored on the cores, never exchanged,
//! except when a port is opened.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::event::{ControllerEvent, Events};
use super::memory::QueueMemory;
use super::options::Options;
use super::platform::Platform;
use super::regions::Regions;
use super::reserve::{REQUESTS_MAX, Wanted};
use super::ring::{Place, Position};

/// Whether I/O may flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Commands may be sent.
    Live,
    /// The controller is being reset: nothing may be sent, what was sent is not over.
    Halted,
    /// The controller is gone for good and can reach no memory: everything fails.
    Dead,
}

/// A phase and its number; a later phase has a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(u64);

impl State {
    /// The first phase.
    pub const FIRST: State = State(0);

    /// The phase.
    #[inline]
    pub fn phase(self) -> Phase {
        match self.0 & 0b11 {
            0 => Phase::Live,
            1 => Phase::Halted,
            _ => Phase::Dead,
        }
    }

    /// The next one, with this phase.
    #[must_use]
    pub fn then(self, phase: Phase) -> State {
        let bits = match phase {
            Phase::Live => 0,
            Phase::Halted => 1,
            Phase::Dead => 2,
        };
        State((self.0 & !0b11) + 0b100 + bits)
    }
}

/// What the queue pair of a port wants of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// This command is late.
    Abort(u16),
    /// An aborted command did not end.
    ResetLate,
    /// The controller broke the protocol.
    ResetProtocol,
}

impl Wish {
    const fn to_word(self) -> u32 {
        match self {
            Wish::None => 0,
            Wish::Abort(command_id) => 1 << 16 | command_id as u32,
            Wish::ResetLate => 2 << 16,
            Wish::ResetProtocol => 3 << 16,
        }
    }

    const fn from_word(word: u32) -> Wish {
        match word >> 16 {
            0 => Wish::None,
            1 => Wish::Abort((word & 0xffff) as u16),
            2 => Wish::ResetLate,
            _ => Wish::ResetProtocol,
        }
    }
}

/// Whose a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's: a core may take it.
    Nobody,
    /// A queue pair's.
    QueuePair,
    /// The supervisor's: the queue pair went away with commands in the device.
    Supervisor,
}

impl Owner {
    const fn to_word(self) -> u32 {
        match self {
            Owner::Nobody => 0,
            Owner::QueuePair => 1,
            Owner::Supervisor => 2,
        }
    }

    const fn from_word(word: u32) -> Owner {
        match word {
            0 => Owner::Nobody,
            1 => Owner::QueuePair,
            _ => Owner::Supervisor,
        }
    }
}

/// One I/O queue pair of the controller.
#[derive(Debug)]
pub struct Port {
    /// Its number, 1 to the number of queues; also its interrupt vector.
    pub queue_id: u16,
    /// Its memory.
    pub memory: QueueMemory,
    /// Its rings and doorbells.
    pub place: Place,
    /// Ends the sleep of its core: written by the kernel for the vector, and by the supervisor.
    pub eventfd: EventFd,
    owner: AtomicU32,
    acknowledged: AtomicU64,
    position: AtomicU64,
    wish: AtomicU32,
    completed: AtomicU64,
    in_device: AtomicU32,
}

impl Port {
    /// A port that nobody has.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new(queue_id: u16, memory: QueueMemory, place: Place) -> nix::Result<Port> {
        Ok(Port {
            queue_id,
            memory,
            place,
            eventfd: eventfd()?,
            owner: AtomicU32::new(Owner::Nobody.to_word()),
            acknowledged: AtomicU64::new(State::FIRST.0),
            position: AtomicU64::new(Position::START.to_word()),
            wish: AtomicU32::new(0),
            completed: AtomicU64::new(0),
            in_device: AtomicU32::new(0),
        })
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        // SeqCst, partner: `take` and `Shared::set_state`. Either the supervisor sees that the
        // port was taken, or the taker sees the supervisor's state.
        Owner::from_word(self.owner.load(Ordering::SeqCst))
    }

    /// Takes it for a queue pair; false when somebody has it.
    pub fn take(&self) -> bool {
        let (free, taken) = (Owner::Nobody.to_word(), Owner::QueuePair.to_word());
        // SeqCst: see `owner`; also acquires the position that the last owner left.
        self.owner.compare_exchange(free, taken, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Where the rings were left, for who has taken the port in this state: at their start where
    /// they were made anew since, which the last owner may not have known.
    pub fn position(&self, state: State) -> Position {
        if !self.has_acknowledged(state) {
            return Position::START;
        }
        // Relaxed: came with the port, see `take`.
        Position::from_word(self.position.load(Ordering::Relaxed))
    }

    /// The rings were made anew. For the supervisor, while the controller is halted: whoever has
    /// the port by then starts over.
    pub fn forget_position(&self) {
        // Relaxed: published by the state that follows.
        self.position.store(Position::START.to_word(), Ordering::Relaxed);
    }

    /// Gives it on, its rings as they are.
    pub fn leave(&self, to: Owner, position: Position) {
        self.position.store(position.to_word(), Ordering::Relaxed);
        self.publish_in_device(0);
        // Release, partner: `take`, which then finds the position; and the supervisor.
        self.owner.store(to.to_word(), Ordering::Release);
    }

    /// The queue pair says that it follows a state.
    pub fn acknowledge(&self, state: State) {
        // Release, partner: `has_acknowledged`; the rings are not touched any more.
        self.acknowledged.store(state.0, Ordering::Release);
    }

    /// Whether the queue pair follows a state. For the supervisor.
    pub fn has_acknowledged(&self, state: State) -> bool {
        // Acquire, partner: `acknowledge`.
        self.acknowledged.load(Ordering::Acquire) >= state.0
    }

    /// The queue pair wishes something; false when its last wish was not looked at yet. A reset
    /// goes before anything else.
    pub fn wish(&self, wish: Wish) -> bool {
        // Relaxed: the word is all that there is to see. Stored by the queue pair's core, and by
        // the supervisor only while it is not zero, so that neither loses the other's.
        let pending = Wish::from_word(self.wish.load(Ordering::Relaxed));
        let urgent = matches!(wish, Wish::ResetLate | Wish::ResetProtocol);
        if pending != Wish::None && !urgent {
            return false;
        }
        self.wish.store(wish.to_word(), Ordering::Relaxed);
        true
    }

    /// Takes the wish. For the supervisor.
    pub fn take_wish(&self) -> Wish {
        // Relaxed: as in `wish`; exchanged, so that a reset wished meanwhile is not lost.
        Wish::from_word(self.wish.swap(0, Ordering::Relaxed))
    }

    /// Publishes how many commands have completed on this queue.
    #[inline]
    pub fn publish_completed(&self, count: u64) {
        // Relaxed: it only has to change some time.
        self.completed.store(count, Ordering::Relaxed);
    }

    /// Publishes how many commands the device has, as far as that is none or some.
    #[inline]
    pub fn publish_in_device(&self, count: u32) {
        // Release, partner: `has_stopped`; of a ring without commands nothing is touched any more.
        self.in_device.store(count, Ordering::Release);
    }

    /// Publishes that the first command of the queue pair is about to be given to the device. The
    /// state is to be looked at after this and before the doorbell is rung.
    #[inline]
    pub fn publish_first(&self) {
        // Relaxed: ordered by the fence.
        self.in_device.store(1, Ordering::Relaxed);
        // Partner: the fence in `has_stopped`. Either the supervisor sees that there is a command,
        // or the queue pair sees the halt and does not ring.
        fence(Ordering::SeqCst);
    }

    /// How many commands the device had when it last had none or some.
    pub fn in_device(&self) -> u32 {
        // Relaxed: a hint, see `Supervisor::rest`.
        self.in_device.load(Ordering::Relaxed)
    }

    /// Whether the queue pair has followed a halt, or need not, as the device has nothing of it: a
    /// core without I/O in flight looks at nothing, for hours maybe. For the supervisor, after it
    /// has set the state.
    pub fn has_stopped(&self, state: State) -> bool {
        // Partner: the fence in `publish_first`.
        fence(Ordering::SeqCst);
        // Acquire, partner: `publish_in_device`.
        let is_empty = self.in_device.load(Ordering::Acquire) == 0;
        is_empty || self.has_acknowledged(state)
    }

    /// How many commands have completed.
    pub fn completed(&self) -> u64 {
        // Relaxed: see `publish_completed`.
        self.completed.load(Ordering::Relaxed)
    }

    /// Ends the sleep of the port's core.
    pub fn wake(&self) {
        // It fails only when it is full, and then it fires anyway.
        let _ = self.eventfd.write(1);
    }
}

fn eventfd() -> nix::Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

/// Whether the supervisor looks at the registers once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It does.
    Kept,
    /// It does not, until it is called.
    Left,
}

/// A controller, as every part of the driver has it.
#[derive(Debug)]
pub struct Shared {
    /// What an operator calls it: its address.
    pub name: String,
    /// How it is used.
    pub options: Options,
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// Memory that the device knows.
    pub regions: Regions,
    /// Requests about reservations that wait for the supervisor.
    pub wanted: ArrayQueue<Wanted>,
    /// What happened to it.
    pub events: Events,
    /// Its I/O queue pairs.
    pub ports: Box<[Port]>,
    state: AtomicU64,
    /// 1 when the watch is left.
    unwatched: AtomicU32,
    /// 1 when a reset is asked for.
    reset: AtomicU32,
    doorbell: EventFd,
}

impl Shared {
    /// Puts it together.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub fn new(
        name: String,
        options: Options,
        platform: Arc<dyn Platform>,
        ports: Box<[Port]>,
    ) -> nix::Result<Shared> {
        Ok(Shared {
            name,
            options,
            platform,
            regions: Regions::default(),
            wanted: ArrayQueue::new(REQUESTS_MAX),
            events: Events::default(),
            ports,
            state: AtomicU64::new(State::FIRST.0),
            unwatched: AtomicU32::new(0),
            reset: AtomicU32::new(0),
            doorbell: eventfd()?,
        })
    }

    /// The ports that cores may take: one more may be the supervisor's.
    pub fn core_ports(&self) -> &[Port] {
        let count = usize::from(self.options.queues.max(1)).min(self.ports.len());
        &self.ports[..count]
    }

    /// Whether I/O may flow.
    #[inline]
    pub fn state(&self) -> State {
        // Acquire, partner: `set_state`; after a reset the rings are as the supervisor made them.
        State(self.state.load(Ordering::Acquire))
    }

    /// The same, for one who has just taken a port.
    pub fn state_after_take(&self) -> State {
        // SeqCst, partner: `set_state` and `Port::owner`.
        State(self.state.load(Ordering::SeqCst))
    }

    /// Changes the state and wakes every core that has a port. For the supervisor.
    pub fn set_state(&self, state: State) {
        // SeqCst: see `Port::owner`.
        self.state.store(state.0, Ordering::SeqCst);
        for port in self.ports.iter().filter(|port| port.owner() == Owner::QueuePair) {
            port.wake();
        }
    }

    /// Makes the supervisor look at wishes.
    #[cold]
    pub fn call_supervisor(&self) {
        let _ = self.doorbell.write(1);
    }

    /// Says whether the supervisor looks once in a while. For the supervisor.
    pub fn set_watch(&self, watch: Watch) {
        // Relaxed: a hint, see `Supervisor::rest`.
        self.unwatched.store(u32::from(watch == Watch::Left), Ordering::Relaxed);
    }

    /// Calls the supervisor if it does not look by itself: I/O begins.
    #[inline]
    pub fn call_watch(&self) {
        // Relaxed: see `set_watch`.
        if self.unwatched.load(Ordering::Relaxed) != 0 {
            self.call_supervisor();
        }
    }

    /// Asks for a reset. Any thread.
    pub fn request_reset(&self) {
        // Relaxed: the doorbell that follows is a system call.
        self.reset.store(1, Ordering::Relaxed);
        self.call_supervisor();
    }

    /// Whether a reset was asked for. For the supervisor.
    pub fn take_reset_request(&self) -> bool {
        // Relaxed: see `request_reset`; exchanged, so that one asked for meanwhile is not lost.
        self.reset.swap(0, Ordering::Relaxed) != 0
    }

    /// Tells of something that happened. For the supervisor.
    pub fn add_event(&self, event: ControllerEvent) {
        self.events.add(&self.name, event);
    }

    /// Fires when the supervisor was called.
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// The supervisor has come.
    pub fn clear_doorbell(&self) {
        let _ = self.doorbell.read();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The supervisor has let the controller go, and no queue pair is left to look.
        for port in std::mem::take(&mut self.ports) {
            port.memory.unmap(&*self.platform);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_wishes_are_what_they_were_made_of() {
        let halted = State::FIRST.then(Phase::Halted);
        assert_eq!(State::FIRST.phase(), Phase::Live);
        assert_eq!(halted.phase(), Phase::Halted);
        assert_eq!(halted.then(Phase::Live).phase(), Phase::Live);
        assert!(halted.then(Phase::Dead).0 > halted.0 && halted.0 > State::FIRST.0);
        for wish in [Wish::None, Wish::Abort(0xffff), Wish::ResetLate, Wish::ResetProtocol] {
            assert_eq!(Wish::from_word(wish.to_word()), wish);
        }
    }

    #[test]
    fn a_position_is_kept_in_a_word() {
        let position = Position { tail: 0x1234, head: 0xabcd, phase: 1 };
        assert_eq!(Position::from_word(position.to_word()), position);
    }
}
