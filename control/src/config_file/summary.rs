//! What a configuration file would serve, for `--check`: a line an object.

use std::fmt::{self, Display, Formatter};

use engine::command::{Access, Command, HostChoice, NexusCommand};

use super::sections::ConfigFile;

/// The lines of a file.
#[derive(Debug)]
pub struct Summary<'a>(pub &'a ConfigFile);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (config, _) = self.0.to_config();
        match &config.cores {
            Some(cores) => writeln!(f, "cores {cores}, {} MiB of DMA memory each", config.dma_mib)?,
            None => writeln!(f, "the first allowed core, {} MiB of DMA memory", config.dma_mib)?,
        }
        match self.0.to_grpc() {
            None => writeln!(f, "no gRPC: it cannot be changed while it runs")?,
            Some(grpc) => {
                write!(f, "gRPC on {}", grpc.socket.display())?;
                if let Some(address) = grpc.address {
                    write!(f, " and {address}")?;
                }
                writeln!(f)?;
            }
        }
        config.setup.iter().try_for_each(|command| line(command, f))
    }
}

fn line(command: &Command, f: &mut Formatter<'_>) -> fmt::Result {
    match command {
        Command::AddPortal(portal) => match &portal.advertise {
            Some(advertise) => writeln!(f, "portal {}, advertised as {advertise}", portal.address),
            None => writeln!(f, "portal {}", portal.address),
        },
        Command::AddDevice(device) => writeln!(f, "device {}", device.uri),
        Command::Nexus(NexusCommand::Create(nexus)) => {
            writeln!(f, "nexus {} of {}", nexus.nexus, nexus.children.join(" "))
        }
        Command::AddSubsystem(subsystem) => {
            let hosts = match subsystem.hosts {
                HostChoice::Any => "every host",
                HostChoice::Named => "the hosts named below",
            };
            writeln!(f, "subsystem {} for {hosts}", subsystem.subsystem)
        }
        Command::AddHost { host, .. } => writeln!(f, "  host {host}"),
        Command::AddNamespace(namespace) => {
            let id = namespace.namespace.unwrap_or_default();
            let access = match namespace.access {
                Access::ReadWrite => "",
                Access::ReadOnly => ", read only",
            };
            writeln!(f, "  namespace {id}: {}{access}", namespace.device)
        }
        Command::SetAnaState(ana) => {
            let id = ana.namespace.unwrap_or_default();
            writeln!(f, "  namespace {id} is {:?}", ana.state)
        }
        // A file has none of the others.
        _ => Ok(()),
    }
}
