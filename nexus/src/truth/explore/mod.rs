//! Random histories of real owners over replicas that fail in every way, and what must hold in all
//! of them; each rule, broken on purpose, must be found.
//!
//! The explicit-state model that the rules come from searches its own small states; this runs the
//! code itself. `TRUTH_WALK_SEEDS` runs more seeds than the ordinary tests do.

mod possible;
mod scripts;
mod walks;
mod world;
