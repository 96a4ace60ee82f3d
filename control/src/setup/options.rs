//! The options of `mayastor setup`.

use bdev::uri::{DeviceUri, PciAddress};
use clap::Args;
use engine::config::{DMA_MIB_DEFAULT, DMA_MIB_MAX, DMA_MIB_MIN};
use reactor::cores::CoreList;
use reactor::dma::region::HUGE_PAGE_BYTES;

use super::host::Host;
use super::nodes::{Wish, allowed_cores};

/// Options of `mayastor setup`.
#[derive(Clone, Debug, Args)]
pub struct SetupOptions {
    /// Give the NVMe drive at this PCI address to user space (vfio-pci); repeatable
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub bind: Vec<PciAddress>,
    /// Give the NVMe drive at this PCI address back to the kernel; repeatable
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub unbind: Vec<PciAddress>,
    /// Take a drive even from those who use it: what they have not written yet is lost
    #[arg(long)]
    pub force: bool,
    /// Reserve this many hugepages of 2 MiB in all
    #[arg(long, value_name = "N")]
    pub hugepages: Option<u64>,
    /// Reserve them of this NUMA node
    #[arg(long, value_name = "NODE", requires = "hugepages")]
    pub node: Option<u32>,
    /// Cores that the target will run on [default: the first allowed one]
    #[arg(long)]
    pub cores: Option<CoreList>,
    /// DMA memory that each core will have, in MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = DMA_MIB_DEFAULT,
        value_parser = clap::value_parser!(u32)
            .range(i64::from(DMA_MIB_MIN)..=i64::from(DMA_MIB_MAX)),
    )]
    pub dma_mib: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

impl SetupOptions {
    /// Whether anything is to be changed.
    pub fn changes(&self) -> bool {
        self.hugepages.is_some() || !self.bind.is_empty() || !self.unbind.is_empty()
    }

    /// How it is printed.
    pub fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Table }
    }

    /// The target that the machine is to be ready for.
    pub fn wish(&self, host: &Host) -> Wish {
        let cores = match &self.cores {
            Some(cores) => cores.as_slice().to_vec(),
            None => allowed_cores(host).into_iter().take(1).collect(),
        };
        let page_mib = u32::try_from(HUGE_PAGE_BYTES >> 20).unwrap_or(u32::MAX);
        Wish { cores, pages_per_core: u64::from(self.dma_mib.div_ceil(page_mib)) }
    }
}

/// A PCI address, with its domain or, as lspci prints it, without.
fn address(text: &str) -> Result<PciAddress, String> {
    let is_short = text.bytes().filter(|byte| *byte == b':').count() == 1;
    let whole = if is_short { format!("0000:{text}") } else { text.to_owned() };
    match format!("pcie:///{whole}").parse() {
        Ok(DeviceUri::Pcie(uri)) if uri.name() == uri.address.to_string() => Ok(uri.address),
        _ => Err(String::from("not a PCI address such as 0000:01:00.0")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        options: SetupOptions,
    }

    fn parse(words: &str) -> Result<SetupOptions, clap::Error> {
        let words = format!("setup {words}");
        Words::try_parse_from(words.split_whitespace()).map(|words| words.options)
    }

    #[test]
    fn the_plain_form_changes_nothing_and_neither_do_its_options() {
        for words in ["", "--json", "--cores 0-3 --dma-mib 128", "--force"] {
            assert!(!parse(words).unwrap().changes(), "{words}");
        }
        for words in ["--bind 01:00.0", "--unbind 0000:01:00.0", "--hugepages 0"] {
            assert!(parse(words).unwrap().changes(), "{words}");
        }
    }

    #[test]
    fn addresses_are_taken_with_and_without_their_domain_and_nothing_else_is() {
        for text in ["0000:01:00.0", "01:00.0"] {
            assert_eq!(address(text).unwrap().to_string(), "0000:01:00.0");
        }
        for text in ["", "nvme0", "01:00", "01:20.0", "01:00.8", "../..", "01:00.0?namespace=2"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_node_without_hugepages_to_reserve_is_refused() {
        assert!(parse("--node 1").is_err());
        assert_eq!(parse("--hugepages 4 --node 1").unwrap().node, Some(1));
    }

    #[test]
    fn what_is_wished_for_follows_cores_and_memory() {
        let host = crate::setup::fixture::Machine::good("options-wish").host();
        let wish = parse("--cores 1-2 --dma-mib 9").unwrap().wish(&host);
        assert_eq!((wish.cores.len(), wish.pages_per_core), (2, 5));
    }
}
