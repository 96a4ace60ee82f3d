//! What a seed makes of a run: how many disks and cores, what goes wrong, and how often.
//!
//! Each seed leaves some kinds of faults out and makes others frequent, so that seeds differ in
//! what they try (swarm testing): a fault that is always there hides what happens without it.

use std::time::Duration;

use bdev::pcie::{Options, Recovery};
use nexus::truth::names::Policy;
use reactor::Nanos;
use reactor::random::Random;

use super::disk::{Check, Faults, Latency};
use super::network::LinkPlan;
use super::record::RecordPlan;

/// Blocks of a volume: two stripes of 64 KiB and a part of a third.
pub const VOLUME_BLOCKS: u64 = 300;

/// Where I/O goes: at the beginning, around the borders of stripes, and at the end.
const PLACES: [u64; 4] = [0, 120, 248, VOLUME_BLOCKS - PLACE_BLOCKS];
/// Blocks of a place.
pub const PLACE_BLOCKS: u64 = 16;

/// Of the steps, those in which a child is rebuilt where many are lost.
const REBUILD_LEAST: f64 = 0.005;

/// How cores wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idling {
    /// They are polled again and again.
    Polling,
    /// They sleep until what they said they wait for: whoever forgets to wake them is found out.
    Sleeping,
}

/// Who says which disks may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truthfulness {
    /// The process, which lives to the end of the run.
    Untracked,
    /// Labels on the disks: the process may crash, and another one opens the volume.
    Tracked,
}

/// How the process that serves the volume reaches the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// It has them open itself.
    Local,
    /// Each is behind a target of its own: the real initiator and the real target, over simulated
    /// streams.
    Network,
    /// Each is an NVMe drive of its own: the real driver over a controller in software.
    Drives,
}

/// Who may open the volume, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// One process, and another one when it has crashed.
    Sole,
    /// Another one at any time, on another host, while the first is paused, cut off or well; disks
    /// are on hosts of their own, which may lose power, one or all at once; and there may be a
    /// record. Disks check this of who uses them.
    Contested(Check),
}

/// What kind of run it is; the seed says the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Who says which disks may be trusted.
    pub truthfulness: Truthfulness,
    /// How they are reached.
    pub wiring: Wiring,
    /// Who may open the volume.
    pub ownership: Ownership,
}

impl Mode {
    /// Local disks, one process.
    pub const UNTRACKED: Mode = Mode {
        truthfulness: Truthfulness::Untracked,
        wiring: Wiring::Local,
        ownership: Ownership::Sole,
    };
    /// Local disks with labels.
    pub const TRACKED: Mode = Mode { truthfulness: Truthfulness::Tracked, ..Mode::UNTRACKED };
    /// Disks with labels that several processes may open.
    pub const CONTESTED: Mode =
        Mode { ownership: Ownership::Contested(Check::All), ..Mode::TRACKED };
    /// NVMe drives, one process.
    pub const DRIVES: Mode = Mode { wiring: Wiring::Drives, ..Mode::UNTRACKED };
    /// NVMe drives with labels.
    pub const DRIVES_TRACKED: Mode = Mode { wiring: Wiring::Drives, ..Mode::TRACKED };
    /// Remote disks, one process.
    pub const REMOTE: Mode = Mode { wiring: Wiring::Network, ..Mode::UNTRACKED };
    /// Remote disks with labels.
    pub const REMOTE_TRACKED: Mode = Mode { wiring: Wiring::Network, ..Mode::TRACKED };

    /// The options of the command that choose it.
    pub fn options(self) -> String {
        let tracked = match (self.truthfulness, self.ownership) {
            (_, Ownership::Contested(_)) => " --contested",
            (Truthfulness::Tracked, Ownership::Sole) => " --tracked",
            (Truthfulness::Untracked, Ownership::Sole) => "",
        };
        let network = match self.wiring {
            Wiring::Local => "",
            Wiring::Network => " --network",
            Wiring::Drives => " --drives",
        };
        format!("{tracked}{network}")
    }
}

