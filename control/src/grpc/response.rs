//! From what the engine answers to the response of the rpc.

use api::v1;
use engine::command::{
    Access, AnaState, CoreInfo, DeviceInfo, HostChoice, NamespaceCounters, NamespaceInfo,
    PortalInfo, Presence, Reply, SubsystemInfo,
};

use super::nexus::nexus;
use super::rule;

/// A response, made of the reply to the command of its request; none of any other reply.
pub(super) trait FromReply: Sized {
    fn from_reply(reply: Reply) -> Option<Self>;
}

/// Which reply a response is made of, and how.
macro_rules! responses {
    ($($response:ident: $reply:pat => $fields:tt;)*) => {
        $(
            impl FromReply for v1::$response {
                fn from_reply(reply: Reply) -> Option<Self> {
                    match reply {
                        $reply => Some(v1::$response $fields),
                        _ => None,
                    }
                }
            }
        )*
    };
}

responses! {
    ListDevicesResponse: Reply::Devices(all) => { devices: all.into_iter().map(device).collect() };
    AddDeviceResponse: Reply::Device(one) => { device: Some(device(one)) };
    RemoveDeviceResponse: Reply::Done => {};
    ResizeDeviceResponse: Reply::Device(one) => { device: Some(device(one)) };
    SetFaultResponse: Reply::Device(one) => { device: Some(device(one)) };
    ClearFaultResponse: Reply::Device(one) => { device: Some(device(one)) };
    SetDelayResponse: Reply::Device(one) => { device: Some(device(one)) };
    ClearDelayResponse: Reply::Device(one) => { device: Some(device(one)) };
    ListSubsystemsResponse: Reply::Subsystems(all) => {
        subsystems: all.into_iter().map(subsystem).collect()
    };
    AddSubsystemResponse: Reply::Subsystem(one) => { subsystem: Some(subsystem(one)) };
    RemoveSubsystemResponse: Reply::Done => {};
    AddHostResponse: Reply::Subsystem(one) => { subsystem: Some(subsystem(one)) };
    RemoveHostResponse: Reply::Subsystem(one) => { subsystem: Some(subsystem(one)) };
    SetHostPolicyResponse: Reply::Subsystem(one) => { subsystem: Some(subsystem(one)) };
    AddNamespaceResponse: Reply::Namespace(one) => { namespace: Some(namespace(one)) };
    RemoveNamespaceResponse: Reply::Done => {};
    ResizeNamespaceResponse: Reply::Namespace(one) => { namespace: Some(namespace(one)) };
    SetAnaStateResponse: Reply::Subsystem(one) => { subsystem: Some(subsystem(one)) };
    ListPortalsResponse: Reply::Portals(all) => { portals: all.into_iter().map(portal).collect() };
    AddPortalResponse: Reply::Portal(one) => { portal: Some(portal(one)) };
    RemovePortalResponse: Reply::Done => {};
    ListNexusesResponse: Reply::Nexuses(all) => { nexuses: all.into_iter().map(nexus).collect() };
    CreateNexusResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    DestroyNexusResponse: Reply::Done => {};
    PauseNexusResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    ResumeNexusResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    GrowNexusResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    VerifyNexusResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    StopVerifyNexusResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    AddChildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    RemoveChildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    OfflineChildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    FaultChildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    StartRebuildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    StopRebuildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    PauseRebuildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    ResumeRebuildResponse: Reply::Nexus(one) => { nexus: Some(nexus(one)) };
    ReadCountersResponse: Reply::Counters(all) => {
        cores: all.cores.iter().map(core).collect(),
        namespaces: all.namespaces.into_iter().map(moved).collect()
    };
}

pub(super) fn presence(presence: Presence) -> i32 {
    let presence = match presence {
        Presence::Coming => v1::Presence::Coming,
        Presence::Present => v1::Presence::Present,
        Presence::Going => v1::Presence::Going,
    };
    presence.into()
}

fn device(info: DeviceInfo) -> v1::Device {
    v1::Device {
        name: info.name,
        uri: info.uri,
        presence: presence(info.presence),
        block_bytes: info.block_bytes,
        blocks: info.blocks,
        uuid: info.uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
        about: info.about.unwrap_or_default(),
        instance: info.instance.to_string(),
        fault: info.fault.as_ref().map(rule::faults_message),
        delay: info.delay.as_ref().map(rule::delays_message),
    }
}

fn subsystem(info: SubsystemInfo) -> v1::Subsystem {
    let (first, last) = info.controller_ids;
    let policy = match info.hosts.policy {
        HostChoice::Any => v1::HostPolicy::Any,
        HostChoice::Named => v1::HostPolicy::Named,
    };
    v1::Subsystem {
        nqn: info.nqn,
        presence: presence(info.presence),
        serial: info.serial,
        controller_ids: Some(v1::ControllerIds { first: first.into(), last: last.into() }),
        queue_entries: info.queue_entries.into(),
        host_policy: policy.into(),
        hosts: info.hosts.named,
        namespaces: info.namespaces.into_iter().map(namespace).collect(),
    }
}

fn namespace(info: NamespaceInfo) -> v1::Namespace {
    let access = match info.access {
        Access::ReadWrite => v1::Access::ReadWrite,
        Access::ReadOnly => v1::Access::ReadOnly,
    };
    let state = match info.ana {
        AnaState::Optimized => v1::AnaState::Optimized,
        AnaState::NonOptimized => v1::AnaState::NonOptimized,
        AnaState::Inaccessible => v1::AnaState::Inaccessible,
        AnaState::PersistentLoss => v1::AnaState::PersistentLoss,
        AnaState::Change => v1::AnaState::Change,
    };
    v1::Namespace {
        subsystem: info.subsystem,
        namespace: info.namespace,
        presence: presence(info.presence),
        device: info.device,
        uuid: info.uuid.to_string(),
        access: access.into(),
        ana_state: state.into(),
        block_bytes: info.block_bytes,
        blocks: info.blocks,
        reservation_failures: info.reservation_failures.count,
        reservation_failure: info.reservation_failures.first.unwrap_or_default(),
    }
}

fn portal(info: PortalInfo) -> v1::Portal {
    v1::Portal {
        id: info.id.into(),
        presence: presence(info.presence),
        address: info.address.to_string(),
        advertised: info.advertised.map(|address| address.to_string()).unwrap_or_default(),
    }
}

fn moved(info: NamespaceCounters) -> v1::NamespaceCounters {
    v1::NamespaceCounters {
        subsystem: info.subsystem,
        namespace: info.namespace,
        read_bytes: info.moved.read_bytes,
        written_bytes: info.moved.written_bytes,
        read_commands: info.moved.read_commands,
        write_commands: info.moved.write_commands,
    }
}

fn core(info: &CoreInfo) -> v1::CoreCounters {
    let counters = info.counters;
    v1::CoreCounters {
        core: info.core.0,
        passes: counters.passes,
        busy_passes: counters.busy_passes,
        busy_ns: counters.busy_ns,
        spin_ns: counters.spin_ns,
        sleep_ns: counters.sleep_ns,
        sleeps: counters.sleeps,
        ios: counters.ios,
        io_bytes: counters.io_bytes,
        io_ns: counters.io_ns,
        connections: counters.connections,
        protocol_errors: counters.protocol_errors,
    }
}
