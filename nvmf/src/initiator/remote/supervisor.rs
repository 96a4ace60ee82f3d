//! The controller of a remote device: connected, kept, lost, connected again.
//!
//! A state machine on one thread, polled by the [`super::hub`], a test or the simulator with a
//! context of its own; it never blocks. It alone changes the sessions of its device.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::task::Poll;

use bdev::nvme::log_page::AnaState;
use bdev::session::{Continuity, Link};
use reactor::sleep::Waker;
use reactor::{Cx, Nanos, Wake};

use super::super::connect::{Connector, Progress, RemoteNamespace};
use super::super::discovery::Discovery;
use super::super::error::ConnectError;
use super::super::join::Association;
use super::super::options::ConnectOptions;
use super::device::Opened;
use super::event::{LossReason, RemoteEvent};
use super::known::Known;
use super::options::{RECONNECT_FIRST, RECONNECT_LONGEST, RemoteOptions, STABLE_AFTER};
use super::reserve::Clerk;
use super::route::Route;
use super::shared::{Note, Shared};
use super::watch::{Finding, Watch};

/// Findings that are acted on in one poll.
const FINDINGS_PER_POLL: usize = 16;
/// Notes that are taken in one poll.
const NOTES_PER_POLL: usize = 256;

#[derive(Debug)]
enum Mode {
    Discovering(Box<Discovery>),
    Connecting(Box<Connector>),
    /// Connected, but not yet told how good this way is.
    Settling(Box<Watch>, Continuity),
    Live(Box<Watch>),
    /// Until the next attempt.
    Waiting(Nanos),
    Ended,
}

/// Where the outcome of opening goes.
pub(super) type OpenReply = SyncSender<Result<Opened, ConnectError>>;

