//! The time, and the strings made from it, kept per worker and remade once a second.
//!
//! Called for every response (`Date`), log line and timer. The strings use the coarse clock, which costs a few
//! nanoseconds and is at most one kernel tick late. nginx counterpart: `ngx_times.c`.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::sys::{self, Broken};

/// How often the time of a turn is given out before it is read again: a turn may be long when there is much to do.
const USES_PER_READING: u32 = 64;

/// The time as a thread with turns read it last.
#[derive(Clone, Copy)]
struct Turn {
    /// The same moment by both clocks, to turn one into the other.
    base: Option<(Instant, u64)>,
    monotonic_ns: u64,
    unix_seconds: i64,
    uses: u32,
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn { base: None, monotonic_ns: 0, unix_seconds: 0, uses: 0 }) };
}

/// Reads the time for a turn of this thread's event loop. From the first call on, the clock functions give the turn's time, as
/// nginx's cached time; a thread that never calls this always reads the clock.
pub fn start_turn() {
    // At the end of a thread there are no turns any more.
    let _ = TURN.try_with(|cell| cell.set(read_turn(cell.get().base)));
}

fn read_turn(base: Option<(Instant, u64)>) -> Turn {
    let base = base.unwrap_or_else(|| (Instant::now(), read_ns()));
    let unix_seconds = clock_gettime(ClockId::RealtimeCoarse).tv_sec;
    Turn { base: Some(base), monotonic_ns: read_ns(), unix_seconds, uses: 0 }
}

/// The present turn, `None` on a thread without turns.
fn turn() -> Option<(Turn, Instant, u64)> {
    TURN.try_with(|cell| {
        let mut turn = cell.get();
        let (instant, ns) = turn.base?;
        turn.uses = turn.uses.saturating_add(1);
        if turn.uses > USES_PER_READING {
            turn = read_turn(turn.base);
        }
        cell.set(turn);
        Some((turn, instant, ns))
    })
    .ok()
    .flatten()
}

fn read_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The monotonic time as the standard library knows it.
#[must_use]
pub fn now() -> Instant {
    match turn() {
        Some((turn, instant, ns)) => instant + Duration::from_nanos(turn.monotonic_ns.saturating_sub(ns)),
        None => Instant::now(),
    }
}

/// Milliseconds of the monotonic clock, rounded down. The origin is the start of the machine.
#[must_use]
pub fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// Nanoseconds of the monotonic clock.
#[must_use]
pub fn now_ns() -> u64 {
    turn().map_or_else(read_ns, |(turn, _, _)| turn.monotonic_ns)
}

/// Time since the Unix epoch, exact.
#[must_use]
pub fn unix_now() -> Duration {
    since_epoch(ClockId::Realtime)
}

