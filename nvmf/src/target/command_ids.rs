//! Which command identifiers of a queue are in use: one bit for each of them.
//!
//! A command whose identifier belongs to another that is not answered yet must not run: the host
//! could not tell the two answers apart (NVMe Base 2.0 section 3.3.3.1 and status 03h). Looked at
//! for every command, so it is a table rather than a search; 8 KiB for each connected queue.

const WORDS: usize = (u16::MAX as usize + 1) / 64;

/// The identifiers in use.
#[derive(Debug)]
pub(super) struct CommandIds {
    /// Empty before Connect, when there is room for one command only.
    words: Box<[u64]>,
}

impl CommandIds {
    /// For a connection that is no queue yet: nothing is kept, and every identifier is free.
    pub fn none() -> CommandIds {
        CommandIds { words: Box::default() }
    }

    /// For a queue. Slow path: allocates.
    pub fn of_queue() -> CommandIds {
        CommandIds { words: vec![0; WORDS].into_boxed_slice() }
    }

    /// Takes an identifier; false when it is in use.
    pub fn take(&mut self, id: u16) -> bool {
        let Some(word) = self.words.get_mut(usize::from(id / 64)) else { return true };
        let bit = 1 << (id % 64);
        let is_free = *word & bit == 0;
        *word |= bit;
        is_free
    }

    /// Gives an identifier back.
    pub fn give(&mut self, id: u16) {
        if let Some(word) = self.words.get_mut(usize::from(id / 64)) {
            *word &= !(1 << (id % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_taken_once_until_it_is_given_back() {
        let mut ids = CommandIds::of_queue();
        for id in [0, 1, 63, 64, 0x7fff, u16::MAX] {
            assert!(ids.take(id), "{id}");
            assert!(!ids.take(id), "{id}");
        }
        ids.give(64);
        assert!(ids.take(64));
        assert!(!ids.take(63) && ids.take(65));
    }

    #[test]
    fn before_connect_every_identifier_is_free() {
        let mut ids = CommandIds::none();
        assert!(ids.take(7) && ids.take(7));
        ids.give(7);
    }
}
