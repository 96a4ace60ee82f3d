//! A disk for tests that keeps reservations, as each of its hosts has it.
//!
//! What a target does for a remote replica, without a network: I/O that a reservation forbids is
//! refused, and the state machine is the real one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bdev::device::{Geometry, Limits, OpenError};
use bdev::reservation::device::{Abilities, Answer, Outcome, Reply, Report, Reported, Request};
use bdev::reservation::{
    Access, Command, DeviceReservations, Persistence, Registrant, RegistrantId, Reservations,
};
use bdev::{BlockDevice, Busy, Completion, Completions, Io, QueuePair, Status};
use reactor::{Cx, Wake};
use uuid::Uuid;

use crate::volatile_disk::VolatileDisk;

/// What a replica knows of its hosts.
pub(crate) type Register = Arc<Mutex<Reservations>>;

/// Of a replica that nobody has reserved.
pub(crate) fn register() -> Register {
    Arc::new(Mutex::new(Reservations::new(Persistence::Unsupported)))
}

/// A replica, as one host has it.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub disk: Arc<VolatileDisk>,
    pub register: Register,
    pub host: RegistrantId,
    pub abilities: Abilities,
}

impl Replica {
    pub fn report(&self) -> Report {
        let register = self.register.lock().unwrap();
        let entry = |one: &bdev::reservation::Registration| Reported {
            host_id: one.registrant.id.bytes(),
            key: one.key,
            is_holder: register.is_holder(&one.registrant.id),
        };
        let kind = register.reservation().map(|held| held.kind);
        let registrants = register.registrations().iter().map(entry).collect();
        Report { generation: register.generation(), kind, is_persistent: false, registrants }
    }

    pub fn change(&self, command: Command) -> Outcome {
        let from = Registrant::unnamed(self.host);
        let applied = self.register.lock().unwrap().apply(&from, command);
        applied.map(|_| Answer::Changed).map_err(|refusal| refusal.nvme_status())
    }
}

impl DeviceReservations for Replica {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn begin(&self, request: Request, reply: Reply) {
        reply.send(match request {
            Request::Change(command) => self.change(command),
            Request::Report => Ok(Answer::Report(self.report())),
        });
    }
}

impl BlockDevice for Replica {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn limits(&self) -> Limits {
        self.disk.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.disk.uuid()
    }

    fn reservations(&self) -> Option<Arc<dyn DeviceReservations>> {
        (self.abilities != Abilities::default()).then(|| Arc::new(self.clone()) as Arc<_>)
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        let (inner, replica) = (self.disk.open_queue_pair(cx, depth)?, self.clone());
        Ok(Box::new(Checked { inner, replica, refused: VecDeque::new() }))
    }
}

/// Refuses what the reservation forbids.
#[derive(Debug)]
struct Checked {
    inner: Box<dyn QueuePair>,
    replica: Replica,
    refused: VecDeque<Completion>,
}

impl QueuePair for Checked {
    fn submit(&mut self, cx: &mut Cx, io: Io) -> Result<(), Busy> {
        let table = self.replica.register.lock().unwrap().access_table();
        if table.access(&self.replica.host, io.operation) == Access::Conflict {
            self.refused.push_back(Completion::new(io.token, Status::RESERVATION_CONFLICT));
            return Ok(());
        }
        self.inner.submit(cx, io)
    }

    fn flush(&mut self, cx: &mut Cx) {
        self.inner.flush(cx);
    }

    fn poll(&mut self, cx: &mut Cx, completions: &mut Completions) -> usize {
        let refused = self.refused.drain(..).map(|one| completions.push(one)).count();
        refused + self.inner.poll(cx, completions)
    }

    fn credits(&self) -> u32 {
        self.inner.credits()
    }

    fn inflight(&self) -> u32 {
        self.inner.inflight() + u32::try_from(self.refused.len()).unwrap()
    }

    fn abort_all(&mut self, cx: &mut Cx) {
        self.inner.abort_all(cx);
    }

    fn wake(&self) -> Wake {
        self.inner.wake()
    }

    fn arm(&mut self, cx: &mut Cx) -> bool {
        self.inner.arm(cx)
    }
}
