//! Whether a client gets compressed responses: what it accepts, and what the configuration says of versions, proxies and browsers.
//!
//! Asked by the gzip and gunzip filters and by gzip_static. nginx's counterpart: `ngx_http_gzip_ok` and the `gzip_*` settings of
//! `ngx_http_core_module.c`.

use std::sync::Arc;

use headwater_conf::context::HSL;
use headwater_conf::{Args, Cx, Directive, Result, Value, keywords, settings};
use headwater_wire::accept_encoding::accepts_gzip;
use headwater_wire::date;
use headwater_wire::headers::KnownHeader;
use headwater_wire::http1::request::Version;

use crate::config::flags::flags;
use crate::request::{HeadersOut, Request};
use crate::script::Pattern;

settings! {
    /// To whom compressed responses are sent, whoever compressed them.
    pub struct AcceptanceSettings, raw AcceptanceRaw, module "ngx_http_core_module" {
        /// Adds `Vary: Accept-Encoding` to responses that gzip, gzip_static or gunzip may send in two forms.
        "gzip_vary", HSL, "on | off", "off" => vary: bool = false;
        /// Sets the lowest protocol version of requests whose responses are compressed.
        "gzip_http_version", HSL, "1.0 | 1.1", "1.1" => http_version: HttpVersion = HttpVersion::Http11;
        /// Says when responses to proxied requests, those with `Via`, are compressed.
        "gzip_proxied", HSL, "off | expired | no-cache | no-store | private | no_last_modified | no_etag | auth | any ...", "off" => proxied: Proxied = Proxied::OFF;
        /// Does not compress for clients whose `User-Agent` matches one of the regular expressions; `msie6` stands for old versions of MSIE.
        "gzip_disable", HSL, "regex ...", "" => disable: Disable = Disable::default();
    }
}

keywords! {
    /// `gzip_http_version`.
    pub enum HttpVersion {
        /// HTTP/1.0 and later.
        Http10 = "1.0",
        /// HTTP/1.1 and later.
        Http11 = "1.1",
    }
}

flags! {
    /// `gzip_proxied`.
    pub Proxied {
        /// Never.
        OFF = 1, "off";
        /// When `Expires` keeps the response from being cached.
        EXPIRED = 2, "expired";
        /// When `Cache-Control` has `no-cache`.
        NO_CACHE = 3, "no-cache";
        /// When `Cache-Control` has `no-store`.
        NO_STORE = 4, "no-store";
        /// When `Cache-Control` has `private`.
        PRIVATE = 5, "private";
        /// Only when there is no `Last-Modified`.
        NO_LAST_MODIFIED = 6, "no_last_modified";
        /// Only when there is no `ETag`.
        NO_ETAG = 7, "no_etag";
        /// When the request has `Authorization`.
        AUTH = 8, "auth";
        /// Always.
        ANY = 9, "any";
    }
}

/// `gzip_disable`.
#[derive(Debug, Clone, Default)]
pub struct Disable {
    patterns: Arc<Vec<Pattern>>,
    msie6: bool,
}

impl Value for Disable {
    const ARGS: Args = Args::at_least(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut slot = None;
        Self::set(&mut slot, cx, directive)?;
        Ok(slot.unwrap_or_default())
    }

    fn set(slot: &mut Option<Self>, _: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let disable = slot.get_or_insert_default();
        for (index, word) in directive.args.iter().enumerate() {
            if word.text == b"msie6" {
                disable.msie6 = true;
                continue;
            }
            let pattern =
                Pattern::compile(&word.text, true).map_err(|message| directive.error_at(index, message))?;
            Arc::make_mut(&mut disable.patterns).push(pattern);
        }
        Ok(())
    }

    // `msie6` of an outer block counts besides own expressions.
    fn inherit(slot: &mut Option<Self>, outer: &Option<Self>) {
        match slot {
            None => slot.clone_from(outer),
            Some(own) => own.msie6 |= outer.as_ref().is_some_and(|outer| outer.msie6),
        }
    }
}

impl AcceptanceSettings {
    /// Whether the client gets a compressed response. Looked at once per request: what the first who asks learns is true for the others.
    #[must_use]
    pub fn allows(&self, r: &Request, out: &HeadersOut) -> bool {
        if let Some(known) = r.gzip_ok.get() {
            return known;
        }
        let allowed = self.test(r, out);
        r.gzip_ok.set(Some(allowed));
        allowed
    }

    fn test(&self, r: &Request, out: &HeadersOut) -> bool {
        let head = &r.exchange.head;
        let lowest = match self.http_version {
            HttpVersion::Http10 => Version::Http10,
            HttpVersion::Http11 => Version::Http11,
        };
        if !r.is_main() || head.version() < lowest {
            return false;
        }
        let accept = head.headers.get_known(KnownHeader::AcceptEncoding);
        if !accept.is_some_and(accepts_gzip) {
            return false;
        }
        let agent = head.headers.get_known(KnownHeader::UserAgent);
        if self.disable.msie6 && agent.is_some_and(is_msie6) {
            return false;
        }
        if head.headers.get_known(KnownHeader::Via).is_some() {
            let authorized = head.headers.get_known(KnownHeader::Authorization).is_some();
            if !proxied(self.proxied, authorized, out) {
                return false;
            }
        }
        !agent.is_some_and(|agent| self.disable.patterns.iter().any(|pattern| pattern.is_match(agent)))
    }
}

