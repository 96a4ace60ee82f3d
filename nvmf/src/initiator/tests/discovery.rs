//! Discovery as a client: against scripted discovery controllers, and our own target.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::task::Poll;

use bdev::BlockDevice;
use bdev::nvme::completion::CompletionEntry;
use bdev::nvme::opcode::{AdminOpcode, FABRICS};
use bdev::nvme::register::ControllerStatus;
use bdev::nvme::status::Status;
use bdev::session::Link;
use reactor::cx::test_context;
use reactor::socket::memory::MemoryLimits;
use reactor::{Cx, Nanos, VirtualClock};
use zerocopy::IntoBytes;

use super::connecting::{NQN, default_options};
use super::laws::{OwnTarget, own_description};
use super::remote::{open, options};
use super::wire::{FromHost, Peer, Stream, Wires};
use crate::fabrics::command::PropertyCommand;
use crate::fabrics::connect::{Authentication, ConnectCommand, connect_result};
use crate::fabrics::discovery::{DiscoveryEntry, DiscoveryHeader, value};
use crate::fabrics::nqn::DISCOVERY_NQN;
use crate::initiator::ConnectError;
use crate::initiator::discovery::{
    CONTROLLERS_MAX, Discovery, PORTALS_MAX, READS_MAX, RECORDS_MAX,
};
use crate::initiator::remote::WhenLost;
use crate::pdu::Flags;
use crate::target::harness::Harness;
use crate::target::subsystem::{Subsystem, SubsystemConfig, SubsystemKind};
use crate::target::{Portal, PortalId, TargetDescription};

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn portal(port: u16) -> DiscoveryEntry {
    DiscoveryEntry::tcp(value::SUBSYSTEM_NVM, &NQN.parse().unwrap(), address(port), 1)
}

fn referral(port: u16) -> DiscoveryEntry {
    DiscoveryEntry::tcp(value::SUBSYSTEM_REFERRAL, &DISCOVERY_NQN, address(port), 1)
}

/// What a controller answers.
#[derive(Clone, Debug, Default)]
struct Log {
    records: Vec<DiscoveryEntry>,
    /// Records that the header announces beyond those.
    more: u64,
    /// How often the header is read before its generation stays the same.
    changes: u64,
    format: u16,
    headers_read: u64,
}

impl Log {
    fn of(records: Vec<DiscoveryEntry>) -> Log {
        Log { records, ..Log::default() }
    }
}

/// Discovery controllers by address.
#[derive(Debug, Default)]
struct Directory {
    logs: BTreeMap<SocketAddr, Log>,
    connections: Vec<(SocketAddr, Stream)>,
    /// Who was connected, in order.
    asked: Vec<SocketAddr>,
}

impl Directory {
    fn handle(&mut self, at: SocketAddr, stream: &mut Stream, pdu: FromHost) {
        let entry = match pdu {
            FromHost::Initialize(request) => {
                stream.grant(&request, 0);
                return;
            }
            FromHost::Command { entry, .. } => entry,
            other => panic!("{other:?}"),
        };
        let id = entry.command_id.get();
        let done = CompletionEntry::new(id, 0, Status::SUCCESS);
        if ConnectCommand::of(&entry).is_some() {
            return stream
                .complete(done.with_result(connect_result(1, Authentication::NotRequired)));
        }
        if entry.opcode == FABRICS {
            assert!(PropertyCommand::of(&entry).is_some());
            let status = ControllerStatus::default().with_ready();
            return stream.complete(done.with_result_wide(status.0.into()));
        }
        assert_eq!(AdminOpcode::try_from(entry.opcode), Ok(AdminOpcode::GetLogPage));
        let page = entry.get_log_page();
        let log = self.logs.get_mut(&at).expect("only those with a log are reached");
        let mut generation = 7;
        if page.offset == 0 {
            log.headers_read += 1;
            generation += log.headers_read.min(log.changes);
        }
        let count = log.records.len() as u64 + log.more;
        let mut header = DiscoveryHeader::new(generation, count);
        header.record_format = log.format.into();
        let mut bytes = header.as_bytes().to_vec();
        log.records.iter().for_each(|record| bytes.extend_from_slice(record.as_bytes()));
        let start = usize::try_from(page.offset).unwrap();
        let length = usize::try_from(page.bytes).unwrap();
        assert!(start % 1024 == 0 && length <= 4096, "whole records, a page at most");
        bytes.resize(bytes.len().max(start + length), 0);
        stream.send_data(id, 0, &bytes[start..start + length], Flags::LAST);
        stream.complete(done);
    }
}

