//! Whether the machine has the DMA memory that the cores will ask for.
//!
//! Looked at once, before they start. A mapping that is larger than what is free succeeds all the
//! same, and touching it then ends in the kernel's out-of-memory killer, which takes the process
//! without a word; this says it first. An estimate on the lenient side: what the system does not
//! tell is taken to be enough.

use std::fs;
use std::path::{Path, PathBuf};

use reactor::dma::region::HUGE_PAGE_BYTES;
use reactor::dma::{PagePreference, PoolConfig};

/// Where the kernel says what the machine has.
const MEMINFO: &str = "/proc/meminfo";
/// Where it says in which control group the process is.
const OWN_GROUP: &str = "/proc/self/cgroup";
/// Where control groups (version 2) are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// There is too little memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too little memory: DMA memory for {cores} core(s) wants {wanted_mib} MiB and {free_mib} MiB \
     are free; give the process more, or ask for less DMA memory or fewer cores"
)]
pub struct MemoryShortage {
    /// Number of cores.
    pub cores: usize,
    /// What they want beside free hugepages.
    pub wanted_mib: u64,
    /// What there is.
    pub free_mib: u64,
}

/// Checks that the pools of so many cores fit.
///
/// # Errors
///
/// They do not.
pub fn check(pool: PoolConfig, cores: usize) -> Result<(), MemoryShortage> {
    let meminfo = fs::read_to_string(MEMINFO).unwrap_or_default();
    let wanted = wanted_bytes(&meminfo, pool, cores);
    let machine = field_bytes(&meminfo, "MemAvailable:").unwrap_or(u64::MAX);
    let group = fs::read_to_string(OWN_GROUP).unwrap_or_default();
    let free = machine.min(group_free_bytes(&group, Path::new(GROUPS)));
    if wanted <= free {
        return Ok(());
    }
    Err(MemoryShortage { cores, wanted_mib: wanted >> 20, free_mib: free >> 20 })
}

/// What the pools take of ordinary memory: those for which there are hugepages take none.
fn wanted_bytes(meminfo: &str, pool: PoolConfig, cores: usize) -> u64 {
    let pool_bytes = (pool.chunks as u64).saturating_mul(HUGE_PAGE_BYTES as u64);
    let huge_free = match pool.pages {
        PagePreference::HugeFirst => huge_free_bytes(meminfo),
        PagePreference::Ordinary => 0,
    };
    let without = (cores as u64).saturating_sub(huge_free / pool_bytes.max(1));
    without.saturating_mul(pool_bytes)
}

fn huge_free_bytes(meminfo: &str) -> u64 {
    // The counts are of pages of the default size; those of another size are of no use here.
    let page_bytes = field_bytes(meminfo, "Hugepagesize:").unwrap_or_default();
    if page_bytes != HUGE_PAGE_BYTES as u64 {
        return 0;
    }
    field(meminfo, "HugePages_Free:").unwrap_or_default().saturating_mul(page_bytes)
}

/// The least that the process's control group, or one around it, has left.
fn group_free_bytes(own: &str, mounted: &Path) -> u64 {
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return u64::MAX;
    };
    let own: PathBuf = mounted.join(path);
    let around = own.ancestors().take_while(|group| group.starts_with(mounted));
    around.map(free_in_group).min().unwrap_or(u64::MAX)
}

fn free_in_group(group: &Path) -> u64 {
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    // "max" where there is no limit.
    let Ok(limit) = read("memory.max").trim().parse::<u64>() else { return u64::MAX };
    let statistics = read("memory.stat");
    // Cached files are given up for us; what is anonymous or shared is not.
    let used = ["anon", "shmem"].map(|name| field(&statistics, name).unwrap_or_default());
    limit.saturating_sub(used.iter().sum())
}

/// The number after a name, one of each a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next() == Some(name) { words.next()?.parse().ok() } else { None }
    };
    text.lines().find_map(value)
}

fn field_bytes(meminfo: &str, name: &str) -> Option<u64> {
    field(meminfo, name).map(|kibibytes: u64| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MEMINFO_TEXT: &str = "MemAvailable:    1048576 kB\nHugePages_Total:      70\n\
                                HugePages_Free:       40\nHugepagesize:       2048 kB\n";

    fn pool(pages: PagePreference) -> PoolConfig {
        PoolConfig { chunks: 32, pages }
    }

    #[test]
    fn pools_that_fit_into_free_hugepages_take_no_other_memory() {
        let wanted = |cores| wanted_bytes(MEMINFO_TEXT, pool(PagePreference::HugeFirst), cores);
        assert_eq!([1, 2, 3].map(wanted), [0, 64 * MIB, 128 * MIB]);
        assert_eq!(wanted_bytes(MEMINFO_TEXT, pool(PagePreference::Ordinary), 2), 128 * MIB);
    }

    #[test]
    fn what_the_system_does_not_tell_is_enough() {
        assert_eq!(field_bytes("", "MemAvailable:"), None);
        assert_eq!(group_free_bytes("", Path::new("/nowhere")), u64::MAX);
        assert_eq!(group_free_bytes("0::/a/b\n", Path::new("/nowhere")), u64::MAX);
    }

    #[test]
    fn the_narrowest_group_around_the_process_counts() {
        let root = std::env::temp_dir().join(format!("mayastor-groups-{}", std::process::id()));
        let outer = root.join("outer");
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(outer.join("memory.max"), "1000\n").unwrap();
        fs::write(outer.join("memory.stat"), "anon 100\nfile 800\nshmem 50\n").unwrap();
        let free = group_free_bytes("0::/outer/inner\n", &root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(free, 850);
    }

    #[test]
    fn more_than_any_machine_has_is_refused() {
        let pool = PoolConfig { chunks: 1 << 40, pages: PagePreference::Ordinary };
        let shortage = check(pool, 3).unwrap_err();
        assert_eq!((shortage.cores, shortage.wanted_mib), (3, 3 << 41));
    }
}
