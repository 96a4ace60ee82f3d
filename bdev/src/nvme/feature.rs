//! Features: their identifiers and the bits of their values.
//!
//! Values are command dword 11 of Set Features and dword 0 of the completion of Get Features. Used
//! on the admin queue only. NVMe Base 2.0 section 5.27.1, NVM Command Set 1.0 section 4.1.3.

/// 01h: arbitration.
pub const ARBITRATION: u8 = 0x01;
/// 02h: power management; the value is the power state in bits 4:0.
pub const POWER_MANAGEMENT: u8 = 0x02;
/// 04h: temperature threshold.
pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
/// 05h: error recovery.
pub const ERROR_RECOVERY: u8 = 0x05;
/// 06h: volatile write cache.
pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
/// 07h: number of queues.
pub const NUMBER_OF_QUEUES: u8 = 0x07;
/// 08h: interrupt coalescing. Not over fabrics.
pub const INTERRUPT_COALESCING: u8 = 0x08;
/// 09h: interrupt vector configuration. Not over fabrics.
pub const INTERRUPT_VECTOR: u8 = 0x09;
/// 0Ah: write atomicity; bit 0 disables what is beyond power failure.
pub const WRITE_ATOMICITY: u8 = 0x0a;
/// 0Bh: asynchronous event configuration; the bits are those of [`event`].
pub const ASYNC_EVENT_CONFIGURATION: u8 = 0x0b;
/// 0Fh: keep alive timer; the value is the timeout in milliseconds, 0 for none.
pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
/// 16h: host behavior support.
pub const HOST_BEHAVIOR: u8 = 0x16;
/// 81h: host identifier, in the data; bit 0 of the value for one of 128 bits.
pub const HOST_IDENTIFIER: u8 = 0x81;
/// 82h: reservation notification mask.
pub const RESERVATION_MASK: u8 = 0x82;
/// 83h: whether reservations persist through power loss.
pub const RESERVATION_PERSISTENCE: u8 = 0x83;

/// Bits of [`ASYNC_EVENT_CONFIGURATION`].
pub mod event {
    /// Critical warnings of the SMART log, bit for bit.
    pub const SMART_MASK: u32 = 0xff;
    /// Namespace attribute notices.
    pub const NAMESPACE: u32 = 1 << 8;
    /// Firmware activation notices.
    pub const FIRMWARE: u32 = 1 << 9;
    /// Asymmetric namespace access change notices.
    pub const ANA: u32 = 1 << 11;
    /// Discovery log page change notices.
    pub const DISCOVERY: u32 = 1 << 31;
}

/// Bit of what Get Features reports for the select value "supported".
pub mod supported {
    /// The feature can be saved.
    pub const SAVEABLE: u32 = 1 << 0;
    /// It belongs to a namespace.
    pub const PER_NAMESPACE: u32 = 1 << 1;
    /// It can be changed.
    pub const CHANGEABLE: u32 = 1 << 2;
}

/// Bit 0 of [`VOLATILE_WRITE_CACHE`]: the cache is enabled.
pub const WRITE_CACHE_ENABLED: u32 = 1 << 0;

/// What both halves of [`NUMBER_OF_QUEUES`] must not be: all ones is an invalid field.
pub const QUEUE_COUNT_INVALID: u16 = 0xffff;

/// Most I/O queues of a kind that the value can ask for or grant.
pub const QUEUES_MAX: u32 = 65_535;

/// The value of [`NUMBER_OF_QUEUES`]: asked for in Set Features, granted in its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// I/O submission queues, 1 to [`QUEUES_MAX`].
    pub submission: u32,
    /// I/O completion queues, 1 to [`QUEUES_MAX`].
    pub completion: u32,
}

impl QueueCounts {
    /// Reads a value; `None` if either half is [`QUEUE_COUNT_INVALID`].
    pub const fn from_value(value: u32) -> Option<Self> {
        let [low0, low1, high0, high1] = value.to_le_bytes();
        let submission = u16::from_le_bytes([low0, low1]);
        let completion = u16::from_le_bytes([high0, high1]);
        if submission == QUEUE_COUNT_INVALID || completion == QUEUE_COUNT_INVALID {
            return None;
        }
        Some(Self { submission: submission as u32 + 1, completion: completion as u32 + 1 })
    }

