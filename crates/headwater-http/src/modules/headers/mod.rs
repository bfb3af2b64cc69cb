//! `add_header`, `add_trailer`, `expires`: fields added to responses.
//!
//! A header filter and, for trailers, a body filter. nginx's counterpart: `ngx_http_headers_filter_module.c`.

mod expires;

use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::HSLI;
use headwater_conf::value::keyword;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, ScopeId, Scopes, Value as _, keywords};
use headwater_wire::date;

use super::Module;
use crate::config::LocationBuilder;
use crate::filters::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::flow::output::SendError;
use crate::request::{HeadersOut, Request};
use crate::script::Complex;
use expires::Expires;

/// `ngx_http_headers_module`.
pub static MODULE: Module = Module { directives: &[DIRECTIVES], ..Module::named("ngx_http_headers_module") };

const fn record(
    name: &'static str,
    args: Args,
    syntax: &'static str,
    default: &'static str,
    doc: &'static str,
    set: headwater_conf::directive::Setter,
) -> DirectiveDef {
    DirectiveDef { name, module: "ngx_http_headers_module", contexts: HSLI, args, syntax, default, doc, set }
}

const DIRECTIVES: &[DirectiveDef] = &[
    record(
        "add_header",
        Args::range(2, 3),
        "name value [always]",
        "",
        "Adds a field to the response header, for some statuses or always.\n",
        |cx, directive| {
            let field = field(cx, directive)?;
            cx.raw::<HeadersRaw>().headers.push(field);
            Ok(())
        },
    ),
    record(
        "add_header_inherit",
        Args::exactly(1),
        "on | off | merge",
        "on",
        "Says how `add_header` of the outer level is inherited: when this level has none, not at all, or in addition.\n",
        |cx, directive| {
            let inherit = keyword(directive, 0)?;
            once(&mut cx.raw::<HeadersRaw>().headers_inherit, inherit, directive)
        },
    ),
    record(
        "add_trailer",
        Args::range(2, 3),
        "name value [always]",
        "",
        "Adds a field to the end of the response, for some statuses or always.\n",
        |cx, directive| {
            let field = field(cx, directive)?;
            cx.raw::<HeadersRaw>().trailers.push(field);
            Ok(())
        },
    ),
    record(
        "add_trailer_inherit",
        Args::exactly(1),
        "on | off | merge",
        "on",
        "Says how `add_trailer` of the outer level is inherited: when this level has none, not at all, or in addition.\n",
        |cx, directive| {
            let inherit = keyword(directive, 0)?;
            once(&mut cx.raw::<HeadersRaw>().trailers_inherit, inherit, directive)
        },
    ),
    record(
        "expires",
        Args::range(1, 2),
        "[modified] time ;; epoch | max | off",
        "off",
        "Sets the `Expires` and `Cache-Control` response header fields.\n",
        |cx, directive| {
            if cx.raw::<HeadersRaw>().expires.is_some() {
                return Err(directive.duplicate());
            }
            let expires = Expires::parse(cx, directive)?;
            cx.raw::<HeadersRaw>().expires = Some(expires);
            Ok(())
        },
    ),
];

keywords! {
    /// How fields of the outer level are inherited.
    pub enum Inherit {
        /// When this level has none.
        On = "on",
        /// Not at all.
        Off = "off",
        /// In addition.
        Merge = "merge",
    }
}

/// What a block set, and with its outer blocks' what holds in it.
#[derive(Debug, Clone, Default)]
struct HeadersRaw {
    headers: Vec<Arc<Field>>,
    headers_inherit: Option<Inherit>,
    trailers: Vec<Arc<Field>>,
    trailers_inherit: Option<Inherit>,
    expires: Option<Expires>,
}

/// One field to add.
#[derive(Debug)]
struct Field {
    name: Bytes,
    kind: Kind,
    value: Complex,
    always: bool,
}

/// Fields with a place of their own in the response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    LastModified,
    ETag,
}

fn once<T>(slot: &mut Option<T>, value: T, directive: &Directive) -> Result<()> {
    match slot.replace(value) {
        Some(_) => Err(directive.duplicate()),
        None => Ok(()),
    }
}

fn field(cx: &mut Cx<'_>, directive: &Directive) -> Result<Arc<Field>> {
    let name = Bytes::copy_from_slice(directive.arg(0));
    let kind = if name.eq_ignore_ascii_case(b"last-modified") {
        Kind::LastModified
    } else if name.eq_ignore_ascii_case(b"etag") {
        Kind::ETag
    } else {
        Kind::Plain
    };
    let value = Complex::compile(cx, directive, 1)?;
    let always = match directive.args.get(2) {
        None => false,
        Some(word) if word.is("always") => true,
        Some(_) => return Err(directive.invalid_parameter(2)),
    };
    Ok(Arc::new(Field { name, kind, value, always }))
}

impl HeadersRaw {
    /// Takes what the outer level hands down.
    fn merge(&mut self, outer: &HeadersRaw) {
        self.headers_inherit = self.headers_inherit.or(outer.headers_inherit);
        self.trailers_inherit = self.trailers_inherit.or(outer.trailers_inherit);
        inherit(&mut self.headers, &outer.headers, self.headers_inherit);
        inherit(&mut self.trailers, &outer.trailers, self.trailers_inherit);
        if self.expires.is_none() {
            self.expires.clone_from(&outer.expires);
        }
    }
}

fn inherit(own: &mut Vec<Arc<Field>>, outer: &[Arc<Field>], how: Option<Inherit>) {
    match how.unwrap_or(Inherit::On) {
        Inherit::On if own.is_empty() => own.extend_from_slice(outer),
        Inherit::Merge => own.extend_from_slice(outer),
        Inherit::On | Inherit::Off => {}
    }
}

