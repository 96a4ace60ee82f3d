//! The bytes of the echo: as many as NVMe/TCP has for the same I/O.

/// Length of a request without its payload: a command capsule (8 + 64 bytes).
pub const REQUEST_BYTES: usize = 72;

/// Length of an answer without its payload: a C2HData header, or a response capsule.
pub const ANSWER_BYTES: usize = 24;

/// What a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Payload behind the request: of a write.
    pub payload_bytes: u32,
    /// Payload behind the answer: of a read.
    pub answer_bytes: u32,
}

impl Request {
    /// The bytes of the request.
    pub fn encode(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.answer_bytes.to_le_bytes());
        bytes
    }

    /// Reads a request; none when it names a payload of more than `payload_bytes_max`.
    #[inline]
    pub fn decode(bytes: &[u8; REQUEST_BYTES], payload_bytes_max: u32) -> Option<Request> {
        let [a, b, c, d, e, f, g, h, ..] = *bytes;
        let payload_bytes = u32::from_le_bytes([a, b, c, d]);
        let answer_bytes = u32::from_le_bytes([e, f, g, h]);
        let legal = payload_bytes <= payload_bytes_max && answer_bytes <= payload_bytes_max;
        legal.then_some(Request { payload_bytes, answer_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_up_to_the_limit() {
        for (payload_bytes, answer_bytes) in [(0, 4096), (4096, 0)] {
            let request = Request { payload_bytes, answer_bytes };
            assert_eq!(Request::decode(&request.encode(), 4096), Some(request));
            assert_eq!(Request::decode(&request.encode(), 4095), None);
        }
    }
}
