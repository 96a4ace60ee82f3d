//! The Debian packages that the test run needs, checked and, where it may, installed.

use std::collections::BTreeSet;
use std::process::Command;

use crate::report::Failure;

/// The public conformance suite of iSCSI.
const ISCSI_SUITE: &str = "libiscsi-bin";

/// What the test run needs beside a Rust tool chain.
pub fn needed() -> BTreeSet<&'static str> {
    guest::PACKAGES.iter().copied().chain([ISCSI_SUITE]).collect()
}

/// Makes sure that all packages are there. Root installs what is missing; another user is told.
pub fn ensure() -> Result<String, Failure> {
    let needed = needed();
    let missing = missing_of(&needed)?;
    if missing.is_empty() {
        return Ok(format!("all {} are there", needed.len()));
    }
    if !nix::unistd::geteuid().is_root() {
        let install = "apt-get install -y --no-install-recommends";
        let names = missing.join(" ");
        return Err(Failure::new(format!("missing packages; as root: {install} {names}")));
    }
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(missing.iter().map(String::as_str));
    apt(&install)?;
    let missing = missing_of(&needed)?;
    if missing.is_empty() {
        return Ok(format!("all {} are there now", needed.len()));
    }
    Err(Failure::new(format!("apt-get did not install {}", missing.join(" "))))
}

fn missing_of(needed: &BTreeSet<&str>) -> Result<Vec<String>, Failure> {
    let mut query = Command::new("dpkg-query");
    // A package that dpkg has never heard of makes it fail, and it lists the others all the same.
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(needed);
    let output = query
        .output()
        .map_err(|error| Failure::new(format!("dpkg-query: {error}; is this Debian?")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed = installed_in(&text);
    Ok(needed.iter().filter(|name| !installed.contains(*name)).map(|n| (*n).to_owned()).collect())
}

fn installed_in(listing: &str) -> BTreeSet<&str> {
    listing.lines().filter_map(|line| line.strip_suffix(" installed")).collect()
}

fn apt(arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let failed =
        |detail: String| Failure::new(format!("apt-get {}: {detail}", arguments.join(" ")));
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_package_does_not_count_as_installed() {
        let listing = "fio installed\nkmod config-files\ndash not-installed\n";
        assert_eq!(installed_in(listing).into_iter().collect::<Vec<_>>(), ["fio"]);
    }

    #[test]
    fn an_unknown_package_is_missing() {
        let missing = missing_of(&["no-such-package-at-all"].into()).unwrap();
        assert_eq!(missing, ["no-such-package-at-all"]);
    }
}
