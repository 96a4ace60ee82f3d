//! What a volume that several processes may open goes through: another owner beside one that is
//! paused, cut off or well; loss of power, of one disk or of everything; hosts that rest.
//!
//! Both owners have hosts, and what all of them see goes into one history: so an owner that was
//! overtaken may neither acknowledge what is lost nor show what is old.

use std::sync::Arc;

use nexus::view::Mode;
use nexus::{Home, Nexus};
use reactor::Nanos;

use super::{REST_MOST, Rest, World, is_reliable, platter};
use crate::sim::contexts::{Contexts, Core};
use crate::sim::disk::SharedPlatter;
use crate::sim::plan::Plan;
use crate::sim::process::Identity;
use crate::sim::record::SharedRecord;
use crate::sim::server::Server;
use crate::sim::trace::Trace;
use crate::sim::violation::Violation;

/// Of the steps in which there is a rival, those in which it has a turn.
const RIVAL_TURNS: f64 = 0.4;
/// Of these, those in which its hosts submit something.
const RIVAL_IOS: f64 = 0.2;
/// Of the steps in which there is a rival, those in which it ends.
const RIVAL_ENDS: f64 = 0.0005;
/// Of the steps in which the process has been overtaken, those in which another one is started.
const OVERTAKEN_ENDS: f64 = 0.01;
/// How much less often something happens while the volume is not open: opening takes seconds.
const UNOPENED: f64 = 0.02;
/// Of the steps in which hosts wait for that, or rest, those in which time goes on by more...
const LEAPS: f64 = 0.2;
/// ...than a step does: by so much at most.
const LEAP_MOST: Nanos = Nanos::from_millis(20);
/// How often one that was overtaken is started anew at the end, at most.
const STARTS_MAX: u32 = 8;

/// A process that has the volume open beside the one whose turn it is.
#[derive(Debug)]
pub(super) struct Rival {
    nexus: Arc<Nexus>,
    servers: Vec<Server>,
    identity: Identity,
    paused_until: Nanos,
}

impl Rival {
    pub fn next_event(&self, now: Nanos) -> Option<Nanos> {
        match now < self.paused_until {
            true => Some(self.paused_until),
            false => self.servers.iter().filter_map(|server| server.next_event(now)).min(),
        }
    }
}

/// Has disks check who uses them, and makes the record.
pub(super) fn prepare(plan: &Plan, disks: &[SharedPlatter], trace: &Trace) -> Option<SharedRecord> {
    let contest = plan.contest.as_ref()?;
    if plan.network.is_none() {
        disks.iter().for_each(|disk| platter(disk).set_gate(contest.check));
    }
    contest.record.map(|record| SharedRecord::new(record, plan.seed, trace.clone()))
}

