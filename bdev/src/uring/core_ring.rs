//! The one ring of a core, which carries the commands of every file that is open there.
//!
//! Made with the first queue pair over a file and kept, with the core's pool registered, until the
//! core ends: registering pins memory, which takes milliseconds, and is to happen once. Each queue
//! pair has a port of it ([`super::port`]); results are sorted to the ports as they come.
//!
//! Used on the core's thread only: the ring is made for a single issuer where the kernel knows
//! that, and with deferred task work, so that completions are processed when the core asks for them
//! and never in the middle of something else. The price is that they must be asked for: an enter
//! with `GETEVENTS` whenever the ring says that work waits. The same call takes what is in line, so
//! that there is one a pass, a few where much is in line ([`ENTRIES_PER_CALL`]), and none in a pass
//! without either ([`CoreRing::turn`]).
//!
//! An eventfd tells of results, and is silent (`IORING_CQ_EVENTFD_DISABLED`) while the core is
//! awake, so that a busy core pays nothing for it.
//!
//! All the `unsafe` of `io_uring` is here. It rests on two things. Memory: a segment promises to
//! stay mapped until its I/O has completed, the queue pair completes an I/O after its command was
//! reaped, and a port, when it is dropped, waits for the commands that the kernel still has
//! ([`CoreRing::close`]). Arrays of segments: they live in the port, never move, and are dropped
//! after that wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

use io_uring::{EnterFlags, IoUring, squeue};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use reactor::Cx;

use super::features::{self, Features, Naming};
use super::key::{self, PORTS_MAX};
use super::memory::{self, Registered};
use crate::file::{Reaped, Watch};

/// Files that are named by their place in the ring's table; those beyond are named as usual.
const FILES_MAX: usize = 256;

/// Entries that one call hands over. The kernel holds back the requests of a call (its plug) until
/// it has prepared the last one, and then rings the device's bell once: with a whole pass in one
/// call the device idles meanwhile, which cost 8 % of the random reads at depth 32. With four, the
/// call's own price is still spread.
pub(super) const ENTRIES_PER_CALL: u32 = 4;

/// What the ring knows of a port.
#[derive(Debug)]
struct PortState {
    /// Results that were sorted out and not fetched.
    arrived: VecDeque<Reaped>,
    /// Commands pushed whose results have not arrived.
    outstanding: u32,
}

/// How often the kernel was entered for I/O since the ring was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entered {
    /// System calls.
    pub calls: u64,
    /// Those that offered something.
    pub submissions: u64,
    /// What the kernel took by them.
    pub entries: u64,
}

/// See the module.
pub(super) struct CoreRing {
    ring: IoUring,
    /// Open as long as the ring tells it something.
    _event: EventFd,
    watch: Watch,
    had: Features,
    memory: Registered,
    /// By number; the numbers of closed ports are used again.
    ports: Vec<Option<PortState>>,
    /// Entries, of commands and of cancelling, that the kernel has not taken.
    unsent: u32,
    entered: Entered,
    /// The eventfd is to tell of results.
    armed: bool,
}

/// How ports share it. Borrowed for the length of one call; its count moves when a port is opened
/// and closed.
pub(super) type SharedRing = Rc<RefCell<CoreRing>>;

impl fmt::Debug for CoreRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CoreRing")
            .field("had", &self.had)
            .field("ports", &self.ports)
            .field("unsent", &self.unsent)
            .field("entered", &self.entered)
            .finish_non_exhaustive()
    }
}

/// The calling core's ring, made now if it has none.
pub(super) fn of_core(cx: &mut Cx, wanted: Features) -> io::Result<SharedRing> {
    if let Some(ring) = cx.devices.get::<SharedRing>() {
        return Ok(ring.clone());
    }
    let ring = Rc::new(RefCell::new(CoreRing::open(cx, wanted)?));
    cx.devices.insert(ring.clone());
    Ok(ring)
}

