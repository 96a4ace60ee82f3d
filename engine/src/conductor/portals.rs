//! Commands on portals: addresses are bound here and listened on by the first core.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nvmf::target::PortalId;
use reactor::inbox::CallError;

use super::Shared;
use super::courier::PATIENCE;
use super::state::{Deadline, State};
use crate::command::error::Object;
use crate::command::limits::PORTALS_MAX;
use crate::command::{AddPortal, CommandError, Presence, Progress, Reply, field};
use crate::model::{Model, PortalEntry};
use crate::portal::{self, PortalError};

/// How long a core with a full inbox is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(1);

impl Shared {
    pub(super) fn add_portal(
        self: &Arc<Shared>,
        asked: &AddPortal,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let address = field::address(&asked.address)?;
        let advertise = asked.advertise.as_deref();
        let advertised = field::advertised(advertise, address.port())?;
        let mut state = self.lock();
        let same = |(_, one): &(&u16, &PortalEntry)| {
            address.port() != 0 && (one.asked == address || one.local == address)
        };
        let known = state.model.portals.iter().find(same);
        if let Some(known) = known.map(|(id, entry)| alike(*id, entry, address, advertised)) {
            drop(state);
            return self.portal_served(known?, address, deadline);
        }
        let id = free_id(&state.model)?;
        let entry = PortalEntry {
            asked: address,
            local: address,
            advertised,
            presence: Presence::Coming,
            socket: None,
        };
        state.model.portals.insert(id, entry);
        drop(state);
        let begun = self.begin_listening(id, address, advertise, deadline);
        if let Err(error) = begun {
            self.lock().model.portals.remove(&id);
            self.changed.notify_all();
            return Err(error);
        }
        self.portal_served(id, address, deadline)
    }

    /// Binds the address of a portal that is coming, and has the first core listen, if it runs.
    fn begin_listening(
        self: &Arc<Shared>,
        id: u16,
        address: SocketAddr,
        advertise: Option<&str>,
        deadline: Deadline,
    ) -> Result<(), CommandError> {
        let (socket, local) = portal::bind(address).map_err(Arc::new)?;
        let advertised = field::advertised(advertise, local.port())?;
        let kept = if self.lock().is_listening {
            self.listen(id, local, socket, deadline)?;
            None
        } else {
            Some(socket)
        };
        let mut state = self.lock();
        let entry = state.model.portals.get_mut(&id).expect("a portal that comes stays");
        entry.local = local;
        entry.advertised = advertised;
        entry.socket = kept;
        entry.presence = Presence::Present;
        let is_overtaken = entry.socket.is_some() && state.is_listening;
        self.publish(&mut state);
        drop(state);
        if is_overtaken { self.listen_on_all(deadline) } else { Ok(()) }
    }

    fn portal_served(
        self: &Arc<Shared>,
        id: u16,
        address: SocketAddr,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let look = |state: &mut State| match state.model.portals.get(&id) {
            None => Some(Err(is_missing(address))),
            Some(entry) if entry.presence == Presence::Coming => None,
            Some(_) => Some(Ok(())),
        };
        let late = |_: &State| {
            deadline.passed(format!("portal {address} is not listened on"), Progress::default())
        };
        let (state, found) = self.wait(self.lock(), deadline, look, late)?;
        found?;
        let generation = state.generation;
        let known = || format!("portal {address} is listened on; discovery does not name it yet");
        let state = self.wait_applied(state, deadline, generation, known)?;
        let entry = state.model.portals.get(&id).ok_or_else(|| is_missing(address))?;
        Ok(Reply::Portal(entry.info(id)))
    }

    pub(super) fn remove_portal(
        self: &Arc<Shared>,
        address: &str,
        deadline: Deadline,
    ) -> Result<Reply, CommandError> {
        let address = field::address(address)?;
        let mut state = self.lock();
        let is_it = |(_, one): &(&u16, &mut PortalEntry)| {
            one.local == address && one.presence != Presence::Coming
        };
        let found = state.model.portals.iter_mut().find(is_it);
        let (id, entry) = found.ok_or_else(|| is_missing(address))?;
        let id = *id;
        if entry.presence == Presence::Present {
            entry.presence = Presence::Going;
            entry.socket = None;
            self.publish(&mut state);
        }
        let generation = state.generation;
        drop(state);
        if let Some(stage) = self.stage.get() {
            self.ask_first_core(deadline, |within| stage.stop_listening(within, PortalId(id)))
                .map_err(|_| self.not_told(address, deadline))?;
        }
        let mut state = self.lock();
        // Another command may have finished this one's work.
        let is_it = |one: &PortalEntry| one.local == address && one.presence == Presence::Going;
        if state.model.portals.get(&id).is_some_and(is_it) {
            state.model.portals.remove(&id);
        }
        self.changed.notify_all();
        let known = || format!("portal {address} is not listened on any more");
        drop(self.wait_applied(state, deadline, generation, known)?);
        Ok(Reply::Done)
    }

