//! The clock that every part of the service shares. Tests set it by hand, so that none of them
//! sleeps.
//! No crate's clock reports that the wall clock was set.
//!
//! # Two times of day
//! [`Clock::now_ms`] is the wall clock. It decides whether a mute is in force now, which the next
//! moment may reverse. Irreversible steps, such as the removal of an expired mute, use
//! [`Clock::certain_ms`]. The wall clock can be set, by a person or by a faulty time server; the
//! time since the machine started cannot. So after a jump the wall clock is in doubt for a while.
//! During that time, `certain_ms` is the earlier of the wall clock and the wall clock without the
//! jump. Nothing expires early as long as one of the two is right.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The wall clock may gain or lose this much between two readings. Time servers that slew it stay
/// far below.
const JUMP_MS: i64 = 2_000;
/// How long the wall clock is in doubt after a jump, by default.
pub const DEFAULT_DOUBT: Duration = Duration::from_secs(600);

/// Gives the time of day for records and messages, and a monotonic time for measurements.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    doubt: Duration,
    /// None before the first reading.
    offset: Arc<Mutex<Option<Offset>>>,
    jumps: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
enum Source {
    System { started: Instant },
    Manual { wall_ms: Arc<AtomicU64>, uptime_ms: Arc<AtomicU64> },
}

/// The difference between the wall clock and the time since the machine started.
#[derive(Clone, Copy, Debug)]
struct Offset {
    /// At the last reading.
    measured_ms: i64,
    /// Without a jump that is in doubt.
    trusted_ms: i64,
    /// The time since the machine started at which the doubt ends. None: no doubt.
    doubted_until: Option<Duration>,
}

impl Clock {
    /// The clock of the machine, in doubt for [`DEFAULT_DOUBT`] after a jump.
    #[must_use]
    pub fn system() -> Self {
        Self::of(Source::System { started: Instant::now() })
    }

    /// A clock that stays at `now_ms` until a test moves it.
    #[must_use]
    pub fn manual(now_ms: u64) -> Self {
        let [wall_ms, uptime_ms] = [now_ms; 2].map(|ms| Arc::new(AtomicU64::new(ms)));
        Self::of(Source::Manual { wall_ms, uptime_ms })
    }

    fn of(source: Source) -> Self {
        let clock =
            Self { source, doubt: DEFAULT_DOUBT, offset: Arc::default(), jumps: Arc::default() };
        // The first reading is trusted.
        let _ = clock.certain_ms();
        clock
    }

    /// The same clock, in doubt for this long after a jump.
    #[must_use]
    pub fn doubted_for(self, doubt: Duration) -> Self {
        Self { doubt, ..self }
    }

    /// Unix milliseconds of the wall clock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        match &self.source {
            Source::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Source::Manual { wall_ms, .. } => wall_ms.load(Ordering::Relaxed),
        }
    }

    /// Unix milliseconds that have passed for certain: the earlier of the wall clock and the wall
    /// clock without a jump that is in doubt.
    #[must_use]
    pub fn certain_ms(&self) -> u64 {
        let mut offset = self.offset.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        let uptime = self.uptime();
        let uptime_ms = i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX);
        let measured_ms = now_ms.cast_signed().saturating_sub(uptime_ms);
        let before =
            offset.unwrap_or(Offset { measured_ms, trusted_ms: measured_ms, doubted_until: None });
        if before.is_jump(measured_ms) {
            self.jumps.fetch_add(1, Ordering::Relaxed);
        }
        let after = before.after(measured_ms, uptime, self.doubt);
        *offset = Some(after);
        now_ms.min(uptime_ms.saturating_add(after.trusted_ms).cast_unsigned())
    }

    /// Number of jumps of the wall clock that were noticed.
    #[must_use]
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }

    /// A time that never goes back, from an arbitrary start.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.source {
            Source::System { started } => started.elapsed(),
            Source::Manual { .. } => self.uptime(),
        }
    }

    /// Moves a manual clock forward. No effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { wall_ms, uptime_ms } = &self.source {
            let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            for ms in [wall_ms, uptime_ms] {
                ms.fetch_add(by_ms, Ordering::Relaxed);
            }
        }
    }

    /// Sets the wall clock of a manual clock, as an operator might. No effect on the system clock.
    pub fn set(&self, now_ms: u64) {
        if let Source::Manual { wall_ms, .. } = &self.source {
            wall_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// The time since the machine started, including the time it was suspended.
    fn uptime(&self) -> Duration {
        match &self.source {
            #[cfg(target_os = "linux")]
            Source::System { .. } => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let [seconds, nanos] =
                    [time.tv_sec, time.tv_nsec].map(|number| u64::try_from(number).unwrap_or(0));
                Duration::from_secs(seconds) + Duration::from_nanos(nanos)
            }
            #[cfg(not(target_os = "linux"))]
            Source::System { started } => started.elapsed(),
            Source::Manual { uptime_ms, .. } => {
                Duration::from_millis(uptime_ms.load(Ordering::Relaxed))
            }
        }
    }
}

