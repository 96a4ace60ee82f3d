//! One context of Linux AIO for one file on one core.
//!
//! Owned by a queue pair, on the core's thread. Control blocks wait in `line` until `enter` gives
//! them all to the kernel in one call. Results lie in a ring that the kernel shares with the
//! process; whether there are any is read from there, so that a poll that finds nothing costs no
//! system call. Every result is told to an eventfd, since what is told is settled at submission.
//!
//! The structs are those of linux/aio_abi.h. All the `unsafe` of AIO is here. Memory: a segment
//! promises to stay mapped until its I/O has completed, the queue pair completes an I/O after its
//! command was reaped, and destroying the context waits for what the kernel still has. The arrays
//! of segments and the control blocks never move and are dropped after that.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use reactor::Cx;
use reactor::slab::SlotId;

use super::worker::{Job, RangeWorker};
use crate::file::{Backing, Command, Durability, Port, Reaped, Shape, Vectors, Watch};
use crate::io::COMPLETIONS_PER_POLL;

/// `IOCB_CMD_*`.
mod opcode {
    pub(super) const READ: u16 = 0;
    pub(super) const WRITE: u16 = 1;
    pub(super) const DATA_SYNC: u16 = 3;
    pub(super) const READ_VECTOR: u16 = 7;
    pub(super) const WRITE_VECTOR: u16 = 8;
}

/// `IOCB_FLAG_RESFD`: tell the eventfd.
const TELL_EVENT: u32 = 1;

/// What the shared ring begins with when it is one that may be read (fs/aio.c, `AIO_RING_MAGIC`).
const RING_MAGIC: u32 = 0xa10a_10a1;

/// `struct iocb`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct ControlBlock {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: i32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

const _: () = assert!(size_of::<ControlBlock>() == 64);
const _: () = assert!(offset_of!(ControlBlock, opcode) == 16);
const _: () = assert!(offset_of!(ControlBlock, buffer) == 24);
const _: () = assert!(offset_of!(ControlBlock, flags) == 56);

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    data: u64,
    block: u64,
    result: i64,
    result_2: i64,
}

const _: () = assert!(size_of::<Event>() == 32);

/// The head of the shared ring, `struct aio_ring` of fs/aio.c: a layout that programs rely on.
#[repr(C)]
struct RingHead {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
}

/// The kernel's name of a context, which is the address of its ring. Destroyed when dropped.
struct Handle(libc::c_ulong);

impl Handle {
    fn setup(entries: u32) -> io::Result<Handle> {
        let mut handle: libc::c_ulong = 0;
        // SAFETY: the kernel fills in an aio_context_t, an unsigned long, which is what is there.
        let code = unsafe { libc::syscall(libc::SYS_io_setup, entries, &raw mut handle) };
        Errno::result(code)?;
        Ok(Handle(handle))
    }

