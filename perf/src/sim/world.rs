//! A run: disks, a process that serves a mirror over them from several cores, hosts, and a clock.
//!
//! Everything is in one thread and drawn from one seed: whose turn it is, how far the clock goes,
//! what fails. So a run is repeated exactly by its seed.

mod contest;

use std::sync::Arc;

use bdev::{BlockDevice, IoFlags, Operation};
use nexus::rebuild::{Difference, VerifyState};
use nexus::truth::Discard;
use nexus::{ChildState, FaultReason, Home, Nexus};
use reactor::random::Random;
use reactor::{Nanos, VirtualClock};

use super::contexts::{Contexts, Core};
use super::disk::{Faults, Latency, Platter, SharedPlatter};
use super::network::Cluster;
use super::plan::{DiskPlan, Mix, PLACE_BLOCKS, Plan, Truthfulness, VOLUME_BLOCKS};
use super::process::{self, Identity};
use super::record::SharedRecord;
use super::server::{Ended, Server};
use super::trace::Trace;
use super::violation::Violation;
use super::volume::Volume;
use contest::Rival;

/// Steps of the first half of a run at most, for each I/O of the hosts.
const STEPS_PER_IO: u64 = 40;
/// Steps of the second half of a run at most, in which nothing goes wrong and all must end.
const DRAIN_STEPS_MAX: u64 = 40_000;
/// The same where there is a network: most steps are then somebody else's.
const DRAIN_STEPS_NETWORK_MAX: u64 = 1_000_000;
/// How many times more steps a run with a network takes.
const NETWORK_STEPS: u64 = 4;
/// How long hosts rest at most: long enough for marks to be cleared meanwhile.
const REST_MOST: Nanos = Nanos::from_secs(20);
/// By how much more the clock goes on at each of these steps while a core polls.
const BUSY_STEP: Nanos = Nanos::from_micros(1);
/// How long a disk that stops, stops at most: longer than a child may be silent.
const STALL_MOST: Nanos = Nanos::from_secs(9);
/// What a host waits at most: it gives up after 30 s.
const HOST_PATIENCE: Nanos = Nanos::from_secs(29);
/// How many times longer one may wait that waits behind others, each of whom is answered in time.
const QUEUE_MOST: u64 = 4;
/// Longest slowness of a disk that no child is given up for.
const PATIENCE: Nanos = Nanos::from_secs(2);

/// Steps until a comparison of the members can begin, at most.
const COMPARISON_STEPS_MAX: u64 = 100_000;

/// What a drain waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// All I/Os of hosts have been answered, and no change goes on.
    Hosts,
    /// The volume is open, every target is within reach, and what was given up has come back from
    /// the disks too: only where none of them hangs.
    Disks,
}

/// What a run did, for those who look at many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// I/Os that were answered well.
    pub succeeded: u64,
    /// I/Os that were answered with an error, comparisons left out.
    pub failed: u64,
    /// I/Os of the disks.
    pub disk_ios: u64,
    /// Members that left, and are out at the end.
    pub lost_members: u64,
    /// Rebuilds that were begun.
    pub rebuilds: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Targets that were restarted.
    pub target_restarts: u64,
    /// Processes that opened the volume beside another one.
    pub takeovers: u64,
    /// Losses of all power.
    pub blackouts: u64,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    random: Random,
    hand: VirtualClock,
    trace: Trace,
    disks: Vec<SharedPlatter>,
    /// Targets and network, if there are any.
    cluster: Option<Cluster>,
    nexus: Arc<Nexus>,
    servers: Vec<Server>,
    /// Who the process is that has these.
    identity: Identity,
    /// Another one that has not ended yet.
    rival: Option<Rival>,
    /// Until then the process is not run.
    paused_until: Nanos,
    record: Option<SharedRecord>,
    volume: Volume,
    ios_left: u64,
    /// Some member cannot fail, so that no error may reach a host.
    is_sheltered: bool,
    /// Some disk never loses anything and is a member to the end, so that others may.
    has_anchor: bool,
    /// Until then hosts submit nothing.
    quiet_until: Nanos,
    /// When a target is restarted meanwhile.
    restart_at: Option<Nanos>,
    /// When a host was answered last.
    answered_at: Nanos,
    /// When the volume had members first. To open it without a record takes every member, so until
    /// then hosts wait for the faulty ones too.
    opened_at: Option<Nanos>,
    counts: Counts,
}

