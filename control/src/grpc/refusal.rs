//! From a refused command to the status of its rpc.

use api::v1;
use engine::command::{CommandError, ErrorKind};
use reactor::cores::CoreId;
use tonic::Status;

use crate::failure;

/// The status that a command was refused with: words for people, kind and subject for programs.
pub(super) fn status(error: &CommandError) -> Status {
    let mut detail = v1::ErrorDetail {
        kind: kind(error.kind()).into(),
        field: error.field().unwrap_or_default().to_owned(),
        ..Default::default()
    };
    match error {
        CommandError::NotFound { name, .. }
        | CommandError::AlreadyExists { name, .. }
        | CommandError::InUse { name, .. }
        | CommandError::Unsupported { name, .. } => detail.subject.clone_from(name),
        CommandError::Resize { device, .. } => detail.subject.clone_from(device),
        CommandError::Deadline { progress, .. } => {
            let numbers = |cores: &[CoreId]| cores.iter().map(|core| core.0).collect();
            detail.cores_applied = numbers(&progress.applied);
            detail.cores_missing = numbers(&progress.missing);
            detail.cores_in_use = numbers(&progress.in_use);
        }
        _ => {}
    }
    api::refusal::to_status(&failure::one_line(error), &detail)
}

fn kind(kind: ErrorKind) -> v1::ErrorKind {
    match kind {
        ErrorKind::NotFound => v1::ErrorKind::NotFound,
        ErrorKind::AlreadyExists => v1::ErrorKind::AlreadyExists,
        ErrorKind::Invalid => v1::ErrorKind::Invalid,
        ErrorKind::InUse => v1::ErrorKind::InUse,
        ErrorKind::LimitReached => v1::ErrorKind::Limit,
        ErrorKind::Deadline => v1::ErrorKind::Deadline,
        ErrorKind::Device => v1::ErrorKind::Device,
        ErrorKind::Portal => v1::ErrorKind::Portal,
        ErrorKind::Unsupported => v1::ErrorKind::NotSupported,
        ErrorKind::Stopping => v1::ErrorKind::Stopping,
    }
}

/// The status of what was not even tried.
pub(super) fn refuse(kind: v1::ErrorKind, message: &str) -> Status {
    let detail = v1::ErrorDetail { kind: kind.into(), ..Default::default() };
    api::refusal::to_status(message, &detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::command::Progress;
    use engine::command::error::Object;
    use std::time::Duration;
    use tonic::Code;

    #[test]
    fn a_refusal_says_what_it_is_about() {
        let name = String::from("ram0");
        let status = status(&CommandError::NotFound { what: Object::Device, name });
        assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no device ram0"));
        let detail = api::refusal::detail_of(&status).unwrap();
        assert_eq!((detail.kind(), detail.subject.as_str()), (v1::ErrorKind::NotFound, "ram0"));
    }

    #[test]
    fn a_deadline_names_the_cores() {
        let progress = Progress { missing: vec![CoreId(3)], ..Progress::default() };
        let within = Duration::from_secs(1);
        let state = String::from("device ram0 is going");
        let status = status(&CommandError::Deadline { within, state, progress });
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(api::refusal::detail_of(&status).unwrap().cores_missing, [3]);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let error = super::super::request::invalid("uri", "x", "name a scheme");
        let status = status(&error);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(api::refusal::detail_of(&status).unwrap().field, "uri");
    }
}
