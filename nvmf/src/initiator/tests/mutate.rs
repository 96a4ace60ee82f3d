//! The host's end of a stream whose target lies: PDUs of an honest one, changed at random.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::rc::Rc;

use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::status::Status;
use reactor::random::Random;
use reactor::socket::memory::MemorySocket;
use reactor::socket::{Socket, SocketError};

use crate::pdu::encode::{HEADER_SLOT_BYTES, Header, write_header};
use crate::pdu::terminate::{TERM_REQUEST_BYTES_MAX, write_term_request};
use crate::pdu::{
    C2hData, DataRange, FatalErrorStatus, Flags, Framing, ReadyToTransfer, ResponseCapsule, Role,
    TermReason,
};

/// One PDU in so many is changed, where anything is.
pub const RATES: [u64; 4] = [4, 16, 40, 100];
const COMMON_BYTES: usize = 8;

/// What all streams of a session share.
#[derive(Debug)]
pub struct Liar {
    random: Random,
    /// Nothing is changed while there is none.
    rate: Option<u64>,
    /// How many PDUs were changed.
    pub lies: u64,
}

impl Liar {
    /// Lies as often as the seed says.
    pub fn new(seed: u64) -> Liar {
        let mut random = Random::new(seed);
        let rate = random.below(RATES.len() as u64);
        Liar { random, rate: Some(RATES[usize::try_from(rate).unwrap()]), lies: 0 }
    }

    /// Tells the truth.
    pub fn honest() -> Liar {
        Liar { random: Random::new(1), rate: None, lies: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound.max(1) as u64)).unwrap()
    }

    /// Passes a PDU on, or something else.
    fn pass(&mut self, pdu: Vec<u8>, out: &mut VecDeque<u8>, held: &mut Vec<u8>) -> Fate {
        let is_lie = self.rate.is_some_and(|rate| self.random.below(rate) == 0);
        if !is_lie {
            out.extend(pdu);
            out.extend(held.drain(..));
            return Fate::Goes;
        }
        self.lies += 1;
        self.lie(pdu, out, held)
    }

    fn lie(&mut self, mut pdu: Vec<u8>, out: &mut VecDeque<u8>, held: &mut Vec<u8>) -> Fate {
        match self.below(12) {
            0 => self.flip(&mut pdu, 0),
            1 => self.flip(&mut pdu, COMMON_BYTES),
            // The command that a header names, or what it says of the data.
            2 => self.overwrite(&mut pdu, COMMON_BYTES, 16),
            3 => self.overwrite(&mut pdu, 0, COMMON_BYTES),
            // Payload and digests.
            4 => {
                let header = usize::from(pdu[2]);
                let length = pdu.len() - header.min(pdu.len());
                self.overwrite(&mut pdu, header, length);
            }
            5 => out.extend(&pdu),
            6 => pdu.clear(),
            7 => {
                *held = std::mem::take(&mut pdu);
            }
            8 => {
                let keep = self.below(pdu.len());
                out.extend(&pdu[..keep]);
                return Fate::Ends;
            }
            9 => out.extend(self.made_up(&pdu)),
            10 => pdu = self.made_up(&pdu),
            _ => {
                for _ in 0..=self.below(200) {
                    let byte = self.random.next_u64().to_le_bytes()[0];
                    out.push_back(byte);
                }
            }
        }
        out.extend(pdu);
        Fate::Goes
    }

    fn flip(&mut self, pdu: &mut [u8], from: usize) {
        let at = (from + self.below(pdu.len() - from)).min(pdu.len() - 1);
        pdu[at] ^= 1 << self.below(8);
    }

    fn overwrite(&mut self, pdu: &mut [u8], from: usize, count: usize) {
        let end = (from + count).min(pdu.len());
        for _ in 0..=self.below(8) {
            let at = from + self.below(end.saturating_sub(from));
            let choices = [0, 1, 0xff, self.random.next_u64().to_le_bytes()[0]];
            if let Some(byte) = pdu.get_mut(at) {
                *byte = choices[self.below(choices.len())];
            }
        }
    }

    /// A PDU of a target that is legal by itself, and mostly out of place.
    fn made_up(&mut self, like: &[u8]) -> Vec<u8> {
        let command_id = match (like.get(8..10), self.below(2)) {
            (Some(id), 0) => u16::from_le_bytes([id[0], id[1]]),
            _ => u16::try_from(self.below(4096)).unwrap(),
        };
        let edges = [0, 512, 4096, 9216, 0x7fff_fffc, 0xffff_fe00];
        let (offset, length) = (edges[self.below(6)], edges[self.below(5)].max(4));
        let range = DataRange { offset, length };
        let framing = Framing::default();
        match self.below(5) {
            0 => bytes_of(&ReadyToTransfer::new(command_id, 7, range, framing), &[]),
            1 => {
                let length = length.min(8192);
                let range = DataRange { offset, length };
                let flags = [Flags::NONE, Flags::LAST, Flags::LAST.with(Flags::SUCCESS)];
                let flags = flags[self.below(3)];
                let header = C2hData::new(command_id, range, flags, framing);
                bytes_of(&header, &vec![0xee; length as usize])
            }
            2 => {
                let status = [Status::SUCCESS, Status::WRITE_FAULT, Status::ABORTED_BY_HOST];
                let entry = CompletionEntry::new(command_id, 0, status[self.below(3)]);
                bytes_of(&ResponseCapsule::new(entry, framing), &[])
            }
            3 => {
                let mut bytes = [0; TERM_REQUEST_BYTES_MAX as usize];
                let reason = TermReason::new(FatalErrorStatus::DataOutOfRange, 0);
                let length = write_term_request(Role::Controller, reason, &[], &mut bytes);
                bytes[..length].to_vec()
            }
            _ => {
                let mut response = vec![0; 128];
                response[..8].copy_from_slice(&[1, 0, 128, 0, 128, 0, 0, 0]);
                response
            }
        }
    }
}

