//! How fast is copied: the rule of the module comment of [`super`], as plain data.
//!
//! Fed once a window with what the cores have told about the host's I/O; asked before each piece.

use reactor::{Nanos, Wake};

use super::{PIECE_BYTES_MAX, PIECES_MAX};

/// Time over which the host's latency is taken: long enough for hundreds of I/Os of a host that
/// matters, short enough that a copy that hurts is slowed before a person notices.
pub const WINDOW: Nanos = Nanos::from_millis(20);

/// How often a window without copying is put in, to learn what the latency is by itself.
pub const RELEARN_INTERVAL: Nanos = Nanos::from_secs(1);

/// Windows without an I/O of the host after which it counts as away.
pub const AWAY_WINDOWS: u32 = 5;

/// The stated bound: the host's mean latency while copying is at most this many tenths of what it
/// is without, and [`LATENCY_GRACE`].
pub const LATENCY_BOUND_TENTHS: u64 = 13;

/// Added to the bound: some passes of the core, which is all that a device in memory takes.
pub const LATENCY_GRACE: Nanos = Nanos::from_micros(1);

/// Bytes a second that are copied whatever the host's latency is, so that a rebuild ends.
pub const RATE_MIN: u64 = 4 << 20;

/// Bytes a second with which copying begins beside a host.
pub const RATE_START: u64 = 32 << 20;

/// Bytes of a piece beside a host. To copy one is 5 us of a core's time, where the devices are in
/// memory; of more, every hundredth I/O would wait twice as long as the slowest do otherwise.
pub const SHARED_PIECE_BYTES: u32 = 16 << 10;

/// A piece is in flight for each so much of the host's latency, since a device that is slow is not
/// waited for by the core; one at least.
pub const LATENCY_OF_A_PIECE: Nanos = Nanos::from_micros(20);

/// Pieces in flight beside a host, at most.
pub const SHARED_PIECES_MAX: u32 = 8;

/// What a bucket can hold: a burst that no latency shows.
const BURST_BYTES: u64 = 2 * PIECE_BYTES_MAX as u64;

/// What the cores have told: sums since they opened the volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Foreground {
    /// I/Os of the host that have ended.
    pub(crate) ended: u64,
    /// For how long I/Os were in the nexus, all added up.
    pub(crate) time: Nanos,
    /// I/Os that are in the nexus.
    pub(crate) inflight: u64,
}

/// A bucket of bytes that fills with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Bytes a second.
    rate: u64,
    /// May be in debt for the piece begun last.
    bytes: i64,
    filled_at: Nanos,
}

impl Bucket {
    fn new(rate: u64, now: Nanos) -> Bucket {
        Bucket { rate: rate.max(1), bytes: 0, filled_at: now }
    }

    fn fill(&mut self, now: Nanos) {
        let span = now.since(self.filled_at).0;
        let more = u128::from(span) * u128::from(self.rate) / 1_000_000_000;
        if more == 0 {
            return;
        }
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add(more).min(BURST_BYTES as i64);
        self.filled_at = now;
    }

    /// When it is out of debt.
    fn ready_at(&self) -> Nanos {
        let missing = u128::from((1 - self.bytes.min(1)).unsigned_abs());
        let span = missing * 1_000_000_000 / u128::from(self.rate);
        self.filled_at + Nanos(u64::try_from(span).unwrap_or(u64::MAX).saturating_add(1))
    }
}

/// What is done about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stance {
    /// It is away: full speed.
    Alone,
    /// Nothing is begun, to learn the latency without it.
    Learning,
    /// Beside the host.
    Shared,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    limit: Option<Bucket>,
    stance: Stance,
    shared: Bucket,
    /// Mean latency of the host without copying.
    base: Option<Nanos>,
    last: Option<Foreground>,
    window_ends: Nanos,
    relearn_at: Nanos,
    empty_windows: u32,
    /// Bytes begun in the window.
    begun: u64,
}

impl Pace {
    /// At full speed, without a limit.
    pub(crate) fn new(now: Nanos) -> Pace {
        Pace {
            limit: None,
            stance: Stance::Alone,
            shared: Bucket::new(RATE_START, now),
            base: None,
            last: None,
            window_ends: now,
            relearn_at: now,
            empty_windows: 0,
            begun: 0,
        }
    }

    /// An operator's limit, in bytes a second.
    pub(crate) fn set_limit(&mut self, now: Nanos, limit: Option<u64>) {
        self.limit = limit.map(|rate| Bucket::new(rate, now));
    }

