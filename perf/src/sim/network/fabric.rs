//! Streams between simulated hosts and targets: bytes that arrive late, in pieces, or never.
//!
//! One fabric a run. A link leads to each target; it delays, falls silent for a while (what is
//! under way then arrives afterwards, as retransmission brings it), or is cut, which resets all of
//! its streams. A stream keeps its order whatever happens. Readiness is edge-triggered, as
//! [`reactor::socket`] wants it: [`Fabric::report`] tells of each arrival once.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;

use reactor::Nanos;
use reactor::random::Random;
use reactor::socket::{Ready, SocketError, SocketKey};

use crate::sim::trace::Trace;

/// Pieces that the bytes of one call arrive in at most.
const PIECES_MAX: u64 = 3;

/// A core that has sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner(pub u64);

/// Which end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// That which connected.
    Host = 0,
    /// That which accepted.
    Target = 1,
}

impl End {
    fn other(self) -> End {
        match self {
            End::Host => End::Target,
            End::Target => End::Host,
        }
    }
}

/// How a link is when nothing is wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct LinkPlan {
    /// Longest delay one way.
    pub delay_most: Nanos,
    /// Bytes under way in one direction of a stream at most.
    pub stream_bytes: usize,
}

/// What one end receives.
#[derive(Debug, Default)]
struct Half {
    /// Whose end it is, and by which key; nothing before it was accepted and after it was dropped.
    user: Option<(Owner, SocketKey)>,
    under_way: VecDeque<(Nanos, Vec<u8>)>,
    /// When the last of what is under way arrives.
    last: Nanos,
    arrived: VecDeque<u8>,
    /// When it learns that the other end is gone.
    ends_at: Option<Nanos>,
    has_ended: bool,
    /// Edges that were not reported.
    readable: bool,
    writable: bool,
    /// Whoever sends to it waits for room.
    is_full: bool,
}

