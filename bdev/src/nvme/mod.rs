//! NVMe base and NVM command set wire types.
//!
//! Owns the layout of everything that a host and a controller exchange regardless of transport.
//! Used by the NVMe-oF target and initiator and by the NVMe over PCIe driver, on any thread: all
//! of it is plain data, `Copy` or borrowed, without allocation. Governed by the NVM Express Base
//! Specification 2.0 and the NVM Command Set Specification 1.0; every struct names its section.
//!
//! All structs have alignment 1 and any bit pattern is a valid value, so a struct can be viewed in
//! place in a received buffer. A field is validated where it is used, never by its type.

pub mod admin_command;
pub mod async_event;
pub mod command;
pub mod completion;
pub mod feature;
pub mod identify;
pub mod lba_status;
pub mod log_page;
pub mod nvm_command;
pub mod opcode;
pub mod register;
pub mod reservation;
pub mod sgl;
pub mod status;
