//! Which cores the reactors run on: the `--cores` argument, and pinning a thread to one.
//!
//! Called by main, once, before any thread is pinned: the list of allowed cores is the mask of the
//! calling thread, and a thread inherits its parent's pin.

use std::fmt;
use std::str::FromStr;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use thiserror::Error;

/// The highest core number that the kernel's affinity mask (`cpu_set_t`, 1024 bits) can name.
pub const CORE_ID_MAX: u32 = 1023;

/// The number of a core, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u32);

impl fmt::Display for CoreId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why a list of cores cannot be used; each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CoresError {
    /// Nothing between two commas, or nothing at all, or a mask without a bit.
    #[error("no core is named by \"{text}\": give a list like 0,2-3 or a mask like 0x5")]
    Empty {
        /// The part at fault.
        text: String,
    },
    /// Neither a number nor a range of two, nor a hexadecimal mask.
    #[error("\"{text}\" is not a core: give a list like 0,2-3 or a mask like 0x5")]
    Malformed {
        /// The part at fault.
        text: String,
    },
    /// A range that runs downward.
    #[error("the range {first}-{last} runs downward: write {last}-{first}")]
    Reversed {
        /// Before the dash.
        first: CoreId,
        /// After the dash.
        last: CoreId,
    },
    /// A core above `CORE_ID_MAX`.
    #[error("\"{text}\" is above the highest core number, {CORE_ID_MAX}: name a lower one")]
    AboveMax {
        /// The part at fault.
        text: String,
    },
    /// A core listed more than once.
    #[error("core {core} is listed twice: list each core once")]
    Repeated {
        /// That core.
        core: CoreId,
    },
    /// A core that this process may not run on.
    #[error(
        "core {core} is not among the cores this process may use ({allowed}): \
             choose from those, or widen its affinity or cpuset"
    )]
    NotAllowed {
        /// That core.
        core: CoreId,
        /// Those that may be used.
        allowed: CoreList,
    },
    /// The cores that the process may use could not be read.
    #[error(
        "the affinity mask of this process cannot be read: check that /proc and the cpuset \
             are intact"
    )]
    Unreadable,
    /// The kernel refused the pin.
    #[error("cannot pin a thread to core {core}: check that it is online and in the cpuset")]
    Pin {
        /// That core.
        core: CoreId,
        /// What the kernel said.
        source: Errno,
    },
}

/// Cores in ascending order, each once, at least one when parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(Vec<CoreId>);

impl CoreList {
    /// The cores that the calling thread may run on. Read once in main, before pinning.
    ///
    /// # Errors
    ///
    /// `Unreadable` when the system does not tell.
    pub fn allowed() -> Result<Self, CoresError> {
        let listed = core_affinity::get_core_ids().ok_or(CoresError::Unreadable)?;
        let mut cores = listed
            .into_iter()
            .map(|core| u32::try_from(core.id).map(CoreId).map_err(|_| CoresError::Unreadable))
            .collect::<Result<Vec<_>, _>>()?;
        if cores.is_empty() {
            return Err(CoresError::Unreadable);
        }
        cores.sort_unstable();
        Ok(Self(cores))
    }

    /// Checks that each core is one of `allowed`.
    ///
    /// # Errors
    ///
    /// `NotAllowed` names the first that is not.
    pub fn check_within(&self, allowed: &CoreList) -> Result<(), CoresError> {
        match self.0.iter().find(|core| !allowed.0.contains(core)) {
            None => Ok(()),
            Some(&core) => Err(CoresError::NotAllowed { core, allowed: allowed.clone() }),
        }
    }

    /// The cores, ascending.
    pub fn as_slice(&self) -> &[CoreId] {
        &self.0
    }

    /// Sorts, and refuses repeats and none at all.
    fn from_unsorted(mut cores: Vec<CoreId>, text: &str) -> Result<Self, CoresError> {
        if cores.is_empty() {
            return Err(CoresError::Empty { text: text.to_owned() });
        }
        cores.sort_unstable();
        match cores.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(CoresError::Repeated { core: pair[0] }),
            None => Ok(Self(cores)),
        }
    }
}

