//! The fields of commands: from text and numbers as they were given to what they mean.
//!
//! Every function names the field that it refuses and says what to write instead. Values that are
//! too long are not repeated.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use bdev::delay::Lateness;
use bdev::fault::Failure;
use bdev::rules::{Match, RuleSet};
use bdev::uri::DeviceUri;
use nvmf::fabrics::Nqn;
use nvmf::fabrics::nqn::DISCOVERY_NQN;
use nvmf::target::limits::{QUEUE_ENTRIES_DEFAULT, QUEUE_ENTRIES_LIMIT, QUEUE_ENTRIES_MIN};
use nvmf::target::namespace::NamespaceId;
use nvmf::target::subsystem::{CONTROLLER_ID_MAX, CONTROLLER_ID_MIN};
use uuid::Uuid;

use super::limits::{
    ADDRESS_BYTES_MAX, CHILDREN_MAX, DELAY_MAX, DEVICE_NAME_BYTES_MAX, NAMESPACES_MAX,
    NEXUS_NAME_BYTES_MAX, NQN_BYTES_MAX, RULES_MAX, URI_BYTES_MAX, UUID_BYTES_MAX,
    VHOST_SOCKET_BYTES_MAX, WITHIN_MAX,
};
use super::{CommandError, error::Object};

/// Longest part of a refused value that is repeated, in characters.
const SHOWN_CHARS_MAX: usize = 80;

fn invalid(field: &'static str, value: impl Into<String>, advice: String) -> CommandError {
    CommandError::Invalid { field, value: value.into(), advice }
}

