//! The control thread of a simulated process, on which the supervisors of its remote devices run,
//! and how these devices are opened.

use nvmf::initiator::ConnectOptions;
use nvmf::initiator::remote::{Opening, RemoteDevice, RemoteOptions, Supervisor};
use reactor::{Nanos, VirtualClock, Wake};
use uuid::Uuid;

use super::fabric::{Fabric, Owner};
use super::node::subsystem_nqn;
use super::port::{Port, address};
use crate::sim::contexts::{Contexts, Core};
use crate::sim::violation::Violation;

/// I/O queues asked of a target: one a core that serves the volume, and those of its home.
const IO_QUEUES: u16 = 16;
/// Number of the control thread among the cores of its process.
const CORE: usize = 63;

/// See the module.
#[derive(Debug)]
pub struct Admin {
    core: Core,
    supervisors: Vec<Supervisor>,
    /// Some core may have left a note since the last pass.
    is_stale: bool,
}

/// A device that is being opened, or is open.
#[derive(Debug)]
struct Door {
    link: usize,
    opening: Opening,
    device: Option<RemoteDevice>,
}

/// Devices that are being opened.
#[derive(Debug)]
pub struct Doors {
    doors: Vec<Door>,
    options: Vec<RemoteOptions>,
}

fn broken(error: impl std::fmt::Display) -> Violation {
    Violation::Stuck(error.to_string())
}

impl Admin {
    /// The control thread of the process of this host id.
    pub fn new(
        fabric: &Fabric,
        owner: Owner,
        (hand, seed): (&VirtualClock, u64),
        contexts: &mut Contexts,
    ) -> Result<Admin, Violation> {
        let port = Port::of_host(fabric, owner);
        let core = contexts.take_wired(CORE, hand, seed, &port)?;
        Ok(Admin { core, supervisors: Vec::new(), is_stale: true })
    }

    /// Begins to open the devices of so many targets.
    pub fn open(&mut self, links: usize, host: Uuid, digests: bool) -> Result<Doors, Violation> {
        let options = |link| {
            let mut connect = ConnectOptions::new(address(link), subsystem_nqn(link), host);
            connect.io_queues = IO_QUEUES;
            (connect.header_digest, connect.data_digest) = (digests, digests);
            RemoteOptions::new(connect)
        };
        let options: Vec<RemoteOptions> = (0..links).map(options).collect();
        let doors = (0..links).map(|link| self.knock(link, &options[link]));
        Ok(Doors { doors: doors.collect::<Result<_, _>>()?, options })
    }

    fn knock(&mut self, link: usize, options: &RemoteOptions) -> Result<Door, Violation> {
        let name = format!("disk{link}");
        let (opening, supervisor) =
            RemoteDevice::open_stepped(name, options.clone()).map_err(broken)?;
        self.supervisors.push(supervisor);
        self.is_stale = true;
        Ok(Door { link, opening, device: None })
    }

    /// The devices once all are open. One that could not be opened is tried again, as whoever
    /// starts a process does.
    pub fn try_open(&mut self, doors: &mut Doors) -> Result<Option<Vec<RemoteDevice>>, Violation> {
        for place in 0..doors.doors.len() {
            let door = &mut doors.doors[place];
            match door.opening.take() {
                None => {}
                Some(Ok(device)) => door.device = Some(device),
                Some(Err(_)) => {
                    let link = door.link;
                    doors.doors[place] = self.knock(link, &doors.options[link])?;
                }
            }
        }
        if doors.doors.iter().any(|door| door.device.is_none()) {
            return Ok(None);
        }
        let devices = doors.doors.drain(..).filter_map(|door| door.device);
        Ok(Some(devices.collect()))
    }

    /// One pass of the thread.
    pub fn pass(&mut self) {
        self.is_stale = false;
        self.core.cx.advance_clock();
        self.core.look();
        for supervisor in &mut self.supervisors {
            supervisor.poll(&mut self.core.cx);
        }
        self.supervisors.retain(|supervisor| !supervisor.is_ended());
    }

    /// A core has had a pass, and may have left a note.
    pub fn touch(&mut self) {
        self.is_stale = true;
    }

    /// When it has something to do.
    pub fn next_event(&self, now: Nanos) -> Option<Nanos> {
        if self.is_stale || self.core.has_news() {
            return Some(now);
        }
        let wake = self.supervisors.iter().fold(Wake::Never, |wake, one| wake.soonest(one.wake()));
        match wake {
            Wake::Now => Some(now),
            Wake::At(time) => Some(time),
            Wake::Descriptor | Wake::Never => None,
        }
    }

    /// The process is gone.
    pub fn end(self) -> Core {
        drop(self.supervisors);
        self.core
    }
}
