//! Simulated nodes and the network between them and the volume's process: the real initiator and
//! the real target over streams that delay, fall silent and break.
//!
//! [`fabric`] carries bytes, [`port`] is what a core sees of it, [`node`] is a target over one
//! disk, [`admin`] the control thread of the process that mirrors over them. [`Cluster`] holds them
//! all and is driven by [`super::world`], on its one thread and clock.

mod admin;
mod fabric;
mod node;
mod port;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bdev::BlockDevice;
use bdev::session::{Link, Sessions};
use reactor::random::Random;
use reactor::{Nanos, VirtualClock};
use uuid::Uuid;

use admin::Admin;
pub use fabric::LinkPlan;
use fabric::{Fabric, Owner};
use node::{Farewell, Node, Restart};
pub use port::Port;

use super::contexts::{Contexts, Core};
use super::disk::{Disk, SharedPlatter};
use super::plan::{NetworkPlan, Plan};
use super::trace::Trace;
use super::violation::Violation;

/// Passes in which all devices are open at the latest.
const OPEN_PASSES_MAX: usize = 100_000;
/// By how much more the clock goes on with each of them, so that a target that is away for long is
/// waited for though somebody polls.
const OPEN_STEP: Nanos = Nanos(100);
/// How long it takes until all nodes are up again.
const BLACKOUT: Nanos = Nanos::from_millis(50);
/// First of the owners that are no nodes.
const OWNERS_FIRST: u64 = 1 << 16;

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    fabric: Fabric,
    nodes: Vec<Node>,
    admin: Option<Admin>,
    owners: u64,
    hand: VirtualClock,
    disks: Vec<SharedPlatter>,
    plan: NetworkPlan,
    seed: u64,
    trace: Trace,
    /// Of the devices that are open.
    sessions: Vec<Arc<Sessions>>,
    /// Restarts of targets.
    pub restarts: u64,
}

/// What goes wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    Cut,
    Silence,
    Restart,
}

impl Cluster {
    /// The nodes of these disks, `blocks` each, all up.
    pub fn new(
        (plan, network): (&Plan, &NetworkPlan),
        (disks, blocks): (&[SharedPlatter], u64),
        hand: &VirtualClock,
        trace: &Trace,
        contexts: &mut Contexts,
    ) -> Result<Cluster, Violation> {
        let seed = plan.seed.rotate_left(7) ^ 0xfab;
        let links: Vec<LinkPlan> = network.links.iter().map(|link| link.plan).collect();
        let fabric = Fabric::new(&links, seed, trace.clone());
        let node = |(link, disk): (usize, &SharedPlatter)| {
            let depth = plan.disks[link].depth_max;
            let device: Arc<dyn BlockDevice> = Arc::new(Disk::new(disk.clone(), blocks, depth));
            let seed = seed.wrapping_add(link as u64);
            Node::new(&fabric, link, (device, disk.clone()), (hand, seed), contexts)
        };
        let nodes = disks.iter().enumerate().map(node).collect::<Result<_, _>>()?;
        Ok(Cluster {
            fabric,
            nodes,
            admin: None,
            owners: OWNERS_FIRST,
            hand: hand.clone(),
            disks: disks.to_vec(),
            plan: network.clone(),
            seed,
            trace: trace.clone(),
            sessions: Vec::new(),
            restarts: 0,
        })
    }

    fn owner(&mut self) -> Owner {
        self.owners += 1;
        Owner(self.owners)
    }

    /// A place for a core of the process.
    pub fn port(&mut self) -> Port {
        let owner = self.owner();
        Port::of_host(&self.fabric, owner)
    }

    /// Starts the control thread of a process and opens all devices; time goes by.
    pub fn open(
        &mut self,
        host: Uuid,
        contexts: &mut Contexts,
    ) -> Result<Vec<Arc<dyn BlockDevice>>, Violation> {
        let owner = self.owner();
        let seed = self.seed ^ owner.0;
        let mut admin = Admin::new(&self.fabric, owner, (&self.hand, seed), contexts)?;
        let mut doors = admin.open(self.nodes.len(), host, self.plan.digests)?;
        self.admin = Some(admin);
        for pass in 0..OPEN_PASSES_MAX {
            (0..self.parties()).for_each(|party| self.pass(party));
            let admin = self.admin.as_mut().expect("it was just started");
            if let Some(devices) = admin.try_open(&mut doors)? {
                let device = |device| Arc::new(device) as Arc<dyn BlockDevice>;
                let devices: Vec<_> = devices.into_iter().map(device).collect();
                self.sessions = devices.iter().filter_map(|device| device.sessions()).collect();
                return Ok(devices);
            }
            let now = self.hand.read();
            let disks = self.disks.iter().filter_map(|disk| lock(disk).next_event());
            let next = self.next_event(now).into_iter().chain(disks).min();
            let step = Nanos(OPEN_STEP.0 * pass as u64);
            self.hand.advance(next.map_or(step, |next| step.max(next - now)));
            self.advance();
            let now = self.hand.read();
            self.disks.iter().for_each(|disk| lock(disk).advance(now));
        }
        Err(Violation::Stuck(String::from("the devices are never open")))
    }

