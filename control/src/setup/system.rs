//! The kernel: its version, its IOMMU, its modules, and what it allows this process.

use super::cpu::{self, Vendor};
use super::drive::Drive;
use super::host::{Host, field};
use super::row::{Row, State};

/// The oldest kernel with all that a ring of files needs (`IORING_OP_FALLOCATE`); on an older one
/// files go through Linux AIO.
const KERNEL_WANTED: (u32, u32) = (5, 6);
/// Open files wanted: each queue of each host is a socket, and this is 120 hosts of 128 queues with
/// what the target has open besides.
const FILES_WANTED: u64 = 16_384;
/// Mappings wanted: the kernel's default, which somebody may have lowered.
const MAPS_WANTED: u64 = 65_530;
/// The capability to lock memory without limit: bit of `CapEff` (capability.h, `CAP_IPC_LOCK`).
const CAPABILITY_LOCK: u32 = 14;

/// A module of the kernel.
struct Module {
    name: &'static str,
    need: Need,
    purpose: &'static str,
}

/// Who needs a module.
enum Need {
    /// Drives that user space has.
    Drives,
    /// Those who connect to a target.
    Hosts,
}

const MODULES: &[Module] = &[
    Module { name: "vfio-pci", need: Need::Drives, purpose: "drives from user space" },
    Module { name: "vfio_iommu_type1", need: Need::Drives, purpose: "memory for those drives" },
    Module { name: "nvme-tcp", need: Need::Hosts, purpose: "connecting this host to a target" },
];

/// The row of the kernel's version.
pub fn kernel(host: &Host) -> Row {
    let release = host.text("proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
    let (wanted_major, wanted_minor) = KERNEL_WANTED;
    let wanted = format!("files through io_uring want {wanted_major}.{wanted_minor} or later");
    match (number(), number()) {
        (Some(major), Some(minor)) if (major, minor) >= KERNEL_WANTED => {
            Row::new("kernel", State::Ok, format!("Linux {release}"))
        }
        (Some(_), Some(_)) => {
            Row::new("kernel", State::Warning, format!("Linux {release}: {wanted}"))
        }
        _ => Row::new("kernel", State::Warning, "it does not tell its version"),
    }
}

/// The row of the IOMMU.
pub fn iommu(host: &Host, drives: &[Drive]) -> Row {
    let groups = host.names("sys/kernel/iommu_groups").len();
    if groups > 0 {
        return Row::new("iommu", State::Ok, format!("groups: {groups}"));
    }
    let (name, option) = match cpu::vendor(host) {
        Vendor::Intel => ("VT-d", "intel_iommu=on iommu=pt"),
        Vendor::Amd => ("AMD-Vi", "iommu=pt"),
        Vendor::Other => ("the SMMU", ""),
    };
    let state = if drives.is_empty() { State::Warning } else { State::Missing };
    if option.is_empty() {
        // The kernel uses one that the firmware tells of.
        return Row::new("iommu", state, format!("none: switch {name} on in the firmware"));
    }
    let command = if host.has("usr/sbin/grubby") {
        format!("grubby --update-kernel=ALL --args='{option}' && reboot")
    } else {
        format!(
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{option} /' /etc/default/grub && update-grub && \
             reboot"
        )
    };
    let found = format!("none: switch {name} on in the firmware, and in the kernel's command line");
    Row::new("iommu", state, found).with_fix(command)
}

/// A row a module.
pub fn modules(host: &Host, drives: &[Drive]) -> Vec<Row> {
    let release = host.text("proc/sys/kernel/osrelease").unwrap_or_default();
    let folder = format!("lib/modules/{release}");
    let list = |name: &str| host.text(format!("{folder}/{name}")).unwrap_or_default();
    let (builtin, available) = (list("modules.builtin"), list("modules.dep"));
    let row = |module: &Module| {
        let Module { name, purpose, .. } = *module;
        let key = format!("module.{name}");
        if host.has(format!("sys/module/{}", name.replace('-', "_"))) {
            return Row::new(key, State::Ok, "loaded");
        }
        if lists(&builtin, name) {
            return Row::new(key, State::Ok, "built in");
        }
        let state = match module.need {
            Need::Drives if drives.is_empty() => State::Ok,
            Need::Drives => State::Missing,
            Need::Hosts => State::Warning,
        };
        let load = format!("modprobe {name}");
        if available.is_empty() || lists(&available, name) {
            return Row::new(key, state, format!("not loaded: for {purpose}")).with_fix(load);
        }
        let found = format!("not among the kernel's modules: for {purpose}");
        let install = format!("apt install linux-modules-extra-{release} && {load}");
        Row::new(key, state, found).with_fix(install)
    };
    MODULES.iter().map(row).collect()
}

/// Whether a list of modules has one, by its file: `…/nvme-tcp.ko.xz`, as modprobe spells it or
/// with the other of the two lines.
fn lists(text: &str, name: &str) -> bool {
    let name = name.replace('-', "_");
    text.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split('.').next().is_some_and(|stem| stem.replace('-', "_") == name)
    })
}

