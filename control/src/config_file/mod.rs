//! The file of `mayastor target --config`: what it may say, and how a mistake in it is told.
//!
//! Read once, by main, before anything starts; TOML 1.0, documented by docs/target.toml, which a
//! test holds to this module. `sections` is the form of the file, `value` how a text in it becomes
//! a type of the program, `place` the line and key of a mistake. What one value alone shows is
//! refused where it stands in the file; [`check`] sees what two of them say together.

mod check;
mod place;
mod sections;
mod setup;
mod summary;
mod value;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use check::Mistake;
pub use place::Place;
pub use sections::{
    AnaState, ConfigFile, ControllerIds, DeviceSection, GrpcSection, Idle, NamespaceSection,
    NexusLabels, NexusSection, Pages, PortalSection, SubsystemSection, TargetSection,
};
pub use summary::Summary;

/// Largest file that is read, in bytes: room for every namespace of eight full subsystems.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why a file is no configuration. Its text names the file, and the line and key where there are.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is larger than any configuration.
    #[error("{} is no configuration: it has more than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Something in it cannot be.
    #[error("{}:{place}: {text}", path.display())]
    Mistake {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Place,
        /// What is wrong, and what is legal.
        text: String,
    },
}

impl ConfigFile {
    /// Reads and checks a file; its text comes with it, for [`Place::find`].
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or the first mistake in it.
    pub fn read(path: &Path) -> Result<(ConfigFile, String), ConfigFileError> {
        let read = |source| ConfigFileError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        // One more than is allowed tells a file that is too large from one that just fits.
        let file = File::open(path).map_err(read)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigFileError::TooLarge { path: path.to_owned() });
        }
        let invalid = |_| read(io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text"));
        let text = String::from_utf8(bytes).map_err(invalid)?;
        match ConfigFile::parse(&text) {
            Ok(file) => Ok((file, text)),
            Err(mistake) => Err(ConfigFileError::Mistake {
                path: path.to_owned(),
                place: Place::find(&text, mistake.at),
                text: mistake.text,
            }),
        }
    }

    /// Parses and checks the text of a file.
    ///
    /// # Errors
    ///
    /// The first mistake in it.
    pub fn parse(text: &str) -> Result<ConfigFile, Mistake> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| Mistake {
            at: error.span().map_or(0, |span| span.start),
            text: error.message().replace('\n', " "),
        })?;
        check::check(&file)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
