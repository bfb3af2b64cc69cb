//! The header names the proxy itself looks at, as one byte, so that a lookup after parsing is an integer compare.
//!
//! Filled in by the head parsers and [`crate::headers::HeaderList`]; read by every module that asks for a header.
//! nginx counterpart: `headers_in_hash`, and `headers_in_hash` of the upstream module.

macro_rules! known_headers {
    ($($(#[$meta:meta])* $variant:ident = $name:literal,)+) => {
        /// A header name known to the proxy, or [`KnownHeader::Other`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum KnownHeader {
            /// Any name that is not listed below.
            #[default]
            Other = 0,
            $(
                #[doc = concat!("`", $name, "`")]
                $variant,
            )+
        }

        impl KnownHeader {
            /// Every known header, without `Other`.
            pub const ALL: &'static [KnownHeader] = &[$(KnownHeader::$variant,)+];

            /// The name in its usual spelling; empty for `Other`.
            #[must_use]
            pub const fn canonical(self) -> &'static str {
                match self {
                    KnownHeader::Other => "",
                    $(KnownHeader::$variant => $name,)+
                }
            }
        }
    };
}

known_headers! {
    Host = "Host",
    Connection = "Connection",
    ContentLength = "Content-Length",
    TransferEncoding = "Transfer-Encoding",
    Expect = "Expect",
    Upgrade = "Upgrade",
    KeepAlive = "Keep-Alive",
    Te = "TE",
    Trailer = "Trailer",
    UserAgent = "User-Agent",
    Referer = "Referer",
    Cookie = "Cookie",
    Range = "Range",
    IfRange = "If-Range",
    IfModifiedSince = "If-Modified-Since",
    IfUnmodifiedSince = "If-Unmodified-Since",
    IfMatch = "If-Match",
    IfNoneMatch = "If-None-Match",
    Accept = "Accept",
    AcceptEncoding = "Accept-Encoding",
    AcceptLanguage = "Accept-Language",
    Via = "Via",
    Authorization = "Authorization",
    XForwardedFor = "X-Forwarded-For",
    XRealIp = "X-Real-IP",
    Depth = "Depth",
    Destination = "Destination",
    Overwrite = "Overwrite",
    ContentType = "Content-Type",
    ContentRange = "Content-Range",
    ContentEncoding = "Content-Encoding",
    Date = "Date",
    Server = "Server",
    LastModified = "Last-Modified",
    Etag = "ETag",
    Location = "Location",
    Refresh = "Refresh",
    SetCookie = "Set-Cookie",
    CacheControl = "Cache-Control",
    Expires = "Expires",
    Vary = "Vary",
    AcceptRanges = "Accept-Ranges",
    Status = "Status",
    WwwAuthenticate = "WWW-Authenticate",
    ProxyAuthenticate = "Proxy-Authenticate",
    ProxyAuthorization = "Proxy-Authorization",
    Link = "Link",
    XAccelExpires = "X-Accel-Expires",
    XAccelRedirect = "X-Accel-Redirect",
    XAccelLimitRate = "X-Accel-Limit-Rate",
    XAccelBuffering = "X-Accel-Buffering",
    XAccelCharset = "X-Accel-Charset",
    XPad = "X-Pad",
    Pragma = "Pragma",
    ProxyConnection = "Proxy-Connection",
}

/// Slots of the hash table, a power of two; well above the number of names, so that probes are short.
const SLOTS: usize = 256;

/// Known headers by [`slot`], the next free slot after it when that is taken; unused slots hold `Other`.
static TABLE: [KnownHeader; SLOTS] = table();

const fn table() -> [KnownHeader; SLOTS] {
    let mut table = [KnownHeader::Other; SLOTS];
    let mut i = 0;
    while i < KnownHeader::ALL.len() {
        let known = KnownHeader::ALL[i];
        let mut at = slot(known.canonical().as_bytes());
        while table[at] as u8 != KnownHeader::Other as u8 {
            at = (at + 1) % SLOTS;
        }
        table[at] = known;
        i += 1;
    }
    table
}

/// Where the search for a name begins: its length, first, middle and last byte, in either case. The factors leave the present
/// names without a collision.
const fn slot(name: &[u8]) -> usize {
    let len = name.len();
    if len == 0 {
        return 0;
    }
    let first = (name[0] | 0x20) as usize;
    let middle = (name[len / 2] | 0x20) as usize;
    let last = (name[len - 1] | 0x20) as usize;
    (len.wrapping_mul(64).wrapping_add(first * 136).wrapping_add(middle * 2).wrapping_add(last)) % SLOTS
}

/// Each known name has a bit in a 64-bit set.
const _: () = assert!(KnownHeader::ALL.len() < 64);

impl KnownHeader {
    /// The bit that stands for this name in a set of names; `Other` has none.
    #[must_use]
    pub const fn bit(self) -> u64 {
        match self {
            Self::Other => 0,
            known => 1 << (known as u8),
        }
    }

    /// The known header called `name`, compared without regard to ASCII case.
    #[must_use]
    pub fn lookup(name: &[u8]) -> Self {
        let mut at = slot(name);
        while let Some(&known) = TABLE.get(at) {
            if known == Self::Other {
                break;
            }
            let text = known.canonical().as_bytes();
            // Most heads use the usual spelling, which one comparison of memory tells.
            if text == name || text.eq_ignore_ascii_case(name) {
                return known;
            }
            at = (at + 1) % SLOTS;
        }
        Self::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup_every_known_name_in_any_case_finds_it() {
        for &known in KnownHeader::ALL {
            let name = known.canonical();
            assert_eq!(KnownHeader::lookup(name.as_bytes()), known);
            assert_eq!(KnownHeader::lookup(name.to_ascii_uppercase().as_bytes()), known);
            assert_eq!(KnownHeader::lookup(name.to_ascii_lowercase().as_bytes()), known);
        }
    }

    #[test]
    fn lookup_of_other_names_gives_other() {
        for name in ["", "X", "Hosts", "Content_Length", "X-A-Very-Long-Name-That-Nobody-Knows"] {
            assert_eq!(KnownHeader::lookup(name.as_bytes()), KnownHeader::Other);
        }
    }

    #[test]
    fn other_is_zero() {
        assert_eq!(KnownHeader::Other as u8, 0);
        assert_eq!(KnownHeader::default(), KnownHeader::Other);
    }
}
