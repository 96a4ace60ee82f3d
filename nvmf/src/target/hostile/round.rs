//! A round: one target, one good host that must notice nothing, and a few hostile sessions at once.
//!
//! A round is replayed from its seed alone. After every session the laws are checked: the good
//! host reads its bytes, every buffer and slot is back, and what the hostile host received were
//! valid PDUs without a byte of memory that no device wrote.

use std::cell::RefCell;
use std::sync::Arc;

use bdev::nvme::sgl::SglDescriptor;
use bdev::{BlockDevice, Geometry};
use reactor::dma::DmaBuffer;
use reactor::dma::pool::CLASS_BYTES;
use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::random::Random;
use reactor::socket::memory::MemoryLimits;
use reactor::{Nanos, Service, Wake};

use super::host::{HOST, OTHER_HOST, Role, SUBSYSTEM, Session, SessionOptions};
use crate::fabrics::Nqn;
use crate::fabrics::nqn::DISCOVERY_NQN;
use crate::pdu::{DataAlignment, Digests};
use crate::target::TargetDescription;
use crate::target::harness::Harness;
use crate::target::namespace::{Access, Namespace, NamespaceId};
use crate::target::subsystem::{HostPolicy, Subsystem, SubsystemConfig, SubsystemKind};

/// Sessions of a round, in groups that run at once.
const GROUPS: u64 = 4;
const SESSIONS_A_GROUP: u64 = 3;
/// Actions of a session.
const ACTIONS_MAX: u64 = 40;
/// What free buffers are filled with: never sent.
pub(super) const POISON: u8 = 0xdb;
/// The subsystem of the good host; the hostile one is not on its list.
const GOOD_SUBSYSTEM: &str = "nqn.2019-05.io.openebs:good";
/// Blocks of 512 bytes of each RAM disk.
pub(super) const DISK_BLOCKS: u64 = 2048;
/// Blocks that the good host writes and then reads again and again.
const GOOD_BLOCKS: u32 = 64;

fn nvm(name: &str, hosts: HostPolicy) -> Subsystem {
    let nqn: Nqn = name.parse().expect("a valid name");
    let geometry = Geometry { block_bytes: 512, blocks: DISK_BLOCKS };
    let device = bdev::malloc::Malloc::new("ram", geometry, None).expect("a megabyte");
    let device: Arc<dyn BlockDevice> = Arc::new(device);
    let namespaces = vec![Namespace::new(&nqn, NamespaceId(1), device, Access::ReadWrite)];
    let config = SubsystemConfig::new(nqn, SubsystemKind::Nvm, [7; 16]);
    Subsystem::new(SubsystemConfig { namespaces, hosts, ..config }).expect("a valid subsystem")
}

/// Discovery, a subsystem for everybody and one for the good host.
fn description() -> TargetDescription {
    let good: Nqn = OTHER_HOST.parse().expect("a valid name");
    let discovery = SubsystemConfig::new(DISCOVERY_NQN, SubsystemKind::Discovery, [7; 16]);
    let subsystems = vec![
        Subsystem::new(discovery).expect("a valid subsystem"),
        nvm(SUBSYSTEM, HostPolicy::Any),
        nvm(GOOD_SUBSYSTEM, HostPolicy::Only(vec![good])),
    ];
    TargetDescription::new(subsystems)
}

/// Fills every free buffer with [`POISON`].
fn poison(harness: &mut Harness) {
    let mut taken: Vec<DmaBuffer> = Vec::new();
    for class_bytes in CLASS_BYTES.into_iter().rev() {
        while let Some(mut buffer) = harness.cx.dma.take(class_bytes) {
            buffer.bytes_mut().fill(POISON);
            taken.push(buffer);
        }
    }
    for buffer in taken {
        harness.cx.dma.give(buffer);
    }
}

/// The good host: its admin queue and an I/O queue.
pub(super) struct Bystander {
    admin: Session,
    queue: Session,
    expected: Vec<u8>,
}

impl Bystander {
    pub fn new(harness: &mut Harness) -> Bystander {
        let options = |role| SessionOptions {
            subsystem: GOOD_SUBSYSTEM,
            host: OTHER_HOST,
            digests: Digests { header: true, data: true },
            data_alignment: DataAlignment::DWORD,
            limits: MemoryLimits::default(),
            role,
        };
        let mut admin = Session::open(harness, options(Role::Admin));
        let controller_id = admin.establish(harness, 0xffff).expect("a good Connect");
        admin.enable(harness);
        let mut queue = Session::open(harness, options(Role::Io(1)));
        queue.establish(harness, controller_id).expect("a good Connect");
        let bytes = GOOD_BLOCKS * 512;
        let expected: Vec<u8> = (0..bytes).map(|index| (index * 7 / 3) as u8 | 1).collect();
        let write =
            super::host::io(1, 77, 0, GOOD_BLOCKS, SglDescriptor::transport_data_block(bytes));
        queue.command(harness, write, &[]);
        queue.answer_all(harness, &expected);
        assert_eq!(queue.seen.completions, 2, "the good host has connected and written");
        Bystander { admin, queue, expected }
    }

