//! `expires`: its forms, and the `Expires` and `Cache-Control` fields made from them.
//!
//! nginx's counterpart: `ngx_http_set_expires`, `ngx_http_parse_expires`, `ngx_next_time`.

use chrono::{Days, Local, NaiveTime, TimeZone as _};
use headwater_conf::value::parse_seconds;
use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_io::clock;

use crate::request::Request;
use crate::script::Complex;

/// The value of `expires`.
#[derive(Debug, Clone)]
pub(super) enum Expires {
    /// Known at load.
    Fixed(Rule),
    /// With variables; relative to the time of last modification or not.
    Computed(Complex, Relative),
}

/// One way of setting the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Off,
    Epoch,
    Max,
    /// Seconds from now or from the last modification.
    Offset(i64, Relative),
    /// At this second of the day, local time.
    Daily(i64),
}

/// What an offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relative {
    /// The time of the request.
    Access,
    /// The time of the last modification, where it is known.
    Modified,
}

const DAY: i64 = 24 * 60 * 60;

impl Rule {
    /// Reads a value; the error is nginx's text.
    fn parse(text: &[u8], relative: Relative) -> std::result::Result<Self, &'static str> {
        if relative == Relative::Access {
            match text {
                b"epoch" => return Ok(Self::Epoch),
                b"max" => return Ok(Self::Max),
                b"off" => return Ok(Self::Off),
                _ => {}
            }
        }
        let (sign, digits) = match text {
            [sign @ (b'@' | b'+' | b'-'), rest @ ..] => (*sign, rest),
            _ => (b'+', text),
        };
        if sign == b'@' && relative == Relative::Modified {
            return Err("daily time cannot be used with \"modified\" parameter");
        }
        let seconds = parse_seconds(digits)
            .and_then(|time| i64::try_from(time.as_secs()).ok())
            .ok_or("invalid value")?;
        match sign {
            b'@' if seconds > DAY => Err("daily time value must be less than 24 hours"),
            b'@' => Ok(Self::Daily(seconds)),
            b'-' => Ok(Self::Offset(seconds.saturating_neg(), relative)),
            _ => Ok(Self::Offset(seconds, relative)),
        }
    }

    /// The two fields' values; `None` for none. `now` and `modified` are Unix seconds.
    fn fields(self, now: i64, modified: Option<i64>) -> Option<([u8; 29], Vec<u8>)> {
        let (time, age) = match self {
            Self::Off => return None,
            Self::Epoch => return Some((*b"Thu, 01 Jan 1970 00:00:01 GMT", b"no-cache".to_vec())),
            Self::Max => return Some((*b"Thu, 31 Dec 2037 23:55:55 GMT", b"max-age=315360000".to_vec())),
            // Nothing to add means now, whatever it counts from.
            Self::Offset(0, _) => (now, 0),
            Self::Offset(seconds, relative) => match modified.filter(|_| relative == Relative::Modified) {
                Some(modified) => {
                    let time = modified.saturating_add(seconds);
                    (time, if seconds < 0 { -1 } else { time.saturating_sub(now) })
                }
                None => (now.saturating_add(seconds), seconds),
            },
            Self::Daily(second) => {
                let time = next_time(now, second);
                (time, time.saturating_sub(now))
            }
        };
        let control = if age < 0 { b"no-cache".to_vec() } else { format!("max-age={age}").into_bytes() };
        Some((clock::http_date(time), control))
    }
}

/// The next time when the local day has this second.
fn next_time(now: i64, second: i64) -> i64 {
    let fallback = now.saturating_add(second);
    let Some(today) = Local.timestamp_opt(now, 0).earliest().map(|time| time.date_naive()) else {
        return fallback;
    };
    // 24:00 is the next day's midnight.
    let days = u64::from(second >= DAY);
    let within = u32::try_from(second.rem_euclid(DAY)).unwrap_or(0);
    let time = NaiveTime::from_num_seconds_from_midnight_opt(within, 0).unwrap_or_default();
    let at = |days: u64| {
        let date = today.checked_add_days(Days::new(days))?;
        Local.from_local_datetime(&date.and_time(time)).earliest().map(|time| time.timestamp())
    };
    let first = at(days).filter(|time| *time > now);
    first.or_else(|| at(days.saturating_add(1))).unwrap_or(fallback)
}

