//! Which devices there are: from the scheme of a URI to what opens it.
//!
//! Called on control threads, before the cores start. [`Registry::standard`] is the list of
//! everything that is built; a known scheme that is not in it gets an error of its own. Every
//! device goes through [`stack::complete`] on its way out, so that none lacks an operation that
//! can be emulated, or takes I/Os of some sizes only.

use std::collections::HashSet;
use std::sync::Arc;

use bdev::file::{Backing, FileError};
use bdev::legality::GeometryError;
use bdev::malloc::MallocError;
use bdev::pcie::{self, PcieError};
use bdev::uri::{DeviceUri, NotBuilt, NvmfUri, Scheme, UriError};
use bdev::{Aio, BlockDevice, Malloc, Null, Uring, stack};

use crate::remote::{self, Host, RemoteError};

/// Why a device could not be opened. Each names the URI.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The text is no device URI.
    #[error("device {uri}")]
    Uri {
        /// What was given.
        uri: String,
        /// What is wrong with it.
        #[source]
        source: UriError,
    },
    /// The scheme is known, but there is nothing that opens it.
    #[error("device {uri}")]
    NotBuilt {
        /// What was given.
        uri: String,
        /// What is built.
        #[source]
        source: NotBuilt,
    },
    /// The device could not be made.
    #[error("device {uri}")]
    Open {
        /// What was given.
        uri: String,
        /// Why not.
        #[source]
        source: DeviceError,
    },
    /// Two devices have one scheme and one name.
    #[error("device {uri} is named twice: give each device a name of its own")]
    Twice {
        /// The second.
        uri: String,
    },
}

