//! The kernel's own NVMe/TCP target, inside the guest, on its loopback.
//!
//! It is the control of every experiment with ours: a test that fails against both is wrong. It
//! serves a file in the guest's memory through a loop device, which knows unmapping.

use std::time::Duration;

use crate::error::Result;
use crate::machine::Guest;
use crate::nvme::Endpoint;

const NQN: &str = "nqn.2026-01.example:kernel";
const PORT: u16 = 4420;
const LIMIT: Duration = Duration::from_secs(60);

/// What the kernel of a guest with this target must be told. Host and target in one kernel pass
/// pages by reference, and runs of pages that belong to different owners trip a check that was
/// made for copies to processes; 6.1 panics at requests of 1 MiB. No such run reaches a host that
/// is alone in its kernel.
pub const KERNEL_WORDS: &str = "hardened_usercopy=off";

/// Starts the target with one namespace of `size_mib`. A guest has at most one.
pub fn start(guest: &mut Guest, size_mib: u32) -> Result<Endpoint> {
    let subsystem = format!("/sys/kernel/config/nvmet/subsystems/{NQN}");
    let script = format!(
        "set -e
        modprobe -a nvmet-tcp loop
        mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
        truncate -s {size_mib}M /dev/shm/namespace
        device=$(losetup -f --show /dev/shm/namespace)
        mkdir {subsystem} {subsystem}/namespaces/1
        echo 1 > {subsystem}/attr_allow_any_host
        echo $device > {subsystem}/namespaces/1/device_path
        echo 1 > {subsystem}/namespaces/1/enable
        port=/sys/kernel/config/nvmet/ports/1
        mkdir $port
        echo tcp > $port/addr_trtype
        echo ipv4 > $port/addr_adrfam
        echo 127.0.0.1 > $port/addr_traddr
        echo {PORT} > $port/addr_trsvcid
        ln -s {subsystem} $port/subsystems/"
    );
    guest.run_ok(&script, LIMIT)?;
    Ok(Endpoint { address: String::from("127.0.0.1"), port: PORT, nqn: NQN.to_owned() })
}

/// Stops the target and frees its memory.
pub fn stop(guest: &mut Guest) -> Result<()> {
    let script = format!(
        "set -e
        cd /sys/kernel/config/nvmet
        rm ports/1/subsystems/{NQN}
        rmdir ports/1
        device=$(cat subsystems/{NQN}/namespaces/1/device_path)
        echo 0 > subsystems/{NQN}/namespaces/1/enable
        rmdir subsystems/{NQN}/namespaces/1 subsystems/{NQN}
        losetup -d $device
        rm /dev/shm/namespace"
    );
    guest.run_ok(&script, LIMIT)?;
    Ok(())
}
