//! What a TLS client needs of a certificate beyond the check of its chain: key, names, times.
//!
//! Called by the verifier of back ends. nginx's counterpart: OpenSSL's `X509_check_host` and the fields it reads. The fields are those of RFC 5280
//! section 4.1; certificates of version 1 are read as well.

/// A certificate's fields, as parts of its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// Who signed it, encoded.
    pub issuer: &'a [u8],
    /// Whose it is, encoded.
    pub subject: &'a [u8],
    /// The first second of its validity, since 1970.
    pub not_before: i64,
    /// The last second of its validity, since 1970.
    pub not_after: i64,
    /// The public key with its algorithm (SubjectPublicKeyInfo), encoded with its tag.
    pub public_key: &'a [u8],
    extensions: &'a [u8],
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT: u8 = 0x06;
const OCTETS: u8 = 0x04;
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// `id-ce-subjectAltName`, 2.5.29.17.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 29, 17];
/// `id-ce-keyUsage`, 2.5.29.15.
const KEY_USAGE: &[u8] = &[0x55, 29, 15];
/// `id-ce-basicConstraints`, 2.5.29.19.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 29, 19];
/// `id-ce-nameConstraints`, 2.5.29.30.
const NAME_CONSTRAINTS: &[u8] = &[0x55, 29, 30];
/// `dNSName` of a GeneralName.
const DNS: u8 = 0x82;
/// `iPAddress` of a GeneralName.
const ADDRESS: u8 = 0x87;

impl<'a> Certificate<'a> {
    /// Reads a certificate's encoding (DER); nothing when it is no such.
    #[must_use]
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = Der(der).content(SEQUENCE)?;
        let mut fields = outer.content(SEQUENCE)?;
        // The version, which is left out for the first one.
        fields.skip_if(0xa0)?;
        fields.next()?; // serial number
        fields.next()?; // algorithm of the signature
        let issuer = fields.next()?.whole;
        let mut validity = fields.content(SEQUENCE)?;
        let not_before = validity.next()?.time()?;
        let not_after = validity.next()?.time()?;
        let subject = fields.next()?.whole;
        let public_key = fields.next().filter(|item| item.tag == SEQUENCE)?.whole;
        fields.skip_if(0x81)?;
        fields.skip_if(0x82)?;
        let extensions = match fields.next() {
            Some(item) if item.tag == 0xa3 => Der(item.content).content(SEQUENCE)?.0,
            _ => &[],
        };
        Some(Self { issuer, subject, not_before, not_after, public_key, extensions })
    }

    /// Whether it names itself as its issuer.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether it may sign others: it says so, or it is of a kind that could not. As OpenSSL's `X509_check_ca` does it.
    #[must_use]
    pub fn is_authority(&self) -> bool {
        // A BIT STRING: the number of unused bits, then the bits; `keyCertSign` is the sixth.
        let usage = self.extension(KEY_USAGE).map(|value| {
            let bits = Der(value).next().filter(|item| item.tag == 0x03).map(|item| item.content);
            bits.and_then(|bits| bits.get(1)).is_some_and(|byte| byte & 0x04 != 0)
        });
        if usage == Some(false) {
            return false;
        }
        match self.extension(BASIC_CONSTRAINTS) {
            Some(value) => {
                let first = Der(value).content(SEQUENCE).and_then(|mut parts| parts.next());
                first.is_some_and(|item| item.tag == 0x01 && item.content == [0xff])
            }
            None => usage == Some(true) || (self.extensions.is_empty() && self.is_self_issued()),
        }
    }

    /// Whether it limits the names of those it signs for.
    #[must_use]
    pub fn has_name_constraints(&self) -> bool {
        self.extension(NAME_CONSTRAINTS).is_some()
    }

    /// Whether it is a certificate for this host: one of its DNS names, or its common name when it has none of those. `*` stands for one
    /// label, the first. `common_name` false leaves the common name out of it. As OpenSSL's `X509_check_host` does it, without
    /// wildcards for a part of a label.
    #[must_use]
    pub fn is_for_host(&self, host: &[u8], common_name: bool) -> bool {
        let mut names = self.alternative_names().filter(|item| item.tag == DNS).peekable();
        if names.peek().is_some() {
            return names.any(|name| matches(name.content, host));
        }
        common_name && self.common_names().any(|name| matches(name, host))
    }

    /// Whether it is a certificate for this address, in network byte order.
    #[must_use]
    pub fn is_for_address(&self, address: &[u8]) -> bool {
        self.alternative_names().any(|item| item.tag == ADDRESS && item.content == address)
    }

    fn alternative_names(&self) -> Der<'a> {
        self.extension(ALTERNATIVE_NAMES).and_then(|value| Der(value).content(SEQUENCE)).unwrap_or(Der(&[]))
    }

    fn common_names(&self) -> impl Iterator<Item = &'a [u8]> {
        let sets = Der(self.subject).content(SEQUENCE).unwrap_or(Der(&[]));
        let attributes = sets.filter(|item| item.tag == SET).flat_map(|item| Der(item.content));
        attributes.filter_map(|attribute| {
            let mut parts = Der(attribute.content);
            let kind = parts.next().filter(|item| item.tag == OBJECT)?;
            // Only strings of one byte a character can be a host's name.
            let text = parts.next().filter(|item| matches!(item.tag, 0x0c | 0x13 | 0x14 | 0x16))?;
            (kind.content == COMMON_NAME).then_some(text.content)
        })
    }

    fn extension(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        Der(self.extensions).find_map(|extension| {
            let mut parts = Der(extension.content);
            let kind = parts.next().filter(|item| item.tag == OBJECT)?;
            let value = parts.find(|item| item.tag == OCTETS)?;
            (kind.content == wanted).then_some(value.content)
        })
    }
}

