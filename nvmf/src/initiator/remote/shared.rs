//! What the cores and the supervisor of a remote device share.
//!
//! The supervisor alone changes sessions and grant; queue pairs read the session once a poll. The
//! other way go [`Note`]s, through a bounded queue, off the path of I/O that goes well.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bdev::session::{Link, SessionState, Sessions};
use crossbeam_queue::ArrayQueue;
use reactor::sleep::Waker;

use super::super::connect::QueueGrant;
use super::super::options::IO_QUEUES_MAX;
use super::event::{LossReason, RemoteEvent};
use super::options::{EVENTS_MAX, NOTES_MAX};
use super::reserve::Asked;

/// What a queue pair wants of the supervisor.
#[derive(Debug)]
pub(super) enum Note {
    /// It is open, on a core that this wakes.
    Opened { queue_id: u16, waker: Option<Waker> },
    /// Its session must end.
    End { session: u64, reason: LossReason },
    /// A command is late: abort it.
    Abort { session: u64, queue_id: u16, command_id: u16 },
    /// Its reservations are asked for something.
    Reserve(Box<Asked>),
    /// The target says that this way is closed: look what it says of that.
    LookAtAccess { session: u64 },
}

/// Words of a grant: identifiers, in-capsule data, port and scope, address.
const GRANT_WORDS: usize = 5;

/// What is shared.
#[derive(Debug)]
pub(super) struct Shared {
    sessions: Arc<Sessions>,
    /// The grant of the session and where its controller is; valid while it is live or
    /// inaccessible.
    grant: [AtomicU64; GRANT_WORDS],
    /// Blocks of the namespace.
    blocks: AtomicU64,
    /// By queue id, from 1: whether a queue pair has it.
    ports: Box<[AtomicBool]>,
    /// Where the search for a free port begins.
    next_port: AtomicU64,
    notes: SyncSender<Note>,
    events: ArrayQueue<RemoteEvent>,
    stopping: AtomicBool,
    supervisor: Option<Waker>,
}

impl Shared {
    /// What is shared, and the notes for the supervisor, who is woken by `supervisor`.
    pub fn new(supervisor: Option<Waker>) -> (Arc<Shared>, Receiver<Note>) {
        let (notes, received) = sync_channel(NOTES_MAX);
        let shared = Shared {
            sessions: Arc::default(),
            grant: Default::default(),
            blocks: AtomicU64::new(0),
            ports: (0..IO_QUEUES_MAX).map(|_| AtomicBool::new(false)).collect(),
            next_port: AtomicU64::new(0),
            notes,
            events: ArrayQueue::new(EVENTS_MAX),
            stopping: AtomicBool::new(false),
            supervisor,
        };
        (Arc::new(shared), received)
    }

    /// The sessions, to be changed by the supervisor only.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Tells the supervisor; false when there is no room.
    pub fn note(&self, note: Note) -> bool {
        let sent = self.notes.try_send(note).is_ok();
        self.wake_supervisor();
        sent
    }