    /// True when it wants to be told of the host.
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        now >= self.window_ends
    }

    /// A window is over.
    pub(crate) fn observe(&mut self, now: Nanos, seen: Foreground) {
        self.window_ends = now + WINDOW;
        let begun = std::mem::take(&mut self.begun);
        let last = self.last.replace(seen);
        let Some(last) = last else {
            if seen.inflight > 0 {
                self.learn(now);
            }
            return;
        };
        let ended = seen.ended.saturating_sub(last.ended);
        if ended == 0 && seen.inflight == 0 {
            self.empty_windows += 1;
            if self.empty_windows >= AWAY_WINDOWS {
                (self.stance, self.base) = (Stance::Alone, None);
            }
            return;
        }
        self.empty_windows = 0;
        let time = seen.time.since(last.time).0;
        // Nothing has ended: those that wait have waited this long at least.
        let mean = Nanos(time / ended.max(1));
        match self.stance {
            Stance::Alone => self.learn(now),
            Stance::Learning if ended > 0 => {
                self.base = Some(mean);
                self.stance = Stance::Shared;
                self.relearn_at = now + RELEARN_INTERVAL;
            }
            // Slow by itself: it is learnt from what comes, and not waited for longer.
            Stance::Learning => {
                self.base = Some(self.base.map_or(mean, |base| base.max(mean)));
                self.stance = Stance::Shared;
                self.relearn_at = now + RELEARN_INTERVAL;
            }
            Stance::Shared => {
                self.adapt(mean, begun);
                if now >= self.relearn_at {
                    self.learn(now);
                }
            }
        }
    }

    fn learn(&mut self, now: Nanos) {
        if self.stance == Stance::Alone {
            self.shared = Bucket::new(RATE_START, now);
        }
        self.stance = Stance::Learning;
    }

    /// Half as fast where the host is over its bound, a quarter faster where it is not.
    fn adapt(&mut self, mean: Nanos, begun: u64) {
        let base = self.base.unwrap_or(mean);
        let bound = Nanos(base.0.saturating_mul(LATENCY_BOUND_TENTHS) / 10) + LATENCY_GRACE;
        let rate = self.shared.rate;
        let window_bytes = rate.saturating_mul(WINDOW.0 / 1_000_000) / 1000;
        if mean > bound {
            self.shared.rate = (rate / 2).max(RATE_MIN);
        } else if begun >= window_bytes / 2 {
            // A rate that was not used says nothing about a higher one.
            self.shared.rate = rate.saturating_add(rate / 4);
        }
    }

    /// Whether a piece may be begun with `pieces` in flight: how long it may be, in bytes.
    pub(crate) fn grant(&mut self, now: Nanos, pieces: u32) -> Option<u32> {
        if let Some(limit) = &mut self.limit {
            limit.fill(now);
            if limit.bytes < 0 {
                return None;
            }
        }
        match self.stance {
            Stance::Alone => Some(PIECE_BYTES_MAX),
            Stance::Learning => None,
            Stance::Shared if pieces >= self.shared_pieces() => None,
            Stance::Shared => {
                self.shared.fill(now);
                (self.shared.bytes >= 0).then_some(SHARED_PIECE_BYTES)
            }
        }
    }

    fn shared_pieces(&self) -> u32 {
        let base = self.base.unwrap_or_default();
        let pieces = base.0 / LATENCY_OF_A_PIECE.0;
        u32::try_from(pieces).unwrap_or(u32::MAX).clamp(1, SHARED_PIECES_MAX)
    }

    /// A piece was begun.
    pub(crate) fn charge(&mut self, bytes: u64) {
        self.begun += bytes;
        let bytes = i64::try_from(bytes).expect("a piece is short");
        for bucket in self.limit.iter_mut().chain([&mut self.shared]) {
            bucket.bytes = bucket.bytes.saturating_sub(bytes).max(-(BURST_BYTES as i64));
        }
    }

    /// When a piece may be begun with `pieces` in flight, as far as time decides it; and when the
    /// window ends.
    pub(crate) fn wake(&self, pieces: u32) -> Wake {
        let mut at = Nanos(0);
        if let Some(limit) = &self.limit
            && limit.bytes < 0
        {
            at = limit.ready_at();
        }
        match self.stance {
            Stance::Alone if pieces >= PIECES_MAX => return Wake::Never,
            Stance::Alone => {}
            Stance::Learning => at = at.max(self.window_ends),
            Stance::Shared if pieces >= self.shared_pieces() => return Wake::Never,
            Stance::Shared if self.shared.bytes < 0 => at = at.max(self.shared.ready_at()),
            Stance::Shared => {}
        }
        if at == Nanos(0) { Wake::Now } else { Wake::At(at.min(self.window_ends)) }
    }

    /// True while the host's I/O slows it.
    pub(crate) fn is_held_back(&self) -> bool {
        self.stance != Stance::Alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose I/Os take `base` alone, and longer the faster is copied.
    struct Model {
        pace: Pace,
        now: Nanos,
        seen: Foreground,
        copied: u64,
    }

    const STEP: Nanos = Nanos::from_micros(100);

    impl Model {
        fn new() -> Model {
            let (now, seen) = (Nanos::from_secs(1), Foreground::default());
            Model { pace: Pace::new(now), now, seen, copied: 0 }
        }

        /// Runs for `span` with a host of `ios` a step of this latency; returns the bytes that
        /// were copied. `latency` is told the bytes of the step.
        fn run(&mut self, span: Nanos, ios: u64, latency: impl Fn(u64) -> Nanos) -> u64 {
            let end = self.now + span;
            let before = self.copied;
            while self.now < end {
                let mut step_bytes = 0;
                while step_bytes < 16 << 20 {
                    let Some(bytes) = self.pace.grant(self.now, 0) else { break };
                    self.pace.charge(u64::from(bytes));
                    step_bytes += u64::from(bytes);
                }
                self.copied += step_bytes;
                self.seen.ended += ios;
                self.seen.time = self.seen.time + Nanos(ios * latency(step_bytes).0);
                self.now = self.now + STEP;
                if self.pace.is_due(self.now) {
                    self.pace.observe(self.now, self.seen);
                }
            }
            self.copied - before
        }
    }

    #[test]
    fn alone_nothing_is_held_back_and_beside_a_host_at_once() {
        let mut model = Model::new();
        let second = Nanos::from_secs(1);
        let alone = model.run(second, 0, |_| Nanos(0));
        assert!(alone > 100 << 30, "{alone} bytes");
        assert!(!model.pace.is_held_back());
        model.run(WINDOW + WINDOW, 10, |_| Nanos::from_micros(100));
        assert!(model.pace.is_held_back());
        // The host goes away.
        model.run(Nanos(WINDOW.0 * u64::from(AWAY_WINDOWS + 2)), 0, |_| Nanos(0));
        assert!(!model.pace.is_held_back());
    }

    #[test]
    fn a_host_that_is_not_slowed_is_copied_beside_faster_and_faster() {
        let mut model = Model::new();
        let unmoved = |_| Nanos::from_micros(100);
        model.run(Nanos::from_millis(100), 10, unmoved);
        let first = model.run(Nanos::from_millis(100), 10, unmoved);
        let second = model.run(Nanos::from_millis(100), 10, unmoved);
        assert!(second > 2 * first, "{first}, then {second} bytes");
    }

    #[test]
    fn the_mean_latency_settles_at_its_bound_and_the_copy_goes_on() {
        let mut model = Model::new();
        // 1 us more for each KiB that is copied in a step of 100 us: 50 us at some 500 MB/s.
        let slowed = |bytes: u64| Nanos::from_micros(100) + Nanos(bytes * 1000 / 1024);
        model.run(Nanos::from_secs(3), 10, slowed);
        let (seen, copied) = (model.seen, model.copied);
        model.run(Nanos::from_secs(4), 10, slowed);
        let mean = (model.seen.time - seen.time).0 / (model.seen.ended - seen.ended);
        assert!((100_000..=140_000).contains(&mean), "{mean} ns");
        let rate = (model.copied - copied) / 4;
        assert!(rate > 4 * RATE_MIN, "{rate} bytes a second");
    }

    #[test]
    fn a_host_that_is_always_too_slow_does_not_stop_the_copy() {
        let mut model = Model::new();
        let hopeless =
            |bytes: u64| if bytes > 0 { Nanos::from_secs(1) } else { Nanos::from_micros(10) };
        model.run(Nanos::from_secs(2), 10, hopeless);
        let bytes = model.run(Nanos::from_secs(4), 10, hopeless);
        assert!(bytes / 4 > RATE_MIN * 3 / 4, "{} bytes a second", bytes / 4);
        assert!(bytes / 4 < 2 * RATE_MIN);
    }

    #[test]
    fn an_operators_limit_holds_with_and_without_a_host() {
        let mut model = Model::new();
        model.pace.set_limit(model.now, Some(10 << 20));
        for ios in [0, 10] {
            let bytes = model.run(Nanos::from_secs(4), ios, |_| Nanos::from_micros(100));
            assert!((36 << 20..=41 << 20).contains(&bytes), "{bytes} bytes in four seconds");
        }
    }

    #[test]
    fn who_may_not_begin_sleeps_until_it_may() {
        let mut model = Model::new();
        model.pace.observe(model.now, Foreground::default());
        model.pace.set_limit(model.now, Some(10 << 20));
        assert_eq!(model.pace.wake(0), Wake::Now);
        model.pace.charge(1 << 17);
        assert_eq!(model.pace.grant(model.now, 0), None);
        let Wake::At(time) = model.pace.wake(0) else { panic!("it is told a time") };
        assert!(time > model.now + Nanos::from_millis(12), "{time:?}");
        assert_eq!(model.pace.grant(time - Nanos::from_millis(1), 0), None);
        assert!(model.pace.grant(time, 0).is_some());
        assert_eq!(model.pace.wake(PIECES_MAX), Wake::Never, "a completion comes first");
    }
}
