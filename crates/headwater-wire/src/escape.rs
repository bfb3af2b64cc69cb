//! Escaping and unescaping: the `%XX` classes of nginx, HTML, JSON and the access log.
//!
//! Called by the proxy (rebuilding URIs), redirects, log formats, autoindex, SSI. Each function appends to a buffer
//! and copies runs that need no escape as a whole. nginx counterparts: `ngx_escape_uri`, `ngx_unescape_uri`,
//! `ngx_escape_html`, `ngx_escape_json`, `ngx_http_log_escape`.

/// Which characters become `%XX`. Letters, digits and `-._~` never do, except as noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A path: controls, space, `"#%<>?\^{|}`, backquote, and bytes from 0x7f on.
    Uri,
    /// Arguments: those of `Uri` and `&+;`.
    Args,
    /// One component: everything but letters, digits and `-._~`.
    UriComponent,
    /// A link in HTML: those of `Uri` with `'` but without `?`.
    Html,
    /// A URL in a `Refresh` header or meta tag: controls, space, `"'<>\^{|~`, backquote, and bytes from 0x7f on.
    Refresh,
    /// A memcached key: controls, space, `%`.
    Memcached,
}

/// How far [`unescape`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unescape {
    /// Decode everything.
    All,
    /// Decode up to a `?`, which is the last byte written.
    Uri,
    /// As `Uri`, but keep the escapes of bytes up to `%` and from 0x7f on, for use in a redirect.
    Redirect,
}

type Class = [bool; 256];

static URI: Class = class(b"\"#%<>?\\^`{|}", true);
static ARGS: Class = class(b"\"#%&+;<>?\\^`{|}", true);
static COMPONENT: Class = class(b"!\"#$%&'()*+,/:;<=>?@[\\]^`{|}", true);
static HTML: Class = class(b"\"#%'<>\\^`{|}", true);
static REFRESH: Class = class(b"\"'<>\\^`{|~", true);
static MEMCACHED: Class = class(b"%", false);
static LOG: Class = log_class();

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Controls, space, the bytes of `set`, and those from 0x7f on if `high`.
const fn class(set: &[u8], high: bool) -> Class {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte <= 0x20 || (high && byte >= 0x7f);
        byte += 1;
    }
    let mut i = 0;
    while i < set.len() {
        table[set[i] as usize] = true;
        i += 1;
    }
    table
}

const fn log_class() -> Class {
    let mut table = class(b"\"\\", true);
    table[b' ' as usize] = false;
    table
}

impl Escape {
    fn class(self) -> &'static Class {
        match self {
            Self::Uri => &URI,
            Self::Args => &ARGS,
            Self::UriComponent => &COMPONENT,
            Self::Html => &HTML,
            Self::Refresh => &REFRESH,
            Self::Memcached => &MEMCACHED,
        }
    }

    /// Whether any byte of `src` would be escaped.
    #[must_use]
    pub fn needed(self, src: &[u8]) -> bool {
        let class = self.class();
        src.iter().any(|&byte| class[byte as usize])
    }
}

/// Appends `src` to `out` with the characters of `kind` as `%XX`.
pub fn escape_uri(src: &[u8], kind: Escape, out: &mut Vec<u8>) {
    let class = kind.class();
    replace(src, out, |byte| class[byte as usize], |byte, out| push_hex(b"%", byte, out));
}

/// Appends `src` to `out` with `%XX` decoded; malformed escapes are dropped the way nginx drops them.
pub fn unescape_uri(src: &[u8], out: &mut Vec<u8>) {
    unescape(src, Unescape::All, out);
}

/// Appends `src` to `out` with `%XX` decoded as `kind` says; the number of bytes of `src` read (less than all only
/// when a `?` ended it). Of a malformed escape, `%` is dropped, and the first digit if it was one: then the byte after
/// it too.
pub fn unescape(src: &[u8], kind: Unescape, out: &mut Vec<u8>) -> usize {
    let mut rest = src;
    let stop = |byte: u8| kind != Unescape::All && byte == b'?';
    loop {
        let (byte, left, ends) = match rest {
            [] => return src.len(),
            [b'%', high, left @ ..] => match (digit(*high), left) {
                (None, _) => (Some(*high), left, false),
                (Some(_), []) => return src.len(),
                (Some(first), [low, left @ ..]) => {
                    let byte = digit(*low).map(|second| first << 4 | second);
                    if kind == Unescape::Redirect && byte.is_some_and(|byte| byte <= b'%' || byte >= 0x7f) {
                        out.extend_from_slice(&[b'%', *high, *low]);
                        (None, left, false)
                    } else {
                        (byte, left, byte.is_some_and(stop))
                    }
                }
            },
            [b'%'] => return src.len(),
            [byte, left @ ..] => (Some(*byte), left, stop(*byte)),
        };
        out.extend(byte);
        rest = left;
        if ends {
            return src.len() - rest.len();
        }
    }
}

/// Appends `src` to `out` with `<`, `>`, `&` and `"` as entities.
pub fn escape_html(src: &[u8], out: &mut Vec<u8>) {
    let special = |byte| matches!(byte, b'<' | b'>' | b'&' | b'"');
    replace(src, out, special, |byte, out| {
        out.extend_from_slice(match byte {
            b'<' => b"&lt;",
            b'>' => b"&gt;",
            b'&' => b"&amp;",
            _ => b"&quot;",
        });
    });
}

