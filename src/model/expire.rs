//! The expiry of a record, in Unix milliseconds. A record has no effect from the millisecond of its
//! expiry on.

use crate::error::Error;

/// 9999-12-31T23:59:59.999Z, the last instant a protobuf Timestamp holds.
const LAST_MS: u64 = 253_402_300_799_999;

/// When a record expires: at a millisecond, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expire(u64);

impl Expire {
    /// Never expires.
    pub const NEVER: Self = Self(u64::MAX);

    /// Expires at this Unix millisecond.
    #[must_use]
    pub const fn at_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Expires `duration_ms` after `now_ms`; never without a duration.
    /// Errors: INVALID_ARGUMENT on `duration` if it is zero, or the expiry is after the year 9999.
    pub fn after(now_ms: u64, duration_ms: Option<u64>) -> Result<Self, Error> {
        match duration_ms {
            None => Ok(Self::NEVER),
            Some(0) => Err(Error::invalid(
                "duration",
                "duration must be more than zero; omit it for no expiry",
            )),
            Some(ms) => now_ms
                .checked_add(ms)
                .filter(|expire_ms| *expire_ms <= LAST_MS)
                .map(Self)
                .ok_or_else(|| {
                    Error::invalid(
                        "duration",
                        "duration ends after the year 9999; omit it for no expiry",
                    )
                }),
        }
    }

    /// Whether a record with this expiry has an effect at `now_ms`.
    #[must_use]
    pub const fn in_force(self, now_ms: u64) -> bool {
        now_ms < self.0
    }

    /// The Unix millisecond. None: never.
    #[must_use]
    pub const fn ms(self) -> Option<u64> {
        if self.0 == u64::MAX { None } else { Some(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_expires_at_its_millisecond() -> Result<(), Error> {
        let expire = Expire::after(1_000, Some(500))?;
        assert!(expire.in_force(1_499));
        assert!(!expire.in_force(1_500));
        assert!(Expire::NEVER.in_force(LAST_MS));
        assert_eq!(Expire::NEVER.ms(), None);
        Ok(())
    }

    #[test]
    fn durations_of_zero_or_past_the_year_9999_are_refused() {
        assert!(Expire::after(1, Some(0)).is_err());
        assert!(Expire::after(1, Some(LAST_MS)).is_err());
        assert!(Expire::after(1, Some(u64::MAX)).is_err());
        assert!(Expire::after(1, Some(LAST_MS - 1)).is_ok());
    }
}
