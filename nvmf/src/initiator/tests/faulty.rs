//! The host's end of a stream that ends, or goes silent, after a certain byte.

use std::cell::{Cell, RefCell};
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::rc::Rc;

use reactor::socket::memory::MemorySocket;
use reactor::socket::{Socket, SocketError};

use super::wire::Wires;

/// Which way the bytes go that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToHost,
    ToTarget,
}

/// What happens after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both ends see the stream end.
    Cut,
    /// Nothing moves any more, either way, and nobody is told.
    Silence,
}

/// What is to happen to a stream.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// To which, of those that are opened from now on.
    pub stream: usize,
    pub way: Way,
    pub after_bytes: usize,
    pub fault: Fault,
}

/// What the test shares with the streams.
#[derive(Debug, Default)]
struct State {
    plan: Cell<Option<Plan>>,
    /// Streams opened since the plan was made.
    opened: Cell<usize>,
    has_struck: Cell<bool>,
    /// Streams of an earlier life are over.
    life: Cell<u64>,
    /// What each stream of this life moved, by order and way, while it is recorded.
    moved: RefCell<Vec<[Vec<u8>; 2]>>,
}

/// The test's hold on the streams.
#[derive(Clone, Debug, Default)]
pub struct Faults(Rc<State>);

impl Faults {
    /// Puts itself into the wires.
    pub fn install(wires: &Wires) -> Faults {
        let faults = Faults::default();
        let state = Rc::clone(&faults.0);
        wires.wrap(move |_, socket| {
            let stream = state.opened.replace(state.opened.get() + 1);
            state.moved.borrow_mut().push(Default::default());
            let life = state.life.get();
            let (state, silent) = (Rc::clone(&state), false);
            Box::new(Faulty { state, inner: Some(socket), stream, life, moved: [0; 2], silent })
        });
        faults
    }

    /// Ends every stream, and begins to count for the next fault.
    pub fn restart(&self, plan: Option<Plan>) {
        let State { life, opened, has_struck, moved, .. } = &*self.0;
        life.set(life.get() + 1);
        opened.set(0);
        has_struck.set(false);
        moved.borrow_mut().clear();
        self.0.plan.set(plan);
    }

    /// Whether the fault has happened.
    pub fn has_struck(&self) -> bool {
        self.0.has_struck.get()
    }

    /// What a stream has moved one way.
    pub fn moved(&self, stream: usize, way: Way) -> Vec<u8> {
        self.0.moved.borrow()[stream][way as usize].clone()
    }
}

#[derive(Debug)]
struct Faulty {
    state: Rc<State>,
    inner: Option<MemorySocket>,
    stream: usize,
    life: u64,
    /// Bytes so far, by way.
    moved: [usize; 2],
    silent: bool,
}

impl Faulty {
    /// How many bytes may still go this way.
    fn room(&mut self, way: Way) -> Result<usize, SocketError> {
        if self.life != self.state.life.get() {
            self.inner = None;
        }
        if self.inner.is_none() {
            return Err(SocketError::Closed);
        }
        if self.silent {
            return Err(SocketError::WouldBlock);
        }
        let Some(plan) = self.state.plan.get() else { return Ok(usize::MAX) };
        if plan.stream != self.stream || plan.way != way {
            return Ok(usize::MAX);
        }
        let room = plan.after_bytes - self.moved[way as usize];
        if room > 0 {
            return Ok(room);
        }
        self.state.has_struck.set(true);
        match plan.fault {
            Fault::Cut => {
                self.inner = None;
                Err(SocketError::Closed)
            }
            Fault::Silence => {
                self.silent = true;
                Err(SocketError::WouldBlock)
            }
        }
    }

    fn note(&mut self, way: Way, bytes: &[u8]) {
        self.moved[way as usize] += bytes.len();
        if let Some(stream) = self.state.moved.borrow_mut().get_mut(self.stream)
            && self.life == self.state.life.get()
        {
            stream[way as usize].extend_from_slice(bytes);
        }
    }
}

impl Socket for Faulty {
    fn receive(&mut self, into: &mut [IoSliceMut<'_>]) -> Result<usize, SocketError> {
        let mut moved = 0;
        for slice in into.iter_mut().filter(|slice| !slice.is_empty()) {
            let received = self.room(Way::ToHost).and_then(|room| {
                let part = &mut slice[..];
                let part = if part.len() > room { &mut part[..room] } else { part };
                let inner = self.inner.as_mut().expect("there is room");
                inner.receive(&mut [IoSliceMut::new(part)])
            });
            match received {
                Ok(count) => {
                    self.note(Way::ToHost, &slice[..count]);
                    moved += count;
                    if count < slice.len() {
                        break;
                    }
                }
                Err(error) if moved == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(moved)
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize, SocketError> {
        let mut moved = 0;
        for slice in from.iter().filter(|slice| !slice.is_empty()) {
            let sent = self.room(Way::ToTarget).and_then(|room| {
                let part = &slice[..slice.len().min(room)];
                self.inner.as_mut().expect("there is room").send(&[IoSlice::new(part)])
            });
            match sent {
                Ok(count) => {
                    self.note(Way::ToTarget, &slice[..count]);
                    moved += count;
                    if count < slice.len() {
                        break;
                    }
                }
                Err(error) if moved == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(moved)
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 2))
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn connected(&mut self) -> Result<(), SocketError> {
        Ok(())
    }
}
