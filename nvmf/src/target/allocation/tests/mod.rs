//! Get LBA Status as a host meets it: RAM disks, files, devices that take their time.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use bdev::allocation::{Allocation, AllocationError, Extent, Pace};
use bdev::file::Backing;
use bdev::nvme::command::SubmissionEntry;
use bdev::nvme::lba_status::GetLbaStatus;
use bdev::nvme::sgl::SglDescriptor;
use bdev::{Aio, AllocationQuery, BlockDevice, Geometry, Lba, Limits, Null, Status};
use bdev::{OpenError, QueuePair};
use reactor::{Cx, Nanos};
use uuid::Uuid;

use super::known::JOBS_MAX;
use super::looks::ANSWER_TIMEOUT;
use crate::pdu::PduKind;
use crate::target::apply_tests::{Connected, described, subsystem};
use crate::target::namespace::{Access, Namespace, NamespaceId};
use crate::target::tests::{SUBSYSTEM, io};

const BLOCKS: u64 = 8192;
const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: BLOCKS };
const CHUNK: u64 = (64 << 10) / 512;

/// How an answer came.
#[derive(Debug, PartialEq, Eq)]
struct List {
    condition: u8,
    extents: Vec<(u64, u32)>,
}

fn list(condition: u8, extents: &[(u64, u64)]) -> Result<List, Status> {
    let extents = extents.iter().map(|(lba, blocks)| (*lba, u32::try_from(*blocks).unwrap()));
    Ok(List { condition, extents: extents.collect() })
}

fn invalid(status: Status) -> Result<List, Status> {
    Err(status.with_do_not_retry())
}

const WHOLE: GetLbaStatus = GetLbaStatus { lba: 0, blocks: 0, action: 0x02, bytes: 4096 };

fn namespace(id: u32, device: Arc<dyn BlockDevice>) -> Namespace {
    let nqn = SUBSYSTEM.parse().unwrap();
    let made = Namespace::new(&nqn, NamespaceId(id), device, Access::ReadWrite);
    made.with_known_allocation().unwrap()
}

fn connected(devices: Vec<Arc<dyn BlockDevice>>) -> Connected {
    let namespaces = (1..).zip(devices).map(|(id, device)| namespace(id, device));
    Connected::to(subsystem(namespaces.collect()))
}

fn ram() -> Arc<dyn BlockDevice> {
    Arc::new(bdev::Malloc::new("ram", GEOMETRY, None).unwrap())
}

fn send(connected: &mut Connected, command_id: u16, namespace: u32, asked: GetLbaStatus) {
    let sgl = SglDescriptor::transport_data_block(u32::try_from(asked.bytes).unwrap_or(u32::MAX));
    let command = SubmissionEntry::for_lba_status(command_id, namespace, asked).with_sgl(sgl);
    connected.admin.command(&mut connected.harness, command, &[]);
    connected.harness.pump();
}