fn platter(disk: &SharedPlatter) -> std::sync::MutexGuard<'_, Platter> {
    disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn make_disks(plan: &Plan, trace: &Trace) -> Vec<SharedPlatter> {
    let quick = Latency { most: Nanos(1), slow_chance: 0.0, slow_most: Nanos(1) };
    let disk = |(number, of): (u64, &DiskPlan)| {
        let mut platter = Platter::new(number, plan.seed, quick, trace.clone());
        if of.is_write_through {
            platter.set_write_through();
        }
        Arc::new(std::sync::Mutex::new(platter))
    };
    (0..).zip(&plan.disks).map(disk).collect()
}

/// True when nothing goes wrong with a disk.
fn is_reliable(plan: &Plan, number: usize) -> bool {
    let disk = &plan.disks[number];
    let is_reached = plan.network.as_ref().is_none_or(|plan| plan.links[number].is_reliable);
    let drives = plan.drives.as_ref();
    let is_driven = drives.is_none_or(|drives| drives[number].fault_chance == 0.0);
    let Faults { read_error, write_error, refusal, hang } = disk.faults;
    let Latency { slow_chance, slow_most, .. } = disk.latency;
    let is_quick = slow_chance == 0.0 || slow_most < PATIENCE;
    let keeps_power = plan.power_chance == 0.0 || !disk.is_write_through;
    let is_left_alone = plan.operator_chance == 0.0 && plan.stall_chance == 0.0;
    let is_sound = read_error + write_error + refusal + hang == 0.0;
    is_sound && is_driven && is_reached && is_quick && keeps_power && is_left_alone
}

impl World {
    /// The beginning of a run.
    pub fn new(plan: Plan, trace: Trace, contexts: &mut Contexts) -> Result<World, Violation> {
        let hand = VirtualClock::new();
        let random = Random::new(plan.seed ^ u64::MAX);
        let disks = make_disks(&plan, &trace);
        let all = (&disks[..], process::disk_blocks(&plan));
        let cluster = plan.network.as_ref();
        let cluster =
            cluster.map(|network| Cluster::new((&plan, network), all, &hand, &trace, contexts));
        let mut cluster = cluster.transpose()?;
        let record = contest::prepare(&plan, &disks, &trace);
        if plan.truthfulness == Truthfulness::Tracked {
            let found = record.as_ref();
            process::format(&plan, &disks, cluster.as_mut(), &hand, found, contexts)?;
        }
        for (disk, of) in disks.iter().zip(&plan.disks) {
            platter(disk).set_faults(of.faults, of.latency);
        }
        let line = record.as_ref().map(SharedRecord::line);
        let identity = Identity { number: 0, record: line };
        let (nexus, servers) =
            process::start(&plan, &disks, cluster.as_mut(), &hand, &identity, contexts)?;
        let has_anchor = (0..disks.len()).any(|number| is_reliable(&plan, number));
        Ok(World {
            volume: Volume::new(plan.seed),
            ios_left: plan.ios,
            // A crash means that it is opened again, which takes every member.
            is_sheltered: plan.crash_chance == 0.0 && has_anchor && plan.contest.is_none(),
            has_anchor,
            quiet_until: Nanos(0),
            restart_at: None,
            answered_at: Nanos(0),
            opened_at: None,
            counts: Counts::default(),
            plan,
            random,
            hand,
            trace,
            disks,
            cluster,
            nexus,
            servers,
            identity,
            rival: None,
            paused_until: Nanos(0),
            record,
        })
    }

    /// Runs to the end; what it did.
    pub fn run(&mut self, contexts: &mut Contexts) -> Result<Counts, Violation> {
        // Hosts may wait for what only the end of the faults brings.
        let slowness = if self.cluster.is_some() { NETWORK_STEPS } else { 1 };
        for _ in 0..self.plan.ios * STEPS_PER_IO * slowness {
            if self.ios_left == 0 {
                break;
            }
            if self.random.chance(self.plan.crash_chance) && self.may_crash() {
                self.crash(contexts)?;
            }
            self.disturb(contexts)?;
            self.contest(contexts)?;
            self.step()?;
        }
        self.quiesce(contexts)?;
        self.check_end()?;
        let disk_ios = self.disks.iter().map(|disk| platter(disk).counts.begun);
        self.counts.disk_ios = disk_ios.sum();
        self.counts.target_restarts = self.cluster.as_ref().map_or(0, |cluster| cluster.restarts);
        let members = self.nexus.view().members.len();
        self.counts.lost_members = self.disks.len() as u64 - u64::from(members);
        Ok(self.counts)
    }