/// Whether the response to a proxied request may be compressed.
fn proxied(rules: Proxied, authorized: bool, out: &HeadersOut) -> bool {
    if rules.has(Proxied::OFF) {
        return false;
    }
    if rules.has(Proxied::ANY) || (authorized && rules.has(Proxied::AUTH)) {
        return true;
    }
    if let Some(expires) = out.list.get_known(KnownHeader::Expires) {
        let now = match out.list.get_known(KnownHeader::Date) {
            Some(date) => date::parse(date),
            None => Some(headwater_io::clock::unix_seconds()),
        };
        let past = date::parse(expires).zip(now).is_some_and(|(expires, now)| expires < now);
        return rules.has(Proxied::EXPIRED) && past;
    }
    let has = |known| out.list.get_known(known).is_some();
    if has(KnownHeader::CacheControl) {
        let says = |word| out.list.get_all_known(KnownHeader::CacheControl).any(|line| lists(line, word));
        return (rules.has(Proxied::NO_CACHE) && says(b"no-cache"))
            || (rules.has(Proxied::NO_STORE) && says(b"no-store"))
            || (rules.has(Proxied::PRIVATE) && says(b"private"));
    }
    // Only a header that is there already counts, which the time of a file is not yet (as in nginx).
    let spoilt = |rule, known| rules.has(rule) && has(known);
    !spoilt(Proxied::NO_LAST_MODIFIED, KnownHeader::LastModified)
        && !spoilt(Proxied::NO_ETAG, KnownHeader::Etag)
}

/// Whether a `Cache-Control` line has a directive without a value (nginx: `ngx_http_parse_multi_header_lines`).
fn lists(line: &[u8], word: &[u8]) -> bool {
    let mut rest = line;
    loop {
        if let Some((head, tail)) = rest.split_at_checked(word.len())
            && head.eq_ignore_ascii_case(word)
        {
            let tail = skip_spaces(tail);
            if matches!(tail, [] | [b',', ..]) {
                return true;
            }
            rest = tail;
        }
        let Some(at) = rest.iter().position(|byte| matches!(byte, b';' | b',')) else { return false };
        rest = skip_spaces(rest.get(at.saturating_add(1)..).unwrap_or_default());
    }
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| **byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// MSIE 4 to 6, without the service pack that understands compression.
fn is_msie6(agent: &[u8]) -> bool {
    let after = |needle: &[u8]| {
        let at = agent.windows(needle.len()).position(|window| window == needle)?;
        agent.get(at.saturating_add(needle.len())..)
    };
    match after(b"MSIE ") {
        Some([_, b'.', _, ..]) if after(b"Opera").is_some() => false,
        Some([b'4' | b'5', b'.', _, ..]) => true,
        Some([b'6', b'.', _, rest @ ..]) => !rest.windows(3).any(|window| window == b"SV1"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msie6_stands_for_versions_four_to_six_without_service_pack() {
        for agent in ["Mozilla/4.0 (compatible; MSIE 6.0; Windows)", "MSIE 5.5", "x MSIE 4.01"] {
            assert!(is_msie6(agent.as_bytes()), "{agent}");
        }
        let others =
            ["MSIE 6.0; Windows NT 5.1; SV1)", "MSIE 7.0", "MSIE 6.", "MSIE 6.0; Opera 8", "Gecko/1", ""];
        for agent in others {
            assert!(!is_msie6(agent.as_bytes()), "{agent}");
        }
    }

    #[test]
    fn cache_control_directives_without_value_are_found() {
        assert!(lists(b"no-cache", b"no-cache"));
        assert!(lists(b"max-age=1, NO-CACHE ,x", b"no-cache"));
        assert!(lists(b"a;  private", b"private"));
        assert!(!lists(b"no-cache=x", b"no-cache"));
        assert!(!lists(b"xno-cache", b"no-cache"));
        assert!(!lists(b"no-cach", b"no-cache"));
    }

    #[test]
    fn proxied_rules_decide_as_nginx_does() {
        let with = |name: &[u8], value: &[u8]| {
            let mut out = HeadersOut::default();
            out.list.push(name, value);
            out
        };
        let plain = HeadersOut::default();
        let all = Proxied::EXPIRED.and(Proxied::NO_CACHE).and(Proxied::PRIVATE).and(Proxied::NO_ETAG);
        assert!(!proxied(Proxied::OFF.and(Proxied::ANY), false, &plain));
        assert!(proxied(Proxied::ANY, false, &with(b"Cache-Control", b"max-age=5")));
        assert!(proxied(Proxied::AUTH, true, &with(b"Cache-Control", b"max-age=5")));
        assert!(proxied(all, false, &with(b"Expires", b"Thu, 01 Jan 1970 00:00:01 GMT")));
        assert!(!proxied(all, false, &with(b"Expires", b"0")));
        assert!(!proxied(Proxied::PRIVATE, false, &with(b"Expires", b"Thu, 01 Jan 1970 00:00:01 GMT")));
        assert!(proxied(all, false, &with(b"Cache-Control", b"private")));
        assert!(!proxied(all, false, &with(b"Cache-Control", b"no-store")));
        assert!(!proxied(all, false, &with(b"ETag", b"\"a\"")));
        assert!(proxied(Proxied::EXPIRED, false, &with(b"ETag", b"\"a\"")));
    }
}
