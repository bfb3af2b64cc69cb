//! HTTP dates: reading the three formats of RFC 9110 §5.6.7, writing IMF-fixdate and the cookie form.
//!
//! Called for `If-Modified-Since`, `Expires`, `Last-Modified`, `Date`, `expires`, `userid`. Times are seconds since
//! 1970-01-01 UTC without leap seconds. nginx counterparts: `ngx_parse_http_time`, `ngx_http_time`,
//! `ngx_http_cookie_time`.

const DAY: i64 = 86400;
const WEEK: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
const LENGTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Years beyond this (and before 0) are clamped when written: four digits are all there is room for.
const LAST_SECOND: i64 = 253_402_300_799;
/// The first second of year 0.
const FIRST_SECOND: i64 = -62_167_219_200;

/// Reads a date in the form of RFC 1123, RFC 850 or `asctime`. As lenient as nginx: the name of the day is not looked
/// at, of the month only what tells it apart, of the zone nothing.
#[must_use]
pub fn parse(value: &[u8]) -> Option<i64> {
    let mark = value.iter().position(|&byte| byte == b',' || byte == b' ')?;
    let asctime = value.get(mark) == Some(&b' ');
    let mut cursor = Cursor(value.get(mark + 1..)?);
    cursor.skip_spaces();
    if cursor.0.len() < 18 {
        return None;
    }
    if asctime { cursor.asctime() } else { cursor.comma_form() }
}

/// A date and time of day as read.
struct Fields {
    year: i64,
    month: usize,
    day: i64,
    seconds: i64,
}

impl Fields {
    fn to_unix(&self) -> Option<i64> {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let last = LENGTHS.get(self.month)? + i64::from(leap && self.month == 1);
        if self.day > last {
            return None;
        }
        Some(days_from_civil(self.year, self.month, self.day) * DAY + self.seconds)
    }
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    /// `06 Nov 1994 08:49:37` or `06-Nov-94 08:49:37`
    fn comma_form(&mut self) -> Option<i64> {
        let day = self.number(2)?;
        let separator = self.byte()?;
        if separator != b' ' && separator != b'-' {
            return None;
        }
        let month = self.month()?;
        self.expect(separator)?;
        let year = if separator == b' ' {
            self.number(4)?
        } else {
            let year = self.number(2)?;
            year + if year < 70 { 2000 } else { 1900 }
        };
        self.expect(b' ')?;
        let seconds = self.time()?;
        Fields { year, month, day, seconds }.to_unix()
    }

    /// `Nov  6 08:49:37 1994`
    fn asctime(&mut self) -> Option<i64> {
        let month = self.month()?;
        self.byte()?;
        if self.0.first() == Some(&b' ') {
            self.byte()?;
        }
        let mut day = self.number(1)?;
        if self.0.first() != Some(&b' ') {
            day = day * 10 + self.number(1)?;
        }
        self.expect(b' ')?;
        let seconds = self.time()?;
        self.expect(b' ')?;
        let year = self.number(4)?;
        Fields { year, month, day, seconds }.to_unix()
    }

    /// `08:49:37`, in seconds
    fn time(&mut self) -> Option<i64> {
        let hour = self.number(2)?;
        self.expect(b':')?;
        let minute = self.number(2)?;
        self.expect(b':')?;
        let second = self.number(2)?;
        (hour <= 23 && minute <= 59 && second <= 59).then_some(hour * 3600 + minute * 60 + second)
    }

    /// The index of a month, 0 for January.
    fn month(&mut self) -> Option<usize> {
        let month = match [self.byte()?, self.byte()?, self.byte()?] {
            [b'J', b'a', _] => 0,
            [b'J', _, b'n'] => 5,
            [b'J', ..] => 6,
            [b'F', ..] => 1,
            [b'M', _, b'r'] => 2,
            [b'M', ..] => 4,
            [b'A', b'p', _] => 3,
            [b'A', ..] => 7,
            [b'S', ..] => 8,
            [b'O', ..] => 9,
            [b'N', ..] => 10,
            [b'D', ..] => 11,
            _ => return None,
        };
        Some(month)
    }

