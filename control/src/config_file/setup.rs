//! From a configuration file to the commands that make what it describes.
//!
//! The portals come first, since a port in use is found out when it is bound. Each command knows
//! the place in the file that it came from, to be named if the engine refuses it.

use std::net::SocketAddr;

use engine::command::{
    self, Access, AddDevice, AddNamespace, AddPortal, AddSubsystem, Command, CreateNexus,
    HostChoice, Labels, NexusCommand, Policy, RecordPlace, SetAnaState,
};
use engine::config::{DMA_MIB_DEFAULT, PORT_DEFAULT};
use nvmf::target::DigestPolicy;
use reactor::dma::PagePreference;
use reactor::reactor::IdlePolicy;

use engine::TargetConfig;

use super::sections::{
    AnaState, ConfigFile, Idle, NexusLabels, NexusPolicy, NexusSection, Pages, PortalSection,
    SubsystemSection,
};
use crate::grpc::GrpcOptions;

/// A command, and the byte of the text that it came from.
pub type PlacedCommand = (usize, Command);

impl ConfigFile {
    /// The target that the file describes; the places are those of its commands.
    pub fn to_config(&self) -> (TargetConfig, Vec<usize>) {
        let (places, setup) = self.setup().into_iter().unzip();
        let target = &self.target;
        let config = TargetConfig {
            cores: target.cores.as_ref().map(|cores| cores.0.clone()),
            digests: match target.digests {
                Some(false) => DigestPolicy::Never,
                Some(true) | None => DigestPolicy::AsAsked,
            },
            idle: match target.idle {
                Idle::Sleep => IdlePolicy::default(),
                Idle::Poll => IdlePolicy::Poll,
            },
            pages: match target.pages {
                Pages::Huge => PagePreference::HugeFirst,
                Pages::Ordinary => PagePreference::Ordinary,
            },
            dma_mib: target.dma_mib.map_or(DMA_MIB_DEFAULT, |mib| mib.0),
            ..TargetConfig::new(setup)
        };
        (config, places)
    }

    /// Where it is controlled while it runs, if it is.
    pub fn to_grpc(&self) -> Option<GrpcOptions> {
        let grpc = self.grpc.as_ref()?;
        let socket = grpc.socket.as_ref().map(|socket| socket.get_ref().clone());
        Some(GrpcOptions {
            socket: socket.unwrap_or_else(|| api::SOCKET_DEFAULT.into()),
            address: grpc.address.as_ref().map(|address| address.0),
        })
    }

    /// The commands that make what is served, in order.
    pub fn setup(&self) -> Vec<PlacedCommand> {
        let portal = |place: &toml::Spanned<PortalSection>| {
            (place.span().start, Command::AddPortal(place.get_ref().to_command()))
        };
        let mut setup: Vec<PlacedCommand> = self.portals.iter().map(portal).collect();
        setup.extend(self.devices.iter().map(|device| {
            let uri = &device.get_ref().uri;
            let command = AddDevice { uri: uri.get_ref().clone() };
            (uri.span().start, Command::AddDevice(command))
        }));
        setup.extend(self.nexuses.iter().map(|nexus| {
            (nexus.name.span().start, Command::Nexus(NexusCommand::Create(nexus.to_command())))
        }));
        for subsystem in &self.subsystems {
            subsystem.extend(&mut setup);
        }
        setup
    }
}

impl PortalSection {
    fn to_command(&self) -> AddPortal {
        let port = self.port.unwrap_or(PORT_DEFAULT);
        let advertise = self.advertise.as_ref();
        AddPortal {
            address: SocketAddr::new(self.address.0.0, port).to_string(),
            advertise: advertise.map(|address| address.get_ref().0.0.to_string()),
        }
    }
}

impl NexusSection {
    fn labels(&self) -> Labels {
        let children = self.children.get_ref().iter().map(|child| child.get_ref().as_str());
        match self.labels {
            Some(NexusLabels::None) => Labels::None,
            Some(NexusLabels::Create) => Labels::Create,
            Some(NexusLabels::Open) => Labels::Open,
            Some(NexusLabels::AsFound) => Labels::AsFound,
            None => Labels::for_devices(children),
        }
    }

