//! The JSON of `-o json`: an object whose keys and values never change their meaning; keys may be
//! added. docs/client.md lists them, and a test holds the two together.

use api::v1;
use serde_json::{Value, json};

use super::call::{Answer, CallError};
use super::nexus::{children_json, nexus_json, rebuilds_json};

/// The JSON of an answer, indented, with a line end.
pub(super) fn json_text(answer: &Answer) -> String {
    format!("{:#}\n", json(answer))
}

fn json(answer: &Answer) -> Value {
    let all = |found: Vec<Value>| Value::Array(found);
    match answer {
        Answer::Done => json!({}),
        Answer::Devices(found) => json!({ "devices": all(found.iter().map(device).collect()) }),
        Answer::Device(one) => json!({ "device": device(one) }),
        Answer::Subsystems(found) => {
            json!({ "subsystems": all(found.iter().map(subsystem).collect()) })
        }
        Answer::Subsystem(one) => json!({ "subsystem": subsystem(one) }),
        Answer::Namespaces(found) => {
            json!({ "namespaces": all(found.iter().map(namespace).collect()) })
        }
        Answer::Namespace(one) => json!({ "namespace": namespace(one) }),
        Answer::Hosts(found) => json!({ "hosts": all(found.iter().map(hosts).collect()) }),
        Answer::Portals(found) => json!({ "portals": all(found.iter().map(portal).collect()) }),
        Answer::Portal(one) => json!({ "portal": portal(one) }),
        Answer::AnaStates(found) => {
            json!({ "ana_states": all(found.iter().map(ana_state).collect()) })
        }
        Answer::Faults(found) => {
            let rules = |one: &v1::Device| Some(of_device(one, faults(one.fault.as_ref()?)));
            json!({ "faults": all(found.iter().filter_map(rules).collect()) })
        }
        Answer::Delays(found) => {
            let rules = |one: &v1::Device| Some(of_device(one, delays(one.delay.as_ref()?)));
            json!({ "delays": all(found.iter().filter_map(rules).collect()) })
        }
        Answer::Counters(found) => json!({
            "cores": all(found.cores.iter().map(core).collect()),
            "namespaces": all(found.namespaces.iter().map(moved).collect()),
        }),
        Answer::Nexuses(found) => json!({ "nexuses": all(found.iter().map(nexus_json).collect()) }),
        Answer::Nexus(one) => json!({ "nexus": nexus_json(one) }),
        Answer::Children(found) => {
            json!({ "nexuses": all(found.iter().map(children_json).collect()) })
        }
        Answer::Rebuilds(found) => rebuilds_json(found),
    }
}

/// The JSON of a failure, on one line.
pub(super) fn error(error: &CallError, line: &str) -> Value {
    let (kind, field, subject) = match error {
        CallError::Refused { detail, .. } => {
            let kind = word(detail.kind().as_str_name(), "ERROR_KIND_");
            (kind, given(&detail.field), given(&detail.subject))
        }
        CallError::Server { .. } => (String::from("usage"), None, None),
        CallError::Unreachable { .. } | CallError::Start(_) => {
            (String::from("unreachable"), None, None)
        }
        CallError::NoAnswer { .. } => (String::from("no_answer"), None, None),
    };
    json!({ "error": { "kind": kind, "message": line, "field": field, "subject": subject } })
}

/// A name of an enumeration as JSON has it.
pub(super) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// A text that is empty where there is nothing.
pub(super) fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn presence(presence: v1::Presence) -> String {
    word(presence.as_str_name(), "PRESENCE_")
}

pub(super) fn ana(state: v1::AnaState) -> String {
    word(state.as_str_name(), "ANA_STATE_")
}

pub(super) fn policy(policy: v1::HostPolicy) -> String {
    word(policy.as_str_name(), "HOST_POLICY_")
}

/// Bytes of so many blocks; what a server says is not trusted to fit.
pub(super) fn len_bytes(block_bytes: u32, blocks: u64) -> u64 {
    u64::from(block_bytes).saturating_mul(blocks)
}

fn device(device: &v1::Device) -> Value {
    json!({
        "name": device.name,
        "uri": device.uri,
        "presence": presence(device.presence()),
        "block_bytes": device.block_bytes,
        "blocks": device.blocks,
        "len_bytes": len_bytes(device.block_bytes, device.blocks),
        "uuid": given(&device.uuid),
        "about": given(&device.about),
        "instance": device.instance,
        "fault": device.fault.as_ref().map(faults),
        "delay": device.delay.as_ref().map(delays),
    })
}

