//! Makes what two servers gave comparable: dates, product names, ports, paths and boundaries get names.
//!
//! Called by the runner; calls [`crate::response`]. nginx counterpart: none.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::client::{End, Received};
use crate::origin::Seen;
use crate::response::{self, Framing, Response};
use crate::template::Template;
use crate::text::show;

/// What the client received on all its connections, as text.
#[must_use]
pub fn received(connections: &[Received], template: &Template) -> String {
    let mut out = String::new();
    for (number, connection) in connections.iter().enumerate() {
        if connections.len() > 1 {
            out.push_str(&format!("=== connection {}\n", number + 1));
        }
        one_connection(&mut out, connection);
        let end = match connection.end {
            End::Closed => "closed",
            End::Open => "kept open",
            End::Timeout => "nothing more came",
            End::Dropped => "dropped by the client",
        };
        out.push_str(&format!("<{end}>\n"));
    }
    name_values(&out, template)
}

/// What the origins saw, as text; connections numbered from 1 per origin in the order of use.
#[must_use]
pub fn seen(all: &[Seen], template: &Template) -> String {
    let mut out = String::new();
    let mut numbers: Vec<(&str, usize)> = Vec::new();
    for one in all {
        let key = (one.origin.as_str(), one.connection);
        if !numbers.contains(&key) {
            numbers.push(key);
        }
        let same = numbers.iter().filter(|(origin, _)| *origin == one.origin);
        let number = same.clone().position(|have| *have == key).unwrap_or(0) + 1;
        let reused = if one.reused { ", reused" } else { "" };
        out.push_str(&format!("=== origin {} connection {number}{reused}\n", one.origin));
        let head = String::from_utf8_lossy(&one.head).into_owned();
        out.push_str(&show(head.replace("\r\n", "\n").as_bytes()));
        if !one.body.is_empty() {
            out.push_str(&show(&one.body));
            out.push('\n');
        }
    }
    name_values(&out, template)
}

/// Lines of a log, sorted, with what differs by nature taken out; only errors of an error log are kept.
#[must_use]
pub fn log(text: &str, template: &Template) -> String {
    let mut lines: Vec<String> = text.lines().filter_map(log_line).collect();
    lines.sort();
    name_values(&lines.join("\n"), template)
}

/// Output of `-t`: the diagnostics and the verdict, program name and paths taken out.
#[must_use]
pub fn test_output(text: &str, code: Option<i32>, template: &Template) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let Some((_, message)) = line.split_once(": ") else {
            continue;
        };
        if message.starts_with('[') || message.starts_with("configuration file ") {
            out.push_str(&format!("{message}\n"));
        }
    }
    let code = code.map_or("none".to_owned(), |code| code.to_string());
    name_values(&format!("{out}<exit code {code}>\n"), template)
}

fn one_connection(out: &mut String, connection: &Received) {
    let bytes = &connection.bytes;
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        let head = connection.methods.get(count).is_some_and(|method| method == "HEAD");
        let Some((mut response, used)) = response::parse(&bytes[at..], head, true) else {
            let rest = String::from_utf8_lossy(&bytes[at..]).into_owned();
            out.push_str(&format!("<raw>\n{}\n", show(product_in_footer(&rest).as_bytes())));
            return;
        };
        at += used;
        let status = response.status();
        count += usize::from(status >= 200);
        one_response(out, &mut response, head);
        if status == 101 && at < bytes.len() {
            out.push_str(&format!("<tunnel>\n{}\n", show(&bytes[at..])));
            return;
        }
    }
}

fn one_response(out: &mut String, response: &mut Response, head: bool) {
    let boundary = boundary(response);
    let gzipped = response.header("Content-Encoding") == Some("gzip");
    if gzipped && !response.body.is_empty() {
        let mut plain = Vec::new();
        match GzDecoder::new(&response.body[..]).read_to_end(&mut plain) {
            Ok(_) => {
                response.body = plain;
                // What the name adds to the length is lost in the compression.
                let _ = name_product(response);
            }
            Err(error) => response.body = format!("<not gzip: {error}>").into_bytes(),
        }
    }
    let saved = name_product(response);
    out.push_str(&format!("{}\n", show(response.status_line.as_bytes())));
    for (name, value) in &response.headers {
        let value = header_value(name, value, response, saved, head);
        out.push_str(&format!("{name}: {}\n", show(value.as_bytes())));
    }
    out.push('\n');
    let mut body = show(&response.body);
    if let Some(boundary) = boundary {
        *out = out.replace(&boundary, "<boundary>");
        body = body.replace(&boundary, "<boundary>");
    }
    out.push_str(&body);
    if !body.is_empty() && !body.ends_with('\n') {
        out.push('\n');
    }
    for trailer in &response.trailers {
        out.push_str(&format!("<trailer> {trailer}\n"));
    }
    if response.framing == Framing::Broken {
        out.push_str("<incomplete>\n");
    }
}