/// What a volume that several processes may open goes through.
#[derive(Clone, Debug)]
pub struct ContestPlan {
    /// What disks check of who uses them.
    pub check: Check,
    /// Who decides about members.
    pub policy: Policy,
    /// The record, if there is one.
    pub record: Option<RecordPlan>,
    /// Of the steps, those in which another process opens the volume.
    pub takeover_chance: f64,
    /// How long one of the two is not run then, or cut off, at most.
    pub absence_most: Nanos,
    /// Of the disks, those that it is cut off from.
    pub cut_chance: f64,
    /// Of the steps, those in which everything loses power.
    pub blackout_chance: f64,
    /// Of the steps, those in which one disk does, while others keep what it loses.
    pub outage_chance: f64,
    /// Of the steps, those in which hosts begin to rest: long enough for marks to be cleared. In
    /// the middle of it a disk may lose power.
    pub rest_chance: f64,
}

/// How bad the faults of a controller are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worst {
    /// A reset mends each.
    Passing,
    /// It may not come back from a reset.
    Lasting,
    /// It may be gone as well.
    Vanishing,
}

/// The controller before a disk.
#[derive(Clone, Copy, Debug)]
pub struct DrivePlan {
    /// Of the doorbells, those with which something goes wrong.
    pub fault_chance: f64,
    /// The worst that happens to it.
    pub worst: Worst,
    /// How it is driven.
    pub options: Options,
}

/// The way to a disk's target.
#[derive(Clone, Copy, Debug)]
pub struct WayPlan {
    /// How it is when nothing is wrong with it.
    pub plan: LinkPlan,
    /// Nothing ever is, nor with the target.
    pub is_reliable: bool,
}

/// What the network of a run does.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// A link a disk.
    pub links: Vec<WayPlan>,
    /// Of the steps, those in which a link is cut...
    pub cut_chance: f64,
    /// ...or falls silent...
    pub silence_chance: f64,
    /// ...or a target is restarted.
    pub restart_chance: f64,
    /// How long a link is silent or a target away at most.
    pub absence_most: Nanos,
    /// Of the steps, those in which hosts begin to rest for a while, and a target is restarted in
    /// the middle of it: what nobody wrote to meanwhile must find out all the same.
    pub rest_chance: f64,
    /// Digests are asked for.
    pub digests: bool,
}

/// A disk of a run.
#[derive(Clone, Copy, Debug)]
pub struct DiskPlan {
    /// How fast it is.
    pub latency: Latency,
    /// What goes wrong with its I/Os.
    pub faults: Faults,
    /// Without a volatile cache.
    pub is_write_through: bool,
    /// Credits of a queue pair at most.
    pub depth_max: u32,
}

/// How often each kind of I/O is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Reads.
    pub read: u64,
    /// Writes.
    pub write: u64,
    /// Flushes.
    pub flush: u64,
    /// Write zeroes and unmap.
    pub zero: u64,
    /// Compares.
    pub compare: u64,
    /// Compare-and-writes.
    pub swap: u64,
    /// Of the writes, those that are to be durable at once.
    pub fua: f64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The disks.
    pub disks: Vec<DiskPlan>,
    /// Cores that serve the volume at most.
    pub cores: usize,
    /// I/Os in flight on each at most.
    pub depth: u32,
    /// I/Os of the host in all.
    pub ios: u64,
    /// Where they go.
    pub places: Vec<u64>,
    /// Most blocks of one.
    pub io_blocks_max: u64,
    /// Which they are.
    pub mix: Mix,
    /// How cores wait.
    pub idling: Idling,
    /// Of the steps, those that move the clock.
    pub tick_chance: f64,
    /// Of the steps, those in which an operator does something.
    pub operator_chance: f64,
    /// Of the steps, those in which a disk stops for a while.
    pub stall_chance: f64,
    /// Of the steps, those in which a core comes or goes.
    pub core_chance: f64,
    /// Of the steps, those in which a child that is out is rebuilt.
    pub rebuild_chance: f64,
    /// Of the steps, those in which a disk without a volatile cache loses power.
    pub power_chance: f64,
    /// Who says which disks may be trusted.
    pub truthfulness: Truthfulness,
    /// Of the steps, those in which the process crashes and is started anew.
    pub crash_chance: f64,
    /// The network to the disks, if there is one.
    pub network: Option<NetworkPlan>,
    /// Other owners, power and the record, where they are part of it.
    pub contest: Option<ContestPlan>,
    /// The controllers before the disks, if they are drives.
    pub drives: Option<Vec<DrivePlan>>,
}

