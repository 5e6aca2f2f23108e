//! The one clock, handed down to whoever needs the time. Tests set it by hand, so that none of them
//! sleeps.
//!
//! # Two times of day
//! [`Clock::now_ms`] is the wall clock: it decides whether a mute is in force at this moment, and
//! can be taken back a moment later. What cannot be taken back, such as removing a mute because it
//! has ended, goes by [`Clock::certain_ms`]. The wall clock can be set, by a person or by a faulty
//! time server; time since the machine started cannot. So when the wall clock jumps, it is doubted
//! for a while, and until then the earlier of what it says and what it would say without the jump
//! is certain: nothing ends early, as long as either of them is right.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What the wall clock may gain or lose between two looks at it. Time servers that slew stay far
/// below.
const JUMP_MS: i64 = 2_000;
/// For how long a wall clock that has jumped is doubted, where nobody says.
pub const DOUBT: Duration = Duration::from_secs(600);

/// Tells the time of day for what is stored and shown, and a time that never goes back for what is
/// measured.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    doubt: Duration,
    witness: Arc<Mutex<Option<Witness>>>,
    jumps: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
enum Source {
    System { started: Instant },
    Manual { wall_ms: Arc<AtomicU64>, passed_ms: Arc<AtomicU64> },
}

/// How far the wall clock is from the time since the machine started, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Witness {
    /// At the last look.
    seen: i64,
    /// Without jumps.
    believed: i64,
    /// Until when, since the start, what was seen is doubted.
    doubted_until: Option<Duration>,
}

impl Clock {
    /// The machine's clock, doubted for [`DOUBT`] after a jump.
    #[must_use]
    pub fn system() -> Self {
        Self::of(Source::System { started: Instant::now() })
    }

    /// A clock that stands at `now_ms` until it is moved.
    #[must_use]
    pub fn manual(now_ms: u64) -> Self {
        let [wall_ms, passed_ms] = [now_ms; 2].map(|ms| Arc::new(AtomicU64::new(ms)));
        Self::of(Source::Manual { wall_ms, passed_ms })
    }

    fn of(source: Source) -> Self {
        let clock = Self { source, doubt: DOUBT, witness: Arc::default(), jumps: Arc::default() };
        // What is there at the start is believed.
        let _ = clock.certain_ms();
        clock
    }

    /// The same clock, doubted for so long after a jump.
    #[must_use]
    pub fn doubted_for(self, doubt: Duration) -> Self {
        Self { doubt, ..self }
    }

    /// Unix milliseconds, by the wall clock.
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

    /// Unix milliseconds that have come for certain: while the wall clock is doubted, the earlier
    /// of what it says and what it would say without the jump.
    #[must_use]
    pub fn certain_ms(&self) -> u64 {
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        let passed = self.since_start();
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        let seen = now_ms.cast_signed().saturating_sub(passed_ms);
        let before = witness.unwrap_or(Witness { seen, believed: seen, doubted_until: None });
        if before.is_jump(seen) {
            self.jumps.fetch_add(1, Ordering::Relaxed);
        }
        let after = before.after(seen, passed, self.doubt);
        *witness = Some(after);
        now_ms.min(passed_ms.saturating_add(after.believed).cast_unsigned())
    }

    /// How often the wall clock was set, as far as it was seen.
    #[must_use]
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }

    /// Time that only goes forward, from an arbitrary start.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.source {
            Source::System { started } => started.elapsed(),
            Source::Manual { .. } => self.since_start(),
        }
    }

    /// Moves a manual clock forward; the system clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { wall_ms, passed_ms } = &self.source {
            let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            for ms in [wall_ms, passed_ms] {
                ms.fetch_add(by_ms, Ordering::Relaxed);
            }
        }
    }

    /// Sets the wall clock of a manual clock, as a person might; the system clock stays as it is.
    pub fn set(&self, now_ms: u64) {
        if let Source::Manual { wall_ms, .. } = &self.source {
            wall_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Since the machine started, also while it was suspended.
    fn since_start(&self) -> Duration {
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
            Source::Manual { passed_ms, .. } => {
                Duration::from_millis(passed_ms.load(Ordering::Relaxed))
            }
        }
    }
}

impl Witness {
    /// Whether the wall clock was set since it was last looked at, to something that is not
    /// believed.
    fn is_jump(self, seen: i64) -> bool {
        is_far(seen, self.seen) && is_far(seen, self.believed)
    }

    fn after(self, seen: i64, now: Duration, doubt: Duration) -> Self {
        if self.is_jump(seen) {
            tracing::error!(
                by_ms = seen - self.seen,
                ?doubt,
                "the wall clock was set: for a while what ends is removed only when it has ended by the old time too"
            );
            return Self { seen, doubted_until: Some(now + doubt), ..self };
        }
        match self.doubted_until {
            Some(until) if is_far(seen, self.believed) && now < until => Self { seen, ..self },
            Some(_) => {
                tracing::info!("the wall clock is believed again");
                Self { seen, believed: seen, doubted_until: None }
            }
            None => Self { seen, believed: seen, doubted_until: None },
        }
    }
}

fn is_far(seen: i64, other: i64) -> bool {
    seen.abs_diff(other) > JUMP_MS.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000;

    fn after(clock: &Clock, ms: u64) -> u64 {
        clock.advance(Duration::from_millis(ms));
        clock.certain_ms() - START
    }

    #[test]
    fn a_clock_that_is_ahead_for_a_second_makes_nothing_certain() {
        let clock = Clock::manual(START);
        assert_eq!(after(&clock, 1_000), 1_000);
        clock.set(START + 3_600_000);
        assert_eq!((clock.now_ms(), clock.certain_ms()), (START + 3_600_000, START + 1_000));
        clock.set(START + 1_000);
        assert_eq!(after(&clock, 1_000), 2_000);
    }

    #[test]
    fn the_earlier_time_is_certain_until_the_doubt_is_over() {
        for (set_to, in_doubt) in [(START + 60_000, 10_000), (START - 60_000, 10_000 - 60_000_i64)]
        {
            let clock = Clock::manual(START).doubted_for(Duration::from_secs(20));
            clock.set(set_to);
            clock.advance(Duration::from_secs(10));
            assert_eq!(clock.certain_ms(), START.saturating_add_signed(in_doubt));
            assert_eq!(clock.certain_ms(), clock.now_ms().min(START + 10_000));
            clock.advance(Duration::from_secs(9));
            let _ = clock.certain_ms();
            clock.advance(Duration::from_secs(30));
            assert_eq!(clock.certain_ms(), clock.now_ms());
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_never_doubted() {
        let clock = Clock::manual(START);
        for second in 1..1_000 {
            clock.advance(Duration::from_secs(1));
            clock.set(START + second * 1_100);
            assert_eq!(clock.certain_ms(), clock.now_ms());
        }
    }

    #[test]
    fn the_system_clock_is_certain_as_it_is() {
        let clock = Clock::system();
        let now_ms = clock.now_ms();
        assert!((now_ms..now_ms + 60_000).contains(&clock.certain_ms()));
    }
}
