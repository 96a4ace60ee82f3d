//! The operational keys: what both sides offer, and what comes of it.
//!
//! One function a kind of negotiation. RFC 7143 section 13.

use crate::text::number;

/// Longest data segment that the target takes: that of the largest buffer.
pub const RECEIVE_BYTES_MAX: u32 = 128 << 10;
/// Longest sequence of data, in either direction.
pub const BURST_BYTES_MAX: u32 = 256 << 10;
/// Most unsolicited data of a command.
pub const FIRST_BURST_BYTES_MAX: u32 = 128 << 10;
/// Smallest value of the three lengths above (RFC 7143 sections 13.12 to 13.14).
const LENGTH_MIN: u32 = 512;
const LENGTH_MAX: u32 = (1 << 24) - 1;
/// Longest data segment to an initiator that does not say.
const SEND_BYTES_DEFAULT: u32 = 8192;
/// Longest time in seconds of the two timeouts (RFC 7143 sections 13.15 and 13.16).
const SECONDS_MAX: u32 = 3600;
const TIME_TO_WAIT_S: u32 = 2;
/// At error recovery level 0 nothing is retained.
const TIME_TO_RETAIN_S: u32 = 0;

/// What was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Headers carry a digest.
    pub header_digest: bool,
    /// Data carries a digest.
    pub data_digest: bool,
    /// Longest data segment that the initiator takes.
    pub send_bytes_max: u32,
    /// Longest sequence of data.
    pub burst_bytes_max: u32,
    /// Most unsolicited data of a command.
    pub first_burst_bytes_max: u32,
    /// Data beyond what is immediate comes only when it is asked for.
    pub initial_r2t: bool,
    /// A command may carry data.
    pub immediate_data: bool,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters {
            header_digest: false,
            data_digest: false,
            send_bytes_max: SEND_BYTES_DEFAULT,
            burst_bytes_max: 256 << 10,
            first_burst_bytes_max: 64 << 10,
            initial_r2t: true,
            immediate_data: true,
        }
    }
}

/// What to answer to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: it was a declaration.
    None,
    /// This value.
    Value(String),
}

fn value(text: impl Into<String>) -> Reply {
    Reply::Value(text.into())
}

/// A value that the key does not allow (RFC 7143 section 6.2).
const REJECT: &str = "Reject";
/// A key that nobody here knows.
const NOT_UNDERSTOOD: &str = "NotUnderstood";
/// A key that has no meaning after what else was chosen.
const IRRELEVANT: &str = "Irrelevant";

impl Parameters {
    /// Takes an operational key from the initiator.
    pub fn take(&mut self, key: &str, offered: &str) -> Reply {
        match key {
            "HeaderDigest" => digest(offered, &mut self.header_digest),
            "DataDigest" => digest(offered, &mut self.data_digest),
            "MaxRecvDataSegmentLength" => match length(offered) {
                Some(bytes) => {
                    self.send_bytes_max = bytes;
                    Reply::None
                }
                None => value(REJECT),
            },
            "MaxBurstLength" => least(offered, BURST_BYTES_MAX, &mut self.burst_bytes_max),
            "FirstBurstLength" => {
                least(offered, FIRST_BURST_BYTES_MAX, &mut self.first_burst_bytes_max)
            }
            "InitialR2T" => match is_yes(offered) {
                Some(offered) => {
                    self.initial_r2t = offered;
                    yes_or_no(offered)
                }
                None => value(REJECT),
            },
            "ImmediateData" => match is_yes(offered) {
                Some(offered) => {
                    self.immediate_data = offered;
                    yes_or_no(offered)
                }
                None => value(REJECT),
            },
            "MaxOutstandingR2T" | "MaxConnections" => bounded(offered, 1, 65535, |_| 1),
            "ErrorRecoveryLevel" => bounded(offered, 0, 2, |_| 0),
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                is_yes(offered).map_or(value(REJECT), |_| value("Yes"))
            }
            "DefaultTime2Wait" => {
                bounded(offered, 0, SECONDS_MAX, |seconds| seconds.max(TIME_TO_WAIT_S))
            }
            "DefaultTime2Retain" => bounded(offered, 0, SECONDS_MAX, |_| TIME_TO_RETAIN_S),
            "iSCSIProtocolLevel" => bounded(offered, 0, 31, |level| level.min(1)),
            "TaskReporting" => value("RFC3720"),
            "IFMarker" | "OFMarker" => value("No"),
            "IFMarkInt" | "OFMarkInt" => value(IRRELEVANT),
            "InitiatorAlias" | "InitiatorName" | "TargetName" | "SessionType" | "SendTargets" => {
                Reply::None
            }
            _ => value(NOT_UNDERSTOOD),
        }
    }

    /// What holds between the values, once all are there.
    #[must_use]
    pub fn settled(self) -> Parameters {
        let first_burst_bytes_max = self.first_burst_bytes_max.min(self.burst_bytes_max);
        Parameters { first_burst_bytes_max, ..self }
    }
}

