//! Why a command was not carried out, for programs and for people.
//!
//! [`CommandError::kind`] is what a program decides by, and what a face translates into its own
//! codes; the text names the object, and what to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nvmf::target::ApplyError;
use reactor::cores::CoreId;

use crate::portal::PortalError;
use crate::registry::RegistryError;

/// Kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// Another object has the name.
    AlreadyExists,
    /// A field cannot be what it was given as.
    Invalid,
    /// Something else uses the object.
    InUse,
    /// There are as many as there may be.
    LimitReached,
    /// The time was over; the text says what is known of the state.
    Deadline,
    /// The device, or the system below it, refused.
    Device,
    /// The address cannot be listened on.
    Portal,
    /// This kind of object cannot do it.
    Unsupported,
    /// The engine is ending.
    Stopping,
}

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A device.
    Device,
    /// A subsystem.
    Subsystem,
    /// A namespace.
    Namespace,
    /// A host that a subsystem names.
    Host,
    /// An address that is listened on.
    Portal,
    /// A rule of a fault or a delay.
    Rule,
    /// A nexus.
    Nexus,
    /// A child of a nexus.
    Child,
    /// A device behind the socket of a virtual machine.
    Vhost,
    /// A change under way.
    Command,
}

impl fmt::Display for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Object::Device => "device",
            Object::Subsystem => "subsystem",
            Object::Namespace => "namespace",
            Object::Host => "host",
            Object::Portal => "portal",
            Object::Rule => "rule",
            Object::Nexus => "nexus",
            Object::Child => "child",
            Object::Vhost => "vhost device",
            Object::Command => "command",
        })
    }
}

/// How far a change has come when its time was over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Cores that have the change.
    pub applied: Vec<CoreId>,
    /// Cores that do not have it yet. They will, without being asked again, when they can.
    pub missing: Vec<CoreId>,
    /// Cores that have it, and on which what it replaced is still in use.
    pub in_use: Vec<CoreId>,
}

/// A list of cores in a message.
struct Cores<'a>(&'a [CoreId]);

impl fmt::Display for Cores<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "core" } else { "cores" };
        formatter.write_str(plural)?;
        for (index, core) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma} {core}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if !self.applied.is_empty() {
            write!(formatter, "applied on {}", Cores(&self.applied))?;
            separator = ", ";
        }
        if !self.missing.is_empty() {
            write!(formatter, "{separator}not yet on {}", Cores(&self.missing))?;
            separator = ", ";
        }
        if !self.in_use.is_empty() {
            write!(formatter, "{separator}I/O is still at the device on {}", Cores(&self.in_use))?;
            separator = ", ";
        }
        if separator.is_empty() { formatter.write_str("no core has been told") } else { Ok(()) }
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommandError {
    /// See [`ErrorKind::NotFound`].
    #[error("there is no {what} {name}")]
    NotFound {
        /// What was looked for.
        what: Object,
        /// Its name.
        name: String,
    },
    /// See [`ErrorKind::AlreadyExists`].
    #[error("{what} {name} is there already, and {difference}")]
    AlreadyExists {
        /// What was to be made.
        what: Object,
        /// Its name.
        name: String,
        /// In what the one that is there differs.
        difference: String,
    },
    /// See [`ErrorKind::Invalid`].
    #[error("{field} cannot be {value}: {advice}")]
    Invalid {
        /// The field of the command.
        field: &'static str,
        /// What it was given as, or what is known of it.
        value: String,
        /// What to do.
        advice: String,
    },
    /// See [`ErrorKind::InUse`].
    #[error("{what} {name} is in use by {user}: {advice}")]
    InUse {
        /// What was to be changed.
        what: Object,
        /// Its name.
        name: String,
        /// What uses it.
        user: String,
        /// What to do.
        advice: &'static str,
    },
    /// See [`ErrorKind::LimitReached`].
    #[error("there are {limit} {what}s already: that is the most there may be")]
    LimitReached {
        /// Of what.
        what: Object,
        /// How many there may be.
        limit: usize,
    },
    /// See [`ErrorKind::Deadline`].
    #[error("not done within {} ms: {state}; {progress}", .within.as_millis())]
    Deadline {
        /// How long the command had.
        within: Duration,
        /// What is known of the object.
        state: String,
        /// What is known of the cores.
        progress: Progress,
    },
    /// See [`ErrorKind::Device`]: it could not be opened.
    #[error(transparent)]
    Device(#[from] Arc<RegistryError>),
    /// See [`ErrorKind::Device`]: the system refused to change it.
    #[error("cannot resize device {device}")]
    Resize {
        /// Its name.
        device: String,
        /// Why not.
        #[source]
        source: Arc<bdev::ResizeError>,
    },
    /// See [`ErrorKind::Device`]: a core cannot use the device of a namespace.
    #[error("core {core} does not serve it")]
    Open {
        /// The core; the others do serve it.
        core: CoreId,
        /// Why.
        #[source]
        source: Arc<ApplyError>,
    },
    /// See [`ErrorKind::Device`]: there is no thread for what may block.
    #[error("the system refuses a thread for {purpose}")]
    Thread {
        /// What it was for.
        purpose: String,
        /// The system's answer.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// See [`ErrorKind::Device`]: a child of a nexus is not fit for it.
    #[error("child {child} cannot be used so")]
    Child {
        /// Which, of which nexus.
        child: String,
        /// Why.
        #[source]
        source: Arc<nexus::ConfigError>,
    },
    /// See [`ErrorKind::Portal`]: the socket of a vhost device.
    #[error("{source}")]
    Vhost {
        /// Path of the socket.
        socket: String,
        /// Why not.
        source: Arc<vhost_blk::session::ServeError>,
    },
    /// See [`ErrorKind::Portal`].
    #[error(transparent)]
    Portal(#[from] Arc<PortalError>),
    /// See [`ErrorKind::Unsupported`].
    #[error("{what} {name} cannot do that: {advice}")]
    Unsupported {
        /// Of what it was asked.
        what: Object,
        /// Its name.
        name: String,
        /// Why, and what to do.
        advice: &'static str,
    },
    /// See [`ErrorKind::Stopping`].
    #[error("the engine is ending")]
    Stopping,
}

impl CommandError {
    /// What a program decides by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::InUse { .. } => ErrorKind::InUse,
            Self::LimitReached { .. } => ErrorKind::LimitReached,
            Self::Deadline { .. } => ErrorKind::Deadline,
            Self::Device(_)
            | Self::Resize { .. }
            | Self::Open { .. }
            | Self::Child { .. }
            | Self::Thread { .. } => ErrorKind::Device,
            Self::Portal(_) | Self::Vhost { .. } => ErrorKind::Portal,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Stopping => ErrorKind::Stopping,
        }
    }

    /// The field that [`ErrorKind::Invalid`] is about.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }
}
