//! Nexuses of a running daemon: served, listed, changed under load.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::{Daemon, NQN};
use super::host::Host;

/// What the daemon serves: a nexus of three RAM disks.
const CONFIG: &str = r#"
[[portals]]
address = "127.0.0.1"
port = 0
[[nexuses]]
name = "n"
children = ["malloc:///a?size_mb=8", "malloc:///b?size_mb=8", "malloc:///c?size_mb=8"]
[[subsystems]]
nqn = "nqn.2019-05.io.openebs:grpc"
[[subsystems.namespaces]]
device = "n"
"#;

const C: &str = "malloc:///c?size_mb=8";
const D: &str = "malloc:///d?size_mb=8";

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The states of the children of the only nexus.
fn states(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.ask(&["nexus", "list"]);
    let children = listed["nexuses"][0]["children"].as_array().unwrap();
    children.iter().map(|child| child["state"].as_str().unwrap().to_owned()).collect()
}

fn state(answer: &Value) -> &str {
    answer["nexus"]["state"].as_str().unwrap()
}

/// A host writes and reads while the third child of a nexus leaves and the fourth device comes in
/// its place; then reads from that one alone.
fn a_child_leaves_and_another_comes(devices: [&str; 4]) {
    let [first, second, third, fourth] = devices;
    let children = format!("children = [{first:?}, {second:?}, {third:?}]");
    let ordinary = CONFIG.lines().find(|line| line.starts_with("children")).unwrap();
    let (daemon, _) = Daemon::start(&CONFIG.replace(ordinary, &children), "");
    assert_eq!(states(&daemon), ["open", "open", "open"]);
    let mut host = Host::connect(daemon.portal(), NQN, 1);
    host.write_and_check(0..200);
    let answer = daemon.ask(&["nexus", "offline", "n", third]);
    assert_eq!(state(&answer), "degraded");
    host.write_and_check(100..300);
    daemon.ask(&["nexus", "remove", "n", third]);
    host.write_and_check(200..400);
    let answer = daemon.ask(&["nexus", "add", "n", fourth]);
    assert_eq!(answer["nexus"]["children"][2]["fault"], "out_of_sync");
    host.write_and_check(0..400);
    daemon.ask(&["rebuild", "start", "n", fourth]);
    host.write_and_check(100..500);
    let until = Instant::now() + PATIENCE;
    while states(&daemon)[2] != "open" {
        assert!(Instant::now() < until, "{}", daemon.ask(&["rebuild", "list"]));
        host.write_and_check(100..500);
    }
    let history = daemon.ask(&["rebuild", "list", "n"]);
    assert_eq!(history["history"][0]["end"], "completed", "{history}");
    for old in [first, second] {
        daemon.ask(&["nexus", "fault", "n", old]);
    }
    // From the new one alone.
    host.check(0..500);
    let (kind, message) = daemon.refused(&["nexus", "fault", "n", fourth]);
    assert_eq!(kind, "in_use", "{message}");
}

#[test]
fn a_host_reads_what_it_wrote_while_a_child_leaves_and_comes_back() {
    let (a, b) = ("malloc:///a?size_mb=8", "malloc:///b?size_mb=8");
    a_child_leaves_and_another_comes([a, b, C, D]);
}