fn one_of<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.below(choices.len() as u64) as usize]
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, mode: Mode) -> Plan {
        let random = &mut Random::new(seed);
        let disks = one_of(random, &[1, 2, 2, 3, 3, 3, 4]);
        let faulty = random.chance(0.7);
        let disks = (0..disks).map(|_| disk_plan(random, faulty)).collect();
        let places = 1 + random.below(PLACES.len() as u64);
        let first = random.below(PLACES.len() as u64) as usize;
        let mut plan = Plan {
            seed,
            disks,
            cores: one_of(random, &[1, 2, 2, 3]),
            depth: one_of(random, &[2, 4, 8, 16]),
            ios: 200 + random.below(400),
            places: PLACES.iter().copied().cycle().skip(first).take(places as usize).collect(),
            io_blocks_max: one_of(random, &[1, 4, 8, 20]),
            mix: mix(random),
            idling: one_of(random, &[Idling::Polling, Idling::Sleeping]),
            tick_chance: one_of(random, &[0.05, 0.2, 0.5]),
            operator_chance: one_of(random, &[0.0, 0.0, 0.002]),
            stall_chance: if faulty { one_of(random, &[0.0, 0.0, 0.002]) } else { 0.0 },
            core_chance: one_of(random, &[0.0, 0.002, 0.02]),
            rebuild_chance: one_of(random, &[0.0, 0.002, 0.02]),
            power_chance: if faulty { one_of(random, &[0.0, 0.0, 0.001]) } else { 0.0 },
            truthfulness: mode.truthfulness,
            crash_chance: 0.0,
            network: None,
            contest: None,
            drives: None,
        };
        if plan.truthfulness == Truthfulness::Tracked {
            plan.crash_chance = one_of(random, &[0.0, 0.0005, 0.002]);
        }
        if mode.wiring == Wiring::Network {
            plan.ios = 60 + random.below(200);
            // Each crash opens every device again.
            plan.crash_chance /= 4.0;
            plan.network = Some(network(random, plan.disks.len()));
        }
        if let Ownership::Contested(check) = mode.ownership {
            plan.contest = Some(contest(random, check));
            // Who was out of reach for a while is soon a member again.
            plan.rebuild_chance = plan.rebuild_chance.max(REBUILD_LEAST);
        }
        if mode.wiring == Wiring::Drives {
            plan.put_behind_controllers(random);
        }
        plan
    }
}

fn contest(random: &mut Random, check: Check) -> ContestPlan {
    let policies = [Policy::Solo, Policy::Majority, Policy::Majority, Policy::Record];
    let policy = one_of(random, &policies);
    let plan = RecordPlan {
        delay_most: Nanos::from_millis(one_of(random, &[1, 50, 12_000])),
        unreached: one_of(random, &[0.0, 0.1, 0.5]),
        unheard: one_of(random, &[0.0, 0.1]),
    };
    let has_record = policy == Policy::Record || policy == Policy::Majority && random.chance(0.7);
    // A disk may lose what others keep only where those others stay members.
    let has_rivals = random.chance(0.6);
    let mut maybe =
        |is_on: bool, chances: [f64; 3]| if is_on { one_of(random, &chances) } else { 0.0 };
    ContestPlan {
        check,
        policy,
        record: has_record.then_some(plan),
        takeover_chance: maybe(has_rivals, [0.0005, 0.001, 0.003]),
        cut_chance: maybe(has_rivals, [0.0, 0.4, 0.8]),
        outage_chance: maybe(!has_rivals, [0.0, 0.0005, 0.002]),
        blackout_chance: maybe(true, [0.0, 0.0, 0.001]),
        rest_chance: maybe(true, [0.0, 0.0005, 0.002]),
        absence_most: Nanos::from_millis(one_of(random, &[1, 300, 3_000, 9_000])),
    }
}

impl Plan {
    /// Makes drives of the disks. A controller that fails may take its disk away for good, and with
    /// the last member gone nothing could be checked: so where one fails the first drive never
    /// does, nor anything else about it.
    fn put_behind_controllers(&mut self, random: &mut Random) {
        // A volume with labels may not be opened yet, and would wait for a drive that never comes.
        let has_labels = self.truthfulness == Truthfulness::Tracked;
        let are_faulty = random.chance(0.8) && self.disks.len() > 1;
        if are_faulty {
            (self.operator_chance, self.stall_chance, self.power_chance) = (0.0, 0.0, 0.0);
            self.disks[0].faults = Faults::default();
            self.disks[0].latency.slow_chance = 0.0;
        }
        let mut drive = |number: usize| {
            let is_faulty = are_faulty && number > 0;
            let chance = one_of(random, &[0.0005, 0.005, 0.05]);
            let recovery = one_of(random, &[Recovery::Retry, Recovery::Fail]);
            let options = Options {
                io_timeout: Duration::from_secs(3),
                abort_timeout: Duration::from_millis(500),
                admin_timeout: Duration::from_secs(1),
                halt_timeout: Duration::from_secs(1),
                health_interval: Duration::from_millis(one_of(random, &[50, 1000])),
                recovery,
                ..Options::default()
            };
            let fault_chance = if is_faulty { chance } else { 0.0 };
            let worst = match (has_labels, random.chance(0.3)) {
                (true, _) => Worst::Passing,
                (false, true) => Worst::Vanishing,
                (false, false) => Worst::Lasting,
            };
            DrivePlan { fault_chance, worst, options }
        };
        self.drives = Some((0..self.disks.len()).map(&mut drive).collect());
    }
}

