//! The stages of the test run: what each does, in which order, and what must have passed before.

use std::time::Duration;

/// Part of the name of every test that boots a guest: such tests live in modules of this name, in
/// any crate, so that the ordinary tests can leave them out and the last stage runs only them.
#[cfg(test)]
const REAL_KERNEL: &str = "real_kernel";

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// One stage.
#[derive(Debug)]
pub struct Stage {
    /// Name on the command line and in the summary.
    pub name: &'static str,
    /// What it does, for `--list`.
    pub purpose: &'static str,
    /// Stages without whose success it makes no sense.
    pub needs: &'static [&'static str],
    /// Time after which it is killed and has failed.
    pub limit: Duration,
    /// What it does.
    pub body: Body,
}

/// What a stage does.
#[derive(Debug)]
pub enum Body {
    /// Checks and installs Debian packages.
    Packages,
    /// Builds the image of the test guest.
    Image,
    /// Runs cargo.
    Cargo(Cargo),
}

/// A run of cargo.
#[derive(Debug)]
pub struct Cargo {
    /// Arguments, separated by blanks.
    pub arguments: &'static str,
    /// Environment of this run alone.
    pub environment: &'static [(&'static str, &'static str)],
    /// Tests that must have run for the stage to count: a filter that matches nothing passes.
    pub tests_min: u64,
}

const fn cargo(arguments: &'static str) -> Cargo {
    Cargo { arguments, environment: &[], tests_min: 0 }
}

/// All stages, in the order in which they run.
///
/// Two sets of objects are built: the daemon and the load generator as they ship, and everything
/// else, this program included, in the dev profile, which is optimised enough for property tests
/// and takes a fraction of the time of a release build. The stages of checks come first because
/// they take the least time to say no.
pub const STAGES: &[Stage] = &[
    Stage {
        name: "packages",
        purpose: "check, and as root install, the Debian packages that the run needs",
        needs: &[],
        limit: minutes(15),
        body: Body::Packages,
    },
    Stage {
        name: "format",
        purpose: "the layout of all sources is rustfmt's",
        needs: &[],
        limit: minutes(1),
        body: Body::Cargo(cargo("fmt --all --check")),
    },
    Stage {
        name: "lint",
        purpose: "clippy finds nothing in any target",
        needs: &[],
        limit: minutes(15),
        body: Body::Cargo(cargo("clippy --workspace --all-targets -- -D warnings")),
    },
    Stage {
        name: "build",
        purpose: "build the binaries as they ship",
        needs: &[],
        limit: minutes(20),
        body: Body::Cargo(cargo("build --release --package control --package perf --bins")),
    },
    Stage {
        name: "test",
        purpose: "all tests that need no guest, the tidy check among them",
        needs: &["packages"],
        limit: minutes(25),
        body: Body::Cargo(Cargo {
            arguments: "test --workspace --no-fail-fast -- --skip real_kernel",
            environment: &[],
            tests_min: 1,
        }),
    },
    Stage {
        name: "loom",
        purpose: "every interleaving of rings, of sleep and wake, and of locks between cores",
        needs: &[],
        limit: minutes(15),
        body: Body::Cargo(Cargo {
            arguments: "test -p reactor -p bdev --release --lib --target-dir target/loom loom",
            environment: &[
                ("RUSTFLAGS", "--cfg loom"),
                // Nothing to gain from what makes the shipped binaries slow to build.
                ("CARGO_PROFILE_RELEASE_LTO", "off"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ],
            tests_min: 1,
        }),
    },
    Stage {
        name: "image",
        purpose: "build the image of the test guest, or find it current",
        needs: &["packages"],
        limit: minutes(10),
        body: Body::Image,
    },
    Stage {
        name: "kernel",
        purpose: "real Linux kernels in guests use the binaries as they ship",
        needs: &["build", "image"],
        limit: minutes(25),
        body: Body::Cargo(Cargo {
            // One guest at a time: two cores are no more than a guest and a target want.
            arguments: "test --workspace --tests --no-fail-fast -- --test-threads=1 real_kernel",
            environment: &[],
            tests_min: 1,
        }),
    },
];

/// Finds a stage by its name.
pub fn find(name: &str) -> Option<&'static Stage> {
    STAGES.iter().find(|stage| stage.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_needs_only_stages_that_come_before_it() {
        for (index, stage) in STAGES.iter().enumerate() {
            for need in stage.needs {
                assert!(STAGES[..index].iter().any(|s| s.name == *need), "{}: {need}", stage.name);
            }
        }
    }

    #[test]
    fn guests_are_left_out_of_the_ordinary_tests_and_are_all_of_the_last_stage() {
        let arguments = |name: &str| match &find(name).unwrap().body {
            Body::Cargo(cargo) => cargo.arguments,
            other => panic!("{name} is {other:?}"),
        };
        assert!(arguments("test").ends_with(&format!("--skip {REAL_KERNEL}")));
        assert!(arguments("kernel").ends_with(&format!(" {REAL_KERNEL}")));
    }
}