/// A refused text as it may be shown: quoted, escaped, and cut where it is long.
fn shown(text: &str) -> String {
    if text.chars().nth(SHOWN_CHARS_MAX).is_none() {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{head:?}…")
}

/// Refuses a text that is empty or too long.
fn text(
    field: &'static str,
    text: &str,
    bytes_max: usize,
    example: &str,
) -> Result<(), CommandError> {
    if text.is_empty() {
        return Err(invalid(field, "empty", format!("give one, such as {example}")));
    }
    if text.len() > bytes_max {
        let advice = format!("give at most {bytes_max} bytes");
        return Err(invalid(field, format!("{} bytes long", text.len()), advice));
    }
    Ok(())
}

/// The path of the socket of a vhost device.
pub(crate) fn vhost_socket(given: &str) -> Result<&str, CommandError> {
    text("socket", given, VHOST_SOCKET_BYTES_MAX, "/run/mayastor/vm1.sock")?;
    if given.starts_with('/') {
        return Ok(given);
    }
    Err(invalid("socket", shown(given), String::from("give a path that begins with a slash")))
}

/// A number of queues that a vhost device refuses.
pub(crate) fn vhost_queues_refused(queues: u16) -> CommandError {
    let advice = format!("choose 1 to {}", vhost_blk::session::QUEUES_MAX);
    invalid("queues", queues.to_string(), advice)
}

/// The URI of a device; also its text in one spelling.
pub(crate) fn uri(given: &str) -> Result<DeviceUri, CommandError> {
    text("uri", given, URI_BYTES_MAX, "malloc:///ram0?size_mb=64")?;
    given
        .parse()
        .map_err(|error: bdev::uri::UriError| invalid("uri", shown(given), error.to_string()))
}

/// The name of a device.
pub(crate) fn device(given: &str) -> Result<&str, CommandError> {
    text("device", given, DEVICE_NAME_BYTES_MAX, "ram0, the path part of its URI")?;
    Ok(given)
}

fn nqn(field: &'static str, given: &str) -> Result<Nqn, CommandError> {
    text(field, given, NQN_BYTES_MAX, "nqn.2019-05.io.openebs:disk0")?;
    given.parse().map_err(|error: nvmf::fabrics::nqn::NqnError| {
        let advice = format!("{error}; a name is like nqn.2019-05.io.openebs:disk0");
        invalid(field, shown(given), advice)
    })
}

/// The NQN of a subsystem, which is not that of the discovery service.
pub(crate) fn subsystem(given: &str) -> Result<Nqn, CommandError> {
    let name = nqn("subsystem", given)?;
    if name == DISCOVERY_NQN {
        let advice = String::from("it is the name of the discovery service: choose another");
        return Err(invalid("subsystem", shown(given), advice));
    }
    Ok(name)
}

/// The NQN of a host.
pub(crate) fn host(given: &str) -> Result<Nqn, CommandError> {
    nqn("host", given)
}

/// The name of a nexus, and its URI.
pub(crate) fn nexus(given: &str) -> Result<(&str, DeviceUri), CommandError> {
    text("nexus", given, NEXUS_NAME_BYTES_MAX, "volume0")?;
    match format!("nexus:///{given}").parse() {
        Ok(DeviceUri::Nexus(named)) if named.name == given => Ok((given, DeviceUri::Nexus(named))),
        _ => {
            let advice = String::from("give a name of letters, digits, dots and dashes");
            Err(invalid("nexus", shown(given), advice))
        }
    }
}

/// The number of children of a nexus.
pub(crate) fn child_count(given: usize) -> Result<(), CommandError> {
    if (1..=CHILDREN_MAX).contains(&given) {
        return Ok(());
    }
    Err(invalid("children", given.to_string(), format!("give 1 to {CHILDREN_MAX} URIs")))
}

/// The number of blocks of a length.
pub(crate) fn whole_blocks(len_bytes: u64, block_bytes: u32) -> Result<u64, CommandError> {
    let block_bytes = u64::from(block_bytes);
    if !len_bytes.is_multiple_of(block_bytes) {
        let advice = format!("give a multiple of the blocks of {block_bytes} bytes");
        return Err(invalid("len_bytes", len_bytes.to_string(), advice));
    }
    Ok(len_bytes / block_bytes)
}

/// The identifier of a namespace.
pub(crate) fn namespace(given: u32) -> Result<NamespaceId, CommandError> {
    let limit = NAMESPACES_MAX as u32;
    if !(1..=limit).contains(&given) {
        let advice = format!("choose 1 to {limit}");
        return Err(invalid("namespace", given.to_string(), advice));
    }
    Ok(NamespaceId(given))
}

/// The identity of a namespace. All zeroes and all ones say that there is none (NVMe Base 2.0
/// figure 315), and a host would see every such namespace as the same one.
pub(crate) fn uuid(given: Option<&str>) -> Result<Option<Uuid>, CommandError> {
    let Some(given) = given else { return Ok(None) };
    let example = "6a1e0f4d-0d51-4a1c-8b5b-7d4d4a8f9f10, or leave it out";
    text("uuid", given, UUID_BYTES_MAX, example)?;
    let refused = |why: &str| invalid("uuid", shown(given), format!("{why}, such as {example}"));
    let uuid = Uuid::try_parse(given).map_err(|_| refused("give a UUID"))?;
    if uuid.is_nil() || uuid.is_max() {
        return Err(refused("it stands for none: give a UUID"));
    }
    Ok(Some(uuid))
}

/// The identifiers of a subsystem's controllers.
pub(crate) fn controller_ids(
    given: Option<(u32, u32)>,
) -> Result<RangeInclusive<u16>, CommandError> {
    let Some((first, last)) = given else { return Ok(CONTROLLER_ID_MIN..=CONTROLLER_ID_MAX) };
    let legal = |id: u32| {
        u16::try_from(id).ok().filter(|id| (CONTROLLER_ID_MIN..=CONTROLLER_ID_MAX).contains(id))
    };
    match (legal(first), legal(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => {
            let advice = format!(
                "choose a first and a last, in this order, from {CONTROLLER_ID_MIN} to \
                 {CONTROLLER_ID_MAX}"
            );
            Err(invalid("controller_ids", format!("{first} to {last}"), advice))
        }
    }
}

/// Most entries of an I/O queue.
pub(crate) fn queue_entries(given: Option<u32>) -> Result<u16, CommandError> {
    let Some(given) = given else { return Ok(QUEUE_ENTRIES_DEFAULT) };
    let legal = |entries: &u16| (QUEUE_ENTRIES_MIN..=QUEUE_ENTRIES_LIMIT).contains(entries);
    u16::try_from(given).ok().filter(legal).ok_or_else(|| {
        let advice = format!("choose {QUEUE_ENTRIES_MIN} to {QUEUE_ENTRIES_LIMIT}");
        invalid("queue_entries", given.to_string(), advice)
    })
}

/// Where to listen.
pub(crate) fn address(given: &str) -> Result<SocketAddr, CommandError> {
    let example = "10.0.0.1:4420 or [fe80::1]:4420";
    text("address", given, ADDRESS_BYTES_MAX, example)?;
    given.parse().map_err(|_| {
        let advice = format!("give an IP address and a port, such as {example}");
        invalid("address", shown(given), advice)
    })
}

/// What discovery names; `port` where none is given.
pub(crate) fn advertised(
    given: Option<&str>,
    port: u16,
) -> Result<Option<SocketAddr>, CommandError> {
    let Some(given) = given else { return Ok(None) };
    let example = "10.0.0.1, 10.0.0.1:4420 or [fe80::1]:4420";
    text("advertise", given, ADDRESS_BYTES_MAX, example)?;
    let with_port = given.parse::<SocketAddr>();
    let parsed = with_port.or_else(|_| given.parse().map(|ip: IpAddr| SocketAddr::new(ip, port)));
    let usable = |address: &SocketAddr| !address.ip().is_unspecified() && !is_no_host(address.ip());
    match parsed {
        Ok(address) if usable(&address) && (address.port() != 0 || port == 0) => Ok(Some(address)),
        _ => {
            let advice = format!("give an address that hosts can connect to, such as {example}");
            Err(invalid("advertise", shown(given), advice))
        }
    }
}

fn is_no_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_multicast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// The size that a device is to have.
pub(crate) fn len_bytes(given: Option<u64>) -> Result<Option<u64>, CommandError> {
    match given {
        Some(0) => {
            let advice = String::from("give a size in bytes, or leave it out to look at it again");
            Err(invalid("len_bytes", "0", advice))
        }
        Some(len) if i64::try_from(len).is_err() => {
            Err(invalid("len_bytes", len.to_string(), format!("give at most {}", i64::MAX)))
        }
        given => Ok(given),
    }
}

/// The rules of a fault.
pub(crate) fn fault(rules: &RuleSet<Failure>) -> Result<(), CommandError> {
    check_rules(rules, |failure| match failure {
        Failure::Before(status) | Failure::After(status) if status.is_success() => {
            let advice = "give the status of a failure".to_owned();
            Err(invalid("rules.effect", "success", advice))
        }
        Failure::Before(_) | Failure::After(_) => Ok(()),
    })
}

/// The rules of a delay.
pub(crate) fn delay(rules: &RuleSet<Lateness>) -> Result<(), CommandError> {
    check_rules(rules, |lateness| {
        let (least, most) = match *lateness {
            Lateness::Fixed(time) => (time, time),
            Lateness::Uniform { least, most } => (least, most),
        };
        if least > most {
            let value = format!("{} to {} ns", least.0, most.0);
            let advice = String::from("give the shorter time first");
            return Err(invalid("rules.effect", value, advice));
        }
        if u128::from(most.0) > DELAY_MAX.as_nanos() {
            let advice = format!("give at most {} s", DELAY_MAX.as_secs());
            return Err(invalid("rules.effect", format!("{} ns", most.0), advice));
        }
        Ok(())
    })
}

fn check_rules<E>(
    rules: &RuleSet<E>,
    effect: impl Fn(&E) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    if rules.rules.is_empty() {
        let advice = String::from("give at least one rule, or clear what is set");
        return Err(invalid("rules", "empty", advice));
    }
    if rules.rules.len() > RULES_MAX {
        return Err(CommandError::LimitReached { what: Object::Rule, limit: RULES_MAX });
    }
    for rule in &rules.rules {
        check_match(&rule.meets)?;
        effect(&rule.effect)?;
    }
    Ok(())
}

fn check_match(meets: &Match) -> Result<(), CommandError> {
    if !(0.0..=1.0).contains(&meets.probability) {
        let advice = String::from("give a number from 0 to 1");
        return Err(invalid("rules.probability", meets.probability.to_string(), advice));
    }
    if meets.lbas.is_empty() {
        let value = format!("{} to {}", meets.lbas.start, meets.lbas.end);
        let advice = String::from("give a first block and, after it, the one past the last");
        return Err(invalid("rules.lbas", value, advice));
    }
    Ok(())
}

/// How long a command may take.
pub(crate) fn within(given: Duration) -> Result<Duration, CommandError> {
    if given.is_zero() || given > WITHIN_MAX {
        let value = format!("{} ms", given.as_millis());
        let advice = format!("give 1 ms to {} s", WITHIN_MAX.as_secs());
        return Err(invalid("within", value, advice));
    }
    Ok(given)
}
