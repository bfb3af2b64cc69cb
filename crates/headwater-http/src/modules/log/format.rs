//! `log_format`: a line compiled into operations that write straight into the log's buffer.
//!
//! Called by the log handler for every request. nginx's counterpart: `ngx_http_log_compile_format` and the operations of
//! `ngx_http_log_module.c`.

use std::sync::Arc;

use headwater_conf::{Cx, Directive, Result};
use headwater_io::clock;
use headwater_wire::escape::{escape_json, escape_log};

use crate::request::Request;
use crate::script::core_variables;
use crate::script::{VarIndex, Variables};

const COMBINED: &[u8] = b"$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// How values of variables are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escaping {
    /// `\xXX`; a missing value is `-`.
    Default,
    /// As in JSON strings.
    Json,
    /// As they are.
    None,
}

/// One step of writing a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    Text(Box<[u8]>),
    Pipe,
    TimeLocal,
    TimeIso8601,
    Msec,
    RequestTime,
    Status,
    BytesSent,
    BodyBytesSent,
    RequestLength,
    Connection,
    Variable(VarIndex),
}

/// Variables that have an operation of their own: their values never need escapes.
const DIRECT: &[(&[u8], Op)] = &[
    (b"pipe", Op::Pipe),
    (b"time_local", Op::TimeLocal),
    (b"time_iso8601", Op::TimeIso8601),
    (b"msec", Op::Msec),
    (b"request_time", Op::RequestTime),
    (b"status", Op::Status),
    (b"bytes_sent", Op::BytesSent),
    (b"body_bytes_sent", Op::BodyBytesSent),
    (b"request_length", Op::RequestLength),
    (b"connection", Op::Connection),
];

/// A compiled format.
#[derive(Debug)]
pub(super) struct Format {
    ops: Box<[Op]>,
    escaping: Escaping,
}

impl Format {
    /// Appends the line without its end.
    pub(super) fn write(&self, r: &Request, out: &mut Vec<u8>) {
        for op in &self.ops {
            match op {
                Op::Text(text) => out.extend_from_slice(text),
                Op::Pipe => out.push(if r.connection().came_early.get() { b'p' } else { b'.' }),
                Op::TimeLocal => clock::with_time_local(|time| out.extend_from_slice(time)),
                Op::TimeIso8601 => clock::with_iso8601(|time| out.extend_from_slice(time)),
                Op::Msec => core_variables::write_msec(out),
                Op::RequestTime => core_variables::seconds(core_variables::request_time_ms(r), out),
                Op::Status => {
                    let status = core_variables::status(r);
                    if status < 100 {
                        out.extend_from_slice(if status < 10 { b"00" } else { b"0" });
                    }
                    decimal(u64::from(status), out);
                }
                Op::BytesSent => decimal(r.exchange.bytes_sent.get(), out),
                Op::BodyBytesSent => decimal(core_variables::body_bytes_sent(r), out),
                Op::RequestLength => decimal(core_variables::request_length(r), out),
                Op::Connection => decimal(r.connection().number, out),
                Op::Variable(index) => {
                    let start = out.len();
                    let found = r.exchange.generation.variables.write(*index, r, out);
                    self.escaping.apply(found, start, out);
                }
            }
        }
    }

    /// Compiles the arguments of `log_format` from `first` on, which are joined.
    fn compile(
        variables: &mut Variables,
        texts: &[&[u8]],
        escaping: Escaping,
    ) -> std::result::Result<Self, String> {
        let mut ops = Vec::new();
        for text in texts {
            let mut rest = *text;
            while !rest.is_empty() {
                let plain = memchr::memchr(b'$', rest).unwrap_or(rest.len());
                let (head, tail) = rest.split_at(plain);
                if !head.is_empty() {
                    ops.push(Op::Text(head.into()));
                }
                let Some(tail) = tail.strip_prefix(b"$") else { break };
                let (name, after) = name(tail)?;
                let direct = DIRECT.iter().find(|(known, _)| *known == name);
                ops.push(match direct {
                    Some((_, op)) => op.clone(),
                    None => Op::Variable(variables.index(&String::from_utf8_lossy(name))),
                });
                rest = after;
            }
        }
        Ok(Self { ops: ops.into(), escaping })
    }
}

/// The name after a `$`, and what follows it.
fn name(tail: &[u8]) -> std::result::Result<(&[u8], &[u8]), String> {
    let (area, braced) = match tail.strip_prefix(b"{") {
        Some(area) => (area, true),
        None => (tail, false),
    };
    let length = area.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    let (name, after) = area.split_at(length);
    let after = match (braced, after.strip_prefix(b"}")) {
        (true, Some(after)) => after,
        (true, None) if !area.is_empty() => {
            return Err(format!(
                "the closing bracket in \"{}\" variable is missing",
                String::from_utf8_lossy(name)
            ));
        }
        _ => after,
    };
    if name.is_empty() {
        return Err(format!("invalid parameter \"${}\"", String::from_utf8_lossy(tail)));
    }
    Ok((name, after))
}

