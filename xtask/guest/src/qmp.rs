//! The control socket of QEMU: devices plugged and pulled, machine stopped and looked at.
//!
//! Governed by the QEMU Machine Protocol specification: one JSON object a line, requests answered
//! in order, events in between.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Time for QEMU to answer a request; it answers from its main loop, in milliseconds when idle.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Connection to the control socket.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// A line of which only the beginning was there when time ran out.
    partial: Vec<u8>,
    events: VecDeque<Value>,
    ready: Ready,
}

#[derive(Debug, PartialEq, Eq)]
enum Ready {
    Greeting,
    Requests,
}

impl Qmp {
    /// Takes the host's end of the socket. Nothing is said until the first request.
    pub fn new(stream: UnixStream) -> Qmp {
        let stream = BufReader::new(stream);
        Qmp { stream, partial: Vec::new(), events: VecDeque::new(), ready: Ready::Greeting }
    }

    /// Sends one request and waits for its answer.
    pub fn request(&mut self, request: &str, arguments: &Value) -> Result<Value> {
        if self.ready == Ready::Greeting {
            self.line("greeting", Instant::now() + ANSWER_LIMIT)?;
            self.ready = Ready::Requests;
            self.request("qmp_capabilities", &json!({}))?;
        }
        let text = format!("{}\n", json!({ "execute": request, "arguments": arguments }));
        let sent = self.stream.get_mut().write_all(text.as_bytes());
        sent.map_err(|_| Error::QmpClosed { request: request.to_owned() })?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let mut answer = self.line(request, deadline)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(failed(request, error.to_string()));
            }
            self.events.push_back(answer);
        }
    }

    /// Waits for an event of this name, and takes it; earlier events of other names are kept.
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + limit;
        let is_wanted = |event: &Value| event.get("event").and_then(Value::as_str) == Some(name);
        loop {
            if let Some(at) = self.events.iter().position(is_wanted) {
                return Ok(self.events.remove(at).expect("the position was just found"));
            }
            let event = self.line(name, deadline)?;
            self.events.push_back(event);
        }
    }

    fn line(&mut self, request: &str, deadline: Instant) -> Result<Value> {
        let now = Instant::now();
        let Some(left) = deadline.checked_duration_since(now).filter(|left| !left.is_zero()) else {
            return Err(failed(request, String::from("no answer in time")));
        };
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(left)).map_err(|error| failed(request, error.to_string()))?;
        match self.stream.read_until(b'\n', &mut self.partial) {
            Ok(0) => Err(Error::QmpClosed { request: request.to_owned() }),
            Ok(_) => {
                let line = std::mem::take(&mut self.partial);
                serde_json::from_slice(&line).map_err(|error| failed(request, error.to_string()))
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                Err(Error::QmpClosed { request: request.to_owned() })
            }
            Err(error) => Err(failed(request, format!("no answer: {error}"))),
        }
    }
}

fn failed(request: &str, reason: String) -> Error {
    Error::Qmp { request: request.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that says all of `lines` at once.
    fn qemu_saying(lines: &[&str]) -> (Qmp, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for line in lines {
            theirs.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        (Qmp::new(ours), theirs)
    }

    #[test]
    fn an_answer_is_found_behind_events_and_the_events_are_kept() {
        let (mut qmp, _qemu) = qemu_saying(&[
            r#"{"QMP": {}}"#,
            r#"{"return": {}}"#,
            r#"{"event": "STOP"}"#,
            r#"{"event": "DEVICE_DELETED", "data": {"device": "d"}}"#,
            r#"{"return": {"running": false}}"#,
        ]);
        assert_eq!(qmp.request("query-status", &json!({})).unwrap()["running"], false);
        let event = qmp.wait_event("DEVICE_DELETED", Duration::from_secs(1)).unwrap();
        assert_eq!(event["data"]["device"], "d");
        assert!(qmp.wait_event("STOP", Duration::from_secs(1)).is_ok());
        assert!(qmp.wait_event("STOP", Duration::from_millis(10)).is_err());
    }

    #[test]
    fn a_refusal_is_an_error_with_its_reason() {
        let (mut qmp, _qemu) = qemu_saying(&[
            r#"{"QMP": {}}"#,
            r#"{"return": {}}"#,
            r#"{"error": {"class": "DeviceNotFound"}}"#,
        ]);
        let error = qmp.request("device_del", &json!({"id": "x"})).unwrap_err().to_string();
        assert!(error.contains("device_del") && error.contains("DeviceNotFound"), "{error}");
    }

    #[test]
    fn a_closed_socket_is_an_error() {
        let (mut qmp, qemu) = qemu_saying(&[]);
        drop(qemu);
        assert!(qmp.request("stop", &json!({})).unwrap_err().is_closed_socket());
    }
}