    /// Where opening takes seconds, a process that has not opened the volume yet is spared.
    fn may_crash(&mut self) -> bool {
        self.plan.contest.is_none() || !self.nexus.view().members.is_empty()
    }

    /// Something goes wrong in the network, if there is one and the chance says so.
    fn disturb(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        let (Some(cluster), Some(plan)) = (&mut self.cluster, &self.plan.network) else {
            return Ok(());
        };
        let random = &mut self.random;
        cluster.mishap(random, self.has_anchor, contexts)?;
        let now = self.hand.read();
        if now >= self.quiet_until && random.chance(plan.rest_chance) {
            let rest = Nanos(random.below(REST_MOST.0));
            self.quiet_until = now + rest;
            self.restart_at = Some(now + Nanos(random.below(rest.0.max(1))));
            self.trace.note("hosts rest", [self.quiet_until.0, 0, 0]);
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            cluster.restart(random, self.has_anchor, contexts)?;
        }
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        self.hand.read() < self.quiet_until
    }

    /// The process is gone with all it had in flight, and another one opens the volume.
    fn crash(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        self.counts.crashes += 1;
        self.trace.note("process crashes", [self.counts.crashes, 0, 0]);
        self.end_process(contexts);
        self.start(contexts)
    }

    /// A process opens the volume that no other one had before.
    fn start(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        let Counts { crashes, takeovers, .. } = self.counts;
        let record = self.record.as_ref().map(SharedRecord::line);
        self.identity = Identity { number: crashes + takeovers, record };
        self.paused_until = Nanos(0);
        let (plan, disks, hand) = (&self.plan, &self.disks, &self.hand);
        let (cluster, identity) = (self.cluster.as_mut(), &self.identity);
        (self.nexus, self.servers) =
            process::start(plan, disks, cluster, hand, identity, contexts)?;
        Ok(())
    }

    /// The process is stopped where it is.
    fn is_paused(&self) -> bool {
        self.hand.read() < self.paused_until
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Plan { tick_chance, operator_chance, stall_chance, core_chance, .. } = self.plan;
        let Plan { rebuild_chance, power_chance, .. } = self.plan;
        if self.random.chance(rebuild_chance) {
            self.rebuild();
        }
        if self.random.chance(power_chance) {
            self.lose_power();
        }
        if self.random.chance(operator_chance) {
            self.operate();
        }
        if self.random.chance(stall_chance) {
            let until = self.hand.read() + Nanos(self.random.below(STALL_MOST.0));
            let disk = self.random.below(self.disks.len() as u64) as usize;
            platter(&self.disks[disk]).stall(until);
        }
        if self.random.chance(core_chance) {
            self.change_cores()?;
        }
        let server = self.random.below(self.servers.len() as u64) as usize;
        self.turn_elsewhere();
        if self.is_paused() || self.random.chance(tick_chance) {
            self.tick();
        } else if self.random.chance(0.5) {
            self.submit(server)?;
        } else {
            self.pass(server)?;
        }
        self.jump_if_idle();
        Ok(())
    }

