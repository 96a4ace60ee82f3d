//! iSCSI (RFC 7143): PDUs, text keys, login, and the target.
//!
//! [`pdu`] has the wire formats, [`text`] the keys of login and text requests, [`login`] the
//! negotiation as a state machine without I/O, [`target`] the sessions over the reactor's network.
//! What a command does is in `bdev::scsi`; nothing here looks into a CDB.

#![forbid(unsafe_code)]

pub mod login;
pub mod pdu;
pub mod target;
pub mod text;
