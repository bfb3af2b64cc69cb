//! Listings as HTML, JSON and XML, byte for byte as nginx writes them.
//!
//! Called by the autoindex handler with entries in their order. nginx's counterpart: `ngx_http_autoindex_html`, `_json`, `_xml`.

use std::io::Write as _;

use chrono::{DateTime, Datelike as _, Timelike as _, Utc};
use headwater_wire::escape::{Escape, escape_html, escape_json, escape_uri};

use super::{Entry, Kind};

/// The width of the names' column in characters.
const NAME_WIDTH: usize = 50;
/// How much of a longer name is shown.
const NAME_SHOWN: usize = 47;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What an HTML listing depends on besides the entries.
pub(super) struct Page<'a> {
    /// The request's path.
    pub(super) uri: &'a [u8],
    /// Whether names are counted in characters rather than bytes.
    pub(super) utf8: bool,
    /// Whether sizes are exact.
    pub(super) exact_size: bool,
    /// Seconds to add to times.
    pub(super) offset: i64,
}

fn time(unix: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(unix, 0).unwrap_or_default()
}

/// Appends formatted text. Writing to a vector cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{ let _ = write!($out, $($arg)*); }};
}

/// An HTML listing.
pub(super) fn html(page: &Page<'_>, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len().saturating_mul(150).saturating_add(512));
    out.extend_from_slice(b"<html>\r\n<head><title>Index of ");
    escape_html(page.uri, &mut out);
    out.extend_from_slice(b"</title></head>\r\n<body>\r\n<h1>Index of ");
    escape_html(page.uri, &mut out);
    out.extend_from_slice(b"</h1><hr><pre><a href=\"../\">../</a>\r\n");
    for entry in entries {
        out.extend_from_slice(b"<a href=\"");
        escape_uri(&entry.name, Escape::UriComponent, &mut out);
        if entry.kind == Kind::Directory {
            out.push(b'/');
        }
        out.extend_from_slice(b"\">");
        name_column(page, entry, &mut out);
        let at = time(entry.mtime.saturating_add(page.offset));
        let month = MONTHS.get(at.month0() as usize).copied().unwrap_or_default();
        put!(out, " {:02}-{month}-{} {:02}:{:02} ", at.day(), at.year(), at.hour(), at.minute());
        size_column(page.exact_size, entry, &mut out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"</pre><hr></body>\r\n</html>\r\n");
    out
}

/// The name, the end of the link and the spaces behind it.
fn name_column(page: &Page<'_>, entry: &Entry, out: &mut Vec<u8>) {
    let text = if page.utf8 { std::str::from_utf8(&entry.name).ok() } else { None };
    let length = text.map_or(entry.name.len(), |text| text.chars().count());
    if length > NAME_WIDTH {
        let end = match text {
            Some(text) => text.char_indices().nth(NAME_SHOWN).map_or(text.len(), |(at, _)| at),
            None => NAME_SHOWN,
        };
        escape_html(entry.name.get(..end).unwrap_or_default(), out);
        out.extend_from_slice(b"..&gt;</a>");
        return;
    }
    escape_html(&entry.name, out);
    let mut length = length;
    if entry.kind == Kind::Directory && length < NAME_WIDTH {
        out.push(b'/');
        length = length.saturating_add(1);
    }
    out.extend_from_slice(b"</a>");
    out.resize(out.len().saturating_add(NAME_WIDTH.saturating_sub(length)), b' ');
}

fn size_column(exact: bool, entry: &Entry, out: &mut Vec<u8>) {
    match (entry.kind, exact) {
        (Kind::Directory, true) => put!(out, "{:>19}", "-"),
        (Kind::Directory, false) => put!(out, "{:>7}", "-"),
        (_, true) => put!(out, "{:>19}", entry.size),
        (_, false) => rounded(entry.size, out),
    }
}

fn rounded(size: u64, out: &mut Vec<u8>) {
    const K: u64 = 1 << 10;
    let (unit, letter) = match size {
        0..=9999 => return put!(out, " {size:>6}"),
        10_000..0x10_0000 => (K, 'K'),
        0x10_0000..0x4000_0000 => (K * K, 'M'),
        _ => (K * K * K, 'G'),
    };
    let value = (size / unit).saturating_add(u64::from(size % unit >= unit / 2));
    put!(out, "{value:>6}{letter}");
}

/// A JSON listing, in a call of `callback` when there is one.
pub(super) fn json(entries: &[Entry], callback: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len().saturating_mul(110).saturating_add(64));
    if let Some(callback) = callback {
        out.extend_from_slice(b"/* callback */\r\n");
        out.extend_from_slice(callback);
        out.push(b'(');
    }
    out.push(b'[');
    for (index, entry) in entries.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"" } else { b"," });
        out.extend_from_slice(b"\r\n{ \"name\":\"");
        escape_json(&entry.name, &mut out);
        put!(out, "\", \"type\":\"{}\", \"mtime\":\"", kind(entry));
        out.extend_from_slice(&headwater_wire::date::format(entry.mtime));
        out.push(b'"');
        if entry.kind == Kind::File {
            put!(out, ", \"size\":{}", entry.size);
        }
        out.extend_from_slice(b" }");
    }
    out.extend_from_slice(b"\r\n]");
    if callback.is_some() {
        out.extend_from_slice(b");");
    }
    out
}