fn is_yes(offered: &str) -> Option<bool> {
    match offered {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn yes_or_no(is_yes: bool) -> Reply {
    value(if is_yes { "Yes" } else { "No" })
}

fn length(offered: &str) -> Option<u32> {
    number(offered).filter(|bytes| (LENGTH_MIN..=LENGTH_MAX).contains(bytes))
}

/// The smaller of both sides' lengths.
fn least(offered: &str, own: u32, into: &mut u32) -> Reply {
    let Some(offered) = length(offered) else { return value(REJECT) };
    *into = offered.min(own);
    value(into.to_string())
}

fn bounded(offered: &str, min: u32, max: u32, choose: impl Fn(u32) -> u32) -> Reply {
    match number(offered).filter(|number| (min..=max).contains(number)) {
        Some(offered) => value(choose(offered).to_string()),
        None => value(REJECT),
    }
}

/// The first of the initiator's list that there is.
fn digest(offered: &str, into: &mut bool) -> Reply {
    for one in offered.split(',') {
        match one {
            "CRC32C" => *into = true,
            "None" => *into = false,
            _ => continue,
        }
        return value(one);
    }
    value(REJECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(key: &str, offered: &str) -> (Parameters, Reply) {
        let mut parameters = Parameters::default();
        let reply = parameters.take(key, offered);
        (parameters, reply)
    }

    #[test]
    fn of_a_list_the_first_known_value_is_taken() {
        let (parameters, reply) = take("HeaderDigest", "X-other,CRC32C,None");
        assert_eq!((parameters.header_digest, reply), (true, value("CRC32C")));
        assert_eq!(take("DataDigest", "None,CRC32C").1, value("None"));
        assert_eq!(take("DataDigest", "MD5").1, value(REJECT));
    }

    #[test]
    fn lengths_are_the_smaller_of_both_and_within_the_bounds() {
        assert_eq!(take("MaxBurstLength", "512").1, value("512"));
        assert_eq!(take("MaxBurstLength", "16777215").1, value("262144"));
        for outside in ["511", "16777216", "x", "-1"] {
            assert_eq!(take("MaxBurstLength", outside).1, value(REJECT));
            assert_eq!(take("MaxRecvDataSegmentLength", outside).1, value(REJECT));
        }
        let (parameters, reply) = take("MaxRecvDataSegmentLength", "4096");
        assert_eq!((parameters.send_bytes_max, reply), (4096, Reply::None));
    }

    #[test]
    fn the_first_burst_is_no_longer_than_any_burst() {
        let mut parameters = Parameters::default();
        parameters.take("MaxBurstLength", "1024");
        assert_eq!(parameters.settled().first_burst_bytes_max, 1024);
    }

    #[test]
    fn truths_are_joined_as_each_key_says() {
        assert!(!take("InitialR2T", "No").0.initial_r2t);
        assert!(!take("ImmediateData", "No").0.immediate_data);
        assert_eq!(take("DataPDUInOrder", "No").1, value("Yes"));
        assert_eq!(take("ErrorRecoveryLevel", "2").1, value("0"));
        assert_eq!(take("ErrorRecoveryLevel", "3").1, value(REJECT));
        assert_eq!(take("X-com.example.key", "1").1, value(NOT_UNDERSTOOD));
    }
}
