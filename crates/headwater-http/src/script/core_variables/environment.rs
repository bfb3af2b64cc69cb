//! Variables of the time and the process. nginx's counterpart: the last part of `ngx_http_variables.c`.

use std::io::Write as _;
use std::sync::OnceLock;

use headwater_io::clock;

use crate::request::Request;

/// Appends the time in seconds since the epoch with milliseconds: `$msec`.
pub fn write_msec(out: &mut Vec<u8>) {
    super::connection::seconds(super::connection::millis(clock::unix_now()), out);
}

/// Appends the time in the ISO 8601 format with milliseconds: `$time_iso8601_ms`.
pub fn write_iso8601_ms(out: &mut Vec<u8>) {
    let exact = clock::unix_now();
    // The strings follow the coarse clock, which may still be in the second before.
    let late = i64::try_from(exact.as_secs()).is_ok_and(|second| second > clock::unix_seconds());
    let ms = if late { 999 } else { exact.subsec_millis() };
    clock::with_iso8601(|time| {
        let (local, zone) = time.split_at(19);
        out.extend_from_slice(local);
        // Writing to a vector cannot fail.
        let _ = write!(out, ".{ms:03}");
        out.extend_from_slice(zone);
    });
}

pub(super) fn time_local(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    clock::with_time_local(|time| out.extend_from_slice(time));
    true
}

pub(super) fn time_iso8601(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    clock::with_iso8601(|time| out.extend_from_slice(time));
    true
}

pub(super) fn time_iso8601_ms(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    write_iso8601_ms(out);
    true
}

pub(super) fn msec(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    write_msec(out);
    true
}

pub(super) fn hostname(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    static HOSTNAME: OnceLock<String> = OnceLock::new();
    // nginx reads it once too, and shows it in lower case.
    let name = HOSTNAME.get_or_init(|| headwater_io::process::hostname().to_ascii_lowercase());
    out.extend_from_slice(name.as_bytes());
    true
}

pub(super) fn pid(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = write!(out, "{}", headwater_io::process::pid());
    true
}

pub(super) fn nginx_version(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(super::NGINX_VERSION.as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso8601_with_milliseconds_has_its_shape() {
        let mut out = Vec::new();
        write_iso8601_ms(&mut out);
        let shape: Vec<u8> =
            out.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte }).collect();
        let shape = String::from_utf8_lossy(&shape).replace('-', "+");
        assert_eq!(shape, "0000+00+00T00:00:00.000+00:00");
    }

    #[test]
    fn msec_has_three_decimals() {
        let mut out = Vec::new();
        write_msec(&mut out);
        assert_eq!(out.iter().rev().position(|byte| *byte == b'.'), Some(3));
    }
}
