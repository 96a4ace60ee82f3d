//! The load generator `mayastor-perf`: what the product's speed is measured with.
//!
//! [`load`] drives block devices through the queue-pair seam, in this process or over NVMe/TCP;
//! [`echo`] is the ceiling of the machine, a server that only answers; [`compare`] runs operands in
//! turns and prints ratios. Options are spelled as fio spells them ([`options`]).

#![deny(unsafe_code)]

pub mod churn;
pub mod compare;
pub mod cycles;
pub mod device;
pub mod echo;
pub mod harness;
pub mod load;
pub mod meter;
pub mod mirrors;
pub mod options;
pub mod pace;
pub mod prefill;
pub mod report;
pub mod reporter;
pub mod resync;
pub mod run;
pub mod serve;
pub mod several;
pub mod sim;
pub mod size;
pub mod source;
pub mod thin;
pub mod verify;
pub mod workload;
