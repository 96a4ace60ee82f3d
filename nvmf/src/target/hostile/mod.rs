//! What a host that is broken, dead, slow or hostile can do to the target: nothing to others.
//!
//! The named tests show the answer to each kind of bad input: `stream` that of the PDU layer,
//! `connecting` that of Connect, `commands` that of single commands, `opcodes` that of each opcode
//! in each state, `progress` what happens to a host that stalls and to those beside it. Beside
//! them [`round`] runs whole sessions of a host that `mutate`s what it sends, from seeds, and
//! [`stream_input`] feeds raw streams: those of the corpus, and of a fuzzer.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod connecting;
mod host;
mod input;
mod mutate;
#[cfg(test)]
mod opcodes;
#[cfg(test)]
mod progress;
pub mod round;
#[cfg(test)]
mod stream;

pub use input::stream_input;
