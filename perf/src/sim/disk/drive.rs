//! A simulated disk behind NVMe: the real driver over the controller in software, whose blocks are
//! a platter's.
//!
//! No thread: whoever rings or polls a queue pair gives controller and supervisor a turn, at the
//! time of the run. What goes wrong with the controller is drawn when a doorbell is rung; what goes
//! wrong with the blocks is the platter's. Cores hear of completions as they would of interrupts:
//! a queue pair says when the platter will have ended something.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bdev::device::{BlockDevice, Geometry, Limits, OpenError};
use bdev::pcie::queue_pair::PcieQueuePair;
use bdev::pcie::software::{
    Config, Fault, Feature, Medium, MediumCommand, MediumEnd, NamespaceConfig, SoftwareController,
};
use bdev::pcie::supervisor::Supervisor;
use bdev::pcie::{Controller, Options, PcieDevice, PcieError};
use bdev::{Busy, Completions, Io, QueuePair, Status};
use reactor::random::Random;
use reactor::{Cx, Nanos, Wake};
use uuid::Uuid;

use super::gate::Party;
use super::platter::{Command, QueueNumber, SharedPlatter};
use super::queue_pair::lock;
use crate::sim::content::BLOCK_BYTES;
use crate::sim::plan::{DrivePlan, Worst};

/// Queue pairs of a drive: one for each core, and those of labels, rebuilds and comparisons.
const QUEUES: u16 = 10;
/// Kinds of faults of a controller; the last but one is that it does not come back from a reset,
/// the last that it is gone.
const FAULT_KINDS: u64 = 12;

/// The platter as the controller has it.
#[derive(Debug)]
struct Blocks {
    platter: SharedPlatter,
    queue: QueueNumber,
}

impl Medium for Blocks {
    fn begin(&mut self, command: MediumCommand) {
        let MediumCommand { name, operation, flags, lba, blocks, data } = command;
        let mut platter = lock(&self.platter);
        let order = platter.order();
        let command = Command { name, operation, flags, start: lba, blocks, data, order };
        platter.begin(command, self.queue);
    }

    fn take_ended(&mut self) -> Option<MediumEnd> {
        let answer = lock(&self.platter).take_ended(self.queue)?;
        Some(MediumEnd { name: answer.name, status: answer.status, data: answer.data })
    }

    fn abandon(&mut self, name: u64) {
        lock(&self.platter).abandon(self.queue, name);
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        lock(&self.platter).close(self.queue);
    }
}

/// The controller and who looks after it.
#[derive(Debug)]
struct Machine {
    software: SoftwareController,
    supervisor: Option<Supervisor>,
    platter: SharedPlatter,
    queue: QueueNumber,
    random: Random,
    plan: DrivePlan,
    /// When the supervisor is to look next.
    serve_at: Nanos,
}

impl Machine {
    /// Controller and supervisor do what there is to do.
    fn turn(&mut self, now: Nanos) {
        self.software.follow_clock(now);
        while self.software.step() {}
        if let Some(supervisor) = &mut self.supervisor {
            let rest = supervisor.serve();
            self.serve_at = rest.map_or(Nanos(u64::MAX), |rest| now + rest);
        }
        while self.software.step() {}
    }

    /// Something may go wrong with what is sent now.
    fn misbehave(&mut self) {
        let mut platter = lock(&self.platter);
        if platter.is_healed() || !self.random.chance(self.plan.fault_chance) {
            return;
        }
        let kinds = match self.plan.worst {
            Worst::Passing => FAULT_KINDS - 2,
            Worst::Lasting => FAULT_KINDS - 1,
            Worst::Vanishing => FAULT_KINDS,
        };
        let kind = self.random.below(kinds);
        platter.note_misbehaviour(kind);
        drop(platter);
        self.software.inject(fault(kind));
    }
}

