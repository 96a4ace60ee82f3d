//! The volume: what its cores share, and what front doors see of it.
//!
//! Made on a control thread, shared through an `Arc`, opened by each core that serves it. Changes
//! nothing by itself: that is for [`crate::Home`].

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bdev::device::{BlockDevice, Geometry, Limits, OpenError, OperationSet};
use bdev::stripe_lock::{LockMember, StripeLock};
use bdev::{Operation, QueuePair};
use reactor::Cx;
use reactor::dma::pool::LARGEST_BUFFER_BYTES;
use reactor::sleep::Waker;
use uuid::Uuid;

use crate::cell::Cell;
use crate::child::{CHILDREN_MAX, ChildIndex, ChildSet};
use crate::config::{self, ConfigError, Marking, NexusConfig, Standing};
use crate::intent::{IntentMap, REGION_BYTES};
use crate::mail::{Letter, Mailbox};
use crate::mirror::MirrorQueuePair;
use crate::published::Published;
use crate::truth::activity::DIRTY_REGIONS_MIN;
use crate::view::{Mode, Version, View};

/// Longest write zeroes or unmap of a volume whose regions are marked: a quarter of what may be
/// dirty at the least, so that several go on beside each other.
pub const RANGE_BYTES_MAX: u64 = DIRTY_REGIONS_MIN / 4 * REGION_BYTES;

/// Cores (and rebuilds) that can have a nexus open at once.
pub const MEMBERS_OF_LOCK_MAX: usize = 1024;

/// A mirror of 1 to 16 devices.
#[derive(Debug)]
pub struct Nexus {
    name: String,
    uuid: Option<Uuid>,
    block_bytes: u32,
    limits: Limits,
    own: Weak<Nexus>,
    /// What was configured: names and devices as they were given.
    configured: Mutex<Vec<config::ChildConfig>>,
    pub(crate) published: Published,
    pub(crate) lock: StripeLock,
    pub(crate) mailbox: Mailbox,
    pub(crate) home_waker: OnceLock<Waker>,
    users: Mutex<Vec<Option<User>>>,
}

/// A user of the volume: a queue pair, or a rebuild.
#[derive(Debug)]
struct User {
    cell: Arc<Cell>,
    waker: Option<Waker>,
}

/// A user's place among the others.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) cell: Arc<Cell>,
    pub(crate) member: LockMember,
    /// The view that all others must follow before this user begins anything.
    pub(crate) shared_since: Option<Version>,
}

impl Nexus {
    /// Makes a nexus of its configuration. Its first view has the children in sync as members.
    pub fn new(config: NexusConfig) -> Result<Arc<Nexus>, ConfigError> {
        let geometry = config::check(&config)?;
        let mut devices = [const { None }; CHILDREN_MAX];
        let mut members = ChildSet::EMPTY;
        for (child, configured) in ChildIndex::all().zip(&config.children) {
            if configured.standing == Standing::Member {
                members = members.with(child);
                devices[child.get()] = Some(config::prepare(configured));
            }
        }
        let intent = match config.marking {
            Marking::Regions => {
                Some(Arc::new(IntentMap::new(geometry.blocks, geometry.block_bytes)))
            }
            Marking::Off => None,
        };
        let view = View {
            members,
            leaving: ChildSet::EMPTY,
            targets: ChildSet::EMPTY,
            devices,
            kept: [0; CHILDREN_MAX],
            incarnations: [0; CHILDREN_MAX],
            // Without a member, the truth has yet to find out who is one.
            mode: if members.is_empty() { Mode::Paused } else { Mode::Running },
            blocks: geometry.blocks,
            is_shared: false,
            intent,
            equal: None,
        };
        let limits = limits(&config, geometry.block_bytes);
        Ok(Arc::new_cyclic(|own| Nexus {
            name: config.name,
            uuid: config.uuid,
            block_bytes: geometry.block_bytes,
            limits,
            own: own.clone(),
            configured: Mutex::new(config.children),
            published: Published::new(view),
            lock: StripeLock::new(geometry.block_bytes),
            mailbox: Mailbox::new(),
            home_waker: OnceLock::new(),
            users: Mutex::new(Vec::new()),
        }))
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// What was configured, without what has been removed.
    pub(crate) fn configured(&self) -> Vec<config::ChildConfig> {
        self.configured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the device of a child that was removed.
    pub(crate) fn forget_configured(&self, name: &str) {
        let mut configured = self.configured.lock().unwrap_or_else(PoisonError::into_inner);
        configured.retain(|child| child.name != name);
    }

    /// The view in force.
    pub fn view(&self) -> Arc<View> {
        self.published.fetch().1
    }

    /// Adds a user. With a second one, stripes are taken between them from now on.
    pub(crate) fn join(&self, waker: Option<Waker>) -> Option<Membership> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let free = users.iter().position(Option::is_none).unwrap_or(users.len());
        if free == MEMBERS_OF_LOCK_MAX {
            return None;
        }
        let member = LockMember::new(free).expect("fewer users than names");
        let cell = Arc::new(Cell::default());
        let user = Some(User { cell: cell.clone(), waker });
        match users.get_mut(free) {
            Some(place) => *place = user,
            None => users.push(user),
        }
        let is_shared = users.iter().flatten().count() > 1;
        let shared_since = is_shared.then(|| self.published.update(|view| view.is_shared = true));
        users.iter().flatten().for_each(User::wake);
        Some(Membership { cell, member, shared_since })
    }

    /// Removes a user, which has nothing in flight that the nexus knows of.
    pub(crate) fn leave(&self, member: LockMember) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users[member.number()] = None;
        self.lock.forget(member);
        if users.iter().flatten().count() <= 1 {
            self.published.update(|view| view.is_shared = false);
        }
        users.iter().flatten().for_each(User::wake);
        self.wake_home();
    }

