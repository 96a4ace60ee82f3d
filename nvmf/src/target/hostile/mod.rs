//! What a host that is broken, dead, slow or hostile can do to the target: nothing to others.
//!
//! The named tests show the answer to each kind of bad input: `stream` that of the PDU layer,
//! `connecting` that of Connect, `commands` that of single commands, `progress` what happens to a
//! host that stalls and to those beside it.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod progress;
#[cfg(test)]
mod stream;
