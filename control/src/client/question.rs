//! From the command line to requests, and from responses to the answer that is shown.

use std::time::Duration;

use api::v1::ana_service_client::AnaServiceClient;
use api::v1::counter_service_client::CounterServiceClient;
use api::v1::device_service_client::DeviceServiceClient;
use api::v1::namespace_service_client::NamespaceServiceClient;
use api::v1::portal_service_client::PortalServiceClient;
use api::v1::subsystem_service_client::SubsystemServiceClient;
use api::v1::{self, ErrorDetail, ErrorKind};
use tonic::Status;
use tonic::transport::Channel;

use super::call::Answer;
use super::nexus;
use super::options::{
    AddSubsystemOptions, Ana, AnaCommand, ClientOptions, CountersCommand, DelayCommand,
    DeviceCommand, FaultCommand, HostCommand, NamespaceCommand, Policy, PortalCommand,
    SubsystemCommand, What,
};

/// A connection, and how long each call over it may take.
pub(super) struct Server {
    pub channel: Channel,
    pub timeout: Option<Duration>,
}

/// Calls one rpc; evaluates to the response.
macro_rules! rpc {
    ($server:expr, $client:ident.$method:ident, $request:expr) => {{
        let mut request = tonic::Request::new($request);
        if let Some(timeout) = $server.timeout {
            request.set_timeout(timeout);
        }
        let client = $client::new($server.channel.clone());
        let mut client = client.max_decoding_message_size(api::RESPONSE_BYTES_MAX);
        client.$method(request).await?.into_inner()
    }};
}
pub(super) use rpc;

/// Asks what the options say.
pub(super) async fn ask(channel: Channel, options: &ClientOptions) -> Result<Answer, Status> {
    let server = Server { channel, timeout: options.timeout };
    match &options.what {
        What::Device(command) => device(&server, command).await,
        What::Nexus(command) => Box::pin(nexus::ask(&server, command)).await,
        What::Rebuild(command) => Box::pin(nexus::ask_rebuild(&server, command)).await,
        What::Subsystem(command) => subsystem(&server, command).await,
        What::Namespace(command) => namespace(&server, command).await,
        What::Host(command) => host(&server, command).await,
        What::Portal(command) => portal(&server, command).await,
        What::Ana(command) => ana(&server, command).await,
        What::Fault(command) => fault(&server, command).await,
        What::Delay(command) => delay(&server, command).await,
        What::Counters(CountersCommand::List) => {
            let request = v1::ReadCountersRequest {};
            let response = rpc!(server, CounterServiceClient.read_counters, request);
            Ok(Answer::Counters(response))
        }
    }
}

/// The part of a response that the server always sends.
pub(super) fn sent<T>(part: Option<T>) -> Result<T, Status> {
    part.ok_or_else(|| Status::internal("the server left out what it did"))
}

async fn devices(server: &Server) -> Result<Vec<v1::Device>, Status> {
    let request = v1::ListDevicesRequest {};
    Ok(rpc!(server, DeviceServiceClient.list_devices, request).devices)
}

async fn device(server: &Server, command: &DeviceCommand) -> Result<Answer, Status> {
    let changed = match command {
        DeviceCommand::List => return Ok(Answer::Devices(devices(server).await?)),
        DeviceCommand::Add { uri } => {
            let request = v1::AddDeviceRequest { uri: uri.clone() };
            rpc!(server, DeviceServiceClient.add_device, request).device
        }
        DeviceCommand::Remove { device } => {
            let request = v1::RemoveDeviceRequest { device: device.clone() };
            rpc!(server, DeviceServiceClient.remove_device, request);
            return Ok(Answer::Done);
        }
        DeviceCommand::Resize { device, size } => {
            let request = v1::ResizeDeviceRequest { device: device.clone(), len_bytes: *size };
            rpc!(server, DeviceServiceClient.resize_device, request).device
        }
    };
    Ok(Answer::Device(sent(changed)?))
}

