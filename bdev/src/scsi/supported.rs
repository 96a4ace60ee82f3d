//! REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, out of the table of commands.
//!
//! Called by [`super::unit`]. SPC-4 sections 6.35 and 6.36.

use super::command::ReportOpcodes;
use super::opcode::{COMMANDS, Description, Lookup, find};
use super::reply::Reply;
use super::sense::Sense;

/// SERVACTV and CTDP of a command descriptor.
const HAS_ACTION: u8 = 0x01;
const HAS_TIMEOUTS: u8 = 0x02;
/// CTDP and SUPPORT of the one-command form: supported as the standard says; not supported.
const ONE_HAS_TIMEOUTS: u8 = 0x80;
const SUPPORTED: u8 = 0x03;
const NOT_SUPPORTED: u8 = 0x01;
/// A timeouts descriptor: how many bytes follow its length; no timeout is told.
const TIMEOUT_BYTES: u16 = 10;

/// Abort task, abort task set, clear task set, logical unit reset; then target and nexus reset.
const FUNCTIONS: [u8; 2] = [0xd8, 0x00];

/// The commands that there are.
pub(super) fn opcodes(asked: &ReportOpcodes) -> Result<Reply, Sense> {
    match asked.options {
        0 => Ok(all(asked)),
        1..=3 => one(asked),
        _ => Err(Sense::invalid_cdb(2)),
    }
}

fn timeouts(reply: &mut Reply) {
    reply.word(TIMEOUT_BYTES).zeroes(usize::from(TIMEOUT_BYTES));
}

fn all(asked: &ReportOpcodes) -> Reply {
    let mut reply = Reply::new();
    reply.long(0);
    for command in COMMANDS {
        let flags = if command.service_action.is_some() { HAS_ACTION } else { 0 };
        let flags = flags | if asked.timeouts { HAS_TIMEOUTS } else { 0 };
        reply.byte(command.opcode()).byte(0);
        reply.word(u16::from(command.service_action.unwrap_or(0)));
        reply.byte(0).byte(flags);
        reply.word(u16::try_from(command.usage.len()).expect("a CDB is short"));
        if asked.timeouts {
            timeouts(&mut reply);
        }
    }
    reply.set_long_length(0);
    reply
}

fn one(asked: &ReportOpcodes) -> Result<Reply, Sense> {
    let action = u8::try_from(asked.service_action).unwrap_or(u8::MAX);
    let has_actions = match find(asked.opcode, action) {
        Lookup::Found(found) => found.service_action.is_some(),
        Lookup::NoServiceAction => true,
        Lookup::NoOpcode => false,
    };
    let is_known = !matches!(find(asked.opcode, action), Lookup::NoOpcode);
    // Asked without, or with, a service action where it is the other way round (SPC-4 table 277).
    match asked.options {
        1 if has_actions => return Err(Sense::invalid_cdb(2)),
        2 if is_known && !has_actions => return Err(Sense::invalid_cdb(2)),
        _ => {}
    }
    let found: Option<&Description> = match find(asked.opcode, action) {
        // Without service actions, only that of zero is meant (option 3).
        Lookup::Found(found) if has_actions || asked.options == 1 || action == 0 => Some(found),
        _ => None,
    };
    let mut reply = Reply::new();
    let support = if found.is_some() { SUPPORTED } else { NOT_SUPPORTED };
    let has_timeouts = asked.timeouts && found.is_some();
    reply.byte(0).byte(support | if has_timeouts { ONE_HAS_TIMEOUTS } else { 0 });
    let usage = found.map_or(&[][..], |found| found.usage);
    reply.word(u16::try_from(usage.len()).expect("a CDB is short")).bytes(usage);
    if has_timeouts {
        timeouts(&mut reply);
    }
    Ok(reply)
}

/// The task management functions that there are.
pub(super) fn functions(is_extended: bool) -> Reply {
    let mut reply = Reply::new();
    let additional = if is_extended { 12 } else { 0 };
    reply.bytes(&FUNCTIONS).byte(0).byte(additional).zeroes(usize::from(additional));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: u8, opcode: u8, service_action: u16) -> ReportOpcodes {
        ReportOpcodes { timeouts: true, options, opcode, service_action, allocation: 4096 }
    }

    #[test]
    fn the_whole_list_has_a_descriptor_with_timeouts_for_each_command() {
        let bytes = opcodes(&asked(0, 0, 0)).unwrap().finish(u32::MAX);
        assert_eq!(bytes.len(), 4 + COMMANDS.len() * 20);
        assert_eq!(bytes[..4], u32::try_from(bytes.len() - 4).unwrap().to_be_bytes());
    }

    #[test]
    fn one_command_is_told_with_its_usage_map() {
        let bytes = opcodes(&asked(1, 0x28, 0)).unwrap().finish(u32::MAX);
        assert_eq!(bytes[..6], [0, 0x83, 0, 10, 0x28, 0x18]);
        let bytes = opcodes(&asked(2, 0x9e, 0x10)).unwrap().finish(u32::MAX);
        assert_eq!(bytes[..6], [0, 0x83, 0, 16, 0x9e, 0x10]);
        let none = opcodes(&asked(1, 0xff, 0)).unwrap().finish(u32::MAX);
        assert_eq!(none, [0, 1, 0, 0]);
    }

    #[test]
    fn options_that_do_not_fit_the_command_are_refused() {
        assert!(opcodes(&asked(1, 0x9e, 0x10)).is_err());
        assert!(opcodes(&asked(2, 0x28, 0)).is_err());
        assert!(opcodes(&asked(4, 0, 0)).is_err());
        assert!(opcodes(&asked(3, 0x28, 0)).is_ok());
    }
}