    fn to_command(&self) -> CreateNexus {
        let children = self.children.get_ref().iter().map(|child| child.get_ref().clone());
        let text = |text: &toml::Spanned<String>| text.get_ref().clone();
        let file = self.record.as_ref().map(text).map(RecordPlace::File);
        let command = self.record_command.as_ref().map(text).map(RecordPlace::Command);
        CreateNexus {
            nexus: self.name.get_ref().clone(),
            uuid: self.uuid.as_ref().map(|uuid| uuid.0.to_string()),
            len_bytes: self.len_bytes,
            labels: self.labels(),
            policy: self.policy.map(Policy::from),
            record: file.or(command),
            children: children.collect(),
            ..CreateNexus::default()
        }
    }
}

impl SubsystemSection {
    fn extend(&self, setup: &mut Vec<PlacedCommand>) {
        let subsystem = self.nqn.get_ref().0.as_str().to_owned();
        let hosts = self.hosts.as_ref().map(|hosts| hosts.get_ref().as_slice());
        let ids = self.controller_ids.as_ref().map(toml::Spanned::get_ref);
        let command = AddSubsystem {
            subsystem: subsystem.clone(),
            hosts: if hosts.is_some() { HostChoice::Named } else { HostChoice::Any },
            controller_ids: ids.map(|ids| (ids.first.0, ids.last.0)),
            queue_entries: self.queue_entries.map(|entries| entries.0),
        };
        setup.push((self.nqn.span().start, Command::AddSubsystem(command)));
        setup.extend(hosts.unwrap_or_default().iter().map(|host| {
            let name = host.get_ref().0.as_str().to_owned();
            (host.span().start, Command::AddHost { subsystem: subsystem.clone(), host: name })
        }));
        for (namespace, id) in self.namespaces.iter().zip(self.namespace_ids()) {
            let at = namespace.device.span().start;
            let access = match namespace.read_only {
                Some(true) => Access::ReadOnly,
                Some(false) | None => Access::ReadWrite,
            };
            let command = AddNamespace {
                namespace: Some(id),
                uuid: namespace.uuid.as_ref().map(|uuid| uuid.get_ref().0.to_string()),
                access,
                ..AddNamespace::new(subsystem.clone(), namespace.device.get_ref().clone())
            };
            setup.push((at, Command::AddNamespace(command)));
            if namespace.ana != AnaState::Optimized {
                let command = SetAnaState {
                    subsystem: subsystem.clone(),
                    namespace: Some(id),
                    state: namespace.ana.into(),
                };
                setup.push((at, Command::SetAnaState(command)));
            }
        }
    }

    /// The numbers of its namespaces: those given, and the lowest that none is given for the rest.
    pub(super) fn namespace_ids(&self) -> Vec<u32> {
        let given = |one: &super::NamespaceSection| one.nsid.as_ref().map(|id| id.get_ref().0);
        let taken: Vec<u32> = self.namespaces.iter().filter_map(given).collect();
        let mut free = (1..).filter(|id| !taken.contains(id));
        let number = |one| given(one).or_else(|| free.next()).expect("numbers do not run out");
        self.namespaces.iter().map(number).collect()
    }
}

impl From<NexusPolicy> for Policy {
    fn from(policy: NexusPolicy) -> Policy {
        match policy {
            NexusPolicy::Solo => Policy::Solo,
            NexusPolicy::Majority => Policy::Majority,
            NexusPolicy::Record => Policy::Record,
        }
    }
}

impl From<AnaState> for command::AnaState {
    fn from(state: AnaState) -> command::AnaState {
        match state {
            AnaState::Optimized => command::AnaState::Optimized,
            AnaState::NonOptimized => command::AnaState::NonOptimized,
            AnaState::Inaccessible => command::AnaState::Inaccessible,
            AnaState::PersistentLoss => command::AnaState::PersistentLoss,
            AnaState::Change => command::AnaState::Change,
        }
    }
}
