//! Where the load's queue pairs come from: a device in this process, or a target over NVMe/TCP.
//!
//! Belongs to the load's core. Opening goes on pass by pass, because a connection must not block
//! its core.

use std::fmt;
use std::sync::Arc;

use bdev::{BlockDevice, Geometry, Limits, QueuePair};
use nvmf::initiator::{ConnectOptions, Connector, Progress, RemoteController};
use reactor::{Cx, Wake};

use crate::harness::RunError;
use crate::several::{Several, TakingTurns};

/// What to open on the core.
#[derive(Debug)]
pub enum Source {
    /// A device of this process.
    Local(Arc<dyn BlockDevice>),
    /// A target.
    Remote(Remote),
    /// Several subsystems of a target.
    Several(Several),
}

/// How far a remote source is.
#[derive(Debug)]
pub enum Remote {
    /// To be connected with these options; their queues and depth are the load's.
    Named(Box<ConnectOptions>),
    /// Being connected.
    Connecting(Box<Connector>),
    /// Connected: the admin side, which keeps the association alive.
    Connected(Box<RemoteController>),
    /// Given up.
    Failed,
}

/// What was opened.
pub struct Opened {
    /// Size of the device and of its blocks.
    pub geometry: Geometry,
    /// What one I/O may be like.
    pub limits: Limits,
    /// As many as were asked for.
    pub queue_pairs: Vec<Box<dyn QueuePair>>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl Source {
    /// Goes on with opening; none until it is done.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or not with so many connections.
    pub fn poll_open(
        &mut self,
        cx: &mut Cx,
        connections: u32,
        depth: u32,
    ) -> Result<Option<Opened>, RunError> {
        match self {
            Source::Local(device) => {
                let queue_pairs = (0..connections)
                    .map(|_| device.open_queue_pair(cx, depth))
                    .collect::<Result<_, _>>()?;
                let (geometry, limits) = (device.geometry(), device.limits());
                Ok(Some(Opened { geometry, limits, queue_pairs }))
            }
            Source::Remote(remote) => remote.poll_open(cx, connections, depth, 1),
            Source::Several(several) => several.poll_open(cx, connections, depth),
        }
    }

    /// Keeps what is behind the queue pairs alive; once a pass.
    ///
    /// # Errors
    ///
    /// When the target has gone.
    pub fn poll(&mut self, cx: &mut Cx) -> Result<(), RunError> {
        match self {
            Source::Local(_) => Ok(()),
            Source::Remote(remote) => remote.poll(cx),
            Source::Several(several) => several.poll(cx),
        }
    }

    /// Ends what is behind the queue pairs.
    pub fn close(&mut self, cx: &mut Cx) {
        match self {
            Source::Local(_) => {}
            Source::Remote(remote) => remote.close(cx),
            Source::Several(several) => several.close(cx),
        }
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        match self {
            Source::Local(_) => Wake::Never,
            Source::Remote(remote) => remote.wake(),
            Source::Several(several) => several.wake(),
        }
    }

    /// False when there is something that no poll has seen.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        match self {
            Source::Local(_) => true,
            Source::Remote(remote) => remote.arm(cx),
            Source::Several(several) => several.arm(cx),
        }
    }
}

impl Remote {
    /// Keeps it alive.
    pub fn poll(&mut self, cx: &mut Cx) -> Result<(), RunError> {
        let Remote::Connected(controller) = self else { return Ok(()) };
        controller.poll(cx);
        controller.failure().map_or(Ok(()), |error| Err(RunError::Association(error)))
    }

    /// Ends it.
    pub fn close(&mut self, cx: &mut Cx) {
        match self {
            Remote::Connecting(connector) => connector.cancel(cx),
            Remote::Connected(controller) => controller.close(cx),
            Remote::Named(_) | Remote::Failed => {}
        }
        *self = Remote::Failed;
    }

    /// When it must be polled next.
    pub fn wake(&self) -> Wake {
        match self {
            Remote::Failed => Wake::Never,
            Remote::Named(_) | Remote::Connecting(_) => Wake::Now,
            Remote::Connected(controller) => controller.wake(),
        }
    }

    /// False when there is something that no poll has seen.
    pub fn arm(&mut self, cx: &mut Cx) -> bool {
        match self {
            Remote::Connected(controller) => controller.arm(cx),
            Remote::Named(_) | Remote::Connecting(_) | Remote::Failed => true,
        }
    }

    /// Goes on with opening; none until it is done. With several namespaces, I/Os go to 1 to
    /// `namespaces` in turn.
    pub fn poll_open(
        &mut self,
        cx: &mut Cx,
        connections: u32,
        depth: u32,
        namespaces: u32,
    ) -> Result<Option<Opened>, RunError> {
        if let Remote::Named(options) = self {
            let mut options = (**options).clone();
            options.queue_depth = depth;
            // More than a u16 holds is refused with everything above the initiator's limit.
            options.io_queues = u16::try_from(connections).unwrap_or(u16::MAX);
            *self = Remote::Connecting(Box::new(Connector::start(cx, options)?));
        }
        let Remote::Connecting(connector) = self else { return Ok(None) };
        match connector.poll(cx) {
            Progress::Pending => Ok(None),
            Progress::Failed(error) => {
                *self = Remote::Failed;
                Err(error.into())
            }
            Progress::Ready(namespace) => {
                *self = Remote::Connected(Box::new(namespace.admin));
                let granted = namespace.queue_pairs.len();
                if granted < connections as usize {
                    return Err(RunError::Connections { granted, asked: connections });
                }
                let boxed = |queue_pair| -> Box<dyn QueuePair> {
                    match namespaces {
                        1 => Box::new(queue_pair),
                        _ => Box::new(TakingTurns::new(queue_pair, namespaces)),
                    }
                };
                Ok(Some(Opened {
                    geometry: namespace.geometry,
                    limits: namespace.limits,
                    queue_pairs: namespace.queue_pairs.into_iter().map(boxed).collect(),
                }))
            }
        }
    }
}
