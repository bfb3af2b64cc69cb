//! `proxy_redirect`. nginx's counterpart: `ngx_http_proxy_redirect`, `ngx_http_proxy_rewrite_redirect`.

use bytes::Bytes;
use headwater_conf::{Args, Cx, Directive, Result, Value};

use super::url::{Pass, Upstream};
use crate::request::{PatternWithNames, Request};
use crate::script::Complex;

/// The directives of one block.
#[derive(Debug, Clone)]
pub struct Redirects(Vec<Entry>);

impl Default for Redirects {
    fn default() -> Self {
        Self(vec![Entry::Default(None)])
    }
}

#[derive(Debug, Clone)]
enum Entry {
    Default(Option<Directive>),
    Off,
    Rewrite(Rewrite),
}

/// One rewriting rule.
#[derive(Debug, Clone)]
pub(super) struct Rewrite {
    from: From,
    to: Complex,
}

#[derive(Debug, Clone)]
enum From {
    Prefix(Complex),
    Pattern(Box<PatternWithNames>),
}

impl Value for Redirects {
    const ARGS: Args = Args::range(1, 2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut all = None;
        Self::set(&mut all, cx, directive)?;
        Ok(all.unwrap_or(Self(Vec::new())))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        if slot.as_ref().is_some_and(|all| matches!(all.0.as_slice(), [Entry::Off])) {
            return Err(directive.duplicate());
        }
        let entry = if directive.args.len() == 1 {
            match directive.arg(0) {
                b"off" if slot.is_none() => Entry::Off,
                b"off" => return Err(directive.duplicate()),
                b"default" if cx.raw::<super::ProxyRaw>().pass.is_set() => {
                    Entry::Default(Some(directive.clone()))
                }
                b"default" => {
                    let message =
                        "\"proxy_redirect default\" should be placed after the \"proxy_pass\" directive";
                    return Err(directive.error(message));
                }
                _ => return Err(directive.invalid_parameter(0)),
            }
        } else {
            let text = directive.arg(0).to_vec();
            let from = match text.strip_prefix(b"~") {
                Some(source) => {
                    let (source, ignore_case) = match source.strip_prefix(b"*") {
                        Some(source) => (source, true),
                        None => (source, false),
                    };
                    From::Pattern(Box::new(PatternWithNames::compile(cx, directive, 0, source, ignore_case)?))
                }
                None => From::Prefix(Complex::compile(cx, directive, 0)?),
            };
            Entry::Rewrite(Rewrite { from, to: Complex::compile(cx, directive, 1)? })
        };
        slot.get_or_insert(Self(Vec::new())).0.push(entry);
        Ok(())
    }
}

impl Redirects {
    /// The rules of a location; `default` depends on its `proxy_pass`.
    pub(super) fn resolve(&self, upstream: &Upstream, location: &[u8], _: &Pass) -> Result<Vec<Rewrite>> {
        let mut rules = Vec::new();
        for entry in &self.0 {
            match entry {
                Entry::Off => {}
                Entry::Rewrite(rule) => rules.push(rule.clone()),
                Entry::Default(directive) => match upstream {
                    Upstream::Dynamic(_) => {
                        if let Some(directive) = directive {
                            return Err(directive.error("\"proxy_redirect default\" cannot be used with \"proxy_pass\" directive with variables"));
                        }
                    }
                    Upstream::Fixed { uri, url, .. } => {
                        let (from, to) = if uri.is_empty() {
                            ([url.as_ref(), b"/"].concat(), b"/".as_slice())
                        } else {
                            (url.to_vec(), location)
                        };
                        rules.push(Rewrite {
                            from: From::Prefix(Complex::text(&from)),
                            to: Complex::text(to),
                        });
                    }
                },
            }
        }
        Ok(rules)
    }
}

/// Rewrites a `Location` or `Refresh` value by the first rule that fits.
pub(super) fn rewrite(r: &Request, rules: &[Rewrite], value: &[u8]) -> Option<Vec<u8>> {
    let lower = value.to_ascii_lowercase();
    // `Refresh: 5; url=…` has its URL behind a prefix.
    let start = lower.windows(4).position(|window| window == b"url=").map_or(0, |at| at.saturating_add(4));
    let url = value.get(start..)?;
    for rule in rules {
        let replaced = match &rule.from {
            From::Prefix(prefix) => {
                let prefix = prefix.value(r);
                url.strip_prefix(prefix.as_ref()).map(|rest| {
                    let mut out = rule.to.value(r).into_owned();
                    out.extend_from_slice(rest);
                    out
                })
            }
            From::Pattern(pattern) => {
                let subject = Bytes::copy_from_slice(url);
                pattern.matches(r, &subject).then(|| rule.to.value(r).into_owned())
            }
        };
        if let Some(replaced) = replaced {
            let mut out = value.get(..start).unwrap_or_default().to_vec();
            out.extend_from_slice(&replaced);
            return Some(out);
        }
    }
    None
}
