//! Tests of the home core.
