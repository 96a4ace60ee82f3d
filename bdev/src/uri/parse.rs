//! Reads a device URI, scheme by scheme.

use std::str::FromStr;

use uuid::Uuid;

use super::syntax::{self, Parts, digits};
use super::{
    BLOCK_BYTES_DEFAULT, DeviceUri, FileUri, HostPort, ISCSI_NAME_BYTES_MAX, ISCSI_PORT_DEFAULT,
    IscsiUri, LUN_MAX, MEBIBYTE_BYTES, MILLISECONDS_MAX, MemoryUri, NAMESPACE_DEFAULT,
    NAMESPACE_MAX, NQN_BYTES_MAX, NVMF_DISCOVERY_CONTROLLERS_MAX, NVMF_DISCOVERY_PORT_DEFAULT,
    NVMF_PORT_DEFAULT, NamedUri, NvmfChoices, NvmfPlace, NvmfTransport, NvmfUri, PciAddress,
    PcieUri, Scheme, Size, UriError,
};
use crate::legality::DEVICE_BYTES_MAX;
use crate::pcie::Recovery;

impl FromStr for DeviceUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<DeviceUri, UriError> {
        if text.starts_with('/') {
            // A path is no URI and may have any character but this.
            if text.len() > super::URI_BYTES_MAX {
                return Err(UriError::TooLong { len_bytes: text.len() });
            }
            if text.contains('\0') {
                return Err(UriError::Character { character: '\0' });
            }
            return Ok(DeviceUri::Path(text.to_owned()));
        }
        syntax::check_text(text)?;
        let parts = syntax::split(text)?;
        let parameters = Parameters::check(&parts)?;
        match parts.scheme {
            Scheme::Path => Err(UriError::NoScheme { text: text.to_owned() }),
            Scheme::Aio => Ok(DeviceUri::Aio(file(&parts, &parameters)?)),
            Scheme::Uring => Ok(DeviceUri::Uring(file(&parts, &parameters)?)),
            Scheme::Malloc => Ok(DeviceUri::Malloc(memory(&parts, &parameters)?)),
            Scheme::Null => Ok(DeviceUri::Null(memory(&parts, &parameters)?)),
            Scheme::Nvmf => Ok(DeviceUri::Nvmf(nvmf(&parts, &parameters, NvmfTransport::Tcp)?)),
            Scheme::NvmfRdma => {
                Ok(DeviceUri::Nvmf(nvmf(&parts, &parameters, NvmfTransport::RdmaOrTcp)?))
            }
            Scheme::Pcie => Ok(DeviceUri::Pcie(pcie(&parts, &parameters)?)),
            Scheme::Iscsi => Ok(DeviceUri::Iscsi(iscsi(&parts, &parameters)?)),
            Scheme::Bdev => Ok(DeviceUri::Bdev(named(&parts, &parameters)?)),
            Scheme::Loopback => Ok(DeviceUri::Loopback(named(&parts, &parameters)?)),
            Scheme::Nexus => Ok(DeviceUri::Nexus(named(&parts, &parameters)?)),
            Scheme::Lvol => Ok(DeviceUri::Lvol(named(&parts, &parameters)?)),
        }
    }
}

/// Names of the parameters of a scheme.
fn allowed(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::Path => &[],
        Scheme::Pcie => &["namespace", "recovery"],
        Scheme::Aio | Scheme::Uring => &["blk_size", "uuid"],
        Scheme::Malloc | Scheme::Null => &["size_mb", "num_blocks", "blk_size", "uuid"],
        Scheme::Nvmf | Scheme::NvmfRdma => &[
            "reftag",
            "guard",
            "uuid",
            "namespace",
            "hostnqn",
            "discovery",
            "hdgst",
            "ddgst",
            "wait_ms",
            "io_timeout_ms",
            "keep_alive_ms",
        ],
        Scheme::Iscsi | Scheme::Bdev | Scheme::Loopback | Scheme::Nexus | Scheme::Lvol => &["uuid"],
    }
}

/// Parameters, each allowed and there once.
struct Parameters<'a>(&'a [(String, String)]);

impl<'a> Parameters<'a> {
    fn check(parts: &'a Parts<'_>) -> Result<Parameters<'a>, UriError> {
        let allowed = allowed(parts.scheme);
        for (index, (name, _)) in parts.parameters.iter().enumerate() {
            if !allowed.contains(&name.as_str()) {
                let scheme = parts.scheme;
                return Err(UriError::UnknownParameter { scheme, name: name.clone(), allowed });
            }
            if parts.parameters[..index].iter().any(|(other, _)| other == name) {
                return Err(UriError::RepeatedParameter { name: name.clone() });
            }
        }
        Ok(Parameters(&parts.parameters))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn uuid(&self) -> Result<Option<Uuid>, UriError> {
        let parse = |value: &str| {
            Uuid::parse_str(value).map_err(|_| UriError::Uuid { value: value.to_owned() })
        };
        self.get("uuid").map(parse).transpose()
    }

