//! From discovery controller to discovery controller, until one names the subsystem.
//!
//! Controllers that were given come first, then those that they refer to, each once and no more
//! than [`CONTROLLERS_MAX`] in all. One that cannot be reached takes its share of the time that is
//! left and no more, so that the next is asked in time.

use std::net::SocketAddr;
use std::task::Poll;

use reactor::{Cx, Nanos, Wake};

use super::super::error::ConnectError;
use super::super::join::Association;
use super::super::options::ConnectOptions;
use super::reader::{Reader, Records};
use crate::fabrics::Nqn;
use crate::fabrics::discovery::{DiscoveryEntry, value};
use crate::fabrics::nqn::DISCOVERY_NQN;

/// Discovery controllers that are asked at most, referrals included.
pub const CONTROLLERS_MAX: usize = 16;
/// Addresses of a subsystem that are kept at most.
pub const PORTALS_MAX: usize = 64;

/// What the log of one controller says that matters.
#[derive(Debug)]
struct Findings {
    wanted: Nqn,
    portals: Vec<SocketAddr>,
    referrals: Vec<SocketAddr>,
}

impl Records for Findings {
    fn begin(&mut self) {
        self.portals.clear();
        self.referrals.clear();
    }

    fn take(&mut self, record: &DiscoveryEntry) {
        let is_tcp = record.transport_type == value::TRANSPORT_TCP;
        // TLS is not spoken here; a record that asks for it is of no use.
        let needs_tls = record.requirements & 0b11 == value::SECURE_CHANNEL_REQUIRED
            || record.transport_specific[0] == value::SECURITY_TLS_1_3;
        if !is_tcp || needs_tls {
            return;
        }
        let Some(address) = record.socket_address() else { return };
        if address.port() == 0 || address.ip().is_unspecified() {
            return;
        }
        let (list, most) = match record.subsystem_type {
            value::SUBSYSTEM_REFERRAL => (&mut self.referrals, CONTROLLERS_MAX),
            value::SUBSYSTEM_NVM if Nqn::from_field(&record.subsystem_nqn) == Ok(self.wanted) => {
                (&mut self.portals, PORTALS_MAX)
            }
            _ => return,
        };
        if list.len() < most && !list.contains(&address) {
            list.push(address);
        }
    }
}

/// Finds out where a subsystem is.
#[derive(Debug)]
pub struct Discovery {
    association: Association,
    findings: Findings,
    /// All controllers that are known; those before `next` were asked.
    controllers: Vec<SocketAddr>,
    next: usize,
    /// How many answered.
    answered: usize,
    reader: Option<Reader>,
    /// By when the controller that is being asked must have answered.
    reader_by: Nanos,
    deadline: Nanos,
    timeout: std::time::Duration,
    /// What the last controller that failed did.
    error: Option<ConnectError>,
}

impl Discovery {
    /// Will ask `controllers` where the subsystem of the options is, whose address is not used and
    /// whose time to connect is that for the whole search. Addresses after the first
    /// [`CONTROLLERS_MAX`] are left out.
    pub fn new(cx: &Cx, options: &ConnectOptions, controllers: &[SocketAddr]) -> Discovery {
        let association = Association { subsystem_nqn: DISCOVERY_NQN, ..Association::of(options) };
        let mut discovery = Discovery {
            association,
            findings: Findings {
                wanted: options.subsystem_nqn,
                portals: Vec::new(),
                referrals: Vec::new(),
            },
            controllers: Vec::new(),
            next: 0,
            answered: 0,
            reader: None,
            reader_by: Nanos(0),
            deadline: cx.now() + Nanos::from(options.connect_timeout),
            timeout: options.connect_timeout,
            error: None,
        };
        discovery.add(controllers);
        discovery
    }

    fn add(&mut self, controllers: &[SocketAddr]) {
        for address in controllers {
            if self.controllers.len() < CONTROLLERS_MAX && !self.controllers.contains(address) {
                self.controllers.push(*address);
            }
        }
    }

    /// Goes on as far as it can without waiting; ready with at least one address of the subsystem,
    /// in the order of the log.
    ///
    /// # Errors
    /// Nobody knows the subsystem, or nobody who was asked could be reached.
    pub fn poll(&mut self, cx: &mut Cx) -> Poll<Result<Vec<SocketAddr>, ConnectError>> {
        loop {
            let Some(mut reader) = self.reader.take() else {
                match self.ask_next(cx) {
                    Ok(reader) => {
                        self.reader = Some(reader);
                        continue;
                    }
                    Err(Some(error)) => {
                        self.error = Some(error);
                        continue;
                    }
                    Err(None) => return Poll::Ready(Err(self.not_found())),
                }
            };
            match reader.poll(cx, &mut self.findings) {
                Poll::Pending if cx.now() < self.reader_by => {
                    self.reader = Some(reader);
                    return Poll::Pending;
                }
                Poll::Pending => {
                    let address = self.controllers[self.next - 1];
                    let (step, timeout) = (reader.step(), self.timeout);
                    self.error = Some(ConnectError::TimedOut { address, step, timeout });
                }
                Poll::Ready(Err(error)) => self.error = Some(error),
                Poll::Ready(Ok(())) => {
                    self.answered += 1;
                    if !self.findings.portals.is_empty() {
                        reader.close(cx);
                        return Poll::Ready(Ok(std::mem::take(&mut self.findings.portals)));
                    }
                    let referrals = std::mem::take(&mut self.findings.referrals);
                    self.add(&referrals);
                }
            }
            reader.close(cx);
        }
    }

    /// Starts to ask the next controller; the error says what is wrong with that one, or that
    /// there is no other.
    fn ask_next(&mut self, cx: &mut Cx) -> Result<Reader, Option<ConnectError>> {
        self.findings.begin();
        let left = self.controllers.len() - self.next;
        let Some(address) = self.controllers.get(self.next) else { return Err(None) };
        self.next += 1;
        let span = Nanos(self.deadline.since(cx.now()).0 / left as u64);
        self.reader_by = cx.now() + span;
        let association = Association { address: *address, ..self.association };
        Reader::start(cx, &association).map_err(Some)
    }

    fn not_found(&mut self) -> ConnectError {
        let nobody = ConnectError::NotDiscovered {
            subsystem_nqn: self.findings.wanted.to_string(),
            asked: self.answered,
        };
        match self.error.take() {
            // Somebody who may know did not answer: that is what is wrong.
            Some(error) if self.answered == 0 => error,
            _ => nobody,
        }
    }

    /// When it must be polled next, beside a report of its socket.
    pub fn wake(&self) -> Wake {
        let reader = self.reader.as_ref().map_or(Wake::Now, Reader::wake);
        reader.soonest(Wake::At(self.reader_by))
    }

    /// Gives up: closes what is open and gives back what was taken.
    pub fn cancel(&mut self, cx: &mut Cx) {
        if let Some(reader) = self.reader.take() {
            reader.close(cx);
        }
        self.next = self.controllers.len();
    }
}