/// An XML listing.
pub(super) fn xml(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len().saturating_mul(100).saturating_add(64));
    out.extend_from_slice(b"<?xml version=\"1.0\"?>\r\n<list>\r\n");
    for entry in entries {
        let (kind, at) = (kind(entry), time(entry.mtime));
        put!(out, "<{kind} mtime=\"{:>4}-{:02}-{:02}T", at.year(), at.month(), at.day());
        put!(out, "{:02}:{:02}:{:02}Z\"", at.hour(), at.minute(), at.second());
        if entry.kind == Kind::File {
            put!(out, " size=\"{}\"", entry.size);
        }
        out.push(b'>');
        escape_html(&entry.name, &mut out);
        put!(out, "</{kind}>\r\n");
    }
    out.extend_from_slice(b"</list>\r\n");
    out
}

fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        Kind::Directory => "directory",
        Kind::File => "file",
        Kind::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: Kind, size: u64) -> Entry {
        Entry { name: name.into(), kind, mtime: 1_704_067_200, size }
    }

    fn line(name: &str, kind: Kind, utf8: bool) -> String {
        let page = Page { uri: b"/", utf8, exact_size: true, offset: 0 };
        let text = String::from_utf8(html(&page, &[entry(name, kind, 5)])).expect("UTF-8");
        text.lines().nth(4).expect("a line").to_owned()
    }

    #[test]
    fn html_listing_has_nginx_form() {
        let page = Page { uri: b"/a<b/", utf8: false, exact_size: false, offset: 3600 };
        let entries = [entry("sub", Kind::Directory, 4096), entry("x&y", Kind::File, 10240)];
        let expected = [
            "<html>\r\n<head><title>Index of /a&lt;b/</title></head>\r\n<body>\r\n",
            "<h1>Index of /a&lt;b/</h1><hr><pre><a href=\"../\">../</a>\r\n",
            "<a href=\"sub/\">sub/</a>",
            &" ".repeat(46),
            " 01-Jan-2024 01:00       -\r\n<a href=\"x%26y\">x&amp;y</a>",
            &" ".repeat(47),
            " 01-Jan-2024 01:00     10K\r\n</pre><hr></body>\r\n</html>\r\n",
        ];
        assert_eq!(String::from_utf8_lossy(&html(&page, &entries)), expected.concat());
    }

    #[test]
    fn long_names_are_cut_after_47_characters() {
        let fifty = "x".repeat(50);
        let shown = line(&fifty, Kind::Directory, false);
        assert!(shown.contains(&format!(">{fifty}</a> 01-Jan")), "{shown}");
        let shown = line(&"y".repeat(51), Kind::File, false);
        assert!(shown.contains(&format!(">{}..&gt;</a> 01-Jan", "y".repeat(47))), "{shown}");
        let shown = line(&"ä".repeat(51), Kind::File, true);
        assert!(shown.contains(&format!(">{}..&gt;</a> 01-Jan", "ä".repeat(47))), "{shown}");
        let shown = line("ä", Kind::Directory, true);
        assert!(shown.contains(&format!(">ä/</a>{} 01-Jan", " ".repeat(48))), "{shown}");
    }

    #[test]
    fn sizes_are_rounded_to_units() {
        let text = |size| {
            let mut out = Vec::new();
            rounded(size, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(text(9999), "   9999");
        assert_eq!(text(10000), "    10K");
        assert_eq!(text(10 * 1024 + 512), "    11K");
        assert_eq!(text(1024 * 1024 - 1), "  1024K");
        assert_eq!(text(1024 * 1024), "     1M");
        assert_eq!(text(3 << 29), "     2G");
    }

    #[test]
    fn json_and_xml_say_kind_time_and_size() {
        let entries = [entry("d", Kind::Directory, 4096), entry("a\"<", Kind::File, 7)];
        let expected = concat!(
            "/* callback */\r\ncb([\r\n",
            "{ \"name\":\"d\", \"type\":\"directory\", \"mtime\":\"Mon, 01 Jan 2024 00:00:00 GMT\" },\r\n",
            "{ \"name\":\"a\\\"<\", \"type\":\"file\", \"mtime\":\"Mon, 01 Jan 2024 00:00:00 GMT\", \"size\":7 }\r\n",
            "]);",
        );
        assert_eq!(String::from_utf8_lossy(&json(&entries, Some(b"cb"))), expected);
        assert_eq!(json(&[], None), b"[\r\n]");
        let expected = concat!(
            "<?xml version=\"1.0\"?>\r\n<list>\r\n",
            "<directory mtime=\"2024-01-01T00:00:00Z\">d</directory>\r\n",
            "<file mtime=\"2024-01-01T00:00:00Z\" size=\"7\">a&quot;&lt;</file>\r\n</list>\r\n",
        );
        assert_eq!(String::from_utf8_lossy(&xml(&entries)), expected);
    }
}
