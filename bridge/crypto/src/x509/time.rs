//! Times in certificates (RFC 5280, section 4.1.2.5).

use std::time::Duration;

use crate::der::{Malformed, Value, tag};

/// UTCTime or GeneralizedTime as time since the epoch; before the epoch is zero.
pub(super) fn time(value: Value<'_>) -> Result<Duration, Malformed> {
    let digits = value.body.strip_suffix(b"Z").ok_or(Malformed)?;
    let (year, rest) = match value.tag {
        tag::UTC_TIME => {
            let (year, rest) = number(digits, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        tag::GENERALIZED_TIME => number(digits, 4)?,
        _ => return Err(Malformed),
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let sound = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && rest.is_empty();
    if !sound {
        return Err(Malformed);
    }
    let days = days_before(year) + (1..month).map(|m| days_in(year, m)).sum::<i64>() + day - 1;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn number(octets: &[u8], len: usize) -> Result<(i64, &[u8]), Malformed> {
    let (digits, rest) = octets.split_at_checked(len).ok_or(Malformed)?;
    let step = |n: i64, o: &u8| if o.is_ascii_digit() { Ok(n * 10 + i64::from(o - b'0')) } else { Err(Malformed) };
    Ok((digits.iter().try_fold(0, step)?, rest))
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from the epoch to the first of January.
fn days_before(year: i64) -> i64 {
    let leaps = |y: i64| y / 4 - y / 100 + y / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        time(Value { tag, body: text.as_bytes(), whole: &[] }).ok().map(|t| t.as_secs())
    }

    /// Expected values: date -u -d ... +%s.
    #[test]
    fn times_are_seconds_since_the_epoch() {
        for (text, expected) in [
            ("19700101000000Z", 0),
            ("20000229120000Z", 951_825_600),
            ("20261126110000Z", 1_795_690_800),
            ("21000301000000Z", 4_107_542_400),
            ("99991231235959Z", 253_402_300_799),
            ("19691231235959Z", 0),
        ] {
            assert_eq!(seconds(tag::GENERALIZED_TIME, text), Some(expected), "{text}");
        }
        assert_eq!(seconds(tag::UTC_TIME, "491231235959Z"), seconds(tag::GENERALIZED_TIME, "20491231235959Z"));
        assert_eq!(seconds(tag::UTC_TIME, "700101000001Z"), Some(1));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["2026112611Z", "20261126110000", "20261126110000.5Z", "20261126110000+0000", "20260229000000Z", ""]
        {
            assert_eq!(seconds(tag::GENERALIZED_TIME, text), None, "{text}");
        }
        for text in ["261301000000Z", "260100000000Z", "260101240000Z", "260101006000Z", "26-101000000Z"] {
            assert_eq!(seconds(tag::UTC_TIME, text), None, "{text}");
        }
        assert_eq!(seconds(tag::OCTET_STRING, "260101000000Z"), None);
    }
}
