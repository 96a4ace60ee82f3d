//! Devices of this process, and targets, by their URIs.
//!
//! `mirror:` and `tracked:` are of [`crate::mirrors`], `thin:` is of [`crate::thin`].
//!
//! Called by main before any core starts.

use std::sync::Arc;

use bdev::BlockDevice;
use bdev::uri::{DeviceUri, MemoryUri, NvmfPlace, NvmfUri, UriError};
use engine::registry::Registry;
use nvmf::initiator::ConnectOptions;
use uuid::Uuid;

use crate::harness::RunError;
use crate::mirrors::{self, Labels};
use crate::thin::Thin;

/// Size of a memory device whose URI names none, in MiB.
const SIZE_MIB_DEFAULT: u32 = 512;

/// Begins the URIs of a mirror's children.
const MIRROR: &str = "mirror:";
/// The same of a mirror with labels.
const TRACKED: &str = "tracked:";
/// Begins the URI of a [`Thin`] device.
const THIN: &str = "thin:";

/// What the host identifier is made of.
const HOST_NAME: &[u8] = b"mayastor-perf";

/// One identifier for every run, so that a target's list of allowed hosts can have it.
pub fn host_id() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, HOST_NAME)
}

/// The children of a mirror, and whether it keeps labels; nothing for another device.
fn mirror_of(text: &str) -> Option<(&str, Labels)> {
    let bare = text.strip_prefix(MIRROR).map(|children| (children, Labels::Off));
    bare.or_else(|| text.strip_prefix(TRACKED).map(|children| (children, Labels::On)))
}

/// Opens a device by its URI; memory devices without a size have 512 MiB.
///
/// # Errors
///
/// `Target` with what is wrong.
pub fn open(text: &str) -> Result<Arc<dyn BlockDevice>, RunError> {
    if let Some((children, labels)) = mirror_of(text) {
        return mirrors::open_mirror(text, children, labels);
    }
    if let Some(rest) = text.strip_prefix(THIN) {
        return open_thin(text, rest);
    }
    let opened = Registry::standard().open(&with_size(text));
    opened.map(|(_, device)| device).map_err(|error| {
        // The error's own line names the device, as ours does.
        let cause = std::error::Error::source(&error).map_or_else(|| chain(&error), chain);
        RunError::Target { target: text.to_owned(), reason: cause }
    })
}

/// A device of any length in little memory; its URI is that of a memory device.
fn open_thin(text: &str, rest: &str) -> Result<Arc<dyn BlockDevice>, RunError> {
    let refuse = |reason| RunError::Target { target: text.to_owned(), reason };
    let uri = with_size(&format!("null:{rest}")).parse();
    let uri = uri.map_err(|error: UriError| refuse(chain(&error)))?;
    let DeviceUri::Null(memory) = uri else {
        return Err(refuse(String::from("it is no URI of a memory device")));
    };
    let thin =
        Thin::new(memory.name.clone(), memory.geometry()).map_err(|error| refuse(chain(&error)))?;
    Ok(Arc::new(thin))
}

/// How to connect to the target that an `nvmf` URI names; none for any other URI, nor for one that
/// leaves the place to discovery. Resolving the host's name may block.
///
/// # Errors
///
/// `Target` with what is wrong.
pub fn connect_options(text: &str) -> Result<Option<ConnectOptions>, RunError> {
    if mirror_of(text).is_some() || text.starts_with(THIN) {
        return Ok(None);
    }
    let refuse = |reason: String| RunError::Target { target: text.to_owned(), reason };
    let uri: DeviceUri = with_size(text).parse().map_err(|error| refuse(chain(&error)))?;
    let DeviceUri::Nvmf(NvmfUri { place: NvmfPlace::At(place), subnqn, .. }) = uri else {
        return Ok(None);
    };
    let options = ConnectOptions::from_uri_parts(&place.to_string(), &subnqn, host_id());
    options.map(Some).map_err(|error| refuse(chain(&error)))
}

/// The same URI with a size, when a memory device names none.
pub fn with_size(text: &str) -> String {
    let memory = text.starts_with("null:") || text.starts_with("malloc:");
    if !memory || text.contains("size_mb=") || text.contains("num_blocks=") {
        return text.to_owned();
    }
    let separator = if text.contains('?') { '&' } else { '?' };
    format!("{text}{separator}size_mb={SIZE_MIB_DEFAULT}")
}

/// The URI of a memory device with its number in its name, so that several can be opened; 0 is the
/// device itself.
///
/// # Errors
///
/// `Target` for a device that cannot be there several times.
pub fn numbered(text: &str, number: u32) -> Result<String, RunError> {
    let text = with_size(text);
    if number == 0 {
        return Ok(text);
    }
    match text.parse() {
        Ok(DeviceUri::Malloc(memory)) => {
            let name = format!("{}-{number}", memory.name);
            Ok(DeviceUri::Malloc(MemoryUri { name, ..memory }).to_string())
        }
        Ok(DeviceUri::Null(memory)) => {
            let name = format!("{}-{number}", memory.name);
            Ok(DeviceUri::Null(MemoryUri { name, ..memory }).to_string())
        }
        _ => {
            let reason = String::from("only memory devices can be there several times");
            Err(RunError::Target { target: text, reason })
        }
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<Arc<dyn BlockDevice>, RunError> {
        super::open(text)
    }

    #[test]
    fn memory_devices_have_a_default_size() {
        assert_eq!(open("null:///n0").unwrap().geometry().len_bytes(), 512 << 20);
        let small = open("malloc:///m0?blk_size=4096&size_mb=1").unwrap();
        assert_eq!((small.geometry().blocks, small.geometry().block_bytes), (256, 4096));
        assert_eq!(open("null:///n0?blk_size=4096").unwrap().geometry().block_bytes, 4096);
    }

    #[test]
    fn targets_are_told_from_devices() {
        let uri = "nvmf://127.0.0.1:4421/nqn.2019-05.io.openebs:n1";
        let options = connect_options(uri).unwrap().unwrap();
        assert_eq!(options.address, "127.0.0.1:4421".parse().unwrap());
        let uri = "nvmf://[::1]/nqn.2019-05.io.openebs:n1";
        assert_eq!(connect_options(uri).unwrap().unwrap().address, "[::1]:4420".parse().unwrap());
        assert!(connect_options("null:///n0").unwrap().is_none());
        assert!(connect_options("nvmf://127.0.0.1:0/n1").is_err());
    }

    #[test]
    fn a_mirror_has_the_size_of_its_smallest_child_and_no_child_twice() {
        let mirror = open("mirror:null:///n0?size_mb=4,malloc:///m0?size_mb=2").unwrap();
        assert_eq!(mirror.geometry().len_bytes(), 2 << 20);
        assert!(connect_options("mirror:null:///n0,nvmf://127.0.0.1:0/n1").unwrap().is_none());
        let wrong = open("mirror:null:///n0,null:///n0").unwrap_err().to_string();
        assert!(wrong.contains("twice"), "{wrong}");
        assert!(open("mirror:").is_err() && open("mirror:null:///n0,").is_err());
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        for wrong in ["null", "null:///n0?size_mb=x", "bdev:///b0", ""] {
            let error = open(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot use {wrong}: ")), "{error}");
        }
    }
}
