//! NVMe over Fabrics over TCP: the wire formats that target and initiator share.
//!
//! [`pdu`] frames the byte stream of a connection, [`fabrics`] holds the commands that exist only
//! over fabrics. The NVMe types beneath both are in `bdev::nvme`.

#![forbid(unsafe_code)]

pub mod fabrics;
pub mod initiator;
pub mod pdu;
pub mod target;