impl World {
    /// Something happens that the plan has chances for.
    pub(super) fn contest(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        let Some(plan) = self.plan.contest.clone() else { return Ok(()) };
        let haste = if self.is_open() { 1.0 } else { UNOPENED };
        if (haste < 1.0 || self.is_quiet()) && self.random.chance(LEAPS) {
            let span = self.random.below(LEAP_MOST.0);
            self.advance(Nanos(span));
        }
        if self.random.chance(plan.blackout_chance * haste) {
            self.black_out(contexts)?;
        }
        if self.random.chance(plan.outage_chance * haste) {
            self.cut_power();
        }
        if self.random.chance(plan.rest_chance) && !self.is_quiet() {
            let rest = Nanos(self.random.below(REST_MOST.0));
            let now = self.hand.read();
            self.quiet_until = now + rest;
            self.restart_at = Some(now + Nanos(self.random.below(rest.0.max(1))));
            self.trace.note("hosts rest", [self.quiet_until.0, 0, 0]);
        }
        if self.cluster.is_none() && self.restart_at.is_some_and(|at| at <= self.hand.read()) {
            self.restart_at = None;
            if plan.outage_chance > 0.0 {
                self.cut_power();
            }
        }
        if self.is_overtaken() && self.random.chance(OVERTAKEN_ENDS) {
            self.crash_alone(contexts)?;
        }
        if self.cluster.is_none() && self.random.chance(plan.takeover_chance * haste) {
            self.take_over(contexts)?;
        }
        if self.rival.is_some() && self.random.chance(RIVAL_TURNS) {
            self.turn_of_rival()?;
        }
        if self.rival.is_some() && self.random.chance(RIVAL_ENDS) {
            self.end_rival(contexts);
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.servers[0].home.as_ref().is_some_and(Home::is_assembled)
    }

    fn is_overtaken(&self) -> bool {
        self.nexus.view().mode == Mode::Ended
    }

    /// Everything loses power, and comes back.
    fn black_out(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        self.counts.blackouts += 1;
        self.counts.crashes += 1;
        self.trace.note("all power is lost", [self.counts.blackouts, 0, 0]);
        self.end_process(contexts);
        match &mut self.cluster {
            Some(cluster) => cluster.lose_power(contexts)?,
            None => self.disks.iter().for_each(|disk| platter(disk).lose_power()),
        }
        self.volume.lose_power()?;
        self.start(contexts)
    }

    /// One disk loses power, where another one that never fails keeps what it loses.
    fn cut_power(&mut self) {
        let disks = self.disks.len();
        let Some(anchor) = (0..disks).find(|number| is_reliable(&self.plan, *number)) else {
            return;
        };
        let number = self.random.below(disks as u64) as usize;
        if number != anchor && self.cluster.is_none() {
            platter(&self.disks[number]).lose_power();
        }
    }

    /// Another process opens the volume beside this one, and hosts go there; some stay.
    fn take_over(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        self.end_rival(contexts);
        self.counts.takeovers += 1;
        self.trace.note("another process opens", [self.counts.takeovers, 0, 0]);
        let older = self.step_aside();
        self.start(contexts)?;
        self.rival = Some(older);
        // Mostly it is the older one that is out of reach.
        let is_younger = self.random.chance(0.2);
        if !is_younger {
            self.change_places();
        }
        self.hinder();
        if !is_younger {
            self.change_places();
        }
        Ok(())
    }

    fn step_aside(&mut self) -> Rival {
        Rival {
            nexus: self.nexus.clone(),
            servers: std::mem::take(&mut self.servers),
            identity: self.identity.clone(),
            paused_until: self.paused_until,
        }
    }

    /// The process is paused, or cut off from some of the disks and the record, or neither.
    fn hinder(&mut self) {
        let Some(plan) = self.plan.contest.clone() else { return };
        let until = self.hand.read() + Nanos(self.random.below(plan.absence_most.0));
        if self.random.chance(0.4) {
            self.trace.note("process is paused", [self.identity.number, until.0, 0]);
            self.paused_until = until;
        }
        let party = self.identity.party();
        for disk in &self.disks {
            if self.random.chance(plan.cut_chance) {
                platter(disk).cut(party, until);
            }
        }
        if let Some(line) = self.identity.record.as_ref().filter(|_| plan.cut_chance > 0.0) {
            line.cut(until);
        }
    }

    /// From here on it is the other one whose turn it is.
    fn change_places(&mut self) {
        let Some(rival) = &mut self.rival else { return };
        std::mem::swap(&mut self.nexus, &mut rival.nexus);
        std::mem::swap(&mut self.servers, &mut rival.servers);
        std::mem::swap(&mut self.identity, &mut rival.identity);
        std::mem::swap(&mut self.paused_until, &mut rival.paused_until);
    }

    fn turn_of_rival(&mut self) -> Result<(), Violation> {
        self.change_places();
        let server = self.random.below(self.servers.len() as u64) as usize;
        let turn = match self.is_paused() {
            true => Ok(()),
            false if self.random.chance(RIVAL_IOS) => self.submit(server),
            false => self.pass(server),
        };
        self.change_places();
        turn
    }

    pub(super) fn end_rival(&mut self, contexts: &mut Contexts) {
        let Some(rival) = self.rival.take() else { return };
        self.trace.note("rival ends", [rival.identity.number, 0, 0]);
        drop(rival.nexus);
        let cores: Vec<Core> = rival.servers.into_iter().map(Server::crash).collect();
        cores.into_iter().for_each(|core| contexts.give(core));
    }

    /// The process ends and another one takes its place; the rival goes on.
    fn crash_alone(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        let rival = self.rival.take();
        let crashed = self.crash(contexts);
        self.rival = rival;
        crashed
    }

    /// One process is left, which serves.
    pub(super) fn end_contest(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        if self.plan.contest.is_none() {
            return Ok(());
        }
        self.record.iter().for_each(SharedRecord::heal);
        self.identity.record.iter().for_each(|line| line.cut(Nanos(0)));
        self.paused_until = Nanos(0);
        self.end_rival(contexts);
        for _ in 0..STARTS_MAX {
            self.drain_until(|world| world.is_overtaken() || world.is_at(Rest::Disks))?;
            if !self.is_overtaken() {
                return Ok(());
            }
            self.crash(contexts)?;
        }
        Err(self.stuck("every owner is overtaken"))
    }
}
