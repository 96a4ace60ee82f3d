//! Hugepages, free and wanted, by NUMA node; and how many of them are reserved.
//!
//! A core takes its DMA memory from its own node, and a drive's queues belong on the drive's node.

use std::collections::BTreeMap;

use reactor::cores::{CoreId, CoreList};
use serde::Serialize;

use super::drive::Drive;
use super::error::SetupError;
use super::hands::Hands;
use super::host::{Host, field};
use super::row::{Row, State};

/// Where the kernel lists its nodes.
const NODES: &str = "sys/devices/system/node";
/// Folder of the hugepages of the size that is used: 2 MiB.
const PAGES: &str = "hugepages/hugepages-2048kB";
/// The same for all nodes together.
const PAGES_ALL: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
/// KiB of such a page.
const PAGE_KIB: u64 = 2048;
/// Queues of a drive that are no core's: the admin queue, and the one for doorbells in memory.
const QUEUES_EXTRA: u64 = 2;
/// Of the memory at most this much is reserved, in percent: the rest is what the machine lives on.
pub const MEMORY_PERCENT_MAX: u64 = 90;

/// Which cores will run the target, and with how much memory each.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The cores.
    pub cores: Vec<CoreId>,
    /// Hugepages of each core's DMA pool.
    pub pages_per_core: u64,
}

/// Hugepages of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its number.
    pub node: u32,
    /// Its cores, as the kernel lists them.
    pub cores: String,
    /// Hugepages of 2 MiB that are reserved.
    pub hugepages_total: u64,
    /// Those of them that nobody uses.
    pub hugepages_free: u64,
    /// Free ones that the target will want.
    pub hugepages_wanted: u64,
}

/// The cores that this process may run on.
pub fn allowed_cores(host: &Host) -> Vec<CoreId> {
    let status = host.text("proc/self/status").unwrap_or_default();
    cores(field(&status, "Cpus_allowed_list").unwrap_or_default())
}

/// Cores of a list such as `0-3,8`; none where it is empty, as it is for a node of memory alone.
fn cores(list: &str) -> Vec<CoreId> {
    list.parse::<CoreList>().map(|list| list.as_slice().to_vec()).unwrap_or_default()
}

fn node_folder(node: u32) -> String {
    format!("{NODES}/node{node}")
}

