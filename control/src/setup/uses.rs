//! What keeps a disk of the kernel's from being taken: who uses it, and what is on it.
//!
//! Mounts are looked up in this process's namespace and in that of the first process, so that a
//! container sees its host's where it may. What escapes both is found when a disk is claimed, see
//! `bind`.

use serde::Serialize;

use super::contents::{Contents, HEAD_BYTES, recognise};
use super::host::Host;

/// Lists of mounts that are looked at.
const MOUNTS: [&str; 2] = ["proc/self/mountinfo", "proc/1/mountinfo"];

/// In which way something is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UseKind {
    /// A file system is mounted.
    Mount,
    /// The kernel swaps to it.
    Swap,
    /// A device of the device mapper, a RAID or the like is built on it.
    Holder,
    /// Somebody has it for themselves.
    Claimed,
    /// It has partitions.
    PartitionTable,
    /// It holds a pool or a label.
    Metadata,
    /// It holds somebody's data.
    Data,
    /// It could not be looked at.
    Unread,
    /// Another driver than the kernel's own for drives has it.
    Driver,
}

/// One use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// In which way.
    pub kind: UseKind,
    /// The disk or partition; for a driver, the address of the drive.
    pub on: String,
    /// What it is, in words: "mounted at /".
    pub detail: String,
}

impl Use {
    /// A use of a disk.
    pub fn new(kind: UseKind, on: &str, detail: impl Into<String>) -> Use {
        Use { kind, on: on.to_owned(), detail: detail.into() }
    }
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.on, self.detail)
    }
}

/// All uses of a disk and of its partitions.
pub fn of_disk(host: &Host, disk: &str) -> Vec<Use> {
    let folder = format!("sys/class/block/{disk}");
    let mut parts = host.names(&folder);
    parts.retain(|name| host.has(format!("{folder}/{name}/partition")));
    let mut uses = Vec::new();
    for part in std::iter::once(disk).chain(parts.iter().map(String::as_str)) {
        uses.extend(mounts(host, part));
        uses.extend(swap(host, part));
        let holders = host.names(format!("sys/class/block/{part}/holders"));
        let held = |by: &String| Use::new(UseKind::Holder, part, format!("is held by {by}"));
        uses.extend(holders.iter().map(held));
    }
    uses.extend(contents(host, disk, parts.len()));
    uses
}

fn mounts(host: &Host, part: &str) -> Vec<Use> {
    let number = host.text(format!("sys/class/block/{part}/dev"));
    let path = format!("/dev/{part}");
    let lists: Vec<String> = MOUNTS.iter().filter_map(|list| host.text(list)).collect();
    if lists.is_empty() {
        return vec![Use::new(UseKind::Unread, part, "may be mounted: no list of mounts is there")];
    }
    let mut uses = Vec::new();
    for line in lists.iter().flat_map(|list| list.lines()) {
        let Some(mount) = Mount::parse(line) else { continue };
        // A file system of several disks has a number of its own, and names one of them.
        if Some(mount.number) != number.as_deref() && mount.source != path {
            continue;
        }
        let detail = format!("is mounted at {}", unescape(mount.point));
        let found = Use::new(UseKind::Mount, part, detail);
        if !uses.contains(&found) {
            uses.push(found);
        }
    }
    uses
}

/// A line of mountinfo (proc(5)).
struct Mount<'a> {
    number: &'a str,
    point: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let number = before.next()?;
        let point = before.nth(1)?;
        Some(Mount { number, point, source: after.split(' ').nth(1)? })
    }
}

/// The name of a mount point as it is: the kernel writes blanks and the like as octal numbers.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() && !code.is_ascii_control() => {
                plain.push(char::from(code));
                rest = &after[3..];
            }
            _ => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain + rest
}

fn swap(host: &Host, part: &str) -> Option<Use> {
    let path = format!("/dev/{part}");
    let text = host.text("proc/swaps")?;
    let is_used = text.lines().any(|line| line.split_whitespace().next() == Some(&path));
    is_used.then(|| Use::new(UseKind::Swap, part, "is swapped to"))
}