    /// The value.
    ///
    /// # Panics
    /// If a count is not 1 to [`QUEUES_MAX`].
    pub const fn value(self) -> u32 {
        assert!(self.submission >= 1 && self.submission <= QUEUES_MAX);
        assert!(self.completion >= 1 && self.completion <= QUEUES_MAX);
        (self.submission - 1) | (self.completion - 1) << 16
    }
}

/// The value of [`TEMPERATURE_THRESHOLD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemperatureThreshold(pub u32);

impl TemperatureThreshold {
    /// TMPTH: the threshold.
    pub const fn kelvin(self) -> u16 {
        let [low, high, _, _] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// TMPSEL: 0 for the composite temperature, 1 to 8 for a sensor, 15 for all.
    pub const fn sensor(self) -> u8 {
        self.0.to_le_bytes()[2] & 0x0f
    }

    /// THSEL: 0 over, 1 under temperature.
    pub const fn kind(self) -> u8 {
        self.0.to_le_bytes()[2] >> 4 & 0b11
    }
}

/// The value of [`ERROR_RECOVERY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRecovery(pub u32);

impl ErrorRecovery {
    /// TLER: how long retries may go on, in units of 100 ms; 0 for no limit.
    pub const fn time_limit_100ms(self) -> u16 {
        let [low, high, _, _] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// DULBE: reading deallocated or unwritten blocks is an error.
    pub const fn deallocated_is_error(self) -> bool {
        self.0 & 1 << 16 != 0
    }
}

/// The value of [`ARBITRATION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arbitration(pub u32);

impl Arbitration {
    /// AB: commands taken from a queue in one go, as a power of two; 7 for no limit.
    pub const fn burst_shift(self) -> u8 {
        self.0.to_le_bytes()[0] & 0b111
    }

    /// Weights of low, medium and high priority, 0's based.
    pub const fn weights(self) -> [u8; 3] {
        let [_, low, medium, high] = self.0.to_le_bytes();
        [low, medium, high]
    }
}

/// The value of [`INTERRUPT_COALESCING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptCoalescing(pub u32);

impl InterruptCoalescing {
    /// THR: completions an interrupt, 0's based.
    pub const fn threshold(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// TIME: longest delay in units of 100 us; 0 for none.
    pub const fn time_100us(self) -> u8 {
        self.0.to_le_bytes()[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn queue_counts_are_counted_from_one_up_to_the_most() {
        let one = QueueCounts { submission: 1, completion: 1 };
        assert_eq!(one.value(), 0);
        let most = QueueCounts { submission: QUEUES_MAX, completion: QUEUES_MAX };
        assert_eq!(most.value(), 0xfffe_fffe);
        assert_eq!(QueueCounts::from_value(0xfffe_fffe), Some(most));
        assert_eq!(QueueCounts::from_value(0xffff_0000), None);
        assert_eq!(QueueCounts::from_value(0x0000_ffff), None);
    }

    #[test]
    #[should_panic(expected = "QUEUES_MAX")]
    fn one_queue_more_is_refused() {
        let _ = QueueCounts { submission: QUEUES_MAX + 1, completion: 1 }.value();
    }

    #[test]
    fn bits_of_values_are_where_the_specification_puts_them() {
        let threshold = TemperatureThreshold(0x001f_0157);
        assert_eq!((threshold.kelvin(), threshold.sensor(), threshold.kind()), (343, 15, 1));
        let recovery = ErrorRecovery(0x0001_000a);
        assert_eq!(recovery.time_limit_100ms(), 10);
        assert!(recovery.deallocated_is_error());
        let arbitration = Arbitration(0x0302_0107);
        assert_eq!((arbitration.burst_shift(), arbitration.weights()), (7, [1, 2, 3]));
        let coalescing = InterruptCoalescing(0x0203);
        assert_eq!((coalescing.threshold(), coalescing.time_100us()), (3, 2));
    }

    proptest! {
        #[test]
        fn every_valid_queue_count_survives(submission in 1..=QUEUES_MAX,
                                            completion in 1..=QUEUES_MAX) {
            let counts = QueueCounts { submission, completion };
            prop_assert_eq!(QueueCounts::from_value(counts.value()), Some(counts));
        }
    }
}
