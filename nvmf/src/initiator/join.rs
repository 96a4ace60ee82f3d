//! How a queue of a controller comes to be: TCP, ICReq and ICResp, the Connect command.
//!
//! The same for the admin queue and every I/O queue; driven by its owner's polls on the queue's
//! core, never blocking it. NVMe/TCP Transport 1.0 section 3.1, NVMe Base 2.0 section 6.3.

use std::net::SocketAddr;
use std::task::Poll;

use bdev::Memory;
use bdev::nvme::status::Status;
use reactor::Cx;
use reactor::dma::DmaBuffer;
use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use super::error::ConnectError;
use super::options::ConnectOptions;
use super::queue::{Command, CommandData, Ended, Queue};
use crate::fabrics::Nqn;
use crate::fabrics::connect::{
    ADMIN_QUEUE_ID, Authentication, CONNECT_DATA_BYTES, ConnectCommand, ConnectData,
    ConnectOptions as ConnectFields, ConnectParameter, attribute, parse_connect_result,
};
use crate::pdu::Digests;
use crate::pdu::capsule::ADMIN_CAPSULE_DATA_BYTES_MAX;

/// Who connects to what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Association {
    /// Where to.
    pub address: SocketAddr,
    /// Name of the subsystem.
    pub subsystem_nqn: Nqn,
    /// Name of this host.
    pub host_nqn: Nqn,
    /// Identifier of this host.
    pub host_id: Uuid,
    /// Digests to ask for.
    pub digests: Digests,
}

impl Association {
    /// What the options say of it.
    pub fn of(options: &ConnectOptions) -> Association {
        Association {
            address: options.address,
            subsystem_nqn: options.subsystem_nqn,
            host_nqn: options.host_nqn,
            host_id: options.host_id,
            digests: Digests { header: options.header_digest, data: options.data_digest },
        }
    }
}

/// Which queue of which controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueIdentity {
    /// [`ADMIN_QUEUE_ID`] or the I/O queue's.
    pub queue_id: u16,
    /// The controller; for the admin queue a value that leaves it open.
    pub controller_id: u16,
    /// Commands in flight.
    pub depth: u32,
    /// Keep-alive time-out; 0 on I/O queues.
    pub keep_alive_ms: u32,
}

/// A queue on its way to be connected.
#[derive(Debug)]
pub(super) struct Join {
    association: Association,
    identity: QueueIdentity,
    /// Holds the connect data while the command is in flight.
    data: Option<DmaBuffer>,
}

impl Join {
    /// Starts the queue's TCP connection.
    ///
    /// # Errors
    /// No socket or memory to be had, or the system refuses to start.
    pub fn start(
        cx: &mut Cx,
        association: &Association,
        identity: QueueIdentity,
    ) -> Result<(Join, Queue), ConnectError> {
        let Association { address, digests, .. } = *association;
        let mut queue = Queue::open(cx, address, digests, identity.depth)?;
        // Connect carries its data in the capsule whatever the controller says later.
        queue.set_capsule_data_bytes_max(ADMIN_CAPSULE_DATA_BYTES_MAX);
        Ok((Join { association: *association, identity, data: None }, queue))
    }

    /// What is being done, for an error to say.
    pub fn step(&self) -> &'static str {
        if self.data.is_some() { "the Connect command" } else { "opening the connection" }
    }

    /// Goes on; ready with the controller's identifier once the queue takes commands.
    ///
    /// # Errors
    /// Why the queue cannot be had; it is to be aborted.
    pub fn poll(&mut self, cx: &mut Cx, queue: &mut Queue) -> Poll<Result<u16, ConnectError>> {
        queue.poll(cx);
        if let Some(source) = queue.failure() {
            let step = self.step();
            self.release(cx);
            let address = self.association.address;
            return Poll::Ready(Err(ConnectError::Connection { address, step, source }));
        }
        if self.data.is_none() && queue.is_connected() {
            if let Err(error) = self.send_connect(cx, queue) {
                return Poll::Ready(Err(error));
            }
            queue.flush(cx);
        }
        match queue.take_ended() {
            None => Poll::Pending,
            Some(ended) => {
                self.release(cx);
                Poll::Ready(self.answer(ended))
            }
        }
    }

    /// Gives the memory of the connect data back. Only once the queue has let go of it.
    pub fn release(&mut self, cx: &mut Cx) {
        if let Some(buffer) = self.data.take() {
            cx.dma.give(buffer);
        }
    }

    /// What is to be given back once the queue was left.
    pub fn into_data(self) -> Option<DmaBuffer> {
        self.data
    }

    fn send_connect(&mut self, cx: &mut Cx, queue: &mut Queue) -> Result<(), ConnectError> {
        let len_bytes = u32::try_from(CONNECT_DATA_BYTES).expect("1024");
        let buffer = cx.dma.take(len_bytes).ok_or(ConnectError::OutOfMemory)?;
        let data = ConnectData {
            host_id: *self.association.host_id.as_bytes(),
            controller_id: U16::new(self.identity.controller_id),
            reserved_18: [0; 238],
            subsystem_nqn: self.association.subsystem_nqn.to_field(),
            host_nqn: self.association.host_nqn.to_field(),
            reserved_768: [0; 256],
        };
        let segment = buffer.segment(len_bytes);
        segment.write(0, data.as_bytes());
        self.data = Some(buffer);
        // Entries are counted from zero and one stays empty, so this names room for `depth`.
        let queue_size = u16::try_from(self.identity.depth).expect("at most 1023");
        let admin = self.identity.queue_id == ADMIN_QUEUE_ID;
        let command = ConnectCommand::new(
            0,
            ConnectFields {
                queue_id: self.identity.queue_id,
                queue_size,
                attributes: if admin { 0 } else { attribute::DISABLE_FLOW_CONTROL },
                keep_alive_ms: self.identity.keep_alive_ms,
            },
        );
        let data = CommandData::ToController(Memory::One(segment));
        let accepted = queue.submit(Command { entry: command.entry(), data, token: 0 }, cx.now());
        assert!(accepted, "an empty queue that is connected takes a command");
        Ok(())
    }

    fn answer(&self, ended: Ended) -> Result<u16, ConnectError> {
        let Association { address, subsystem_nqn, host_nqn, .. } = self.association;
        let dword = ended.result_dword();
        let status = ended.status;
        if status.is_success() {
            return match parse_connect_result(dword) {
                (controller_id, Authentication::NotRequired) => Ok(controller_id),
                _ => Err(ConnectError::AuthenticationRequired),
            };
        }
        let (subsystem_nqn, host_nqn) = (subsystem_nqn.to_string(), host_nqn.to_string());
        if status.has_code(Status::CONNECT_INVALID_HOST) {
            return Err(ConnectError::HostNotAllowed { subsystem_nqn, host_nqn });
        }
        if status.has_code(Status::CONNECT_INVALID_PARAMETERS) {
            match ConnectParameter::from_result(dword) {
                Some(ConnectParameter::SubsystemNqn) => {
                    return Err(ConnectError::UnknownSubsystem { address, subsystem_nqn });
                }
                Some(ConnectParameter::HostNqn | ConnectParameter::HostId) => {
                    return Err(ConnectError::HostNotAllowed { subsystem_nqn, host_nqn });
                }
                _ => {}
            }
        }
        if status.has_code(Status::AUTHENTICATION_REQUIRED) {
            return Err(ConnectError::AuthenticationRequired);
        }
        Err(ConnectError::Refused { step: "the Connect command", status })
    }
}
