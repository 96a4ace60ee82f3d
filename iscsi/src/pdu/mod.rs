//! Protocol data units: the basic header segment, its layouts by opcode, digests.
//!
//! Shared by target and initiator. A PDU is a header of 48 bytes, additional header segments, a
//! header digest, data padded to four bytes, and a data digest (RFC 7143 section 11.1).

pub mod digest;
mod header;
mod opcode;

pub use header::{
    BasicHeader, DataIn, DataOut, HEADER_BYTES, LoginRequest, LoginResponse, LogoutRequest,
    LogoutResponse, NopIn, NopOut, RESERVED_TAG, ReadyToTransfer, Reject, ScsiCommand,
    ScsiResponse, TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse, flag,
    padded,
};
pub use opcode::{InitiatorOpcode, TargetOpcode};