impl Expires {
    /// Whether nothing is set.
    pub(super) fn is_off(&self) -> bool {
        matches!(self, Self::Fixed(Rule::Off))
    }

    /// Sets the fields of the response head.
    pub(super) fn apply(&self, r: &Request) {
        let rule = match self {
            Self::Fixed(rule) => *rule,
            Self::Computed(value, relative) => match Rule::parse(&value.value(r), *relative) {
                Ok(rule) => rule,
                Err(_) => return,
            },
        };
        let mut out = r.headers_out.borrow_mut();
        if let Some((expires, control)) = rule.fields(clock::unix_seconds(), out.last_modified) {
            out.list.set(b"Expires", &expires);
            out.list.set(b"Cache-Control", &control);
        }
    }
}

impl Value for Expires {
    const ARGS: Args = Args::range(1, 2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let (relative, index) = match directive.args.len() {
            1 => (Relative::Access, 0),
            _ if directive.arg(0) == b"modified" => (Relative::Modified, 1),
            _ => return Err(directive.complain("invalid value")),
        };
        let value = Complex::compile(cx, directive, index)?;
        let Some(text) = value.as_text() else { return Ok(Self::Computed(value, relative)) };
        Rule::parse(text, relative).map(Self::Fixed).map_err(|message| directive.complain(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str, relative: Relative, modified: Option<i64>) -> Option<(String, String)> {
        let rule = Rule::parse(text.as_bytes(), relative).expect("a rule");
        let (expires, control) = rule.fields(784_111_777, modified)?;
        Some((String::from_utf8_lossy(&expires).into_owned(), String::from_utf8_lossy(&control).into_owned()))
    }

    fn pair(expires: &str, control: &str) -> Option<(String, String)> {
        Some((expires.into(), control.into()))
    }

    #[test]
    fn access_forms_give_nginx_fields() {
        let get = |text: &str| fields(text, Relative::Access, Some(5));
        assert_eq!(get("off"), None);
        assert_eq!(get("epoch"), pair("Thu, 01 Jan 1970 00:00:01 GMT", "no-cache"));
        assert_eq!(get("max"), pair("Thu, 31 Dec 2037 23:55:55 GMT", "max-age=315360000"));
        assert_eq!(get("0"), pair("Sun, 06 Nov 1994 08:49:37 GMT", "max-age=0"));
        assert_eq!(get("1h"), pair("Sun, 06 Nov 1994 09:49:37 GMT", "max-age=3600"));
        assert_eq!(get("+1h"), get("1h"));
        assert_eq!(get("-1"), pair("Sun, 06 Nov 1994 08:49:36 GMT", "no-cache"));
    }

    #[test]
    fn modified_form_counts_from_the_modification() {
        let get = |text: &str, modified| fields(text, Relative::Modified, modified);
        assert_eq!(
            get("2h", Some(784_111_777 - 3600)),
            pair("Sun, 06 Nov 1994 09:49:37 GMT", "max-age=3600")
        );
        assert_eq!(get("1h", Some(784_111_777 - 7200)), pair("Sun, 06 Nov 1994 07:49:37 GMT", "no-cache"));
        assert_eq!(get("1h", None), pair("Sun, 06 Nov 1994 09:49:37 GMT", "max-age=3600"));
    }

    #[test]
    fn bad_values_are_nginx_errors() {
        assert_eq!(Rule::parse(b"x", Relative::Access), Err("invalid value"));
        assert_eq!(Rule::parse(b"", Relative::Access), Err("invalid value"));
        assert_eq!(Rule::parse(b"max", Relative::Modified), Err("invalid value"));
        assert_eq!(
            Rule::parse(b"@1h", Relative::Modified),
            Err("daily time cannot be used with \"modified\" parameter")
        );
        assert_eq!(
            Rule::parse(b"@25h", Relative::Access),
            Err("daily time value must be less than 24 hours")
        );
        assert_eq!(Rule::parse(b"@15h30m", Relative::Access), Ok(Rule::Daily(55_800)));
    }

    #[test]
    fn daily_time_is_within_a_day_and_a_bit() {
        let now = 784_111_777;
        for hour in 0..=24 {
            let next = next_time(now, hour * 3600);
            // A change of the clock may make a day 25 hours long.
            assert!(next > now && next <= now + DAY + 3600, "{hour}: {next}");
        }
    }
}