impl FromStr for CoreList {
    type Err = CoresError;

    /// Parses a list with ranges (`0,2-3`) or a hexadecimal mask (`0x5`, lowest bit is core 0).
    fn from_str(text: &str) -> Result<Self, CoresError> {
        let text = text.trim();
        let cores = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => parse_mask(digits, text)?,
            None => parse_list(text)?,
        };
        Self::from_unsorted(cores, text)
    }
}

impl fmt::Display for CoreList {
    /// Writes the list form, with ranges.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for run in self.0.chunk_by(|before, after| before.0 + 1 == after.0) {
            match run {
                [only] => write!(formatter, "{separator}{only}")?,
                [first, .., last] => write!(formatter, "{separator}{first}-{last}")?,
                [] => {}
            }
            separator = ",";
        }
        Ok(())
    }
}

fn parse_list(text: &str) -> Result<Vec<CoreId>, CoresError> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        if part.is_empty() {
            return Err(CoresError::Empty { text: text.to_owned() });
        }
        match part.split_once('-') {
            None => cores.push(parse_core(part)?),
            Some((first, last)) => {
                let (first, last) = (parse_core(first)?, parse_core(last)?);
                if first > last {
                    return Err(CoresError::Reversed { first, last });
                }
                cores.extend((first.0..=last.0).map(CoreId));
            }
        }
    }
    Ok(cores)
}

fn parse_core(text: &str) -> Result<CoreId, CoresError> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CoresError::Malformed { text: text.to_owned() });
    }
    match text.parse() {
        Ok(core) if core <= CORE_ID_MAX => Ok(CoreId(core)),
        // All digits, so the only other fault is that it is too large.
        _ => Err(CoresError::AboveMax { text: text.to_owned() }),
    }
}

fn parse_mask(digits: &str, text: &str) -> Result<Vec<CoreId>, CoresError> {
    if digits.is_empty() {
        return Err(CoresError::Malformed { text: text.to_owned() });
    }
    let mut cores = Vec::new();
    for (nibble_index, digit) in digits.chars().rev().enumerate() {
        let Some(nibble) = digit.to_digit(16) else {
            return Err(CoresError::Malformed { text: text.to_owned() });
        };
        for bit in (0..4).filter(|bit| nibble & (1 << bit) != 0) {
            match u32::try_from(nibble_index * 4 + bit) {
                Ok(core) if core <= CORE_ID_MAX => cores.push(CoreId(core)),
                _ => return Err(CoresError::AboveMax { text: text.to_owned() }),
            }
        }
    }
    Ok(cores)
}

/// Pins the calling thread, and every thread that it starts from now on, to one core.
///
/// # Errors
///
/// `Pin` when the kernel refuses, `AboveMax` when the core cannot be named to it.
pub fn pin_current_thread(core: CoreId) -> Result<(), CoresError> {
    let above_max = |_| CoresError::AboveMax { text: core.to_string() };
    let mut mask = CpuSet::new();
    mask.set(core.0 as usize).map_err(above_max)?;
    // Process 0 is the calling thread.
    sched_setaffinity(Pid::from_raw(0), &mask).map_err(|source| CoresError::Pin { core, source })
}