/// What holds in a block. A block that sets nothing is a level of its own too: `off` handed down to it drops the fields of the
/// level around it.
fn resolve(scopes: &Scopes, scope: ScopeId) -> HeadersRaw {
    let own = scopes.peek::<HeadersRaw>(scope).cloned().unwrap_or_default();
    match scopes.parent(scope) {
        None => own,
        Some(parent) => {
            let mut merged = own;
            merged.merge(&resolve(scopes, parent));
            merged
        }
    }
}

/// Puts the filter into locations that add anything.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = resolve(&builder.cx.scopes, builder.decl.scope);
    let expires = settings.expires.filter(|expires| !expires.is_off());
    if !settings.headers.is_empty() || !settings.trailers.is_empty() || expires.is_some() {
        let filter = Headers { headers: settings.headers, trailers: settings.trailers.into(), expires };
        builder.location.header_filters.push(Box::new(filter));
    }
    Ok(())
}

struct Headers {
    headers: Vec<Arc<Field>>,
    trailers: Arc<[Arc<Field>]>,
    expires: Option<Expires>,
}

/// Statuses for which fields without `always` are added.
fn is_safe(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

impl HeaderFilter for Headers {
    fn filter(&self, r: &Request) -> Filtered {
        if !r.is_main() {
            return Filtered::Pass;
        }
        let safe = is_safe(r.headers_out.borrow().status());
        if let Some(expires) = self.expires.as_ref().filter(|_| safe) {
            expires.apply(r);
        }
        for field in self.headers.iter().filter(|field| safe || field.always) {
            // The value may come from the head as it is now.
            let value = field.value.value(r);
            field.apply(&value, &mut r.headers_out.borrow_mut());
        }
        if self.trailers.iter().any(|field| safe || field.always) {
            r.headers_out.borrow_mut().expect_trailers = true;
            return Filtered::Install(
                Order::Trailers,
                Box::new(Trailers { fields: self.trailers.clone(), safe }),
            );
        }
        Filtered::Pass
    }
}

impl Field {
    fn apply(&self, value: &[u8], out: &mut HeadersOut) {
        match self.kind {
            Kind::Plain => {
                if !value.is_empty() {
                    out.list.push(&self.name, value);
                }
            }
            Kind::LastModified => {
                out.last_modified = date::parse(value);
                set_or_remove(out, b"Last-Modified", value);
            }
            Kind::ETag => set_or_remove(out, b"ETag", value),
        }
    }
}

fn set_or_remove(out: &mut HeadersOut, name: &[u8], value: &[u8]) {
    if value.is_empty() {
        out.list.remove(name);
    } else {
        out.list.set(name, value);
    }
}

/// Computes the trailers when the body is complete.
struct Trailers {
    fields: Arc<[Arc<Field>]>,
    safe: bool,
}

impl BodyFilter for Trailers {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        if end == End::Last && !r.header_only.get() {
            for field in self.fields.iter().filter(|field| self.safe || field.always) {
                let value = field.value.value(r).into_owned();
                if !value.is_empty() {
                    r.headers_out.borrow_mut().trailers.push((field.name.clone(), value.into()));
                }
            }
        }
        next.push(r, chunk, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str) -> Arc<Field> {
        let name = Bytes::copy_from_slice(name.as_bytes());
        Arc::new(Field { name, kind: Kind::Plain, value: Complex::text(b"x"), always: false })
    }

    fn level(names: &[&str], inherit: Option<Inherit>) -> HeadersRaw {
        HeadersRaw {
            headers: names.iter().map(|name| field(name)).collect(),
            headers_inherit: inherit,
            ..HeadersRaw::default()
        }
    }

    fn names(levels: Vec<HeadersRaw>) -> Vec<String> {
        let merged = levels.into_iter().reduce(|outer, mut inner| {
            inner.merge(&outer);
            inner
        });
        let headers = merged.map(|merged| merged.headers).unwrap_or_default();
        headers.iter().map(|field| String::from_utf8_lossy(&field.name).into_owned()).collect()
    }

    #[test]
    fn fields_are_inherited_as_the_level_says() {
        assert_eq!(names(vec![level(&["a"], None), level(&[], None)]), ["a"]);
        assert_eq!(names(vec![level(&["a"], None), level(&["b"], None)]), ["b"]);
        assert_eq!(
            names(vec![level(&["a"], None), level(&["b"], Some(Inherit::Merge)), level(&["c"], None)]),
            ["c", "b", "a"]
        );
        assert!(names(vec![level(&["a"], Some(Inherit::Off)), level(&[], None)]).is_empty());
        assert_eq!(names(vec![level(&["a"], Some(Inherit::Merge)), level(&["b"], Some(Inherit::On))]), ["b"]);
    }

    #[test]
    fn special_fields_replace_and_an_empty_value_removes() {
        let special = |name: &'static str, kind| Field {
            name: Bytes::from_static(name.as_bytes()),
            kind,
            value: Complex::text(b""),
            always: false,
        };
        let mut out = HeadersOut::default();
        let modified = special("Last-Modified", Kind::LastModified);
        modified.apply(b"Sun, 06 Nov 1994 08:49:37 GMT", &mut out);
        assert_eq!(out.last_modified, Some(784_111_777));
        modified.apply(b"", &mut out);
        assert!(out.last_modified.is_none() && out.list.is_empty());
        let tag = special("ETag", Kind::ETag);
        tag.apply(b"\"a\"", &mut out);
        tag.apply(b"\"b\"", &mut out);
        assert_eq!(out.list.get_all(b"etag").collect::<Vec<_>>(), [b"\"b\""]);
        tag.apply(b"", &mut out);
        assert!(out.list.is_empty());
    }
}
