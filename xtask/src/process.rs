//! Runs one command of a stage: its output into a log, its time limited.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long output may still come after a command has ended: a process that it left behind may
/// hold the pipe open.
const LATE_OUTPUT_LIMIT: Duration = Duration::from_secs(2);
/// How often the end of a command is looked for.
const PAUSE: Duration = Duration::from_millis(100);

/// How a command ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed, with all that it had started, because its time was up.
    TimedOut,
}

/// Runs a command, gives every line of its two outputs to `line` and to the file `log`, and kills
/// it with all its children after `limit`.
pub fn run(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> io::Result<End> {
    let mut log = File::options().create(true).append(true).open(log)?;
    writeln!(log, "> {command:?}")?;
    let (output, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds the writing ends; while it does, the pipe never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let lines = lines_of(output);
    let deadline = Instant::now() + limit;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match lines.recv_timeout(PAUSE) {
            Ok(text) => {
                writeln!(log, "{text}")?;
                line(&text);
            }
            Err(RecvTimeoutError::Disconnected) if ended.is_none() => {
                ended = Some((wait_until(&mut child, deadline)?, Instant::now()));
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() {
            ended = child.try_wait()?.map(|status| (status, Instant::now()));
        }
        match ended {
            Some((_, at)) if at.elapsed() > LATE_OUTPUT_LIMIT => break,
            None if Instant::now() > deadline => {
                kill_with_descendants(&mut child);
                return Ok(End::TimedOut);
            }
            _ => {}
        }
    }
    let (status, _) = ended.expect("the loop ends after the command");
    Ok(End::Exited(status))
}

/// Lines of a pipe, read on a thread of their own.
fn lines_of(output: io::PipeReader) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|len| len > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            bytes.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    lines
}

/// A command that closed its outputs has usually ended; if not, it has until its deadline.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            kill_with_descendants(child);
            return child.wait();
        }
        thread::sleep(PAUSE);
    }
}

/// Kills a child and everything below it, found by the parents that /proc names, top first so that
/// nothing starts anew.
fn kill_with_descendants(child: &mut Child) {
    let Ok(top) = i32::try_from(child.id()) else { return };
    let mut doomed = BTreeSet::from([top]);
    loop {
        let before = doomed.len();
        for (pid, parent) in processes() {
            if doomed.contains(&parent) {
                doomed.insert(pid);
            }
        }
        if doomed.len() == before {
            break;
        }
    }
    let _ = child.kill();
    for pid in doomed {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.wait();
}

/// All processes with their parents.
fn processes() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; state and parent come after it.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        Some((pid, parent.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_script(script: &str, limit: Duration) -> (End, Vec<String>) {
        let log = std::env::temp_dir().join(format!("xtask-log-{}", std::process::id()));
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let end = run(&mut command, &log, limit, |line| lines.push(line.to_owned())).unwrap();
        let _ = fs::remove_file(log);
        (end, lines)
    }

    #[test]
    fn both_outputs_and_the_status_come_through() {
        let script = "echo out; echo err >&2; printf end; exit 3";
        let (end, mut lines) = run_script(script, Duration::from_secs(20));
        lines.sort();
        assert_eq!(lines, ["end", "err", "out"]);
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)), "{end:?}");
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let script = "sleep 1000 & echo $!; wait";
        let (end, lines) = run_script(script, Duration::from_millis(500));
        assert!(matches!(end, End::TimedOut), "{end:?}");
        let sleeper: i32 = lines[0].parse().unwrap();
        // The child of a killed shell is reaped by whoever adopts it; until then it is a zombie.
        let gone = |pid: i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone(sleeper) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(sleeper));
    }
}
