//! A moment as RFC 3339 writes it.

use std::time::{SystemTime, UNIX_EPOCH};

/// In UTC with microseconds, such as `2026-03-01T12:00:00.000250Z`. Before 1970 it is 1970.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. A year begins in March here, so that the
/// day that some have comes last: 400 years have 146,097 days, and the months from March on 153 in five.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, micros, text) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, 1, "2000-03-01T00:00:00.000001Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000000Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            assert_eq!(rfc3339(at), text);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = date(0);
        for day in 1..200_000 {
            let (year, month, day) = date(day);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = |month| match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let follows = match (day, month) {
                (1, 1) => last == (year - 1, 12, 31),
                (1, month) => last == (year, month - 1, length(month - 1)),
                (day, month) => last == (year, month, day - 1),
            };
            assert!(follows, "{year}-{month}-{day} after {last:?}");
            last = (year, month, day);
        }
    }
}