    fn number(&mut self, digits: usize) -> Option<i64> {
        (0..digits).try_fold(0, |number, _| {
            let byte = self.byte()?;
            byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
        })
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.byte()? == byte).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn skip_spaces(&mut self) {
        while let [b' ', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; `month` counts from 0. Years are counted from 1 March, so
/// that the leap day is the last of its year.
fn days_from_civil(year: i64, month: usize, day: i64) -> i64 {
    let month = month as i64;
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 153 days in any five months from March on
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// A time taken apart for writing.
struct Civil {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    seconds: i64,
}

fn civil(unix: i64) -> Civil {
    let unix = unix.clamp(FIRST_SECOND, LAST_SECOND);
    let days = unix.div_euclid(DAY);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (0, month + 2) } else { (1, month - 10) };
    Civil {
        year: year + year_of_era + era * 400,
        month: month as usize,
        day,
        weekday: days.rem_euclid(7) as usize,
        seconds: unix.rem_euclid(DAY),
    }
}

/// Writes IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`. Times outside the years 0 to 9999 are clamped.
#[must_use]
pub fn format(unix: i64) -> [u8; 29] {
    let time = civil(unix);
    let mut text = *b"---, -- --- ---- --:--:-- GMT";
    put(&mut text, 0, name(&WEEK, time.weekday));
    put(&mut text, 5, &two(time.day));
    put(&mut text, 8, name(&MONTHS, time.month));
    put(&mut text, 12, &two(time.year / 100));
    put(&mut text, 14, &two(time.year % 100));
    put(&mut text, 17, &clock(time.seconds));
    text
}

/// Appends a date as cookies had it first: `Sun, 06-Nov-94 08:49:37 GMT`, the year in four digits after 2037.
pub fn format_cookie(unix: i64, out: &mut Vec<u8>) {
    let time = civil(unix);
    out.extend_from_slice(name(&WEEK, time.weekday));
    out.extend_from_slice(b", ");
    out.extend_from_slice(&two(time.day));
    out.push(b'-');
    out.extend_from_slice(name(&MONTHS, time.month));
    out.push(b'-');
    if time.year > 2037 {
        out.extend_from_slice(&two(time.year / 100));
    }
    out.extend_from_slice(&two(time.year % 100));
    out.push(b' ');
    out.extend_from_slice(&clock(time.seconds));
    out.extend_from_slice(b" GMT");
}

fn clock(seconds: i64) -> [u8; 8] {
    let mut text = *b"--:--:--";
    put(&mut text, 0, &two(seconds / 3600));
    put(&mut text, 3, &two(seconds / 60 % 60));
    put(&mut text, 6, &two(seconds % 60));
    text
}

/// The last two decimal digits of a number that is not negative.
fn two(number: i64) -> [u8; 2] {
    let digit = |number: i64| b'0' + u8::try_from(number.rem_euclid(10)).unwrap_or(0);
    [digit(number / 10), digit(number)]
}

fn name(names: &'static [&'static [u8; 3]], index: usize) -> &'static [u8] {
    names.get(index).map_or(b"???", |name| name.as_slice())
}

fn put(text: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in text.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_three_formats_gives_one_time() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "x,06 Nov 1994 08:49:37",
            "Sun Nov 6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
        assert_eq!(parse(b"Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(parse(b"Thursday, 01-Jan-70 00:00:00 GMT"), Some(0));
    }

    #[test]
    fn parse_bad_dates_fails() {
        for text in [
            "",
            "0",
            "Sun",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Wed, 29 Feb 2023 00:00:00 GMT",
            "Thu, 29 Feb 1900 00:00:00 GMT",
            "Sun, 06 Xxx 1994 08:49:37 GMT",
            "Sun, 06/Nov/1994 08:49:37 GMT",
            "Sun, 06 Nov-1994 08:49:37 GMT",
            "Sun Nov  6 08:49:37 94",
            "Sun, aa Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn format_known_times() {
        assert_eq!(&format(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&format(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&format(i64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(&format(i64::MIN), b"Sat, 01 Jan 0000 00:00:00 GMT");
        let mut out = Vec::new();
        format_cookie(784_111_777, &mut out);
        assert_eq!(out, b"Sun, 06-Nov-94 08:49:37 GMT");
        out.clear();
        format_cookie(2_147_483_647 + 86400 * 365, &mut out);
        assert_eq!(out, b"Wed, 19-Jan-2039 03:14:07 GMT");
    }

    proptest! {
        #[test]
        fn format_then_parse_gives_same_time(unix in FIRST_SECOND..=LAST_SECOND) {
            prop_assert_eq!(parse(&format(unix)), Some(unix));
        }

        #[test]
        fn parse_any_bytes_does_not_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&text);
        }
    }
}
