//! The machine's discovery controllers, from where nvme-cli has them: /etc/nvme/discovery.conf.
//!
//! Read on control threads when a device is opened whose URI says neither where it is nor whom to
//! ask. A line has the options of `nvme discover`; of them the transport, the address and the
//! service matter here, and lines of other transports are left out.

use std::io;

use bdev::uri::NVMF_DISCOVERY_PORT_DEFAULT;
use nvmf::initiator::discovery::CONTROLLERS_MAX;

/// Where the list is.
const PATH: &str = "/etc/nvme/discovery.conf";
/// Longest list, in bytes.
const BYTES_MAX: usize = 64 << 10;

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no list, or it cannot be read.
    #[error("nobody to ask where the subsystem is: add discovery=HOST to the URI, or write {PATH}")]
    Unreadable(#[source] io::Error),
    /// It is far too long.
    #[error("{PATH} is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// It names none that is reached by TCP.
    #[error("{PATH} names no discovery controller reached by TCP (--transport=tcp --traddr=…)")]
    Empty,
    /// It names too many.
    #[error("{PATH} names more than {CONTROLLERS_MAX} discovery controllers")]
    TooMany,
}

/// The discovery controllers of the machine, as `host:port`, at least one.
///
/// # Errors
/// There are none.
pub fn read() -> Result<Vec<String>, ConfigError> {
    let text = std::fs::read_to_string(PATH).map_err(ConfigError::Unreadable)?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<String>, ConfigError> {
    if text.len() > BYTES_MAX {
        return Err(ConfigError::TooLong);
    }
    let controllers: Vec<String> = text.lines().filter_map(controller).collect();
    match controllers.len() {
        0 => Err(ConfigError::Empty),
        count if count > CONTROLLERS_MAX => Err(ConfigError::TooMany),
        _ => Ok(controllers),
    }
}

/// The controller of a line, if it has one that is reached by TCP.
fn controller(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let (mut is_tcp, mut address, mut service) = (false, None, None);
    for (index, word) in words.iter().enumerate() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (*word, words.get(index + 1).copied()),
        };
        match name {
            "-t" | "--transport" => is_tcp = value == Some("tcp"),
            "-a" | "--traddr" => address = value,
            "-s" | "--trsvcid" => service = value,
            _ => {}
        }
    }
    let address = address.filter(|address| is_tcp && !address.is_empty())?;
    let port = service.map_or(NVMF_DISCOVERY_PORT_DEFAULT.to_string(), str::to_owned);
    Some(if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tcp_are_taken_in_both_spellings_and_the_rest_is_left_out() {
        let text = "# a comment\n\n\
            --transport=tcp --traddr=10.0.0.1 --trsvcid=4420 --nr-io-queues=2\n\
            -t tcp -a fd00::1 # the second\n--transport=rdma --traddr=10.0.0.3\n-t tcp\n";
        assert_eq!(parse(text).unwrap(), ["10.0.0.1:4420", "[fd00::1]:8009"]);
        assert!(matches!(parse("# nothing\n"), Err(ConfigError::Empty)));
    }

    #[test]
    fn a_list_is_taken_at_its_limits_and_refused_past_them() {
        let lines = |count: usize| "-t tcp -a h\n".repeat(count);
        assert_eq!(parse(&lines(CONTROLLERS_MAX)).unwrap().len(), CONTROLLERS_MAX);
        assert!(matches!(parse(&lines(CONTROLLERS_MAX + 1)), Err(ConfigError::TooMany)));
        let padded = |len: usize| format!("-t tcp -a h\n{}", "#".repeat(len - 12));
        assert!(parse(&padded(BYTES_MAX)).is_ok());
        assert!(matches!(parse(&padded(BYTES_MAX + 1)), Err(ConfigError::TooLong)));
    }
}
