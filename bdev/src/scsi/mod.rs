//! SCSI commands over a queue pair: the layer that every SCSI front door shares.
//!
//! How it is built. [`Command`] is a CDB taken apart, against one table ([`opcode`]) that also
//! answers REPORT SUPPORTED OPERATION CODES. A [`LogicalUnit`] is a device as initiators see it,
//! shared by all cores; each core keeps for each of its I_T nexuses a [`Nexus`], a copy of what the
//! unit says about it, and looks at one version word before each command, so that the unit's lock
//! is taken only when something has changed (a reservation, a mode page, a unit attention).
//!
//! A front door calls [`LogicalUnit::begin`] for a CDB and gets a [`Begin`]: an answer at once, a
//! short reply to send, parameters to receive first, or a [`Medium`], which is work on the blocks.
//! That becomes a [`Task`], a state machine which says one [`Step`] after the other: an I/O over a
//! part of the front door's buffer, which it submits to its core's queue pair, or the [`Verdict`].
//! A READ or WRITE is one step a piece ([`PIECE_BYTES`]), whose I/O moves the data between device
//! and buffer; nothing is copied here, and nothing on that path allocates or locks.
//!
//! Nothing here knows a transport. SPC-4, SBC-3 and SAM-5; reservations are those of
//! [`crate::reservation`].

mod attention;
pub mod cdb;
pub mod command;
mod identity;
mod inquiry;
mod mode;
pub mod opcode;
mod persistent;
mod reply;
pub mod sense;
pub mod status;
mod supported;
mod task;
#[cfg(test)]
mod tests;
mod unit;
mod unmap;

pub use command::Command;
pub use identity::Identity;
pub use sense::{Sense, SenseCode, SenseFormat, SenseKey};
pub use status::{ScsiStatus, Verdict, verdict_of};
pub use task::{
    Buffers, Medium, PIECE_BYTES, PIECES_MAX, Part, SCRATCH_BYTES, Step, TRANSFER_BYTES_MAX, Task,
};
pub use unit::{Begin, LogicalUnit, Nexus, Parameters, absent_unit};
