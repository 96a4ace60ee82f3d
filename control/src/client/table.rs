//! Tables for people: a line an object, plain text, no wider than the terminal.

use std::time::Duration;

use api::v1;
use comfy_table::{ContentArrangement, Table, presets};

use super::call::Answer;
use super::nexus;
use super::shape::{ana, given, len_bytes, policy, presence};

/// The text of an answer; empty where there is nothing to show.
pub(super) fn text(answer: &Answer) -> String {
    match answer {
        Answer::Done => String::new(),
        Answer::Devices(all) => devices(all),
        Answer::Device(one) => devices(std::slice::from_ref(one)),
        Answer::Subsystems(all) => subsystems(all),
        Answer::Subsystem(one) => subsystems(std::slice::from_ref(one)),
        Answer::Namespaces(all) => namespaces(all),
        Answer::Namespace(one) => namespaces(std::slice::from_ref(one)),
        Answer::Hosts(all) => hosts(all),
        Answer::Portals(all) => portals(all),
        Answer::Portal(one) => portals(std::slice::from_ref(one)),
        Answer::AnaStates(all) => ana_states(all),
        Answer::Faults(all) => faults(all),
        Answer::Delays(all) => delays(all),
        Answer::Counters(all) => counters(&all.cores) + "\n" + &moved(&all.namespaces),
        Answer::Nexuses(all) => nexus::nexuses_table(all),
        Answer::Nexus(one) => {
            let one = std::slice::from_ref(one);
            nexus::nexuses_table(one) + "\n" + &nexus::children_table(one)
        }
        Answer::Children(all) => nexus::children_table(all),
        Answer::Rebuilds(all) => nexus::rebuilds_table(all),
    }
}

pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|name| name.to_ascii_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    let lines = table.lines().map(|line| line.trim().to_owned() + "\n");
    lines.collect()
}

/// A dash where there is nothing.
fn or_dash(text: &str) -> String {
    given(text).unwrap_or("-").to_owned()
}

/// A size in the largest unit that it is a whole number of, or nearly.
pub(super) fn size(block_bytes: u32, blocks: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let bytes = len_bytes(block_bytes, blocks);
    match UNITS.iter().find(|(_, shift)| bytes >= 1 << shift) {
        Some((unit, shift)) if bytes.trailing_zeros() >= *shift => {
            format!("{} {unit}", bytes >> shift)
        }
        Some((unit, shift)) => {
            let whole = u64::from(1_u32 << 10) << (shift - 10);
            format!("{:.1} {unit}", bytes as f64 / whole as f64)
        }
        None => format!("{bytes} B"),
    }
}

fn devices(all: &[v1::Device]) -> String {
    let row = |device: &v1::Device| {
        let rules = [(device.fault.is_some(), "faults"), (device.delay.is_some(), "delays")];
        let rules: Vec<&str> = rules.iter().filter(|rule| rule.0).map(|rule| rule.1).collect();
        vec![
            device.name.clone(),
            presence(device.presence()),
            size(device.block_bytes, device.blocks),
            device.block_bytes.to_string(),
            or_dash(&rules.join(" ")),
            device.uri.clone(),
            or_dash(&device.about),
        ]
    };
    table(&["name", "state", "size", "block", "rules", "uri", "about"], all.iter().map(row))
}

fn subsystems(all: &[v1::Subsystem]) -> String {
    let row = |subsystem: &v1::Subsystem| {
        let ids = subsystem.controller_ids.unwrap_or_default();
        let hosts = match subsystem.host_policy() {
            v1::HostPolicy::Any => String::from("any"),
            _ => subsystem.hosts.len().to_string(),
        };
        vec![
            subsystem.nqn.clone(),
            presence(subsystem.presence()),
            subsystem.namespaces.len().to_string(),
            hosts,
            format!("{}-{}", ids.first, ids.last),
            subsystem.queue_entries.to_string(),
            subsystem.serial.clone(),
        ]
    };
    let header = ["nqn", "state", "namespaces", "hosts", "controllers", "queue", "serial"];
    table(&header, all.iter().map(row))
}

fn namespaces(all: &[v1::Namespace]) -> String {
    let row = |namespace: &v1::Namespace| {
        let access = match namespace.access() {
            v1::Access::ReadOnly => "ro",
            _ => "rw",
        };
        vec![
            namespace.subsystem.clone(),
            namespace.namespace.to_string(),
            namespace.device.clone(),
            presence(namespace.presence()),
            size(namespace.block_bytes, namespace.blocks),
            String::from(access),
            ana(namespace.ana_state()),
            namespace.uuid.clone(),
            reservations(namespace),
        ]
    };
    let header =
        ["subsystem", "nsid", "device", "state", "size", "access", "ana", "uuid", "reservations"];
    table(&header, all.iter().map(row))
}

/// What is wrong with the record of a namespace's reservations; a dash where nothing is.
fn reservations(namespace: &v1::Namespace) -> String {
    match namespace.reservation_failures {
        0 => String::from("-"),
        count => format!("not stored {count} times: {}", namespace.reservation_failure),
    }
}

fn hosts(all: &[v1::Subsystem]) -> String {
    let rows = all.iter().flat_map(|subsystem| {
        let allowed = policy(subsystem.host_policy());
        let row = move |host: &str| vec![subsystem.nqn.clone(), allowed.clone(), or_dash(host)];
        let hosts = subsystem.hosts.iter().map(String::as_str);
        let none = subsystem.hosts.is_empty().then_some("");
        hosts.chain(none).map(row).collect::<Vec<_>>()
    });
    table(&["subsystem", "allowed", "host"], rows)
}

