//! One file's way to the ring of a core.
//!
//! Owned by a queue pair; opened, used and dropped on the core's thread. It makes entries of
//! commands, by numbers where file and memory are registered, and keeps the arrays of segments
//! that they point to.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};
use reactor::Cx;
use reactor::slab::SlotId;

use super::core_ring::{self, SharedRing};
use super::features::Features;
use super::key;
use super::memory::Registered;
use crate::file::{Backing, Command, Durability, Port, Reaped, Shape, Vectors, Watch};

/// See the module.
#[derive(Debug)]
pub(crate) struct RingPort {
    ring: SharedRing,
    number: u16,
    /// The file's place in the ring's table.
    place: Option<u32>,
    memory: Registered,
    watch: Watch,
    capacity: u32,
    vectors: Vectors,
    /// Keeps the file open as long as the ring may use it.
    backing: Arc<Backing>,
}

impl RingPort {
    /// A port of the calling core's ring.
    pub(super) fn open(
        cx: &mut Cx,
        wanted: Features,
        backing: Arc<Backing>,
        capacity: u32,
        depth: u32,
    ) -> io::Result<RingPort> {
        let ring = core_ring::of_core(cx, wanted)?;
        let (number, place) = ring.borrow_mut().open_port(backing.raw(), capacity)?;
        let (memory, watch) = (ring.borrow().memory(), ring.borrow().watch());
        let vectors = Vectors::new(depth);
        Ok(RingPort { ring, number, place, memory, watch, capacity, vectors, backing })
    }

    /// The entry of a command.
    fn entry(&mut self, id: SlotId, command: Command<'_>) -> squeue::Entry {
        // The crate has a type for each name; a number and a flag are what both come to.
        let (file, flags) = match self.place {
            Some(place) => {
                let place = RawFd::try_from(place).expect("the table is short");
                (types::Fd(place), squeue::Flags::FIXED_FILE)
            }
            None => (types::Fd(self.backing.raw()), squeue::Flags::empty()),
        };
        let entry = match command {
            Command::Read { offset_bytes, memory } => {
                read(file, self.vectors.shape(id.index, memory), self.memory, offset_bytes)
            }
            Command::Write { offset_bytes, memory, durability } => {
                let flags = match durability {
                    Durability::Later => 0,
                    Durability::AtOnce => libc::RWF_DSYNC,
                };
                write(file, self.vectors.shape(id.index, memory), self.memory, offset_bytes, flags)
            }
            // Of what else a file has, its times say, nothing is needed to find the data again.
            Command::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            Command::Range { mode, offset_bytes, len_bytes } => {
                let entry = opcode::Fallocate::new(file, len_bytes).offset(offset_bytes);
                entry.mode(mode.flags().bits()).build()
            }
        };
        entry.flags(flags).user_data(key::pack(self.number, id))
    }
}

/// A read into memory of this shape.
fn read(file: types::Fd, shape: Shape, memory: Registered, offset_bytes: u64) -> squeue::Entry {
    match shape {
        Shape::One(segment) => {
            let (address, len) = (segment.address().as_ptr(), segment.len_bytes());
            match memory.number_of(segment) {
                Some(number) => {
                    opcode::ReadFixed::new(file, address, len, number).offset(offset_bytes).build()
                }
                None => opcode::Read::new(file, address, len).offset(offset_bytes).build(),
            }
        }
        Shape::Many(first, count) => {
            opcode::Readv::new(file, first, count).offset(offset_bytes).build()
        }
    }
}

/// A write from memory of this shape.
fn write(
    file: types::Fd,
    shape: Shape,
    memory: Registered,
    offset_bytes: u64,
    flags: i32,
) -> squeue::Entry {
    match shape {
        Shape::One(segment) => {
            let (address, len) = (segment.address().as_ptr().cast_const(), segment.len_bytes());
            match memory.number_of(segment) {
                Some(number) => {
                    let entry = opcode::WriteFixed::new(file, address, len, number);
                    entry.offset(offset_bytes).rw_flags(flags).build()
                }
                None => {
                    let entry = opcode::Write::new(file, address, len);
                    entry.offset(offset_bytes).rw_flags(flags).build()
                }
            }
        }
        Shape::Many(first, count) => {
            let entry = opcode::Writev::new(file, first, count);
            entry.offset(offset_bytes).rw_flags(flags).build()
        }
    }
}

impl Port for RingPort {
    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn make_room(&mut self) -> bool {
        self.ring.borrow_mut().make_room()
    }

    fn push(&mut self, id: SlotId, command: Command<'_>) {
        let entry = self.entry(id, command);
        self.ring.borrow_mut().push(self.number, &entry);
    }

    /// Leaves it to the next `reap`, of any port: one system call a pass does for both, and for all
    /// files of the core.
    fn enter(&mut self) {}

    fn has_work(&self) -> bool {
        self.ring.borrow().has_work(self.number)
    }

    fn reap(&mut self, results: &mut Vec<Reaped>, room: usize) {
        let mut ring = self.ring.borrow_mut();
        ring.turn();
        ring.fetch(self.number, results, room);
    }

    fn cancel(&mut self, id: SlotId) {
        let entry = opcode::AsyncCancel::new(key::pack(self.number, id)).build();
        let mut ring = self.ring.borrow_mut();
        // Without room the command ends in its own time.
        if ring.make_room() {
            ring.put(&entry.user_data(key::CANCEL));
        }
    }

    fn watch(&self) -> Watch {
        self.watch
    }

    fn arm(&mut self) -> bool {
        self.ring.borrow_mut().arm()
    }
}

impl Drop for RingPort {
    fn drop(&mut self) {
        self.ring.borrow_mut().close(self.number, self.place);
    }
}
