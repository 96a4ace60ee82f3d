//! From a request to the command that it asks for.
//!
//! Only the form changes here; what a field may be is the engine's to say. Refused is what has no
//! command at all: a state that is not among those known, a range past the last block there can
//! be.

use api::v1;
use engine::command::{
    Access, AddDevice, AddNamespace, AddPortal, AddSubsystem, AnaState, Command, CommandError,
    CreateNexus, Force, HostChoice, Labels, LeftOut, NexusCommand, OfChild, Policy, RecordPlace,
    ResizeDevice, SetAnaState, SetDelay, SetFault,
};

use super::rule;

/// A request, as what it asks for.
pub(super) trait IntoCommand {
    fn into_command(self) -> Result<Command, CommandError>;
}

/// A field that has no form in a command.
pub(super) fn invalid(field: &'static str, value: impl ToString, advice: &str) -> CommandError {
    CommandError::Invalid { field, value: value.to_string(), advice: advice.to_owned() }
}

/// Requests whose command takes what they have field by field.
macro_rules! plain {
    ($($request:ident $fields:tt => $command:expr;)*) => {
        $(
            impl IntoCommand for v1::$request {
                fn into_command(self) -> Result<Command, CommandError> {
                    let v1::$request $fields = self;
                    Ok($command)
                }
            }
        )*
    };
}

plain! {
    ListDevicesRequest {} => Command::ListDevices;
    AddDeviceRequest { uri } => Command::AddDevice(AddDevice { uri });
    RemoveDeviceRequest { device } => Command::RemoveDevice { device };
    ResizeDeviceRequest { device, len_bytes } =>
        Command::ResizeDevice(ResizeDevice { device, len_bytes });
    ClearFaultRequest { device } => Command::ClearFault { device };
    ClearDelayRequest { device } => Command::ClearDelay { device };
    ListSubsystemsRequest {} => Command::ListSubsystems;
    RemoveSubsystemRequest { subsystem } => Command::RemoveSubsystem { subsystem };
    AddHostRequest { subsystem, host } => Command::AddHost { subsystem, host };
    RemoveHostRequest { subsystem, host } => Command::RemoveHost { subsystem, host };
    RemoveNamespaceRequest { subsystem, namespace } =>
        Command::RemoveNamespace { subsystem, namespace };
    ResizeNamespaceRequest { subsystem, namespace } =>
        Command::ResizeNamespace { subsystem, namespace };
    ListPortalsRequest {} => Command::ListPortals;
    AddPortalRequest { address, advertise } => Command::AddPortal(AddPortal { address, advertise });
    RemovePortalRequest { address } => Command::RemovePortal { address };
    ReadCountersRequest {} => Command::ReadCounters;
    ListNexusesRequest {} => Command::Nexus(NexusCommand::List);
    DestroyNexusRequest { nexus } => Command::Nexus(NexusCommand::Destroy { nexus });
    PauseNexusRequest { nexus } => Command::Nexus(NexusCommand::Pause { nexus });
    ResumeNexusRequest { nexus } => Command::Nexus(NexusCommand::Resume { nexus });
    GrowNexusRequest { nexus } => Command::Nexus(NexusCommand::Grow { nexus });
    VerifyNexusRequest { nexus } => Command::Nexus(NexusCommand::Verify { nexus });
    StopVerifyNexusRequest { nexus } => Command::Nexus(NexusCommand::StopVerify { nexus });
    AddChildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::AddChild(OfChild { nexus, uri }));
    RemoveChildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::RemoveChild(OfChild { nexus, uri }));
    OfflineChildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::OfflineChild(OfChild { nexus, uri }));
    FaultChildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::FaultChild(OfChild { nexus, uri }));
    StartRebuildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::StartRebuild(OfChild { nexus, uri }));
    StopRebuildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::StopRebuild(OfChild { nexus, uri }));
    PauseRebuildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::PauseRebuild(OfChild { nexus, uri }));
    ResumeRebuildRequest { nexus, uri } =>
        Command::Nexus(NexusCommand::ResumeRebuild(OfChild { nexus, uri }));
}

impl IntoCommand for v1::SetFaultRequest {
    fn into_command(self) -> Result<Command, CommandError> {
        let rules = rule::faults(&self.rules.unwrap_or_default())?;
        Ok(Command::SetFault(SetFault { device: self.device, rules }))
    }
}

impl IntoCommand for v1::SetDelayRequest {
    fn into_command(self) -> Result<Command, CommandError> {
        let rules = rule::delays(&self.rules.unwrap_or_default())?;
        Ok(Command::SetDelay(SetDelay { device: self.device, rules }))
    }
}

impl IntoCommand for v1::AddSubsystemRequest {
    fn into_command(self) -> Result<Command, CommandError> {
        let hosts = match v1::HostPolicy::try_from(self.hosts) {
            Ok(v1::HostPolicy::Unspecified) => HostChoice::default(),
            _ => host_choice("hosts", self.hosts)?,
        };
        Ok(Command::AddSubsystem(AddSubsystem {
            subsystem: self.subsystem,
            hosts,
            controller_ids: self.controller_ids.map(|ids| (ids.first, ids.last)),
            queue_entries: self.queue_entries,
        }))
    }
}

