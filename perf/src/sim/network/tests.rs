//! What the fabric promises: order, each edge once, and how links fail.

use std::io::{IoSlice, IoSliceMut};

use reactor::Nanos;
use reactor::socket::{Network, Ready, Socket, SocketError, SocketKey, Wait};

use super::fabric::{Fabric, LinkPlan, Owner};
use super::port::{Port, PortSocket, address};
use crate::sim::trace::{Lines, Trace};

const LATER: Nanos = Nanos::from_millis(1);
const KEY: SocketKey = SocketKey(7);

struct Wire {
    fabric: Fabric,
    host: Port,
    target: Port,
    now: Nanos,
}

impl Wire {
    fn new(stream_bytes: usize) -> Wire {
        let plan = LinkPlan { delay_most: Nanos::from_micros(100), stream_bytes };
        let fabric = Fabric::new(&[plan], 1, Trace::new(Lines::None));
        fabric.set_up(0, true);
        let host = Port::of_host(&fabric, Owner(10));
        let target = Port::of_target(&fabric, Owner(0), 0);
        Wire { fabric, host, target, now: Nanos(0) }
    }

    fn wait(&mut self) {
        self.now = self.now + LATER;
        self.fabric.advance(self.now);
    }

    fn connect(&mut self) -> (Box<dyn Socket>, PortSocket) {
        let host = self.host.connect(address(0), KEY).unwrap();
        self.wait();
        let target = self.target.accept().unwrap().keyed(KEY);
        self.wait();
        assert_eq!((self.reports(true).len(), self.reports(false).len()), (1, 1));
        (host, target)
    }

    fn reports(&mut self, of_host: bool) -> Vec<Ready> {
        let mut ready = Vec::new();
        let port = if of_host { &mut self.host } else { &mut self.target };
        port.poll(Wait::No, &mut ready);
        ready
    }
}

fn take(socket: &mut dyn Socket) -> Result<Vec<u8>, SocketError> {
    let mut bytes = vec![0; 64];
    let count = socket.receive(&mut [IoSliceMut::new(&mut bytes)])?;
    bytes.truncate(count);
    Ok(bytes)
}

#[test]
fn bytes_arrive_late_in_order_and_each_edge_is_reported_once() {
    let mut wire = Wire::new(8);
    let (mut host, mut target) = wire.connect();
    assert_eq!(host.connected(), Ok(()));
    assert_eq!(host.send(&[IoSlice::new(b"abcdef"), IoSlice::new(b"ghijk")]), Ok(8));
    assert_eq!(host.send(&[IoSlice::new(b"ijk")]), Err(SocketError::WouldBlock));
    assert_eq!(take(&mut target), Err(SocketError::WouldBlock));
    wire.wait();
    let ready = wire.reports(false);
    assert_eq!((ready.len(), ready[0].readable, wire.reports(false).len()), (1, true, 0));
    assert_eq!(take(&mut target).unwrap(), b"abcdefgh");
    let ready = wire.reports(true);
    assert_eq!((ready.len(), ready[0].writable), (1, true), "there is room again");
    drop(host);
    wire.wait();
    assert!(wire.reports(false)[0].closed);
    assert_eq!(take(&mut target), Err(SocketError::Closed));
}

#[test]
fn a_silent_link_brings_everything_afterwards_and_a_cut_one_nothing() {
    let mut wire = Wire::new(64);
    let (mut host, mut target) = wire.connect();
    wire.fabric.silence(0, Nanos::from_millis(10));
    host.send(&[IoSlice::new(b"late")]).unwrap();
    wire.wait();
    assert_eq!(take(&mut target), Err(SocketError::WouldBlock));
    assert_eq!(wire.fabric.next_event(), Some(Nanos::from_millis(10)));
    wire.now = Nanos::from_millis(10);
    wire.wait();
    assert_eq!(take(&mut target).unwrap(), b"late");
    host.send(&[IoSlice::new(b"lost")]).unwrap();
    wire.fabric.cut(0);
    wire.wait();
    assert_eq!(take(&mut target), Err(SocketError::Closed));
    assert_eq!(take(&mut *host), Err(SocketError::Closed));
    drop((host, target));
    assert_eq!(wire.fabric.next_event(), None);
}

#[test]
fn who_is_not_there_refuses_and_who_went_silently_resets_what_is_sent() {
    let mut wire = Wire::new(64);
    let (mut host, target) = wire.connect();
    wire.fabric.orphan(0);
    wire.fabric.set_up(0, false);
    drop(target);
    wire.wait();
    assert_eq!(take(&mut *host), Err(SocketError::WouldBlock), "nobody has told it");
    host.send(&[IoSlice::new(b"hello")]).unwrap();
    wire.wait();
    assert_eq!(take(&mut *host), Err(SocketError::Closed));
    let mut again = wire.host.connect(address(0), KEY).unwrap();
    assert_eq!(again.connected(), Err(SocketError::WouldBlock));
    wire.wait();
    wire.wait();
    assert_eq!(again.connected(), Err(SocketError::Closed));
}
