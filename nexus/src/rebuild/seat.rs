//! The rebuild's place among the users of the volume: its name in the stripe lock, the view that it
//! follows, and its own queue pairs on the children.
//!
//! On the home core. Keeps the promises that a core's queue pair keeps (see [`crate::cell`]): what
//! the view does not allow any more is not begun, and a pause finds it drained. Taken while there
//! is something to copy, and left as soon as there is not, so that a volume on one core needs no
//! stripes meanwhile.

use std::sync::Arc;

use bdev::{Busy, Completion, Completions, Io, Lba, OpenError, QueuePair};
use reactor::{Cx, Wake};

use crate::cell::Cell;
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};
use crate::nexus::{Membership, Nexus};
use crate::planted::{self, Bug};
use crate::view::{Mode, Version, View};
use bdev::stripe_lock::LockMember;

/// I/Os that a child can have of a rebuild at once: a read or write of each piece, and a flush.
const DEPTH: u32 = super::PIECES_MAX + 1;

/// The way to one child.
#[derive(Debug)]
struct Port {
    queue_pair: Box<dyn QueuePair>,
    data_start_blocks: u64,
    incarnation: u32,
    outstanding: u32,
    is_aborting: bool,
}

/// Why an I/O was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// No credit: later.
    Busy,
    /// The child cannot be opened.
    CannotOpen,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Seat {
    nexus: Arc<Nexus>,
    membership: Membership,
    version: Version,
    view: Arc<View>,
    ports: [Option<Port>; CHILDREN_MAX],
    open: ChildSet,
    unflushed: ChildSet,
    polled: Completions,
    is_active: bool,
}

impl Seat {
    /// Takes a place; nothing while there is none.
    pub(super) fn take(nexus: &Arc<Nexus>, cx: &Cx) -> Option<Seat> {
        let membership = nexus.join(cx.waker.clone())?;
        let (version, view) = nexus.published.fetch();
        membership.cell.set_followed(version);
        membership.cell.set_past(version);
        Some(Seat {
            nexus: nexus.clone(),
            membership,
            version,
            view,
            ports: [const { None }; CHILDREN_MAX],
            open: ChildSet::EMPTY,
            unflushed: ChildSet::EMPTY,
            polled: Completions::new(),
            is_active: false,
        })
    }