fn portals(all: &[v1::Portal]) -> String {
    let row = |portal: &v1::Portal| {
        vec![
            portal.id.to_string(),
            presence(portal.presence()),
            portal.address.clone(),
            or_dash(&portal.advertised),
        ]
    };
    table(&["id", "state", "address", "advertised"], all.iter().map(row))
}

fn ana_states(all: &[v1::Namespace]) -> String {
    let row = |namespace: &v1::Namespace| {
        let state = ana(namespace.ana_state());
        vec![namespace.subsystem.clone(), namespace.namespace.to_string(), state]
    };
    table(&["subsystem", "nsid", "state"], all.iter().map(row))
}

fn faults(all: &[v1::Device]) -> String {
    let rows = all.iter().flat_map(|device| {
        let rules = device.fault.iter().flat_map(|fault| &fault.rules);
        rules.map(|rule| {
            let status = rule.status_code_type << u8::BITS | rule.status_code;
            let moment = super::shape::word(rule.moment().as_str_name(), "FAULT_MOMENT_");
            let effect = vec![device.name.clone(), format!("{status:#05x}"), moment];
            [effect, meets(rule.meets.as_ref())].concat()
        })
    });
    let header = ["device", "status", "moment", "operations", "blocks", "count", "chance"];
    table(&header, rows)
}

fn delays(all: &[v1::Device]) -> String {
    let rows = all.iter().flat_map(|device| {
        let rules = device.delay.iter().flat_map(|delay| &delay.rules);
        rules.map(|rule| {
            let late = [rule.least_ns, rule.most_ns];
            let late = late.map(Duration::from_nanos);
            let effect =
                vec![device.name.clone(), format!("{:?}", late[0]), format!("{:?}", late[1])];
            [effect, meets(rule.meets.as_ref())].concat()
        })
    });
    let header = ["device", "least", "most", "operations", "blocks", "count", "chance"];
    table(&header, rows)
}

/// Operations, blocks, count and chance of a rule.
fn meets(meets: Option<&v1::Match>) -> Vec<String> {
    let meets = meets.cloned().unwrap_or_default();
    let names = meets.operations().map(|one| super::shape::word(one.as_str_name(), "OPERATION_"));
    let operations = match names.collect::<Vec<_>>() {
        names if names.is_empty() => String::from("all"),
        names => names.join(" "),
    };
    let blocks = match (meets.first_block, meets.blocks) {
        (0, None) => String::from("all"),
        (first, None) => format!("{first}.."),
        (first, Some(blocks)) => format!("{first}..{}", first.saturating_add(blocks)),
    };
    let count = match meets.count {
        None => String::from("all"),
        Some(v1::r#match::Count::First(number)) => format!("first {number}"),
        Some(v1::r#match::Count::Every(number)) => format!("every {number}"),
    };
    vec![operations, blocks, count, meets.probability.unwrap_or(1.0).to_string()]
}

fn counters(all: &[v1::CoreCounters]) -> String {
    let row = |core: &v1::CoreCounters| {
        let mean_us = core.io_ns as f64 / core.ios.max(1) as f64 / 1000.0;
        let total = core.busy_ns as f64 + core.spin_ns as f64 + core.sleep_ns as f64;
        vec![
            core.core.to_string(),
            core.ios.to_string(),
            size(1, core.io_bytes),
            format!("{mean_us:.1} us"),
            core.connections.to_string(),
            format!("{:.0} %", core.busy_ns as f64 / total.max(1.0) * 100.0),
            core.protocol_errors.to_string(),
        ]
    };
    let header = ["core", "ios", "bytes", "mean", "connections", "busy", "protocol errors"];
    table(&header, all.iter().map(row))
}

fn moved(all: &[v1::NamespaceCounters]) -> String {
    let row = |counters: &v1::NamespaceCounters| {
        vec![
            counters.subsystem.clone(),
            counters.namespace.to_string(),
            counters.read_commands.to_string(),
            size(1, counters.read_bytes),
            counters.write_commands.to_string(),
            size(1, counters.written_bytes),
        ]
    };
    table(&["subsystem", "nsid", "reads", "read", "writes", "written"], all.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_an_object() {
        let portal = v1::Portal { presence: 2, address: "[::1]:4420".into(), ..Default::default() };
        let shown = text(&Answer::Portals(vec![portal.clone(), portal]));
        let lines: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["ID", "STATE", "ADDRESS", "ADVERTISED"]);
        assert_eq!(lines[1..], [["0", "present", "[::1]:4420", "-"]; 2]);
    }

    #[test]
    fn reservations_that_could_not_be_stored_show_with_the_reason() {
        let well = v1::Namespace { uuid: "u".into(), ..Default::default() };
        let failing = v1::Namespace {
            reservation_failures: 3,
            reservation_failure: "disk full".into(),
            ..well.clone()
        };
        let shown = text(&Answer::Namespaces(vec![well, failing]));
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines[1].split_whitespace().last() == Some("-"), "{shown}");
        assert!(lines[2].ends_with("not stored 3 times: disk full"), "{shown}");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(512, 1), "512 B");
        assert_eq!(size(512, 2048), "1 MiB");
        assert_eq!(size(512, 3 << 20), "1.5 GiB");
        assert_eq!(size(u32::MAX, u64::MAX), "16777216.0 TiB");
    }
}
