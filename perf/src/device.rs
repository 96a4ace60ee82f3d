//! Devices of this process by their URIs.
//!
//! Called by main before any core starts.

use std::sync::Arc;

use bdev::{BlockDevice, Geometry, Malloc, Null};

use crate::harness::RunError;

/// Size when the URI names none.
const SIZE_MIB: u64 = 512;
/// Bytes a block when the URI names none.
const BLOCK_BYTES: u32 = 512;

/// Opens `null:///NAME` or `malloc:///NAME`, with `size_mb` and `blk_size`.
///
/// # Errors
///
/// `Target` with what is wrong.
pub fn open(uri: &str) -> Result<Arc<dyn BlockDevice>, RunError> {
    let refuse = |reason: String| RunError::Target { target: uri.to_owned(), reason };
    let (scheme, rest) =
        uri.split_once(":///").ok_or_else(|| refuse("write SCHEME:///NAME".into()))?;
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut size_mib, mut block_bytes) = (SIZE_MIB, BLOCK_BYTES);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = || value.parse::<u32>().map_err(|error| refuse(format!("{key}: {error}")));
        match key {
            "size_mb" => size_mib = u64::from(number()?),
            "blk_size" => block_bytes = number()?,
            _ => return Err(refuse(format!("{key} is not known"))),
        }
    }
    let blocks = (size_mib << 20) / u64::from(block_bytes.max(1));
    let geometry = Geometry { block_bytes, blocks };
    match scheme {
        "null" => match Null::new(name, geometry, None) {
            Ok(device) => Ok(Arc::new(device)),
            Err(error) => Err(refuse(error.to_string())),
        },
        "malloc" => match Malloc::new(name, geometry, None) {
            Ok(device) => Ok(Arc::new(device)),
            Err(error) => Err(refuse(error.to_string())),
        },
        _ => Err(refuse("the scheme is null or malloc".into())),
    }
}
