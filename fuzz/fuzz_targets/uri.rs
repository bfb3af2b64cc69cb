//! Paths, escapes, hosts and the small header values: no panic, no way above the root.
#![no_main]

use headwater_wire::escape::{Escape, Unescape, escape_uri, unescape, unescape_uri};
use headwater_wire::uri::{check_target, is_simple, normalize, parse_unsafe_uri};
use headwater_wire::{accept_encoding, date, etag, host, range};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for merge in [false, true] {
        let Ok(uri) = normalize(data, merge) else {
            continue;
        };
        assert!(!uri.path.contains(&0));
        if uri.path.first() == Some(&b'/') {
            assert!(
                uri.path
                    .split(|&byte| byte == b'/')
                    .all(|segment| segment != b".." && segment != b".")
            );
        }
        if is_simple(data) && check_target(data).is_ok() {
            assert!(data.starts_with(&uri.path));
        }
    }
    if let Ok(uri) = parse_unsafe_uri(data) {
        assert!(
            uri.path
                .split(|&byte| byte == b'/')
                .all(|segment| segment != b"..")
        );
    }
    for kind in [
        Escape::Uri,
        Escape::Args,
        Escape::UriComponent,
        Escape::Html,
    ] {
        let (mut coded, mut plain) = (Vec::new(), Vec::new());
        escape_uri(data, kind, &mut coded);
        unescape_uri(&coded, &mut plain);
        assert_eq!(plain, data);
    }
    for kind in [Unescape::All, Unescape::Uri, Unescape::Redirect] {
        assert!(unescape(data, kind, &mut Vec::new()) <= data.len());
    }
    if let Ok((name, _)) = host::validate(data) {
        let again = host::validate(&name).map(|(again, _)| again.into_owned());
        assert_eq!(again, Ok(name.to_vec()));
    }
    if let range::RangeOutcome::Ranges(ranges) = range::parse(data, 1000, 10) {
        assert!(
            ranges
                .iter()
                .all(|range| range.start < range.end && range.end <= 1000)
        );
    }
    if let Some(time) = date::parse(data) {
        let _ = date::format(time);
    }
    let _ = accept_encoding::accepts_gzip(data);
    let _ = etag::matches(data, Some(b"\"a\""), true);
});