/// All subsystems, or the one that is asked for.
async fn subsystems(
    server: &Server,
    wanted: Option<&String>,
) -> Result<Vec<v1::Subsystem>, Status> {
    let request = v1::ListSubsystemsRequest {};
    let mut all = rpc!(server, SubsystemServiceClient.list_subsystems, request).subsystems;
    let Some(wanted) = wanted else { return Ok(all) };
    all.retain(|subsystem| subsystem.nqn == *wanted);
    if all.is_empty() {
        let detail = ErrorDetail {
            kind: ErrorKind::NotFound.into(),
            subject: wanted.clone(),
            ..ErrorDetail::default()
        };
        let message = format!("there is no subsystem {wanted}");
        return Err(api::refusal::to_status(&message, &detail));
    }
    Ok(all)
}

async fn subsystem(server: &Server, command: &SubsystemCommand) -> Result<Answer, Status> {
    match command {
        SubsystemCommand::List => Ok(Answer::Subsystems(subsystems(server, None).await?)),
        SubsystemCommand::Add(options) => add_subsystem(server, options).await,
        SubsystemCommand::Remove { subsystem } => {
            let request = v1::RemoveSubsystemRequest { subsystem: subsystem.clone() };
            rpc!(server, SubsystemServiceClient.remove_subsystem, request);
            Ok(Answer::Done)
        }
    }
}

async fn add_subsystem(server: &Server, options: &AddSubsystemOptions) -> Result<Answer, Status> {
    // With hosts it begins closed to all, so that it is never open to more than these.
    let policy = match options.hosts.as_slice() {
        [] => v1::HostPolicy::Any,
        _ => v1::HostPolicy::Named,
    };
    let ids = options.controller_ids;
    let request = v1::AddSubsystemRequest {
        subsystem: options.subsystem.clone(),
        hosts: policy.into(),
        controller_ids: ids.map(|(first, last)| v1::ControllerIds { first, last }),
        queue_entries: options.queue_entries,
    };
    let mut made = rpc!(server, SubsystemServiceClient.add_subsystem, request).subsystem;
    for host in &options.hosts {
        made = add_host(server, &options.subsystem, host).await?;
    }
    Ok(Answer::Subsystem(sent(made)?))
}

async fn add_host(
    server: &Server,
    subsystem: &str,
    host: &str,
) -> Result<Option<v1::Subsystem>, Status> {
    let request = v1::AddHostRequest { subsystem: subsystem.to_owned(), host: host.to_owned() };
    Ok(rpc!(server, SubsystemServiceClient.add_host, request).subsystem)
}

async fn host(server: &Server, command: &HostCommand) -> Result<Answer, Status> {
    let changed = match command {
        HostCommand::List { subsystem } => {
            return Ok(Answer::Hosts(subsystems(server, subsystem.as_ref()).await?));
        }
        HostCommand::Add { subsystem, host } => add_host(server, subsystem, host).await?,
        HostCommand::Remove { subsystem, host } => {
            let (subsystem, host) = (subsystem.clone(), host.clone());
            let request = v1::RemoveHostRequest { subsystem, host };
            rpc!(server, SubsystemServiceClient.remove_host, request).subsystem
        }
        HostCommand::Allow { subsystem, policy } => {
            let policy = match policy {
                Policy::Any => v1::HostPolicy::Any,
                Policy::Named => v1::HostPolicy::Named,
            };
            let subsystem = subsystem.clone();
            let request = v1::SetHostPolicyRequest { subsystem, policy: policy.into() };
            rpc!(server, SubsystemServiceClient.set_host_policy, request).subsystem
        }
    };
    Ok(Answer::Subsystem(sent(changed)?))
}

/// The namespaces of these subsystems.
fn namespaces(subsystems: Vec<v1::Subsystem>) -> Vec<v1::Namespace> {
    subsystems.into_iter().flat_map(|subsystem| subsystem.namespaces).collect()
}

