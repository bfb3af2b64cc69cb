//! PROXY protocol headers: no panic, and a prefix of a good header is partial.
#![no_main]

use headwater_wire::proxy_protocol::{ProxyProgress, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(ProxyProgress::Complete { len, header }) = parse(data) else {
        return;
    };
    assert!(len <= data.len());
    for end in 0..len {
        assert_eq!(parse(&data[..end]), Ok(ProxyProgress::Partial));
    }
    if let Some(header) = header {
        for name in [&b"ssl"[..], b"ssl_verify", b"ssl_cn", b"authority", b"0x1f"] {
            let _ = header.tlv(name);
        }
        let _ = header.source.ip();
    }
});