fn bytes_of<H: Header>(header: &H, data: &[u8]) -> Vec<u8> {
    let mut bytes = [0; HEADER_SLOT_BYTES];
    let length = write_header(header, &mut bytes);
    [&bytes[..length], data].concat()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Goes,
    Ends,
}

/// The host's end of a stream.
#[derive(Debug)]
pub struct Mutated {
    liar: Rc<RefCell<Liar>>,
    inner: Option<MemorySocket>,
    raw: Vec<u8>,
    out: VecDeque<u8>,
    /// A PDU that comes after the next.
    held: Vec<u8>,
    /// The stream ends with what is there.
    is_over: bool,
}

impl Mutated {
    /// Lies about what comes from `inner`.
    pub fn new(inner: MemorySocket, liar: Rc<RefCell<Liar>>) -> Mutated {
        let (raw, out, held) = (Vec::new(), VecDeque::new(), Vec::new());
        Mutated { liar, inner: Some(inner), raw, out, held, is_over: false }
    }

    fn fill(&mut self) {
        let mut bytes = [0; 4096];
        while let Some(inner) = &mut self.inner {
            match inner.receive(&mut [IoSliceMut::new(&mut bytes)]) {
                Ok(count) => self.raw.extend_from_slice(&bytes[..count]),
                Err(SocketError::WouldBlock) => break,
                Err(SocketError::Closed) => self.inner = None,
            }
        }
        while !self.is_over
            && let Some(length) = self.raw.get(4..8)
        {
            let length: [u8; 4] = length.try_into().unwrap();
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap();
            if self.raw.len() < length {
                break;
            }
            let pdu: Vec<u8> = self.raw.drain(..length).collect();
            assert!(pdu.len() >= COMMON_BYTES, "the target itself is honest");
            let fate = self.liar.borrow_mut().pass(pdu, &mut self.out, &mut self.held);
            self.is_over = fate == Fate::Ends;
        }
        if self.is_over {
            self.inner = None;
        }
    }
}

impl Socket for Mutated {
    fn receive(&mut self, into: &mut [IoSliceMut<'_>]) -> Result<usize, SocketError> {
        self.fill();
        let mut moved = 0;
        for slice in into {
            let count = slice.len().min(self.out.len());
            for (place, byte) in slice.iter_mut().zip(self.out.drain(..count)) {
                *place = byte;
            }
            moved += count;
        }
        match (moved, &self.inner) {
            (0, None) => Err(SocketError::Closed),
            (0, Some(_)) => Err(SocketError::WouldBlock),
            (moved, _) => Ok(moved),
        }
    }

    fn send(&mut self, from: &[IoSlice<'_>]) -> Result<usize, SocketError> {
        self.inner.as_mut().map_or(Err(SocketError::Closed), |inner| inner.send(from))
    }

    fn peer(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 2))
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    fn connected(&mut self) -> Result<(), SocketError> {
        Ok(())
    }
}
