//! Frames between the host and the agent in the guest, over one virtio-serial port.
//!
//! A frame is a header of nine bytes, then the payload:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | length of the payload, little-endian, at most [`PAYLOAD_MAX_BYTES`] |
//! | 4..8 | number of the command that it belongs to, little-endian |
//! | 8 | kind |
//!
//! Every command has its own number, so that what a process left behind by an earlier command
//! still writes is never taken for output of the present one. Shared by both sides: the library
//! compiles it as a module, and so does the agent.

use std::io::{self, Read, Write};

/// Longest payload; a longer command is refused by the sender, longer output is cut into frames.
pub const PAYLOAD_MAX_BYTES: usize = 64 * 1024;
/// Size of a frame's header.
pub const HEADER_BYTES: usize = 9;

/// What a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Guest to host, once: the agent is there. No payload.
    Hello = 1,
    /// Host to guest: run the payload with `/bin/sh -c`.
    Run = 2,
    /// Host to guest: kill the command and all its children.
    Kill = 3,
    /// Guest to host: the command wrote this to its standard output.
    Stdout = 4,
    /// Guest to host: the command wrote this to its standard error.
    Stderr = 5,
    /// Guest to host: the command ended. Payload: exit code as `i32`, little-endian.
    Exit = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        let all = [Kind::Hello, Kind::Run, Kind::Kill, Kind::Stdout, Kind::Stderr, Kind::Exit];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Command that it belongs to.
    pub command: u32,
    /// What it means.
    pub kind: Kind,
    /// Depends on the kind.
    pub payload: Vec<u8>,
}

/// Sends one frame. Fails with `InvalidInput` when the payload is longer than
/// [`PAYLOAD_MAX_BYTES`].
pub fn send(to: &mut impl Write, command: u32, kind: Kind, payload: &[u8]) -> io::Result<()> {
    if payload.len() > PAYLOAD_MAX_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // One write: a port hands each write to the other side as it is.
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&command.to_le_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(payload);
    to.write_all(&bytes)
}

/// Takes the first whole frame off `bytes`; `None` when more must be read first. Fails with
/// `InvalidData` on an unknown kind or a length over the limit.
pub fn parse(bytes: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    if bytes.len() < HEADER_BYTES {
        return Ok(None);
    }
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let len = word(0) as usize;
    let command = word(4);
    let kind = Kind::from_byte(bytes[8]);
    let Some(kind) = kind.filter(|_| len <= PAYLOAD_MAX_BYTES) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if bytes.len() < HEADER_BYTES + len {
        return Ok(None);
    }
    let rest = bytes.split_off(HEADER_BYTES + len);
    let payload = std::mem::replace(bytes, rest).split_off(HEADER_BYTES);
    Ok(Some(Frame { command, kind, payload }))
}

/// Reads until one whole frame is there. `pending` keeps what was read beyond it. An end of file
/// is `UnexpectedEof`; a time-out set on `from` comes back as the error it gives.
pub fn receive(from: &mut impl Read, pending: &mut Vec<u8>) -> io::Result<Frame> {
    let mut chunk = [0; 16 * 1024];
    loop {
        if let Some(frame) = parse(pending)? {
            return Ok(frame);
        }
        match from.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => pending.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(command: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(&mut bytes, command, kind, payload).unwrap();
        bytes
    }

    #[test]
    fn a_frame_survives_the_way_byte_by_byte() {
        let whole = bytes_of(7, Kind::Stderr, b"oops");
        let mut pending = Vec::new();
        for byte in &whole[..whole.len() - 1] {
            pending.push(*byte);
            assert_eq!(parse(&mut pending).unwrap(), None);
        }
        pending.push(*whole.last().unwrap());
        pending.extend_from_slice(b"next");
        let frame = parse(&mut pending).unwrap().unwrap();
        assert_eq!(frame, Frame { command: 7, kind: Kind::Stderr, payload: b"oops".to_vec() });
        assert_eq!(pending, b"next");
    }

    #[test]
    fn two_frames_in_one_read_come_out_one_by_one() {
        let mut stream = bytes_of(1, Kind::Stdout, b"a");
        stream.extend(bytes_of(1, Kind::Exit, &3i32.to_le_bytes()));
        let (mut source, mut pending) = (stream.as_slice(), Vec::new());
        assert_eq!(receive(&mut source, &mut pending).unwrap().payload, b"a");
        assert_eq!(receive(&mut source, &mut pending).unwrap().kind, Kind::Exit);
        let end = receive(&mut source, &mut pending).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_longest_payload_passes_and_one_byte_more_is_refused() {
        let longest = vec![0; PAYLOAD_MAX_BYTES];
        let mut bytes = bytes_of(1, Kind::Run, &longest);
        assert_eq!(parse(&mut bytes).unwrap().unwrap().payload, longest);
        assert!(send(&mut Vec::new(), 1, Kind::Run, &vec![0; PAYLOAD_MAX_BYTES + 1]).is_err());
        let mut forged = ((PAYLOAD_MAX_BYTES + 1) as u32).to_le_bytes().to_vec();
        forged.extend_from_slice(&[0, 0, 0, 0, Kind::Stdout as u8]);
        assert!(parse(&mut forged).is_err());
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert!(parse(&mut vec![0, 0, 0, 0, 0, 0, 0, 0, 99]).is_err());
    }
}
