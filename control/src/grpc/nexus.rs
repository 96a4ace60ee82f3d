//! Nexuses, from what the engine answers to messages.

use std::time::Duration;

use api::v1;
use engine::command::{
    ChildInfo, ChildState, DifferenceInfo, FaultReason, NexusInfo, NexusState, ProgressInfo,
    RebuildEnd, RebuildInfo, RebuildState, Scope, VerifyInfo, VerifyState,
};

use super::response::presence;

pub(super) fn nexus(info: NexusInfo) -> v1::Nexus {
    let state = match info.state {
        NexusState::Unknown => v1::NexusState::Unknown,
        NexusState::Online => v1::NexusState::Online,
        NexusState::Degraded => v1::NexusState::Degraded,
        NexusState::Faulted => v1::NexusState::Faulted,
    };
    v1::Nexus {
        name: info.name,
        presence: presence(info.presence),
        uuid: info.uuid.to_string(),
        state: state.into(),
        paused: info.is_paused,
        refusal: info.refusal,
        notice: info.notice,
        verification: info.verification.map(verification),
        block_bytes: info.block_bytes,
        blocks: info.blocks,
        home_core: info.home.map(|core| core.0),
        children: info.children.into_iter().map(child).collect(),
        history: info.history.into_iter().map(record).collect(),
    }
}

fn child(info: ChildInfo) -> v1::NexusChild {
    let state = match info.state {
        ChildState::Init => v1::ChildState::Init,
        ChildState::ConfigInvalid => v1::ChildState::ConfigInvalid,
        ChildState::Open => v1::ChildState::Open,
        ChildState::Rebuilding => v1::ChildState::Rebuilding,
        ChildState::Destroying => v1::ChildState::Destroying,
        ChildState::Closed => v1::ChildState::Closed,
        ChildState::Faulted(_) => v1::ChildState::Faulted,
    };
    v1::NexusChild {
        state: state.into(),
        fault: reason(info.fault()).into(),
        errors: info.errors,
        words: info.words,
        uri: info.uri,
        device: info.device,
        rebuild: info.rebuild.map(progress),
    }
}

fn verification(info: VerifyInfo) -> v1::Verification {
    let state = match info.state {
        VerifyState::Running => v1::VerifyState::Running,
        VerifyState::Completed => v1::VerifyState::Completed,
        VerifyState::Stopped => v1::VerifyState::Stopped,
    };
    let difference = |one: DifferenceInfo| v1::Difference {
        uri: one.uri,
        reference: one.reference,
        start: one.start,
        blocks: one.blocks,
    };
    v1::Verification {
        state: state.into(),
        total_blocks: info.total_blocks,
        done_blocks: info.done_blocks,
        different_blocks: info.different_blocks,
        unread_blocks: info.unread_blocks,
        differences: info.differences.into_iter().map(difference).collect(),
    }
}

fn reason(reason: Option<FaultReason>) -> v1::FaultReason {
    match reason {
        None => v1::FaultReason::Unspecified,
        Some(FaultReason::Unknown) => v1::FaultReason::Unknown,
        Some(FaultReason::OutOfSync) => v1::FaultReason::OutOfSync,
        Some(FaultReason::CantOpen) => v1::FaultReason::CantOpen,
        Some(FaultReason::RebuildFailed) => v1::FaultReason::RebuildFailed,
        Some(FaultReason::IoError) => v1::FaultReason::IoError,
        Some(FaultReason::TimedOut) => v1::FaultReason::TimedOut,
        Some(FaultReason::Rpc) => v1::FaultReason::Rpc,
    }
}

fn scope(scope: Scope) -> i32 {
    let scope = match scope {
        Scope::Full => v1::RebuildScope::Full,
        Scope::Partial => v1::RebuildScope::Partial,
    };
    scope.into()
}

/// Nanoseconds; what does not fit is longer than anything here.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn progress(info: ProgressInfo) -> v1::RebuildProgress {
    let state = match info.state {
        RebuildState::Preparing => v1::RebuildState::Preparing,
        RebuildState::Copying => v1::RebuildState::Copying,
        RebuildState::Paused => v1::RebuildState::Paused,
        RebuildState::Finishing => v1::RebuildState::Finishing,
    };
    v1::RebuildProgress {
        state: state.into(),
        scope: scope(info.scope),
        total_blocks: info.total_blocks,
        done_blocks: info.done_blocks,
        rate: info.rate,
        left_ns: info.left.map(nanos),
        held_back: info.is_held_back,
    }
}

fn record(info: RebuildInfo) -> v1::RebuildRecord {
    let (end, fault) = match info.end {
        RebuildEnd::Completed => (v1::RebuildEnd::Completed, None),
        RebuildEnd::Stopped => (v1::RebuildEnd::Stopped, None),
        RebuildEnd::TargetFailed(fault) => (v1::RebuildEnd::TargetFailed, Some(fault)),
        RebuildEnd::SourcesFailed => (v1::RebuildEnd::SourcesFailed, None),
    };
    v1::RebuildRecord {
        uri: info.uri,
        scope: scope(info.scope),
        end: end.into(),
        fault: reason(fault).into(),
        copied_bytes: info.copied_bytes,
        skipped_bytes: info.skipped_bytes,
        took_ns: nanos(info.took),
    }
}