impl CoreRing {
    fn open(cx: &mut Cx, wanted: Features) -> io::Result<CoreRing> {
        let (mut ring, task_work) = features::build(wanted.task_work)?;
        let naming = |registered: bool| if registered { Naming::Registered } else { Naming::Plain };
        // Each may be refused by a limit (of locked memory, of files): it works without.
        let files = wanted.files == Naming::Registered
            && ring.submitter().register_files(&[-1; FILES_MAX]).is_ok();
        let memory = wanted.memory == Naming::Registered && {
            let pieces = memory::pieces(cx.dma.region());
            // SAFETY: the memory is mapped for the life of the process.
            unsafe { ring.submitter().register_buffers(&pieces) }.is_ok()
        };
        let itself =
            wanted.ring == Naming::Registered && ring.submitter().register_ring_fd().is_ok();
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        ring.completion().disable_eventfd();
        Ok(CoreRing {
            had: Features {
                task_work,
                ring: naming(itself),
                files: naming(files),
                memory: naming(memory),
            },
            memory: if memory {
                Registered::all_of(cx.dma.region())
            } else {
                Registered::default()
            },
            watch: Watch::begin(cx, event.as_fd()),
            ring,
            _event: event,
            ports: Vec::new(),
            unsent: 0,
            entered: Entered::default(),
            armed: false,
        })
    }

    /// What it could be made with.
    #[cfg(test)]
    pub(super) fn had(&self) -> Features {
        self.had
    }

    /// How often the kernel was entered.
    #[cfg(test)]
    pub(super) fn entered(&self) -> Entered {
        self.entered
    }

    /// The memory that is registered.
    pub(super) fn memory(&self) -> Registered {
        self.memory
    }

    /// Who wakes the core.
    pub(super) fn watch(&self) -> Watch {
        self.watch
    }

    /// Opens a port for `capacity` commands at once of a file; its number, and the file's place in
    /// the table where it got one.
    pub(super) fn open_port(
        &mut self,
        file: RawFd,
        capacity: u32,
    ) -> io::Result<(u16, Option<u32>)> {
        let free = self.ports.iter().position(Option::is_none);
        let number = port_number(free.unwrap_or(self.ports.len()))?;
        let arrived = VecDeque::with_capacity(capacity as usize);
        let state = Some(PortState { arrived, outstanding: 0 });
        match free {
            Some(place) => self.ports[place] = state,
            None => self.ports.push(state),
        }
        let place = u32::from(number);
        let registered = self.had.files == Naming::Registered
            && usize::from(number) < FILES_MAX
            && self.ring.submitter().register_files_update(place, &[file]).is_ok();
        Ok((number, registered.then_some(place)))
    }

    /// Closes a port: waits for what the kernel has of it, which may still write to memory that
    /// somebody else gets next, and takes its file back.
    pub(super) fn close(&mut self, number: u16, file: Option<u32>) {
        // What is in line names the port's slots, whose names come again with the next port.
        while self.port(number).outstanding > 0 || self.unsent > 0 {
            let results_min = self.port(number).outstanding.min(1);
            if !self.enter_for(results_min) {
                std::thread::yield_now();
            }
            self.sort();
        }
        self.ports[usize::from(number)] = None;
        if let Some(place) = file {
            // Or it would stay open: exclusively, so that nobody could open it again.
            let updated = self.ring.submitter().register_files_update(place, &[-1]);
            debug_assert!(updated.is_ok(), "what was registered can be taken back");
        }
    }

    fn port(&mut self, number: u16) -> &mut PortState {
        let port = self.ports.get_mut(usize::from(number));
        port.and_then(Option::as_mut).expect("results come for open ports, which wait for them")
    }

    /// True when there is room for an entry, after entering the kernel if need be.
    pub(super) fn make_room(&mut self) -> bool {
        if self.ring.submission().is_full() {
            self.enter_for(0);
        }
        !self.ring.submission().is_full()
    }

    /// Puts a port's command in line; there is room.
    pub(super) fn push(&mut self, number: u16, entry: &squeue::Entry) {
        let pushed = self.put(entry);
        assert!(pushed, "room was made for the command");
        self.port(number).outstanding += 1;
    }

