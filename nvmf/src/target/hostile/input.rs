//! A raw stream for the target, as a fuzzer or the corpus has it.
//!
//! The first byte says how far the connection is before the rest of the input is its stream: 0 for
//! a new one, 1 after ICReq, 2 an admin queue, 3 an I/O queue; 4 added asks for digests.

use reactor::socket::memory::MemoryLimits;

use super::host::{HOST, Role, SUBSYSTEM, Session, SessionOptions};
use super::round::{self, Bystander};
use crate::pdu::{DataAlignment, Digests};

/// Buffers of the target, in chunks of 2 MiB.
const POOL_CHUNKS: usize = 4;

/// Feeds an input to a target and checks what [`super::round`] checks. Panics where a law is
/// broken; every input is legal.
pub fn stream_input(input: &[u8]) {
    let Some((stage, stream)) = input.split_first() else { return };
    let mut harness = round::harness(POOL_CHUNKS);
    let mut good = Bystander::new(&mut harness);
    let digests = stage & 4 != 0;
    let options = SessionOptions {
        subsystem: SUBSYSTEM,
        host: HOST,
        digests: Digests { header: digests, data: digests },
        data_alignment: DataAlignment::DWORD,
        limits: MemoryLimits::default(),
        role: if stage & 3 == 3 { Role::Io(1) } else { Role::Admin },
    };
    let mut admin = None;
    let mut session = match stage & 3 {
        0 => Session::bare(&mut harness, options.clone()),
        _ => Session::open(&mut harness, options.clone()),
    };
    if stage & 3 == 2 {
        session.establish(&mut harness, 0xffff);
        session.enable(&mut harness);
    }
    if stage & 3 == 3 {
        let options = SessionOptions { role: Role::Admin, ..options };
        let mut first = Session::open(&mut harness, options);
        let controller_id = first.establish(&mut harness, 0xffff).expect("a good Connect");
        first.enable(&mut harness);
        session.establish(&mut harness, controller_id).expect("a good Connect");
        admin = Some(first);
    }
    session.raw(&mut harness, stream);
    good.check(&mut harness);
    drop((session, admin));
    harness.pump();
    assert_eq!(harness.cx.dma.taken(), 0, "every buffer is back");
    assert_eq!(harness.cx.counters.connections, 2, "every slot is back");
    drop(good);
    round::keep(harness);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bdev::nvme::command::SubmissionEntry;
    use bdev::nvme::sgl::SglDescriptor;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::pdu::connection::HostParameters;
    use crate::pdu::{CommandCapsule, DataRange, Flags, Framing, H2cData, InitializeRequest};
    use crate::target::hostile::host::io;
    use crate::target::tests::Host;

    const NEW: u8 = 0;
    const INITIALIZED: u8 = 1;
    const ADMIN: u8 = 2;
    const QUEUE: u8 = 3;
    const DIGESTS: u8 = 4;

    fn directory() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
    }

    fn initialize() -> Vec<u8> {
        let data_alignment = DataAlignment::DWORD;
        let digests = Digests::default();
        let host = HostParameters { data_alignment, digests, ready_to_transfer_max: 1 };
        InitializeRequest::new(host).as_bytes().to_vec()
    }

    fn capsule(command: SubmissionEntry, data_bytes: u32) -> Vec<u8> {
        let mut bytes =
            CommandCapsule::new(command, data_bytes, Framing::default()).as_bytes().to_vec();
        bytes.resize(bytes.len() + data_bytes as usize, 0x11);
        bytes
    }

    fn block(len_bytes: u32) -> SglDescriptor {
        SglDescriptor::transport_data_block(len_bytes)
    }

    fn data(tag: u16, offset: u32, length: u32) -> Vec<u8> {
        let range = DataRange { offset, length };
        let header = H2cData::new(5, tag, range, Flags::LAST, Framing::default());
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(bytes.len() + length as usize, 0x22);
        bytes
    }

    fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        bytes[at] = value;
        bytes
    }

    /// Every input of the corpus: its name, where it starts, its stream.
    fn corpus() -> Vec<(&'static str, u8, Vec<u8>)> {
        let write = || capsule(io(1, 5, 0, 8, SglDescriptor::in_capsule(0, 4096)), 4096);
        let ask = || capsule(io(1, 5, 0, 16, block(8192)), 0);
        let read = |blocks| capsule(io(2, 5, 0, blocks, block(blocks * 512)), 0);
        let admin = |opcode| capsule(SubmissionEntry::new(opcode, 5, 1).with_sgl(block(4096)), 0);
        let connect = || Host::connect_bytes(0, 0xffff);
        let mut fused = write();
        fused[9] |= 1;
        let mut disable = SubmissionEntry::new(0x7f, 5, 0).with_sgl(block(0));
        disable.cdw11.set(0x14);
        let mut trim = SubmissionEntry::new(9, 5, 1).with_sgl(SglDescriptor::in_capsule(0, 4096));
        trim.cdw10.set(255);
        trim.cdw11.set(4);
        vec![
            ("initialize", NEW, initialize()),
            ("initialize-twice", NEW, [initialize(), initialize()].concat()),
            ("initialize-cut-off", NEW, initialize()[..100].to_vec()),
            ("initialize-other-version", NEW, with(initialize(), 8, 1)),
            ("initialize-alignment-past-largest", NEW, with(initialize(), 10, 32)),
            ("initialize-and-connect-at-once", NEW, [initialize(), connect()].concat()),
            ("command-before-initialize", NEW, read(8)),
            ("http-request", NEW, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
            ("ones", NEW, vec![0xff; 300]),
            ("zeroes", NEW, vec![0; 300]),
            ("connect", INITIALIZED, connect()),
            ("connect-cut-off", INITIALIZED, connect()[..600].to_vec()),
            ("connect-twice-at-once", INITIALIZED, [connect(), connect()].concat()),
            ("connect-without-data", INITIALIZED, with(connect()[..72].to_vec(), 4, 72)),
            ("connect-name-unterminated", INITIALIZED, {
                let mut bytes = connect();
                bytes[72 + 256..72 + 512].fill(b'a');
                bytes
            }),
            ("connect-then-garbage", INITIALIZED, [connect(), vec![0xff; 64]].concat()),
            ("read-before-connect", INITIALIZED, read(8)),
            ("identify", ADMIN, admin(0x06)),
            ("read-on-admin-queue", ADMIN, read(8)),
            ("connect-on-admin-queue", ADMIN, connect()),
            ("five-event-requests", ADMIN, admin(0x0c).repeat(5)),
            ("event-request-then-reset", ADMIN, [admin(0x0c), capsule(disable, 0)].concat()),
            ("admin-data-asked-for", ADMIN, {
                let mut command = SubmissionEntry::new(9, 5, 0).with_sgl(block(512));
                command.cdw10.set(0x16);
                capsule(command, 0)
            }),
            ("write-in-capsule", QUEUE, write()),
            ("write-half", QUEUE, write()[..2000].to_vec()),
            ("write-fused", QUEUE, fused),
            ("write-data-offset-in-header", QUEUE, with(write(), 3, 8)),
            ("capsule-shorter-than-its-header", QUEUE, with(read(8), 4, 71)),
            ("capsule-of-4-gib", QUEUE, {
                let mut bytes = write();
                bytes[4..8].fill(0xff);
                bytes
            }),
            ("data-not-asked-for", QUEUE, data(0, 0, 512)),
            ("data-before-it-is-asked-for", QUEUE, [ask(), data(0, 0, 8192)].concat()),
            ("reads-with-one-command-id", QUEUE, read(256).repeat(20)),
            ("more-writes-than-entries", QUEUE, ask().repeat(40)),
            ("read-past-the-end", QUEUE, capsule(io(2, 5, u32::MAX, 8, block(4096)), 0)),
            ("trim-of-every-range-wrong", QUEUE, capsule(trim, 4096)),
            ("response-to-the-controller", QUEUE, with(read(8), 0, 5)),
            ("termination-from-the-host", QUEUE, {
                let mut bytes = vec![0; 32];
                bytes[..8].copy_from_slice(&[2, 0, 24, 0, 32, 0, 0, 0]);
                bytes
            }),
            ("header-digest-missing", QUEUE | DIGESTS, read(8)),
        ]
    }

    /// `NVMF_WRITE_CORPUS` set makes the files from this list.
    #[test]
    fn the_files_of_the_corpus_are_those_that_are_listed() {
        let is_writing = std::env::var_os("NVMF_WRITE_CORPUS").is_some();
        for (name, stage, stream) in corpus() {
            let path = directory().join(name);
            let input = [&[stage][..], &stream].concat();
            if is_writing {
                std::fs::write(&path, &input).unwrap();
            }
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(found == input, "corpus/{name} is as listed");
        }
    }

    #[test]
    fn no_input_of_the_corpus_touches_the_good_host() {
        for file in std::fs::read_dir(directory()).unwrap() {
            stream_input(&std::fs::read(file.unwrap().path()).unwrap());
        }
    }

    #[test]
    fn an_empty_input_is_an_input() {
        stream_input(&[]);
        stream_input(&[QUEUE | DIGESTS]);
    }
}
