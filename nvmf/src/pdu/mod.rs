//! NVMe/TCP protocol data units: their layout, their validation and their digests.
//!
//! Called by the framer of a connection, target's or initiator's, on the core that owns the
//! socket. Plain total functions over bytes, without allocation: whatever a peer sends is either
//! described or refused with the reason that a termination request carries. Governed by the
//! NVMe/TCP Transport Specification 1.0, section 3.6.2.

pub mod capsule;
pub mod connection;
pub mod data;
pub mod digest;
pub mod encode;
pub mod framing;
pub mod header;
pub mod kind;
pub mod terminate;

pub use capsule::{CommandCapsule, ResponseCapsule};
pub use connection::{InitializeRequest, InitializeResponse};
pub use data::{C2hData, DataRange, H2cData, ReadyToTransfer};
pub use digest::{Digest, crc32c};
pub use encode::{HEADER_SLOT_BYTES, verify_header_digest, write_header};
pub use framing::{DataAlignment, Digests, Framing};
pub use header::{CommonHeader, HeaderError, PduHeader, Phase, Rules, decode};
pub use kind::{Flags, PduKind, Role};
pub use terminate::{FatalErrorStatus, TermReason, TermRequest};