    /// True when every device is within reach.
    pub fn is_connected(&self) -> bool {
        self.sessions.iter().all(|sessions| sessions.state().link == Link::Live)
    }

    /// Those who may have a turn.
    pub fn parties(&self) -> usize {
        self.nodes.len() + 1
    }

    /// The turn of one of them.
    pub fn pass(&mut self, party: usize) {
        match (self.nodes.get_mut(party), &mut self.admin) {
            (Some(node), _) => node.pass(),
            (None, Some(admin)) => admin.pass(),
            (None, None) => {}
        }
    }

    /// A core of the process has had its turn.
    pub fn touch(&mut self) {
        if let Some(admin) = &mut self.admin {
            admin.touch();
        }
    }

    /// The clock has moved.
    pub fn advance(&mut self) {
        let now = self.hand.read();
        self.trace.set_now(now);
        self.nodes.iter_mut().for_each(|node| node.advance(now));
        self.fabric.advance(now);
    }

    /// When somebody has something to do.
    pub fn next_event(&self, now: Nanos) -> Option<Nanos> {
        let nodes = self.nodes.iter().filter_map(|node| node.next_event(now));
        let admin = self.admin.as_ref().and_then(|admin| admin.next_event(now));
        nodes.chain(admin).chain(self.fabric.next_event()).min()
    }

    /// Lets something go wrong, if the chance says so. What may be lost of a disk is lost only
    /// where another one that never fails keeps it.
    pub fn mishap(
        &mut self,
        random: &mut Random,
        may_lose: bool,
        contexts: &mut Contexts,
    ) -> Result<(), Violation> {
        let NetworkPlan { cut_chance, silence_chance, restart_chance, .. } = self.plan;
        let chances = [
            (Mishap::Cut, cut_chance),
            (Mishap::Silence, silence_chance),
            (Mishap::Restart, restart_chance),
        ];
        for (mishap, chance) in chances {
            if !random.chance(chance) {
                continue;
            }
            let link = random.below(self.nodes.len() as u64) as usize;
            if self.plan.links[link].is_reliable {
                continue;
            }
            let until = self.hand.read() + Nanos(random.below(self.plan.absence_most.0));
            match mishap {
                Mishap::Cut => self.fabric.cut(link),
                Mishap::Silence => self.fabric.silence(link, until),
                Mishap::Restart => self.restart(random, may_lose, contexts)?,
            }
        }
        Ok(())
    }

    /// Restarts a target, unless the one that was drawn is never restarted.
    pub fn restart(
        &mut self,
        random: &mut Random,
        may_lose: bool,
        contexts: &mut Contexts,
    ) -> Result<(), Violation> {
        let link = random.below(self.nodes.len() as u64) as usize;
        let until = self.hand.read() + Nanos(random.below(self.plan.absence_most.0));
        let keeps = !lock(&self.disks[link]).has_volatile_cache();
        let loses = random.chance(0.5) && (may_lose || keeps);
        let restart = if loses { Restart::Power } else { Restart::Process };
        let farewell = if random.chance(0.5) { Farewell::Told } else { Farewell::Silent };
        if self.plan.links[link].is_reliable {
            return Ok(());
        }
        self.restarts += 1;
        self.trace.note("target restarts", [link as u64, until.0, u64::from(loses)]);
        self.nodes[link].restart((restart, farewell), until, &self.hand, contexts)
    }

    /// Every node loses power, and is there again some time later.
    pub fn lose_power(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        for node in &mut self.nodes {
            let how = (Restart::Power, Farewell::Silent);
            node.restart(how, self.hand.read() + BLACKOUT, &self.hand, contexts)?;
        }
        Ok(())
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.fabric.heal();
        self.nodes.iter_mut().for_each(Node::heal);
    }

    /// The process is gone, its control thread too.
    pub fn end_process(&mut self) -> Option<Core> {
        self.admin.take().map(Admin::end)
    }

    /// Everything ends.
    pub fn dissolve(self, contexts: &mut Contexts) {
        self.nodes.into_iter().for_each(|node| node.end(contexts));
    }
}

fn lock(disk: &SharedPlatter) -> std::sync::MutexGuard<'_, super::disk::Platter> {
    disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
