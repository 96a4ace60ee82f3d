//! What a new session may have lost: known of our own targets, assumed of others.

use bdev::BlockDevice;
use bdev::session::{Continuity, Link};
use reactor::cx::test_context;
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, VirtualClock};

use super::controller::{Behaviour, FakeController};
use super::faulty::Faults;
use super::laws::{OwnTarget, own_description_of, ram_disk};
use super::remote::{World, open, options};
use super::wire::Peer;
use crate::initiator::remote::{RemoteDevice, RemoteEvent, WhenLost};
use crate::target::harness::Harness;

fn own_run(instance: u8) -> Box<dyn Peer> {
    Box::new(OwnTarget(Harness::new(own_description_of(ram_disk(), [instance; 16]))))
}

struct Setup {
    cx: Cx,
    _hand: VirtualClock,
    world: World,
    device: RemoteDevice,
    faults: Faults,
}

impl Setup {
    fn over(peer: Box<dyn Peer>) -> Setup {
        let (mut cx, hand) = test_context();
        let limits = MemoryLimits::default();
        let (device, world) =
            open(&mut cx, Some(&hand), options(WhenLost::Fail), peer, limits).unwrap();
        let faults = Faults::install(&world.wires);
        let mut setup = Setup { cx, _hand: hand, world, device, faults };
        // The streams of the opening came before the faults did.
        setup.world.is_down = true;
        setup.reconnect(None);
        setup
    }

    /// Cuts every connection, perhaps changes the target, and waits for the next session; gives
    /// what it is said to be, and the restarts so far.
    fn reconnect(&mut self, peer: Option<Box<dyn Peer>>) -> (Continuity, u64) {
        let sessions = self.device.sessions().unwrap();
        let before = sessions.state().number;
        self.faults.restart(None);
        if let Some(peer) = peer {
            self.world.peer = peer;
        }
        for _ in 0..1_000_000 {
            self.world.step(&mut self.cx);
            let state = sessions.state();
            self.world.is_down &= state.link == Link::Live;
            if state.number > before && state.link == Link::Live {
                let events = std::iter::from_fn(|| self.device.take_event());
                let last = events.filter_map(|event| match event {
                    RemoteEvent::Connected { continuity, .. } => Some(continuity),
                    _ => None,
                });
                return (last.last().expect("a session is told of"), sessions.restarts());
            }
        }
        panic!("no session again");
    }
}

#[test]
fn a_cut_connection_is_no_restart_of_our_own_target_and_another_run_is() {
    let mut setup = Setup::over(own_run(1));
    let before = setup.device.sessions().unwrap().restarts();
    for _ in 0..3 {
        assert_eq!(setup.reconnect(None), (Continuity::Kept, before));
    }
    assert_eq!(setup.reconnect(Some(own_run(2))), (Continuity::Restarted, before + 1));
    assert_eq!(setup.reconnect(None), (Continuity::Kept, before + 1));
    // Back to what ran before is another run all the same.
    assert_eq!(setup.reconnect(Some(own_run(1))), (Continuity::Restarted, before + 2));
}

#[test]
fn every_loss_of_a_foreign_controller_counts_as_a_restart() {
    let foreign = || Box::new(FakeController::new(Behaviour::default()));
    let mut setup = Setup::over(foreign());
    let before = setup.device.sessions().unwrap().restarts();
    for count in 1..=3 {
        assert_eq!(setup.reconnect(None), (Continuity::Restarted, before + count));
    }
}

#[test]
fn a_target_that_no_longer_says_which_run_it_is_counts_as_restarted() {
    let mut setup = Setup::over(own_run(1));
    let before = setup.device.sessions().unwrap().restarts();
    let silent = own_run(0);
    assert_eq!(setup.reconnect(Some(silent)), (Continuity::Restarted, before + 1));
    assert_eq!(setup.reconnect(None), (Continuity::Restarted, before + 2));
}