/// What an attempt failed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// Finding out where the subsystem is.
    Discovery,
    /// Connecting to it there.
    Portal,
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    notes: Receiver<Note>,
    /// How to connect; the address is that of the last attempt.
    options: ConnectOptions,
    route: Route,
    mode: Mode,
    /// Who waits for the device to be opened.
    opening: Option<OpenReply>,
    known: Option<Known>,
    /// Attempts since the last session that held.
    attempts: u32,
    live_since: Nanos,
    /// Asks for reservations.
    clerk: Clerk,
    /// By queue id: what wakes the core that has it.
    wakers: Vec<Option<Waker>>,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        notes: Receiver<Note>,
        options: &RemoteOptions,
        opening: OpenReply,
    ) -> Supervisor {
        Supervisor {
            shared,
            notes,
            options: options.connect.clone(),
            route: Route::of(options),
            mode: Mode::Waiting(Nanos(0)),
            opening: Some(opening),
            known: None,
            attempts: 0,
            live_since: Nanos(0),
            clerk: Clerk::default(),
            wakers: Vec::new(),
        }
    }

    /// Goes on as far as it can without waiting. Once a pass.
    pub fn poll(&mut self, cx: &mut Cx) {
        if self.shared.is_stopping() {
            self.end(cx);
            return;
        }
        self.take_notes(cx);
        match &mut self.mode {
            Mode::Waiting(until) if *until <= cx.now() => self.attempt(cx),
            Mode::Waiting(_) | Mode::Ended => {}
            Mode::Discovering(discovery) => match discovery.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(portals)) => {
                    self.route.set(portals);
                    self.attempt(cx);
                }
                Poll::Ready(Err(error)) => {
                    // Who knew it is gone: it may still be where it was.
                    self.route.again(self.options.address);
                    self.failed(cx, error, Where::Discovery);
                }
            },
            Mode::Connecting(connector) => match connector.poll(cx) {
                Progress::Pending => {}
                Progress::Ready(remote) => self.connected(cx, *remote),
                Progress::Failed(error) => self.failed(cx, error, Where::Portal),
            },
            Mode::Settling(..) | Mode::Live(_) => {
                for _ in 0..FINDINGS_PER_POLL {
                    let (Mode::Settling(watch, _) | Mode::Live(watch)) = &mut self.mode else {
                        break;
                    };
                    let Some(finding) = watch.poll(cx) else { break };
                    self.act_on(cx, finding);
                }
            }
        }
        self.poll_clerk(cx);
    }

    fn poll_clerk(&mut self, cx: &mut Cx) {
        if let (Mode::Live(_), Some(known), false) = (&self.mode, &self.known, self.clerk.is_idle())
        {
            let association = Association::of(&self.options);
            self.clerk.poll(cx, &self.shared, &association, known.view);
        }
    }

    fn take_notes(&mut self, cx: &mut Cx) {
        for _ in 0..NOTES_PER_POLL {
            let Ok(note) = self.notes.try_recv() else { return };
            let session = self.shared.sessions().state().number;
            match note {
                Note::Opened { queue_id, waker } => {
                    let index = usize::from(queue_id);
                    if self.wakers.len() <= index {
                        self.wakers.resize_with(index + 1, || None);
                    }
                    self.wakers[index] = waker;
                }
                Note::End { session: ended, reason } if ended == session => {
                    if let Mode::Live(_) = self.mode {
                        self.lose(cx, reason);
                    }
                }
                Note::Abort { session: late, queue_id, command_id } if late == session => {
                    if let Mode::Live(watch) = &mut self.mode
                        && watch.abort(cx, queue_id, command_id)
                    {
                        self.shared.report(RemoteEvent::Aborted { queue_id });
                    }
                }
                Note::LookAtAccess { session: closed } if closed == session => {
                    if let Mode::Live(watch) = &mut self.mode {
                        watch.look_at_access(cx);
                    }
                }
                Note::Reserve(asked) => {
                    // Where nothing lives it is dropped, which answers it.
                    if let Mode::Live(_) = self.mode {
                        self.clerk.ask(*asked);
                    }
                }
                // Of a session that is over.
                Note::End { .. } | Note::Abort { .. } | Note::LookAtAccess { .. } => {}
            }
        }
    }

    /// Connects to the next address, or finds out which there are.
    fn attempt(&mut self, cx: &mut Cx) {
        let Some(address) = self.route.take(self.options.address) else {
            let Route::Discovered { controllers, .. } = &self.route else {
                unreachable!("a fixed address is always there")
            };
            let discovery = Discovery::new(cx, &self.options, controllers);
            self.mode = Mode::Discovering(Box::new(discovery));
            return;
        };
        self.options.address = address;
        match Connector::start_admin(cx, self.options.clone()) {
            Ok(connector) => self.mode = Mode::Connecting(Box::new(connector)),
            Err(error) => self.failed(cx, error, Where::Portal),
        }
    }

    fn failed(&mut self, cx: &mut Cx, error: ConnectError, place: Where) {
        if place == Where::Portal && self.route.has_untried() {
            if self.opening.is_none() {
                self.shared.report(RemoteEvent::Failed(error));
            }
            self.mode = Mode::Waiting(cx.now());
            return;
        }
        if let Some(opening) = self.opening.take() {
            // Nobody waits any more when this fails, and then nobody has the device either.
            let _ = opening.send(Err(error));
            self.mode = Mode::Ended;
            return;
        }
        self.shared.report(RemoteEvent::Failed(error));
        self.back_off(cx);
    }

    /// Waits before the next attempt, twice as long each time; a random half of it, so that many
    /// hosts do not come at once.
    fn back_off(&mut self, cx: &mut Cx) {
        let doubled = RECONNECT_FIRST.0.saturating_mul(1 << self.attempts.min(16));
        let longest = doubled.min(RECONNECT_LONGEST.0);
        let wait = longest / 2 + cx.random.below(longest / 2 + 1);
        self.attempts = self.attempts.saturating_add(1);
        self.mode = Mode::Waiting(cx.now() + Nanos(wait));
    }

    fn connected(&mut self, cx: &mut Cx, mut remote: RemoteNamespace) {
        if remote.grant.depth < 2 {
            // No room for both halves of a pair.
            remote.view.fused_blocks = 0;
        }
        let instance = remote.admin.identity().instance;
        self.shared.sessions().name_run(instance.run());
        let mut continuity = Continuity::Kept;
        match &mut self.known {
            None => {
                // Whatever is connected later is this namespace.
                self.options.namespace_id = Some(remote.namespace_id);
                self.known = Some(Known::of(&remote));
            }
            Some(known) => {
                if let Err(mismatch) = known.check(&remote.view, remote.uuid) {
                    let RemoteNamespace { mut admin, .. } = remote;
                    admin.close(cx);
                    self.shared.sessions().change(Link::Refused);
                    self.shared.report(RemoteEvent::Refused(mismatch));
                    self.wake_cores();
                    self.back_off(cx);
                    return;
                }
                if !instance.is_same_run(known.instance) {
                    continuity = Continuity::Restarted;
                }
                known.instance = instance;
                known.view.geometry = remote.view.geometry;
            }
        }
        self.shared.set_grant(remote.grant, self.options.address);
        self.shared.set_blocks(remote.geometry.blocks);
        match Watch::new(cx, remote) {
            Ok(watch) if watch.reports_access() => {
                self.mode = Mode::Settling(Box::new(watch), continuity);
            }
            Ok(watch) => self.begin(cx, Box::new(watch), continuity, Link::Live),
            Err(error) => self.failed(cx, error, Where::Portal),
        }
    }

    /// Begins a session.
    fn begin(&mut self, cx: &Cx, watch: Box<Watch>, continuity: Continuity, link: Link) {
        self.mode = Mode::Live(watch);
        self.route.again(self.options.address);
        self.live_since = cx.now();
        let state = self.shared.sessions().begin(continuity, link);
        self.shared.report(RemoteEvent::Connected { session: state.number, continuity });
        self.wake_cores();
        if let Some(opening) = self.opening.take() {
            let known = self.known.clone().expect("it was just connected");
            let Known { view, uuid, identity, .. } = known;
            // Nobody waits any more when this fails; whoever asked has ended this by then.
            let _ = opening.send(Ok(Opened { view, uuid, identity }));
        }
    }

    fn act_on(&mut self, cx: &mut Cx, finding: Finding) {
        match finding {
            Finding::Ended(error) => self.lose(cx, LossReason::Admin(error)),
            Finding::Stuck => self.lose(cx, LossReason::Misbehaved),
            Finding::Gone => self.lose(cx, LossReason::NamespaceChanged),
            Finding::Namespace(view, uuid) => {
                let known = self.known.as_mut().expect("there was a session");
                if known.check(&view, uuid).is_err() {
                    self.lose(cx, LossReason::NamespaceChanged);
                } else if view.geometry != known.view.geometry {
                    let blocks = view.geometry.blocks;
                    known.view.geometry = view.geometry;
                    self.shared.set_blocks(blocks);
                    self.shared.report(RemoteEvent::Resized { blocks });
                }
            }
            Finding::Access(state) => self.set_access(cx, state),
        }
    }

    fn set_access(&mut self, cx: &Cx, state: AnaState) {
        let link = match state {
            AnaState::Optimized | AnaState::NonOptimized => Link::Live,
            AnaState::Inaccessible | AnaState::PersistentLoss | AnaState::Change => {
                Link::Inaccessible
            }
        };
        match std::mem::replace(&mut self.mode, Mode::Ended) {
            Mode::Settling(watch, continuity) => self.begin(cx, watch, continuity, link),
            mode => {
                self.mode = mode;
                if self.shared.sessions().state().link != link {
                    self.shared.sessions().change(link);
                    self.shared.report(RemoteEvent::Access(state));
                    self.wake_cores();
                }
            }
        }
    }

    /// The session is over; what is in flight on the cores ends there.
    fn lose(&mut self, cx: &mut Cx, reason: LossReason) {
        match std::mem::replace(&mut self.mode, Mode::Ended) {
            Mode::Settling(watch, _) => {
                watch.close(cx);
                if self.opening.is_some() {
                    let address = self.options.address;
                    let error = match reason {
                        LossReason::Admin(source) => {
                            let step = "reading the log of asymmetric access";
                            ConnectError::Connection { address, step, source }
                        }
                        _ => ConnectError::ControllerFatal,
                    };
                    self.failed(cx, error, Where::Portal);
                    return;
                }
            }
            Mode::Live(watch) => {
                self.shared.sessions().change(Link::Lost);
                self.clerk.lose(cx, &self.shared);
                self.wake_cores();
                watch.close(cx);
                if cx.now().since(self.live_since) >= STABLE_AFTER {
                    self.attempts = 0;
                }
            }
            _ => unreachable!("what is not connected is not lost"),
        }
        self.shared.report(RemoteEvent::Lost(reason));
        self.back_off(cx);
    }

    fn wake_cores(&self) {
        for waker in self.wakers.iter().flatten() {
            waker.wake_if_sleeping();
        }
    }

    fn end(&mut self, cx: &mut Cx) {
        self.clerk.lose(cx, &self.shared);
        match std::mem::replace(&mut self.mode, Mode::Ended) {
            Mode::Discovering(mut discovery) => discovery.cancel(cx),
            Mode::Connecting(mut connector) => connector.cancel(cx),
            Mode::Settling(watch, _) | Mode::Live(watch) => {
                self.shared.sessions().change(Link::Lost);
                watch.close(cx);
            }
            Mode::Waiting(_) | Mode::Ended => {}
        }
    }

    /// True once there is nothing left to do for it.
    pub fn is_ended(&self) -> bool {
        matches!(self.mode, Mode::Ended)
    }

    /// When it tries to connect again, while it waits to.
    pub fn next_attempt(&self) -> Option<Nanos> {
        match &self.mode {
            Mode::Waiting(until) => Some(*until),
            _ => None,
        }
    }

    /// When it must be polled next, beside a report of its sockets or a note.
    pub fn wake(&self) -> Wake {
        match &self.mode {
            Mode::Discovering(discovery) => discovery.wake(),
            Mode::Connecting(connector) => connector.wake(),
            Mode::Settling(watch, _) => watch.wake(),
            Mode::Live(watch) => watch.wake().soonest(self.clerk.wake()),
            Mode::Waiting(until) => Wake::At(*until),
            Mode::Ended => Wake::Never,
        }
    }
}
