//! The commands of one queue: which are in the device, and under which identifier.
//!
//! Owned by a queue pair, on its core. An identifier is a slot and that slot's generation, so a
//! completion that is late, or comes twice, names nothing. A slot is one byte and the table has a
//! place for every byte, so no look-up needs a check.

use reactor::Nanos;

use super::options::QUEUE_ENTRIES;
use crate::io::{Io, Token};

/// Places of the table: all that a slot can name.
const SLOTS: usize = 1 << SLOT_BITS;
/// Bits of a command identifier that are its slot.
const SLOT_BITS: u32 = 8;
/// Generations of a slot; the last is left out, so that no identifier is ffffh.
const GENERATIONS: u8 = u8::MAX;

// One entry of a queue stays free, so the count of slots is a byte too.
const _: () = assert!(QUEUE_ENTRIES as usize <= SLOTS);

/// No bounce buffer.
pub const NO_BOUNCE: u8 = u8::MAX;

/// How far the ending of a late command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// It is not late.
    OnTime,
    /// Its abort was wished for.
    Aborting,
}

/// Whether the layer above still wants an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// It does.
    Kept,
    /// It asked for its end.
    Aborted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    InDevice,
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Of the I/O in the device, or of the last one that was.
    pub io: Io,
    /// When it is late.
    pub deadline: Nanos,
    /// Its bounce buffer, or [`NO_BOUNCE`].
    pub bounce: u8,
    /// Times that it was sent again.
    pub retries: u8,
    /// How far its ending is.
    pub lateness: Lateness,
    /// Whether it is still wanted.
    pub want: Want,
    generation: u8,
    place: Place,
}

impl Command {
    /// True when nothing but its token is to be looked at when it ends.
    #[inline]
    pub fn is_ordinary(&self) -> bool {
        self.bounce == NO_BOUNCE && self.lateness == Lateness::OnTime
    }
}

/// The table.
#[derive(Debug)]
pub struct Commands {
    table: Box<[Command; SLOTS]>,
    free: Box<[u8; SLOTS]>,
    free_count: u8,
    count: u8,
}

impl Commands {
    /// A table of `count` commands, none of them in the device.
    pub fn new(count: u8) -> Commands {
        let command = Command {
            io: Io::flush(Token(0)),
            deadline: Nanos(0),
            bounce: NO_BOUNCE,
            retries: 0,
            lateness: Lateness::OnTime,
            want: Want::Kept,
            generation: 0,
            place: Place::Free,
        };
        let mut free = Box::new([0; SLOTS]);
        for (place, slot) in free.iter_mut().zip((0..count).rev()) {
            *place = slot;
        }
        Commands { table: Box::new([command; SLOTS]), free, free_count: count, count }
    }

    /// Commands that the device has.
    #[inline]
    pub fn in_device(&self) -> u32 {
        u32::from(self.count - self.free_count)
    }

    /// The slot of the next command; none when all are in the device.
    #[inline]
    pub fn next_slot(&self) -> Option<u8> {
        let index = self.free_count.checked_sub(1)?;
        Some(self.free[usize::from(index)])
    }

    /// Gives a command to the device under the identifier that is returned. There is room.
    #[inline]
    pub fn begin(&mut self, io: &Io, deadline: Nanos, bounce: u8, retries: u8) -> u16 {
        assert!(self.free_count > 0, "a slot was seen");
        self.free_count -= 1;
        let slot = self.free[usize::from(self.free_count)];
        let command = &mut self.table[usize::from(slot)];
        command.io = *io;
        command.deadline = deadline;
        command.bounce = bounce;
        command.retries = retries;
        command.lateness = Lateness::OnTime;
        command.want = Want::Kept;
        command.place = Place::InDevice;
        id(command.generation, slot)
    }