    fn block_bytes(&self) -> Result<u32, UriError> {
        match self.get("blk_size") {
            None => Ok(BLOCK_BYTES_DEFAULT),
            Some("512") => Ok(512),
            Some("4096") => Ok(4096),
            Some(value) => Err(UriError::BlockSize { value: value.to_owned() }),
        }
    }

    fn size(&self, block_bytes: u32) -> Result<Size, UriError> {
        let count = |name, value: &str, unit_bytes: u64| {
            digits(value)
                .filter(|count| (1..=DEVICE_BYTES_MAX / unit_bytes).contains(count))
                .ok_or_else(|| UriError::Size { name, value: value.to_owned() })
        };
        match (self.get("size_mb"), self.get("num_blocks")) {
            (Some(_), Some(_)) => Err(UriError::BothSizes),
            (None, None) => Err(UriError::NoSize),
            (Some(value), None) => Ok(Size::Mebibytes(count("size_mb", value, MEBIBYTE_BYTES)?)),
            (None, Some(value)) => {
                Ok(Size::Blocks(count("num_blocks", value, u64::from(block_bytes))?))
            }
        }
    }

    fn milliseconds(&self, name: &'static str) -> Result<Option<u32>, UriError> {
        let parse = |value: &str| {
            digits(value)
                .and_then(|span| u32::try_from(span).ok())
                .filter(|span| *span <= MILLISECONDS_MAX)
                .ok_or_else(|| UriError::Milliseconds { name, value: value.to_owned() })
        };
        self.get(name).map(parse).transpose()
    }

    fn namespace(&self) -> Result<Option<u32>, UriError> {
        let parse = |text: &str| {
            digits(text)
                .and_then(|namespace| u32::try_from(namespace).ok())
                .filter(|namespace| (1..=NAMESPACE_MAX).contains(namespace))
                .ok_or_else(|| UriError::Namespace { namespace: text.to_owned() })
        };
        self.get("namespace").map(parse).transpose()
    }

    fn recovery(&self) -> Result<Recovery, UriError> {
        match self.get("recovery") {
            None | Some("retry") => Ok(Recovery::Retry),
            Some("fail") => Ok(Recovery::Fail),
            Some(value) => Err(UriError::Recovery { value: value.to_owned() }),
        }
    }

    fn host_nqn(&self) -> Result<Option<String>, UriError> {
        let check = |nqn: &str| match is_nqn(nqn) {
            true => Ok(nqn.to_owned()),
            false => Err(UriError::Nqn { nqn: nqn.to_owned() }),
        };
        self.get("hostnqn").map(check).transpose()
    }

    /// A parameter without a value is on.
    fn switch(&self, name: &'static str) -> Result<bool, UriError> {
        match self.get(name) {
            None | Some("false" | "no" | "off") => Ok(false),
            Some("" | "true" | "yes" | "on") => Ok(true),
            Some(value) => Err(UriError::Switch { name, value: value.to_owned() }),
        }
    }
}

fn file(parts: &Parts<'_>, parameters: &Parameters<'_>) -> Result<FileUri, UriError> {
    let path = parts.local_path()?.to_owned();
    Ok(FileUri { path, block_bytes: parameters.block_bytes()?, uuid: parameters.uuid()? })
}

fn memory(parts: &Parts<'_>, parameters: &Parameters<'_>) -> Result<MemoryUri, UriError> {
    let block_bytes = parameters.block_bytes()?;
    let size = parameters.size(block_bytes)?;
    Ok(MemoryUri { name: parts.name()?, size, block_bytes, uuid: parameters.uuid()? })
}

fn named(parts: &Parts<'_>, parameters: &Parameters<'_>) -> Result<NamedUri, UriError> {
    Ok(NamedUri { name: parts.name()?, uuid: parameters.uuid()? })
}

fn nvmf(
    parts: &Parts<'_>,
    parameters: &Parameters<'_>,
    transport: NvmfTransport,
) -> Result<NvmfUri, UriError> {
    let (place, subnqn) = place(parts, parameters)?;
    if !is_nqn(&subnqn) {
        return Err(UriError::Nqn { nqn: subnqn });
    }
    Ok(NvmfUri {
        place,
        subnqn,
        transport,
        reftag: parameters.switch("reftag")?,
        guard: parameters.switch("guard")?,
        uuid: parameters.uuid()?,
        choices: NvmfChoices {
            namespace: parameters.namespace()?,
            host_nqn: parameters.host_nqn()?,
            header_digest: parameters.switch("hdgst")?,
            data_digest: parameters.switch("ddgst")?,
            wait_ms: parameters.milliseconds("wait_ms")?,
            io_timeout_ms: parameters.milliseconds("io_timeout_ms")?,
            keep_alive_ms: parameters.milliseconds("keep_alive_ms")?,
        },
    })
}

