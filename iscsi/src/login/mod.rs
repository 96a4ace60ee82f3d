//! Login: who the initiator is, and how the connection is to work.
//!
//! [`Login`] takes one request after the other and says what to answer; it has no socket, no clock
//! and no randomness of its own. [`chap`] checks secrets, [`keys`] negotiates the operational keys.
//! Called on the core of the connection, off the path of I/O. RFC 7143 sections 6 and 12, 13.

pub mod chap;
pub mod keys;
mod machine;

pub use chap::{Credentials, Secret};
pub use keys::Parameters;
pub use machine::{Answer, Ask, Directory, Login, LoginStatus, SessionKind, Stage};