    /// Ends the command with this identifier; none when nothing in the device has it.
    #[inline]
    pub fn end(&mut self, id: u16) -> Option<&Command> {
        let [slot, generation] = id.to_le_bytes();
        let command = &mut self.table[usize::from(slot)];
        if command.place == Place::Free || command.generation != generation {
            return None;
        }
        release(command);
        self.free[usize::from(self.free_count)] = slot;
        // One fewer than `count` were free, as this one was not.
        self.free_count = self.free_count.wrapping_add(1);
        Some(command)
    }

    /// Takes all commands back from the device, which can no longer reach their memory.
    pub fn recall(&mut self, mut each: impl FnMut(&Command)) {
        for slot in 0..self.count {
            let command = &mut self.table[usize::from(slot)];
            if command.place == Place::InDevice {
                release(command);
                self.free[usize::from(self.free_count)] = slot;
                self.free_count += 1;
                each(command);
            }
        }
    }

    /// Looks at every command in the device, with its identifier.
    pub fn for_each(&mut self, mut look: impl FnMut(u16, &mut Command)) {
        for slot in 0..self.count {
            let command = &mut self.table[usize::from(slot)];
            if command.place == Place::InDevice {
                look(id(command.generation, slot), command);
            }
        }
    }
}

#[inline]
fn id(generation: u8, slot: u8) -> u16 {
    u16::from_le_bytes([slot, generation])
}

#[inline]
fn release(command: &mut Command) {
    command.place = Place::Free;
    command.generation =
        if command.generation == GENERATIONS - 1 { 0 } else { command.generation + 1 };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn begin(commands: &mut Commands, token: u64) -> u16 {
        commands.begin(&Io::flush(Token(token)), Nanos(0), NO_BOUNCE, 0)
    }

    #[test]
    fn there_are_as_many_slots_as_were_asked_for_and_not_one_more() {
        for count in [1, 3, u8::MAX] {
            let mut commands = Commands::new(count);
            for token in 0..u64::from(count) {
                assert!(commands.next_slot().is_some());
                begin(&mut commands, token);
            }
            assert_eq!(commands.next_slot(), None);
            assert_eq!(commands.in_device(), u32::from(count));
        }
    }

    #[test]
    fn no_identifier_is_all_ones() {
        let mut commands = Commands::new(u8::MAX);
        for _ in 0..70_000 {
            let id = begin(&mut commands, 0);
            assert_ne!(id, u16::MAX);
            assert!(commands.end(id).is_some());
        }
    }

    proptest! {
        /// Against a map of what is in the device: an identifier ends its own command, once.
        #[test]
        fn an_identifier_ends_its_own_command_and_once(
            count in 1_u8..20, steps in proptest::collection::vec((0_u8..8, any::<u16>()), 0..400),
        ) {
            let mut commands = Commands::new(count);
            let mut model = BTreeMap::new();
            for (number, (kind, any)) in steps.into_iter().enumerate() {
                match kind {
                    0..=3 if commands.next_slot().is_some() => {
                        let id = begin(&mut commands, number as u64);
                        prop_assert!(model.insert(id, Token(number as u64)).is_none());
                    }
                    0..=5 => {
                        let Some(id) = model.keys().nth(usize::from(any) % count as usize).copied()
                        else { continue };
                        let token = commands.end(id).map(|command| command.io.token);
                        prop_assert_eq!(token, model.remove(&id));
                        prop_assert!(commands.end(id).is_none());
                    }
                    6 => prop_assert_eq!(
                        commands.end(any).map(|command| command.io.token),
                        model.remove(&any)
                    ),
                    _ => {
                        let mut tokens = Vec::new();
                        commands.recall(|command| tokens.push(command.io.token));
                        tokens.sort();
                        let left = std::mem::take(&mut model);
                        let mut expected: Vec<_> = left.into_values().collect();
                        expected.sort();
                        prop_assert_eq!(tokens, expected);
                    }
                }
                prop_assert_eq!(commands.in_device() as usize, model.len());
            }
        }
    }
}
