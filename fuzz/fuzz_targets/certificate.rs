//! Fields of certificates: no panic, and what is read stands within the input.
#![no_main]

use headwater_wire::x509::Certificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(certificate) = Certificate::parse(data) else { return };
    let range = data.as_ptr_range();
    for part in [certificate.issuer, certificate.subject, certificate.public_key] {
        let part = part.as_ptr_range();
        assert!(range.start <= part.start && part.end <= range.end);
    }
    assert!(!certificate.is_for_host(b"", true));
    // Without the common name it cannot be for more hosts.
    assert!(!certificate.is_for_host(b"example.test", false) || certificate.is_for_host(b"example.test", true));
    let _ = (certificate.is_for_address(&[127, 0, 0, 1]), certificate.is_authority());
    let _ = (certificate.is_self_issued(), certificate.has_name_constraints());
});