/// Keeps the calling thread, and every thread that it starts from now on, off these cores, where
/// reactors run: a control thread that is scheduled there makes the I/O of a whole core wait for a
/// time slice. Where the thread may use no other core it stays where it is. Best effort: a thread
/// that runs elsewhere is slower, not wrong.
pub fn keep_off(cores: &[CoreId]) {
    let Ok(allowed) = CoreList::allowed() else { return };
    let mut mask = CpuSet::new();
    let others = allowed.as_slice().iter().filter(|core| !cores.contains(core));
    if others.filter(|core| mask.set(core.0 as usize).is_ok()).count() > 0 {
        let _ = sched_setaffinity(Pid::from_raw(0), &mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Vec<u32>, CoresError> {
        Ok(text.parse::<CoreList>()?.as_slice().iter().map(|core| core.0).collect())
    }

    #[test]
    fn a_thread_keeps_off_cores_where_it_has_others() {
        let allowed = || CoreList::allowed().unwrap().as_slice().to_vec();
        std::thread::spawn(move || {
            let before = allowed();
            keep_off(&before);
            assert_eq!(allowed(), before, "there is no other");
            if let [first, rest @ ..] = &before[..]
                && !rest.is_empty()
            {
                keep_off(&[*first]);
                assert_eq!(allowed(), rest);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn lists_ranges_and_masks_name_cores() {
        for (text, cores) in [
            ("0", vec![0]),
            ("0,2-3", vec![0, 2, 3]),
            (" 3 , 1 - 2 ", vec![1, 2, 3]),
            ("5-5", vec![5]),
            ("0x5", vec![0, 2]),
            ("0XfF", vec![0, 1, 2, 3, 4, 5, 6, 7]),
            ("0x10000000000000000", vec![64]),
        ] {
            assert_eq!(parsed(text), Ok(cores), "{text}");
        }
    }

    #[test]
    fn what_names_no_core_is_refused() {
        for text in ["", " ", ",", "0,", ",0", "0x0"] {
            assert!(matches!(parsed(text), Err(CoresError::Empty { .. })), "{text}");
        }
        for text in ["a", "-1", "1-", "1-2-3", "+1", "1.0", "0x", "0xg", "0x+1", "1;2"] {
            assert!(matches!(parsed(text), Err(CoresError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn downward_ranges_and_repeats_are_refused() {
        let reversed = CoresError::Reversed { first: CoreId(3), last: CoreId(1) };
        assert_eq!(parsed("3-1"), Err(reversed));
        assert_eq!(parsed("1,0-2"), Err(CoresError::Repeated { core: CoreId(1) }));
    }

    #[test]
    fn the_highest_core_is_accepted_and_one_above_refused() {
        assert_eq!(parsed("1023"), Ok(vec![1023]));
        assert!(matches!(parsed("1024"), Err(CoresError::AboveMax { .. })));
        assert!(matches!(parsed("0-4294967296"), Err(CoresError::AboveMax { .. })));
        assert_eq!(parsed(&format!("0x8{}", "0".repeat(255))), Ok(vec![1023]));
        let above = format!("0x1{}", "0".repeat(256));
        assert!(matches!(parsed(&above), Err(CoresError::AboveMax { .. })));
        assert_eq!(CpuSet::count(), CORE_ID_MAX as usize + 1);
    }

    #[test]
    fn a_core_outside_the_allowed_ones_is_named() {
        let allowed: CoreList = "0-1,4".parse().unwrap();
        let wanted: CoreList = "1,3".parse().unwrap();
        let error = wanted.check_within(&allowed).unwrap_err();
        assert_eq!(
            error.to_string(),
            "core 3 is not among the cores this process may use (0-1,4): \
             choose from those, or widen its affinity or cpuset"
        );
        assert_eq!(allowed.check_within(&allowed), Ok(()));
    }

    #[test]
    fn a_thread_can_be_pinned_to_an_allowed_core() {
        let core = CoreList::allowed().unwrap().as_slice()[0];
        std::thread::spawn(move || {
            pin_current_thread(core).unwrap();
            assert_eq!(CoreList::allowed().unwrap().as_slice(), [core]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_is_not_there_cannot_be_pinned_to() {
        std::thread::spawn(|| {
            let absent = pin_current_thread(CoreId(CORE_ID_MAX));
            assert!(matches!(absent, Err(CoresError::Pin { source: Errno::EINVAL, .. })));
            let above = pin_current_thread(CoreId(CORE_ID_MAX + 1));
            assert!(matches!(above, Err(CoresError::AboveMax { .. })));
        })
        .join()
        .unwrap();
    }

    proptest! {
        #[test]
        fn a_list_reads_back_as_written(
            cores in proptest::collection::btree_set(0..=CORE_ID_MAX, 1..20),
        ) {
            let list = CoreList(cores.into_iter().map(CoreId).collect());
            prop_assert_eq!(list.to_string().parse::<CoreList>().unwrap(), list);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-fA-Fx,\\- ]{0,40}") {
            let _ = text.parse::<CoreList>();
        }
    }
}