/// Where a subsystem is, and its name. A name alone, where a host would be, is to be discovered; a
/// slash in it is written as an escape.
fn place(parts: &Parts<'_>, parameters: &Parameters<'_>) -> Result<(NvmfPlace, String), UriError> {
    let discovery = parameters.get("discovery");
    if parts.path.is_empty() && parts.authority.starts_with(NQN_PREFIX) {
        let controllers = discovery.map_or(Ok(Vec::new()), |text| controllers(parts, text))?;
        return Ok((NvmfPlace::Discovered(controllers), parts.authority_text()?));
    }
    let (host, port) = parts.host_and_port(NVMF_PORT_DEFAULT)?;
    if discovery.is_some() {
        return Err(UriError::Placed { host });
    }
    let subnqn = parts.path.strip_prefix('/').unwrap_or_default().to_owned();
    Ok((NvmfPlace::At(HostPort { host, port }), subnqn))
}

/// Discovery controllers, with commas between them.
fn controllers(parts: &Parts<'_>, text: &str) -> Result<Vec<HostPort>, UriError> {
    let read = |text: &str| {
        let (host, port) = parts.host_and_port_of(text, NVMF_DISCOVERY_PORT_DEFAULT)?;
        Ok(HostPort { host, port })
    };
    let controllers = text.split(',').map(read).collect::<Result<Vec<_>, UriError>>()?;
    if controllers.len() > NVMF_DISCOVERY_CONTROLLERS_MAX {
        return Err(UriError::DiscoveryControllers { count: controllers.len() });
    }
    Ok(controllers)
}

/// How a qualified name begins.
const NQN_PREFIX: &str = "nqn.";

fn is_nqn(text: &str) -> bool {
    text.starts_with(NQN_PREFIX) && text.len() <= NQN_BYTES_MAX
}

fn iscsi(parts: &Parts<'_>, parameters: &Parameters<'_>) -> Result<IscsiUri, UriError> {
    let (host, port) = parts.host_and_port(ISCSI_PORT_DEFAULT)?;
    let path = parts.path.strip_prefix('/').unwrap_or_default();
    let (target, lun) = match path.split_once('/') {
        Some((target, lun)) => (target, Some(lun)),
        None => (path, None),
    };
    let format = ["iqn.", "eui.", "naa."].iter().any(|prefix| target.starts_with(prefix));
    if !format || target.len() > ISCSI_NAME_BYTES_MAX {
        return Err(UriError::IscsiName { name: target.to_owned() });
    }
    let lun = match lun {
        None => 0,
        Some(text) => digits(text)
            .and_then(|lun| u16::try_from(lun).ok())
            .filter(|lun| *lun <= LUN_MAX)
            .ok_or_else(|| UriError::Lun { lun: text.to_owned() })?,
    };
    Ok(IscsiUri { host, port, target: target.to_owned(), lun, uuid: parameters.uuid()? })
}

fn pcie(parts: &Parts<'_>, parameters: &Parameters<'_>) -> Result<PcieUri, UriError> {
    let namespace = parameters.namespace()?.unwrap_or(NAMESPACE_DEFAULT);
    let recovery = parameters.recovery()?;
    Ok(PcieUri { address: pci_address(&parts.name()?)?, namespace, recovery })
}

/// `DDDD:BB:DD.F`, all hexadecimal.
fn pci_address(text: &str) -> Result<PciAddress, UriError> {
    let bad = || UriError::Pci { address: text.to_owned() };
    let field = |text: &str, digits: usize, largest: u16| {
        let hexadecimal = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = hexadecimal.then(|| u16::from_str_radix(text, 16).ok()).flatten();
        value.filter(|value| *value <= largest).ok_or_else(bad)
    };
    let byte = |text: &str, digits, largest| {
        field(text, digits, largest).and_then(|value| u8::try_from(value).map_err(|_| bad()))
    };
    let (rest, function) = text.split_once('.').ok_or_else(bad)?;
    let mut fields = rest.split(':');
    let (Some(domain), Some(bus), Some(device), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(bad());
    };
    Ok(PciAddress {
        domain: field(domain, 4, u16::MAX)?,
        bus: byte(bus, 2, 0xff)?,
        device: byte(device, 2, 31)?,
        function: byte(function, 1, 7)?,
    })
}