    /// Changes the view and wakes the cores that follow it.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut View)) -> Version {
        let version = self.published.update(change);
        self.wake_all();
        version
    }

    /// True when every user for whom `holds` is asked says yes.
    pub(crate) fn all_users(&self, holds: impl Fn(LockMember, &Cell) -> bool) -> bool {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.iter().enumerate().all(|(number, user)| match user {
            Some(user) => {
                let member = LockMember::new(number).expect("fewer users than names");
                holds(member, &user.cell)
            }
            None => true,
        })
    }

    /// Wakes the core of a user whose turn has come.
    #[cold]
    pub(crate) fn wake_user(&self, member: LockMember) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(user)) = users.get(member.number()) {
            user.wake();
        }
    }

    /// Wakes every core that uses the volume: something that its I/O waits for has come.
    pub(crate) fn wake_all(&self) {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.iter().flatten().for_each(User::wake);
    }

    /// Wakes the home core.
    pub(crate) fn wake_home(&self) {
        if let Some(waker) = self.home_waker.get() {
            waker.wake_if_sleeping();
        }
    }

    /// Posts a letter to the home core; false when there is no room for it.
    pub(crate) fn post(&self, letter: Letter) -> bool {
        let posted = self.mailbox.post(letter);
        self.wake_home();
        posted
    }
}

impl User {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_if_sleeping();
        }
    }
}

/// What a volume of these children accepts. What they lack is put above them, so that it does not
/// depend on who is a member; memory must be aligned to a block, which suits any child.
fn limits(config: &NexusConfig, block_bytes: u32) -> Limits {
    let each = || config.children.iter().map(|child| child.device.limits());
    // Both halves of a compare-and-write fit one buffer of the pool.
    let swap_blocks = LARGEST_BUFFER_BYTES / block_bytes / 2;
    let atomic_blocks = each().map(|limits| limits.atomic_blocks.min(limits.io_blocks_max)).min();
    // Each region of an I/O must be marked at the same time, and there may be few marks.
    let range_blocks_max = match config.marking {
        Marking::Regions => {
            u32::try_from(RANGE_BYTES_MAX / u64::from(block_bytes)).unwrap_or(u32::MAX)
        }
        Marking::Off => u32::MAX,
    };
    Limits {
        range_blocks_max,
        alignment_bytes: block_bytes,
        atomic_blocks: atomic_blocks.unwrap_or(1).clamp(1, swap_blocks),
        // Who verifies reads: not every child has it, and members come and go.
        operations: OperationSet::ALL.without(Operation::Verify),
        volatile_cache: each().any(|limits| limits.volatile_cache),
        ..Limits::default()
    }
}

impl BlockDevice for Nexus {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Geometry {
        Geometry { block_bytes: self.block_bytes, blocks: self.view().blocks }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let nexus = self.own.upgrade().expect("a nexus lives in an Arc");
        Ok(Box::new(MirrorQueuePair::open(nexus, cx, depth)?))
    }
}