fn of_device(device: &v1::Device, rules: Value) -> Value {
    json!({ "device": device.name, "rules": rules })
}

fn faults(rules: &v1::FaultRules) -> Value {
    let one = |rule: &v1::FaultRule| {
        json!({
            "meets": meets(rule.meets.as_ref()),
            "moment": word(rule.moment().as_str_name(), "FAULT_MOMENT_"),
            "status_code_type": rule.status_code_type,
            "status_code": rule.status_code,
        })
    };
    json!({ "seed": rules.seed, "rules": rules.rules.iter().map(one).collect::<Vec<_>>() })
}

fn delays(rules: &v1::DelayRules) -> Value {
    let one = |rule: &v1::DelayRule| {
        json!({
            "meets": meets(rule.meets.as_ref()),
            "least_ns": rule.least_ns,
            "most_ns": rule.most_ns,
        })
    };
    json!({ "seed": rules.seed, "rules": rules.rules.iter().map(one).collect::<Vec<_>>() })
}

fn meets(meets: Option<&v1::Match>) -> Value {
    let meets = meets.cloned().unwrap_or_default();
    let operations: Vec<String> =
        meets.operations().map(|operation| word(operation.as_str_name(), "OPERATION_")).collect();
    let (first, every) = match meets.count {
        Some(v1::r#match::Count::First(first)) => (Some(first), None),
        Some(v1::r#match::Count::Every(every)) => (None, Some(every)),
        None => (None, None),
    };
    json!({
        "operations": operations,
        "first_block": meets.first_block,
        "blocks": meets.blocks,
        "first": first,
        "every": every,
        "probability": meets.probability,
    })
}

fn subsystem(subsystem: &v1::Subsystem) -> Value {
    let ids = subsystem.controller_ids.unwrap_or_default();
    json!({
        "nqn": subsystem.nqn,
        "presence": presence(subsystem.presence()),
        "serial": subsystem.serial,
        "controller_ids": { "first": ids.first, "last": ids.last },
        "queue_entries": subsystem.queue_entries,
        "host_policy": policy(subsystem.host_policy()),
        "hosts": subsystem.hosts,
        "namespaces": subsystem.namespaces.iter().map(namespace).collect::<Vec<_>>(),
    })
}

fn namespace(namespace: &v1::Namespace) -> Value {
    json!({
        "subsystem": namespace.subsystem,
        "nsid": namespace.namespace,
        "presence": presence(namespace.presence()),
        "device": namespace.device,
        "uuid": namespace.uuid,
        "access": word(namespace.access().as_str_name(), "ACCESS_"),
        "ana_state": ana(namespace.ana_state()),
        "block_bytes": namespace.block_bytes,
        "blocks": namespace.blocks,
        "len_bytes": len_bytes(namespace.block_bytes, namespace.blocks),
        "reservation_failures": namespace.reservation_failures,
        "reservation_failure": given(&namespace.reservation_failure),
    })
}

fn hosts(subsystem: &v1::Subsystem) -> Value {
    json!({
        "subsystem": subsystem.nqn,
        "host_policy": policy(subsystem.host_policy()),
        "hosts": subsystem.hosts,
    })
}

fn ana_state(namespace: &v1::Namespace) -> Value {
    json!({
        "subsystem": namespace.subsystem,
        "nsid": namespace.namespace,
        "ana_state": ana(namespace.ana_state()),
    })
}

fn portal(portal: &v1::Portal) -> Value {
    json!({
        "id": portal.id,
        "presence": presence(portal.presence()),
        "address": portal.address,
        "advertised": given(&portal.advertised),
    })
}

fn moved(counters: &v1::NamespaceCounters) -> Value {
    json!({
        "subsystem": counters.subsystem,
        "nsid": counters.namespace,
        "read_bytes": counters.read_bytes,
        "written_bytes": counters.written_bytes,
        "read_commands": counters.read_commands,
        "write_commands": counters.write_commands,
    })
}

fn core(core: &v1::CoreCounters) -> Value {
    json!({
        "core": core.core,
        "passes": core.passes,
        "busy_passes": core.busy_passes,
        "busy_ns": core.busy_ns,
        "spin_ns": core.spin_ns,
        "sleep_ns": core.sleep_ns,
        "sleeps": core.sleeps,
        "ios": core.ios,
        "io_bytes": core.io_bytes,
        "io_ns": core.io_ns,
        "connections": core.connections,
        "protocol_errors": core.protocol_errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/client.md");

    /// Every key of a value, at any depth.
    fn keys(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    found.push(key.clone());
                    keys(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }

    /// An answer of every kind, with everything in it that can be.
    fn answers() -> Vec<Answer> {
        let meets = Some(v1::Match { operations: vec![6, 7], ..Default::default() });
        let fault = v1::FaultRule { meets: meets.clone(), moment: 1, ..Default::default() };
        let delay = v1::DelayRule { meets, ..Default::default() };
        let device = v1::Device {
            block_bytes: u32::MAX,
            blocks: u64::MAX,
            fault: Some(v1::FaultRules { rules: vec![fault], seed: 0 }),
            delay: Some(v1::DelayRules { rules: vec![delay], seed: 0 }),
            ..Default::default()
        };
        let namespace = v1::Namespace { ana_state: 2, access: 2, ..Default::default() };
        let subsystem = v1::Subsystem { namespaces: vec![namespace.clone()], ..Default::default() };
        let rebuild = Some(v1::RebuildProgress { rate: u64::MAX, ..Default::default() });
        let child = v1::NexusChild { state: 7, fault: 2, rebuild, ..Default::default() };
        let history = vec![v1::RebuildRecord { took_ns: u64::MAX, ..Default::default() }];
        let differences = vec![v1::Difference::default()];
        let verification = Some(v1::Verification { differences, ..Default::default() });
        let children = vec![child];
        let nexus = v1::Nexus { children, history, verification, ..Default::default() };
        vec![
            Answer::Done,
            Answer::Devices(vec![device.clone()]),
            Answer::Device(device.clone()),
            Answer::Subsystems(vec![subsystem.clone()]),
            Answer::Subsystem(subsystem.clone()),
            Answer::Namespaces(vec![namespace.clone()]),
            Answer::Namespace(namespace.clone()),
            Answer::Hosts(vec![subsystem]),
            Answer::Portals(vec![v1::Portal::default()]),
            Answer::Portal(v1::Portal::default()),
            Answer::AnaStates(vec![namespace]),
            Answer::Faults(vec![device.clone()]),
            Answer::Delays(vec![device]),
            Answer::Counters(v1::ReadCountersResponse {
                cores: vec![v1::CoreCounters::default()],
                namespaces: vec![v1::NamespaceCounters::default()],
            }),
            Answer::Nexuses(vec![nexus.clone()]),
            Answer::Nexus(nexus.clone()),
            Answer::Children(vec![nexus.clone()]),
            Answer::Rebuilds(vec![nexus]),
        ]
    }

    #[test]
    fn every_key_is_documented_and_in_snake_case() {
        for answer in answers() {
            let value: Value = serde_json::from_str(&json_text(&answer)).unwrap();
            let mut found = Vec::new();
            keys(&value, &mut found);
            for key in found {
                assert!(DOCUMENT.contains(&format!("`{key}`")), "{key} is in docs/client.md");
                assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            }
        }
    }

    #[test]
    fn words_are_in_snake_case() {
        let [.., namespaces, _] = &answers()[4..7] else { unreachable!() };
        let text = json(namespaces).to_string();
        assert!(text.contains("\"ana_state\":\"non_optimized\""), "{text}");
        assert!(text.contains("\"access\":\"read_only\""), "{text}");
        let text = json(&answers()[2]).to_string();
        assert!(text.contains("[\"compare\",\"compare_and_write\"]"), "{text}");
    }

    #[test]
    fn a_failure_says_its_kind() {
        let detail = v1::ErrorDetail { kind: 4, subject: "ram0".into(), ..Default::default() };
        let refused = CallError::Refused { message: "m".into(), detail: Box::new(detail) };
        let value = error(&refused, "line");
        assert_eq!(value["error"]["kind"], "in_use");
        assert_eq!(value["error"]["subject"], "ram0");
        assert!(value["error"]["field"].is_null());
    }

    #[test]
    fn tables_take_every_answer() {
        for answer in answers() {
            let text = super::super::table::text(&answer);
            assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        }
    }
}