/// Numbers of the nodes; none where the kernel knows of no nodes.
fn numbers(host: &Host) -> Vec<u32> {
    let names = host.names(NODES);
    let number = |name: &String| name.strip_prefix("node")?.parse().ok();
    let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// All nodes, at least one.
pub fn all(host: &Host, wish: &Wish, drives: &[Drive]) -> Vec<Node> {
    let places: Vec<(u32, String)> = match numbers(host) {
        none if none.is_empty() => vec![(0, String::from(PAGES_ALL))],
        some => some.into_iter().map(|n| (n, format!("{}/{PAGES}", node_folder(n)))).collect(),
    };
    let lists: BTreeMap<u32, String> = places
        .iter()
        .map(|(node, _)| (*node, host.text(format!("{}/cpulist", node_folder(*node)))))
        .map(|(node, list)| (node, list.unwrap_or_default()))
        .collect();
    let mut wanted = wanted(&lists, wish);
    let queues = allowed_cores(host).len() as u64 + QUEUES_EXTRA;
    for drive in drives.iter().filter(|drive| drive.is_bound()) {
        let node = drive.node.filter(|node| lists.contains_key(node)).unwrap_or(places[0].0);
        *wanted.entry(node).or_default() += queues;
    }
    let node = |(node, folder): (u32, String)| Node {
        node,
        cores: lists[&node].clone(),
        hugepages_total: host.value(format!("{folder}/nr_hugepages")).unwrap_or_default(),
        hugepages_free: host.value(format!("{folder}/free_hugepages")).unwrap_or_default(),
        hugepages_wanted: wanted.get(&node).copied().unwrap_or_default(),
    };
    places.into_iter().map(node).collect()
}

/// What the cores want of each node; a core that no node lists wants of the first.
fn wanted(lists: &BTreeMap<u32, String>, wish: &Wish) -> BTreeMap<u32, u64> {
    let first = lists.keys().next().copied().unwrap_or_default();
    let mut wanted = BTreeMap::new();
    for core in &wish.cores {
        let home = lists.iter().find(|(_, list)| cores(list).contains(core));
        *wanted.entry(home.map_or(first, |(node, _)| *node)).or_default() += wish.pages_per_core;
    }
    wanted
}

/// A row a node.
pub fn rows(nodes: &[Node]) -> Vec<Row> {
    nodes.iter().map(|node| node.row(nodes.len())).collect()
}

impl Node {
    fn row(&self, nodes: usize) -> Row {
        let key = format!("hugepages.node{}", self.node);
        let Node { hugepages_total: total, hugepages_free: free, hugepages_wanted: wanted, .. } =
            *self;
        let found = format!("{free} free of {total} (2 MiB each), {wanted} wanted");
        if free >= wanted {
            return Row::new(key, State::Ok, found);
        }
        let state = if free == 0 { State::Missing } else { State::Warning };
        let number = total.saturating_sub(free).saturating_add(wanted);
        let mut fix = format!("mayastor setup --hugepages {number}");
        if nodes > 1 {
            fix = format!("{fix} --node {}", self.node);
        }
        Row::new(key, state, found).with_fix(fix)
    }
}

/// What a reservation came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reserved {
    /// The node, or all of them.
    pub node: Option<u32>,
    /// How many there were.
    pub hugepages_before: u64,
    /// How many there are.
    pub hugepages_total: u64,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// Has this many hugepages reserved, of one node or of all together.
///
/// # Errors
///
/// There is no such node; so many leave too little memory; the kernel refuses, or finds fewer.
pub fn reserve(
    host: &Host,
    hands: &mut dyn Hands,
    pages: u64,
    node: Option<u32>,
) -> Result<Reserved, SetupError> {
    let there = numbers(host);
    let folder = match node {
        None => String::from(PAGES_ALL),
        Some(node) if there.contains(&node) => format!("{}/{PAGES}", node_folder(node)),
        Some(node) => {
            let there: Vec<String> = there.iter().map(u32::to_string).collect();
            return Err(SetupError::NoNode { node, there: there.join(", ") });
        }
    };
    let most = pages_max(host, node);
    if pages > most {
        return Err(SetupError::TooManyPages { pages, most });
    }
    let path = format!("{folder}/nr_hugepages");
    let before = host.value(&path).ok_or(SetupError::NoHugepages)?;
    super::bind::write(host, hands, &path, &pages.to_string())?;
    let total: u64 = host.value(&path).ok_or(SetupError::NoHugepages)?;
    if total < pages {
        return Err(SetupError::FewerPages { pages, total });
    }
    let keep = match node {
        None => format!("echo vm.nr_hugepages={pages} > /etc/sysctl.d/80-mayastor.conf"),
        Some(node) => format!("run `mayastor setup --hugepages {pages} --node {node}` at each"),
    };
    let notes = vec![format!("hugepages are gone after a restart of the machine; to keep: {keep}")];
    Ok(Reserved { node, hugepages_before: before, hugepages_total: total, notes })
}

/// The most that may be reserved.
fn pages_max(host: &Host, node: Option<u32>) -> u64 {
    let meminfo = match node {
        None => host.text("proc/meminfo"),
        Some(node) => host.text(format!("{}/meminfo", node_folder(node))),
    };
    let line = meminfo.as_deref().and_then(|text| {
        // A node's lines begin with its name.
        text.lines().find_map(|line| line.split_once("MemTotal:").map(|(_, value)| value.trim()))
    });
    let kib = line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 100 * MEMORY_PERCENT_MAX / PAGE_KIB
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::fixture::{DriveParts, Machine, drive};

    fn wish(cores: &[u32]) -> Wish {
        let cores = cores.iter().copied().map(CoreId).collect();
        Wish { cores, pages_per_core: 32 }
    }

    fn told(machine: &Machine, cores: &[u32]) -> Vec<(String, State, Option<String>)> {
        let host = machine.host();
        let rows = rows(&all(&host, &wish(cores), &Drive::all(&host)));
        rows.into_iter().map(|row| (row.found, row.state, row.fix)).collect()
    }

    #[test]
    fn cores_want_hugepages_of_their_own_node() {
        let machine = Machine::good("nodes-two");
        machine.node(0, "0-1", (64, 64));
        machine.node(1, "2-3", (80, 20));
        let fix = String::from("mayastor setup --hugepages 92 --node 1");
        assert_eq!(
            told(&machine, &[0, 1, 2]),
            [
                ("64 free of 64 (2 MiB each), 64 wanted".into(), State::Ok, None),
                ("20 free of 80 (2 MiB each), 32 wanted".into(), State::Warning, Some(fix)),
            ]
        );
    }

    #[test]
    fn a_bound_drive_wants_its_queues_on_its_node() {
        let machine = Machine::good("nodes-drive");
        machine.node(1, "", (0, 0));
        let bound = DriveParts { driver: Some("vfio-pci"), node: 1, ..drive("0000:01:00.0") };
        machine.drive(bound);
        let told = told(&machine, &[0]);
        assert_eq!(told[1].0, "0 free of 0 (2 MiB each), 6 wanted", "4 cores and two more");
        assert_eq!(told[1].1, State::Missing);
    }

    #[test]
    fn hugepages_that_are_gone_are_missing_by_their_number() {
        let machine = Machine::good("nodes-gone");
        machine.node(0, "0-3", (32, 0));
        let told = told(&machine, &[0]);
        assert_eq!(told[0].1, State::Missing);
        assert_eq!(told[0].2.as_deref(), Some("mayastor setup --hugepages 64"));
    }

    #[test]
    fn a_kernel_without_nodes_has_one() {
        let machine = Machine::good("nodes-none");
        machine.remove("sys/devices/system/node");
        machine.file(&format!("{PAGES_ALL}/nr_hugepages"), "40\n");
        machine.file(&format!("{PAGES_ALL}/free_hugepages"), "40\n");
        assert_eq!(told(&machine, &[0])[0].1, State::Ok);
    }

    #[test]
    fn hugepages_are_reserved_of_all_nodes_or_of_one() {
        let machine = Machine::good("nodes-reserve");
        let mut kernel = machine.kernel();
        let all = reserve(&machine.host(), &mut kernel, 200, None).unwrap();
        assert_eq!((all.hugepages_before, all.hugepages_total), (128, 200));
        reserve(&machine.host(), &mut kernel, 100, Some(0)).unwrap();
        assert_eq!(
            kernel.written(),
            [
                ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "200"),
                ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "100"),
            ]
        );
    }

    #[test]
    fn a_reservation_that_cannot_be_is_refused_and_nothing_written() {
        let machine = Machine::good("nodes-refuse");
        let mut kernel = machine.kernel();
        let host = machine.host();
        let mut refusal =
            |pages, node| reserve(&host, &mut kernel, pages, node).unwrap_err().to_string();
        assert!(refusal(1, Some(4)).contains("there are 0"));
        // 16 GiB: 8192 pages, and 90 % of them at most, rounded down.
        assert!(refusal(7373, None).contains("at most 7372"));
        assert!(kernel.written().is_empty());
        assert!(reserve(&host, &mut kernel, 7372, None).is_ok());
    }

    #[test]
    fn fewer_than_asked_for_is_an_error_with_their_number() {
        let machine = Machine::good("nodes-fewer");
        let mut kernel = machine.kernel();
        kernel.pages_max = 150;
        let error = reserve(&machine.host(), &mut kernel, 200, None).unwrap_err().to_string();
        assert!(error.contains("150 of 200") && error.contains("compact_memory"), "{error}");
    }
}
