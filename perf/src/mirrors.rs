//! Mirrors in this process, on one core: what the path of an I/O through them costs, and no more.
//!
//! `mirror:` and several URIs with commas between them keeps no labels. `tracked:` makes replicas
//! of the same devices and keeps labels on them, with the marks of the write-intent map; devices
//! that are replicas of such a mirror already are opened as they are.
//!
//! Called by [`crate::device`] on a control thread, before any core starts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bdev::BlockDevice;
use nexus::truth::label::LABEL_BYTES;
use nexus::truth::names::{NexusId, Policy};
use nexus::truth::tracked::{
    Contents, Fence, Format, FormatError, FormatSpec, Opening, RecordSource, Tracked, TrackedConfig,
};
use nexus::truth::{Truth, Untracked};
use nexus::view::Locality;
use nexus::{ChildConfig, Marking, Nexus, NexusConfig, OneCore, Standing};
use reactor::cores::CoreId;
use reactor::dma::{DmaPool, PagePreference, PoolConfig};
use reactor::socket::epoll::EpollNetwork;
use reactor::{Clock, Cx};
use uuid::Uuid;

use crate::device::{chain, open};
use crate::harness::RunError;

/// One volume for every run, so that a run can open what an earlier one has left.
pub const NEXUS: NexusId = NexusId(Uuid::from_u128(0x7065_7266));

/// How long labels may take to be written to devices that have none.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(10);

/// Buffers for labels, in chunks of 2 MiB.
const FORMAT_CHUNKS: usize = 4;

/// Whether a mirror knows what is in sync once its process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// It does not.
    Off,
    /// It does, and marks regions before it writes them.
    On,
}

/// A device that is a mirror, by the URI that it was given.
///
/// # Errors
///
/// `Target` with what is wrong.
pub fn open_mirror(
    text: &str,
    children: &str,
    labels: Labels,
) -> Result<Arc<dyn BlockDevice>, RunError> {
    let nexus = nexus(text, children, labels)?;
    Ok(Arc::new(OneCore::new(nexus, Box::new(move || truth(labels)))))
}

/// The mirror's volume, whose home is still to be made. With labels, its children are replicas.
///
/// # Errors
///
/// `Target` with what is wrong.
pub fn nexus(text: &str, children: &str, labels: Labels) -> Result<Arc<Nexus>, RunError> {
    let children: Vec<_> =
        children.split(',').map(|uri| child(uri, labels)).collect::<Result<_, _>>()?;
    let refuse = |error: &dyn std::error::Error| RunError::Target {
        target: text.to_owned(),
        reason: chain(error),
    };
    if labels == Labels::On {
        format(&children).map_err(|error| refuse(&*error))?;
    }
    let config = NexusConfig {
        name: text.to_owned(),
        uuid: None,
        blocks: None,
        children,
        marking: match labels {
            Labels::Off => Marking::Off,
            Labels::On => Marking::Regions,
        },
    };
    Nexus::new(config).map_err(|error| refuse(&error))
}

/// What its home keeps.
pub fn truth(labels: Labels) -> Box<dyn Truth> {
    match labels {
        Labels::Off => Box::new(Untracked::default()),
        Labels::On => Box::new(Tracked::new(TrackedConfig {
            nexus: NEXUS,
            host: Uuid::nil(),
            boot: NEXUS.0,
            record: RecordSource::None,
            opening: Opening::Ordinary,
            fence: Some(Fence::Exclusive),
        })),
    }
}

fn child(uri: &str, labels: Labels) -> Result<ChildConfig, RunError> {
    let is_remote = uri.starts_with("nvm");
    let device = open(uri)?;
    let block_bytes = u64::from(device.geometry().block_bytes);
    Ok(ChildConfig {
        name: uri.to_owned(),
        device,
        data_start_blocks: match labels {
            Labels::Off => 0,
            Labels::On => LABEL_BYTES / block_bytes,
        },
        locality: if is_remote { Locality::Remote } else { Locality::Local },
        standing: match labels {
            Labels::Off => Standing::Member,
            Labels::On => Standing::ByTruth,
        },
    })
}

/// A context for a thread that is no core.
///
/// # Errors
///
/// When there is no memory, or no descriptor.
pub fn context() -> Result<Cx, Box<dyn std::error::Error>> {
    let pool = PoolConfig { chunks: FORMAT_CHUNKS, pages: PagePreference::Ordinary };
    let network = Box::new(EpollNetwork::new()?);
    Ok(Cx::new(CoreId(0), Clock::real(), DmaPool::new(pool)?, network, 1))
}

/// Makes replicas of devices that have no label.
fn format(children: &[ChildConfig]) -> Result<(), Box<dyn std::error::Error>> {
    let mut cx = context()?;
    let spec = FormatSpec {
        nexus: NEXUS,
        policy: Policy::Solo,
        record: None,
        blocks: None,
        contents: Contents::Equal,
        host: Uuid::nil(),
        boot: NEXUS.0,
    };
    let mut format = Format::new(spec, children)?;
    let started = Instant::now();
    let mut poll = |format: &mut Format| {
        cx.advance_clock();
        (format.poll(&mut cx), started.elapsed() >= FORMAT_TIMEOUT)
    };
    let result = loop {
        match poll(&mut format) {
            (Some(result), _) => break Some(result),
            (None, true) => break None,
            (None, false) => {}
        }
    };
    // Devices may still have buffers of this context.
    format.give_up(&mut cx);
    while !format.is_still() && started.elapsed() < 2 * FORMAT_TIMEOUT {
        cx.advance_clock();
        format.poll(&mut cx);
    }
    match result {
        Some(Err(FormatError::Taken { nexus, .. })) if nexus == NEXUS => Ok(()),
        Some(result) => Ok(result?),
        None => Err("its devices do not take their labels in time".into()),
    }
}

#[cfg(test)]
mod tests {
    use bdev::{Completions, Io, Lba, Token};

    use super::*;

    #[test]
    fn a_mirror_with_labels_takes_writes_and_is_shorter_than_its_children_by_a_label() {
        let text = "tracked:malloc:///m0?size_mb=16,thin:///m1?size_mb=16";
        let device = open(text).unwrap();
        assert_eq!(device.geometry().len_bytes(), (16 << 20) - LABEL_BYTES);
        let mut cx = context().unwrap();
        let mut pair = device.open_queue_pair(&mut cx, 4).unwrap();
        let buffer = cx.dma.take(4096).unwrap();
        let io = Io::write(Lba(8), 8, buffer.segment(4096), Token(1));
        pair.submit(&mut cx, io).unwrap();
        let mut completions = Completions::new();
        let started = Instant::now();
        while completions.as_slice().is_empty() {
            assert!(started.elapsed() < FORMAT_TIMEOUT, "it does not open");
            cx.advance_clock();
            pair.flush(&mut cx);
            pair.poll(&mut cx, &mut completions);
        }
        assert!(completions.drain().all(|one| one.status.is_success()));
        drop(pair);
        cx.dma.give(buffer);
    }

    #[test]
    fn devices_that_hold_something_else_are_not_made_replicas() {
        let wrong = open("tracked:null:///n0?size_mb=16,malloc:///m0?size_mb=1").unwrap_err();
        assert!(wrong.to_string().contains("needs at least one block"), "{wrong}");
    }
}