/// Why a device of a scheme that is built could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A null device.
    #[error(transparent)]
    Null(#[from] GeometryError),
    /// A RAM disk.
    #[error(transparent)]
    Malloc(#[from] MallocError),
    /// A file or block device.
    #[error(transparent)]
    File(#[from] FileError),
    /// A local NVMe drive.
    #[error(transparent)]
    Pcie(#[from] PcieError),
    /// A namespace of a remote target.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Makes the device that a URI of its scheme describes.
pub(crate) type Opener = fn(&DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError>;

/// The schemes that can be opened.
#[derive(Clone, Debug)]
pub struct Registry {
    openers: Vec<(Scheme, Opener)>,
    /// Remote namespaces are opened as they are, and not as a test wants it.
    has_remotes: bool,
}

impl Registry {
    /// Every device that is built.
    pub fn standard() -> Registry {
        Registry {
            openers: vec![
                (Scheme::Malloc, open_malloc),
                (Scheme::Null, open_null),
                (Scheme::Path, open_path),
                (Scheme::Uring, open_uring),
                (Scheme::Aio, open_aio),
                (Scheme::Pcie, open_pcie),
                (Scheme::Nvmf, open_nvmf),
            ],
            has_remotes: true,
        }
    }

    /// Only these, for tests.
    #[cfg(test)]
    pub(crate) fn of(openers: Vec<(Scheme, Opener)>) -> Registry {
        Registry { openers, has_remotes: false }
    }

    /// Opens the devices of a target, in the order given.
    ///
    /// # Errors
    ///
    /// The first URI that cannot be opened, or that names a device a second time.
    pub fn open_all(&self, texts: &[String]) -> Result<Vec<Arc<dyn BlockDevice>>, RegistryError> {
        let mut known = HashSet::with_capacity(texts.len());
        let mut devices = Vec::with_capacity(texts.len());
        for text in texts {
            let (scheme, device) = self.open(text)?;
            if !known.insert((scheme, device.name().to_owned())) {
                return Err(RegistryError::Twice { uri: text.clone() });
            }
            devices.push(device);
        }
        Ok(devices)
    }

    /// Whether there is something that opens the device; `text` is the URI as it was given.
    ///
    /// # Errors
    ///
    /// There is nothing.
    pub fn check_built(&self, text: &str, uri: &DeviceUri) -> Result<(), RegistryError> {
        self.opener(text, uri).map(|_| ())
    }

    fn opener(&self, text: &str, uri: &DeviceUri) -> Result<Opener, RegistryError> {
        let scheme = uri.scheme();
        let opener = self.openers.iter().find(|(built, _)| *built == scheme);
        opener.map(|(_, open)| *open).ok_or_else(|| {
            let built = self.openers.iter().map(|(built, _)| *built).collect();
            let source = NotBuilt { scheme, built };
            RegistryError::NotBuilt { uri: text.to_owned(), source }
        })
    }

    /// Opens one device.
    ///
    /// # Errors
    ///
    /// A text that is no URI, a scheme that is not built, a device that cannot be made.
    pub fn open(&self, text: &str) -> Result<(Scheme, Arc<dyn BlockDevice>), RegistryError> {
        self.open_as(text, Host::Machine)
    }

    /// The same, for a host: where the device is a remote one, that is who it is used by.
    ///
    /// # Errors
    ///
    /// As [`Registry::open`].
    pub fn open_as(
        &self,
        text: &str,
        host: Host,
    ) -> Result<(Scheme, Arc<dyn BlockDevice>), RegistryError> {
        let shown = || text.to_owned();
        let uri: DeviceUri =
            text.parse().map_err(|source| RegistryError::Uri { uri: shown(), source })?;
        let scheme = uri.scheme();
        let open = self.opener(text, &uri)?;
        let opened = match (&uri, host) {
            (DeviceUri::Nvmf(place), Host::Owner(_)) if self.has_remotes => {
                open_remote(place, host)
            }
            _ => open(&uri),
        };
        let device = opened.map_err(|source| RegistryError::Open { uri: shown(), source })?;
        Ok((scheme, stack::complete(device)))
    }
}

/// What the device of a URI is called: its path, or what stands in its place.
pub fn device_name(uri: &DeviceUri) -> String {
    match uri {
        DeviceUri::Path(path) => path.clone(),
        DeviceUri::Aio(file) | DeviceUri::Uring(file) => file.path.clone(),
        DeviceUri::Malloc(memory) | DeviceUri::Null(memory) => memory.name.clone(),
        DeviceUri::Nvmf(remote) => remote.subnqn.clone(),
        DeviceUri::Pcie(pcie) => pcie.name(),
        DeviceUri::Iscsi(remote) => remote.target.clone(),
        DeviceUri::Bdev(named)
        | DeviceUri::Loopback(named)
        | DeviceUri::Nexus(named)
        | DeviceUri::Lvol(named) => named.name.clone(),
    }
}

fn open_malloc(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Malloc(memory) = uri else { unreachable!("registered for malloc only") };
    let disk = Malloc::new(memory.name.clone(), memory.geometry(), memory.uuid)?;
    Ok(Arc::new(disk))
}

fn open_null(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Null(memory) = uri else { unreachable!("registered for null only") };
    let device = Null::new(memory.name.clone(), memory.geometry(), memory.uuid)?;
    Ok(Arc::new(device))
}

fn open_uring(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Uring(file) = uri else { unreachable!("registered for uring only") };
    let backing = Arc::new(Backing::open(&file.path, Some(file.block_bytes))?);
    Ok(Arc::new(Uring::new(backing, file.uuid)?))
}

fn open_aio(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Aio(file) = uri else { unreachable!("registered for aio only") };
    let backing = Arc::new(Backing::open(&file.path, Some(file.block_bytes))?);
    Ok(Arc::new(Aio::new(backing, file.uuid)?))
}

fn open_pcie(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Pcie(drive) = uri else { unreachable!("registered for pcie only") };
    Ok(Arc::new(pcie::open(drive)?))
}

fn open_nvmf(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Nvmf(place) = uri else { unreachable!("registered for nvmf only") };
    open_remote(place, Host::Machine)
}

fn open_remote(place: &NvmfUri, host: Host) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    Ok(Arc::new(remote::open_as(place, host)?))
}

/// A bare path: with blocks that suit it, by io_uring where the kernel has it, else by AIO.
fn open_path(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
    let DeviceUri::Path(path) = uri else { unreachable!("registered for paths only") };
    let backing = Arc::new(Backing::open(path, None)?);
    match Uring::probe() {
        Ok(()) => Ok(Arc::new(Uring::new(backing, None)?)),
        Err(refused) => Ok(Arc::new(Aio::instead(&refused, backing)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bdev::{Geometry, Limits, OpenError, OperationSet, QueuePair};
    use reactor::Cx;
    use uuid::Uuid;

    /// A device that can only read, write and flush, a block at a time.
    #[derive(Debug)]
    struct Poor(Null);

    impl BlockDevice for Poor {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }

        fn limits(&self) -> Limits {
            Limits { operations: OperationSet::BASIC, io_blocks_max: 1, ..self.0.limits() }
        }

        fn uuid(&self) -> Option<Uuid> {
            self.0.uuid()
        }

        fn open_queue_pair(
            &self,
            cx: &mut Cx,
            depth: u32,
        ) -> Result<Box<dyn QueuePair>, OpenError> {
            self.0.open_queue_pair(cx, depth)
        }
    }

    fn open_poor(uri: &DeviceUri) -> Result<Arc<dyn BlockDevice>, DeviceError> {
        let DeviceUri::Null(memory) = uri else { unreachable!("registered for null only") };
        Ok(Arc::new(Poor(Null::new(memory.name.clone(), memory.geometry(), memory.uuid)?)))
    }

    fn open(texts: &[&str]) -> Result<Vec<Arc<dyn BlockDevice>>, RegistryError> {
        let texts: Vec<String> = texts.iter().map(|text| String::from(*text)).collect();
        Registry::standard().open_all(&texts)
    }

    #[test]
    fn devices_are_opened_in_the_order_given() {
        let uuid = "6a1e0f4d-0d51-4a1c-8b5b-7d4d4a8f9f10";
        let null = format!("null:///b?num_blocks=8&blk_size=4096&uuid={uuid}");
        let devices = open(&["malloc:///a?size_mb=1", &null]).unwrap();
        let names: Vec<_> = devices.iter().map(|device| device.name()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(devices[0].geometry().len_bytes(), 1 << 20);
        assert_eq!(devices[1].geometry().len_bytes(), 8 * 4096);
        assert_eq!(devices[1].uuid().unwrap().to_string(), uuid);
    }

    #[test]
    fn what_a_device_lacks_is_made_up_for() {
        let registry = Registry::of(vec![(Scheme::Null, open_poor)]);
        let limits = registry.open("null:///a?size_mb=1").unwrap().1.limits();
        assert_eq!((limits.operations, limits.io_blocks_max), (OperationSet::ALL, u32::MAX));
    }

    #[test]
    fn a_known_scheme_that_is_not_built_says_so() {
        for uri in ["iscsi://127.0.0.1/iqn.2019-05.io:a", "nexus:///n"] {
            let error = open(&[uri]).unwrap_err();
            assert!(matches!(error, RegistryError::NotBuilt { .. }), "{uri}: {error}");
        }
    }

    #[test]
    fn a_file_is_opened_by_either_interface_or_the_better_one_and_says_which() {
        let name = format!("registry-{}.disk", std::process::id());
        let path = std::env::current_exe().unwrap().with_file_name(name);
        std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let path = path.to_str().unwrap();
        let about = |uri: String| {
            let devices = open(&[&uri]).unwrap();
            assert_eq!((devices[0].name(), devices[0].geometry().len_bytes()), (path, 1 << 20));
            devices[0].about().unwrap()
        };
        assert!(about(format!("aio://{path}")).starts_with("Linux AIO, "));
        assert!(about(format!("uring://{path}?blk_size=4096")).starts_with("io_uring, "));
        assert!(about(path.to_owned()).starts_with("io_uring, "));
        let twice = open(&[path, &format!("aio://{path}")]).unwrap_err();
        assert!(matches!(twice, RegistryError::Open { .. }), "one file has one owner: {twice}");
        std::fs::remove_file(path).unwrap();
        let gone = open(&[path]).unwrap_err();
        assert!(matches!(gone, RegistryError::Open { .. }), "{gone}");
    }

    #[test]
    fn what_is_no_uri_is_refused_with_the_mistake_as_source() {
        let RegistryError::Uri { uri, source } = open(&["malloc:///a"]).unwrap_err() else {
            panic!("a mistake in the URI");
        };
        assert_eq!((uri.as_str(), source), ("malloc:///a", UriError::NoSize));
    }

    #[test]
    fn a_disk_larger_than_the_machine_is_refused() {
        let error = open(&["malloc:///a?size_mb=1000000000"]).unwrap_err();
        assert!(matches!(error, RegistryError::Open { .. }), "{error}");
    }

    #[test]
    fn a_device_cannot_be_named_twice_and_names_of_other_schemes_do_not_matter() {
        let error = open(&["null:///a?size_mb=1", "null:///a?size_mb=2"]).unwrap_err();
        assert!(matches!(error, RegistryError::Twice { .. }));
        assert!(open(&["null:///a?size_mb=1", "malloc:///a?size_mb=2"]).is_ok());
    }
}
