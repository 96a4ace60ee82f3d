//! A target that changes under a device: a way that is closed, a namespace that grows, shrinks,
//! goes and comes back, each told by an event of our own target.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bdev::nvme::log_page::AnaState;
use bdev::session::{Link, SessionState};
use bdev::{BlockDevice, Completions, Geometry, Io, Lba, Malloc, QueuePair, Status, Token};
use reactor::cx::test_context;
use reactor::dma::DmaBuffer;
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, VirtualClock};

use super::connecting::NQN;
use super::laws::OwnTarget;
use super::remote::{World, open, options};
use super::wire::{Peer, Wires};
use crate::fabrics::Nqn;
use crate::initiator::remote::{Mismatch, RemoteDevice, RemoteEvent, WhenLost};
use crate::target::TargetDescription;
use crate::target::harness::Harness;
use crate::target::namespace::{Access, Namespace, NamespaceId};
use crate::target::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};

const BLOCKS: u64 = 400;

#[derive(Debug)]
struct Target(Rc<RefCell<OwnTarget>>);

impl Peer for Target {
    fn step(&mut self, wires: &Wires) {
        self.0.borrow_mut().step(wires);
    }
}

fn ram(blocks: u64) -> Arc<dyn BlockDevice> {
    Arc::new(Malloc::new("ram", Geometry { block_bytes: 512, blocks }, None).unwrap())
}

/// The target with this namespace, or none.
fn described(
    generation: u64,
    namespace: Option<(&Arc<dyn BlockDevice>, AnaState)>,
) -> TargetDescription {
    let nqn: Nqn = NQN.parse().unwrap();
    let made = |(device, ana): (&Arc<dyn BlockDevice>, AnaState)| {
        let namespace = Namespace::new(&nqn, NamespaceId(1), Arc::clone(device), Access::ReadWrite);
        Namespace { ana, ..namespace }
    };
    let namespaces = namespace.map(made).into_iter().collect();
    let config = SubsystemConfig::new(nqn, SubsystemKind::Nvm, [7; 16]);
    let subsystem = Subsystem::new(SubsystemConfig { namespaces, ..config }).unwrap();
    TargetDescription { generation, ..TargetDescription::new(vec![subsystem]) }
}

struct Setup {
    cx: Cx,
    _hand: VirtualClock,
    world: World,
    target: Rc<RefCell<OwnTarget>>,
    device: RemoteDevice,
    queue_pair: Box<dyn QueuePair>,
    disk: Arc<dyn BlockDevice>,
    generation: u64,
    buffer: DmaBuffer,
    ended: Vec<(Token, Status)>,
}

impl Setup {
    fn new(when_lost: WhenLost) -> Setup {
        let (mut cx, hand) = test_context();
        let disk = ram(BLOCKS);
        let harness = Harness::new(described(1, Some((&disk, AnaState::Optimized))));
        let target = Rc::new(RefCell::new(OwnTarget(harness)));
        let peer = Box::new(Target(Rc::clone(&target)));
        let limits = MemoryLimits::default();
        let (device, world) = open(&mut cx, Some(&hand), options(when_lost), peer, limits).unwrap();
        let queue_pair = device.open_queue_pair(&mut cx, 8).unwrap();
        let buffer = cx.dma.take(4096).unwrap();
        let mut setup = Setup {
            cx,
            _hand: hand,
            world,
            target,
            device,
            queue_pair,
            disk,
            generation: 1,
            buffer,
            ended: Vec::new(),
        };
        assert_eq!(setup.read(1), Some(Status::SUCCESS));
        setup
    }

    fn apply(&mut self, namespace: Option<(&Arc<dyn BlockDevice>, AnaState)>) {
        self.generation += 1;
        let description = Arc::new(described(self.generation, namespace));
        let mut target = self.target.borrow_mut();
        let Harness { core, cx, .. } = &mut target.0;
        core.apply(cx, description).unwrap();
    }

    fn set_access(&mut self, state: AnaState) {
        let disk = Arc::clone(&self.disk);
        self.apply(Some((&disk, state)));
    }

    /// Passes of everything, a millisecond each.
    fn pass(&mut self, count: u32) {
        let mut completions = Completions::new();
        for _ in 0..count {
            self.queue_pair.flush(&mut self.cx);
            self.world.step(&mut self.cx);
            self.queue_pair.poll(&mut self.cx, &mut completions);
            let ended = completions.drain().map(|one| (one.token, one.status));
            self.ended.extend(ended);
        }
    }

    fn wait_for(&mut self, link: Link) -> SessionState {
        let sessions = self.device.sessions().unwrap();
        for _ in 0..100_000 {
            if sessions.state().link == link {
                return sessions.state();
            }
            self.pass(1);
        }
        panic!("{:?}", sessions.state());
    }