    fn wake_supervisor(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.wake_if_sleeping();
        }
    }

    /// The supervisor is to end.
    pub fn stop(&self) {
        // Release, partner: the acquire in `is_stopping`.
        self.stopping.store(true, Ordering::Release);
        self.wake_supervisor();
    }

    /// Whether the supervisor is to end.
    pub fn is_stopping(&self) -> bool {
        // Acquire, partner: the release in `stop`.
        self.stopping.load(Ordering::Acquire)
    }

    /// Sets the grant of the session that is about to begin. By the supervisor, while the session
    /// before is lost.
    pub fn set_grant(&self, grant: QueueGrant, address: SocketAddr) {
        let QueueGrant { controller_id, io_queues, depth, capsule_data_bytes_max } = grant;
        let ids = u64::from(controller_id) << 32 | u64::from(io_queues) << 16 | u64::from(depth);
        let [port, high, low] = words_of(address);
        let words = [ids, u64::from(capsule_data_bytes_max), port, high, low];
        for (at, word) in self.grant.iter().zip(words) {
            // Release, partner: the fence in `grant`: who sees these sees the loss stored before.
            at.store(word, Ordering::Release);
        }
    }

    /// The grant of a session and where its controller is; nothing when the session is over.
    pub fn grant(&self, session: SessionState) -> Option<(QueueGrant, SocketAddr)> {
        // Relaxed: the fence orders all before the second look at the session; were they of a
        // later session, that look would see at least the loss of this one.
        let words = self.grant.each_ref().map(|word| word.load(Ordering::Relaxed));
        let [ids, capsule, port, high, low] = words;
        fence(Ordering::Acquire);
        let [depth0, depth1, queues0, queues1, id0, id1, ..] = ids.to_le_bytes();
        let grant = QueueGrant {
            controller_id: u16::from_le_bytes([id0, id1]),
            io_queues: u16::from_le_bytes([queues0, queues1]),
            depth: u16::from_le_bytes([depth0, depth1]),
            capsule_data_bytes_max: u32::try_from(capsule).expect("stored from 32 bits"),
        };
        let now = self.sessions.state();
        let holds = now.number == session.number && matches!(now.link, Link::Live);
        holds.then(|| (grant, address_of([port, high, low])))
    }

    /// Where the controller is, or was last.
    pub fn address(&self) -> SocketAddr {
        // Relaxed: for a text; a mixture of two addresses does no harm there.
        let [_, _, port, high, low] =
            self.grant.each_ref().map(|word| word.load(Ordering::Relaxed));
        address_of([port, high, low])
    }

    /// I/O queues that were granted last.
    pub fn queues(&self) -> u16 {
        // Relaxed: a number and nothing else.
        let [_, _, low, high, ..] = self.grant[0].load(Ordering::Relaxed).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Blocks of the namespace now.
    pub fn blocks(&self) -> u64 {
        // Relaxed: a number and nothing else.
        self.blocks.load(Ordering::Relaxed)
    }

    /// Sets them. By the supervisor.
    pub fn set_blocks(&self, blocks: u64) {
        // Relaxed: see `blocks`.
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    /// Takes the id of an I/O queue that nobody has, of those up to `last`. Ids are dealt in turn:
    /// the target may not have done with one that was given back just now.
    pub fn take_port(&self, last: u16) -> Option<u16> {
        let ports = &self.ports[..usize::from(last).min(self.ports.len())];
        let count = u64::try_from(ports.len()).ok().filter(|count| *count > 0)?;
        // Relaxed: where the search begins does not matter.
        let start = self.next_port.fetch_add(1, Ordering::Relaxed);
        let order = (0..count).map(|step| (start.wrapping_add(step)) % count);
        let free = order.map(|index| usize::try_from(index).expect("fewer than 128 ports")).find(
            // AcqRel, partner: the release in `give_port`.
            |index| !ports[*index].swap(true, Ordering::AcqRel),
        )?;
        Some(u16::try_from(free + 1).expect("fewer than 128 ports"))
    }

    /// Gives an id back.
    pub fn give_port(&self, queue_id: u16) {
        // Release, partner: the swap in `take_port`.
        self.ports[usize::from(queue_id) - 1].store(false, Ordering::Release);
    }

    /// Adds an event; the oldest gives way when there is no room.
    pub fn report(&self, event: RemoteEvent) {
        self.events.force_push(event);
    }

    /// Takes the oldest event.
    pub fn take_event(&self) -> Option<RemoteEvent> {
        self.events.pop()
    }
}

const IPV6: u64 = 1 << 48;

/// Port, scope and kind of an address, and its 128 bits.
fn words_of(address: SocketAddr) -> [u64; 3] {
    let port = u64::from(address.port());
    match address {
        SocketAddr::V4(address) => [port, 0, u64::from(address.ip().to_bits())],
        SocketAddr::V6(address) => {
            let [high, low] = halves(address.ip().to_bits());
            [IPV6 | u64::from(address.scope_id()) << 16 | port, high, low]
        }
    }
}

fn halves(bits: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bits.to_be_bytes();
    let half = u64::from_be_bytes;
    [half([a, b, c, d, e, f, g, h]), half([i, j, k, l, m, n, o, p])]
}

fn address_of([word, high, low]: [u64; 3]) -> SocketAddr {
    let [port0, port1, scope0, scope1, scope2, scope3, ..] = word.to_le_bytes();
    let port = u16::from_le_bytes([port0, port1]);
    if word & IPV6 == 0 {
        let bits = u32::try_from(low).expect("stored from 32 bits");
        return SocketAddr::from((Ipv4Addr::from_bits(bits), port));
    }
    let address = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    let scope = u32::from_le_bytes([scope0, scope1, scope2, scope3]);
    SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope))
}

#[cfg(test)]
mod tests {
    use bdev::session::Continuity;

    use super::*;

    #[test]
    fn a_grant_reads_as_written_and_only_for_its_own_session() {
        let (shared, _notes) = Shared::new(None);
        let grant = QueueGrant {
            controller_id: 0xffee,
            io_queues: 128,
            depth: 1023,
            capsule_data_bytes_max: u32::MAX,
        };
        let v6 = Ipv6Addr::new(0xfe80, 1, 2, 3, 4, 5, 6, 0xffff);
        let addresses = [
            SocketAddr::from(([255, 0, 1, 254], 65535)),
            SocketAddr::V6(SocketAddrV6::new(v6, 65534, 0, u32::MAX)),
        ];
        let mut session = SessionState::NONE;
        for address in addresses {
            shared.set_grant(grant, address);
            session = shared.sessions().begin(Continuity::Kept, Link::Live);
            assert_eq!(shared.grant(session), Some((grant, address)));
            assert_eq!(shared.address(), address);
        }
        shared.sessions().change(Link::Lost);
        assert_eq!(shared.grant(session), None);
        shared.sessions().begin(Continuity::Kept, Link::Live);
        assert_eq!(shared.grant(session), None);
    }

    #[test]
    fn every_port_is_taken_once_and_one_given_back_comes_last() {
        let (shared, _notes) = Shared::new(None);
        let mut taken: Vec<u16> = (0..4).map(|_| shared.take_port(4).unwrap()).collect();
        assert_eq!(shared.take_port(4), None);
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3, 4]);
        shared.give_port(3);
        assert_eq!(shared.take_port(2), None);
        assert_eq!(shared.take_port(4), Some(3));
        assert_eq!(shared.take_port(0), None);
        let all = (0..IO_QUEUES_MAX).filter_map(|_| shared.take_port(u16::MAX)).count();
        assert_eq!(all, usize::from(IO_QUEUES_MAX) - 4);
    }

    #[test]
    fn notes_are_taken_up_to_their_limit_and_events_keep_the_newest() {
        let (shared, notes) = Shared::new(None);
        for _ in 0..NOTES_MAX {
            assert!(shared.note(Note::LookAtAccess { session: 1 }));
        }
        assert!(!shared.note(Note::LookAtAccess { session: 1 }));
        assert_eq!(notes.try_iter().count(), NOTES_MAX);
        for blocks in 0..=EVENTS_MAX as u64 {
            shared.report(RemoteEvent::Resized { blocks });
        }
        let events: Vec<_> = std::iter::from_fn(|| shared.take_event()).collect();
        assert_eq!(events.len(), EVENTS_MAX);
        assert!(matches!(events[0], RemoteEvent::Resized { blocks: 1 }));
    }
}