    /// Reads its blocks: the same bytes as ever, on a connection that nobody closed.
    pub fn check(&mut self, harness: &mut Harness) {
        let bytes = GOOD_BLOCKS * 512;
        let read =
            super::host::io(2, 78, 0, GOOD_BLOCKS, SglDescriptor::transport_data_block(bytes));
        self.queue.seen.data.clear();
        self.queue.command(harness, read, &[]);
        self.queue.listen(harness);
        assert!(self.queue.seen.data == self.expected, "the good host reads what it wrote");
        self.admin.keep_alive(harness);
        assert!(!self.admin.is_closed() && !self.queue.is_closed(), "nobody closes the good host");
    }
}

thread_local! {
    /// Harnesses that are done with.
    static SPARE: RefCell<Vec<Harness>> = const { RefCell::new(Vec::new()) };
}

/// A harness whose pool has so many chunks, all of its buffers poisoned.
pub(super) fn harness(chunks: usize) -> Harness {
    let spare = SPARE.with_borrow_mut(|spare| {
        let fits = |one: &Harness| one.cx.dma.len_bytes() == chunks * HUGE_PAGE_BYTES;
        let place = spare.iter().position(fits)?;
        Some(spare.swap_remove(place))
    });
    let mut harness = match spare {
        Some(spare) => spare.again(description()),
        None => Harness::with_pool(description(), chunks),
    };
    poison(&mut harness);
    harness
}

/// Keeps a harness for [`harness`] to use again; every buffer of it is back.
pub(super) fn keep(harness: Harness) {
    SPARE.with_borrow_mut(|spare| spare.push(harness));
}

/// Runs the round of a seed. Panics where a law is broken.
pub fn run(seed: u64) {
    let mut random = Random::new(seed);
    let chunks = if random.chance(0.3) { 4 } else { 6 };
    let mut harness = harness(chunks);
    let mut good = Bystander::new(&mut harness);
    for _ in 0..GROUPS {
        let mut sessions: Vec<Session> =
            (0..SESSIONS_A_GROUP).map(|_| hostile(&mut harness, &mut random)).collect();
        for _ in 0..random.below(ACTIONS_MAX) {
            let index = random.below(SESSIONS_A_GROUP) as usize;
            sessions[index].act(&mut harness, &mut random);
            assert!(harness.cx.counters.connections <= 2 + 2 * SESSIONS_A_GROUP);
            if random.chance(0.05) {
                good.check(&mut harness);
            }
            if random.chance(0.02) {
                harness.wait(Nanos::from_millis(random.below(3000)));
            }
        }
        for session in &mut sessions {
            session.listen(&mut harness);
            session.check_clean();
        }
        good.check(&mut harness);
        drop(sessions);
        harness.pump();
        assert_eq!(harness.cx.dma.taken(), 0, "every buffer is back");
        assert_eq!(harness.cx.counters.connections, 2, "every slot is back");
        let wake = harness.core.wake(&harness.cx);
        assert!(wake != Wake::Now, "a core at rest may sleep");
        poison(&mut harness);
    }
    drop(good);
    keep(harness);
}

/// A session that has come some way by itself: nothing, ICReq, an admin queue or an I/O queue.
fn hostile(harness: &mut Harness, random: &mut Random) -> Session {
    let limits = match random.below(3) {
        0 => MemoryLimits { call_bytes: 1 + random.below(200) as usize, stream_bytes: 4096 },
        1 => MemoryLimits { stream_bytes: 512 << random.below(8), ..MemoryLimits::default() },
        _ => MemoryLimits::default(),
    };
    let alignment = if random.chance(0.5) { 0 } else { random.below(32) as u8 };
    let stage = random.below(5);
    let options = SessionOptions {
        subsystem: SUBSYSTEM,
        host: HOST,
        digests: Digests { header: random.chance(0.5), data: random.chance(0.5) },
        data_alignment: DataAlignment::from_field(alignment).expect("below 32"),
        limits,
        role: if stage < 3 { Role::Admin } else { Role::Io(1) },
    };
    let mut session = match stage {
        0 => Session::bare(harness, options.clone()),
        _ => Session::open(harness, options.clone()),
    };
    session.mutation = [0.0, 0.05, 0.4][random.below(3) as usize];
    if stage == 2 && session.establish(harness, 0xffff).is_some() {
        session.enable(harness);
    }
    if stage >= 3 {
        let mut admin = Session::open(harness, SessionOptions { role: Role::Admin, ..options });
        let controller_id = admin.establish(harness, 0xffff).expect("a good Connect");
        admin.enable(harness);
        session.establish(harness, controller_id).expect("a good Connect");
        session.admin = Some(Box::new(admin));
    }
    session
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of an ordinary test run: each has a dozen sessions.
    const ROUNDS: u64 = 200;

    fn variable(name: &str) -> Option<u64> {
        std::env::var(name).ok()?.parse().ok()
    }

    /// `NVMF_HOSTILE_ROUNDS` runs more, `NVMF_HOSTILE_SEED` one round again.
    #[test]
    fn hostile_sessions_touch_nobody_else_and_leave_nothing_behind() {
        let rounds = variable("NVMF_HOSTILE_ROUNDS").unwrap_or(ROUNDS);
        let seeds = match variable("NVMF_HOSTILE_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..rounds,
        };
        for seed in seeds {
            let round = std::panic::catch_unwind(|| run(seed));
            assert!(round.is_ok(), "replay with NVMF_HOSTILE_SEED={seed}");
        }
    }
}