/// Whole seconds since the Unix epoch, by the coarse clock.
#[must_use]
pub fn unix_seconds() -> i64 {
    turn().map_or_else(|| clock_gettime(ClockId::RealtimeCoarse).tv_sec, |(turn, _, _)| turn.unix_seconds)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` of now, for `Date` and the like (RFC 9110, section 5.6.7).
pub fn with_http_date<R>(f: impl FnOnce(&[u8; 29]) -> R) -> R {
    with_strings(|strings| f(&strings.http_date))
}

/// `22/Nov/2026:21:50:00 +0000` of now, in the local zone: `$time_local`.
pub fn with_time_local<R>(f: impl FnOnce(&[u8; 26]) -> R) -> R {
    with_strings(|strings| f(&strings.time_local))
}

/// `2026-11-22T21:50:00+00:00` of now, in the local zone: `$time_iso8601`.
pub fn with_iso8601<R>(f: impl FnOnce(&[u8; 25]) -> R) -> R {
    with_strings(|strings| f(&strings.iso8601))
}

/// `2026/11/22 21:50:00` of now, in the local zone: the head of an error log line.
pub fn with_error_log_time<R>(f: impl FnOnce(&[u8; 19]) -> R) -> R {
    with_strings(|strings| f(&strings.error_log))
}

/// `Nov 22 21:50:00` of now, in the local zone: syslog (RFC 3164, section 4.1.2).
pub fn with_syslog_time<R>(f: impl FnOnce(&[u8; 15]) -> R) -> R {
    with_strings(|strings| f(&strings.syslog))
}

/// The `Date` form of any Unix time.
#[must_use]
pub fn http_date(unix: i64) -> [u8; 29] {
    let time = broken_utc(unix);
    let mut text = *b"Sun, 06 Nov 1994 08:49:37 GMT";
    text[..3].copy_from_slice(pick(WEEKDAYS, time.weekday));
    two(&mut text[5..7], time.day);
    text[8..11].copy_from_slice(pick(MONTHS, time.month.wrapping_sub(1)));
    four(&mut text[12..16], time.year);
    clock_time(&mut text[17..25], &time);
    text
}

/// All strings of one second.
#[derive(Clone, Copy)]
struct Strings {
    second: i64,
    http_date: [u8; 29],
    time_local: [u8; 26],
    iso8601: [u8; 25],
    error_log: [u8; 19],
    syslog: [u8; 15],
}

thread_local! {
    static STRINGS: Cell<Strings> = const { Cell::new(Strings::NONE) };
}

const WEEKDAYS: &[u8; 21] = b"SunMonTueWedThuFriSat";
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// Calls `f` with the strings of the present second, remaking them when it has changed.
fn with_strings<R>(f: impl FnOnce(&Strings) -> R) -> R {
    let second = unix_seconds();
    // The strings are copied out, so that `f` may ask for other ones; at the end of a thread they are made anew.
    let strings = STRINGS.try_with(|cell| {
        let mut strings = cell.get();
        if strings.second != second {
            strings = Strings::new(second);
            cell.set(strings);
        }
        strings
    });
    f(&strings.unwrap_or_else(|_| Strings::new(second)))
}

impl Strings {
    /// The strings of no second.
    const NONE: Strings = Strings {
        second: i64::MIN,
        http_date: [0; 29],
        time_local: [0; 26],
        iso8601: [0; 25],
        error_log: [0; 19],
        syslog: [0; 15],
    };

    fn new(second: i64) -> Strings {
        let local = sys::local_time(second).unwrap_or_else(|| broken_utc(second));
        Strings {
            second,
            http_date: http_date(second),
            time_local: time_local(&local),
            iso8601: iso8601(&local),
            error_log: error_log(&local),
            syslog: syslog(&local),
        }
    }
}

fn time_local(time: &Broken) -> [u8; 26] {
    let mut text = *b"22/Nov/2026:21:50:00 +0000";
    two(&mut text[..2], time.day);
    text[3..6].copy_from_slice(pick(MONTHS, time.month.wrapping_sub(1)));
    four(&mut text[7..11], time.year);
    clock_time(&mut text[12..20], time);
    let (sign, hours, minutes) = offset(time);
    text[21] = sign;
    two(&mut text[22..24], hours);
    two(&mut text[24..26], minutes);
    text
}

fn iso8601(time: &Broken) -> [u8; 25] {
    let mut text = *b"2026-11-22T21:50:00+00:00";
    four(&mut text[..4], time.year);
    two(&mut text[5..7], time.month);
    two(&mut text[8..10], time.day);
    clock_time(&mut text[11..19], time);
    let (sign, hours, minutes) = offset(time);
    text[19] = sign;
    two(&mut text[20..22], hours);
    two(&mut text[23..25], minutes);
    text
}

fn error_log(time: &Broken) -> [u8; 19] {
    let mut text = *b"2026/11/22 21:50:00";
    four(&mut text[..4], time.year);
    two(&mut text[5..7], time.month);
    two(&mut text[8..10], time.day);
    clock_time(&mut text[11..19], time);
    text
}

fn syslog(time: &Broken) -> [u8; 15] {
    let mut text = *b"Nov 22 21:50:00";
    text[..3].copy_from_slice(pick(MONTHS, time.month.wrapping_sub(1)));
    two(&mut text[4..6], time.day);
    if text[4] == b'0' {
        text[4] = b' ';
    }
    clock_time(&mut text[7..15], time);
    text
}

/// Sign, hours and minutes of the distance from UTC.
fn offset(time: &Broken) -> (u8, u8, u8) {
    let sign = if time.offset_minutes < 0 { b'-' } else { b'+' };
    let minutes = time.offset_minutes.unsigned_abs();
    (sign, (minutes / 60) as u8, (minutes % 60) as u8)
}

/// Breaks a Unix time down in UTC (proleptic Gregorian calendar, counted in 400-year eras that start in March).
fn broken_utc(unix: i64) -> Broken {
    let days = unix.div_euclid(86_400);
    let seconds = unix.rem_euclid(86_400);
    let from_era = days + 719_468;
    let era = from_era.div_euclid(146_097);
    let day_of_era = from_era.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    Broken {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u8,
        day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
        hour: (seconds / 3600) as u8,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
        weekday: (days + 4).rem_euclid(7) as u8,
        offset_minutes: 0,
    }
}

/// Three letters of a table, the first when the index is out of range.
fn pick<const N: usize>(table: &[u8; N], index: u8) -> &[u8] {
    let start = usize::from(index) * 3;
    table.get(start..start + 3).unwrap_or(&table[..3])
}

/// Writes `HH:MM:SS` into eight bytes.
fn clock_time(out: &mut [u8], time: &Broken) {
    two(&mut out[..2], time.hour);
    out[2] = b':';
    two(&mut out[3..5], time.minute);
    out[5] = b':';
    two(&mut out[6..8], time.second);
}

fn two(out: &mut [u8], value: u8) {
    out[0] = b'0' + value / 10 % 10;
    out[1] = b'0' + value % 10;
}

fn four(out: &mut [u8], value: i64) {
    let value = value.clamp(0, 9999);
    two(&mut out[..2], (value / 100) as u8);
    two(&mut out[2..4], (value % 100) as u8);
}

fn since_epoch(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_date_known_times_match() {
        assert_eq!(&http_date(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&http_date(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&http_date(951_827_696), b"Tue, 29 Feb 2000 12:34:56 GMT");
        assert_eq!(&http_date(4_107_542_399), b"Sun, 28 Feb 2100 23:59:59 GMT");
    }

    #[test]
    fn local_forms_known_time_match() {
        let mut time = broken_utc(1_795_384_200);
        assert_eq!(&time_local(&time), b"22/Nov/2026:21:50:00 +0000");
        assert_eq!(&iso8601(&time), b"2026-11-22T21:50:00+00:00");
        assert_eq!(&error_log(&time), b"2026/11/22 21:50:00");
        assert_eq!(&syslog(&time), b"Nov 22 21:50:00");
        time.offset_minutes = -210;
        time.day = 3;
        assert_eq!(&time_local(&time), b"03/Nov/2026:21:50:00 -0330");
        assert_eq!(&iso8601(&time), b"2026-11-03T21:50:00-03:30");
        assert_eq!(&syslog(&time), b"Nov  3 21:50:00");
    }

    #[test]
    fn with_http_date_nested_works() {
        let (outer, inner) = with_http_date(|outer| (*outer, with_iso8601(|inner| inner.len())));
        assert_eq!((&outer[25..], inner), (&b" GMT"[..], 25));
    }

    #[test]
    fn local_time_agrees_with_utc_up_to_its_offset() {
        let local = sys::local_time(1_795_384_200).unwrap();
        let shifted = broken_utc(1_795_384_200 + i64::from(local.offset_minutes) * 60);
        assert_eq!(Broken { offset_minutes: 0, ..local }, shifted);
    }
}
