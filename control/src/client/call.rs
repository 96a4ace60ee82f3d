//! One call: connects, asks, and sorts what can go wrong.

use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use api::v1::{self, ErrorDetail, ErrorKind};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::options::ClientOptions;
use super::question;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long an answer may take when nobody says: longer than any default of the server.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What a server answers.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is done, and there is nothing to show.
    Done,
    Devices(Vec<v1::Device>),
    Device(v1::Device),
    Subsystems(Vec<v1::Subsystem>),
    Subsystem(v1::Subsystem),
    Namespaces(Vec<v1::Namespace>),
    Namespace(v1::Namespace),
    /// Of these subsystems.
    Hosts(Vec<v1::Subsystem>),
    Portals(Vec<v1::Portal>),
    Portal(v1::Portal),
    /// Of these namespaces.
    AnaStates(Vec<v1::Namespace>),
    /// Of those of these devices that have any.
    Faults(Vec<v1::Device>),
    /// Of those of these devices that have any.
    Delays(Vec<v1::Device>),
    Counters(v1::ReadCountersResponse),
    Nexuses(Vec<v1::Nexus>),
    Nexus(v1::Nexus),
    /// Of these nexuses.
    Children(Vec<v1::Nexus>),
    /// Of these nexuses.
    Rebuilds(Vec<v1::Nexus>),
}

/// Why there is no answer to show. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The server refused.
    #[error("{message}")]
    Refused { message: String, detail: Box<ErrorDetail> },
    /// The name of the server makes no sense.
    #[error("the server {server} is neither unix:PATH nor http://HOST:PORT")]
    Server { server: String },
    /// There is no server.
    #[error("cannot connect to {server}: {advice}")]
    Unreachable { server: String, advice: String },
    /// It did not answer.
    #[error(
        "no answer from {server} ({reason}): what was asked for may have been done, look with \
         `list`"
    )]
    NoAnswer { server: String, reason: String },
    /// There is no runtime.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

/// Does what the options ask for.
pub(super) fn call(options: &ClientOptions) -> Result<Answer, CallError> {
    let server = options.server.as_str();
    let endpoint = endpoint(server)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(CallError::Start)?.block_on(async {
        let within = options.timeout.unwrap_or(ANSWER_WITHIN);
        let connecting = endpoint.connect();
        let channel = limited(within.min(CONNECT_WITHIN), connecting).await;
        let channel = match channel {
            Some(connected) => connected.map_err(|error| unreachable(server, &error))?,
            None => {
                let advice = String::from("it does not answer; see whether it runs");
                return Err(CallError::Unreachable { server: server.to_owned(), advice });
            }
        };
        match limited(within, question::ask(channel, options)).await {
            Some(answer) => answer.map_err(|status| refused(server, &status)),
            None => {
                let reason = format!("{} ms have passed", within.as_millis());
                Err(CallError::NoAnswer { server: server.to_owned(), reason })
            }
        }
    })
}

/// What comes of it in time.
async fn limited<T>(within: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(within, work).await.ok()
}

fn endpoint(server: &str) -> Result<Endpoint, CallError> {
    let refuse = || CallError::Server { server: server.to_owned() };
    let is_known = server.strip_prefix("unix:").or_else(|| server.strip_prefix("http://"));
    if is_known.is_none_or(str::is_empty) {
        return Err(refuse());
    }
    Endpoint::from_shared(server.to_owned()).map_err(|_| refuse())
}

fn unreachable(server: &str, error: &tonic::transport::Error) -> CallError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        found = error.downcast_ref::<io::Error>().or(found);
        cause = error.source();
    }
    let is_socket = server.starts_with("unix:");
    let advice = match found.map(io::Error::kind) {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) if is_socket => {
            "nothing serves there; start `mayastor target` with --grpc-socket or a [grpc] table in \
             its --config, or name another socket with --server"
                .to_owned()
        }
        Some(io::ErrorKind::ConnectionRefused) => {
            "nothing serves there; start `mayastor target` with --grpc-address, or name another \
             address with --server"
                .to_owned()
        }
        Some(io::ErrorKind::PermissionDenied) => {
            "the socket is another user's; become that user".to_owned()
        }
        _ => match found {
            Some(found) => found.to_string(),
            None => crate::failure::one_line(error),
        },
    };
    CallError::Unreachable { server: server.to_owned(), advice }
}

fn refused(server: &str, status: &Status) -> CallError {
    let message = status.message().to_owned();
    if let Some(detail) = api::refusal::detail_of(status) {
        return CallError::Refused { message, detail: Box::new(detail) };
    }
    // Without a detail it is the transport that speaks, of either side.
    let kind = match status.code() {
        Code::Unimplemented => ErrorKind::NotSupported,
        Code::ResourceExhausted => ErrorKind::Limit,
        Code::OutOfRange | Code::InvalidArgument => ErrorKind::Invalid,
        _ => return CallError::NoAnswer { server: server.to_owned(), reason: message },
    };
    let detail = Box::new(ErrorDetail { kind: kind.into(), ..ErrorDetail::default() });
    CallError::Refused { message, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_socket_or_an_address() {
        for server in ["unix:/run/a.sock", "unix:a.sock", "http://127.0.0.1:1", "http://[::1]:1"] {
            assert!(endpoint(server).is_ok(), "{server}");
        }
        for server in ["", "unix:", "http://", "https://h:1", "h:1", "/run/a.sock", "http://a b"] {
            assert!(matches!(endpoint(server), Err(CallError::Server { .. })), "{server}");
        }
    }

    #[test]
    fn a_refusal_is_told_from_a_transport_that_broke() {
        let detail = ErrorDetail { kind: ErrorKind::InUse.into(), ..Default::default() };
        let status = api::refusal::to_status("in use", &detail);
        assert!(matches!(refused("s", &status), CallError::Refused { .. }));
        for code in [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded, Code::Internal] {
            let broken = Status::new(code, "broken");
            assert!(matches!(refused("s", &broken), CallError::NoAnswer { .. }), "{code:?}");
        }
    }
}
