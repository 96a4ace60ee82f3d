//! Block devices: the queue-pair seam, what travels over it, and the devices themselves.
//!
//! [`queue_pair`] is the trait that every layer implements, [`io`] the value that it carries,
//! [`device`] what hands out a queue pair a core. See ARCHITECTURE section 3.

pub mod aio;
pub mod allocation;
mod below;
pub mod delay;
pub mod device;
pub mod emulate;
pub mod fault;
pub mod file;
pub mod io;
#[cfg(any(test, feature = "laws"))]
pub mod laws;
pub mod legality;
pub mod malloc;
#[cfg(test)]
mod narrow;
pub mod null;
pub mod nvme;
pub mod parts;
pub mod pcie;
pub mod queue_pair;
mod range_lock;
pub mod reservation;
pub mod rules;
pub mod scsi;
mod segment_list;
pub mod session;
pub mod split;
pub mod stack;
pub mod stripe_lock;
pub mod uri;
pub mod uring;
mod wrapper;

pub use aio::Aio;
pub use allocation::AllocationQuery;
pub use delay::Delay;
pub use device::{BlockDevice, Geometry, Limits, OpenError, OperationSet, ResizeError};
pub use emulate::Emulate;
pub use fault::Fault;
pub use io::{Completion, Completions, Io, IoFlags, Lba, Memory, Operation, SegmentArray, Token};
pub use malloc::Malloc;
pub use null::Null;
pub use nvme::status::Status;
pub use queue_pair::{Busy, QueuePair};
pub use split::Split;
pub use uri::DeviceUri;
pub use uring::Uring;