/// Appends `src` to `out` as the inside of a JSON string (also `log_format … escape=json`).
pub fn escape_json(src: &[u8], out: &mut Vec<u8>) {
    let special = |byte| byte <= 0x1f || byte == b'\\' || byte == b'"';
    replace(src, out, special, |byte, out| {
        let letter = match byte {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            b'\\' | b'"' => byte,
            _ => return push_hex(b"\\u00", byte, out),
        };
        out.extend_from_slice(&[b'\\', letter]);
    });
}

/// Appends `src` to `out` as the access log writes variables by default: controls, `"`, `\` and bytes from 0x7f on
/// become `\xHH`.
pub fn escape_log(src: &[u8], out: &mut Vec<u8>) {
    replace(src, out, |byte| LOG[byte as usize], |byte, out| push_hex(b"\\x", byte, out));
}

/// Copies runs of ordinary bytes and lets `write` deal with the special ones.
fn replace(src: &[u8], out: &mut Vec<u8>, special: impl Fn(u8) -> bool, write: impl Fn(u8, &mut Vec<u8>)) {
    let mut rest = src;
    while let Some(at) = rest.iter().position(|&byte| special(byte)) {
        let (run, tail) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(run);
        let Some((&byte, tail)) = tail.split_first() else {
            return;
        };
        write(byte, out);
        rest = tail;
    }
    out.extend_from_slice(rest);
}

fn push_hex(prefix: &[u8], byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(src: &[u8], kind: Escape) -> String {
        let mut out = Vec::new();
        escape_uri(src, kind, &mut out);
        assert_eq!(out != src, kind.needed(src));
        String::from_utf8_lossy(&out).into_owned()
    }

    fn unescaped(src: &str, kind: Unescape) -> (String, usize) {
        let mut out = Vec::new();
        let read = unescape(src.as_bytes(), kind, &mut out);
        (String::from_utf8_lossy(&out).into_owned(), read)
    }

    /// The punctuation each class leaves alone.
    #[test]
    fn escape_uri_classes_are_those_of_nginx() {
        let printable: Vec<u8> = (0x21..0x7f).filter(|byte: &u8| !byte.is_ascii_alphanumeric()).collect();
        let kept = |kind: Escape| -> String {
            printable.iter().filter(|&&byte| !kind.needed(&[byte])).map(|&byte| char::from(byte)).collect()
        };
        assert_eq!(kept(Escape::Uri), "!$&'()*+,-./:;=@[]_~");
        assert_eq!(kept(Escape::Args), "!$'()*,-./:=@[]_~");
        assert_eq!(kept(Escape::UriComponent), "-._~");
        assert_eq!(kept(Escape::Html), "!$&()*+,-./:;=?@[]_~");
        assert_eq!(kept(Escape::Refresh), "!#$%&()*+,-./:;=?@[]_}");
        assert_eq!(kept(Escape::Memcached).len(), printable.len() - 1);
        for kind in [Escape::Uri, Escape::Args, Escape::UriComponent, Escape::Html, Escape::Refresh] {
            assert_eq!(escaped(b"a \x00\x7f\xffz0", kind), "a%20%00%7F%FFz0");
        }
        assert_eq!(escaped(b"a %\x00", Escape::Memcached), "a%20%25%00");
        assert!(!Escape::Memcached.needed(b"\x7f\xff"));
    }

    #[test]
    fn unescape_decodes_and_drops_malformed() {
        let all = Unescape::All;
        assert_eq!(unescaped("a%20b%3f%2B", all), ("a b?+".into(), 11));
        assert_eq!(unescaped("a%zb%4zc%", all), ("azbc".into(), 9));
        assert_eq!(unescaped("%4", all), (String::new(), 2));
        assert_eq!(unescaped("%%41", all), ("%41".into(), 4));
        assert_eq!(unescaped("%41?%41", Unescape::Uri), ("A?".into(), 4));
        assert_eq!(unescaped("%3F%41", Unescape::Uri), ("?".into(), 3));
        assert_eq!(unescaped("%41%20%c3%7f%26?x", Unescape::Redirect), ("A%20%c3%7f&?".into(), 16));
    }

    #[test]
    fn escape_text_forms() {
        let run = |escape: fn(&[u8], &mut Vec<u8>), src: &[u8]| {
            let mut out = Vec::new();
            escape(src, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(run(escape_html, b"<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;'");
        assert_eq!(
            run(escape_json, b"a\"\\\n\r\t\x08\x0c\x1f\x00\x7f"),
            "a\\\"\\\\\\n\\r\\t\\b\\f\\u001F\\u0000\u{7f}"
        );
        assert_eq!(run(escape_log, b"a b\"\\\n\x7f\xff"), "a b\\x22\\x5C\\x0A\\x7F\\xFF");
    }

    proptest! {
        #[test]
        fn escape_then_unescape_gives_same_bytes(src in proptest::collection::vec(any::<u8>(), 0..50)) {
            for kind in [Escape::Uri, Escape::Args, Escape::UriComponent, Escape::Html, Escape::Memcached] {
                let (mut coded, mut plain) = (Vec::new(), Vec::new());
                escape_uri(&src, kind, &mut coded);
                unescape_uri(&coded, &mut plain);
                prop_assert_eq!(&plain, &src);
            }
        }

        #[test]
        fn unescape_any_bytes_reads_no_further_than_the_end(src in proptest::collection::vec(any::<u8>(), 0..50)) {
            for kind in [Unescape::All, Unescape::Uri, Unescape::Redirect] {
                let mut out = Vec::new();
                prop_assert!(unescape(&src, kind, &mut out) <= src.len());
                prop_assert!(out.len() <= src.len());
            }
        }
    }
}
