//! Whole rounds of hostile sessions; the input is the seed.
#![no_main]

libfuzzer_sys::fuzz_target!(|seed: u64| nvmf::target::hostile::round::run(seed));
