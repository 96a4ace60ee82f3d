//! The public conformance suite, `iscsi-test-cu` of libiscsi, against a target on loopback.
//!
//! Needs the Debian package libiscsi-bin, which `cargo xtask test` makes sure of. All suites run,
//! those that destroy data among them.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use bdev::scsi::{Identity, LogicalUnit};
use bdev::{Geometry, Malloc};
use iscsi::target::{Initiators, Sessions, Target, TargetCore, TargetDescription};
use reactor::cores::CoreList;
use reactor::dma::{PagePreference, PoolConfig};
use reactor::reactor::{IdlePolicy, ReactorConfig, StartError};
use reactor::{Nanos, Reactor, mesh};
use uuid::Uuid;

const NAME: &str = "iqn.2019-05.io.openebs:ram";

/// A RAM disk of 64 MiB.
fn description() -> TargetDescription {
    let geometry = Geometry { block_bytes: 512, blocks: 1 << 17 };
    let disk = Arc::new(Malloc::new("ram", geometry, None).expect("a RAM disk of 64 MiB"));
    let identity = Identity {
        uuid: Uuid::from_u128(1),
        device_name: NAME.into(),
        port_name: format!("{NAME},t,0x0001"),
        port: 1,
    };
    TargetDescription::new(vec![Target {
        name: NAME.into(),
        units: vec![(0, Arc::new(LogicalUnit::new(disk, identity)))],
        credentials: None,
        initiators: Initiators::Any,
    }])
}

#[test]
fn no_test_of_the_public_suite_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let core = CoreList::allowed().unwrap().as_slice()[0];
    let pool = PoolConfig { chunks: 8, pages: PagePreference::Ordinary };
    let idle = IdlePolicy::Adaptive { spin: Nanos::from_micros(100) };
    let reactor = Reactor::new(ReactorConfig { core, idle, pool, seed: 1 }).unwrap();
    let peers = mesh::connect(&[reactor.waker().clone()]).pop().unwrap();
    let handle = reactor
        .start(move |cx| {
            let sessions = Arc::new(Sessions::default());
            let mut core = TargetCore::new(Arc::new(description()), sessions, peers);
            core.listen(cx, listener.into()).unwrap();
            Ok::<_, StartError>(core)
        })
        .unwrap();
    let url = format!("iscsi://{address}/{NAME}/0");
    let output = Command::new("iscsi-test-cu")
        .args(["--dataloss", "--verbose", "--test=ALL", &url])
        .output()
        .expect("iscsi-test-cu runs; it is in the Debian package libiscsi-bin");
    assert!(handle.stop(Nanos::from_secs(1)));
    handle.join().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // Type, then total, ran, passed, failed and inactive.
    let counts = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let tests = counts.into_iter().find(|words| words.first() == Some(&"tests"));
    let tests = tests.unwrap_or_else(|| panic!("no summary in {said}"));
    let [_, _, ran, passed, failed, ..] = tests[..] else { panic!("{tests:?}") };
    assert!(ran.parse::<u32>().unwrap() >= 200, "{said}");
    assert_eq!((passed, failed), (ran, "0"), "{said}");
}