impl IntoCommand for v1::CreateNexusRequest {
    fn into_command(self) -> Result<Command, CommandError> {
        let labels = match v1::Labels::try_from(self.labels) {
            Ok(v1::Labels::Unspecified | v1::Labels::None) => Labels::None,
            Ok(v1::Labels::Create) => Labels::Create,
            Ok(v1::Labels::Open) => Labels::Open,
            Ok(v1::Labels::AsFound) => Labels::AsFound,
            Err(_) => {
                let advice = "choose NONE (1), CREATE (2), OPEN (3) or AS_FOUND (4)";
                return Err(invalid("labels", self.labels, advice));
            }
        };
        let left_out = match self.force_left_out {
            true => LeftOut::Accepted,
            false => LeftOut::Refused,
        };
        let force = self.force.map(|child| Force { child, left_out });
        let policy = match v1::Policy::try_from(self.policy) {
            Ok(v1::Policy::Unspecified) => None,
            Ok(v1::Policy::Majority) => Some(Policy::Majority),
            Ok(v1::Policy::Record) => Some(Policy::Record),
            Ok(v1::Policy::Solo) => Some(Policy::Solo),
            Err(_) => {
                let advice = "choose MAJORITY (1), RECORD (2) or SOLO (3)";
                return Err(invalid("policy", self.policy, advice));
            }
        };
        let record = self.record.map(RecordPlace::File);
        let v1::CreateNexusRequest { nexus, uuid, len_bytes, children, .. } = self;
        let create =
            CreateNexus { nexus, uuid, len_bytes, labels, force, policy, record, children };
        Ok(Command::Nexus(NexusCommand::Create(create)))
    }
}

impl IntoCommand for v1::SetHostPolicyRequest {
    fn into_command(self) -> Result<Command, CommandError> {
        let policy = host_choice("policy", self.policy)?;
        Ok(Command::SetHostPolicy { subsystem: self.subsystem, policy })
    }
}

impl IntoCommand for v1::AddNamespaceRequest {
    fn into_command(self) -> Result<Command, CommandError> {
        let access = match v1::Access::try_from(self.access) {
            Ok(v1::Access::Unspecified | v1::Access::ReadWrite) => Access::ReadWrite,
            Ok(v1::Access::ReadOnly) => Access::ReadOnly,
            Err(_) => {
                let advice = "choose READ_WRITE (1) or READ_ONLY (2)";
                return Err(invalid("access", self.access, advice));
            }
        };
        Ok(Command::AddNamespace(AddNamespace {
            subsystem: self.subsystem,
            device: self.device,
            namespace: self.namespace,
            uuid: self.uuid,
            access,
        }))
    }
}

impl IntoCommand for v1::SetAnaStateRequest {
    fn into_command(self) -> Result<Command, CommandError> {
        let state = match v1::AnaState::try_from(self.state) {
            Ok(v1::AnaState::Optimized) => AnaState::Optimized,
            Ok(v1::AnaState::NonOptimized) => AnaState::NonOptimized,
            Ok(v1::AnaState::Inaccessible) => AnaState::Inaccessible,
            Ok(v1::AnaState::PersistentLoss) => AnaState::PersistentLoss,
            Ok(v1::AnaState::Change) => AnaState::Change,
            Ok(v1::AnaState::Unspecified) | Err(_) => {
                let advice = "choose OPTIMIZED (1), NON_OPTIMIZED (2), INACCESSIBLE (3), \
                              PERSISTENT_LOSS (4) or CHANGE (5)";
                return Err(invalid("state", self.state, advice));
            }
        };
        let v1::SetAnaStateRequest { subsystem, namespace, .. } = self;
        Ok(Command::SetAnaState(SetAnaState { subsystem, namespace, state }))
    }
}

fn host_choice(field: &'static str, value: i32) -> Result<HostChoice, CommandError> {
    match v1::HostPolicy::try_from(value) {
        Ok(v1::HostPolicy::Any) => Ok(HostChoice::Any),
        Ok(v1::HostPolicy::Named) => Ok(HostChoice::Named),
        Ok(v1::HostPolicy::Unspecified) | Err(_) => {
            Err(invalid(field, value, "choose ANY (1) or NAMED (2)"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::command::ErrorKind;

    fn refused(request: impl IntoCommand) -> &'static str {
        let error = request.into_command().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        error.field().unwrap()
    }

    #[test]
    fn what_need_not_be_given_has_its_default() {
        let subsystem = v1::AddSubsystemRequest { subsystem: "n".into(), ..Default::default() };
        let expected = AddSubsystem { subsystem: "n".into(), ..AddSubsystem::default() };
        assert_eq!(subsystem.into_command().unwrap(), Command::AddSubsystem(expected));
        let namespace = v1::AddNamespaceRequest {
            subsystem: "n".into(),
            device: "d".into(),
            ..Default::default()
        };
        let expected = Command::AddNamespace(AddNamespace::new("n", "d"));
        assert_eq!(namespace.into_command().unwrap(), expected);
    }

    #[test]
    fn a_state_that_is_needed_is_not_guessed() {
        assert_eq!(refused(v1::SetAnaStateRequest::default()), "state");
        assert_eq!(refused(v1::SetHostPolicyRequest::default()), "policy");
    }

    #[test]
    fn a_value_that_no_name_has_is_refused() {
        for value in [-1, 3, 6, i32::MAX] {
            let hosts = v1::AddSubsystemRequest { hosts: value, ..Default::default() };
            assert_eq!(refused(hosts), "hosts");
            let access = v1::AddNamespaceRequest { access: value, ..Default::default() };
            assert_eq!(refused(access), "access");
        }
        let state = v1::SetAnaStateRequest { state: 6, ..Default::default() };
        assert_eq!(refused(state), "state");
    }

    #[test]
    fn every_ana_state_has_its_own() {
        let state = |state| {
            let request = v1::SetAnaStateRequest { state, ..Default::default() };
            let Command::SetAnaState(command) = request.into_command().unwrap() else {
                panic!("an ANA state");
            };
            command.state
        };
        let all = [
            AnaState::Optimized,
            AnaState::NonOptimized,
            AnaState::Inaccessible,
            AnaState::PersistentLoss,
            AnaState::Change,
        ];
        assert_eq!([1, 2, 3, 4, 5].map(state), all);
    }
}