impl Escaping {
    /// Escapes what was appended from `start` on.
    fn apply(self, found: bool, start: usize, out: &mut Vec<u8>) {
        if !found {
            out.truncate(start);
            if self == Escaping::Default {
                out.push(b'-');
            }
            return;
        }
        let value = out.get(start..).unwrap_or_default();
        let special = match self {
            Escaping::None => false,
            Escaping::Json => value.iter().any(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')),
            Escaping::Default => {
                value.iter().any(|byte| *byte < 0x20 || *byte >= 0x7f || matches!(byte, b'"' | b'\\'))
            }
        };
        if special {
            let value = out.split_off(start);
            match self {
                Escaping::Json => escape_json(&value, out),
                _ => escape_log(&value, out),
            }
        }
    }
}

/// Appends a number. Twice as fast as the formatting machinery, and there are several in every line.
fn decimal(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut left = number;
    let mut used = 0_usize;
    for slot in digits.iter_mut().rev() {
        *slot = b'0'.saturating_add(u8::try_from(left % 10).unwrap_or(0));
        left /= 10;
        used = used.saturating_add(1);
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len().saturating_sub(used)..).unwrap_or_default());
}

/// The formats that were declared so far.
#[derive(Default)]
pub(super) struct Formats {
    named: Vec<(Vec<u8>, Arc<Format>)>,
    combined: Option<Arc<Format>>,
}

/// The format of that name.
pub(super) fn find(cx: &mut Cx<'_>, name: &[u8]) -> std::result::Result<Arc<Format>, String> {
    if name.eq_ignore_ascii_case(b"combined") {
        return combined(cx);
    }
    let formats = &cx.state::<Formats>().named;
    match formats.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some((_, format)) => Ok(format.clone()),
        None => Err(format!("unknown log format \"{}\"", String::from_utf8_lossy(name))),
    }
}

/// The predefined format, compiled on first use.
pub(super) fn combined(cx: &mut Cx<'_>) -> std::result::Result<Arc<Format>, String> {
    if let Some(format) = &cx.state::<Formats>().combined {
        return Ok(format.clone());
    }
    let format = Arc::new(Format::compile(cx.state::<Variables>(), &[COMBINED], Escaping::Default)?);
    cx.state::<Formats>().combined = Some(format.clone());
    Ok(format)
}

/// `log_format name [escape=default|json|none] string ...`.
pub(super) fn declare(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let name = directive.arg(0).to_vec();
    let known = name == b"combined" || cx.state::<Formats>().named.iter().any(|(known, _)| *known == name);
    if known {
        let message = format!("duplicate \"log_format\" name \"{}\"", directive.word(0).str());
        return Err(directive.error_at(0, message));
    }
    let mut escaping = Escaping::Default;
    let mut first = 1;
    if let Some(kind) = directive.arg(1).strip_prefix(b"escape=") {
        escaping = match kind {
            b"json" => Escaping::Json,
            b"none" => Escaping::None,
            b"default" => Escaping::Default,
            other => {
                let message = format!("unknown log format escaping \"{}\"", String::from_utf8_lossy(other));
                return Err(directive.error_at(1, message));
            }
        };
        first = 2;
    }
    let texts: Vec<&[u8]> = directive.args.iter().skip(first).map(|word| word.text.as_slice()).collect();
    let format =
        Format::compile(cx.state::<Variables>(), &texts, escaping).map_err(|text| directive.error(text))?;
    cx.state::<Formats>().named.push((name, Arc::new(format)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> std::result::Result<Vec<Op>, String> {
        let mut variables = Variables::default();
        Format::compile(&mut variables, &[text.as_bytes()], Escaping::Default)
            .map(|format| format.ops.into_vec())
    }

    fn escaped(escaping: Escaping, found: bool, value: &[u8]) -> Vec<u8> {
        let mut out = b"x".to_vec();
        out.extend_from_slice(value);
        escaping.apply(found, 1, &mut out);
        out
    }

    #[test]
    fn format_text_and_variables_become_operations() {
        let ops = compile("a $status${msec}b$foo").expect("compiles");
        assert_eq!(ops.len(), 5);
        assert_eq!(ops.first(), Some(&Op::Text(b"a ".as_slice().into())));
        assert_eq!(ops.get(1..3), Some(&[Op::Status, Op::Msec][..]));
        assert!(matches!(ops.last(), Some(Op::Variable(_))));
    }

    #[test]
    fn format_broken_variables_are_nginx_errors() {
        assert_eq!(compile("a $"), Err("invalid parameter \"$\"".into()));
        assert_eq!(compile("$-x"), Err("invalid parameter \"$-x\"".into()));
        assert_eq!(compile("${abc"), Err("the closing bracket in \"abc\" variable is missing".into()));
        assert_eq!(compile("${"), Err("invalid parameter \"${\"".into()));
    }

    #[test]
    fn values_are_escaped_by_kind() {
        assert_eq!(escaped(Escaping::Default, true, b"a\"\x01"), b"xa\\x22\\x01");
        assert_eq!(escaped(Escaping::Default, false, b"junk"), b"x-");
        assert_eq!(escaped(Escaping::Default, true, b""), b"x");
        assert_eq!(escaped(Escaping::Json, true, b"a\"\n\xff"), b"xa\\\"\\n\xff");
        assert_eq!(escaped(Escaping::Json, false, b""), b"x");
        assert_eq!(escaped(Escaping::None, true, b"\"\x01"), b"x\"\x01");
    }

    #[test]
    fn decimal_edges_are_exact() {
        let mut out = Vec::new();
        for number in [0, 7, 10, u64::MAX] {
            decimal(number, &mut out);
            out.push(b' ');
        }
        assert_eq!(out, b"0 7 10 18446744073709551615 ");
    }
}