    /// True when there may be results.
    fn may_have_results(&self) -> bool {
        let ring = self.0 as *const RingHead;
        // SAFETY: the kernel maps the ring at this address until the context is destroyed, and its
        // head and tail change under atomics on both sides; the magic number never changes.
        let (magic, head, tail) = unsafe { ((*ring).magic, &(*ring).head, &(*ring).tail) };
        // Relaxed: only `io_getevents` moves the head, on this thread. Acquire, partner: the
        // kernel's release of the tail; it is the kernel too that then copies the results.
        magic != RING_MAGIC || head.load(Ordering::Relaxed) != tail.load(Ordering::Acquire)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Waits for everything that the kernel has of this context.
        // SAFETY: the handle is the one of `setup`, and is destroyed once.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// Whether the kernel has AIO for this process.
pub(super) fn probe() -> io::Result<()> {
    Handle::setup(1).map(drop)
}

/// The queue pair's side of the thread that zeroes ranges.
#[derive(Debug)]
struct Ranges {
    worker: RangeWorker,
    waiting: VecDeque<Job>,
    /// Given and not reaped.
    given: u32,
    sender: SyncSender<Reaped>,
    receiver: Receiver<Reaped>,
}

/// See the module.
pub(crate) struct Context {
    // First, so that it is destroyed before the memory that the kernel uses is freed.
    handle: Handle,
    blocks: Box<[ControlBlock]>,
    /// Slots whose control blocks the kernel has not taken.
    line: Vec<*mut ControlBlock>,
    vectors: Vectors,
    events: Box<[Event]>,
    /// Commands that the kernel would not take.
    refused: VecDeque<Reaped>,
    ranges: Option<Ranges>,
    event: Arc<EventFd>,
    watch: Watch,
    capacity: u32,
    backing: Arc<Backing>,
}

impl fmt::Debug for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Context")
            .field("capacity", &self.capacity)
            .field("line", &self.line.len())
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context for `capacity` commands at once of slots below `depth`.
    pub(super) fn open(
        cx: &mut Cx,
        backing: Arc<Backing>,
        worker: Option<RangeWorker>,
        capacity: u32,
        depth: u32,
    ) -> io::Result<Context> {
        let handle = Handle::setup(capacity).map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN) => io::Error::other(
                "the limit of asynchronous I/Os of all processes is reached: raise fs.aio-max-nr",
            ),
            _ => error,
        })?;
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (sender, receiver) = sync_channel(capacity as usize);
        let waiting = VecDeque::with_capacity(capacity as usize);
        let ranges = worker.map(|worker| Ranges { worker, waiting, given: 0, sender, receiver });
        Ok(Context {
            handle,
            blocks: vec![ControlBlock::default(); depth as usize].into_boxed_slice(),
            line: Vec::with_capacity(capacity as usize),
            vectors: Vectors::new(depth),
            events: vec![Event::default(); COMPLETIONS_PER_POLL].into_boxed_slice(),
            refused: VecDeque::with_capacity(capacity as usize),
            ranges,
            watch: Watch::begin(cx, event.as_fd()),
            event: Arc::new(event),
            capacity,
            backing,
        })
    }

    fn control_block(&mut self, id: SlotId, command: Command<'_>) -> ControlBlock {
        let mut block = ControlBlock {
            data: id.to_token(),
            file: number(self.backing.raw()),
            flags: TELL_EVENT,
            event: number(self.event.as_raw_fd()),
            ..ControlBlock::default()
        };
        let (offset_bytes, memory, opcodes) = match command {
            Command::Read { offset_bytes, memory } => {
                (offset_bytes, memory, (opcode::READ, opcode::READ_VECTOR))
            }
            Command::Write { offset_bytes, memory, durability } => {
                if durability == Durability::AtOnce {
                    block.rw_flags = libc::RWF_DSYNC;
                }
                (offset_bytes, memory, (opcode::WRITE, opcode::WRITE_VECTOR))
            }
            Command::Sync => {
                block.opcode = opcode::DATA_SYNC;
                return block;
            }
            Command::Range { .. } => unreachable!("ranges are the thread's"),
        };
        block.offset = i64::try_from(offset_bytes).expect("a device ends below 2^63 bytes");
        match self.vectors.shape(id.index, memory) {
            Shape::One(segment) => {
                block.opcode = opcodes.0;
                block.buffer = segment.address().as_ptr().expose_provenance() as u64;
                block.len = u64::from(segment.len_bytes());
            }
            Shape::Many(first, count) => {
                block.opcode = opcodes.1;
                block.buffer = first.expose_provenance() as u64;
                block.len = u64::from(count);
            }
        }
        block
    }

    /// Gives the kernel the control blocks in line.
    fn submit_line(&mut self) {
        let mut sent = 0;
        while sent < self.line.len() {
            let rest = &mut self.line[sent..];
            // SAFETY: pointers to control blocks of `blocks`, which never move, each of a slot of
            // its own; what they name stays as it is until it is reaped (module comment).
            let taken = unsafe {
                let count = rest.len();
                libc::syscall(libc::SYS_io_submit, self.handle.0, count, rest.as_mut_ptr())
            };
            match Errno::result(taken) {
                Ok(taken) => sent += usize::try_from(taken).expect("a count"),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOMEM) => break,
                // The first of the rest is not to the kernel's liking; the others may be.
                Err(errno) => {
                    // SAFETY: a control block of `blocks` that the kernel did not take.
                    let data = unsafe { (*rest[0]).data };
                    let result = -(errno as i32);
                    self.refused.push_back(Reaped { id: SlotId::from_token(data), result });
                    sent += 1;
                }
            }
        }
        self.line.drain(..sent);
    }

    /// Appends results of the kernel.
    fn take_events(&mut self, results: &mut Vec<Reaped>, room: usize) {
        if room == 0 || !self.handle.may_have_results() {
            return;
        }
        let most = room.min(self.events.len());
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel fills in up to `most` events, for which there is room, and reads the
        // time.
        let count = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.handle.0,
                0_i64,
                most,
                self.events.as_mut_ptr(),
                &raw const no_time,
            )
        };
        // An interrupted look finds nothing; the next one will.
        let count = Errno::result(count).map_or(0, |count| usize::try_from(count).unwrap_or(0));
        results.extend(self.events[..count].iter().map(|event| Reaped {
            id: SlotId::from_token(event.data),
            result: i32::try_from(event.result).unwrap_or(i32::MAX),
        }));
    }
}

