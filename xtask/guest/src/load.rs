//! I/O that goes on in a guest while a test does something to the target.
//!
//! fio writes a piece of a device with a checksum in every block, at random and many blocks at a
//! time, reads it back, and begins anew, until it is told to stop or finds something wrong. An
//! error that the host's file systems would see is one that the load sees.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::machine::Guest;

/// Time for a script that only looks.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// Time for the pass under way to end: a pass takes seconds, and may wait for a path.
const END_LIMIT: Duration = Duration::from_secs(240);
/// Polls, of a tenth of a second each, for the load to move what a test waits for: a minute.
const POLLS: u32 = 600;
const FIO: &str = "fio --name=load --ioengine=libaio --direct=1 --thread --gtod_reduce=1 \
    --rw=randwrite --bs=4k --iodepth=16 \
    --verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1";

/// A load in a guest. It must be ended with [`Load::stop`]; a guest that is shared goes on with it
/// otherwise.
#[derive(Debug)]
#[must_use]
pub struct Load {
    /// Name of the block device, without its directory.
    device: String,
}

impl Load {
    /// Begins to write and read `size_mib` from the begin of a block device, which is its own
    /// from here on.
    pub fn start(guest: &mut Guest, device: &str, size_mib: u32) -> Result<Load> {
        Load::start_in(guest, device, device, size_mib)
    }

    /// The same with a file, of a file system on that block device.
    pub fn start_in(guest: &mut Guest, device: &str, file: &str, size_mib: u32) -> Result<Load> {
        let name = device.trim_start_matches("/dev/").to_owned();
        let job = format!("{FIO} --filename={file} --size={size_mib}m");
        let script = format!(
            "mkdir -p /tmp/load && cd /tmp/load && rm -f {name}.* && (
                while [ ! -e {name}.stop ] && {job} > {name}.log 2>&1; do :; done
                [ -e {name}.stop ] && grep -q 'err= 0' {name}.log
                echo $? > {name}.code) &"
        );
        guest.run_ok(&script, LOOK_LIMIT)?;
        Ok(Load { device: name })
    }

    /// Waits until the host has moved this much more over one of the paths.
    pub fn wait_for(&self, guest: &mut Guest, kib: u64) -> Result<()> {
        let sectors = kib * 2;
        let begin = self.moved_sectors(guest)?;
        let mut last = begin.clone();
        for _ in 0..POLLS {
            let is_over = |(path, now): (&String, &u64)| {
                now.saturating_sub(begin.get(path).copied().unwrap_or(0)) >= sectors
            };
            if last.iter().any(is_over) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
            last = self.moved_sectors(guest)?;
        }
        Err(self.unexpected(guest, &format!("{begin:?}, and no more than {last:?}")))
    }

    /// Whether it still runs, which it does until it finds something wrong.
    pub fn is_running(&self, guest: &mut Guest) -> Result<bool> {
        let look = format!("test ! -e /tmp/load/{}.code", self.device);
        Ok(guest.run(&look, LOOK_LIMIT)?.is_success())
    }

    /// Ends it after the pass that is under way. It fails if any I/O failed, or if anything that
    /// came back was not what was written.
    pub fn stop(self, guest: &mut Guest) -> Result<()> {
        let name = &self.device;
        let wait = format!(
            "cd /tmp/load; touch {name}.stop
            while [ ! -s {name}.code ]; do sleep 0.1; done; exit $(cat {name}.code)"
        );
        if guest.run(&wait, END_LIMIT)?.is_success() {
            return Ok(());
        }
        Err(self.unexpected(guest, "it failed"))
    }

    /// Ends it where errors are what is wanted, and says whether there were any.
    pub fn stop_with_errors(self, guest: &mut Guest) -> Result<bool> {
        let name = self.device.clone();
        let had = !self.is_running(guest)?;
        let wait = format!(
            "cd /tmp/load; touch {name}.stop
            while [ ! -s {name}.code ]; do sleep 0.1; done; cat {name}.code"
        );
        Ok(had || guest.run_ok(&wait, END_LIMIT)?.trim() != "0")
    }

    /// Sectors of 512 bytes read and written, by path. The kernel counts these where I/O goes, not
    /// at the device that hides the paths.
    fn moved_sectors(&self, guest: &mut Guest) -> Result<BTreeMap<String, u64>> {
        let (subsystem, number) = self.device.rsplit_once('n').unwrap_or((&self.device, ""));
        let look = format!(
            "for stat in /sys/block/{subsystem}c*n{number}/stat; do
                [ -e $stat ] && echo $stat $(awk '{{ print $3 + $7 }}' $stat)
            done"
        );
        let text = guest.run(&look, LOOK_LIMIT)?.stdout;
        let entry = |line: &str| {
            let (path, sectors) = line.split_once(' ')?;
            Some((path.to_owned(), sectors.parse().ok()?))
        };
        Ok(text.lines().filter_map(entry).collect())
    }

    fn unexpected(&self, guest: &mut Guest, what: &str) -> Error {
        let look = format!("tail -n 20 /tmp/load/{}.log; dmesg | tail -n 20", self.device);
        let said = guest.run(&look, LOOK_LIMIT).map(|output| output.stdout).unwrap_or_default();
        Error::Unexpected {
            command: format!("load on {}", self.device),
            value: Value::from(format!("{what}\n{said}")).to_string(),
        }
    }
}
