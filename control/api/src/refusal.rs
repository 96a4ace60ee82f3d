//! How a refusal travels: a gRPC status with an [`ErrorDetail`] in the standard place.
//!
//! The trailer `grpc-status-details-bin` holds a `google.rpc.Status` with one `Any` in it, as
//! <https://google.aip.dev/193> has it, so that tools that know nothing of this package show it.
//! Both messages are written out here: two of three and one of two fields do not make a dependency.

use prost::Message;
use tonic::{Code, Status};

use crate::v1::{ErrorDetail, ErrorKind};

/// What an `Any` calls the detail.
const DETAIL_TYPE_URL: &str = "type.googleapis.com/mayastor.v1.ErrorDetail";

/// Longest message and longest subject that travel, in bytes. They are headers, and encoded a byte
/// becomes up to three; a peer takes some 16 KiB of headers.
const TEXT_BYTES_MAX: usize = 1024;

/// What stands for the rest of a text that was cut.
const CUT: &str = " […]";

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// The gRPC code that a kind of error goes with.
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InUse | ErrorKind::Device | ErrorKind::Portal => Code::FailedPrecondition,
        ErrorKind::Limit | ErrorKind::Busy => Code::ResourceExhausted,
        ErrorKind::NotSupported => Code::Unimplemented,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Stopping => Code::Unavailable,
        ErrorKind::Unspecified | ErrorKind::Internal => Code::Internal,
    }
}

/// The status that says `message`, with `detail` for programs.
pub fn to_status(message: &str, detail: &ErrorDetail) -> Status {
    let code = code_of(detail.kind());
    let message = &cut(message);
    let detail = &ErrorDetail { subject: cut(&detail.subject), ..detail.clone() };
    let any = Any { type_url: String::from(DETAIL_TYPE_URL), value: detail.encode_to_vec() };
    let status = RpcStatus { code: code as i32, message: message.to_owned(), details: vec![any] };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// The text, cut where it is too long to travel.
fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(TEXT_BYTES_MAX - CUT.len());
    format!("{}{CUT}", &text[..end])
}

/// The detail that a status carries; none if it comes from something else than a daemon's
/// refusal, such as the transport.
pub fn detail_of(status: &Status) -> Option<ErrorDetail> {
    let carried = RpcStatus::decode(status.details()).ok()?;
    let any = carried.details.iter().find(|any| any.type_url == DETAIL_TYPE_URL)?;
    ErrorDetail::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(kind: ErrorKind) -> ErrorDetail {
        ErrorDetail {
            kind: kind.into(),
            field: String::from("device"),
            subject: String::from("a"),
            cores_missing: vec![1, 3],
            ..ErrorDetail::default()
        }
    }

    #[test]
    fn a_detail_survives_the_way_to_the_client() {
        let sent = detail(ErrorKind::NotFound);
        let status = to_status("there is no device a", &sent);
        assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no device a"));
        assert_eq!(detail_of(&status), Some(sent));
    }

    #[test]
    fn a_text_of_the_longest_travels_whole_and_a_longer_one_cut() {
        let message = |length| to_status(&"ü".repeat(length), &detail(ErrorKind::Invalid));
        assert_eq!(message(TEXT_BYTES_MAX / 2).message().len(), TEXT_BYTES_MAX);
        let status = message(TEXT_BYTES_MAX / 2 + 1);
        assert!(status.message().len() <= TEXT_BYTES_MAX && status.message().ends_with(CUT));
        assert!(detail_of(&status).is_some());
    }

    #[test]
    fn what_is_no_detail_is_none() {
        assert_eq!(detail_of(&Status::internal("x")), None);
        let garbage = Status::with_details(Code::Internal, "x", vec![0xff; 40].into());
        assert_eq!(detail_of(&garbage), None);
    }

    #[test]
    fn no_kind_of_error_looks_like_success_or_like_a_fault_of_the_client_library() {
        for value in 0..=12 {
            let kind = ErrorKind::try_from(value).unwrap();
            assert!(!matches!(code_of(kind), Code::Ok | Code::Unknown | Code::Cancelled));
        }
        assert!(ErrorKind::try_from(13).is_err(), "a new kind needs a code of its own");
    }
}
