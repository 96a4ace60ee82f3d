//! The gRPC interface of a running engine, package `mayastor.v1`: messages, clients, servers.
//!
//! Generated at build time from the files in `proto`, which are the reference; by hand here is
//! only how an error travels. The daemon implements the servers, `mayastor-client` and whatever
//! else controls a node uses the clients.

#![forbid(unsafe_code)]

pub mod refusal;

/// Package `mayastor.v1`. The comments of the .proto files are its documentation.
#[allow(missing_docs, reason = "generated; not each item of the files has a comment")]
#[allow(clippy::all, clippy::large_stack_frames, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("mayastor.v1");
}

/// Where a daemon serves on a UNIX socket unless told, and where a client looks for it.
pub const SOCKET_DEFAULT: &str = "/run/mayastor.sock";

/// Largest request that a server takes, in bytes: rules for a device, the largest there is, are
/// far below.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Largest response that a client takes, in bytes: some ten thousand namespaces.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