    /// Somebody in the network has a turn, if there is one.
    fn turn_elsewhere(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            let party = self.random.below(cluster.parties() as u64) as usize;
            cluster.pass(party);
        }
    }

    /// The clock goes on a little.
    fn tick(&mut self) {
        let span = [1_000, 20_000, 200_000][self.random.below(3) as usize];
        let span = Nanos(self.random.below(span));
        self.advance(span);
    }

    fn advance(&mut self, span: Nanos) {
        self.hand.advance(span);
        let now = self.hand.read();
        self.trace.set_now(now);
        for disk in &self.disks {
            platter(disk).advance(now);
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.advance();
        }
        self.record.iter().for_each(|record| record.advance(now));
    }

    /// When the next thing happens that nobody has to begin.
    fn next_event(&self) -> Option<Nanos> {
        let now = self.hand.read();
        let pause = self.is_paused().then_some(self.paused_until);
        let servers = self.servers.iter().filter(|_| pause.is_none());
        let servers = servers.filter_map(|server| server.next_event(now)).chain(pause);
        let servers = servers.chain(self.rival.as_ref().and_then(|rival| rival.next_event(now)));
        let disks = self.disks.iter().filter_map(|disk| platter(disk).next_event());
        let cluster = self.cluster.as_ref().and_then(|cluster| cluster.next_event(now));
        let rest = [self.restart_at, self.is_quiet().then_some(self.quiet_until)];
        let rest = rest.into_iter().flatten().filter(|at| *at > now);
        servers.chain(disks).chain(cluster).chain(rest).min()
    }

    /// Where everybody waits for the clock, and hosts for credits, it goes to the next event.
    fn jump_if_idle(&mut self) {
        let now = self.hand.read();
        let can_submit = |server: &Server| server.has_credit();
        let may_submit = self.ios_left > 0 && !self.is_quiet() && !self.is_paused();
        if may_submit && self.servers.iter().any(can_submit) && self.random.chance(0.9) {
            return;
        }
        if let Some(next) = self.next_event().filter(|next| *next > now) {
            self.advance(next - now);
        }
    }

    fn pass(&mut self, server: usize) -> Result<(), Violation> {
        let mut ended = Vec::new();
        self.servers[server].pass(&mut self.volume, &mut ended)?;
        if let Some(cluster) = &mut self.cluster {
            cluster.touch();
        }
        if self.opened_at.is_none() && !self.nexus.view().members.is_empty() {
            self.opened_at = Some(self.hand.read());
        }
        for ended in ended {
            self.check(server, &ended)?;
        }
        Ok(())
    }

    /// What must hold of an I/O that has ended.
    fn check(&mut self, server: usize, ended: &Ended) -> Result<(), Violation> {
        let Ended { io, completion, time } = ended;
        let status = completion.status;
        let code = u64::from(status.code());
        self.trace.note("host is answered", [server as u64, io.stamp.0, code]);
        let open_for = self.hand.read().since(self.opened_at.unwrap_or_default());
        let time = open_for.min(*time);
        // Who waits behind others for the same blocks waits for each of them.
        let now = self.hand.read();
        let idle = time.min(now.since(std::mem::replace(&mut self.answered_at, now)));
        let is_late = idle > HOST_PATIENCE || time > Nanos(HOST_PATIENCE.0 * QUEUE_MOST);
        if self.is_sheltered && is_late {
            return Err(Violation::TooSlow { operation: io.operation, time: time.into() });
        }
        if !status.is_success() {
            let is_answer = status.has_code(bdev::Status::COMPARE_FAILURE);
            self.counts.failed += u64::from(!is_answer);
            let operation = io.operation;
            return match self.is_sheltered && !is_answer {
                true => Err(Violation::HostSawError { operation, status }),
                false => Ok(()),
            };
        }
        self.counts.succeeded += 1;
        let Some(stamp) = io.written() else { return Ok(()) };
        for child in self.nexus.view().members {
            let platter = platter(&self.disks[child.get()]);
            for block in io.range() {
                let at = block + process::data_start_blocks(&self.plan);
                if !platter.applied.contains(&(at, stamp)) {
                    let disk = platter.number;
                    return Err(Violation::NotOnMember { block, stamp, disk });
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, server: usize) -> Result<(), Violation> {
        if self.ios_left == 0 || self.is_quiet() || !self.servers[server].has_credit() {
            return Ok(());
        }
        self.ios_left -= 1;
        let operation = self.draw_operation();
        let place = self.plan.places[self.random.below(self.plan.places.len() as u64) as usize];
        let offset = self.random.below(PLACE_BLOCKS);
        let most = self.plan.io_blocks_max.min(VOLUME_BLOCKS - place - offset);
        let (mut start, mut blocks) = (place + offset, 1 + self.random.below(most) as u32);
        let mut flags = IoFlags::NONE;
        match operation {
            Operation::Flush => (start, blocks) = (0, 0),
            Operation::CompareAndWrite => {
                blocks = blocks.min(self.nexus.limits().atomic_blocks);
            }
            _ => {}
        }
        if operation.changes_blocks() && self.random.chance(self.plan.mix.fua) {
            flags = IoFlags::FUA;
        }
        self.send(server, operation, flags, start, blocks)
    }

    fn send(
        &mut self,
        server: usize,
        operation: Operation,
        flags: IoFlags,
        start: u64,
        blocks: u32,
    ) -> Result<(), Violation> {
        let io = self.volume.begin(operation, flags, start, blocks);
        let place = start << 16 | u64::from(blocks);
        let what = (server as u64) << 8 | operation as u64;
        self.trace.note("host submits", [what, io.stamp.0, place]);
        let memory = self.volume.memory(&io);
        self.servers[server].submit(io, &memory)
    }

    fn draw_operation(&mut self) -> Operation {
        let Mix { read, write, flush, zero, compare, swap, .. } = self.plan.mix;
        let kinds = [
            (Operation::Read, read),
            (Operation::Write, write),
            (Operation::Flush, flush),
            (Operation::WriteZeroes, zero),
            (Operation::Unmap, zero),
            (Operation::Compare, compare),
            (Operation::CompareAndWrite, swap),
        ];
        let mut place = self.random.below(kinds.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in kinds {
            match place.checked_sub(weight) {
                Some(rest) => place = rest,
                None => return kind,
            }
        }
        unreachable!("the place is below the sum of the weights")
    }

    /// An operator does something that is allowed at any time; what cannot be is refused.
    fn operate(&mut self) {
        let draw = self.random.below(4);
        let name = format!("disk{}", self.random.below(self.disks.len() as u64));
        let server = &mut self.servers[0];
        let (home, cx) = (server.home.as_mut(), &mut server.core.cx);
        let home = home.expect("the first core is the home core");
        cx.advance_clock();
        let refused = match draw {
            0 => home.fault(cx, &name, FaultReason::Rpc).is_err(),
            1 => home.offline(cx, &name).is_err(),
            2 => {
                home.pause();
                false
            }
            _ => {
                home.resume();
                false
            }
        };
        self.trace.note("operator", [draw, u64::from(refused), 0]);
        server.rouse();
    }

    /// A child that is out becomes a rebuild target, if it can be one now.
    fn rebuild(&mut self) {
        let name = format!("disk{}", self.random.below(self.disks.len() as u64));
        let server = &mut self.servers[0];
        let (home, cx) = (server.home.as_mut(), &mut server.core.cx);
        let home = home.expect("the first core is the home core");
        cx.advance_clock();
        let begun = home.begin_target(cx, &name, Discard::No);
        self.counts.rebuilds += u64::from(begun.is_ok());
        self.trace.note("rebuild", [u64::from(begun.is_ok()), 0, 0]);
        server.rouse();
    }

    /// A disk that keeps what it has acknowledged loses power, and what is in flight.
    fn lose_power(&mut self) {
        let disk = self.random.below(self.disks.len() as u64) as usize;
        let mut platter = platter(&self.disks[disk]);
        if !platter.has_volatile_cache() {
            platter.lose_power();
        }
    }

    /// A core begins to serve the volume, or ends where it has nothing in flight.
    fn change_cores(&mut self) -> Result<(), Violation> {
        let place = self.random.below(self.servers.len() as u64) as usize;
        let open = self.servers.iter().filter(|server| server.is_open()).count();
        let server = &mut self.servers[place];
        if !server.is_open() {
            server.open(&*self.nexus)?;
            self.trace.note("core opens", [place as u64, 0, 0]);
        } else if server.pending() == 0 && open > 1 {
            server.close()?;
            self.trace.note("core closes", [place as u64, 0, 0]);
        }
        Ok(())
    }

    /// With a member to rely on, everything ends whatever the others do, once the volume is open;
    /// without one when nothing goes wrong any more.
    fn quiesce(&mut self, contexts: &mut Contexts) -> Result<(), Violation> {
        if self.is_sheltered && self.opened_at.is_some() {
            self.drain(Rest::Hosts)?;
        }
        self.trace.note("faults end", [0; 3]);
        for disk in &self.disks {
            platter(disk).heal();
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.heal();
        }
        if let Some(home) = &mut self.servers[0].home {
            home.resume();
        }
        self.servers[0].rouse();
        self.end_contest(contexts)?;
        self.drain(Rest::Disks)?;
        self.check_nothing_is_left()
    }

    fn is_at(&self, rest: Rest) -> bool {
        let home = self.servers[0].home.as_ref();
        let is_changing = home.is_some_and(|home| home.is_changing() || home.rebuild().is_some());
        let is_comparing = home
            .and_then(Home::verification)
            .is_some_and(|report| report.state == VerifyState::Running);
        let is_still = || self.disks.iter().all(|disk| platter(disk).inflight() == 0);
        let are_disks_left = || self.may_disks_be_busy() || is_still();
        let is_open = home.is_some_and(Home::is_assembled);
        let are_connected = || self.cluster.as_ref().is_none_or(Cluster::is_connected);
        !is_changing
            && !is_comparing
            && self.servers.iter().all(|server| server.pending() == 0)
            && (rest == Rest::Hosts || is_open && are_connected() && are_disks_left())
    }

    fn drain(&mut self, rest: Rest) -> Result<(), Violation> {
        self.drain_until(|world| world.is_at(rest))
    }

    fn drain_until(&mut self, is_enough: impl Fn(&World) -> bool) -> Result<(), Violation> {
        let steps_max = match self.cluster {
            Some(_) => DRAIN_STEPS_NETWORK_MAX,
            None => DRAIN_STEPS_MAX,
        };
        for step in 0..steps_max {
            if is_enough(self) {
                return Ok(());
            }
            self.turn_elsewhere();
            let server = self.random.below(self.servers.len() as u64) as usize;
            self.pass(server)?;
            let now = self.hand.read();
            match self.next_event() {
                Some(next) if next > now => self.advance(next - now),
                // Somebody is polling; what it waits for may be a while away.
                Some(_) => {
                    let span = self.random.below(1 + step * BUSY_STEP.0);
                    self.advance(Nanos(span));
                }
                None => return Err(self.stuck("everybody sleeps for ever")),
            }
        }
        Err(self.stuck("it goes on and on"))
    }

    fn stuck(&self, why: &str) -> Violation {
        for server in &self.servers {
            self.trace.say(|| server.describe());
        }
        let pending: Vec<_> = self.servers.iter().map(Server::pending).collect();
        let home = self.servers[0].home.as_ref();
        let is_changing = home.is_some_and(Home::is_changing);
        let view = self.nexus.view();
        let (members, leaving, mode) = (view.members, view.leaving, view.mode);
        let states = self.states();
        let at_disks: Vec<_> = self.disks.iter().map(|disk| platter(disk).inflight()).collect();
        Violation::Stuck(format!(
            "{why}: in flight on each core {pending:?}, changing {is_changing}, {members:?}, \
             leaving {leaving:?}, {mode:?}, {states:?}, at the disks {at_disks:?}"
        ))
    }

    fn check_nothing_is_left(&mut self) -> Result<(), Violation> {
        if self.cluster.is_some() {
            // So has each connection, and one that was dropped leaves them to the next.
            return Ok(());
        }
        for (number, server) in self.servers.iter_mut().enumerate() {
            // Labels have buffers of their own.
            if server.home.is_some() && self.plan.truthfulness == Truthfulness::Tracked {
                continue;
            }
            let taken = server.core.buffers_taken();
            if taken != 0 {
                return Err(Violation::Leak(format!("{taken} buffers of core {number}")));
            }
        }
        Ok(())
    }

    /// Reads everything, and compares what the members hold with it.
    fn check_end(&mut self) -> Result<(), Violation> {
        let open = self.servers.iter().position(Server::is_open);
        let reader = open.expect("a core has the volume open");
        let start = process::data_start_blocks(&self.plan);
        let on_disks = self.disks.iter().flat_map(|disk| platter(disk).image.written());
        let mut written: Vec<u64> = on_disks.filter_map(|block| block.checked_sub(start)).collect();
        written.sort_unstable();
        written.dedup();
        for block in &written {
            while !self.servers[reader].has_credit() {
                self.drain(Rest::Disks)?;
            }
            self.send(reader, Operation::Read, IoFlags::NONE, *block, 1)?;
        }
        self.drain(Rest::Disks)?;
        self.check_nothing_is_left()?;
        self.volume.check()?;
        for block in &written {
            let block = *block;
            let read = self.volume.believed(block);
            for child in self.nexus.view().members {
                let platter = platter(&self.disks[child.get()]);
                let found = self.volume.decode(block, platter.image.read(start + block));
                if found != read {
                    let disk = platter.number;
                    return Err(Violation::Differs { block, disk, found, read });
                }
            }
        }
        self.check_states()?;
        self.check_comparison(&written)?;
        self.servers.iter_mut().try_for_each(Server::close)?;
        self.check_disks_are_left()
    }

    /// A comparison of the members finds a block that one of them has lost without a word, or has
    /// written to the wrong place, and nothing else.
    fn check_comparison(&mut self, written: &[u64]) -> Result<(), Violation> {
        let members: Vec<usize> = self.nexus.view().members.iter().map(|one| one.get()).collect();
        let start = process::data_start_blocks(&self.plan);
        let mut damaged = None;
        if members.len() > 1 && written.len() > 1 && self.random.chance(0.7) {
            let member = members[self.random.below(members.len() as u64) as usize];
            let mut block = || written[self.random.below(written.len() as u64) as usize];
            let (block, other) = (block(), block());
            let mut platter = platter(&self.disks[member]);
            let (before, misdirected) =
                (*platter.image.read(start + block), *platter.image.read(start + other));
            if before != misdirected {
                platter.image.write_through(start + block, misdirected);
                damaged = Some(block);
            }
        }
        let home = self.servers[0].home.as_mut().expect("the first core is the home core");
        // What decides about members may have something to do at any time.
        let mut has_begun = home.verify().is_ok();
        for _ in 0..COMPARISON_STEPS_MAX {
            if has_begun {
                break;
            }
            self.turn_elsewhere();
            self.pass(0)?;
            self.advance(BUSY_STEP);
            let home = self.servers[0].home.as_mut().expect("the first core is the home core");
            has_begun = home.verify().is_ok();
        }
        if !has_begun {
            return Err(self.stuck("no comparison can begin"));
        }
        self.servers[0].rouse();
        self.drain(Rest::Disks)?;
        let home = self.servers[0].home.as_ref().expect("the first core is the home core");
        let report = home.verification().expect("a comparison has just been made");
        let is_damaged = |found: &Difference| (Some(found.start), found.blocks) == (damaged, 1);
        let is_found = match damaged {
            Some(_) => report.different_blocks > 0 && report.differences.iter().all(is_damaged),
            None => report.different_blocks == 0,
        };
        match is_found && report.state == VerifyState::Completed {
            true => Ok(()),
            false => Err(Violation::Compared { damaged, found: report.different_blocks }),
        }
    }

    /// A child with which nothing was wrong is a member.
    fn check_states(&self) -> Result<(), Violation> {
        for (number, state) in self.states().into_iter().enumerate() {
            if self.plan.contest.is_none()
                && state != ChildState::Open
                && is_reliable(&self.plan, number)
            {
                let disk = number as u64;
                return Err(Violation::OutWithoutCause { disk, state });
            }
        }
        Ok(())
    }

    /// The home core goes on to look at its labels, and a controller that died keeps what it was
    /// told.
    fn may_disks_be_busy(&self) -> bool {
        self.plan.truthfulness == Truthfulness::Tracked || self.plan.drives.is_some()
    }

    /// Members that left may have been given up with something in flight; it came back all the
    /// same.
    fn check_disks_are_left(&self) -> Result<(), Violation> {
        if self.may_disks_be_busy() {
            return Ok(());
        }
        for disk in &self.disks {
            let inflight = platter(disk).inflight();
            if inflight != 0 {
                let number = platter(disk).number;
                return Err(Violation::Leak(format!("{inflight} I/Os of disk {number}")));
            }
        }
        Ok(())
    }

    /// The states of the children, for a report.
    pub fn states(&self) -> Vec<ChildState> {
        let home = self.servers.first().and_then(|server| server.home.as_ref());
        home.map_or_else(Vec::new, |home| home.children().map(|child| child.state).collect())
    }

    /// Ends the run and gives back what it was made of.
    pub fn dissolve(mut self, contexts: &mut Contexts) {
        self.end_process(contexts);
        if let Some(cluster) = self.cluster {
            cluster.dissolve(contexts);
        }
    }

    /// Its cores' contexts are given back once nothing is left of what ran on any of them.
    fn end_process(&mut self, contexts: &mut Contexts) {
        self.end_rival(contexts);
        let servers = std::mem::take(&mut self.servers);
        let admin = self.cluster.as_mut().and_then(Cluster::end_process);
        let cores: Vec<Core> = servers.into_iter().map(Server::crash).chain(admin).collect();
        cores.into_iter().for_each(|core| contexts.give(core));
    }
}