impl Half {
    fn bytes(&self) -> usize {
        self.arrived.len() + self.under_way.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    /// When the next thing arrives.
    fn due(&self) -> Option<Nanos> {
        let first = self.under_way.front().map(|(at, _)| *at);
        let end = self.ends_at.filter(|_| !self.has_ended);
        first.or(end)
    }

    fn arrive(&mut self, now: Nanos) {
        while let Some((_, bytes)) = self.under_way.pop_front_if(|(at, _)| *at <= now) {
            self.arrived.extend(bytes);
            self.readable = true;
        }
        if self.under_way.is_empty() && !self.has_ended && self.ends_at.is_some_and(|at| at <= now)
        {
            self.has_ended = true;
            (self.readable, self.writable) = (true, true);
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    /// The request arrives then.
    Asking(Nanos),
    /// The answer arrives then.
    Answered(Nanos),
    Done,
}

#[derive(Debug)]
struct Stream {
    link: usize,
    handshake: Handshake,
    /// By the end that receives.
    halves: [Half; 2],
    /// The target's end was lost without a word: what is sent to it is answered by a reset.
    is_orphan: bool,
}

#[derive(Debug)]
struct Link {
    plan: LinkPlan,
    silent_until: Nanos,
    /// Somebody listens at the target.
    is_up: bool,
    /// Streams that nobody has accepted yet.
    arrivals: VecDeque<u64>,
}

#[derive(Debug)]
struct Inner {
    now: Nanos,
    random: Random,
    trace: Trace,
    links: Vec<Link>,
    streams: BTreeMap<u64, Stream>,
    numbers: u64,
}

/// See the module. Shared by all who have sockets, on one thread.
#[derive(Clone, Debug)]
pub struct Fabric(Rc<RefCell<Inner>>);

impl Inner {
    /// When something that leaves now arrives.
    fn later(&mut self, link: usize) -> Nanos {
        let most = self.links[link].plan.delay_most;
        self.now + Nanos(self.random.below(most.0.max(1)))
    }

    /// The other end hears that this one is gone, after all that is under way to it.
    fn end(&mut self, number: u64, end: End) {
        let Some(link) = self.streams.get(&number).map(|stream| stream.link) else { return };
        let at = self.later(link);
        let stream = self.streams.get_mut(&number).expect("it was just there");
        let half = &mut stream.halves[end as usize];
        let at = at.max(half.last);
        half.ends_at.get_or_insert(at);
    }

    fn shake(&mut self, number: u64) {
        let stream = &self.streams[&number];
        let (link, now) = (stream.link, self.now);
        match stream.handshake {
            Handshake::Asking(at) if at <= now => {
                let answer = self.later(link);
                let is_up = self.links[link].is_up;
                let stream = self.streams.get_mut(&number).expect("it was just there");
                stream.handshake = Handshake::Answered(answer);
                match is_up {
                    true => self.links[link].arrivals.push_back(number),
                    false => stream.halves[End::Host as usize].ends_at = Some(answer),
                }
            }
            Handshake::Answered(at) if at <= now => {
                let stream = self.streams.get_mut(&number).expect("it was just there");
                stream.handshake = Handshake::Done;
                stream.halves[End::Host as usize].writable = true;
            }
            _ => {}
        }
    }

    fn due(&self, stream: &Stream) -> Option<Nanos> {
        let handshake = match stream.handshake {
            Handshake::Asking(at) | Handshake::Answered(at) => Some(at),
            Handshake::Done => None,
        };
        let halves = stream.halves.iter().filter_map(Half::due);
        let due = halves.chain(handshake).min()?;
        Some(due.max(self.links[stream.link].silent_until))
    }
}

impl Fabric {
    /// Links to so many targets, none of which is up yet.
    pub fn new(plans: &[LinkPlan], seed: u64, trace: Trace) -> Fabric {
        let link = |plan: &LinkPlan| Link {
            plan: *plan,
            silent_until: Nanos(0),
            is_up: false,
            arrivals: VecDeque::new(),
        };
        let links = plans.iter().map(link).collect();
        let (random, now, streams) = (Random::new(seed), Nanos(0), BTreeMap::new());
        Fabric(Rc::new(RefCell::new(Inner { now, random, trace, links, streams, numbers: 0 })))
    }

    fn inner(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// Brings what is due.
    pub fn advance(&self, now: Nanos) {
        let inner = &mut *self.inner();
        inner.now = now;
        let numbers: Vec<u64> = inner.streams.keys().copied().collect();
        for number in numbers {
            if inner.links[inner.streams[&number].link].silent_until > now {
                continue;
            }
            inner.shake(number);
            let stream = inner.streams.get_mut(&number).expect("it was just there");
            stream.halves.iter_mut().for_each(|half| half.arrive(now));
        }
    }

    /// When something is next due.
    pub fn next_event(&self) -> Option<Nanos> {
        let inner = self.inner();
        inner.streams.values().filter_map(|stream| inner.due(stream)).min()
    }

    /// Nothing passes a link until then.
    pub fn silence(&self, link: usize, until: Nanos) {
        let mut inner = self.inner();
        inner.trace.note("link falls silent", [link as u64, until.0, 0]);
        inner.links[link].silent_until = until;
    }

    /// Every stream of a link is reset, and what is under way is lost.
    pub fn cut(&self, link: usize) {
        let inner = &mut *self.inner();
        inner.trace.note("link is cut", [link as u64, 0, 0]);
        let own = inner.streams.iter().filter(|(_, stream)| stream.link == link);
        let own: Vec<u64> = own.map(|(number, _)| *number).collect();
        for number in own {
            for end in [End::Host, End::Target] {
                let stream = inner.streams.get_mut(&number).expect("it was just there");
                stream.halves[end as usize].under_way.clear();
                inner.end(number, end);
            }
        }
    }

    /// Whether somebody listens at a target.
    pub fn set_up(&self, link: usize, is_up: bool) {
        let inner = &mut *self.inner();
        inner.links[link].is_up = is_up;
        if !is_up {
            for number in std::mem::take(&mut inner.links[link].arrivals) {
                let stream = &inner.streams[&number];
                match stream.halves[End::Host as usize].user {
                    Some(_) => inner.end(number, End::Host),
                    None => drop(inner.streams.remove(&number)),
                }
            }
        }
    }

    /// No link is silent any more.
    pub fn heal(&self) {
        self.inner().links.iter_mut().for_each(|link| link.silent_until = Nanos(0));
    }

    /// The target is gone without a word: hosts hear nothing until they send something.
    pub fn orphan(&self, link: usize) {
        let inner = &mut *self.inner();
        let own = inner.streams.values_mut().filter(|stream| stream.link == link);
        own.for_each(|stream| stream.is_orphan = true);
    }

    /// Begins a stream.
    pub(super) fn connect(&self, link: usize, user: (Owner, SocketKey)) -> FabricSocket {
        let inner = &mut *self.inner();
        inner.numbers += 1;
        let number = inner.numbers;
        let handshake = Handshake::Asking(inner.later(link));
        let mut halves = [Half::default(), Half::default()];
        halves[End::Host as usize].user = Some(user);
        let stream = Stream { link, handshake, halves, is_orphan: false };
        inner.streams.insert(number, stream);
        FabricSocket { fabric: self.clone(), number, end: End::Host }
    }

    /// The next stream that has arrived at a target.
    pub(super) fn accept(&self, link: usize) -> Option<FabricSocket> {
        let number = self.inner().links[link].arrivals.pop_front()?;
        Some(FabricSocket { fabric: self.clone(), number, end: End::Target })
    }

    /// True when there is something to report or to accept.
    pub(super) fn has_news(&self, owner: Owner, link: Option<usize>) -> bool {
        let inner = self.inner();
        let has_arrival = link.is_some_and(|link| !inner.links[link].arrivals.is_empty());
        let is_news = |half: &Half| {
            half.user.is_some_and(|(user, _)| user == owner) && (half.readable || half.writable)
        };
        has_arrival || inner.streams.values().flat_map(|stream| &stream.halves).any(is_news)
    }

    /// What happened to the sockets of an owner since the last time.
    pub(super) fn report(&self, owner: Owner, ready: &mut Vec<Ready>) {
        let inner = &mut *self.inner();
        for half in inner.streams.values_mut().flat_map(|stream| &mut stream.halves) {
            let Some((user, key)) = half.user else { continue };
            if user == owner && (half.readable || half.writable) {
                let (readable, writable) = (half.readable, half.writable);
                ready.push(Ready { key, readable, writable, closed: half.has_ended });
                (half.readable, half.writable) = (false, false);
            }
        }
    }
}

/// One end of a stream; dropping it ends the stream for the other.
#[derive(Debug)]
pub(super) struct FabricSocket {
    fabric: Fabric,
    number: u64,
    end: End,
}

impl FabricSocket {
    /// Says whose it is from now on.
    pub fn set_user(&self, owner: Owner, key: SocketKey) {
        let mut inner = self.fabric.inner();
        let Some(stream) = inner.streams.get_mut(&self.number) else { return };
        let half = &mut stream.halves[self.end as usize];
        half.user = Some((owner, key));
        (half.readable, half.writable) = (true, true);
    }

    /// Whether the handshake came to something.
    pub fn handshake(&self) -> Result<(), SocketError> {
        let inner = self.fabric.inner();
        let stream = &inner.streams[&self.number];
        match stream.handshake {
            _ if stream.halves[self.end as usize].has_ended => Err(SocketError::Closed),
            Handshake::Done => Ok(()),
            Handshake::Asking(_) | Handshake::Answered(_) => Err(SocketError::WouldBlock),
        }
    }

    /// Receives what has arrived.
    pub fn take(&self, into: &mut [IoSliceMut<'_>]) -> Result<usize, SocketError> {
        let inner = &mut *self.fabric.inner();
        let stream = inner.streams.get_mut(&self.number).expect("an end of it is there");
        let half = &mut stream.halves[self.end as usize];
        if half.arrived.is_empty() {
            let ended = half.has_ended;
            return Err(if ended { SocketError::Closed } else { SocketError::WouldBlock });
        }
        let mut moved = 0;
        for slice in into {
            let count = slice.len().min(half.arrived.len());
            for (place, byte) in slice.iter_mut().zip(half.arrived.drain(..count)) {
                *place = byte;
            }
            moved += count;
        }
        if std::mem::take(&mut half.is_full) {
            stream.halves[self.end.other() as usize].writable = true;
        }
        Ok(moved)
    }

    /// Sends what there is room for.
    pub fn put(&self, from: &[IoSlice<'_>]) -> Result<usize, SocketError> {
        let inner = &mut *self.fabric.inner();
        let stream = inner.streams.get_mut(&self.number).expect("an end of it is there");
        if stream.halves[self.end as usize].has_ended {
            return Err(SocketError::Closed);
        }
        let (link, other) = (stream.link, self.end.other());
        if stream.is_orphan {
            inner.end(self.number, self.end);
            return Ok(from.iter().map(|slice| slice.len()).sum());
        }
        let half = &mut stream.halves[other as usize];
        let room = inner.links[link].plan.stream_bytes.saturating_sub(half.bytes());
        let all = from.iter().flat_map(|slice| slice.iter().copied());
        let bytes: Vec<u8> = all.take(room).collect();
        half.is_full |= bytes.len() < from.iter().map(|slice| slice.len()).sum();
        if bytes.is_empty() {
            return Err(SocketError::WouldBlock);
        }
        let count = bytes.len();
        let is_lost = half.ends_at.is_some();
        let mut rest = &bytes[..];
        for _ in 0..PIECES_MAX {
            let piece = 1 + inner.random.below(rest.len() as u64) as usize;
            let (now, left) = rest.split_at(piece);
            inner.send(self.number, link, other, now);
            rest = left;
            if rest.is_empty() || is_lost {
                return Ok(count);
            }
        }
        inner.send(self.number, link, other, rest);
        Ok(count)
    }
}

impl Inner {
    fn send(&mut self, number: u64, link: usize, to: End, bytes: &[u8]) {
        let at = self.later(link);
        let stream = self.streams.get_mut(&number).expect("an end of it is there");
        let half = &mut stream.halves[to as usize];
        // Nothing arrives behind the end.
        if half.ends_at.is_none() {
            half.last = half.last.max(at);
            half.under_way.push_back((half.last, bytes.to_vec()));
        }
    }
}

impl Drop for FabricSocket {
    fn drop(&mut self) {
        let inner = &mut *self.fabric.inner();
        let Some(stream) = inner.streams.get_mut(&self.number) else { return };
        stream.halves[self.end as usize].user = None;
        let is_over = match (self.end, stream.handshake) {
            // What was not accepted yet is not accepted any more.
            (End::Host, Handshake::Asking(_)) => true,
            _ => stream.halves.iter().all(|half| half.user.is_none()),
        };
        let is_waiting = inner.links[stream.link].arrivals.contains(&self.number);
        if is_over && !is_waiting {
            inner.streams.remove(&self.number);
        } else if !stream.is_orphan {
            inner.end(self.number, self.end.other());
        }
    }
}