impl Peer for Directory {
    fn step(&mut self, wires: &Wires) {
        while let Some((to, socket)) = wires.take_to() {
            self.asked.push(to);
            self.connections.push((to, Stream::new(socket)));
        }
        let mut connections = std::mem::take(&mut self.connections);
        for (at, stream) in &mut connections {
            stream.pump();
            while let Some(pdu) = stream.next() {
                if self.logs.contains_key(at) {
                    self.handle(*at, stream, pdu);
                }
            }
        }
        connections.retain(|(_, stream)| !stream.is_closed());
        self.connections = connections;
    }
}

struct Search {
    cx: Cx,
    hand: VirtualClock,
    wires: Wires,
    directory: Directory,
}

impl Search {
    fn over(logs: impl IntoIterator<Item = (u16, Log)>) -> Search {
        let (mut cx, hand) = test_context();
        let wires = Wires::install(&mut cx, MemoryLimits::default());
        let logs = logs.into_iter().map(|(port, log)| (address(port), log)).collect();
        Search { cx, hand, wires, directory: Directory { logs, ..Directory::default() } }
    }

    /// Searches, and gives the ports that were found.
    fn run(&mut self, controllers: &[u16]) -> Result<Vec<u16>, ConnectError> {
        let controllers: Vec<_> = controllers.iter().map(|port| address(*port)).collect();
        let mut discovery = Discovery::new(&self.cx, &default_options(), &controllers);
        for _ in 0..100_000 {
            if let Poll::Ready(outcome) = discovery.poll(&mut self.cx) {
                assert_eq!(self.cx.dma.taken(), 0, "everything is given back");
                return outcome.map(|found| found.iter().map(SocketAddr::port).collect());
            }
            self.directory.step(&self.wires);
            self.wires.report(&mut self.cx);
            self.hand.advance(Nanos::from_millis(1));
            self.cx.advance_clock();
        }
        panic!("the search never ends");
    }

    fn asked(&self) -> Vec<u16> {
        self.directory.asked.iter().map(SocketAddr::port).collect()
    }
}

#[test]
fn every_portal_of_the_subsystem_is_found_once_and_nothing_else() {
    let mut of_another = portal(1);
    of_another.subsystem_nqn[28] ^= 1;
    let mut by_rdma = portal(2);
    by_rdma.transport_type = value::TRANSPORT_RDMA;
    let mut by_tls = portal(3);
    by_tls.requirements = value::SECURE_CHANNEL_REQUIRED;
    let mut by_tls_too = portal(4);
    by_tls_too.transport_specific[0] = value::SECURITY_TLS_1_3;
    let mut garbled = portal(5);
    garbled.address = [0xff; 256];
    let mut itself = portal(6);
    itself.subsystem_type = value::SUBSYSTEM_CURRENT_DISCOVERY;
    let useless = [of_another, by_rdma, by_tls, by_tls_too, garbled, itself, portal(0)];
    let mut records = useless.to_vec();
    records.extend([portal(11), portal(12), portal(11), portal(13)]);
    let mut search = Search::over([(8009, Log::of(records))]);
    assert_eq!(search.run(&[8009]).unwrap(), [11, 12, 13]);
}

#[test]
fn referrals_are_followed_each_once_and_only_so_many() {
    let logs = [
        (1, Log::of(vec![referral(2), referral(1), referral(3)])),
        (2, Log::of(vec![referral(1), referral(3)])),
        (3, Log::of(vec![portal(9)])),
    ];
    let mut search = Search::over(logs);
    assert_eq!(search.run(&[1]).unwrap(), [9]);
    assert_eq!(search.asked(), [1, 2, 3]);
    // A chain without an end.
    let chain = |port: u16| (port, Log::of(vec![referral(port + 1)]));
    let mut search = Search::over((1..100).map(chain));
    let error = search.run(&[1]).unwrap_err();
    assert!(matches!(error, ConnectError::NotDiscovered { asked: CONTROLLERS_MAX, .. }), "{error}");
    assert_eq!(search.asked().len(), CONTROLLERS_MAX);
}

#[test]
fn a_controller_that_does_not_answer_leaves_time_for_the_next() {
    let mut search = Search::over([(2, Log::of(vec![portal(9)]))]);
    search.wires.refuse(&[address(3)]);
    // One says nothing, one is refused.
    assert_eq!(search.run(&[1, 3, 2]).unwrap(), [9]);
    assert!(search.cx.now() < Nanos::from_secs(10));
    let error = search.run(&[1]).unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(search.cx.now() < Nanos::from_secs(21));
}

