//! An operand of a comparison: a command line, and the fresh process that a round makes of it.

use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use super::outcome::{Metric, RunOutcome};

/// This program, as the kernel names it to itself: also right after the file was replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Options that make fio's load what `run` makes by default: one job that picks any place each
/// time, past the page cache, for as long as it is told. The operand's own override them.
const FIO_LIKE_RUN: [&str; 10] = [
    "--name=operand",
    "--ioengine=io_uring",
    "--direct=1",
    "--numjobs=1",
    "--rw=randread",
    "--bs=4k",
    "--norandommap",
    "--randrepeat=0",
    "--time_based",
    "--output-format=json",
];

/// Why an operand cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum OperandError {
    /// Neither `run`, `echo`, `fio` nor `exec`, or `exec` without a command.
    #[error("\"{text}\" is no operand: begin it with run, echo, fio, or exec and a command")]
    Unknown {
        /// As it was given.
        text: String,
    },
    /// A quote without its end.
    #[error("a quote in \"{text}\" is not closed")]
    Quote {
        /// As it was given.
        text: String,
    },
    /// The process could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The process ended badly.
    #[error("{operand} ended with {status}")]
    Status {
        /// The operand.
        operand: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The ideal of a mirror was asked for without all that it is made of.
    #[error("--copies needs three operands, a rate as metric, and has {operands} operands")]
    Ideal {
        /// How many there are.
        operands: usize,
    },
    /// It printed no JSON object.
    #[error("{operand} printed no JSON object")]
    NoObject {
        /// The operand.
        operand: String,
    },
    /// Its object has not what is compared.
    #[error("the output of {operand} has no {}", .metric.name())]
    NoMetric {
        /// The operand.
        operand: String,
        /// What is missing.
        metric: Metric,
    },
}

/// What an operand runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// This program, with a command of its own.
    Own,
    /// fio, with what makes its load like that of `run`.
    Fio,
    /// Another one.
    Foreign,
}

/// A parsed operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    text: String,
    program: Program,
    /// The command and its arguments.
    words: Vec<String>,
}

impl FromStr for Operand {
    type Err = OperandError;

    fn from_str(text: &str) -> Result<Operand, OperandError> {
        let text = text.to_owned();
        let mut words = split_words(&text)?;
        let program = match words.first().map(String::as_str) {
            Some("run" | "echo") => Program::Own,
            Some("fio") => Program::Fio,
            Some("exec") if words.len() > 1 => {
                words.remove(0);
                Program::Foreign
            }
            _ => return Err(OperandError::Unknown { text }),
        };
        Ok(Operand { text, program, words })
    }
}

impl Operand {
    /// Runs it once, to its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started, fails, or prints no object.
    pub fn run(&self, runtime: Duration, ramp: Duration) -> Result<RunOutcome, OperandError> {
        let (program, arguments) = self.command_line(runtime, ramp);
        let output = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|source| OperandError::Start { program, source })?;
        let operand = self.text.clone();
        if !output.status.success() {
            return Err(OperandError::Status { operand, status: output.status });
        }
        RunOutcome::parse(&String::from_utf8_lossy(&output.stdout))
            .ok_or(OperandError::NoObject { operand })
    }

    /// Program and arguments. The round's times come first, so that the operand's own override
    /// them.
    fn command_line(&self, runtime: Duration, ramp: Duration) -> (String, Vec<String>) {
        let (first, rest) = self.words.split_first().expect("an operand has a first word");
        match self.program {
            Program::Foreign => (first.clone(), rest.to_vec()),
            Program::Fio => {
                let mut arguments: Vec<_> = FIO_LIKE_RUN.map(str::to_owned).into();
                arguments.push(format!("--runtime={}us", runtime.as_micros()));
                arguments.push(format!("--ramp_time={}us", ramp.as_micros()));
                arguments.extend_from_slice(rest);
                (first.clone(), arguments)
            }
            Program::Own => {
                let mut arguments = vec![
                    first.clone(),
                    format!("--runtime={}us", runtime.as_micros()),
                    format!("--ramp_time={}us", ramp.as_micros()),
                ];
                arguments.extend_from_slice(rest);
                arguments.push("--json".to_owned());
                (OWN_PROGRAM.to_owned(), arguments)
            }
        }
    }
}

/// Splits at white space outside quotes of either kind; there is no escape.
fn split_words(text: &str) -> Result<Vec<String>, OperandError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in text.chars() {
        match quote {
            Some(end) if character == end => quote = None,
            Some(_) => word.get_or_insert_default().push(character),
            None if character == '"' || character == '\'' => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            None if character.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err(OperandError::Quote { text: text.to_owned() });
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn exec(command: &str) -> Operand {
        format!("exec {command}").parse().unwrap()
    }

    #[test]
    fn words_are_split_outside_quotes() {
        let words = split_words(r#" a "b  c" d'e f'g  "" "#).unwrap();
        assert_eq!(words, ["a", "b  c", "de fg", ""]);
        assert!(matches!(split_words("a 'b"), Err(OperandError::Quote { .. })));
    }

    #[test]
    fn an_operand_begins_with_a_known_word() {
        for wrong in ["", "compare echo", "exec", "dd --version"] {
            assert!(matches!(wrong.parse::<Operand>(), Err(OperandError::Unknown { .. })));
        }
    }

    #[test]
    fn an_operands_own_options_come_after_the_rounds() {
        let operand: Operand = "run null:///n0 --prefill --runtime 3".parse().unwrap();
        let (program, arguments) = operand.command_line(SECOND, SECOND / 5);
        assert_eq!(program, OWN_PROGRAM);
        let expected = [
            "run",
            "--runtime=1000000us",
            "--ramp_time=200000us",
            "null:///n0",
            "--prefill",
            "--runtime",
            "3",
            "--json",
        ];
        assert_eq!(arguments, expected);
    }

    #[test]
    fn fio_makes_the_load_of_a_run_unless_told_otherwise() {
        let operand: Operand = "fio --filename=/disk --iodepth=32 --rw=randwrite".parse().unwrap();
        let (program, arguments) = operand.command_line(SECOND, SECOND / 5);
        assert_eq!(program, "fio");
        let (like_run, own) = arguments.split_at(FIO_LIKE_RUN.len());
        assert_eq!(like_run, FIO_LIKE_RUN);
        let times = ["--runtime=1000000us", "--ramp_time=200000us"];
        assert_eq!(own[..2], times);
        assert_eq!(own[2..], ["--filename=/disk", "--iodepth=32", "--rw=randwrite"]);
    }

    #[test]
    fn a_foreign_command_is_read_when_it_ends_well_only() {
        let good = exec(r#"sh -c 'echo "{\"iops\": 5}"'"#).run(SECOND, SECOND).unwrap();
        assert_eq!(good.metric(Metric::Iops), Some(5.0));
        let run = |command| exec(command).run(SECOND, SECOND).unwrap_err();
        assert!(matches!(run("sh -c 'exit 3'"), OperandError::Status { .. }));
        assert!(matches!(run("true"), OperandError::NoObject { .. }));
        assert!(matches!(run("a-program-that-is-not-there"), OperandError::Start { .. }));
    }
}