impl Offset {
    /// Whether the wall clock was set since the last reading, to a time that is not trusted.
    fn is_jump(self, measured_ms: i64) -> bool {
        is_far(measured_ms, self.measured_ms) && is_far(measured_ms, self.trusted_ms)
    }

    fn after(self, measured_ms: i64, uptime: Duration, doubt: Duration) -> Self {
        if self.is_jump(measured_ms) {
            tracing::error!(
                by_ms = measured_ms - self.measured_ms,
                ?doubt,
                "the wall clock was set: until the doubt is over, expired mutes are removed only if they have also expired by the old time"
            );
            return Self { measured_ms, doubted_until: Some(uptime + doubt), ..self };
        }
        match self.doubted_until {
            Some(until) if is_far(measured_ms, self.trusted_ms) && uptime < until => {
                Self { measured_ms, ..self }
            }
            Some(_) => {
                tracing::info!("the wall clock is trusted again");
                Self { measured_ms, trusted_ms: measured_ms, doubted_until: None }
            }
            None => Self { measured_ms, trusted_ms: measured_ms, doubted_until: None },
        }
    }
}

fn is_far(offset_ms: i64, other_ms: i64) -> bool {
    offset_ms.abs_diff(other_ms) > JUMP_MS.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000;

    fn certain_after(clock: &Clock, ms: u64) -> u64 {
        clock.advance(Duration::from_millis(ms));
        clock.certain_ms() - START
    }

    #[test]
    fn a_short_jump_makes_nothing_certain() {
        let clock = Clock::manual(START);
        assert_eq!(certain_after(&clock, 1_000), 1_000);
        clock.set(START + 3_600_000);
        assert_eq!((clock.now_ms(), clock.certain_ms()), (START + 3_600_000, START + 1_000));
        clock.set(START + 1_000);
        assert_eq!(certain_after(&clock, 1_000), 2_000);
    }

    #[test]
    fn the_earlier_time_is_certain_until_the_doubt_is_over() {
        for (set_to, offset_in_doubt) in
            [(START + 60_000, 10_000), (START - 60_000, 10_000 - 60_000_i64)]
        {
            let clock = Clock::manual(START).doubted_for(Duration::from_secs(20));
            clock.set(set_to);
            clock.advance(Duration::from_secs(10));
            assert_eq!(clock.certain_ms(), START.saturating_add_signed(offset_in_doubt));
            assert_eq!(clock.certain_ms(), clock.now_ms().min(START + 10_000));
            clock.advance(Duration::from_secs(9));
            let _ = clock.certain_ms();
            clock.advance(Duration::from_secs(30));
            assert_eq!(clock.certain_ms(), clock.now_ms());
        }
    }

    #[test]
    fn a_slewed_clock_is_never_in_doubt() {
        let clock = Clock::manual(START);
        for second in 1..1_000 {
            clock.advance(Duration::from_secs(1));
            clock.set(START + second * 1_100);
            assert_eq!(clock.certain_ms(), clock.now_ms());
        }
    }

    #[test]
    fn the_system_clock_is_certain() {
        let clock = Clock::system();
        let now_ms = clock.now_ms();
        assert!((now_ms..now_ms + 60_000).contains(&clock.certain_ms()));
    }
}
