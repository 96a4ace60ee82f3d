//! Kernel and initramfs of the guest: built once, kept in the cache, found again by a list of
//! everything that went in.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::cpio::Archive;
use crate::error::{Error, Result};
use crate::files::{self, Scratch};
use crate::inputs::{self, Inputs};
use crate::kernel::{self, Kernel, MODULES};
use crate::programs::{PROGRAMS, Programs};
use crate::tree::Tree;

/// Debian packages that building and running a guest needs on the host.
pub const PACKAGES: &[&str] = &[
    "binutils",
    "busybox-static",
    "dash",
    "dmsetup",
    "e2fsprogs",
    "fio",
    "gcc",
    "iproute2",
    "kmod",
    "libc6-dev",
    "mount",
    "nvme-cli",
    "open-iscsi",
    "pciutils",
    "qemu-system-x86",
    "util-linux",
    "xfsprogs",
    "xz-utils",
];

/// Text files of the guest. The identities are fixed so that a test can put them on an allow-list.
const TEXTS: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", "root:x:0:\ndisk:x:6:\n"),
    ("etc/hosts", "127.0.0.1 localhost guest\n"),
    ("etc/hostname", "guest\n"),
    ("etc/fstab", ""),
    ("etc/protocols", "tcp 6 TCP\nudp 17 UDP\n"),
    ("etc/nvme/hostnqn", concat!(host_nqn!(), "\n")),
    ("etc/nvme/hostid", concat!(host_id!(), "\n")),
    ("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.2026-01.example:guest\n"),
    ("etc/iscsi/iscsid.conf", "iscsid.startup = /sbin/iscsid\nnode.startup = manual\n"),
];

/// Sources that the image is made from; a change of any of them makes a new image.
const SOURCES: &[&str] = &[
    include_str!("image.rs"),
    include_str!("tree.rs"),
    include_str!("cpio.rs"),
    include_str!("standins.rs"),
    INIT,
    AGENT,
    WIRE,
];
const INIT: &str = include_str!("init.sh");
const AGENT: &str = include_str!("agent/main.rs");
const WIRE: &str = include_str!("agent/wire.rs");

/// Executable files of the guest.
const EXECUTABLE: u32 = 0o755;
/// Plain files of the guest.
const PLAIN: u32 = 0o644;

/// A kernel and an initramfs that [`crate::Guest`] boots.
#[derive(Clone, Debug)]
pub struct GuestImage {
    directory: PathBuf,
}

impl GuestImage {
    /// Builds the image in the cache, or finds that the one there is current, which takes
    /// milliseconds. Processes that ask at the same time wait for the one that builds.
    pub fn prepare(cache: &Cache) -> Result<GuestImage> {
        let _lock = cache.lock()?;
        let image = GuestImage { directory: cache.directory().to_owned() };
        let recipe = recipe();
        let complete = image.kernel().exists() && image.initramfs().exists();
        if !complete || !inputs::are_current(&image.stamp(), recipe) {
            image.build(recipe)?;
        }
        Ok(image)
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The first root file system.
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs.cpio")
    }

    fn stamp(&self) -> PathBuf {
        self.directory.join("stamp")
    }

    fn build(&self, recipe: u64) -> Result<()> {
        let _ = fs::remove_file(self.stamp());
        Scratch::remove_all(&self.directory);
        let scratch = Scratch::in_directory(&self.directory)?;
        let (unpacked, root) = (scratch.path().join("kernel"), scratch.path().join("root"));
        let mut inputs = Inputs::default();
        let package = kernel::package_in(&self.directory)?;
        let kernel = Kernel::unpack(&package, &unpacked)?;
        inputs.add(package);
        kernel.install_modules(&root)?;
        let programs = Programs::find(scratch.path(), &mut inputs)?;
        let agent = build_agent(scratch.path())?;
        let tree = lay_out(&root, &programs, agent)?;
        write_archive(&tree, &self.initramfs())?;
        fs::copy(kernel.image(), self.kernel()).map_err(Error::file("copy", kernel.image()))?;
        inputs.save(&self.stamp(), recipe)
    }
}

/// Everything that determines the image and is no file of the host.
fn recipe() -> u64 {
    let programs = PROGRAMS.iter().map(|(name, _)| *name);
    inputs::fingerprint(SOURCES.iter().copied().chain(MODULES.iter().copied()).chain(programs))
}

/// Compiles the agent, static, so that it depends on nothing in the guest.
fn build_agent(scratch: &Path) -> Result<PathBuf> {
    let source = scratch.join("agent");
    fs::create_dir_all(&source).map_err(Error::file("create", &source))?;
    files::write(&source.join("main.rs"), AGENT)?;
    files::write(&source.join("wire.rs"), WIRE)?;
    let agent = scratch.join("guest-agent");
    let mut compile = files::program("rustc");
    compile.args(["--edition=2024", "--crate-name=guest_agent", "-Copt-level=s", "-Cpanic=abort"]);
    compile.args(["-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-o"]);
    files::output_of(compile.arg(&agent).arg(source.join("main.rs")))?;
    Ok(agent)
}

/// Puts everything where it belongs in the guest; `modules` has what lies under `/lib/modules`.
fn lay_out(modules: &Path, programs: &Programs, agent: PathBuf) -> Result<Tree> {
    let mut tree = Tree::default();
    for directory in ["proc", "sys", "dev", "run", "tmp", "root", "mnt", "host", "var/lib"] {
        tree.directory(directory);
    }
    // One directory of programs under all its names, as on the host; programs of the same name
    // as an applet come later and replace it.
    tree.link("sbin", "bin");
    tree.link("usr/bin", "../bin");
    tree.link("usr/sbin", "../bin");
    tree.link("usr/lib", "../lib");
    tree.link("var/run", "../run");
    tree.copy("bin/busybox", EXECUTABLE, crate::programs::BUSYBOX.0);
    for applet in programs.applets.iter().filter(|applet| *applet != "busybox") {
        tree.link(&format!("bin/{applet}"), "busybox");
    }
    for (name, path) in &programs.programs {
        tree.copy(&format!("bin/{name}"), EXECUTABLE, path);
    }
    // The shell of busybox prefers its own applets to real programs, its mount for one.
    tree.link("bin/sh", "dash");
    tree.copy("bin/guest-agent", EXECUTABLE, agent);
    for (name, path) in &programs.libraries {
        let place = match name.strip_prefix('/') {
            Some(absolute) => absolute.to_owned(),
            None => format!("lib/x86_64-linux-gnu/{name}"),
        };
        tree.copy(&place, EXECUTABLE, path);
    }
    for (name, text) in TEXTS {
        tree.text(name, PLAIN, text);
    }
    tree.copy("etc/mke2fs.conf", PLAIN, "/etc/mke2fs.conf");
    tree.text("init", EXECUTABLE, INIT);
    tree.copy_all("", PLAIN, modules)?;
    Ok(tree)
}

/// Writes the archive beside its place and moves it there, so that none is ever half written.
fn write_archive(tree: &Tree, path: &Path) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let out = File::create(&unfinished).map_err(Error::file("create", &unfinished))?;
    let mut archive = Archive::new(BufWriter::new(out));
    tree.write(&mut archive)?;
    archive.finish().map_err(Error::file("write", &unfinished))?;
    fs::rename(&unfinished, path).map_err(Error::file("rename", &unfinished))
}