/// The answer, which a thread may have to give yet.
fn answer(connected: &mut Connected) -> Result<List, Status> {
    for _ in 0..10_000 {
        connected.admin.end.exchange(&mut connected.harness);
        if !connected.admin.end.received().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let received = connected.admin.receive(&mut connected.harness);
    if received.parts.kind != PduKind::C2hData {
        return Err(received.completion().status());
    }
    let data = received.data();
    let count = u32::from_le_bytes(data[..4].try_into().unwrap()) as usize;
    let each = data[8..].chunks_exact(16).take(count).map(|one| {
        let lba = u64::from_le_bytes(one[..8].try_into().unwrap());
        (lba, u32::from_le_bytes(one[8..12].try_into().unwrap()))
    });
    let list = List { condition: data[4], extents: each.collect() };
    assert!(connected.admin.completion(&mut connected.harness).status().is_success());
    Ok(list)
}

fn ask(connected: &mut Connected, asked: GetLbaStatus) -> Result<List, Status> {
    send(connected, 50, 1, asked);
    answer(connected)
}

fn write(connected: &mut Connected, lba: u64) {
    let lba = u32::try_from(lba).unwrap();
    let queue = &mut connected.queues[1];
    let command = io(1, 7, lba, 1, SglDescriptor::in_capsule(0, 512));
    queue.command(&mut connected.harness, command, &[3; 512]);
    for _ in 0..10_000 {
        queue.end.exchange(&mut connected.harness);
        if !queue.end.received().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(queue.completion(&mut connected.harness).status().is_success());
}

#[test]
fn a_ram_disk_tells_what_was_written() {
    let mut connected = connected(vec![ram()]);
    assert_eq!(ask(&mut connected, WHOLE), list(2, &[]));
    write(&mut connected, 5);
    write(&mut connected, 3 * CHUNK);
    let both = [(0, CHUNK), (3 * CHUNK, CHUNK)];
    assert_eq!(ask(&mut connected, WHOLE), list(2, &both));
    assert_eq!(ask(&mut connected, GetLbaStatus { bytes: 40, ..WHOLE }), list(2, &both));
    assert_eq!(ask(&mut connected, GetLbaStatus { bytes: 36, ..WHOLE }), list(1, &both[..1]));
    assert_eq!(ask(&mut connected, GetLbaStatus { bytes: 8, ..WHOLE }), list(1, &[]));
    let part = GetLbaStatus { lba: CHUNK - 1, blocks: 2, ..WHOLE };
    assert_eq!(ask(&mut connected, part), list(2, &[(CHUNK - 1, 1)]));
    assert_eq!(connected.harness.buffers_taken(), 0);
}

/// As nvme-cli 2.3 asks, whose room is a dword short of what it names.
#[test]
fn a_data_pointer_that_is_shorter_than_what_is_asked_for_is_refused() {
    let mut connected = connected(vec![ram()]);
    for room in [36, 4] {
        let asked = GetLbaStatus { bytes: 40, ..WHOLE };
        let sgl = SglDescriptor::transport_data_block(room);
        let command = SubmissionEntry::for_lba_status(50, 1, asked).with_sgl(sgl);
        connected.admin.command(&mut connected.harness, command, &[]);
        let status = answer(&mut connected).unwrap_err();
        assert!(status.has_code(Status::DATA_SGL_LENGTH_INVALID), "{status}");
    }
}

#[test]
fn the_longest_answer_is_one_transfer_and_a_longer_one_is_refused() {
    let mut connected = connected(vec![ram()]);
    let most = GetLbaStatus { bytes: 128 << 10, ..WHOLE };
    let sent = SubmissionEntry::for_lba_status(1, 1, most);
    assert_eq!(sent.get_lba_status(), most);
    send(&mut connected, 50, 1, most);
    let mut bytes = 0;
    loop {
        let received = connected.admin.receive(&mut connected.harness);
        if received.parts.kind != PduKind::C2hData {
            break;
        }
        bytes += received.data().len();
    }
    assert_eq!(bytes, 128 << 10);
    for bytes in [(128 << 10) + 4, 16 << 30] {
        let more = GetLbaStatus { bytes, ..WHOLE };
        assert_eq!(ask(&mut connected, more), invalid(Status::INVALID_FIELD));
    }
}

#[test]
fn what_is_asked_is_checked_field_by_field() {
    let mut connected = connected(vec![ram()]);
    let last = GetLbaStatus { lba: BLOCKS - 1, blocks: 1, ..WHOLE };
    assert_eq!(ask(&mut connected, last), list(2, &[]));
    for (lba, blocks) in [(BLOCKS, 0), (u64::MAX, 0), (BLOCKS - 1, 2), (1, u16::MAX)] {
        let past = GetLbaStatus { lba, blocks, ..WHOLE };
        assert_eq!(ask(&mut connected, past), invalid(Status::LBA_OUT_OF_RANGE));
    }
    for action in [0x00, 0x01, 0x03, 0x0f, 0x12, 0xff] {
        let unknown = GetLbaStatus { action, ..WHOLE };
        assert_eq!(ask(&mut connected, unknown), invalid(Status::INVALID_FIELD));
    }
    write(&mut connected, 0);
    let tracked = GetLbaStatus { action: 0x11, ..WHOLE };
    assert_eq!(ask(&mut connected, tracked), list(2, &[]), "no block is known to be lost");
    let scan = GetLbaStatus { action: 0x10, ..WHOLE };
    assert_eq!(ask(&mut connected, scan), list(0, &[]), "and none was looked for");
    for namespace in [0, 2, 1025, u32::MAX] {
        send(&mut connected, 50, namespace, WHOLE);
        let unknown = invalid(Status::INVALID_NAMESPACE_OR_FORMAT);
        assert_eq!(answer(&mut connected), unknown);
    }
}

/// Whether Identify Controller (OACS bit 9) and the log of effects say that there is the command.
fn is_announced(connected: &mut Connected) -> bool {
    let mut read = |mut command: SubmissionEntry, cdw10: u32| {
        command.cdw10.set(cdw10);
        connected.admin.command(&mut connected.harness, command, &[]);
        let data = connected.admin.receive(&mut connected.harness).data().to_vec();
        assert!(connected.admin.completion(&mut connected.harness).status().is_success());
        data
    };
    let sgl = SglDescriptor::transport_data_block(4096);
    let identify = read(SubmissionEntry::new(0x06, 51, 0).with_sgl(sgl), 1);
    let effects = read(SubmissionEntry::new(0x02, 52, 0).with_sgl(sgl), 0x03ff_0005);
    let (in_identify, in_log) = (identify[257] & 2 != 0, effects[0x86 * 4] & 1 != 0);
    assert_eq!(in_identify, in_log);
    in_identify
}

#[test]
fn the_command_is_there_only_where_every_device_knows() {
    let null = || Arc::new(Null::new("null", GEOMETRY, None).unwrap());
    let mut both = connected(vec![ram(), ram()]);
    assert!(is_announced(&mut both));
    both.apply(described(subsystem(vec![namespace(1, ram()), namespace(2, null())])));
    assert!(!is_announced(&mut both));
    assert_eq!(ask(&mut both, WHOLE), invalid(Status::INVALID_OPCODE));
    both.apply(described(subsystem(vec![])));
    assert!(!is_announced(&mut both));
}

#[test]
fn a_file_tells_where_it_has_data() {
    let name = format!("allocation-{}.disk", std::process::id());
    let path = std::env::current_exe().unwrap().with_file_name(name);
    std::fs::File::create(&path).unwrap().set_len(BLOCKS * 512).unwrap();
    let backing = Backing::open(path.to_str().unwrap(), Some(512)).unwrap();
    let mut connected = connected(vec![Arc::new(Aio::new(Arc::new(backing), None).unwrap())]);
    assert!(is_announced(&mut connected));
    write(&mut connected, BLOCKS / 2);
    let List { condition, extents } = ask(&mut connected, WHOLE).unwrap();
    assert_eq!(condition, 2);
    let is_inside = |lba: u64| {
        extents.iter().any(|(start, blocks)| (*start..*start + u64::from(*blocks)).contains(&lba))
    };
    assert!(is_inside(BLOCKS / 2), "{extents:?}");
    let _ = std::fs::remove_file(&path);
}

/// A disk of which somebody tells when it is let through, always the same.
#[derive(Debug)]
struct Gated {
    gate: Mutex<Receiver<Result<Vec<Extent>, ()>>>,
}

impl AllocationQuery for Gated {
    fn pace(&self) -> Pace {
        Pace::Blocks
    }

    fn look(&self, range: Range<Lba>, _: usize) -> Result<Allocation, AllocationError> {
        match self.gate.lock().unwrap().recv() {
            Ok(Ok(extents)) => Ok(Allocation { extents, looked_to: range.end }),
            _ => Err(AllocationError::Closed),
        }
    }
}

#[derive(Debug)]
struct Slow {
    ram: Arc<dyn BlockDevice>,
    query: Arc<Gated>,
}

impl BlockDevice for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn geometry(&self) -> Geometry {
        self.ram.geometry()
    }

    fn limits(&self) -> Limits {
        self.ram.limits()
    }

    fn uuid(&self) -> Option<Uuid> {
        None
    }

    fn allocation(&self) -> Option<Arc<dyn AllocationQuery>> {
        Some(self.query.clone())
    }

    fn open_queue_pair(&self, cx: &mut Cx, depth: u32) -> Result<Box<dyn QueuePair>, OpenError> {
        self.ram.open_queue_pair(cx, depth)
    }
}

fn slow() -> (Connected, Sender<Result<Vec<Extent>, ()>>) {
    let (sender, receiver) = channel();
    let query = Arc::new(Gated { gate: Mutex::new(receiver) });
    (connected(vec![Arc::new(Slow { ram: ram(), query })]), sender)
}

/// Lets time pass while the host keeps alive.
fn wait(connected: &mut Connected, span: Nanos) {
    for _ in 0..span.0.div_ceil(1_000_000_000) {
        connected.harness.wait(Nanos::from_secs(1));
        let sgl = SglDescriptor::transport_data_block(0);
        let alive = SubmissionEntry::keep_alive(3).with_sgl(sgl);
        connected.admin.command(&mut connected.harness, alive, &[]);
        connected.admin.end.exchange(&mut connected.harness);
    }
}

#[test]
fn a_device_that_takes_its_time_holds_up_nothing_else() {
    let (mut connected, gate) = slow();
    send(&mut connected, 50, 1, WHOLE);
    assert!(connected.admin.end.received().is_empty());
    write(&mut connected, 9);
    assert!(is_announced(&mut connected), "the admin queue goes on");
    gate.send(Ok(vec![Extent { lba: Lba(9), blocks: 1 }])).unwrap();
    assert_eq!(answer(&mut connected), list(2, &[(9, 1)]));
    gate.send(Err(())).unwrap();
    assert_eq!(ask(&mut connected, WHOLE), Err(Status::INTERNAL_ERROR), "to be tried again");
    assert_eq!(connected.harness.buffers_taken(), 0);
}

#[test]
fn who_waits_too_long_is_told_to_come_again_and_the_late_answer_goes_nowhere() {
    let (mut connected, gate) = slow();
    send(&mut connected, 50, 1, WHOLE);
    wait(&mut connected, ANSWER_TIMEOUT - Nanos::from_secs(1));
    for _ in 1..ANSWER_TIMEOUT.0 / 1_000_000_000 {
        let alive = connected.admin.completion(&mut connected.harness);
        assert_eq!((alive.command_id.get(), alive.status()), (3, Status::SUCCESS));
    }
    assert!(connected.admin.end.received().is_empty(), "it may take that long");
    connected.harness.wait(Nanos::from_secs(2));
    assert_eq!(answer(&mut connected), Err(Status::COMMAND_INTERRUPTED));
    assert_eq!(connected.harness.buffers_taken(), 0);
    gate.send(Ok(vec![Extent { lba: Lba(1), blocks: 1 }])).unwrap();
    gate.send(Ok(vec![Extent { lba: Lba(2), blocks: 1 }])).unwrap();
    assert_eq!(ask(&mut connected, WHOLE), list(2, &[(2, 1)]));
}

#[test]
fn as_many_looks_wait_as_may_and_one_more_is_told_to_come_again() {
    let (mut connected, gate) = slow();
    // One is at work; it may take a moment until the thread has it.
    send(&mut connected, 50, 1, WHOLE);
    std::thread::sleep(std::time::Duration::from_millis(200));
    for number in 0..JOBS_MAX {
        send(&mut connected, 60 + u16::try_from(number).unwrap(), 1, WHOLE);
        connected.admin.end.exchange(&mut connected.harness);
        assert!(connected.admin.end.received().is_empty(), "{number}");
    }
    assert_eq!(ask_as(&mut connected, 90), Err(Status::COMMAND_INTERRUPTED));
    for _ in 0..=JOBS_MAX {
        gate.send(Ok(Vec::new())).unwrap();
    }
    for _ in 0..=JOBS_MAX {
        assert_eq!(answer(&mut connected), list(2, &[]));
    }
    assert_eq!(connected.harness.buffers_taken(), 0);
}

fn ask_as(connected: &mut Connected, command_id: u16) -> Result<List, Status> {
    send(connected, command_id, 1, WHOLE);
    answer(connected)
}

#[test]
fn a_host_that_vanishes_while_it_waits_leaves_nothing() {
    let (mut connected, gate) = slow();
    send(&mut connected, 50, 1, WHOLE);
    let Connected { mut harness, admin, queues } = connected;
    drop((admin, queues));
    harness.pump();
    assert_eq!((harness.buffers_taken(), harness.connections()), (0, 0));
    gate.send(Ok(Vec::new())).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    harness.pump();
    assert_eq!(harness.connections(), 0);
}
