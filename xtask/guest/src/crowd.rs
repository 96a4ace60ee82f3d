//! Hosts that behave badly, many at once.
//!
//! Each is a stream to the target that does one of several wrong things and then waits: silent,
//! half a greeting, no Connect after the greeting, noise instead of a PDU, a connected host that
//! asks for much and reads nothing. All of them are plain bytes; NVMe/TCP Transport 1.0 section
//! 3.6 has the layouts, NVMe over Fabrics (Base 2.0 section 6) the commands.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What the hosts of a crowd do, in turn.
const MANNERS: [Manner; 5] =
    [Manner::Silent, Manner::HalfGreeting, Manner::NoConnect, Manner::Noise, Manner::SlowReader];
/// PDU header and command of a command capsule.
const CAPSULE_BYTES: usize = 72;
const CONNECT_DATA_BYTES: usize = 1024;
/// Commands that a slow reader leaves unanswered, one less than its queue has entries.
const UNREAD_COMMANDS: u16 = 31;
/// After so long without a keep alive the target may drop a slow reader.
const KEEP_ALIVE_MS: u32 = 2000;

/// One way of behaving badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Connects and says nothing.
    Silent,
    /// Sends half of an ICReq.
    HalfGreeting,
    /// Sends an ICReq and no Connect.
    NoConnect,
    /// Sends an ICReq and then what is no PDU.
    Noise,
    /// Makes a controller, asks for its data structures and reads none.
    SlowReader,
}

/// Streams that are open at once. They are closed, with what was not read, when it is dropped: the
/// target sees most of them reset.
#[derive(Debug)]
pub struct Crowd {
    streams: Vec<TcpStream>,
}

impl Crowd {
    /// Opens `count` streams to a port of the loopback; `nqn` names a subsystem that lets every
    /// host in.
    pub fn open(port: u16, nqn: &str, count: usize) -> io::Result<Crowd> {
        allow_descriptors(count)?;
        let mut streams = Vec::with_capacity(count);
        for number in 0..count {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            let manner = MANNERS[number % MANNERS.len()];
            // The target may be done with this host before all has been sent.
            let _ = stream.write_all(&words_of(manner, nqn, number));
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        Ok(Crowd { streams })
    }

    /// Waits until the target has closed all of them, and returns how many it has not.
    pub fn open_after(&mut self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        loop {
            self.streams.retain_mut(is_open);
            if self.streams.is_empty() || Instant::now() > deadline {
                return self.streams.len();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Reads what there is, which a slow reader has at last to do to see the end.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Lets this process have that many descriptors, and some.
fn allow_descriptors(count: usize) -> io::Result<()> {
    let wanted = count as u64 + 256;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?;
    }
    Ok(())
}

fn words_of(manner: Manner, nqn: &str, number: usize) -> Vec<u8> {
    let greeting = greeting();
    match manner {
        Manner::Silent => Vec::new(),
        Manner::HalfGreeting => greeting[..64].to_vec(),
        Manner::NoConnect => greeting.to_vec(),
        Manner::Noise => {
            let noise = (0..200_u8).map(|byte| byte.wrapping_mul(167).wrapping_add(number as u8));
            greeting.into_iter().chain(noise).collect()
        }
        Manner::SlowReader => {
            let mut words = greeting.to_vec();
            words.extend(connect(nqn, number));
            words.extend(enable());
            for command_id in 2..UNREAD_COMMANDS {
                words.extend(identify(command_id));
            }
            words
        }
    }
}

/// ICReq: type 0, header and PDU of 128 bytes, no digests, one R2T.
fn greeting() -> [u8; 128] {
    let mut pdu = [0; 128];
    pdu[2] = 128;
    pdu[4] = 128;
    pdu
}

/// A command capsule: type 4, header of 72 bytes, with or without data.
fn capsule(opcode: u8, command_id: u16, data_bytes: usize) -> Vec<u8> {
    let mut pdu = vec![0; CAPSULE_BYTES];
    pdu[0] = 4;
    pdu[2] = CAPSULE_BYTES as u8;
    pdu[3] = if data_bytes > 0 { CAPSULE_BYTES as u8 } else { 0 };
    let whole = (CAPSULE_BYTES + data_bytes) as u32;
    pdu[4..8].copy_from_slice(&whole.to_le_bytes());
    pdu[8] = opcode;
    // The data pointer is an SGL.
    pdu[9] = 0x40;
    pdu[10..12].copy_from_slice(&command_id.to_le_bytes());
    pdu
}

/// SGL descriptor, bytes 24 to 39 of the command: the length, and the type in its last byte.
fn set_sgl(pdu: &mut [u8], len_bytes: u32, kind: u8) {
    pdu[40..44].copy_from_slice(&len_bytes.to_le_bytes());
    pdu[47] = kind;
}

/// Connect for an admin queue, with 1024 bytes of data in the capsule.
fn connect(nqn: &str, number: usize) -> Vec<u8> {
    let mut pdu = capsule(0x7f, 0, CONNECT_DATA_BYTES);
    pdu[12] = 0x01;
    // In-capsule data is an offset from the begin of the data: type 0, subtype 1.
    set_sgl(&mut pdu, CONNECT_DATA_BYTES as u32, 0x01);
    pdu[52..54].copy_from_slice(&UNREAD_COMMANDS.to_le_bytes());
    pdu[56..60].copy_from_slice(&KEEP_ALIVE_MS.to_le_bytes());
    let mut data = [0; CONNECT_DATA_BYTES];
    data[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    data[16..18].copy_from_slice(&[0xff; 2]);
    data[256..][..nqn.len()].copy_from_slice(nqn.as_bytes());
    let host = format!("nqn.2014-08.org.nvmexpress:crowd-{number}");
    data[512..][..host.len()].copy_from_slice(host.as_bytes());
    pdu.extend(data);
    pdu
}

/// Property Set of CC: enabled, entries of 64 and 16 bytes.
fn enable() -> Vec<u8> {
    let mut pdu = capsule(0x7f, 1, 0);
    pdu[52..56].copy_from_slice(&0x14_u32.to_le_bytes());
    pdu[56..60].copy_from_slice(&0x0046_0001_u32.to_le_bytes());
    pdu
}

/// Identify Controller: 4096 bytes for a host that does not read them.
fn identify(command_id: u16) -> Vec<u8> {
    let mut pdu = capsule(0x06, command_id, 0);
    // Transport data block: type 5, subtype Ah.
    set_sgl(&mut pdu, 4096, 0x5a);
    pdu[48] = 1;
    pdu
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn capsules_are_as_long_as_their_headers_say() {
        for (pdu, len) in [(connect("nqn.x:y", 1), 1096), (enable(), 72), (identify(3), 72)] {
            assert_eq!(pdu.len(), len);
            assert_eq!(pdu[4..8], (len as u32).to_le_bytes());
        }
    }

    #[test]
    fn a_crowd_knows_which_of_its_streams_are_closed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut crowd = Crowd::open(port, "nqn.x:y", 4).unwrap();
        let accepted: Vec<_> = (0..4).map(|_| listener.accept().unwrap().0).collect();
        assert_eq!(crowd.open_after(Duration::ZERO), 4);
        drop(accepted);
        assert_eq!(crowd.open_after(Duration::from_secs(20)), 0);
    }
}
