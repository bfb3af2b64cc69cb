//! The parameters of a request: those of `fastcgi_param`, `scgi_param` or `uwsgi_param`, then the request's headers as `HTTP_…`.
//!
//! Built once per location, written once per request by the protocols. nginx's counterpart: `ngx_http_fastcgi_init_params`,
//! `ngx_http_fastcgi_create_request`, and the like of SCGI and uwsgi.

use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_wire::headers::{HeaderList, KnownHeader};

use crate::request::Request;
use crate::script::{Complex, Variables};

/// What every request has unless a `*_param` says otherwise.
const DEFAULTS: [(&str, &str); 1] = [("HTTP_HOST", "$host$is_request_port$request_port")];

/// What the names of parameters for request headers start with.
const PREFIX: &[u8] = b"HTTP_";

/// `fastcgi_param`, `scgi_param`, `uwsgi_param`.
#[derive(Debug, Clone)]
pub struct Param {
    name: Box<[u8]>,
    value: Complex,
    if_not_empty: bool,
}

impl Value for Param {
    const ARGS: Args = Args::range(2, 3);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let if_not_empty = match directive.args.get(2) {
            None => false,
            Some(word) if word.is("if_not_empty") => true,
            Some(_) => return Err(directive.invalid_parameter(2)),
        };
        Ok(Self { name: directive.arg(0).into(), value: Complex::compile(cx, directive, 1)?, if_not_empty })
    }
}

/// All that is known of the parameters at load.
pub(in crate::modules) struct ParamSet {
    params: Vec<Param>,
    /// Headers that are not passed, folded as [`fold`] does it.
    replaced: Vec<Box<[u8]>>,
    pass_headers: bool,
}

impl ParamSet {
    pub(in crate::modules) fn new(
        cx: &mut Cx<'_>,
        directive: &Directive,
        own: &[Param],
        pass_headers: bool,
    ) -> Result<Self> {
        let mut params = own.to_vec();
        for (name, value) in DEFAULTS {
            if own.iter().any(|param| param.name.eq_ignore_ascii_case(name.as_bytes())) {
                continue;
            }
            let value = Complex::compile_text(cx.state::<Variables>(), value.as_bytes())
                .map_err(|message| directive.error(message))?;
            params.push(Param { name: name.as_bytes().into(), value, if_not_empty: true });
        }
        let header =
            |param: &Param| param.name.strip_prefix(PREFIX).filter(|name| !name.is_empty()).map(fold_all);
        let replaced = params.iter().filter_map(header).collect();
        // A header that is given no value is left out; other parameters are sent without one.
        params.retain(|param| {
            header(param).is_none() || param.value.as_text().is_none_or(|text| !text.is_empty())
        });
        Ok(Self { params, replaced, pass_headers })
    }

    /// Hands every parameter, name and value, to a function.
    pub(in crate::modules) fn write(&self, r: &Request, push: &mut impl FnMut(&[u8], &[u8])) {
        let mut value = Vec::new();
        for param in &self.params {
            value.clear();
            param.value.write(r, &mut value);
            if !(param.if_not_empty && value.is_empty()) {
                push(&param.name, &value);
            }
        }
        if self.pass_headers {
            self.write_headers(&r.exchange.head.headers, push);
        }
    }

    fn write_headers(&self, headers: &HeaderList, push: &mut impl FnMut(&[u8], &[u8])) {
        let mut name = PREFIX.to_vec();
        let mut value = Vec::new();
        // Known names that were written, and whether others repeat is looked up.
        let mut seen = 0_u64;
        for (at, line) in headers.iter().enumerate() {
            let again = match line.known {
                KnownHeader::Other => {
                    headers.iter().take(at).any(|before| before.name.eq_ignore_ascii_case(line.name))
                }
                known => seen & known.bit() != 0,
            };
            seen |= line.known.bit();
            if again || self.replaces(line.name) {
                continue;
            }
            name.truncate(PREFIX.len());
            name.extend(
                line.name.iter().map(|byte| if *byte == b'-' { b'_' } else { byte.to_ascii_uppercase() }),
            );
            value.clear();
            value.extend_from_slice(line.value);
            let separator: &[u8] = if line.known == KnownHeader::Cookie { b"; " } else { b", " };
            let same = |other: &[u8]| other.eq_ignore_ascii_case(line.name);
            for more in headers.iter().skip(at.saturating_add(1)).filter(|other| same(other.name)) {
                value.extend_from_slice(separator);
                value.extend_from_slice(more.value);
            }
            push(&name, &value);
        }
    }

    /// Whether a parameter stands for the header.
    fn replaces(&self, name: &[u8]) -> bool {
        let same = |own: &[u8]| own.len() == name.len() && own.iter().zip(name).all(|(a, b)| *a == fold(*b));
        self.replaced.iter().any(|own| same(own))
    }
}

/// A byte of a header's name as names are compared.
fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() }
}

fn fold_all(name: &[u8]) -> Box<[u8]> {
    name.iter().copied().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &[(&str, &str)], replaced: &[&str]) -> String {
        let mut headers = HeaderList::new();
        for (name, value) in lines {
            headers.push(name.as_bytes(), value.as_bytes());
        }
        let replaced = replaced.iter().map(|name| fold_all(name.as_bytes())).collect();
        let set = ParamSet { params: Vec::new(), replaced, pass_headers: true };
        let mut out = String::new();
        let text = String::from_utf8_lossy;
        set.write_headers(&headers, &mut |name, value| {
            out.push_str(&format!("{}={}|", text(name), text(value)));
        });
        out
    }

    #[test]
    fn headers_become_upper_case_names() {
        assert_eq!(written(&[("X-My-Head", "v")], &[]), "HTTP_X_MY_HEAD=v|");
    }

    #[test]
    fn repeated_headers_are_joined_where_the_first_stands() {
        let lines = [("X-A", "1"), ("Cookie", "a=1"), ("x-a", "2"), ("cookie", "b=2")];
        assert_eq!(written(&lines, &[]), "HTTP_X_A=1, 2|HTTP_COOKIE=a=1; b=2|");
    }

    #[test]
    fn parameter_of_a_header_replaces_it_however_it_is_spelt() {
        assert_eq!(written(&[("X-A", "1"), ("x_a", "2"), ("X-B", "3")], &["X_A"]), "HTTP_X_B=3|");
    }
}
