//! One ring for one file on one core.
//!
//! Owned by a queue pair. Opened, used and dropped on the core's thread: the ring is made for a
//! single issuer where the kernel knows that, and with deferred task work, so that completions are
//! processed when the core asks for them and never in the middle of something else. The price is
//! that they must be asked for: an enter with `GETEVENTS` whenever the ring says that work waits.
//!
//! An eventfd tells of results, and is silent (`IORING_CQ_EVENTFD_DISABLED`) while the core is
//! awake, so that a busy core pays nothing for it.
//!
//! All the `unsafe` of `io_uring` is here. It rests on two things. Memory: a segment promises to
//! stay mapped until its I/O has completed, the queue pair completes an I/O after its command was
//! reaped, and the ring, when it is dropped, waits for the commands that the kernel still has.
//! Arrays of segments: they live in `vectors`, which never moves and is dropped after that wait.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue, types};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use reactor::slab::SlotId;

use crate::file::{Backing, Command, Durability, Port, Reaped, Shape, Vectors};

/// What the results of cancelling are known by, and then ignored. No slot has this index.
const CANCEL: u64 = u64::MAX;

/// The file's place in the ring's table of files.
const FILE_INDEX: i32 = 0;

/// What the kernel must know. `fallocate` is the youngest: Linux 5.6.
const OPERATIONS: [u8; 7] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::AsyncCancel::CODE,
];

/// How the file is named to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// By its place in the ring's table: saves a look-up and a count for each I/O.
    Registered,
    Descriptor,
}

/// See the module.
pub(super) struct Ring {
    ring: IoUring,
    event: EventFd,
    name: Name,
    capacity: u32,
    vectors: Vectors,
    /// Commands pushed and not reaped.
    outstanding: u32,
    /// Entries, of commands and of cancelling, that the kernel has not taken.
    unsent: u32,
    /// The eventfd is to tell of results.
    armed: bool,
    /// Keeps the file open as long as the ring may use it.
    backing: Arc<Backing>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("capacity", &self.capacity)
            .field("outstanding", &self.outstanding)
            .field("unsent", &self.unsent)
            .finish_non_exhaustive()
    }
}

