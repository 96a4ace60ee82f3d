//! Why a file or block device cannot be a device.

use std::io;

use crate::legality::GeometryError;

/// See the module. Each names the path.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Which.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Something else has it.
    #[error(
        "{path} is in use: it is mounted, or another process (or another device of this one) \
         has it open exclusively"
    )]
    InUse {
        /// Which.
        path: String,
    },
    /// A directory, a character device, a socket.
    #[error("{path} is neither a file nor a block device")]
    NotADisk {
        /// Which.
        path: String,
    },
    /// It is empty, or its blocks have no possible size.
    #[error("{path} cannot be a device")]
    Geometry {
        /// Which.
        path: String,
        /// Why not.
        #[source]
        source: GeometryError,
    },
    /// The system does not say what is asked of it.
    #[error("cannot find out the {what} of {path}")]
    Property {
        /// Which.
        path: String,
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel has no such interface, or does not let this process use it.
    #[error("the kernel offers no {interface} to this process")]
    Interface {
        /// Which.
        interface: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}
