//! All that was found, as a table for people and as JSON for scripts.

use comfy_table::{ContentArrangement, Table, presets};
use reactor::dma::region::HUGE_PAGE_BYTES;
use serde::Serialize;

use super::drive::Drive;
use super::host::Host;
use super::nodes::{self, Node, Wish};
use super::row::{Row, State};
use super::{cpu, system};

/// What was found. The keys of its JSON stay what they are.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The worst of the rows.
    pub state: State,
    /// The table.
    pub rows: Vec<Row>,
    /// Hugepages by node.
    pub nodes: Vec<Node>,
    /// The drives.
    pub drives: Vec<Drive>,
}

impl Report {
    /// Looks at a machine, and changes nothing of it.
    pub fn of(host: &Host, wish: &Wish) -> Report {
        let drives = Drive::all(host);
        let nodes = nodes::all(host, wish, &drives);
        let pages: u64 = nodes.iter().map(|node| node.hugepages_wanted).sum();
        let mut rows = vec![system::kernel(host)];
        rows.extend(cpu::rows(host));
        rows.extend(nodes::rows(&nodes));
        rows.push(system::iommu(host, &drives));
        rows.extend(system::modules(host, &drives));
        rows.extend(system::limits(host, pages.saturating_mul(HUGE_PAGE_BYTES as u64)));
        rows.extend(drives.iter().map(Drive::row));
        if drives.is_empty() {
            rows.push(Row::new("nvme", State::Ok, "no NVMe drive on the PCI bus"));
        }
        let state = rows.iter().map(|row| row.state).max().unwrap_or(State::Ok);
        Report { state, rows, nodes, drives }
    }

    /// A line a row. Never folded: commands are there to be copied.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["WHAT", "STATE", "FOUND", "COMMAND"]);
        for row in &self.rows {
            let fix = row.fix.as_deref().unwrap_or_default();
            table.add_row([row.key.as_str(), row.state.word(), row.found.as_str(), fix]);
        }
        table.lines().map(|line| line.trim().to_owned() + "\n").collect()
    }
}
