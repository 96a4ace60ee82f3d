//! A whole engine in the process: it starts, answers on its port, and ends.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use engine::config::DMA_MIB_MIN;
use engine::portal::PortalError;
use engine::{
    CommandError, ConfigError, Engine, EngineError, ErrorKind, OneSubsystem, TargetConfig,
};
use reactor::cores::CoreList;
use reactor::dma::PagePreference;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

const GRACE: Duration = Duration::from_millis(500);

const NQN: &str = "nqn.2019-05.io.openebs:test";

fn one() -> OneSubsystem {
    let devices = vec![String::from("null:///null0?size_mb=64")];
    OneSubsystem { port: 0, ..OneSubsystem::new(NQN.parse().unwrap(), devices) }
}

fn serving(one: &OneSubsystem) -> TargetConfig {
    TargetConfig {
        pages: PagePreference::Ordinary,
        dma_mib: DMA_MIB_MIN,
        ..TargetConfig::new(one.setup())
    }
}

fn config() -> TargetConfig {
    serving(&one())
}

fn address(engine: &Engine) -> std::net::SocketAddr {
    engine.local_addresses()[0]
}

fn portal_error(error: &EngineError) -> &PortalError {
    match error {
        EngineError::Setup { source: CommandError::Portal(source), .. } => source,
        other => panic!("{other}"),
    }
}

/// Connects and exchanges ICReq for ICResp (NVMe/TCP Transport 1.0 sections 3.6.2.2 and 3.6.2.3).
fn greet(engine: &Engine) -> TcpStream {
    let mut stream = TcpStream::connect(address(engine)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = [0; 128];
    request[2] = 128;
    request[4] = 128;
    stream.write_all(&request).unwrap();
    let mut response = [0xee; 128];
    stream.read_exact(&mut response).unwrap();
    assert_eq!(response[..8], [1, 0, 128, 0, 128, 0, 0, 0], "an ICResp of 128 bytes");
    stream
}

fn assert_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is as good an end as any.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "nothing follows the ICResp: {rest:?}");
}

#[test]
fn a_target_answers_on_its_port_and_ends_within_the_grace() {
    let engine = Engine::start(&config()).unwrap();
    let port = address(&engine).port();
    assert_ne!(port, 0);
    let line = format!("nvme connect -t tcp -a 127.0.0.1 -s {port} -n {NQN}");
    assert_eq!(engine.connect_lines(), [line]);
    let address = address(&engine);
    let stream = greet(&engine);
    let begun = Instant::now();
    engine.stop(GRACE).unwrap();
    assert!(begun.elapsed() < GRACE + Duration::from_millis(400), "{:?}", begun.elapsed());
    assert_closed(stream);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_half_open_connection_does_not_keep_a_target_from_ending() {
    let engine = Engine::start(&config()).unwrap();
    let silent = TcpStream::connect(address(&engine)).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    greet(&engine);
    engine.stop(GRACE).unwrap();
    assert_closed(silent);
}

#[test]
fn a_target_that_is_dropped_ends_too() {
    let engine = Engine::start(&config()).unwrap();
    let address = address(&engine);
    drop(engine);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_port_in_use_is_refused_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Engine::start(&serving(&OneSubsystem { port, ..one() })).unwrap_err();
    assert!(matches!(portal_error(&error), PortalError::PortInUse { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("port {port} of 127.0.0.1 is in use: ")));
}

#[test]
fn an_address_of_another_machine_is_refused() {
    // TEST-NET-1 (RFC 5737): no machine has it.
    let address = "192.0.2.1".parse().unwrap();
    let error = Engine::start(&serving(&OneSubsystem { address, ..one() })).unwrap_err();
    assert!(matches!(portal_error(&error), PortalError::NoSuchAddress { .. }), "{error}");
}

#[test]
fn a_target_listens_on_ipv6() {
    let address = "::1".parse().unwrap();
    let engine = match Engine::start(&serving(&OneSubsystem { address, ..one() })) {
        // The machine has IPv6 switched off.
        Err(EngineError::Setup { source: CommandError::Portal(_), .. }) => return,
        other => other.unwrap(),
    };
    greet(&engine);
    assert!(engine.connect_lines()[0].contains(" -a ::1 "));
    engine.stop(GRACE).unwrap();
}

#[test]
fn all_cores_serve_connections() {
    let cores = CoreList::allowed().unwrap();
    let count = cores.as_slice().len();
    let engine = Engine::start(&TargetConfig { cores: Some(cores), ..config() }).unwrap();
    assert_eq!((engine.cores().count(), engine.counters().len()), (count, count));
    let streams: Vec<TcpStream> = (0..2 * count).map(|_| greet(&engine)).collect();
    let deadline = Instant::now() + PATIENCE;
    // A core publishes what it counts when it goes to sleep, soon after the last byte.
    while engine.counters().iter().any(|core| core.connections != 2) {
        assert!(Instant::now() < deadline, "{:?}", engine.counters());
        std::thread::sleep(Duration::from_millis(5));
    }
    engine.stop(GRACE).unwrap();
    streams.into_iter().for_each(assert_closed);
}

#[test]
fn a_core_that_is_not_there_is_refused_before_the_port_is_taken() {
    let cores = Some("1023".parse().unwrap());
    let error = Engine::start(&TargetConfig { cores, ..config() }).unwrap_err();
    assert!(matches!(error, EngineError::Config(ConfigError::Cores(_))), "{error}");
}

#[test]
fn a_device_that_cannot_be_opened_gives_the_port_back() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let devices = vec![String::from("pcie:///0000:01:00.0")];
    let error = Engine::start(&serving(&OneSubsystem { port, devices, ..one() })).unwrap_err();
    let EngineError::Setup { source: error, .. } = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}