    /// Has the first core listen on what was added before, and on what will be.
    pub(super) fn listen_on_all(
        self: &Arc<Shared>,
        deadline: Deadline,
    ) -> Result<(), CommandError> {
        let bound: Vec<(u16, SocketAddr, OwnedFd)> = {
            let mut state = self.lock();
            state.is_listening = true;
            let all = state.model.portals.iter_mut();
            all.filter_map(|(id, one)| Some((*id, one.local, one.socket.take()?))).collect()
        };
        for (id, local, socket) in bound {
            self.listen(id, local, socket, deadline)?;
        }
        Ok(())
    }

    fn listen(
        self: &Arc<Shared>,
        id: u16,
        local: SocketAddr,
        socket: OwnedFd,
        deadline: Deadline,
    ) -> Result<(), CommandError> {
        let stage = self.stage.get().expect("there are cores to listen");
        let refused = |source| CommandError::Portal(Arc::new(PortalError::new(local, source)));
        let attempt = |within| {
            // A copy each time: one that comes to nothing is closed on the way.
            match socket.try_clone() {
                Ok(copy) => stage.listen(within, PortalId(id), copy),
                Err(source) => Ok(Err(source)),
            }
        };
        match self.ask_first_core(deadline, attempt) {
            Ok(listening) => listening.map_err(refused),
            Err(_) => {
                // It may have begun and not ended; what it listens on then is not wanted.
                let _ = stage.stop_listening(FULL_PAUSE, PortalId(id));
                Err(self.not_told(local, deadline))
            }
        }
    }

    /// Asks until the core has an answer, or the time is over, or the engine ends.
    fn ask_first_core<R>(
        &self,
        deadline: Deadline,
        ask: impl Fn(Duration) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        loop {
            let answer = ask(deadline.left().min(PATIENCE));
            let is_over = deadline.left().is_zero() || self.lock().is_stopping;
            match answer {
                Err(CallError::Full) if !is_over => thread::sleep(FULL_PAUSE),
                Err(CallError::Deadline) if !is_over => {}
                answer => return answer,
            }
        }
    }

    fn not_told(&self, address: SocketAddr, deadline: Deadline) -> CommandError {
        let state = self.lock();
        if state.is_stopping {
            return CommandError::Stopping;
        }
        let missing = state.cores.first().map(|core| core.core).into_iter().collect();
        let progress = Progress { missing, ..Progress::default() };
        deadline.passed(format!("portal {address} waits for the core that listens"), progress)
    }
}

/// Whether a portal of this address is the one that is asked for.
fn alike(
    id: u16,
    entry: &PortalEntry,
    address: SocketAddr,
    advertised: Option<SocketAddr>,
) -> Result<u16, CommandError> {
    if entry.presence == Presence::Going {
        return Err(is_going(address));
    }
    if entry.advertised == advertised {
        return Ok(id);
    }
    Err(CommandError::AlreadyExists {
        what: Object::Portal,
        name: address.to_string(),
        difference: match entry.advertised {
            Some(other) => format!("discovery names {other} for it"),
            None => String::from("discovery names no other address for it"),
        },
    })
}

/// The lowest number that no portal has.
fn free_id(model: &Model) -> Result<u16, CommandError> {
    if model.portals.len() >= PORTALS_MAX {
        return Err(CommandError::LimitReached { what: Object::Portal, limit: PORTALS_MAX });
    }
    let mut ids = 1..;
    Ok(ids.find(|id| !model.portals.contains_key(id)).expect("few are taken"))
}

fn is_missing(address: SocketAddr) -> CommandError {
    CommandError::NotFound { what: Object::Portal, name: address.to_string() }
}

fn is_going(address: SocketAddr) -> CommandError {
    CommandError::InUse {
        what: Object::Portal,
        name: address.to_string(),
        user: String::from("its removal"),
        advice: "give the command to remove it again",
    }
}