    /// The view that is followed.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn member(&self) -> LockMember {
        self.membership.member
    }

    /// To be called before anything is begun, and in every pass while anything is in flight.
    pub(super) fn keep_up(&mut self, cx: &mut Cx) {
        let version = match self.is_active {
            true => self.nexus.published.version(),
            false => self.membership.cell.activate(&self.nexus.published),
        };
        self.is_active = true;
        if version != self.version {
            (self.version, self.view) = self.nexus.published.fetch();
            self.close_unused(cx);
            self.membership.cell.set_followed(self.version);
            // Copies are no writes to the marks' knowledge: the truth knows of each.
            self.membership.cell.set_past(self.version);
        }
        self.look_at_others();
    }

    /// True when I/O of the volume is admitted and the others know of this user.
    pub(super) fn may_begin(&self) -> bool {
        self.membership.shared_since.is_none() && self.view.mode == Mode::Running
    }

    /// True when the others do not know of this user yet, which nobody tells.
    pub(super) fn waits_for_others(&self) -> bool {
        self.membership.shared_since.is_some()
    }

    fn look_at_others(&mut self) {
        let Some(since) = self.membership.shared_since else { return };
        let own = self.membership.member;
        if self.nexus.all_users(|member, cell: &Cell| member == own || cell.has_followed(since)) {
            self.membership.shared_since = None;
        }
    }

    /// Closes what is used no more; what is in flight there is asked to end.
    pub(super) fn close_unused(&mut self, cx: &mut Cx) {
        let used = self.view.written();
        let before = self.open;
        for child in self.open {
            let place = child.get();
            let Some(port) = &mut self.ports[place] else { continue };
            if used.contains(child) && port.incarnation == self.view.incarnations[place] {
                continue;
            }
            if port.outstanding > 0 {
                abort(port, cx);
                continue;
            }
            self.ports[place] = None;
            self.open = self.open.without(child);
            self.unflushed = self.unflushed.without(child);
        }
        if self.open != before {
            self.membership.cell.set_open(self.open);
        }
    }

    /// Submits an I/O of the volume to a child of the view.
    pub(super) fn submit(&mut self, cx: &mut Cx, child: ChildIndex, io: Io) -> Result<(), NotSent> {
        let incarnation = self.view.incarnations[child.get()];
        if self.ports[child.get()].is_none() {
            self.open(cx, child).map_err(|_| NotSent::CannotOpen)?;
        }
        let port = self.ports[child.get()].as_mut().expect("it was just opened");
        if port.incarnation != incarnation {
            // What an earlier child of the place has must come back first.
            return Err(NotSent::Busy);
        }
        let lba = Lba(io.lba.0 + port.data_start_blocks);
        port.queue_pair.submit(cx, Io { lba, ..io }).map_err(|Busy| NotSent::Busy)?;
        port.outstanding += 1;
        self.unflushed = self.unflushed.with(child);
        Ok(())
    }

    fn open(&mut self, cx: &mut Cx, child: ChildIndex) -> Result<(), OpenError> {
        let device = self.view.device(child);
        let port = Port {
            queue_pair: device.device.open_queue_pair(cx, DEPTH)?,
            data_start_blocks: device.data_start_blocks,
            incarnation: self.view.incarnations[child.get()],
            outstanding: 0,
            is_aborting: false,
        };
        self.ports[child.get()] = Some(port);
        self.open = self.open.with(child);
        self.membership.cell.set_open(self.open);
        Ok(())
    }

    /// Rings the doorbells, and hands up what has ended at these children.
    pub(super) fn poll(
        &mut self,
        cx: &mut Cx,
        children: ChildSet,
        ended: &mut Vec<(ChildIndex, Completion)>,
    ) {
        self.ring(cx);
        for child in self.open.intersection(children) {
            let Some(port) = &mut self.ports[child.get()] else { continue };
            if port.outstanding == 0 {
                continue;
            }
            port.queue_pair.poll(cx, &mut self.polled);
            for completion in self.polled.drain() {
                port.outstanding -= 1;
                ended.push((child, completion));
            }
            port.is_aborting &= port.outstanding > 0;
        }
    }

    /// Rings the doorbells of the children that were submitted to.
    pub(super) fn ring(&mut self, cx: &mut Cx) {
        for child in std::mem::take(&mut self.unflushed) {
            if let Some(port) = &mut self.ports[child.get()] {
                port.queue_pair.flush(cx);
            }
        }
    }

    /// Asks what is at a child to end.
    pub(super) fn abort(&mut self, cx: &mut Cx, child: ChildIndex) {
        if let Some(port) = &mut self.ports[child.get()] {
            abort(port, cx);
        }
    }

    /// The children that were submitted to since their doorbells were rung.
    pub(super) fn submitted(&self) -> ChildSet {
        self.unflushed
    }

    /// Children on which a queue pair is open.
    pub(super) fn open_children(&self) -> ChildSet {
        self.open
    }

    /// Takes stripes for a range; see [`bdev::stripe_lock::StripeLock::take`].
    pub(super) fn take_stripes(&self, start: u64, blocks: u32, taken: &mut u32) -> bool {
        planted::is(Bug::CopyWithoutOrder)
            || self.nexus.lock.take(self.member(), start, blocks, taken)
    }

    /// Gives them back.
    pub(super) fn release_stripes(&self, start: u64, blocks: u32, taken: u32) {
        let nexus = &self.nexus;
        nexus.lock.release(start, blocks, taken, |member| nexus.wake_user(member));
    }

    /// Nothing is at a child: says so to whoever wants the volume drained.
    pub(super) fn say_drained(&self) {
        if self.is_active && self.view.mode != Mode::Running {
            self.membership.cell.set_drained(self.version);
        }
    }

    /// Nothing is at a child, no stripe is held or asked for.
    pub(super) fn rest(&mut self) {
        if self.is_active {
            self.is_active = false;
            self.membership.cell.rest();
        }
    }

    /// When the children must be polled.
    pub(super) fn wake(&self) -> Wake {
        if self.is_active && self.nexus.published.version() != self.version {
            return Wake::Now;
        }
        if !self.unflushed.is_empty() {
            return Wake::Now;
        }
        let busy = self.ports.iter().flatten().filter(|port| port.outstanding > 0);
        busy.fold(Wake::Never, |wake, port| wake.soonest(port.queue_pair.wake()))
    }

    pub(super) fn arm(&mut self, cx: &mut Cx) -> bool {
        let is_behind = self.is_active && self.nexus.published.version() != self.version;
        let mut busy = self.ports.iter_mut().flatten().filter(|port| port.outstanding > 0);
        !is_behind && busy.all(|port| port.queue_pair.arm(cx))
    }
}

fn abort(port: &mut Port, cx: &mut Cx) {
    if port.outstanding > 0 && !port.is_aborting {
        port.is_aborting = true;
        port.queue_pair.abort_all(cx);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The queue pairs go first, so that nobody reads or writes what is unlocked then.
        self.ports = [const { None }; CHILDREN_MAX];
        self.membership.cell.rest();
        self.nexus.leave(self.membership.member);
    }
}
