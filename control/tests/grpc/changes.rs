//! What a running daemon serves is listed and changed.

use std::time::{Duration, Instant};

use bdev::Status;

use super::daemon::{CONFIG, Daemon, NQN};
use super::host::Host;

#[test]
fn everything_can_be_added_listed_and_removed() {
    let (daemon, line) = Daemon::start(CONFIG, "");
    assert!(line.starts_with("nvme connect -t tcp -a 127.0.0.1 -s "), "{line}");
    let listed = daemon.ask(&["device", "list"]);
    assert_eq!(listed["devices"][0]["name"], "ram0");
    assert_eq!(listed["devices"][0]["len_bytes"], 8 << 20);
    let added = daemon.ask(&["device", "add", "malloc:///ram1?size_mb=4&blk_size=4096"]);
    assert_eq!(added["device"]["presence"], "present");
    assert_eq!(added["device"]["block_bytes"], 4096);

    let other = "nqn.2019-05.io.openebs:other";
    let host = "nqn.2014-08.org.nvmexpress:host";
    let words = ["subsystem", "add", other, "--host", host, "--controller-ids", "1-9"];
    let added = daemon.ask(&[&words[..], &["--queue-entries", "64"]].concat());
    assert_eq!(added["subsystem"]["hosts"][0], host);
    assert_eq!(added["subsystem"]["controller_ids"]["last"], 9);
    assert_eq!(added["subsystem"]["queue_entries"], 64);
    let added = daemon.ask(&["namespace", "add", other, "ram1", "--nsid", "5", "--read-only"]);
    assert_eq!(added["namespace"]["nsid"], 5);
    assert_eq!(added["namespace"]["access"], "read_only");
    let listed = daemon.ask(&["namespace", "list", other]);
    assert_eq!(listed["namespaces"].as_array().unwrap().len(), 1);

    assert_eq!(daemon.refused(&["device", "remove", "ram1"]).0, "in_use");
    daemon.ask(&["host", "allow", other, "any"]);
    daemon.ask(&["host", "remove", other, host]);
    assert_eq!(daemon.ask(&["host", "list", other])["hosts"][0]["host_policy"], "any");
    daemon.ask(&["namespace", "remove", other, "5"]);
    daemon.ask(&["subsystem", "remove", other]);
    daemon.ask(&["device", "remove", "ram1"]);
    let listed = daemon.ask(&["subsystem", "list"]);
    assert_eq!(listed["subsystems"].as_array().unwrap().len(), 1);
    assert_eq!(listed["subsystems"][0]["nqn"], NQN);
    assert_eq!(daemon.refused(&["device", "remove", "ram1"]).0, "not_found");
}

#[test]
fn a_host_sees_states_sizes_and_faults_change() {
    let (daemon, _) = Daemon::start(CONFIG, "");
    let mut host = Host::connect(daemon.portal(), NQN, 1);
    assert!(host.read().is_success());
    daemon.ask(&["fault", "set", "ram0", "--operation", "read", "--status", "0x281"]);
    assert!(host.read().has_code(Status::from_code(0x281)));
    let listed = daemon.ask(&["fault", "list"]);
    assert_eq!(listed["faults"][0]["rules"]["rules"][0]["status_code"], 0x81);
    daemon.ask(&["fault", "clear", "ram0"]);
    assert!(host.read().is_success());

    let set = daemon.ask(&["ana", "set", NQN, "inaccessible", "--nsid", "1"]);
    assert_eq!(set["subsystem"]["namespaces"][0]["ana_state"], "inaccessible");
    assert!(host.read().has_code(Status::from_code(0x302)), "inaccessible");
    daemon.ask(&["ana", "set", NQN, "optimized"]);
    assert_eq!(daemon.ask(&["ana", "list"])["ana_states"][0]["ana_state"], "optimized");
    assert!(host.read().is_success());

    let counters = daemon.ask(&["counters", "list"]);
    assert_eq!(counters["cores"][0]["connections"], 2, "admin queue and I/O queue: {counters}");
    assert!(counters["cores"][0]["ios"].as_u64().unwrap() >= 1);
}

#[test]
fn a_file_that_grew_is_resized() {
    let directory = super::daemon::scratch();
    let path = directory.join("disk");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let name = path.to_str().unwrap();
    let (daemon, _) = Daemon::start(CONFIG, "");
    let uri = format!("aio://{name}?blk_size=512");
    daemon.ask(&["device", "add", &uri]);
    daemon.ask(&["namespace", "add", NQN, name]);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    let resized = daemon.ask(&["namespace", "resize", NQN, "2"]);
    assert_eq!(resized["namespace"]["len_bytes"], 2 << 20);
    let resized = daemon.ask(&["device", "resize", name]);
    assert_eq!(resized["device"]["len_bytes"], 2 << 20);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_command_that_a_stuck_device_holds_up_holds_up_no_other() {
    let (daemon, _) = Daemon::start(CONFIG, "");
    daemon.ask(&["delay", "set", "ram0", "20s", "--operation", "read"]);
    let mut host = Host::connect(daemon.portal(), NQN, 1);
    host.send_read();
    // The read has reached the device once the core has seen all that the host sent.
    std::thread::sleep(Duration::from_millis(300));
    let server = daemon.server();
    let stuck = std::thread::spawn(move || {
        let words = ["--timeout", "4s", "namespace", "remove", NQN, "1"];
        (super::daemon::failure(&server, &words), Instant::now())
    });
    std::thread::sleep(Duration::from_millis(300));
    daemon.ask(&["--timeout", "2s", "device", "list"]);
    daemon.ask(&["--timeout", "2s", "device", "add", "null:///other?size_mb=1"]);
    daemon.ask(&["--timeout", "2s", "namespace", "list"]);
    let others_done = Instant::now();
    let ((code, error), ended) = stuck.join().unwrap();
    assert_eq!((code, error["error"]["kind"].as_str()), (1, Some("deadline")), "{error}");
    assert!(others_done < ended, "the others did not wait for it");
}
