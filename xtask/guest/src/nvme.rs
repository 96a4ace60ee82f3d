//! The guest's kernel as an NVMe/TCP host: connections made with nvme-cli, looked at in sysfs.
//!
//! Every connection has a keep-alive and a limit for reconnecting, so that nothing in the guest
//! waits for ever on a target that is gone.

use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::machine::{Guest, Output};

/// Time for nvme-cli, which waits for nothing but the target.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Keep-alive 5 s, one try to reconnect a second, and after 20 s the kernel gives up.
const LIMITS: &str = "--keep-alive-tmo=5 --reconnect-delay=1 --ctrl-loss-tmo=20";
/// Polls, of a tenth of a second each, for what the kernel does in its own time: 20 s.
const POLLS: u32 = 200;

/// Where a subsystem is, as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// IPv4 address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Qualified name of the subsystem.
    pub nqn: String,
}

/// A controller of the guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    name: String,
    nqn: String,
}

/// Tries to connect, with further options of `nvme connect`, and returns what it said.
pub fn try_connect(guest: &mut Guest, endpoint: &Endpoint, options: &str) -> Result<Output> {
    let Endpoint { address, port, nqn } = endpoint;
    let before = "modprobe nvme-tcp; before=\" $(echo $(ls /sys/class/nvme)) \"";
    let connect = format!("nvme connect -t tcp -a {address} -s {port} -n {nqn} {LIMITS} {options}");
    let name = "for name in $(ls /sys/class/nvme); do \
        case \"$before\" in *\" $name \"*) ;; *) echo $name ;; esac; done";
    guest.run(&format!("{before}; {connect} >&2 || exit; {name}"), COMMAND_LIMIT)
}

/// Connects, and fails if the target does not want it.
pub fn connect(guest: &mut Guest, endpoint: &Endpoint, options: &str) -> Result<Controller> {
    let output = try_connect(guest, endpoint, options)?;
    let name = output.stdout.trim().to_owned();
    if output.is_success() && !name.is_empty() {
        return Ok(Controller { name, nqn: endpoint.nqn.clone() });
    }
    Err(Error::Command {
        command: format!("nvme connect {endpoint:?} {options}"),
        code: output.code,
        stdout: output.stdout,
        stderr: output.stderr,
        log: guest.console(),
    })
}

/// Asks for the records of a discovery controller.
pub fn discover(guest: &mut Guest, address: &str, port: u16) -> Result<Vec<Value>> {
    let command = format!("modprobe nvme-tcp; nvme discover -t tcp -a {address} -s {port} -o json");
    let mut log = json_of(guest, &command)?;
    match log["records"].take() {
        Value::Array(records) => Ok(records),
        other => Err(unexpected(&command, &other)),
    }
}

/// Ends all connections.
pub fn disconnect_all(guest: &mut Guest) -> Result<()> {
    guest.run_ok("nvme disconnect-all", COMMAND_LIMIT)?;
    Ok(())
}

/// Runs a command that prints one JSON value.
pub fn json_of(guest: &mut Guest, command: &str) -> Result<Value> {
    let text = guest.run_ok(command, COMMAND_LIMIT)?;
    serde_json::from_str(&text).map_err(|_| unexpected(command, &Value::from(text)))
}

fn unexpected(command: &str, value: &Value) -> Error {
    Error::Unexpected { command: command.to_owned(), value: value.to_string() }
}

impl Controller {
    /// Name of the kernel, `nvme0` for example.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Device for administrative commands.
    pub fn device(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// One of its files in sysfs.
    pub fn attribute(&self, guest: &mut Guest, name: &str) -> Result<String> {
        let text =
            guest.run_ok(&format!("cat /sys/class/nvme/{}/{name}", self.name), COMMAND_LIMIT)?;
        Ok(text.trim().to_owned())
    }

    /// Block device of a namespace, waited for: the kernel looks for namespaces after it connects.
    pub fn namespace(&self, guest: &mut Guest, namespace_id: u32) -> Result<String> {
        let nqn = &self.nqn;
        let look = format!(
            "for subsystem in /sys/class/nvme-subsystem/*; do \
               [ \"$(cat $subsystem/subsysnqn)\" = {nqn} ] || continue; \
               for namespace in $subsystem/nvme*n*; do \
                 [ \"$(cat $namespace/nsid 2>/dev/null)\" = {namespace_id} ] || continue; \
                 [ -b /dev/${{namespace##*/}} ] && echo /dev/${{namespace##*/}} && exit; \
               done; done"
        );
        let text = poll(guest, &look, |text| text.trim().starts_with("/dev/"))?;
        Ok(text.trim().to_owned())
    }

    /// Waits until the host has no such namespace any more.
    pub fn wait_for_removal(&self, guest: &mut Guest, namespace: &str) -> Result<()> {
        let look = format!("test -e {namespace} || echo gone");
        poll(guest, &look, |text| text.trim() == "gone")?;
        Ok(())
    }

    /// Waits until the host knows that its path to a namespace is in this state, `inaccessible`
    /// for example.
    pub fn wait_for_ana_state(&self, guest: &mut Guest, id: u32, state: &str) -> Result<()> {
        let read = format!("cat /sys/class/nvme/{}/nvme*c*n{id}/ana_state", self.name);
        poll(guest, &read, |text| text.trim() == state)?;
        Ok(())
    }

    /// Waits until the controller is in this state, `live` for example.
    pub fn wait_for_state(&self, guest: &mut Guest, state: &str) -> Result<()> {
        let read = format!("cat /sys/class/nvme/{}/state", self.name);
        poll(guest, &read, |text| text.trim() == state)?;
        Ok(())
    }

    /// Ends this connection.
    pub fn disconnect(self, guest: &mut Guest) -> Result<()> {
        guest.run_ok(&format!("nvme disconnect -d {}", self.name), COMMAND_LIMIT)?;
        Ok(())
    }
}

/// Repeats a command until its output is as wanted, for 20 s at most; returns that output.
pub fn poll(guest: &mut Guest, command: &str, is_wanted: impl Fn(&str) -> bool) -> Result<String> {
    let mut last = String::new();
    for _ in 0..POLLS {
        last = guest.run(command, COMMAND_LIMIT)?.stdout;
        if is_wanted(&last) {
            return Ok(last);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(unexpected(command, &Value::from(last)))
}