fn contents(host: &Host, disk: &str, partitions: usize) -> Option<Use> {
    let counted = |table: &str| match partitions {
        0 => format!("has a partition table ({table})"),
        1 => format!("has a partition table ({table}) with 1 partition"),
        _ => format!("has a partition table ({table}) with {partitions} partitions"),
    };
    let head = host.head(format!("dev/{disk}"), HEAD_BYTES);
    match head.as_deref().map(recognise) {
        Ok(Some(Contents::Table(table))) => {
            Some(Use::new(UseKind::PartitionTable, disk, counted(table)))
        }
        // The kernel knows more tables than we do.
        _ if partitions > 0 => {
            Some(Use::new(UseKind::PartitionTable, disk, counted("as the kernel reads it")))
        }
        Ok(Some(Contents::Ours(what))) => {
            Some(Use::new(UseKind::Metadata, disk, format!("holds {what}")))
        }
        Ok(Some(Contents::Foreign(what))) => {
            Some(Use::new(UseKind::Data, disk, format!("holds {what}")))
        }
        Ok(None) => None,
        Err(error) => {
            let kind = error.kind();
            Some(Use::new(UseKind::Unread, disk, format!("cannot be looked at ({kind})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::fixture::Machine;

    fn told(machine: &Machine) -> Vec<(UseKind, String)> {
        let uses = of_disk(&machine.host(), "nvme0n1");
        uses.iter().map(|one| (one.kind, one.to_string())).collect()
    }

    fn machine(name: &str) -> Machine {
        let machine = Machine::good(name);
        machine.block("nvme0n1", "259:0");
        machine.bytes("dev/nvme0n1", &[0; 8192]);
        machine
    }

    #[test]
    fn an_empty_disk_has_no_uses() {
        assert_eq!(told(&machine("uses-none")), []);
    }

    #[test]
    fn mounts_are_found_by_number_by_name_and_in_the_first_process_namespace() {
        let machine = machine("uses-mount");
        machine.partition("nvme0n1", "nvme0n1p1", "259:1");
        machine.file(
            "proc/self/mountinfo",
            "29 1 259:1 / /srv/a\\040b rw - xfs /dev/other rw\n\
             30 1 0:44 / /btrfs rw shared:1 - btrfs /dev/nvme0n1p1 rw\n\
             31 1 8:1 / /else rw - ext4 /dev/sda1 rw\nbroken line\n",
        );
        machine.file("proc/1/mountinfo", "9 1 259:0 / /host rw - xfs /dev/nvme0n1 rw\n");
        let told = told(&machine);
        let lines: Vec<&str> = told.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            lines,
            [
                "nvme0n1 is mounted at /host",
                "nvme0n1p1 is mounted at /srv/a b",
                "nvme0n1p1 is mounted at /btrfs",
                "nvme0n1 has a partition table (as the kernel reads it) with 1 partition",
            ]
        );
    }

    #[test]
    fn swap_and_holders_of_partitions_are_uses() {
        let machine = machine("uses-held");
        machine.partition("nvme0n1", "nvme0n1p2", "259:2");
        machine.folder("sys/class/block/nvme0n1p2/holders/dm-0");
        machine.file("proc/swaps", "Filename Type\n/dev/nvme0n1p2 partition 1 0 -2\n");
        let kinds: Vec<UseKind> = told(&machine).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [UseKind::Swap, UseKind::Holder, UseKind::PartitionTable]);
    }

    #[test]
    fn labels_and_file_systems_that_are_not_mounted_are_uses_too() {
        let machine = machine("uses-contents");
        machine.bytes("dev/nvme0n1", b"MIRLABEL");
        assert_eq!(told(&machine)[0].0, UseKind::Metadata);
        machine.bytes("dev/nvme0n1", b"XFSB");
        assert_eq!(told(&machine)[0].0, UseKind::Data);
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_taken_for_empty() {
        let machine = machine("uses-unread");
        machine.remove("dev/nvme0n1");
        machine.remove("proc/self/mountinfo");
        let kinds: Vec<UseKind> = told(&machine).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [UseKind::Unread, UseKind::Unread]);
    }

    #[test]
    fn escapes_of_mount_points_are_undone_and_broken_ones_kept() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\9\\"), "/a\\9\\");
        assert_eq!(unescape("/a\\007"), "/a\\007", "no control characters on a terminal");
    }
}
