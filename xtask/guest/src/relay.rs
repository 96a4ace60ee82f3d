//! A way to a port of the loopback that can be cut, as a cable can.
//!
//! What arrives at the relay's port is sent on to the target's, and back. [`Relay::cut`] ends
//! every connection and accepts no more, with the target none the wiser. [`Relay::stall`] keeps
//! the connections and moves nothing, as a network that swallows packets does. Each direction of a
//! connection is a thread of its own: a test has a handful of connections.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

const CHUNK_BYTES: usize = 64 << 10;

/// What a relay does with what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Open,
    /// Bytes wait, connections stay.
    Stalled,
    /// Nothing passes any more, for good.
    Cut,
}

#[derive(Debug)]
struct State {
    passage: Passage,
    /// Both ends of every connection, so that they can be shut.
    streams: Vec<TcpStream>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A relay; cut when it is dropped.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

impl Relay {
    /// Opens a way to a port of the loopback, at a free port of the loopback.
    pub fn to(target_port: u16) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = State { passage: Passage::Open, streams: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target_port));
        thread::spawn(move || accept(&listener, target, &accepting));
        Ok(Relay { port, shared })
    }

    /// Where it accepts connections.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets nothing through until [`Relay::resume`].
    pub fn stall(&self) {
        self.shared.change(Passage::Stalled);
    }

    /// Lets through what was stalled.
    pub fn resume(&self) {
        self.shared.change(Passage::Open);
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        self.shared.change(Passage::Cut);
        for stream in &self.shared.lock().streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Whoever accepts looks at the state after each connection, so it gets a last one.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, passage: Passage) {
        let mut state = self.lock();
        if state.passage != Passage::Cut {
            state.passage = passage;
        }
        self.changed.notify_all();
    }

    /// Waits while nothing may pass; whether anything may afterwards.
    fn may_pass(&self) -> bool {
        let is_stalled = |state: &mut State| state.passage == Passage::Stalled;
        let state = self.changed.wait_while(self.lock(), is_stalled);
        state.unwrap_or_else(PoisonError::into_inner).passage == Passage::Open
    }
}

/// Ends, and closes the port, with the first connection after the cut.
fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    for host in listener.incoming().map_while(Result::ok) {
        if shared.lock().passage == Passage::Cut {
            return;
        }
        // A target that refuses is a connection that ends at once, which the host notices.
        let Ok(target) = TcpStream::connect(target) else { continue };
        let _ = (host.set_nodelay(true), target.set_nodelay(true));
        let copies = (|| {
            Ok::<_, io::Error>([
                (host.try_clone()?, target.try_clone()?),
                (target.try_clone()?, host.try_clone()?),
            ])
        })();
        let Ok(copies) = copies else { continue };
        shared.lock().streams.extend([host, target]);
        for (from, to) in copies {
            let shared = Arc::clone(shared);
            thread::spawn(move || pass(from, to, &shared));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(len @ 1..) = from.read(&mut chunk) {
        if !shared.may_pass() || to.write_all(&chunk[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A port at which every byte comes back.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                stream.write_all(&byte).unwrap();
            }
        });
        port
    }

    fn connect(relay: &Relay) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    #[test]
    fn bytes_pass_wait_while_stalled_and_end_with_the_cut() {
        let relay = Relay::to(echo()).unwrap();
        let mut stream = connect(&relay);
        let mut byte = [0];
        stream.write_all(b"a").unwrap();
        stream.read_exact(&mut byte).unwrap();
        relay.stall();
        stream.write_all(b"b").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(stream.read_exact(&mut byte).is_err());
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        relay.resume();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
        relay.cut();
        assert_eq!(stream.read(&mut byte).unwrap_or(0), 0);
    }

    #[test]
    fn a_relay_that_was_cut_refuses_connections() {
        let relay = Relay::to(echo()).unwrap();
        relay.cut();
        let begin = std::time::Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(1));
        }
    }
}
