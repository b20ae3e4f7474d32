//! Dates as mail and IMAP write them, in every way that is seen.

/// Milliseconds since 1970, of a date as in RFC 5322 or of an INTERNALDATE of IMAP; of obsolete and wrong forms too
/// (two digits of year, no seconds, no weekday, month and day the other way round, comments, names of zones). A zone
/// that there cannot be is none: what it meant is not known, and the day is right still. `None` for what is no day.
pub(crate) fn parse(text: &[u8]) -> Option<i64> {
    /// A date has 45 bytes with its comment; folding and comments may add to that.
    const MAX_BYTES: usize = 256;
    let text = text.get(..MAX_BYTES).unwrap_or(text);
    usual(text).or_else(|| of_words(text))
}

/// As nearly all write it: `7 Jul 2026 10:10:11 +0000`, behind a weekday or not, and `7-Jul-2026 10:10:11 +0000`.
fn usual(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    let is_weekday = |word: &[u8]| word.iter().all(u8::is_ascii_alphabetic) && month_of(word).is_none();
    let date = match text.split_at_checked(3) {
        Some((word, [b',', b' ', rest @ ..])) if is_weekday(word) => rest,
        _ => text,
    };
    let (day, rest) = date.split_at_checked(date.iter().position(|byte| !byte.is_ascii_digit())?)?;
    let rest: &[u8; 24] = rest.try_into().ok()?;
    let separators = [rest[0], rest[4], rest[9], rest[12], rest[15], rest[18]];
    if day.len() > 2 || !matches!(&separators, b"   :: " | b"-- :: ") {
        return None;
    }
    let [year, hour, minute, second] = [5..9, 10..12, 13..15, 16..18].map(|digits| number(&rest[digits]));
    let time = of_clock(hour?, minute?, second?)?;
    let zone = offset(&rest[20..])?;
    let zone = match rest[19] {
        b'+' => zone,
        b'-' => -zone,
        _ => return None,
    };
    millis((year?, month_of(&rest[1..4])?, number(day)?), time, zone)
}

/// The same, word by word.
fn of_words(text: &[u8]) -> Option<i64> {
    let (mut day, mut month, mut year, mut time, mut zone) = (None, None, None, None, 0);
    for token in tokens(text) {
        match token {
            [b'+' | b'-', digits @ ..] if time.is_some() => {
                zone = offset(digits).map_or(0, |minutes| if token.starts_with(b"-") { -minutes } else { minutes })
            }
            [b'0'..=b'9', ..] if token.contains(&b':') => {
                // A zone may follow at once.
                let end = token.iter().position(|byte| matches!(byte, b'+' | b'-')).unwrap_or(token.len());
                let (clock, rest) = token.split_at(end);
                time = Some(time_of_day(clock)?);
                if let [sign, digits @ ..] = rest {
                    zone = offset(digits).map_or(0, |minutes| if *sign == b'-' { -minutes } else { minutes });
                }
            }
            [b'0'..=b'9', ..] | [b'-', ..] => {
                // All of it at once in an INTERNALDATE.
                for part in token.split(|byte| *byte == b'-').filter(|part| !part.is_empty()) {
                    match number(part) {
                        Some(number) if day.is_none() && part.len() <= 2 => day = Some(number),
                        Some(number) if year.is_none() => year = Some(full_year(number, part.len())),
                        Some(_) => {}
                        None => month = month.or_else(|| month_of(part)),
                    }
                }
            }
            word => match month_of(word) {
                Some(found) if month.is_none() => month = Some(found),
                _ if time.is_some() => zone = named_zone(word).unwrap_or(zone),
                _ => {}
            },
        }
    }
    millis((year?, month?, day?), time.unwrap_or_default(), zone)
}

/// Words without comments.
fn tokens(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut depth = 0_u32;
    let words = text.split(move |byte| {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => return depth > 0 || byte.is_ascii_whitespace() || *byte == b',',
        }
        true
    });
    words.filter(|word| !word.is_empty())
}

fn number(text: &[u8]) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= 4 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

/// RFC 5322 section 4.3.
fn full_year(number: i64, digits: usize) -> i64 {
    match (digits, number) {
        (..=2, ..50) => number + 2000,
        (..=3, _) => number + 1900,
        _ => number,
    }
}

