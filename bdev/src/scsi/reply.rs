//! Puts a short reply together: big-endian fields one behind the other, and lengths at the end.
//!
//! For replies off the path of I/O only; each is a small vector.

/// A reply that grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply(Vec<u8>);

impl Reply {
    pub fn new() -> Reply {
        Reply::default()
    }

    pub fn byte(&mut self, value: u8) -> &mut Reply {
        self.0.push(value);
        self
    }

    pub fn word(&mut self, value: u16) -> &mut Reply {
        self.bytes(&value.to_be_bytes())
    }

    pub fn long(&mut self, value: u32) -> &mut Reply {
        self.bytes(&value.to_be_bytes())
    }

    pub fn quad(&mut self, value: u64) -> &mut Reply {
        self.bytes(&value.to_be_bytes())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Reply {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn zeroes(&mut self, count: usize) -> &mut Reply {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// ASCII, filled up with blanks to `len`.
    pub fn text(&mut self, text: &str, len: usize) -> &mut Reply {
        let bytes = text.as_bytes();
        self.bytes(&bytes[..bytes.len().min(len)]);
        self.0.resize(self.0.len() + len.saturating_sub(bytes.len()), b' ');
        self
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Sets a field of two bytes to how many bytes follow it.
    pub fn set_word_length(&mut self, at: usize) -> &mut Reply {
        let len = u16::try_from(self.0.len() - at - 2).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&len.to_be_bytes());
        self
    }

    /// Sets a field of four bytes to how many bytes follow it.
    pub fn set_long_length(&mut self, at: usize) -> &mut Reply {
        let len = u32::try_from(self.0.len() - at - 4).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&len.to_be_bytes());
        self
    }

    /// As many of its bytes as the initiator takes.
    pub fn finish(&mut self, allocation: u32) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.truncate(allocation as usize);
        bytes
    }
}
