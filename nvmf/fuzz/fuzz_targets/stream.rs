//! Raw streams, as in `corpus`: the first byte says how far the connection is.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nvmf::target::hostile::stream_input(input));
