//! What runs on a core: the phases of one pass, in the order in which the reactor calls them.
//!
//! Front doors, the load generator and the engine's list of both implement it. Everything is
//! called on the core's thread, with bounded work in each call; the number returned says how much
//! was done, and a pass without any is an idle one.

use crate::clock::Nanos;
use crate::cx::Cx;
use crate::socket::Ready;
use crate::wake::Wake;

/// The work of one core, phase by phase (ARCHITECTURE 4).
pub trait Service: 'static {
    /// Takes messages of other cores. Called first in every pass.
    fn take_messages(&mut self, cx: &mut Cx) -> usize;

    /// A socket of this core became readable, writable or broken. The edge is seen once: the
    /// service remembers it until the socket would block.
    fn socket_ready(&mut self, cx: &mut Cx, ready: Ready);

    /// Receives from ready sockets and virtqueues, parses, and submits I/O.
    fn receive(&mut self, cx: &mut Cx) -> usize;

    /// Rings doorbells, polls queue pairs, and lets completions climb into replies.
    fn poll_devices(&mut self, cx: &mut Cx) -> usize;

    /// Sends what there is to send: one gathered call a connection.
    fn send(&mut self, cx: &mut Cx) -> usize;

    /// A timer armed with `cx.timers` ran out.
    fn timer(&mut self, cx: &mut Cx, key: u64);

    /// When this service next needs the core.
    fn wake(&self, cx: &Cx) -> Wake;

    /// Makes descriptors fire for what is polled now; false when something is there already and
    /// the core must not sleep. Called after the core's sleeping flag is set.
    fn arm(&mut self, cx: &mut Cx) -> bool;

    /// Starts to end: no new work, what is in flight is finished or cut off by `deadline`.
    fn stop(&mut self, cx: &mut Cx, deadline: Nanos);

    /// True once everything has ended, after [`Service::stop`] or because the service has nothing
    /// left to do: the core's loop ends then, whether anybody asked it to or not.
    fn stopped(&self) -> bool;
}