fn month_of(word: &[u8]) -> Option<i64> {
    const MONTHS: [&[u8; 3]; 12] =
        [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
    let start = word.first_chunk()?.map(|byte: u8| byte.to_ascii_lowercase());
    MONTHS.iter().position(|month| **month == start).map(|at| at as i64 + 1)
}

/// Seconds since midnight. A leap second is the one after it.
fn time_of_day(text: &[u8]) -> Option<i64> {
    let whole = text.split(|byte| *byte == b'.').next()?;
    let mut parts = whole.split(|byte| *byte == b':').map(number);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
    of_clock(hour, minute, second)
}

fn of_clock(hour: i64, minute: i64, second: i64) -> Option<i64> {
    (hour <= 23 && minute <= 59 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Minutes of `hhmm`, or of `hh:mm`.
fn offset(digits: &[u8]) -> Option<i64> {
    let (hours, minutes) = match digits {
        [h, hh, m, mm] | [h, hh, b':', m, mm] => (number(&[*h, *hh])?, number(&[*m, *mm])?),
        _ => return None,
    };
    (hours <= 14 && minutes <= 59).then_some(hours * 60 + minutes)
}

fn named_zone(word: &[u8]) -> Option<i64> {
    let hours = match word.to_ascii_uppercase().as_slice() {
        b"UT" | b"UTC" | b"GMT" | b"Z" => 0,
        b"EDT" => -4,
        b"EST" | b"CDT" => -5,
        b"CST" | b"MDT" => -6,
        b"MST" | b"PDT" => -7,
        b"PST" => -8,
        _ => return None,
    };
    Some(hours * 60)
}

fn millis((year, month, day): (i64, i64, i64), seconds: i64, zone: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // There was no mail before, and a date of later is a slip.
    if !(1900..=9999).contains(&year) || !(1..=days).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let since_1970 = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some((since_1970 * 86_400 + seconds - zone * 60) * 1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_read_as_they_are_written() {
        let day = 1_783_382_400_000; // 2026-07-07
        let time = day + 36_611_000; // 10:10:11
        for (text, expected) in [
            ("Tue, 7 Jul 2026 10:10:11 +0000", Some(time)),
            (" 7-Jul-2026 10:10:11 +0000", Some(time)),
            ("07-JUL-2026 10:10:11 +0000", Some(time)),
            ("Tue,  7 Jul 2026 12:10:11 +0200 (CEST)", Some(time)),
            ("7 Jul 26 05:10:11 EST", Some(time)),
            ("7 July 2026 10:10:11 GMT", Some(time)),
            ("7 Jul 2026 10:10:11", Some(time)),
            ("7 Jul 2026 10:10:11.123 Z", Some(time)),
            ("Tue Jul  7 10:10:11 2026", Some(time)),
            ("Tue Jul  7 10:10:11 2026 -0000", Some(time)),
            ("Tue, 7 Jul 2026\r\n 10:10:11\r\n\t+0000", Some(time)),
            ("(Tue (x)) 7 (7) Jul 2026 10:10:11 +00:00", Some(time)),
            ("7 Jul 2026 12:10:11+0200", Some(time)),
            ("7 Jul 2026 10:10:11 +9999", Some(time)),
            ("7 Jul 2026 10:10:11 +02", Some(time)),
            ("7 Jul 2026 10:10:11 Mitteleuropa", Some(time)),
            ("7 Jul 2026 10:10", Some(time - 11_000)),
            ("7 Jul 2026", Some(day)),
            ("1 Jan 1970 00:00:00 +0000", Some(0)),
            ("1 Jan 70 00:00:00 +0000", Some(0)),
            ("31 Dec 1969 23:59:60 +0000", Some(0)),
            ("29 Feb 2024 00:00:00 +0000", Some(1_709_164_800_000)),
            ("29 Feb 2026 00:00:00 +0000", None),
            ("31 Feb 2026 00:00:00 +0000", None),
            ("31 Apr 2026 00:00:00 +0000", None),
            ("0 Jul 2026 00:00:00 +0000", None),
            ("7 Foo 2026 00:00:00 +0000", None),
            ("7 Jul 2026 24:00:00 +0000", None),
            ("7 Jul 2026 aa:00:00 +0000", Some(day)),
            ("7 Jul 0001 00:00:00 +0000", None),
            ("7 Jul 99999 00:00:00 +0000", None),
            ("yesterday", None),
            ("(((((", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
        for text in ["Tue, 7 Jul 2026 10:10:11 +0000", " 7-Jul-2026 10:10:11 +0000", "07 Jul 2026 10:10:11 -0000\r\n"] {
            assert_eq!(usual(text.as_bytes()), Some(time), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_date_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
        }

        #[test]
        fn the_usual_ways_are_read_as_the_others_are(text in "((Tue|Mar|[(]M[)]|,), )?[0-9]{1,3}( (Jul|feb|Foo) | (Jul|feb)-|-(Jul|feb|Foo)-)[12][09][0-9]{2}[ -][0-2][0-9]:[0-6][0-9]:[0-6][0-9] [+-][0-2][0-9]{3}[ )]?") {
            if let Some(millis) = usual(text.as_bytes()) {
                prop_assert_eq!(of_words(text.as_bytes()), Some(millis));
            }
        }

        #[test]
        fn what_looks_like_a_date_is_within_the_years_of_mail(text in "[0-9]{1,4}[ -][A-Za-z]{3}[ -][0-9]{2,4} [0-9:]{5,8} [+-][0-9]{4}") {
            if let Some(millis) = parse(text.as_bytes()) {
                prop_assert!((-2_208_988_800_000 - 86_400_000..=253_402_300_800_000 + 86_400_000).contains(&millis));
            }
        }
    }
}