/// Whether a ring with all that is needed can be had.
pub(super) fn probe() -> io::Result<()> {
    let ring = build(1)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let complete = OPERATIONS.into_iter().all(|code| probe.is_supported(code));
    // Without the first an array of segments would have to outlive its submission, without the
    // second a result could be lost.
    let features = ring.params().is_feature_submit_stable() && ring.params().is_feature_nodrop();
    if complete && features { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// The best ring that the kernel makes: a flag that it does not know is `EINVAL`.
fn build(entries: u32) -> io::Result<IoUring> {
    let is_unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    let deferred = IoUring::builder()
        .setup_clamp()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    match deferred {
        Err(error) if is_unknown(&error) => {}
        ended => return ended,
    }
    // Linux 5.19: processed at any system call of this thread, still without an interrupt.
    let cooperative =
        IoUring::builder().setup_clamp().setup_coop_taskrun().setup_taskrun_flag().build(entries);
    match cooperative {
        Err(error) if is_unknown(&error) => IoUring::builder().setup_clamp().build(entries),
        ended => ended,
    }
}

impl Ring {
    /// A ring for `capacity` commands at once of slots below `depth`.
    pub(super) fn open(backing: Arc<Backing>, capacity: u32, depth: u32) -> io::Result<Ring> {
        // Each command may have to be cancelled. The completion queue is twice as long again.
        let ring = build(2 * capacity)?;
        // A kernel that was told how many files to allow may refuse this one; it works without.
        let name = match ring.submitter().register_files(&[backing.raw()]) {
            Ok(()) => Name::Registered,
            Err(_) => Name::Descriptor,
        };
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let mut ring = Ring {
            ring,
            event,
            name,
            capacity,
            vectors: Vectors::new(depth),
            outstanding: 0,
            unsent: 0,
            armed: false,
            backing,
        };
        ring.ring.completion().disable_eventfd();
        Ok(ring)
    }

    /// The entry of a command.
    fn entry(&mut self, id: SlotId, command: Command<'_>) -> squeue::Entry {
        // The crate has a type for each name; a number and a flag are what both come to.
        let (file, flags) = match self.name {
            Name::Registered => (types::Fd(FILE_INDEX), squeue::Flags::FIXED_FILE),
            Name::Descriptor => (types::Fd(self.backing.raw()), squeue::Flags::empty()),
        };
        let entry = match command {
            Command::Read { offset_bytes, memory } => {
                read(file, self.vectors.shape(id.index, memory), offset_bytes)
            }
            Command::Write { offset_bytes, memory, durability } => {
                let flags = match durability {
                    Durability::Later => 0,
                    Durability::AtOnce => libc::RWF_DSYNC,
                };
                write(file, self.vectors.shape(id.index, memory), offset_bytes, flags)
            }
            // Of what else a file has, its times say, nothing is needed to find the data again.
            Command::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            Command::Range { mode, offset_bytes, len_bytes } => {
                let entry = opcode::Fallocate::new(file, len_bytes).offset(offset_bytes);
                entry.mode(mode.flags().bits()).build()
            }
        };
        entry.flags(flags).user_data(id.to_token())
    }

    /// Puts an entry in line; false when there is no room.
    fn put(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the memory that the entry names stays as it is until it is reaped: see the
        // module's comment. Cancelling names none.
        let pushed = unsafe { self.ring.submission().push(entry) };
        self.unsent += u32::from(pushed.is_ok());
        pushed.is_ok()
    }

    /// Gives the kernel what is in line, waits for `results_min` results, and lets deferred work
    /// be done. False when the kernel takes nothing now.
    fn enter_for(&mut self, results_min: u32) -> bool {
        loop {
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: the number of entries is what `put` counted, and there is no argument whose
            // type could be wrong.
            let taken = unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(self.unsent, results_min, flags, None)
            };
            let error = match taken {
                Ok(taken) => {
                    let taken = u32::try_from(taken).expect("no more than were offered");
                    self.unsent = self.unsent.checked_sub(taken).expect("no more than offered");
                    return true;
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

    /// Lets deferred work be done, where there is some.
    fn run_deferred(&mut self) {
        let submission = self.ring.submission();
        if submission.taskrun() || submission.cq_overflow() {
            drop(submission);
            self.enter_for(0);
        }
    }
}

/// A read into memory of this shape.
fn read(file: types::Fd, shape: Shape, offset_bytes: u64) -> squeue::Entry {
    match shape {
        Shape::One(segment) => {
            let address = segment.address().as_ptr();
            opcode::Read::new(file, address, segment.len_bytes()).offset(offset_bytes).build()
        }
        Shape::Many(first, count) => {
            opcode::Readv::new(file, first, count).offset(offset_bytes).build()
        }
    }
}

/// A write from memory of this shape.
fn write(file: types::Fd, shape: Shape, offset_bytes: u64, flags: i32) -> squeue::Entry {
    match shape {
        Shape::One(segment) => {
            let address = segment.address().as_ptr().cast_const();
            let entry = opcode::Write::new(file, address, segment.len_bytes());
            entry.offset(offset_bytes).rw_flags(flags).build()
        }
        Shape::Many(first, count) => {
            let entry = opcode::Writev::new(file, first, count);
            entry.offset(offset_bytes).rw_flags(flags).build()
        }
    }
}

impl Port for Ring {
    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn push(&mut self, id: SlotId, command: Command<'_>) {
        let entry = self.entry(id, command);
        if !self.put(&entry) {
            // Entries of cancelling that the kernel has not taken are in the way.
            self.enter_for(0);
            let pushed = self.put(&entry);
            assert!(pushed, "a ring has room for every command and the cancelling of each");
        }
        self.outstanding += 1;
    }

    fn enter(&mut self) {
        if self.unsent > 0 {
            self.enter_for(0);
        }
    }

    fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    fn reap(&mut self, results: &mut Vec<Reaped>, room: usize) {
        if room == 0 {
            return;
        }
        if self.armed {
            // The core is awake.
            self.ring.completion().disable_eventfd();
            self.armed = false;
        }
        self.run_deferred();
        let before = results.len();
        for entry in self.ring.completion() {
            if entry.user_data() != CANCEL {
                results.push(reaped(&entry));
            }
            if results.len() - before == room {
                break;
            }
        }
        let count = u32::try_from(results.len() - before).expect("no more than are outstanding");
        self.outstanding -= count;
    }

    fn cancel(&mut self, id: SlotId) {
        let entry = opcode::AsyncCancel::new(id.to_token()).build().user_data(CANCEL);
        // Without room the command ends in its own time.
        if !self.put(&entry) && self.enter_for(0) {
            self.put(&entry);
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn arm(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // SeqCst, partner: the kernel's barrier between adding a result or deferred work and its
        // look at the flag. Either it sees the flag cleared, or we see what it added.
        fence(Ordering::SeqCst);
        self.armed = true;
        !self.ring.submission().taskrun() && self.ring.completion().is_empty()
    }
}

fn reaped(entry: &cqueue::Entry) -> Reaped {
    Reaped { id: SlotId::from_token(entry.user_data()), result: entry.result() }
}

impl Drop for Ring {
    /// Waits for what the kernel has: it may still write to memory that somebody else gets next.
    fn drop(&mut self) {
        while self.outstanding > 0 {
            if !self.enter_for(1) {
                std::thread::yield_now();
            }
            let commands = self.ring.completion().filter(|entry| entry.user_data() != CANCEL);
            self.outstanding -= u32::try_from(commands.count()).expect("no more than outstanding");
        }
        // The kernel takes a ring apart some time after it was closed, and until then what is
        // registered stays open: exclusively, so that nobody could open it again.
        if self.name == Name::Registered {
            let unregistered = self.ring.submitter().unregister_files();
            debug_assert!(unregistered.is_ok(), "what was registered can be taken back");
        }
    }
}