#[test]
fn a_log_that_changes_while_it_is_read_is_read_again_but_not_for_ever() {
    let changing = |changes| Log { changes, ..Log::of((1..=9).map(portal).collect()) };
    // The header is read before the records and after, so each reading but the last sees a change.
    let last = u64::from(READS_MAX);
    let mut search = Search::over([(1, changing(last)), (2, changing(last + 1))]);
    let found: Vec<u16> = (1..=9).collect();
    assert_eq!(search.run(&[1]).unwrap(), found);
    let error = search.run(&[2]).unwrap_err();
    assert!(matches!(error, ConnectError::UnreadableLog { .. }), "{error}");
}

#[test]
fn a_log_is_taken_at_its_limits_and_refused_past_them() {
    let most = |more| Log { more, ..Log::of(vec![portal(9)]) };
    let mut search = Search::over([(1, most(RECORDS_MAX - 1)), (2, most(RECORDS_MAX))]);
    assert_eq!(search.run(&[1]).unwrap(), [9]);
    assert!(matches!(search.run(&[2]).unwrap_err(), ConnectError::UnreadableLog { .. }));
    let portals = (1..=200).map(portal).collect();
    let mut search = Search::over([(1, Log::of(portals))]);
    assert_eq!(search.run(&[1]).unwrap().len(), PORTALS_MAX);
    let future = Log { format: 1, ..Log::of(vec![portal(9)]) };
    let mut search = Search::over([(1, future), (2, Log::default())]);
    assert!(matches!(search.run(&[1]).unwrap_err(), ConnectError::UnreadableLog { .. }));
    let error = search.run(&[2]).unwrap_err();
    assert!(matches!(error, ConnectError::NotDiscovered { asked: 1, .. }), "{error}");
}

/// Our own target, discovery included, which says that it listens at these ports.
fn own_target(ports: &[u16]) -> Box<dyn Peer> {
    let TargetDescription { subsystems, .. } = own_description();
    let discovery = SubsystemConfig::new(DISCOVERY_NQN, SubsystemKind::Discovery, [7; 16]);
    let mut description = TargetDescription::new(vec![Subsystem::new(discovery).unwrap()]);
    let first = description.subsystems.len();
    for (index, subsystem) in subsystems.into_values().enumerate() {
        let id = u32::try_from(first + index).unwrap();
        description.subsystems.insert(crate::target::SubsystemId(id), subsystem);
    }
    description.portals = (0..)
        .zip(ports)
        .map(|(id, port)| Portal { id: PortalId(id), local: address(*port), advertised: None })
        .collect();
    Box::new(OwnTarget(Harness::new(description)))
}

#[test]
fn a_device_goes_where_discovery_says_and_to_the_next_portal_when_one_is_gone() {
    let (mut cx, hand) = test_context();
    let mut options = options(WhenLost::Fail);
    options.discovery = vec![address(8009)];
    options.connect.address = address(1);
    let limits = MemoryLimits::default();
    let peer = own_target(&[4420, 4421]);
    let (device, mut world) = open(&mut cx, Some(&hand), options, peer, limits).unwrap();
    assert!(device.about().unwrap().contains("127.0.0.1:4420"));
    // The portal in use and the discovery controller are gone.
    world.wires.refuse(&[address(4420), address(8009)]);
    world.is_down = true;
    world.peer = own_target(&[4420, 4421]);
    let sessions = device.sessions().unwrap();
    let mut passes = 0;
    while sessions.state().link == Link::Live {
        world.step(&mut cx);
        passes += 1;
        assert!(passes < 100_000);
    }
    world.is_down = false;
    while sessions.state().link != Link::Live {
        world.step(&mut cx);
        passes += 1;
        assert!(passes < 100_000);
    }
    assert_eq!(sessions.state().number, 2);
    assert!(device.about().unwrap().contains("127.0.0.1:4421"));
}

#[test]
fn a_subsystem_that_nobody_knows_cannot_be_opened() {
    let (mut cx, hand) = test_context();
    let mut options = options(WhenLost::Fail);
    options.discovery = vec![address(8009)];
    options.connect.subsystem_nqn = "nqn.2019-05.io.openebs:other".parse().unwrap();
    let limits = MemoryLimits::default();
    let error = open(&mut cx, Some(&hand), options, own_target(&[4420]), limits).unwrap_err();
    assert!(matches!(error, ConnectError::NotDiscovered { asked: 1, .. }), "{error}");
    assert_eq!(cx.dma.taken(), 0);
}