/// Whether a certificate's name, which may begin with `*.`, is that of a host.
fn matches(pattern: &[u8], host: &[u8]) -> bool {
    if host.is_empty() || pattern.contains(&0) {
        return false;
    }
    let Some(rest) = pattern.strip_prefix(b"*") else { return pattern.eq_ignore_ascii_case(host) };
    // `*.com` would be too wide.
    let wide = rest.iter().filter(|byte| **byte == b'.').count() < 2 || !rest.starts_with(b".");
    let first = host.iter().position(|byte| *byte == b'.');
    let (Some(first), false) = (first, wide) else { return false };
    first > 0 && host.get(first..).is_some_and(|tail| tail.eq_ignore_ascii_case(rest))
}

/// Encoded items one after the other.
#[derive(Debug, Clone, Copy)]
struct Der<'a>(&'a [u8]);

/// One encoded item.
#[derive(Debug, Clone, Copy)]
struct Item<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Iterator for Der<'a> {
    type Item = Item<'a>;

    /// The next item; nothing at the end, and nothing more after what is no item.
    fn next(&mut self) -> Option<Item<'a>> {
        let all = std::mem::take(&mut self.0);
        let (&[tag, first], rest) = all.split_first_chunk()?;
        // Tags of several bytes do not occur in certificates.
        let tag = Some(tag).filter(|tag| tag & 0x1f != 0x1f)?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = all.get(..all.len().saturating_sub(rest.len()))?;
        self.0 = rest;
        Some(Item { tag, content, whole })
    }
}

impl<'a> Der<'a> {
    /// The items within the next one, which has to have this tag.
    fn content(&mut self, tag: u8) -> Option<Der<'a>> {
        self.next().filter(|item| item.tag == tag).map(|item| Der(item.content))
    }

    /// Passes over the next item if it has this tag.
    fn skip_if(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) {
            self.next()?;
        }
        Some(())
    }
}

