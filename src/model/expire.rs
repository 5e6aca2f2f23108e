//! The end of a record. Unix milliseconds inside; a record has no effect from the very millisecond
//! of its end on.

use crate::error::Error;

/// 9999-12-31T23:59:59.999Z, the last instant a protobuf Timestamp holds.
const LAST_MS: u64 = 253_402_300_799_999;

/// When a record ends: at a millisecond, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expire(u64);

impl Expire {
    /// For good.
    pub const NEVER: Self = Self(u64::MAX);

    /// Ends at this Unix millisecond.
    #[must_use]
    pub const fn at_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Ends `duration_ms` after now; never where there is none.
    /// Errors: INVALID_ARGUMENT on `duration` where it is zero, or the end is after the year 9999.
    pub fn after(now_ms: u64, duration_ms: Option<u64>) -> Result<Self, Error> {
        match duration_ms {
            None => Ok(Self::NEVER),
            Some(0) => Err(Error::invalid(
                "duration",
                "a duration is more than zero; leave it out for good",
            )),
            Some(ms) => {
                now_ms.checked_add(ms).filter(|end| *end <= LAST_MS).map(Self).ok_or_else(|| {
                    Error::invalid(
                        "duration",
                        "the end is after the year 9999; leave the duration out for good",
                    )
                })
            }
        }
    }

    /// Whether a record that ends so has an effect now.
    #[must_use]
    pub const fn in_force(self, now_ms: u64) -> bool {
        now_ms < self.0
    }

    /// The Unix millisecond, or nothing where it never ends.
    #[must_use]
    pub const fn ms(self) -> Option<u64> {
        if self.0 == u64::MAX { None } else { Some(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_ends_at_the_very_millisecond() -> Result<(), Error> {
        let end = Expire::after(1_000, Some(500))?;
        assert!(end.in_force(1_499));
        assert!(!end.in_force(1_500));
        assert!(Expire::NEVER.in_force(LAST_MS));
        assert_eq!(Expire::NEVER.ms(), None);
        Ok(())
    }

    #[test]
    fn zero_and_endless_durations_are_refused() {
        assert!(Expire::after(1, Some(0)).is_err());
        assert!(Expire::after(1, Some(LAST_MS)).is_err());
        assert!(Expire::after(1, Some(u64::MAX)).is_err());
        assert!(Expire::after(1, Some(LAST_MS - 1)).is_ok());
    }
}
