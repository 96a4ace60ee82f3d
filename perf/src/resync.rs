//! The command `resync`: how long a volume takes to be equal again after kill -9.
//!
//! Makes three sparse files and labels on them, and has a process of its own write whole regions
//! over all of their length, as many as may be dirty at once, until it is killed. Then opens the
//! volume, and finds when it served, when every region was equal, and how much was read for that.
//! The files are removed. In a file system in memory they are what files in the page cache are.
//!
//! Called by main, on its thread.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bdev::{Completions, Io, Lba, QueuePair, Token};
use nexus::Home;
use nexus::truth::activity::DIRTY_BYTES_MAX_DEFAULT;
use reactor::Cx;
use reactor::dma::DmaBuffer;

use crate::mirrors::{self, Labels};
use crate::options::ResyncOptions;

/// Files that are the replicas.
const FILES: [&str; 3] = ["replica0", "replica1", "replica2"];
const BLOCK_BYTES: u32 = 4096;
const IO_BYTES: u32 = 64 << 10;
const DEPTH: u64 = 16;
const REGION_BYTES: u64 = nexus::intent::REGION_BYTES;
/// What the writer says once every region has been written, and it is in the next round.
const READY: &str = "dirty";
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

type Failure = Box<dyn std::error::Error>;

fn children(directory: &Path) -> String {
    let uri = |name: &&str| {
        format!("uring://{}?blk_size={BLOCK_BYTES}", directory.join(name).to_string_lossy())
    };
    FILES.iter().map(uri).collect::<Vec<_>>().join(",")
}

/// Writes `dirty_bytes` in whole regions that lie evenly over the volume, again and again.
struct Writer {
    cx: Cx,
    queue_pair: Box<dyn QueuePair>,
    buffers: Vec<DmaBuffer>,
    regions: u64,
    stride_bytes: u64,
    next: u64,
}

impl Writer {
    fn open(directory: &Path, dirty_bytes: u64) -> Result<Writer, Failure> {
        let uris = children(directory);
        let device = mirrors::open_mirror("tracked", &uris, Labels::On)?;
        let mut cx = mirrors::context()?;
        let queue_pair = device.open_queue_pair(&mut cx, DEPTH as u32)?;
        let take = |_| cx.dma.take(IO_BYTES).ok_or("no memory");
        let buffers = (0..DEPTH).map(take).collect::<Result<Vec<_>, _>>()?;
        let regions = dirty_bytes / REGION_BYTES;
        let stride = device.geometry().len_bytes() / regions / REGION_BYTES * REGION_BYTES;
        let stride_bytes = stride.max(REGION_BYTES);
        Ok(Writer { cx, queue_pair, buffers, regions, stride_bytes, next: 0 })
    }

    fn submit(&mut self, index: u64) -> Result<(), Failure> {
        let parts = REGION_BYTES / u64::from(IO_BYTES);
        let (region, part) = (self.next / parts % self.regions, self.next % parts);
        let offset = region * self.stride_bytes + part * u64::from(IO_BYTES);
        let segment = self.buffers[index as usize].segment(IO_BYTES);
        segment.write(0, &[self.next as u8 | 1; 4096]);
        let lba = Lba(offset / u64::from(BLOCK_BYTES));
        let io = Io::write(lba, IO_BYTES / BLOCK_BYTES, segment, Token(index));
        self.next += 1;
        self.queue_pair.submit(&mut self.cx, io).map_err(|_| "a credit was refused".into())
    }

    fn run(mut self) -> Result<(), Failure> {
        let in_round = self.regions * (REGION_BYTES / u64::from(IO_BYTES));
        let mut completions = Completions::new();
        let mut is_said = false;
        (0..DEPTH).try_for_each(|index| self.submit(index))?;
        loop {
            self.cx.advance_clock();
            self.queue_pair.flush(&mut self.cx);
            self.queue_pair.poll(&mut self.cx, &mut completions);
            for completion in completions.drain() {
                if !completion.status.is_success() {
                    return Err(format!("a write failed: {:?}", completion.status).into());
                }
                self.submit(completion.token.0)?;
            }
            if self.next > in_round + DEPTH && !is_said {
                println!("{READY}");
                std::io::stdout().flush()?;
                is_said = true;
            }
        }
    }
}

fn kill_a_writer(directory: &Path) -> Result<(), Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("resync").arg("--writer").arg(directory);
    let mut writer = command.stdout(Stdio::piped()).spawn()?;
    let output = writer.stdout.take().ok_or("the writer has no output")?;
    let mut line = String::new();
    let read = BufReader::new(output).read_line(&mut line);
    // SIGKILL.
    writer.kill()?;
    writer.wait()?;
    read?;
    if line.trim() == READY { Ok(()) } else { Err("the writer ended by itself".into()) }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resync {
    /// From the start until hosts were served.
    pub served_s: f64,
    /// From the start until every region was equal.
    pub equal_s: f64,
    /// Regions that were dirty.
    pub regions: u64,
    /// Bytes read from a member, and given to the others.
    pub read_bytes: u64,
    /// Bytes that were known to be zeroes without being read.
    pub skipped_bytes: u64,
}

impl std::fmt::Display for Resync {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Resync { served_s, equal_s, regions, read_bytes, skipped_bytes } = self;
        let (read_mib, skipped_mib) = (read_bytes >> 20, skipped_bytes >> 20);
        writeln!(
            formatter,
            "served after {served_s:.3} s, {regions} regions dirty, \
             all equal after {equal_s:.3} s: \
             {read_mib} MiB read of at most {}, {skipped_mib} MiB skipped",
            DIRTY_BYTES_MAX_DEFAULT >> 20,
        )
    }
}

fn open_again(directory: &Path) -> Result<Resync, Failure> {
    let started = Instant::now();
    let nexus = mirrors::nexus("tracked", &children(directory), Labels::On)?;
    let mut cx = mirrors::context()?;
    let mut home = Home::new(nexus.clone(), &mut cx, mirrors::truth(Labels::On));
    let mut poll_until = |home: &mut Home, is_done: fn(&Home) -> bool| {
        while !is_done(home) {
            if started.elapsed() > PATIENCE {
                return Err(format!("it does not come to an end: {:?}", home.refusal()));
            }
            cx.advance_clock();
            home.poll(&mut cx);
        }
        Ok(started.elapsed().as_secs_f64())
    };
    let served_s = poll_until(&mut home, Home::is_assembled)?;
    let regions = home.unequal_regions();
    let equal_s = poll_until(&mut home, |home| home.unequal_regions() == 0)?;
    let moved = home.moved();
    // The files may still have buffers of this context.
    while !home.let_go(&mut cx) {
        cx.advance_clock();
    }
    Ok(Resync {
        served_s,
        equal_s,
        regions,
        read_bytes: moved.copied_bytes,
        skipped_bytes: moved.skipped_bytes,
    })
}

/// Makes the files, kills a writer, opens the volume; or is the writer, and never comes back.
///
/// # Errors
///
/// When the files are there already or cannot be used, or the volume does not open.
pub fn run(options: &ResyncOptions) -> Result<Resync, Failure> {
    let directory = &*options.directory;
    if options.writer {
        Writer::open(directory, DIRTY_BYTES_MAX_DEFAULT)?.run()?;
    }
    let paths = FILES.map(|name| directory.join(name));
    for path in &paths {
        std::fs::File::create_new(path)?.set_len(options.size_bytes)?;
    }
    let result = kill_a_writer(directory).and_then(|()| open_again(directory));
    paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
    result
}