fn fault(kind: u64) -> Fault {
    match kind {
        0 => Fault::Stuck,
        1 => Fault::StuckForGood,
        2 => Fault::Status(Status::WRITE_FAULT),
        3 => Fault::Status(Status::INTERNAL_ERROR),
        4 => Fault::DoneButStatus(Status::INTERNAL_PATH_ERROR),
        5 => Fault::WrongPhase,
        6 => Fault::Twice,
        7 => Fault::UnknownId(0x7e5),
        8 => Fault::Fatal,
        9 => Fault::NotReady,
        10 => Fault::NeverDisabled,
        _ => Fault::Gone,
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its memory goes back to be used again.
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.finish();
        }
    }
}

type SharedMachine = Arc<Mutex<Machine>>;

fn machine(shared: &SharedMachine) -> MutexGuard<'_, Machine> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
#[derive(Debug)]
pub struct Drive {
    device: PcieDevice,
    uuid: Uuid,
    depth_max: u32,
    machine: SharedMachine,
}

impl Drive {
    /// A disk of `blocks` blocks behind a controller of its own, which is powered up now, whose
    /// queue pairs have at most `depth_max` credits.
    ///
    /// # Errors
    ///
    /// The controller does not come up.
    pub fn new(
        platter: SharedPlatter,
        blocks: u64,
        depth_max: u32,
        plan: DrivePlan,
        seed: u64,
    ) -> Result<Drive, PcieError> {
        let (number, has_cache, queue) = {
            let mut platter = lock(&platter);
            (platter.number, platter.has_volatile_cache(), platter.open(Party::default()))
        };
        let uuid = Uuid::from_u128(u128::from(number) + 1);
        let namespace = NamespaceConfig { block_bytes: BLOCK_BYTES, blocks, uuid: Some(uuid) };
        let config = Config {
            namespaces: vec![namespace],
            queues: QUEUES,
            write_cache: if has_cache { Feature::Present } else { Feature::Absent },
            vectors: 0,
            ..Config::default()
        };
        let blocks = Blocks { platter: platter.clone(), queue };
        let software = SoftwareController::over(config, Box::new(blocks));
        let name = format!("disk{number}");
        let options = Options { queues: QUEUES, ..plan.options };
        let (controller, supervisor) =
            Controller::attach_stepped(&name, software.platform(), options)?;
        let supervisor = Some(supervisor);
        let random = Random::new(seed.rotate_left(7) ^ (number + 1));
        let serve_at = Nanos(u64::MAX);
        let machine = Machine { software, supervisor, platter, queue, random, plan, serve_at };
        let machine = Arc::new(Mutex::new(machine));
        let device = PcieDevice::new(name, Arc::new(controller), 1)?;
        Ok(Drive { device, uuid, depth_max, machine })
    }
}

impl BlockDevice for Drive {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn limits(&self) -> Limits {
        self.device.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        Some(self.uuid)
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let inner = self.device.open(cx, depth.min(self.depth_max))?;
        Ok(Box::new(DriveQueuePair { inner, machine: self.machine.clone() }))
    }
}

/// The driver's queue pair, and whom to give a turn. The driver lets go first.
#[derive(Debug)]
struct DriveQueuePair {
    inner: PcieQueuePair,
    machine: SharedMachine,
}

impl QueuePair for DriveQueuePair {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        self.inner.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        let mut machine = machine(&self.machine);
        if self.inner.has_unrung() {
            machine.misbehave();
        }
        self.inner.flush(cx);
        machine.turn(cx.now());
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        let mut machine = machine(&self.machine);
        machine.turn(cx.now());
        let count = self.inner.poll(cx, completions);
        // What was late or in line is with them now.
        machine.turn(cx.now());
        count
    }

    fn credits(&self) -> u32 {
        self.inner.credits()
    }

    fn inflight(&self) -> u32 {
        self.inner.inflight()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.inner.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        let told = self.inner.wake_when_told();
        if told == Wake::Now || self.inner.has_news() {
            return Wake::Now;
        }
        if self.inner.inflight() == 0 {
            return told;
        }
        // No thread of the supervisor wakes this core, and no interrupt.
        let machine = machine(&self.machine);
        let due = lock(&machine.platter).due(machine.queue);
        let turn_at = machine.serve_at.min(due.unwrap_or(Nanos(u64::MAX)));
        told.soonest(Wake::At(turn_at))
    }

    fn arm(&mut self, _: &mut Cx) -> bool {
        self.wake() != Wake::Now
    }
}
