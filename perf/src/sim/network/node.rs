//! A simulated storage node: a target over one disk, which can be restarted, with or without the
//! power that keeps what was not flushed.

use std::sync::{Arc, PoisonError};

use bdev::BlockDevice;
use nvmf::target::namespace::{Access, Namespace, NamespaceId};
use nvmf::target::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use nvmf::target::{Message, TargetCore, TargetDescription};
use reactor::mesh::{self, Peers};
use reactor::socket::Wait;
use reactor::{Nanos, Service, VirtualClock, Wake};

use super::fabric::{Fabric, Owner};
use super::port::Port;
use crate::sim::contexts::{Contexts, Core};
use crate::sim::disk::SharedPlatter;
use crate::sim::violation::Violation;

/// Bytes by which a run of a target names itself.
const INSTANCE_BYTES: usize = 16;

/// The name of a node's subsystem.
pub fn subsystem_nqn(link: usize) -> nvmf::fabrics::Nqn {
    format!("nqn.2019-05.io.openebs:disk{link}").parse().expect("it is well-formed")
}

/// How a restart goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The process alone: the disk keeps its cache.
    Process,
    /// The node: what was not flushed may be lost.
    Power,
}

/// Whether hosts are told of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Their streams end.
    Told,
    /// They hear nothing until they send something.
    Silent,
}

/// See the module.
#[derive(Debug)]
pub struct Node {
    link: usize,
    seed: u64,
    device: Arc<dyn BlockDevice>,
    disk: SharedPlatter,
    fabric: Fabric,
    port: Port,
    core: Core,
    /// Nothing while it is taken apart.
    target: Option<TargetCore>,
    runs: u64,
    /// Until then nobody listens.
    down_until: Option<Nanos>,
    is_idle: bool,
}

fn peers(core: &Core) -> Peers<Message> {
    let waker = core.cx.waker.clone().expect("a simulated core has one");
    mesh::connect(&[waker]).pop().expect("one core has one set of peers")
}

impl Node {
    /// A node that is up.
    pub fn new(
        fabric: &Fabric,
        link: usize,
        (device, disk): (Arc<dyn BlockDevice>, SharedPlatter),
        (hand, seed): (&VirtualClock, u64),
        contexts: &mut Contexts,
    ) -> Result<Node, Violation> {
        let port = Port::of_target(fabric, Owner(link as u64), link);
        let core = contexts.take_wired(link, hand, seed, &port)?;
        let fabric = fabric.clone();
        let mut node = Node {
            link,
            seed,
            device,
            disk,
            fabric,
            port,
            core,
            target: None,
            runs: 0,
            down_until: None,
            is_idle: false,
        };
        node.start();
        node.fabric.set_up(link, true);
        Ok(node)
    }

    /// Begins a run of the target, which names itself as no other does.
    fn start(&mut self) {
        self.runs += 1;
        let nqn = subsystem_nqn(self.link);
        let device = Arc::clone(&self.device);
        let namespaces = vec![Namespace::new(&nqn, NamespaceId(1), device, Access::ReadWrite)];
        let mut instance = [0; INSTANCE_BYTES];
        instance[..8].copy_from_slice(&(self.seed ^ u64::MAX).to_le_bytes());
        instance[8..].copy_from_slice(&(self.runs << 8 | self.link as u64).to_le_bytes());
        let config = SubsystemConfig::new(nqn, SubsystemKind::Nvm, instance);
        let subsystem = Subsystem::new(SubsystemConfig { namespaces, ..config });
        let subsystem = subsystem.expect("a subsystem of one namespace is well-formed");
        let description = Arc::new(TargetDescription::new(vec![subsystem]));
        self.target = Some(TargetCore::new(description, peers(&self.core)));
        self.is_idle = false;
    }

    /// The target ends where it is, and is there again at `until` as another run.
    pub fn restart(
        &mut self,
        (restart, farewell): (Restart, Farewell),
        until: Nanos,
        hand: &VirtualClock,
        contexts: &mut Contexts,
    ) -> Result<(), Violation> {
        if farewell == Farewell::Silent {
            self.fabric.orphan(self.link);
        }
        self.fabric.set_up(self.link, false);
        self.target = None;
        if restart == Restart::Power {
            self.disk.lock().unwrap_or_else(PoisonError::into_inner).lose_power();
        }
        let seed = self.seed.wrapping_add(self.runs);
        let core = contexts.take_wired(self.link, hand, seed, &self.port)?;
        contexts.give(std::mem::replace(&mut self.core, core));
        self.start();
        self.down_until = Some(until);
        Ok(())
    }

    /// Comes up, if it is time to.
    pub fn advance(&mut self, now: Nanos) {
        if self.down_until.is_some_and(|until| until <= now) {
            self.down_until = None;
            self.fabric.set_up(self.link, true);
        }
    }

    /// Comes up at once.
    pub fn heal(&mut self) {
        self.advance(Nanos(u64::MAX));
    }

    /// One pass of its core.
    pub fn pass(&mut self) {
        let (cx, Some(target)) = (&mut self.core.cx, &mut self.target) else { return };
        cx.advance_clock();
        let mut work = target.take_messages(cx);
        while let Some(socket) = self.port.accept() {
            work += 1;
            target.serve(cx, |_, key| Some(Box::new(socket.keyed(key))));
        }
        let mut ready = Vec::new();
        cx.network.poll(Wait::No, &mut ready);
        for ready in ready {
            work += 1;
            if !cx.device_readiness.note(ready) {
                target.socket_ready(cx, ready);
            }
        }
        work += target.receive(cx) + target.poll_devices(cx) + target.send(cx);
        while let Some(key) = cx.timers.expire_one(cx.now()) {
            target.timer(cx, key);
            work += 1;
        }
        self.is_idle = work == 0;
    }

    /// When it has something to do.
    pub fn next_event(&self, now: Nanos) -> Option<Nanos> {
        if !self.is_idle || self.port.has_news() {
            return Some(now);
        }
        let target = self.target.as_ref()?;
        let wake = match target.wake(&self.core.cx) {
            Wake::Now => Some(now),
            Wake::At(time) => Some(time),
            Wake::Descriptor | Wake::Never => None,
        };
        [wake, self.core.cx.timers.next_deadline(), self.down_until].into_iter().flatten().min()
    }

    /// Ends it for good.
    pub fn end(self, contexts: &mut Contexts) {
        drop(self.target);
        contexts.give(self.core);
    }
}
