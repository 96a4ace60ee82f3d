//! `cargo xtask guest`: a guest for people, who want to try a command in it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use guest::{Access, Cache, Guest, GuestImage, Iommu};

/// Time for a command unless told.
const LIMIT_DEFAULT: Duration = Duration::from_secs(300);

/// What the command line asks for.
#[derive(Debug, Default)]
struct Request {
    share: Option<String>,
    memory_mib: Option<u32>,
    cpus: Option<u32>,
    limit: Option<Duration>,
    iommu: bool,
    console: bool,
    qemu: Vec<String>,
    command: String,
}

/// Runs the task; the exit code is that of the command in the guest.
pub fn run(arguments: &[String]) -> ExitCode {
    let request = match parse(arguments) {
        Ok(request) => request,
        Err(reason) => return crate::usage_error(&reason),
    };
    match boot_and_run(&request) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn boot_and_run(request: &Request) -> guest::Result<i32> {
    let image = GuestImage::prepare(&Cache::from_environment())?;
    let mut builder = Guest::builder(&image).device_args(request.qemu.iter().cloned());
    if let Some(share) = &request.share {
        builder = builder.share(Path::new(share), "share", Access::ReadOnly);
    }
    if let Some(memory_mib) = request.memory_mib {
        builder = builder.memory_mib(memory_mib);
    }
    if let Some(cpus) = request.cpus {
        builder = builder.cpus(cpus);
    }
    if request.iommu {
        builder = builder.iommu(Iommu::Intel);
    }
    let mut guest = builder.boot()?;
    let output = guest.run(&request.command, request.limit.unwrap_or(LIMIT_DEFAULT))?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    if request.console {
        eprint!("{}", guest.console());
    }
    Ok(output.code)
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut request = Request::default();
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--share" => request.share = Some(value()?.clone()),
            "--memory" => request.memory_mib = Some(number(option, value()?)?),
            "--cpus" => request.cpus = Some(number(option, value()?)?),
            "--limit" => {
                let limit_s = number(option, value()?)?;
                request.limit = Some(Duration::from_secs(u64::from(limit_s)));
            }
            "--qemu" => request.qemu.push(value()?.clone()),
            "--iommu" => request.iommu = true,
            "--console" => request.console = true,
            "--" => {
                request.command = rest.as_slice().join(" ");
                break;
            }
            other => return Err(format!("unknown option `{other}`")),
        }
    }
    if request.command.is_empty() {
        return Err(String::from("no command for the guest; give it after --"));
    }
    Ok(request)
}

fn number(option: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("{option}: `{value}` is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn everything_after_the_dashes_is_the_command() {
        let request = parsed("--memory 768 --iommu -- ls --memory /dev").unwrap();
        assert_eq!(request.command, "ls --memory /dev");
        assert_eq!((request.memory_mib, request.iommu), (Some(768), true));
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for line in ["", "--", "--memory", "--memory much -- ls", "--bogus -- ls"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