async fn namespace(server: &Server, command: &NamespaceCommand) -> Result<Answer, Status> {
    let changed = match command {
        NamespaceCommand::List { subsystem } => {
            let found = subsystems(server, subsystem.as_ref()).await?;
            return Ok(Answer::Namespaces(namespaces(found)));
        }
        NamespaceCommand::Add { subsystem, device, nsid, uuid, read_only } => {
            let access = if *read_only { v1::Access::ReadOnly } else { v1::Access::ReadWrite };
            let request = v1::AddNamespaceRequest {
                subsystem: subsystem.clone(),
                device: device.clone(),
                namespace: *nsid,
                uuid: uuid.clone(),
                access: access.into(),
            };
            rpc!(server, NamespaceServiceClient.add_namespace, request).namespace
        }
        NamespaceCommand::Remove { subsystem, nsid } => {
            let subsystem = subsystem.clone();
            let request = v1::RemoveNamespaceRequest { subsystem, namespace: *nsid };
            rpc!(server, NamespaceServiceClient.remove_namespace, request);
            return Ok(Answer::Done);
        }
        NamespaceCommand::Resize { subsystem, nsid } => {
            let subsystem = subsystem.clone();
            let request = v1::ResizeNamespaceRequest { subsystem, namespace: *nsid };
            rpc!(server, NamespaceServiceClient.resize_namespace, request).namespace
        }
    };
    Ok(Answer::Namespace(sent(changed)?))
}

async fn portal(server: &Server, command: &PortalCommand) -> Result<Answer, Status> {
    match command {
        PortalCommand::List => {
            let request = v1::ListPortalsRequest {};
            let response = rpc!(server, PortalServiceClient.list_portals, request);
            Ok(Answer::Portals(response.portals))
        }
        PortalCommand::Add { address, advertise } => {
            let (address, advertise) = (address.clone(), advertise.clone());
            let request = v1::AddPortalRequest { address, advertise };
            let response = rpc!(server, PortalServiceClient.add_portal, request);
            Ok(Answer::Portal(sent(response.portal)?))
        }
        PortalCommand::Remove { address } => {
            let request = v1::RemovePortalRequest { address: address.clone() };
            rpc!(server, PortalServiceClient.remove_portal, request);
            Ok(Answer::Done)
        }
    }
}

async fn ana(server: &Server, command: &AnaCommand) -> Result<Answer, Status> {
    match command {
        AnaCommand::List { subsystem } => {
            let found = subsystems(server, subsystem.as_ref()).await?;
            Ok(Answer::AnaStates(namespaces(found)))
        }
        AnaCommand::Set { subsystem, state, nsid } => {
            let state = match state {
                Ana::Optimized => v1::AnaState::Optimized,
                Ana::NonOptimized => v1::AnaState::NonOptimized,
                Ana::Inaccessible => v1::AnaState::Inaccessible,
                Ana::PersistentLoss => v1::AnaState::PersistentLoss,
                Ana::Change => v1::AnaState::Change,
            };
            let request = v1::SetAnaStateRequest {
                subsystem: subsystem.clone(),
                namespace: *nsid,
                state: state.into(),
            };
            let response = rpc!(server, AnaServiceClient.set_ana_state, request);
            Ok(Answer::Subsystem(sent(response.subsystem)?))
        }
    }
}

async fn fault(server: &Server, command: &FaultCommand) -> Result<Answer, Status> {
    let changed = match command {
        FaultCommand::List => return Ok(Answer::Faults(devices(server).await?)),
        FaultCommand::Set(options) => {
            let rules = Some(options.rules());
            let request = v1::SetFaultRequest { device: options.device.clone(), rules };
            rpc!(server, DeviceServiceClient.set_fault, request).device
        }
        FaultCommand::Clear { device } => {
            let request = v1::ClearFaultRequest { device: device.clone() };
            rpc!(server, DeviceServiceClient.clear_fault, request).device
        }
    };
    Ok(Answer::Device(sent(changed)?))
}

async fn delay(server: &Server, command: &DelayCommand) -> Result<Answer, Status> {
    let changed = match command {
        DelayCommand::List => return Ok(Answer::Delays(devices(server).await?)),
        DelayCommand::Set(options) => {
            let rules = Some(options.rules());
            let request = v1::SetDelayRequest { device: options.device.clone(), rules };
            rpc!(server, DeviceServiceClient.set_delay, request).device
        }
        DelayCommand::Clear { device } => {
            let request = v1::ClearDelayRequest { device: device.clone() };
            rpc!(server, DeviceServiceClient.clear_delay, request).device
        }
    };
    Ok(Answer::Device(sent(changed)?))
}
