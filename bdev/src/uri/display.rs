//! Writes a device URI in its first spelling, with what differs from the defaults.

use std::fmt;

use uuid::Uuid;

use super::syntax::Encoded;
use super::{
    BLOCK_BYTES_DEFAULT, DeviceUri, HostPort, ISCSI_PORT_DEFAULT, NAMESPACE_DEFAULT,
    NVMF_DISCOVERY_PORT_DEFAULT, NVMF_PORT_DEFAULT, NvmfPlace, NvmfUri, PciAddress, Scheme, Size,
};
use crate::pcie::Recovery;

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spellings().first().unwrap_or(&"path"))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl fmt::Display for DeviceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let DeviceUri::Path(path) = self {
            return f.write_str(path);
        }
        write!(f, "{}://", self.scheme())?;
        let mut query = Query { separator: '?' };
        match self {
            DeviceUri::Path(path) => f.write_str(path)?,
            DeviceUri::Aio(uri) | DeviceUri::Uring(uri) => {
                write!(f, "{}", Encoded(&uri.path))?;
                query.block_bytes(f, uri.block_bytes)?;
            }
            DeviceUri::Malloc(uri) | DeviceUri::Null(uri) => {
                write!(f, "/{}", Encoded(&uri.name))?;
                match uri.size {
                    Size::Mebibytes(count) => query.add(f, "size_mb", count)?,
                    Size::Blocks(count) => query.add(f, "num_blocks", count)?,
                }
                query.block_bytes(f, uri.block_bytes)?;
            }
            DeviceUri::Nvmf(uri) => {
                match &uri.place {
                    NvmfPlace::At(HostPort { host, port }) => {
                        authority(f, host, *port, NVMF_PORT_DEFAULT)?;
                        write!(f, "/{}", Encoded(&uri.subnqn))?;
                    }
                    // In the place of a host, where a slash would end it.
                    NvmfPlace::Discovered(_) => {
                        let name = Encoded(&uri.subnqn).to_string().replace('/', "%2F");
                        f.write_str(&name)?;
                    }
                }
                query.nvmf(f, uri)?;
            }
            DeviceUri::Pcie(uri) => {
                write!(f, "/{}", uri.address)?;
                if uri.namespace != NAMESPACE_DEFAULT {
                    query.add(f, "namespace", uri.namespace)?;
                }
                if uri.recovery == Recovery::Fail {
                    query.add(f, "recovery", "fail")?;
                }
            }
            DeviceUri::Iscsi(uri) => {
                authority(f, &uri.host, uri.port, ISCSI_PORT_DEFAULT)?;
                write!(f, "/{}", Encoded(&uri.target))?;
                if uri.lun != 0 {
                    write!(f, "/{}", uri.lun)?;
                }
            }
            DeviceUri::Bdev(uri)
            | DeviceUri::Loopback(uri)
            | DeviceUri::Nexus(uri)
            | DeviceUri::Lvol(uri) => write!(f, "/{}", Encoded(&uri.name))?,
        }
        query.uuid(f, self.uuid())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No service has this port: it is always written.
        authority(f, &self.host, self.port, 0)
    }
}

fn authority(f: &mut impl fmt::Write, host: &str, port: u16, default: u16) -> fmt::Result {
    if host.contains(':') {
        write!(f, "[{host}]")?;
    } else {
        f.write_str(host)?;
    }
    if port == default { Ok(()) } else { write!(f, ":{port}") }
}

/// Writes parameters, the first after a question mark.
struct Query {
    separator: char,
}

impl Query {
    fn add(
        &mut self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        value: impl fmt::Display,
    ) -> fmt::Result {
        write!(f, "{}{name}={value}", self.separator)?;
        self.separator = '&';
        Ok(())
    }

    fn nvmf(&mut self, f: &mut fmt::Formatter<'_>, uri: &NvmfUri) -> fmt::Result {
        let NvmfUri { place, reftag, guard, choices, .. } = uri;
        if let NvmfPlace::Discovered(controllers) = place
            && !controllers.is_empty()
        {
            let mut list = String::new();
            for (index, HostPort { host, port }) in controllers.iter().enumerate() {
                list.push_str(if index == 0 { "" } else { "," });
                authority(&mut list, host, *port, NVMF_DISCOVERY_PORT_DEFAULT)?;
            }
            self.add(f, "discovery", Encoded(&list))?;
        }
        let switches = [
            ("reftag", *reftag),
            ("guard", *guard),
            ("hdgst", choices.header_digest),
            ("ddgst", choices.data_digest),
        ];
        for (name, _) in switches.into_iter().filter(|(_, on)| *on) {
            self.add(f, name, true)?;
        }
        if let Some(nqn) = &choices.host_nqn {
            self.add(f, "hostnqn", Encoded(nqn))?;
        }
        let numbers = [
            ("namespace", choices.namespace),
            ("wait_ms", choices.wait_ms),
            ("io_timeout_ms", choices.io_timeout_ms),
            ("keep_alive_ms", choices.keep_alive_ms),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                self.add(f, name, number)?;
            }
        }
        Ok(())
    }

    fn block_bytes(&mut self, f: &mut fmt::Formatter<'_>, block_bytes: u32) -> fmt::Result {
        if block_bytes == BLOCK_BYTES_DEFAULT {
            return Ok(());
        }
        self.add(f, "blk_size", block_bytes)
    }

    fn uuid(&mut self, f: &mut fmt::Formatter<'_>, uuid: Option<Uuid>) -> fmt::Result {
        match uuid {
            Some(uuid) => self.add(f, "uuid", uuid),
            None => Ok(()),
        }
    }
}