/// What a file lacks is emulated, and it is open twice on the one core: for hosts and for the
/// rebuild.
#[test]
fn a_file_is_rebuilt_on_the_core_that_serves_it() {
    let beside = std::env::current_exe().unwrap();
    let names = ["a", "b", "c", "d"].map(|name| {
        let path = beside.with_file_name(format!("nexuses-{name}-{}.disk", std::process::id()));
        std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let uris = names.each_ref().map(|name| format!("uring://{name}?blk_size=512"));
    a_child_leaves_and_another_comes(uris.each_ref().map(String::as_str));
    names.iter().for_each(|name| std::fs::remove_file(name).unwrap());
}

#[test]
fn a_paused_nexus_lets_io_wait_and_fails_none() {
    let (daemon, _) = Daemon::start(CONFIG, "");
    let mut host = Host::connect(daemon.portal(), NQN, 1);
    host.write_and_check(0..8);
    assert_eq!(daemon.ask(&["nexus", "pause", "n"])["nexus"]["paused"], true);
    host.send_read();
    assert_eq!(daemon.ask(&["nexus", "list"])["nexuses"][0]["paused"], true);
    assert!(host.is_waiting());
    assert_eq!(daemon.ask(&["nexus", "resume", "n"])["nexus"]["paused"], false);
    assert!(host.wait().is_success());
}

#[test]
fn a_nexus_is_made_shown_and_destroyed() {
    let (daemon, _) = Daemon::start(CONFIG, "");
    let words = ["nexus", "create", "m", "null:///x?size_mb=1", "null:///y?size_mb=2"];
    let made = daemon.ask(&words);
    assert_eq!((state(&made), &made["nexus"]["len_bytes"]), ("online", &Value::from(1 << 20)));
    assert_eq!(daemon.ask(&words), made, "the same again");
    let shown = daemon.ask(&["nexus", "children", "m"]);
    assert_eq!(shown["nexuses"][0]["children"][1]["device"], "y");
    assert_eq!(daemon.refused(&["device", "remove", "x"]).0, "in_use");
    assert_eq!(daemon.refused(&["device", "remove", "m"]).0, "not_supported");
    daemon.ask(&["nexus", "destroy", "m"]);
    assert_eq!(daemon.refused(&["nexus", "children", "m"]).0, "not_found");
    assert_eq!(daemon.refused(&["nexus", "destroy", "n"]).0, "in_use");
    let listed = daemon.ask(&["device", "list"]);
    assert_eq!(listed["devices"].as_array().unwrap().len(), 4, "{listed}");
}

#[test]
fn what_cannot_be_is_refused() {
    let (daemon, _) = Daemon::start(CONFIG, "");
    let long = "x".repeat(60_000);
    let cases: [(&[&str], &str); 9] = [
        (&["nexus", "create", "", "null:///x?size_mb=1"], "invalid"),
        (&["nexus", "create", &long, "null:///x?size_mb=1"], "invalid"),
        (&["nexus", "create", "m", ""], "invalid"),
        (&["nexus", "create", "m", "malloc:///a?size_mb=8"], "in_use"),
        (&["nexus", "create", "m", "null:///x?size_mb=1", "--size", "1000"], "invalid"),
        (&["nexus", "create", "m", "null:///x?size_mb=1", "--uuid", "x"], "invalid"),
        (&["nexus", "pause", "none"], "not_found"),
        (&["nexus", "remove", "n", "null:///none?size_mb=1"], "not_found"),
        (&["nexus", "add", "n", "malloc:///d?size_mb=1"], "invalid"),
    ];
    for (words, kind) in cases {
        let (found, message) = daemon.refused(words);
        assert_eq!(found, kind, "{}: {message}", &words.join(" ")[..20]);
    }
    assert_eq!(states(&daemon), ["open", "open", "open"]);
}

/// What the comparison of the members of a nexus has found, once it has ended.
fn verified(daemon: &Daemon, nexus: &str) -> Value {
    daemon.ask(&["nexus", "verify", nexus]);
    let until = Instant::now() + PATIENCE;
    loop {
        let listed = daemon.ask(&["nexus", "list"]);
        let all = listed["nexuses"].as_array().unwrap();
        let found = all.iter().find(|one| one["name"] == nexus).unwrap()["verification"].clone();
        assert!(found.is_object(), "{listed}");
        if found["state"] != "running" {
            return found;
        }
        assert!(Instant::now() < until, "{found}");
    }
}

#[test]
fn members_are_compared_and_a_block_that_differs_is_told() {
    let (daemon, _) = Daemon::start(CONFIG, "");
    let mut host = Host::connect(daemon.portal(), NQN, 1);
    host.write_and_check(0..64);
    let equal = verified(&daemon, "n");
    assert_eq!((&equal["state"], &equal["different_blocks"]), (&"completed".into(), &0.into()));
    assert_eq!(equal["done_blocks"], equal["total_blocks"]);
    let beside = std::env::current_exe().unwrap();
    let names = ["one", "two"].map(|name| {
        let path = beside.with_file_name(format!("nexuses-{name}-{}.disk", std::process::id()));
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        path
    });
    let mut spoiled = vec![7; 1 << 20];
    spoiled[3 * 4096] = 8;
    std::fs::write(&names[1], spoiled).unwrap();
    let uris = names.each_ref().map(|path| format!("uring://{}", path.display()));
    daemon.ask(&["nexus", "create", "m", &uris[0], &uris[1]]);
    let found = verified(&daemon, "m");
    assert_eq!(found["different_blocks"], 1, "{found}");
    let difference = &found["differences"][0];
    assert_eq!((&difference["start"], &difference["blocks"]), (&24.into(), &1.into()), "{found}");
    let named = [&difference["reference"], &difference["uri"]].map(|uri| uri.as_str().unwrap());
    assert_eq!(named, uris.each_ref().map(String::as_str), "{found}");
    daemon.ask(&["nexus", "destroy", "m"]);
    names.iter().for_each(|path| std::fs::remove_file(path).unwrap());
}
