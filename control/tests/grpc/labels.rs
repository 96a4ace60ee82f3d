//! Mirrors over files that outlive their process: killed in the middle, opened again, closed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::scratch;
use crate::host::Host;

const NQN: &str = "nqn.2019-05.io.openebs:labels";

/// Bytes of a label, before the data.
const LABEL_BYTES: u64 = 2 << 20;
const DATA_BYTES: u64 = 16 << 20;

/// A crashed mirror is open again within this time, the start of the process included.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// A process that is asked to end does so within a second; this machine may be busy.
const END_WITHIN: Duration = Duration::from_secs(2);

/// A device that has come back is in sync again within this time.
const RETURN_WITHIN: Duration = Duration::from_secs(30);

/// A target that mirrors files; killed if a test ends early.
struct Mirror {
    child: Child,
    address: SocketAddr,
}

fn mirror(files: &[&PathBuf], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mayastor"));
    let fixed = ["target", "--quiet", "--port", "0", "--dma-mib", "8", "--no-huge", "--nqn", NQN];
    command.args(fixed).args(more).arg("--mirror").args(files);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Mirror {
    fn start(files: &[&PathBuf]) -> Mirror {
        Mirror::start_with(files, &[])
    }

    fn start_with(files: &[&PathBuf], more: &[&str]) -> Mirror {
        let mut child = mirror(files, more).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut words = String::new();
            child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
            panic!("it does not start: {words}");
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |flag| words[words.iter().position(|word| *word == flag).unwrap() + 1];
        let address = SocketAddr::new(after("-a").parse().unwrap(), after("-s").parse().unwrap());
        Mirror { child, address }
    }

    fn host(&self) -> Host {
        Host::connect(self.address, NQN, 1)
    }

    /// Sends a signal, waits, and tells what was said on standard error. When it is asked to end,
    /// it does so soon and well, whatever its volume waits for.
    fn end(mut self, signal: Signal) -> String {
        let begun = Instant::now();
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        let mut words = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        let status = self.child.wait().unwrap();
        if signal == Signal::SIGTERM {
            assert!(status.success(), "{status}: {words}");
            assert!(begun.elapsed() < END_WITHIN, "{:?}: {words}", begun.elapsed());
        }
        words
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Blank files in a directory of their own, which is removed at the end.
struct Files(PathBuf);

impl Files {
    fn new() -> Files {
        Files(scratch())
    }

    fn blank(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::File::create(&path).unwrap().set_len(LABEL_BYTES + DATA_BYTES).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn data(path: &Path) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(DATA_BYTES).unwrap()];
    fs::File::open(path).unwrap().read_exact_at(&mut data, LABEL_BYTES).unwrap();
    data
}

/// What a mirror says that is not to be.
fn refused(files: &[&PathBuf], more: &[&str]) -> String {
    let output = mirror(files, more).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_mirror_of_files_outlives_its_process_and_a_stale_file_does_not_serve() {
    let files = Files::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| files.blank(name));
    let all = [&a, &b, &c];
    let first = Mirror::start(&all);
    let mut host = first.host();
    host.write_and_check(0..200);
    // Killed with a write on its way.
    host.send_write(200);
    first.end(Signal::SIGKILL);
    drop(host);
    let begun = Instant::now();
    let second = Mirror::start(&all);
    let mut host = second.host();
    host.check(0..200);
    assert!(begun.elapsed() < OPEN_WITHIN, "{:?}", begun.elapsed());
    host.write_and_check(1000..1010);
    second.end(Signal::SIGTERM);
    drop(host);
    let contents = data(&a);
    assert!(contents == data(&b) && contents == data(&c), "files are equal");
    // One that is left out misses what is written then.
    let third = Mirror::start(&[&a, &b]);
    let mut host = third.host();
    host.write_and_check(2000..2010);
    third.end(Signal::SIGTERM);
    drop(host);
    let alone = Mirror::start(&[&c]);
    let mut host = alone.host();
    host.send_read();
    assert!(host.is_waiting(), "a stale file serves nobody");
    let said = alone.end(Signal::SIGTERM);
    assert!(said.contains("is not open, and waits"), "{said}");
    let is_named = |path: &Path| said.contains(path.to_str().unwrap());
    assert!(is_named(&a) && is_named(&b), "{said}");
    drop(host);
    let again = Mirror::start(&all);
    let mut host = again.host();
    host.check(0..200);
    host.check(2000..2010);
    again.end(Signal::SIGTERM);
}

#[test]
fn files_that_do_not_belong_together_are_refused_and_stay_as_they_are() {
    let files = Files::new();
    let [a, b, other, blank] = ["a", "b", "other", "blank"].map(|name| files.blank(name));
    Mirror::start(&[&a, &b]).end(Signal::SIGTERM);
    Mirror::start(&[&other]).end(Signal::SIGTERM);
    let before = [&a, &other, &blank].map(|path| fs::read(path).unwrap());
    let mixed = refused(&[&a, &blank], &[]);
    assert!(mixed.contains("is blank and") && mixed.contains("is a replica of volume"), "{mixed}");
    let two = refused(&[&a, &other], &[]);
    assert!(two.matches("of volume").count() == 2, "{two}");
    fs::write(&blank, vec![7; 32 << 20]).unwrap();
    let used = refused(&[&blank], &[]);
    assert!(used.contains("is no replica and not blank"), "{used}");
    let over = refused(&[&a, &b], &["--no-labels"]);
    assert!(over.contains("would be written over"), "{over}");
    let mut damaged = vec![7; 32 << 20];
    damaged[..8].copy_from_slice(b"MIRLABEL");
    fs::write(&blank, damaged).unwrap();
    let over = refused(&[&blank], &["--no-labels"]);
    assert!(over.contains("are damaged), which would be written over"), "{over}");
    let null = Path::new("null:///n?size_mb=64").to_owned();
    let kept = refused(&[&null], &["--labels"]);
    assert!(kept.contains("it keeps nothing"), "{kept}");
    assert!(fs::read(&a).unwrap() == before[0] && fs::read(&other).unwrap() == before[1]);
}

#[test]
fn a_replica_that_is_not_there_is_done_without_and_joins_when_it_comes() {
    let files = Files::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| files.blank(name));
    let all = [&a, &b, &c];
    let first = Mirror::start(&all);
    let mut host = first.host();
    host.write_and_check(0..50);
    first.end(Signal::SIGTERM);
    drop(host);
    let away = files.0.join("away");
    fs::rename(&c, &away).unwrap();
    let second = Mirror::start(&all);
    let mut host = second.host();
    host.check(0..50);
    host.write_and_check(100..150);
    fs::rename(&away, &c).unwrap();
    let begun = Instant::now();
    while data(&a) != data(&c) {
        assert!(begun.elapsed() < RETURN_WITHIN, "it stays out");
        std::thread::sleep(Duration::from_millis(100));
    }
    host.write_and_check(200..210);
    let said = second.end(Signal::SIGTERM);
    assert!(said.contains("is without") && said.contains(c.to_str().unwrap()), "{said}");
    drop(host);
    assert!(data(&a) == data(&c) && data(&a) == data(&b), "files are equal");
    // Alone with one of the others it has the majority, so it has every write.
    let third = Mirror::start(&[&c, &b]);
    let mut host = third.host();
    host.check(0..50);
    host.check(100..150);
    host.check(200..210);
    third.end(Signal::SIGTERM);
}

#[test]
fn no_volume_is_created_while_one_of_its_files_is_missing() {
    let files = Files::new();
    let (a, b) = (files.blank("a"), files.0.join("b"));
    let said = refused(&[&a, &b], &[]);
    assert!(said.contains("is created with all of them"), "{said}");
    assert!(fs::read(&a).unwrap().iter().all(|byte| *byte == 0), "nothing was written");
    let none = refused(&[&b], &[]);
    assert!(none.contains(b.to_str().unwrap()), "{none}");
}

#[test]
fn force_opens_from_a_stale_file_only_when_that_is_meant_and_says_what_is_lost() {
    let files = Files::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| files.blank(name));
    let stale = c.to_str().unwrap();
    let first = Mirror::start(&[&a, &b, &c]);
    let mut host = first.host();
    host.write_and_check(0..10);
    first.end(Signal::SIGTERM);
    drop(host);
    let without = Mirror::start(&[&a, &b]);
    let mut host = without.host();
    host.write_and_check(100..110);
    without.end(Signal::SIGTERM);
    drop(host);
    let asked = Mirror::start_with(&[&a, &c], &["--force", stale]);
    let mut host = asked.host();
    host.send_read();
    assert!(host.is_waiting(), "it is known that others went on");
    let said = asked.end(Signal::SIGTERM);
    assert!(said.contains("others have gone on without"), "{said}");
    drop(host);
    let forced = Mirror::start_with(&[&a, &c], &["--force", stale, "--force-left-out"]);
    let mut host = forced.host();
    host.check(0..10);
    host.write_and_check(200..210);
    let said = forced.end(Signal::SIGTERM);
    assert!(said.contains("WARNING") && said.contains("by force"), "{said}");
    drop(host);
    // The other history is given up: what was forced is what is opened from now on.
    let again = Mirror::start(&[&a, &b, &c]);
    let mut host = again.host();
    host.check(0..10);
    host.check(200..210);
    again.end(Signal::SIGTERM);
    let nowhere = refused(&[&a, &b], &["--force", stale]);
    assert!(nowhere.contains("it is none of the children"), "{nowhere}");
}

/// A mirror of two files, of which the first is left behind by the second: it was away while that
/// was written, with the record's vote. All processes are killed.
fn left_behind(files: &Files, behind: &PathBuf, ahead: &PathBuf, record: &[&str]) {
    let first = Mirror::start_with(&[behind, ahead], record);
    let mut host = first.host();
    host.write_and_check(0..50);
    first.end(Signal::SIGKILL);
    drop(host);
    let away = files.0.join("away");
    fs::rename(behind, &away).unwrap();
    let second = Mirror::start_with(&[behind, ahead], record);
    let mut host = second.host();
    host.check(0..50);
    host.write_and_check(100..150);
    second.end(Signal::SIGKILL);
    drop(host);
    fs::rename(&away, behind).unwrap();
}

/// What a mirror of one file says that waits for others.
fn waits(file: &PathBuf, record: &[&str]) -> String {
    let alone = Mirror::start_with(&[file], record);
    let mut host = alone.host();
    host.send_read();
    assert!(host.is_waiting(), "it serves nobody");
    alone.end(Signal::SIGTERM)
}

#[test]
fn of_two_files_with_a_record_the_one_that_went_on_opens_alone_and_the_other_does_not() {
    for swapped in [false, true] {
        let files = Files::new();
        let [a, b] = ["a", "b"].map(|name| files.blank(name));
        let record = files.0.join("record");
        let record = ["--record", record.to_str().unwrap()];
        let (behind, ahead) = if swapped { (&b, &a) } else { (&a, &b) };
        left_behind(&files, behind, ahead, &record);
        let said = waits(behind, &record);
        assert!(said.contains("is not open, and waits"), "{said}");
        assert!(said.contains(ahead.to_str().unwrap()), "it is named: {said}");
        let alone = Mirror::start_with(&[ahead], &record);
        let mut host = alone.host();
        host.check(0..50);
        host.check(100..150);
        host.write_and_check(200..210);
        alone.end(Signal::SIGKILL);
        drop(host);
        let both = Mirror::start_with(&[behind, ahead], &record);
        let mut host = both.host();
        host.check(0..50);
        host.check(100..150);
        host.check(200..210);
        both.end(Signal::SIGTERM);
    }
}

#[test]
fn a_record_that_is_gone_or_emptied_lets_no_stale_file_open() {
    let files = Files::new();
    let [a, b] = ["a", "b"].map(|name| files.blank(name));
    let path = files.0.join("record");
    let record = ["--record", path.to_str().unwrap()];
    left_behind(&files, &a, &b, &record);
    let unnamed = refused(&[&a, &b], &[]);
    assert!(unnamed.contains("say where it is kept"), "{unnamed}");
    let old = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let said = waits(&a, &record);
    assert!(said.contains("the record") && said.contains("is not there"), "{said}");
    assert!(!path.exists(), "nobody makes it anew");
    fs::write(&path, []).unwrap();
    let said = waits(&a, &record);
    assert!(said.contains("the record, which is empty, must answer"), "{said}");
    assert!(said.contains(b.to_str().unwrap()) || said.contains("replica"), "{said}");
    fs::write(&path, vec![7; old.len()]).unwrap();
    assert!(waits(&a, &record).contains("damaged"));
    // All who have the data need no record, and write it anew.
    fs::write(&path, []).unwrap();
    let both = Mirror::start_with(&[&a, &b], &record);
    let mut host = both.host();
    host.check(0..50);
    host.check(100..150);
    both.end(Signal::SIGTERM);
    assert_eq!(fs::read(&path).unwrap().len(), old.len());
}

#[test]
fn the_policy_of_a_mirror_stays_as_it_was_created() {
    let files = Files::new();
    let [a, b] = ["a", "b"].map(|name| files.blank(name));
    let lacks = refused(&[&a, &b], &["--policy", "record"]);
    assert!(lacks.contains("needs a record"), "{lacks}");
    Mirror::start_with(&[&a, &b], &["--policy", "majority"]).end(Signal::SIGTERM);
    let other = refused(&[&a, &b], &["--policy", "solo"]);
    assert!(other.contains("was created with majority"), "{other}");
    let record = files.0.join("record");
    let given = refused(&[&a, &b], &["--record", record.to_str().unwrap()]);
    assert!(given.contains("was created without one"), "{given}");
    Mirror::start_with(&[&a, &b], &["--policy", "majority"]).end(Signal::SIGTERM);
    Mirror::start(&[&a, &b]).end(Signal::SIGTERM);
}

#[test]
fn a_record_that_a_command_keeps_has_a_vote_and_one_that_fails_has_none() {
    let files = Files::new();
    let [a, b] = ["a", "b"].map(|name| files.blank(name));
    let (kept, keeper) = (files.0.join("kept"), files.0.join("keeper"));
    fs::write(&kept, vec![0; 4096]).unwrap();
    let script = format!(
        "case $MAYASTOR_RECORD in\n\
         read) exec cat {kept};;\n\
         swap) cat > {kept}.both; head -c 4096 {kept}.both | cmp -s - {kept} || exit 1\n\
         tail -c 4096 {kept}.both > {kept}.new && mv {kept}.new {kept};;\n\
         esac\n",
        kept = kept.display()
    );
    fs::write(&keeper, script).unwrap();
    let command = format!("sh {}", keeper.display());
    let record = ["--policy", "record", "--record-command", &command];
    left_behind(&files, &a, &b, &record);
    let said = waits(&a, &record);
    assert!(said.contains(b.to_str().unwrap()), "{said}");
    let fails = ["--record-command", "exit 7"];
    let said = waits(&a, &fails);
    assert!(said.contains("the record: the command `exit 7` fails"), "{said}");
    let alone = Mirror::start_with(&[&b], &record);
    let mut host = alone.host();
    host.check(0..50);
    host.check(100..150);
    alone.end(Signal::SIGTERM);
}