fn header_value(name: &str, value: &str, response: &Response, saved: i64, head: bool) -> String {
    match name {
        "Date" => "<date>".to_owned(),
        // A time that was computed: the servers answer in different seconds.
        "Expires" => match (seconds(value), response.header("Date").and_then(seconds)) {
            (Some(time), Some(now)) if (time - now).abs() < 400 * 86_400 => {
                format!("<date {:+} s>", time - now)
            }
            _ => value.to_owned(),
        },
        "Server" => "<server>".to_owned(),
        // The page that a HEAD did not get names the product: its length tells nothing.
        "Content-Length" if head && response.status() >= 300 => "<length>".to_owned(),
        "Content-Length" => match value.parse::<i64>() {
            Ok(length) => (length - saved).to_string(),
            Err(_) => value.to_owned(),
        },
        _ => value.to_owned(),
    }
}

/// The seconds of an HTTP date since 1970 (days by the usual formula for the civil calendar).
fn seconds(date: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<&str> = date.split([' ', ':']).collect();
    let number = |at: usize| words.get(at)?.parse::<i64>().ok();
    let month = i64::try_from(MONTHS.find(words.get(2)?)?).ok()? / 3 + 1;
    let (day, year) = (number(1)?, number(3)? - i64::from(month <= 2));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some(days * 86_400 + number(4)? * 3600 + number(5)? * 60 + number(6)?)
}

/// Replaces the product in the footer of a built-in page; how many bytes shorter the body became.
fn name_product(response: &mut Response) -> i64 {
    let Ok(text) = String::from_utf8(response.body.clone()) else {
        return 0;
    };
    let named = product_in_footer(&text);
    let length = |text: &str| i64::try_from(text.len()).unwrap_or(0);
    let saved = length(&text) - length(&named);
    response.body = named.into_bytes();
    saved
}

fn product_in_footer(text: &str) -> String {
    let marker = "<hr><center>";
    let Some((before, after)) = text.split_once(marker) else {
        return text.to_owned();
    };
    let Some((_, tail)) = after.split_once("</center>") else {
        return text.to_owned();
    };
    format!("{before}{marker}</center>{tail}")
}

fn boundary(response: &Response) -> Option<String> {
    let value = response.header("Content-Type")?;
    Some(value.split_once("boundary=")?.1.to_owned())
}

fn name_values(text: &str, template: &Template) -> String {
    let mut out = text.replace(&template.dir().display().to_string(), "<dir>");
    for (value, name) in template.names() {
        if value.len() >= 5 {
            out = replace_word(&out, value, &format!("<{name}>"));
        }
    }
    out
}

/// Replaces a value where it is not part of a longer number.
fn replace_word(text: &str, value: &str, with: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(value) {
        out.push_str(before);
        let digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_digit());
        let inside = digit(before.bytes().last()) || digit(after.bytes().next());
        out.push_str(if inside { value } else { with });
        rest = after;
    }
    out + rest
}

/// A line of an access log as it is; of an error log the message without time, process and connection.
fn log_line(line: &str) -> Option<String> {
    let is_error_log = line.as_bytes().get(4) == Some(&b'/') && line.as_bytes().get(19) == Some(&b' ');
    if !is_error_log {
        return Some(line.to_owned());
    }
    let (level, rest) = line.get(20..)?.split_once(' ')?;
    // Of warnings, which are not the same everywhere, those about back ends are.
    let is_peer_warning = level == "[warn]" && rest.contains("upstream server temporarily disabled");
    if !is_peer_warning && !["[error]", "[crit]", "[alert]", "[emerg]"].contains(&level) {
        return None;
    }
    let (_, mut message) = rest.split_once(": ")?;
    if let Some(after) = message.strip_prefix('*') {
        message = after.split_once(' ')?.1;
    }
    Some(format!("{level} {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn seconds_of_dates_are_those_of_the_calendar() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:01 GMT"), Some(1));
        assert_eq!(seconds("Mon, 01 Jan 2024 00:00:00 GMT"), Some(1_704_067_200));
        assert_eq!(seconds("Thu, 29 Feb 2024 12:30:05 GMT"), Some(1_709_209_805));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn replaced_values_are_no_parts_of_numbers() {
        assert_eq!(replace_word("12851 128512 :12851/ 012851", "12851", "<p>"), "<p> 128512 :<p>/ 012851");
    }

    #[test]
    fn log_of_errors_drops_time_and_numbers() {
        let text =
            "2026/11/22 22:02:09 [error] 12#12: *4 no /x/html\n2026/11/22 22:02:09 [notice] 12#12: hi\n";
        assert_eq!(log(text, &Template::new(Path::new("/x"))), "[error] no <dir>/html");
    }

    #[test]
    fn footer_of_error_page_names_no_product() {
        let bytes = b"HTTP/1.1 404 N\r\nContent-Length: 32\r\n\r\n<hr><center>nginx/1.2.3</center>".to_vec();
        let one = Received { bytes, methods: vec!["GET".into()], end: End::Closed };
        let text = received(&[one], &Template::new(Path::new("/x")));
        assert!(text.contains("Content-Length: 21"), "{text}");
    }
}
