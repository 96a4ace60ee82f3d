//! The programs of the guest: those of the build machine, with the libraries that they load.
//!
//! Copying them is faster than any installer, needs no root, and gives the guest the same C
//! library as the host, so that a dynamically linked test binary runs in it too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::inputs::Inputs;
use crate::standins;

/// Programs of the guest, each with the Debian package that has it.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("dash", "dash"),
    ("modprobe", "kmod"),
    ("nvme", "nvme-cli"),
    ("iscsiadm", "open-iscsi"),
    ("iscsid", "open-iscsi"),
    ("mkfs.ext4", "e2fsprogs"),
    ("fsck.ext4", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("tune2fs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("xfs_io", "xfsprogs"),
    ("fio", "fio"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("losetup", "mount"),
    ("lsblk", "util-linux"),
    ("blkid", "util-linux"),
    ("findmnt", "util-linux"),
    ("mountpoint", "util-linux"),
    ("wipefs", "util-linux"),
    ("blockdev", "util-linux"),
    ("blkdiscard", "util-linux"),
    ("fsfreeze", "util-linux"),
    ("fstrim", "util-linux"),
    ("flock", "util-linux"),
    ("dmsetup", "dmsetup"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ss", "iproute2"),
    ("lspci", "pciutils"),
    ("setpci", "pciutils"),
];

/// Where busybox is; Debian's static one, so that it works before anything else does.
pub const BUSYBOX: (&str, &str) = ("/bin/busybox", "busybox-static");

/// Libraries that no program above may name, but a test binary of ours does.
const EXTRA_LIBRARIES: &[&str] = &["libgcc_s.so.1", "libm.so.6", "libdl.so.2", "libpthread.so.0"];
const LIBRARY_DIRECTORY: &str = "/lib/x86_64-linux-gnu";

/// What the programs need on the host, as `name in the guest → file of the host`.
#[derive(Debug, Default)]
pub struct Programs {
    /// Programs, by name.
    pub programs: BTreeMap<String, PathBuf>,
    /// Libraries, by the name under which they are loaded; an absolute name is kept as it is.
    pub libraries: BTreeMap<String, PathBuf>,
    /// Names of the applets of busybox.
    pub applets: BTreeSet<String>,
}

impl Programs {
    /// Finds all programs and their libraries. `scratch` takes the stand-ins for libraries that
    /// are too large to copy; `inputs` notes what is used.
    pub fn find(scratch: &Path, inputs: &mut Inputs) -> Result<Programs> {
        let mut found = Programs::default();
        for (name, package) in PROGRAMS {
            let path = files::find_program(name).ok_or_else(|| missing(name, package))?;
            let mut libraries = libraries_of(&path)?;
            if *name == "fio" {
                standins::replace(&path, &mut libraries, scratch)?;
            }
            inputs.add(&path);
            found.programs.insert((*name).to_owned(), path);
            found.libraries.extend(libraries);
        }
        for name in EXTRA_LIBRARIES {
            let path = Path::new(LIBRARY_DIRECTORY).join(name);
            found.libraries.insert((*name).to_owned(), path);
        }
        for path in found.libraries.values().filter(|path| !path.starts_with(scratch)) {
            inputs.add(path);
        }
        let (busybox, package) = BUSYBOX;
        if !Path::new(busybox).exists() {
            return Err(missing(busybox, package));
        }
        inputs.add(busybox);
        let list = files::output_of(files::program(busybox).arg("--list"))?;
        found.applets = list.lines().map(str::to_owned).collect();
        Ok(found)
    }
}

fn missing(what: &str, package: &str) -> Error {
    Error::Missing { what: what.to_owned(), package: package.to_owned() }
}

/// Libraries that the loader would load for a program; empty for a static one.
pub fn libraries_of(path: &Path) -> Result<BTreeMap<String, PathBuf>> {
    Ok(parse_libraries(&files::output_of(files::program("ldd").arg(path))?))
}

/// Lines of ldd read `name => path (address)`, or `path (address)` for the loader.
fn parse_libraries(text: &str) -> BTreeMap<String, PathBuf> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, "=>", path, ..] if path.starts_with('/') => {
                Some(((*name).to_owned(), PathBuf::from(path)))
            }
            [path, ..] if path.starts_with('/') => Some(((*path).to_owned(), PathBuf::from(path))),
            _ => None,
        }
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_taken_and_the_kernels_own_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n\
                    \tlibgone.so => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let names: Vec<String> = parse_libraries(text).into_keys().collect();
        assert_eq!(names, ["/lib64/ld-linux-x86-64.so.2", "libz.so.1"]);
    }

    #[test]
    fn a_missing_program_is_reported_with_its_package() {
        let error = missing("fio", "fio");
        assert_eq!(error.to_string(), "fio is not here; it comes with the package fio");
    }
}
