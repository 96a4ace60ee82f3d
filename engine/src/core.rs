//! One core of the engine: the target's part of it, the rings of virtual machines, and the nexuses
//! that have their home there.
//!
//! The service of each reactor. Every phase is the target's own; homes are polled beside its queue
//! pairs, after them, so that what a pass has found out about a child is acted on in that pass.
//! Closures of control threads reach both.

use std::sync::Arc;

use nvmf::target::{Message, TargetCore, TargetDescription};
use reactor::mesh::Peers;
use reactor::socket::Ready;
use reactor::{Cx, Nanos, Service, Wake};
use vhost_blk::core::VhostCore;

use crate::homes::Homes;

/// See the module.
#[derive(Debug)]
pub struct EngineCore {
    /// What serves hosts.
    pub target: TargetCore,
    /// What there is one of in each nexus, for those that live here.
    pub(crate) homes: Homes,
    /// What serves virtual machines.
    pub(crate) rings: VhostCore,
}

impl EngineCore {
    /// A core of the engine. Called on the core's own thread.
    pub fn new(description: Arc<TargetDescription>, peers: Peers<Message>) -> EngineCore {
        EngineCore {
            target: TargetCore::new(description, peers),
            homes: Homes::default(),
            rings: VhostCore::default(),
        }
    }
}

impl Service for EngineCore {
    fn take_messages(&mut self, cx: &mut Cx) -> usize {
        self.target.take_messages(cx)
    }

    fn socket_ready(&mut self, cx: &mut Cx, ready: Ready) {
        self.target.socket_ready(cx, ready);
    }

    fn receive(&mut self, cx: &mut Cx) -> usize {
        self.target.receive(cx) + self.rings.receive(cx)
    }

    fn poll_devices(&mut self, cx: &mut Cx) -> usize {
        self.target.poll_devices(cx) + self.rings.poll_devices(cx) + self.homes.poll(cx)
    }

    fn send(&mut self, cx: &mut Cx) -> usize {
        self.target.send(cx) + self.rings.send(cx)
    }

    fn timer(&mut self, cx: &mut Cx, key: u64) {
        self.target.timer(cx, key);
    }

    fn wake(&self, cx: &Cx) -> Wake {
        self.target.wake(cx).soonest(self.rings.wake(cx)).soonest(self.homes.wake())
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.target.arm(cx) && self.rings.arm(cx) && self.homes.arm(cx)
    }

    fn stop(&mut self, cx: &mut Cx, deadline: Nanos) {
        // No change of members comes any more that an I/O could be held for.
        self.homes.end();
        self.target.stop(cx, deadline);
        self.rings.stop(deadline);
    }

    fn stopped(&self) -> bool {
        self.target.stopped() && self.rings.stopped()
    }
}
