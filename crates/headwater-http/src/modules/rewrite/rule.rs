//! `rewrite`: a pattern, a replacement, a flag. nginx's counterpart: `ngx_http_rewrite`, `ngx_http_script_regex_start_code`.

use bytes::Bytes;
use headwater_conf::{Cx, Directive, Result};
use headwater_wire::escape::{Escape, Unescape, escape_uri, unescape};

use crate::flow::error_log::Level;
use crate::flow::phases::Outcome;
use crate::request::{PatternWithNames, Request};
use crate::script::{Complex, Part, Variables};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flag {
    None,
    Last,
    Break,
    Redirect(u16),
}

/// One `rewrite`.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pattern: PatternWithNames,
    path: Complex,
    /// What follows the first `?` of the replacement.
    args: Option<Complex>,
    /// Whether the request's own query string is added.
    add_args: bool,
    flag: Flag,
}

/// What a rule did.
pub(super) enum Applied {
    No,
    GoOn,
    Stop,
    Outcome(Outcome<'static>),
}

impl Rule {
    pub(super) fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let source = directive.arg(0).to_vec();
        let pattern = PatternWithNames::compile(cx, directive, 0, &source, false)?;
        let replacement = directive.arg(1).to_vec();
        let mut flag = Flag::None;
        if super::is_redirect_target(&replacement) {
            flag = Flag::Redirect(302);
        }
        if let Some(word) = directive.args.get(2) {
            flag = match word.text.as_slice() {
                b"last" => Flag::Last,
                b"break" => Flag::Break,
                b"redirect" => Flag::Redirect(302),
                b"permanent" => Flag::Redirect(301),
                _ => return Err(directive.invalid_parameter(2)),
            };
            if super::is_redirect_target(&replacement) && matches!(flag, Flag::Last | Flag::Break) {
                flag = Flag::Redirect(302);
            }
        }
        let (text, add_args) = match replacement.strip_suffix(b"?") {
            Some(text) => (text, false),
            None => (replacement.as_slice(), true),
        };
        let (path, args) = match text.iter().position(|byte| *byte == b'?') {
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at.saturating_add(1)..)),
            None => (text, None),
        };
        let variables = cx.state::<Variables>();
        let fail = |message: String| directive.error_at(1, message);
        let path = Complex::compile_text(variables, path).map_err(fail)?;
        let args = args.map(|args| Complex::compile_text(variables, args)).transpose().map_err(fail)?;
        Ok(Self { pattern, path, args, add_args, flag })
    }

    pub(super) fn apply(&self, r: &Request, log: bool) -> Applied {
        let uri = r.uri.borrow().clone();
        if !self.pattern.matches(r, &uri) {
            if log {
                let (pattern, uri) = (self.pattern.pattern.source(), String::from_utf8_lossy(&uri));
                r.log(Level::Notice, format_args!("\"{pattern}\" does not match \"{uri}\""));
            }
            return Applied::No;
        }
        if log {
            let (pattern, uri) = (self.pattern.pattern.source(), String::from_utf8_lossy(&uri));
            r.log(Level::Notice, format_args!("\"{pattern}\" matches \"{uri}\""));
        }
        let raw = r.exchange.head.unparsed_uri();
        let quoted = raw.iter().any(|byte| matches!(byte, b'%' | b'+'));
        let redirect = matches!(self.flag, Flag::Redirect(_));
        let mut path = Vec::new();
        write(&self.path, r, &mut path, redirect && quoted);
        let mut args = self.args.as_ref().map(|value| {
            let mut args = Vec::new();
            write(value, r, &mut args, quoted);
            args
        });
        if self.add_args {
            let own = r.args.borrow();
            if !own.is_empty() {
                match &mut args {
                    Some(args) => {
                        if !args.is_empty() || self.args.is_some() {
                            args.push(b'&');
                        }
                        args.extend_from_slice(&own);
                    }
                    None => args = Some(own.to_vec()),
                }
            }
        }
        match self.flag {
            Flag::Redirect(status) => self.redirect(r, status, &path, args, quoted),
            _ => self.change(r, path, args, log),
        }
    }

    fn redirect(
        &self,
        r: &Request,
        status: u16,
        path: &[u8],
        args: Option<Vec<u8>>,
        quoted: bool,
    ) -> Applied {
        let mut target = Vec::with_capacity(path.len());
        if quoted {
            let read = unescape(path, Unescape::Redirect, &mut target);
            target.extend_from_slice(path.get(read..).unwrap_or_default());
        } else {
            target.extend_from_slice(path);
        }
        if let Some(args) = args.filter(|args| !args.is_empty()) {
            target.push(b'?');
            target.extend_from_slice(&args);
        }
        r.headers_out.borrow_mut().location = Some(target.into());
        Applied::Outcome(Outcome::Status(status))
    }

    fn change(&self, r: &Request, path: Vec<u8>, args: Option<Vec<u8>>, log: bool) -> Applied {
        if log {
            let shown = String::from_utf8_lossy(&path);
            let shown_args = args.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            r.log(Level::Notice, format_args!("rewritten data: \"{shown}\", args: \"{shown_args}\""));
        }
        if path.is_empty() {
            r.log(Level::Error, format_args!("the rewritten URI has a zero length"));
            return Applied::Outcome(Outcome::Status(500));
        }
        if self.args.is_some() || !self.add_args {
            *r.args.borrow_mut() = Bytes::from(args.unwrap_or_default());
        }
        *r.uri.borrow_mut() = Bytes::from(path);
        r.valid_unparsed_uri.set(false);
        match self.flag {
            Flag::Break => {
                // The location stays the one it is.
                r.uri_changed.set(false);
                r.location_found.set(false);
                Applied::Stop
            }
            Flag::Last => {
                r.uri_changed.set(true);
                Applied::Stop
            }
            _ => {
                r.uri_changed.set(true);
                Applied::GoOn
            }
        }
    }
}

/// Writes a value, with captures escaped where the URI came escaped.
fn write(value: &Complex, r: &Request, out: &mut Vec<u8>, escape: bool) {
    for part in value.parts() {
        match part {
            Part::Capture(group) if escape => {
                let mut capture = Vec::new();
                r.write_capture(usize::from(*group), &mut capture);
                escape_uri(&capture, Escape::Args, out);
            }
            part => part.write(r, out),
        }
    }
}
