//! Making children equal: what is copied, by whom, and how fast.
//!
//! Owned by [`crate::Home`], on the home core. [`crate::truth::Truth`] says which region lacks what
//! (replica-truth rules 23 to 30), [`copier`] copies it while hosts write, [`pace`] says how fast.
//!
//! # How a piece is copied
//!
//! A region is cut into pieces, several of which are in flight. Each takes the stripes of its range
//! in the lock over all cores, as a writer does; reads from a member; writes to whoever lacks it;
//! and gives the stripes back. So a host's write to the range comes before the read, or after the
//! copy, on every core (rule 28). What the source says holds nothing is not read; blocks of zeroes
//! are unmapped on the receivers, not written.
//!
//! A source that fails is replaced by another member for the piece. A receiver that fails ends the
//! region, and is the home core's to judge; no member fails by it.
//!
//! # Comparing
//!
//! [`verifier`] reads every member under the same lock and reports where they differ.
//!
//! # How fast
//!
//! While no host uses the volume: at full speed, [`PIECES_MAX`] pieces of [`PIECE_BYTES_MAX`].
//! Beside a host: short pieces ([`pace::SHARED_PIECE_BYTES`]), the fewer in flight the quicker the
//! devices are, at a rate that is changed each [`pace::WINDOW`]. The cores tell how many I/Os
//! ended and for how long I/Os were in the nexus; their quotient is the mean latency of the
//! window, waits for copied stripes included. Once a [`pace::RELEARN_INTERVAL`] nothing is begun
//! for a window, to learn what the latency is by itself. Over [`pace::LATENCY_BOUND_TENTHS`] of
//! that, the rate is halved; under it, it grows by a quarter if it was used. It never falls under
//! [`pace::RATE_MIN`], so a rebuild ends. An operator's limit holds besides. Comparing keeps the
//! same pace.

mod copier;
mod holes;
mod job;
mod order;
pub mod pace;
mod piece;
mod seat;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verifier;

use std::sync::Arc;

use reactor::dma::pool::LARGEST_BUFFER_BYTES;
use reactor::{Cx, Nanos};

use crate::nexus::Nexus;
use crate::truth::CopyOrder;
pub use copier::Moved;
pub(crate) use copier::{Copier, CopyEvent};
pub use job::{HISTORY_MAX, RebuildEnd, RebuildProgress, RebuildRecord, RebuildState, Scope};
pub(crate) use job::{History, Job, JobStep};
pub(crate) use order::Obstacle;
pub(crate) use pace::{Foreground, Pace};
pub(crate) use verifier::Verifier;
pub use verifier::{CHECKS_MAX, DIFFERENCES_MAX, Difference, VerifyReport, VerifyState};

/// Longest piece, in bytes: what one buffer of the pool holds.
pub const PIECE_BYTES_MAX: u32 = LARGEST_BUFFER_BYTES;

/// Pieces in flight: 2 MiB of buffers, with which a device of 1 ms moves 2 GiB a second.
pub const PIECES_MAX: u32 = 16;

/// Regions under way: a second one, so that the end of the first leaves no gap.
pub const ORDERS_MAX: usize = 2;

/// How often a piece is written to a receiver before that has failed: as on the data path.
pub const WRITE_TRIES_MAX: u8 = 3;

/// How often every member is asked for a piece before it counts as unreadable.
pub const ROUNDS_MAX: u32 = 3;

/// When what waits for something that nobody tells is tried again.
const RECHECK_INTERVAL: Nanos = Nanos::from_millis(1);

/// How often I/Os are looked at that have not come back.
const SWEEP_INTERVAL: Nanos = Nanos::from_millis(100);

/// What the home core keeps for it; see [`crate::home`] for who does what with it.
#[derive(Debug)]
pub(crate) struct Rebuild {
    pub(crate) copier: Copier,
    pub(crate) verifier: Verifier,
    pub(crate) pace: Pace,
    pub(crate) job: Option<Job>,
    pub(crate) history: History,
    /// There may be something to copy: the truth is asked.
    pub(crate) may_have_copies: bool,
    /// An order that waits for this time, as no member could be read.
    pub(crate) retry_at: Option<Nanos>,
}

impl Rebuild {
    pub(crate) fn new(nexus: &Arc<Nexus>, block_bytes: u32, cx: &Cx) -> Rebuild {
        Rebuild {
            copier: Copier::new(nexus.clone(), block_bytes),
            verifier: Verifier::new(nexus.clone(), block_bytes),
            pace: Pace::new(cx.now()),
            job: None,
            history: History::default(),
            may_have_copies: true,
            retry_at: None,
        }
    }

    /// True when nothing is copied or compared, or to be.
    pub(crate) fn is_idle(&self) -> bool {
        let has_copies = self.job.is_some() || self.may_have_copies || self.copier.has_orders();
        !has_copies && self.copier.is_still() && self.verifier.is_idle()
    }

    /// Begins an order of a volume of so many blocks, cut into regions of so many.
    pub(crate) fn accept(&mut self, order: CopyOrder, region_blocks: u64, volume_blocks: u64) {
        let start = order.region.0.saturating_mul(region_blocks).min(volume_blocks);
        let end = start.saturating_add(region_blocks).min(volume_blocks);
        self.copier.accept(order, start, end);
    }
}