/// A row a limit; `locked_bytes` is what will be locked for devices.
pub fn limits(host: &Host, locked_bytes: u64) -> Vec<Row> {
    let text = host.text("proc/self/limits").unwrap_or_default();
    vec![memlock(host, &text, locked_bytes), files(&text), maps(host)]
}

/// Soft and hard limit of a process, `u64::MAX` for none.
fn limit(text: &str, name: &str) -> Option<(u64, u64)> {
    let values = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut values = values.split_whitespace().map(|value| match value {
        "unlimited" => Some(u64::MAX),
        digits => digits.parse().ok(),
    });
    Some((values.next()??, values.next()??))
}

fn memlock(host: &Host, text: &str, wanted: u64) -> Row {
    const KEY: &str = "limit.memlock";
    let status = host.text("proc/self/status").unwrap_or_default();
    let capabilities = field(&status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    if capabilities.is_some_and(|all| all >> CAPABILITY_LOCK & 1 == 1) {
        return Row::new(KEY, State::Ok, "none: this user has CAP_IPC_LOCK");
    }
    let mib = |bytes: u64| bytes >> 20;
    match limit(text, "Max locked memory").map(|(soft, _)| soft) {
        Some(u64::MAX) => Row::new(KEY, State::Ok, "unlimited"),
        Some(bytes) if bytes >= wanted => Row::new(KEY, State::Ok, format!("{} MiB", mib(bytes))),
        found => {
            let found =
                found.map_or(String::from("unknown"), |bytes| format!("{} MiB", mib(bytes)));
            let found = format!("{found}, {} MiB wanted for DMA memory", mib(wanted));
            Row::new(KEY, State::Warning, found).with_fix("ulimit -l unlimited")
        }
    }
}

fn files(text: &str) -> Row {
    const KEY: &str = "limit.nofile";
    // The target raises the soft limit to the hard one by itself.
    match limit(text, "Max open files").map(|(_, hard)| hard) {
        Some(u64::MAX) => Row::new(KEY, State::Ok, "unlimited"),
        Some(count) if count >= FILES_WANTED => Row::new(KEY, State::Ok, count.to_string()),
        found => {
            let found = found.map_or(String::from("unknown"), |count| count.to_string());
            let found = format!("{found}, {FILES_WANTED} wanted for many hosts");
            Row::new(KEY, State::Warning, found).with_fix(format!("ulimit -Hn {FILES_WANTED}"))
        }
    }
}

fn maps(host: &Host) -> Row {
    const KEY: &str = "limit.max_map_count";
    let count: Option<u64> = host.value("proc/sys/vm/max_map_count");
    let found = count.map_or(String::from("unknown"), |count| count.to_string());
    if count.is_some_and(|count| count >= MAPS_WANTED) {
        return Row::new(KEY, State::Ok, found);
    }
    let found = format!("{found}, {MAPS_WANTED} wanted");
    let fix = format!("sysctl -w vm.max_map_count={MAPS_WANTED}");
    Row::new(KEY, State::Warning, found).with_fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::fixture::{DriveParts, Machine, drive};

    fn kernel_state(release: &str) -> State {
        let machine = Machine::new("system-kernel");
        machine.file("proc/sys/kernel/osrelease", release);
        kernel(&machine.host()).state
    }

    #[test]
    fn kernels_are_good_from_the_wanted_one_on() {
        for good in ["5.6.0", "5.10.0-30-amd64", "6.18.44", "10.0"] {
            assert_eq!(kernel_state(good), State::Ok, "{good}");
        }
        for old in ["5.5.19", "4.18.0-553.el8", "five", ""] {
            assert_eq!(kernel_state(old), State::Warning, "{old}");
        }
    }

    #[test]
    fn a_missing_iommu_has_the_command_of_its_vendor() {
        let machine = Machine::good("system-iommu");
        let row = iommu(&machine.host(), &[]);
        assert_eq!(row.state, State::Warning, "nothing needs it");
        assert!(row.fix.unwrap().contains("intel_iommu=on iommu=pt"));
        machine.drive(DriveParts { group: None, ..drive("0000:01:00.0") });
        machine.file("proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : sse4_2\n");
        machine.file("usr/sbin/grubby", "");
        let row = iommu(&machine.host(), &Drive::all(&machine.host()));
        assert_eq!(row.state, State::Missing);
        assert!(row.found.contains("AMD-Vi"));
        assert_eq!(row.fix.unwrap(), "grubby --update-kernel=ALL --args='iommu=pt' && reboot");
        machine.file("proc/cpuinfo", "Features : asimd\n");
        let row = iommu(&machine.host(), &[]);
        assert!(row.found.contains("the SMMU") && row.fix.is_none(), "{row:?}");
    }

    #[test]
    fn an_iommu_is_told_with_its_groups() {
        let machine = Machine::good("system-groups");
        machine.drive(drive("0000:01:00.0"));
        assert_eq!(iommu(&machine.host(), &[]), Row::new("iommu", State::Ok, "groups: 1"));
    }

    #[test]
    fn modules_are_loaded_built_in_to_be_loaded_or_to_be_installed() {
        let machine = Machine::good("system-modules");
        machine.remove("sys/module");
        machine.drive(drive("0000:01:00.0"));
        let folder = "lib/modules/6.12.1-test";
        machine.file(&format!("{folder}/modules.builtin"), "kernel/drivers/vfio/vfio-pci.ko\n");
        machine.file(&format!("{folder}/modules.dep"), "kernel/a/vfio_iommu_type1.ko.xz: x.ko\n");
        let rows = modules(&machine.host(), &Drive::all(&machine.host()));
        let told: Vec<_> = rows.iter().map(|row| (row.state, row.fix.as_deref())).collect();
        assert_eq!(
            told,
            [
                (State::Ok, None),
                (State::Missing, Some("modprobe vfio_iommu_type1")),
                (
                    State::Warning,
                    Some("apt install linux-modules-extra-6.12.1-test && modprobe nvme-tcp")
                ),
            ]
        );
    }

    #[test]
    fn limits_are_good_at_what_is_wanted_and_not_one_below() {
        let machine = Machine::good("system-limits");
        let states = || {
            let rows = limits(&machine.host(), 64 << 20);
            rows.iter().map(|row| row.state).collect::<Vec<_>>()
        };
        assert_eq!(states(), [State::Ok; 3]);
        machine.file("proc/self/status", "CapEff:\t0000000000000000\n");
        machine.limits("67108864", "16384");
        assert_eq!(states(), [State::Ok; 3]);
        machine.limits("67108863", "16383");
        machine.file("proc/sys/vm/max_map_count", "65529\n");
        assert_eq!(states(), [State::Warning; 3]);
    }

    #[test]
    fn who_may_lock_memory_has_no_limit() {
        let machine = Machine::good("system-capability");
        machine.limits("0", "16384");
        machine.file("proc/self/status", "CapEff:\t0000000000004000\n");
        assert_eq!(limits(&machine.host(), 1)[0].state, State::Ok);
    }
}