    fn submit(&mut self, token: u64) {
        let read = Io::read(Lba(3), 8, self.buffer.segment(4096), Token(token));
        self.queue_pair.submit(&mut self.cx, read).unwrap();
    }

    /// Reads, and gives how that ended if it does within 20 ms.
    fn read(&mut self, token: u64) -> Option<Status> {
        self.submit(token);
        self.pass(20);
        self.status_of(token)
    }

    fn status_of(&self, token: u64) -> Option<Status> {
        let mut ended = self.ended.iter().filter(|(ended, _)| *ended == Token(token));
        let status = ended.next().map(|(_, status)| *status);
        assert!(ended.next().is_none(), "a token ends once");
        status
    }

    fn reads_at_target(&self) -> u64 {
        self.target.borrow().0.cx.counters.ios
    }

    fn events(&self) -> Vec<String> {
        let events = std::iter::from_fn(|| self.device.take_event());
        events.map(|event| event.to_string()).collect()
    }
}

#[test]
fn io_waits_while_its_way_is_closed_and_goes_when_it_is_open() {
    for closed in [AnaState::Inaccessible, AnaState::Change, AnaState::PersistentLoss] {
        let mut setup = Setup::new(WhenLost::Wait(Duration::from_secs(60)));
        setup.set_access(closed);
        setup.wait_for(Link::Inaccessible);
        let before = setup.reads_at_target();
        assert_eq!(setup.read(2), None, "{closed:?}");
        setup.pass(200);
        assert_eq!(setup.status_of(2), None);
        assert_eq!(setup.reads_at_target(), before, "nothing is tried on a closed way");
        setup.set_access(AnaState::NonOptimized);
        let session = setup.wait_for(Link::Live);
        setup.pass(20);
        assert_eq!(setup.status_of(2), Some(Status::SUCCESS));
        assert_eq!(session.number, 1, "the session has lived on");
    }
}

#[test]
fn io_on_a_closed_way_ends_with_what_the_target_says_of_it() {
    let mut setup = Setup::new(WhenLost::Fail);
    setup.set_access(AnaState::Inaccessible);
    setup.wait_for(Link::Inaccessible);
    let before = setup.reads_at_target();
    assert_eq!(setup.read(2), Some(Status::ANA_INACCESSIBLE));
    assert_eq!(setup.reads_at_target(), before);
    setup.set_access(AnaState::Optimized);
    setup.wait_for(Link::Live);
    assert_eq!(setup.read(3), Some(Status::SUCCESS));
    // One that waits, waits no longer than it was told.
    let mut setup = Setup::new(WhenLost::Wait(Duration::from_millis(100)));
    setup.set_access(AnaState::Inaccessible);
    setup.wait_for(Link::Inaccessible);
    assert_eq!(setup.read(2), None);
    setup.pass(120);
    assert_eq!(setup.status_of(2), Some(Status::ANA_INACCESSIBLE));
}

#[test]
fn a_namespace_that_grows_is_seen_and_one_that_shrinks_is_refused() {
    let mut setup = Setup::new(WhenLost::Fail);
    let larger = ram(2 * BLOCKS);
    setup.apply(Some((&larger, AnaState::Optimized)));
    setup.pass(100);
    assert_eq!(setup.device.geometry().blocks, 2 * BLOCKS);
    assert_eq!(setup.read(2), Some(Status::SUCCESS));
    assert_eq!(setup.device.sessions().unwrap().state().number, 1);
    assert!(setup.events().contains(&RemoteEvent::Resized { blocks: 2 * BLOCKS }.to_string()));
    let smaller = ram(BLOCKS);
    setup.apply(Some((&smaller, AnaState::Optimized)));
    setup.wait_for(Link::Refused);
    assert!(setup.events().contains(&RemoteEvent::Refused(Mismatch::Smaller).to_string()));
    let refused = setup.read(3).unwrap();
    assert!(refused.has_code(Status::HOST_PATHING_ERROR) && refused.do_not_retry());
    setup.apply(Some((&larger, AnaState::Optimized)));
    setup.wait_for(Link::Live);
    assert_eq!(setup.read(4), Some(Status::SUCCESS));
}

#[test]
fn a_namespace_that_is_removed_is_lost_until_it_is_attached_again() {
    let mut setup = Setup::new(WhenLost::Wait(Duration::from_secs(600)));
    setup.apply(None);
    setup.wait_for(Link::Lost);
    assert_eq!(setup.read(2), None);
    setup.pass(3000);
    assert_eq!(setup.status_of(2), None);
    let disk = Arc::clone(&setup.disk);
    setup.apply(Some((&disk, AnaState::Optimized)));
    let session = setup.wait_for(Link::Live);
    setup.pass(20);
    assert_eq!(setup.status_of(2), Some(Status::SUCCESS));
    assert_eq!(session.number, 2);
    assert_eq!(setup.device.sessions().unwrap().restarts(), 0, "the same run all the time");
}
