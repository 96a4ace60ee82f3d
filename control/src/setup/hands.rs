//! The only way in which set-up changes a machine: one value written to one file of the kernel's.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// Who writes: [`Kernel`], or a test that notes what is written.
pub trait Hands {
    /// Writes a value to a file that is there, in one piece.
    ///
    /// # Errors
    ///
    /// The system's answer.
    fn write(&mut self, path: &Path, text: &str) -> io::Result<()>;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Hands for Kernel {
    fn write(&mut self, path: &Path, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    }
}
