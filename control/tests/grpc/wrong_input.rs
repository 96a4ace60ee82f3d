//! Every field of every command absent, empty, too long, huge: refused with a code and words, and
//! the daemon serves on.

use super::daemon::{CONFIG, Daemon, NQN, failure};

const OTHER: &str = "nqn.2019-05.io.openebs:other";

/// Words of a client, and the kinds of error of which one is to come of them.
type Case<'a> = (&'a [&'a str], &'a [&'a str]);

/// Runs clients that are to be refused, after which the daemon serves as before.
fn check(cases: &[Case<'_>]) {
    let (daemon, _) = Daemon::start(CONFIG, "");
    let mut wrong = Vec::new();
    for (words, kinds) in cases {
        let (code, error) = failure(&daemon.server(), words);
        let kind = error["error"]["kind"].as_str().unwrap_or_default();
        let message = error["error"]["message"].as_str().unwrap_or_default();
        if code != 1 || !kinds.contains(&kind) || message.is_empty() || message.len() > 1100 {
            let words: Vec<String> =
                words.iter().map(|word| word.chars().take(40).collect()).collect();
            wrong.push(format!("{words:?}: {code}, {kind}: {message:.200}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(daemon.ask(&["device", "list"])["devices"].as_array().unwrap().len(), 1);
}

#[test]
fn wrong_devices_and_subsystems_are_refused() {
    let long = "x".repeat(60_000);
    let long_nqn = format!("nqn.2019-05.io.openebs:{}", "x".repeat(300));
    let long_uri = format!("malloc:///{long}?size_mb=1");
    let huge = u64::MAX.to_string();
    check(&[
        (&["device", "add", ""], &["invalid"]),
        (&["device", "add", &long_uri], &["invalid"]),
        (&["device", "add", "malloc:///a"], &["invalid"]),
        (&["device", "add", "malloc:///a?size_mb=18446744073709551615"], &["invalid"]),
        (&["device", "add", "malloc:///a?size_mb=1000000000"], &["device"]),
        (&["device", "add", "/no/such/disk"], &["device"]),
        (&["device", "remove", ""], &["invalid", "not_found"]),
        (&["device", "remove", &long], &["invalid", "not_found"]),
        (&["device", "resize", "ram0", "0"], &["invalid", "not_supported"]),
        (&["device", "resize", "ram0", &huge], &["invalid", "not_supported"]),
        (&["subsystem", "add", ""], &["invalid"]),
        (&["subsystem", "add", &long_nqn], &["invalid"]),
        (&["subsystem", "add", &long], &["invalid"]),
        (&["subsystem", "add", "nqn.2014-08.org.nvmexpress.discovery"], &["invalid"]),
        (&["subsystem", "add", OTHER, "--controller-ids", "0-1"], &["invalid"]),
        (&["subsystem", "add", OTHER, "--controller-ids", "2-1"], &["invalid"]),
        (&["subsystem", "add", OTHER, "--controller-ids", "1-4294967295"], &["invalid"]),
        (&["subsystem", "add", OTHER, "--queue-entries", "1"], &["invalid"]),
        (&["subsystem", "add", OTHER, "--queue-entries", "4294967295"], &["invalid"]),
        (&["subsystem", "remove", ""], &["invalid", "not_found"]),
    ]);
}

#[test]
fn wrong_namespaces_hosts_portals_and_states_are_refused() {
    let long = "x".repeat(60_000);
    check(&[
        (&["namespace", "add", NQN, ""], &["invalid", "not_found"]),
        (&["namespace", "add", NQN, &long], &["invalid", "not_found"]),
        (&["namespace", "add", "", "ram0"], &["invalid", "not_found"]),
        (&["namespace", "add", NQN, "ram0", "--nsid", "0"], &["invalid"]),
        (&["namespace", "add", NQN, "ram0", "--nsid", "4294967295"], &["invalid"]),
        (&["namespace", "add", NQN, "ram0", "--nsid", "2", "--uuid", ""], &["invalid"]),
        (&["namespace", "add", NQN, "ram0", "--nsid", "2", "--uuid", &long], &["invalid"]),
        (&["namespace", "remove", NQN, "0"], &["invalid", "not_found"]),
        (&["namespace", "remove", NQN, "4294967295"], &["invalid", "not_found"]),
        (&["namespace", "resize", NQN, "9"], &["not_found"]),
        (&["namespace", "list", "nqn.2019-05.io.openebs:none"], &["not_found"]),
        (&["host", "add", NQN, ""], &["invalid"]),
        (&["host", "add", NQN, &long], &["invalid"]),
        (&["host", "remove", NQN, "nqn.2014-08.org.nvmexpress:none"], &["not_found"]),
        (&["portal", "add", ""], &["invalid"]),
        (&["portal", "add", "127.0.0.1"], &["invalid"]),
        (&["portal", "add", "127.0.0.1:65536"], &["invalid"]),
        (&["portal", "add", &long], &["invalid"]),
        (&["portal", "add", "192.0.2.1:4420"], &["portal"]),
        (&["portal", "add", "127.0.0.1:0", "--advertise", ""], &["invalid"]),
        (&["portal", "add", "127.0.0.1:0", "--advertise", "0.0.0.0"], &["invalid"]),
        (&["portal", "remove", "127.0.0.1:1"], &["not_found"]),
        (&["ana", "set", NQN, "change", "--nsid", "9"], &["not_found"]),
        (&["ana", "set", "", "change"], &["invalid", "not_found"]),
    ]);
}

#[test]
fn wrong_rules_are_refused() {
    let huge = u64::MAX.to_string();
    check(&[
        (&["fault", "set", "none"], &["not_found"]),
        (&["fault", "set", "ram0", "--status", "0x0"], &["invalid"]),
        (&["fault", "set", "ram0", "--status", "0xffff"], &["invalid"]),
        (&["fault", "set", "ram0", "--probability", "1.5"], &["invalid"]),
        (&["fault", "set", "ram0", "--probability", "NaN"], &["invalid"]),
        (&["fault", "set", "ram0", "--first-block", &huge, "--blocks", "1"], &["invalid"]),
        (&["fault", "set", "ram0", "--blocks", "0"], &["invalid"]),
        (&["fault", "clear", "none"], &["not_found"]),
        (&["delay", "set", "ram0", "87000s"], &["invalid"]),
        (&["delay", "set", "ram0", "2s", "--most", "1s"], &["invalid"]),
        (&["delay", "clear", "none"], &["not_found"]),
    ]);
}

#[test]
fn a_request_past_the_limit_is_refused_by_its_size() {
    let (daemon, _) = Daemon::start(CONFIG, "");
    // A single argument of a process has at most 128 KiB.
    let most = "x".repeat(120_000);
    let words = ["namespace", "add", &most, &most, "--uuid", &most];
    let (code, error) = failure(&daemon.server(), &words);
    assert_eq!((code, error["error"]["kind"].as_str()), (1, Some("invalid")), "{error}");
    daemon.ask(&["device", "list"]);
}

#[test]
fn what_makes_no_sense_is_a_matter_of_usage() {
    for words in [&["device"][..], &["device", "add"], &["ana", "set", NQN, "best"], &["x"]] {
        assert_eq!(failure("unix:/nowhere", words).0, 2, "{words:?}");
    }
    assert_eq!(failure("https://h:1", &["device", "list"]).0, 2);
    assert_eq!(failure("unix:/no/such.sock", &["device", "list"]).0, 3);
    assert_eq!(failure("http://127.0.0.1:1", &["device", "list"]).0, 3);
}