impl Item<'_> {
    /// A UTCTime or GeneralizedTime in seconds since 1970 (RFC 5280 section 4.1.2.5).
    fn time(&self) -> Option<i64> {
        let digits = self.content.strip_suffix(b"Z")?;
        let (year, rest) = match (self.tag, digits.len()) {
            (0x17, 12) => {
                let year = number(digits.get(..2)?)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, digits.get(2..)?)
            }
            (0x18, 14) => (number(digits.get(..4)?)?, digits.get(4..)?),
            _ => return None,
        };
        let part = |at: usize| number(rest.get(at..at.saturating_add(2))?);
        let (month, day) = (part(0)?, part(2)?);
        let seconds = part(4)? * 3600 + part(6)? * 60 + part(8)?;
        let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
        valid.then(|| days_since_1970(year, month, day) * 86_400 + seconds)
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |total, digit| {
        digit.is_ascii_digit().then(|| total * 10 + i64::from(digit.saturating_sub(b'0')))
    })
}

/// Days of the Gregorian calendar between a date and 1970-01-01. Years begin in March here, so that the leap day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let of_years = year * 365 + year / 4 - year / 100 + year / 400;
    of_years + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn days_are_counted_over_leap_years() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        assert_eq!(days_since_1970(2026, 11, 25), 20_782);
    }

    #[test]
    fn names_match_with_a_wildcard_for_the_first_label_only() {
        assert!(matches(b"Example.com", b"example.COM"));
        assert!(matches(b"*.example.com", b"a.example.com"));
        for (pattern, host) in [
            (&b"*.example.com"[..], &b"a.b.example.com"[..]),
            (b"*.example.com", b"example.com"),
            (b"*.example.com", b".example.com"),
            (b"*.com", b"example.com"),
            (b"*", b"example"),
            (b"a*.example.com", b"ab.example.com"),
            (b"", b""),
        ] {
            assert!(!matches(pattern, host), "{pattern:?} {host:?}");
        }
    }

    /// Certificates that `openssl` made, which are seeds of the fuzz target, too.
    macro_rules! made {
        ($name:literal) => {
            Certificate::parse(include_bytes!(concat!("../../../fuzz/corpus/certificate/", $name))).unwrap()
        };
    }

    #[test]
    fn fields_of_certificates_are_found() {
        let (leaf, authority, old) = (made!("ec"), made!("ca"), made!("v1"));
        assert!(leaf.is_for_host(b"example.test", false) && leaf.is_for_host(b"a.wild.test", false));
        // There are DNS names, so that the common name does not count.
        assert!(!leaf.is_for_host(b"ec", true));
        assert_eq!((leaf.issuer, authority.is_self_issued()), (authority.subject, true));
        assert!(authority.is_authority() && !leaf.is_authority() && !old.is_authority());
        assert!(leaf.not_after - leaf.not_before >= 3650 * 86_400);
        // SubjectPublicKeyInfo of a P-256 key.
        assert_eq!((leaf.public_key.first(), leaf.public_key.len()), (Some(&SEQUENCE), 91));
        assert!(old.is_for_host(b"example.test", true) && !old.is_for_host(b"example.test", false));
        let address = made!("address");
        assert!(address.is_for_address(&[127, 0, 0, 1]) && !address.is_for_address(&[127, 0, 0, 2]));
        assert!(made!("limited").has_name_constraints() && !authority.has_name_constraints());
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_read_without_panic(at in 0_usize..600, byte in any::<u8>()) {
            let mut bytes = include_bytes!("../../../fuzz/corpus/certificate/limited").to_vec();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Some(certificate) = Certificate::parse(&bytes) {
                let _ = (certificate.is_for_host(b"a", true), certificate.is_authority());
                let _ = certificate.has_name_constraints();
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(certificate) = Certificate::parse(&bytes) {
                let _ = certificate.is_for_host(b"a", true);
            }
            let item = Item { tag: 0x18, content: &bytes, whole: &bytes };
            let _ = item.time();
        }
    }
}