    /// Puts an entry in line; false when there is no room.
    pub(super) fn put(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries come from ports, and the memory that they name stays as it is until they
        // are reaped: see the module's comment. Cancelling names none.
        let pushed = unsafe { self.ring.submission().push(entry) };
        self.unsent += u32::from(pushed.is_ok());
        pushed.is_ok()
    }

    /// True when a port has something that only waits for a call of ours.
    pub(super) fn has_work(&self, number: u16) -> bool {
        let port = self.ports[usize::from(number)].as_ref().expect("the port is open");
        !port.arrived.is_empty() || (self.unsent > 0 && port.outstanding > 0)
    }

    /// Gives the kernel what is in line, lets deferred work be done, and sorts the results: a call
    /// for each [`ENTRIES_PER_CALL`], one for the work alone, and none when there is neither.
    pub(super) fn turn(&mut self) {
        if self.armed {
            // The core is awake.
            self.ring.completion().disable_eventfd();
            self.armed = false;
        }
        if self.unsent > 0 || self.has_deferred() {
            self.enter_for(0);
        }
        self.sort();
    }

    /// Appends at most `room` results of a port.
    pub(super) fn fetch(&mut self, number: u16, results: &mut Vec<Reaped>, room: usize) {
        let arrived = &mut self.port(number).arrived;
        let count = arrived.len().min(room);
        results.extend(arrived.drain(..count));
    }

    /// Makes the eventfd tell of results; false when one is there for somebody.
    pub(super) fn arm(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // SeqCst, partner: the kernel's barrier between adding a result or deferred work and its
        // look at the flag. Either it sees the flag cleared, or we see what it added.
        fence(Ordering::SeqCst);
        self.armed = true;
        !self.has_deferred() && self.ring.completion().is_empty()
    }

    fn has_deferred(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Hands each result to the port that it is for.
    fn sort(&mut self) {
        for entry in self.ring.completion() {
            if entry.user_data() == key::CANCEL {
                continue;
            }
            let (number, id) = key::unpack(entry.user_data());
            let port = self.ports.get_mut(usize::from(number)).and_then(Option::as_mut);
            let port = port.expect("results come for open ports, which wait for them");
            port.outstanding -= 1;
            port.arrived.push_back(Reaped { id, result: entry.result() });
        }
    }

    /// Gives the kernel what is in line, waits for `results_min` results, and lets deferred work
    /// be done. False when the kernel takes nothing now.
    fn enter_for(&mut self, results_min: u32) -> bool {
        loop {
            let flags = EnterFlags::GETEVENTS.bits();
            let offered = self.unsent.min(ENTRIES_PER_CALL);
            self.entered.calls += 1;
            self.entered.submissions += u64::from(offered > 0);
            // Waiting comes with the last call: the results may be those of what is in line.
            let results_min = if offered == self.unsent { results_min } else { 0 };
            // SAFETY: the number of entries is at most what `put` counted, and there is no argument
            // whose type could be wrong.
            let taken = unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(offered, results_min, flags, None)
            };
            let error = match taken {
                Ok(taken) => {
                    let taken = u32::try_from(taken).expect("no more than were offered");
                    self.entered.entries += u64::from(taken);
                    self.unsent = self.unsent.checked_sub(taken).expect("no more than offered");
                    if taken < offered || self.unsent == 0 {
                        return true;
                    }
                    continue;
                }
                Err(error) => error,
            };
            match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::EINTR => {}
                // Too little memory, or results that have to be reaped first.
                Errno::EAGAIN | Errno::EBUSY | Errno::ENOMEM => return false,
                errno => unreachable!("a ring that is used on its own thread is entered: {errno}"),
            }
        }
    }
}

/// The number of a port at a place.
fn port_number(place: usize) -> io::Result<u16> {
    u16::try_from(place).ok().filter(|number| *number < PORTS_MAX).ok_or_else(|| {
        io::Error::other("the core has as many files open as one ring can tell apart")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_so_many_ports_and_no_more() {
        assert_eq!(port_number(usize::from(PORTS_MAX) - 1).unwrap(), PORTS_MAX - 1);
        assert!(port_number(usize::from(PORTS_MAX)).is_err());
        assert!(port_number(1 << 20).is_err());
    }
}
