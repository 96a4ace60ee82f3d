//! The name of a target that was given none.
//!
//! It must be the same after a restart, because hosts remember the identities that derive from it,
//! and another on every machine and port, because a host takes two subsystems of one name for two
//! paths to the same data.

use std::fs;

use nvmf::fabrics::Nqn;
use uuid::{Uuid, uuid};

/// The name space, in the sense of RFC 4122, of names made here. Never to be changed.
const NAME_SPACE: Uuid = uuid!("f8a7c1de-7a0b-4d3c-9d26-3f0d9b1c6a57");

/// Where a Linux machine says which one it is, best first: systemd's id, the host name.
const MACHINE_FILES: [&str; 2] = ["/etc/machine-id", "/proc/sys/kernel/hostname"];

/// What this machine calls itself; empty when it does not.
pub fn machine() -> String {
    let read = |path: &&str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    MACHINE_FILES.iter().filter_map(read).find(|text| !text.is_empty()).unwrap_or_default()
}

/// The name of the target at `port` of `machine`: the same for the same two, always. The id of a
/// machine is not to be published, and cannot be told from what is made of it.
pub fn default_nqn(machine: &str, port: u16) -> Nqn {
    let uuid = Uuid::new_v5(&NAME_SPACE, format!("{machine}/{port}").as_bytes());
    let name = format!("nqn.2019-05.io.openebs:{uuid}");
    name.parse().expect("a date, a domain and a UUID make a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_never_changes() {
        assert_eq!(
            default_nqn("machine", 4420).as_str(),
            "nqn.2019-05.io.openebs:54996cee-1267-5637-8457-11dcf62593b4"
        );
    }

    #[test]
    fn each_machine_and_port_has_a_name_of_its_own() {
        let name = default_nqn("a", 4420);
        assert_ne!(name, default_nqn("b", 4420));
        assert_ne!(name, default_nqn("a", 4421));
    }
}