/// A descriptor as control blocks have it.
fn number(descriptor: i32) -> u32 {
    u32::try_from(descriptor).expect("an open descriptor is not negative")
}

impl Port for Context {
    fn capacity(&self) -> u32 {
        self.capacity
    }

    /// There is room for as many as there are slots.
    fn make_room(&mut self) -> bool {
        true
    }

    fn push(&mut self, id: SlotId, command: Command<'_>) {
        if let Command::Range { mode, offset_bytes, len_bytes } = command {
            let ranges = self.ranges.as_mut().expect("the limits leave out what cannot be done");
            return ranges.waiting.push_back(Job {
                id,
                mode,
                offset_bytes,
                len_bytes,
                backing: self.backing.clone(),
                results: ranges.sender.clone(),
                event: self.event.clone(),
            });
        }
        let block = self.control_block(id, command);
        let place = &raw mut self.blocks[id.index as usize];
        // SAFETY: inside `blocks`, to which no reference is held, and of a slot whose last command
        // was reaped.
        unsafe { place.write(block) };
        self.line.push(place);
    }

    fn enter(&mut self) {
        if !self.line.is_empty() {
            self.submit_line();
        }
        let Some(ranges) = &mut self.ranges else { return };
        while let Some(job) = ranges.waiting.pop_front() {
            if let Err(job) = ranges.worker.give(job) {
                return ranges.waiting.push_front(job);
            }
            ranges.given += 1;
        }
    }

    fn has_work(&self) -> bool {
        let ranges = self.ranges.as_ref().is_some_and(|ranges| !ranges.waiting.is_empty());
        !self.line.is_empty() || !self.refused.is_empty() || ranges
    }

    fn reap(&mut self, results: &mut Vec<Reaped>, room: usize) {
        let end = results.len() + room;
        results.extend(self.refused.drain(..self.refused.len().min(room)));
        if let Some(ranges) = &mut self.ranges {
            while ranges.given > 0
                && results.len() < end
                && let Ok(reaped) = ranges.receiver.try_recv()
            {
                ranges.given -= 1;
                results.push(reaped);
            }
        }
        self.take_events(results, end - results.len());
    }

    /// The kernel cancels nothing of files. A range that the thread has not been given ends.
    fn cancel(&mut self, id: SlotId) {
        let Some(ranges) = &mut self.ranges else { return };
        if let Some(at) = ranges.waiting.iter().position(|job| job.id == id) {
            ranges.waiting.remove(at);
            self.refused.push_back(Reaped { id, result: -libc::ECANCELED });
        }
    }

    fn watch(&self) -> Watch {
        self.watch
    }

    fn arm(&mut self) -> bool {
        // Results of the thread come with the eventfd, after which the core polls again; one that
        // came before has rung already, and ends the sleep at once.
        !self.has_work() && !self.handle.may_have_results()
    }
}
