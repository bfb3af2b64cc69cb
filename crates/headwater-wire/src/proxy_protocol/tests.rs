//! Tests of the PROXY protocol, both versions.

use super::*;
use proptest::prelude::*;

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &len, body].concat()
}

fn v2_tcp4(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80], tlvs].concat())
}

/// Every proper prefix is partial, the whole is complete and followed by foreign bytes.
fn complete(bytes: &[u8]) -> Option<ProxyHeader> {
    for end in 0..bytes.len() {
        assert_eq!(parse(&bytes[..end]), Ok(ProxyProgress::Partial), "prefix of {end}");
    }
    match parse(&[bytes, b"GET /"].concat()).unwrap() {
        ProxyProgress::Complete { len, header } => {
            assert_eq!(len, bytes.len());
            header
        }
        ProxyProgress::Partial => panic!("partial"),
    }
}

#[test]
fn parse_v1_gives_endpoints() {
    let header = complete(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n").unwrap();
    assert_eq!(header.source, Endpoint { address: b"192.0.2.1".to_vec(), port: 56324 });
    assert_eq!(header.destination.ip(), Some(IpAddr::from([192, 0, 2, 2])));
    let header = complete(b"PROXY TCP6 ::1 2001:DB8::2 1 65535\r\n").unwrap();
    assert_eq!(header.destination.address, b"2001:DB8::2");
    assert_eq!(complete(b"PROXY UNKNOWN\r\n"), None);
    assert_eq!(complete(b"PROXY UNKNOWN a b c\r\n"), None);
}

#[test]
fn parse_v1_malformed_fails() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
        "PROXY TCP4 x.1.1.1 1.1.1.1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1  1\r\n",
        "proxy TCP4",
        "\r\n\r\nX",
    ] {
        assert_eq!(parse(text.as_bytes()), Err(ProxyError::Broken), "{text}");
    }
    let long = [&b"PROXY "[..], &[b'x'; MAX_HEADER]].concat();
    assert_eq!(parse(&long), Err(ProxyError::TooLarge));
}

#[test]
fn parse_v2_gives_endpoints_and_tlvs() {
    let ssl = [&[0x20, 0, 12, 7, 0, 0, 0, 2][..], &[0x22, 0, 4], b"name"].concat();
    let header = complete(&v2_tcp4(&[&[0x02, 0, 1, b'h'], &ssl[..]].concat())).unwrap();
    assert_eq!(header.source, Endpoint { address: b"10.0.0.1".to_vec(), port: 12345 });
    assert_eq!(header.tlv(b"authority"), Some(b"h".to_vec()));
    assert_eq!(header.tlv(b"0x2"), Some(b"h".to_vec()));
    assert_eq!(header.tlv(b"ssl_verify"), Some(b"2".to_vec()));
    assert_eq!(header.tlv(b"ssl_cn"), Some(b"name".to_vec()));
    assert_eq!(header.tlv(b"ssl_version"), None);
    assert_eq!(header.tlv(b"alpn"), None);
    assert_eq!(header.tlv(b"nonsense"), None);
    let mut body = vec![0; 36];
    body[15] = 1;
    let header = complete(&v2(0x21, 0x21, &body)).unwrap();
    assert_eq!(header.source.address, b"::1");
}

#[test]
fn parse_v2_without_tcp_gives_no_header() {
    assert_eq!(complete(&v2(0x20, 0x00, b"")), None);
    assert_eq!(complete(&v2(0x21, 0x12, &[0; 12])), None);
    assert_eq!(complete(&v2(0x21, 0x31, &[0; 216])), None);
}

#[test]
fn parse_v2_malformed_fails() {
    assert_eq!(parse(&v2(0x11, 0x11, &[0; 12])), Err(ProxyError::UnknownVersion(1)));
    assert_eq!(parse(&v2(0x21, 0x11, &[0; 11])), Err(ProxyError::Broken));
    assert_eq!(parse(&v2(0x21, 0x11, &[0; MAX_HEADER])), Err(ProxyError::TooLarge));
}

#[test]
fn write_v1_is_read_back() {
    let mut out = Vec::new();
    write_v1("1.2.3.4:5".parse().ok(), "6.7.8.9:10".parse().ok(), &mut out);
    assert_eq!(out, b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n");
    assert_eq!(complete(&out).unwrap().destination.port, 10);
    out.clear();
    write_v1("[::1]:5".parse().ok(), "[::2]:10".parse().ok(), &mut out);
    assert_eq!(out, b"PROXY TCP6 ::1 ::2 5 10\r\n");
    out.clear();
    write_v1(None, "6.7.8.9:10".parse().ok(), &mut out);
    assert_eq!(out, b"PROXY UNKNOWN\r\n");
}

proptest! {
    #[test]
    fn parse_any_tlvs_does_not_panic(tlvs in proptest::collection::vec(any::<u8>(), 0..60)) {
        let header = complete(&v2_tcp4(&tlvs)).unwrap();
        for name in [&b"ssl"[..], b"ssl_verify", b"ssl_cn", b"alpn", b"0x07"] {
            let _ = header.tlv(name);
        }
    }
}