fn disk_plan(random: &mut Random, faulty: bool) -> DiskPlan {
    let slow_chance = one_of(random, &[0.0, 0.0, 0.01, 0.1]);
    let latency = Latency {
        most: Nanos::from_micros(one_of(random, &[1, 50, 50, 2000])),
        slow_chance,
        slow_most: Nanos::from_millis(one_of(random, &[5, 100, 8000])),
    };
    let mut faults = Faults::default();
    if faulty && random.chance(0.6) {
        let chance = one_of(random, &[0.002, 0.02, 0.3]);
        let mut maybe = |chance: f64| if random.chance(0.4) { chance } else { 0.0 };
        faults = Faults {
            read_error: maybe(chance),
            write_error: maybe(chance),
            refusal: maybe(chance / 4.0),
            hang: maybe(chance / 4.0),
        };
    }
    DiskPlan {
        latency,
        faults,
        is_write_through: random.chance(0.4),
        depth_max: one_of(random, &[1, 2, 8, 1024]),
    }
}

fn network(random: &mut Random, links: usize) -> NetworkPlan {
    let faulty = random.chance(0.8);
    let mut link = |_| {
        let plan = LinkPlan {
            delay_most: Nanos::from_micros(one_of(random, &[5, 100, 100, 10_000])),
            stream_bytes: one_of(random, &[2_000, 64 << 10, 1 << 20]),
        };
        WayPlan { plan, is_reliable: !faulty || random.chance(0.5) }
    };
    let links = (0..links).map(&mut link).collect();
    let mut maybe = |chances: [f64; 3]| if faulty { one_of(random, &chances) } else { 0.0 };
    NetworkPlan {
        links,
        cut_chance: maybe([0.0, 0.0005, 0.002]),
        silence_chance: maybe([0.0, 0.0005, 0.001]),
        restart_chance: maybe([0.0, 0.0005, 0.002]),
        rest_chance: maybe([0.0, 0.001, 0.003]),
        absence_most: Nanos::from_millis(one_of(random, &[1, 200, 4_000, 20_000])),
        digests: random.chance(0.3),
    }
}

fn mix(random: &mut Random) -> Mix {
    let mut weight = |choices: &[u64]| one_of(random, choices);
    Mix {
        read: weight(&[1, 4, 10]),
        write: weight(&[2, 4, 10]),
        flush: weight(&[0, 1, 1]),
        zero: weight(&[0, 0, 1, 2]),
        compare: weight(&[0, 1]),
        swap: weight(&[0, 1, 2]),
        fua: one_of(random, &[0.0, 0.1, 0.5]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_lies_on_the_volume() {
        assert!(PLACES.iter().all(|place| place + PLACE_BLOCKS <= VOLUME_BLOCKS));
    }

    #[test]
    fn seeds_differ_in_what_they_try() {
        let plans: Vec<Plan> = (0..200).map(|seed| Plan::new(seed, Mode::UNTRACKED)).collect();
        let share = |holds: &dyn Fn(&Plan) -> bool| plans.iter().filter(|plan| holds(plan)).count();
        let healthy = |disk: &DiskPlan| {
            let Faults { read_error, write_error, refusal, hang } = disk.faults;
            read_error + write_error + refusal + hang == 0.0
        };
        let some = 20..180;
        assert!(some.contains(&share(&|plan| plan.disks.iter().all(healthy))));
        assert!(some.contains(&share(&|plan| plan.idling == Idling::Sleeping)));
        assert!(some.contains(&share(&|plan| plan.cores > 1)));
        assert!(some.contains(&share(&|plan| plan.mix.swap > 0)));
    }
}
