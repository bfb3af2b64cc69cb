//! The variable table: names become indices at load, values are written straight into the caller's buffer at run time.
//!
//! Modules declare variables as records ([`VariableDef`]); `map`, `geo` and others add computed ones; `set` and named captures add plain
//! ones. Called by `script::complex`; nginx's counterpart: `ngx_http_variables.c`.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_conf::{Cx, Diagnostic, Directive, Result};

use crate::request::Request;

/// Appends the value to the buffer; `false` means the variable has no value now (nginx: `not_found`). The text is what
/// follows a prefix variable's prefix.
pub type Getter = fn(&Request, &[u8], &mut Vec<u8>) -> bool;

/// Takes a value that the configuration assigns (`set $args …`).
pub type Assign = fn(&Request, &[u8]);

/// All that is known about one built-in variable.
#[derive(Clone, Copy)]
pub struct VariableDef {
    /// The name without `$`; for a prefix variable the prefix, `http_`.
    pub name: &'static str,
    /// nginx's module.
    pub module: &'static str,
    /// What it holds.
    pub doc: &'static str,
    /// Whether any name that starts with `name` is this variable.
    pub prefix: bool,
    /// Writes the value.
    pub get: Getter,
    /// Takes an assigned value; only these built-in variables may be redefined.
    pub assign: Option<Assign>,
}

impl VariableDef {
    /// A variable of one name.
    #[must_use]
    pub const fn new(name: &'static str, module: &'static str, get: Getter, doc: &'static str) -> Self {
        Self { name, module, doc, prefix: false, get, assign: None }
    }

    /// A family of variables with a common prefix.
    #[must_use]
    pub const fn family(name: &'static str, module: &'static str, get: Getter, doc: &'static str) -> Self {
        Self { name, module, doc, prefix: true, get, assign: None }
    }

    /// The same, assignable.
    #[must_use]
    pub const fn assignable(mut self, assign: Assign) -> Self {
        self.assign = Some(assign);
        self
    }
}

/// A variable whose value a module computes from the request (`map`, `geo`, `split_clients`).
pub trait VariableSource: Send + Sync {
    /// Appends the value; `false` when there is none.
    fn value(&self, r: &Request, out: &mut Vec<u8>) -> bool;
    /// Whether the value may change during a request; otherwise it is computed once.
    fn volatile(&self) -> bool {
        false
    }
}

/// Names one variable of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VarIndex(u32);

impl VarIndex {
    pub(crate) fn slot(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone)]
enum Kind {
    Unresolved,
    BuiltIn(VariableDef, Box<[u8]>),
    Computed(Arc<dyn VariableSource>),
    /// Assigned by `set`, a named capture or a module: lives in the request's slots.
    Plain,
}

struct Entry {
    name: Box<str>,
    kind: Kind,
}

/// The variables of one configuration, while it loads and afterwards.
#[derive(Default)]
pub struct Variables {
    entries: Vec<Entry>,
    by_name: HashMap<Box<str>, VarIndex>,
    built_in: HashMap<&'static str, VariableDef>,
    families: Vec<VariableDef>,
    named_at_run_time: bool,
}

/// The value of a plain or computed variable in one request.
#[derive(Clone, Default, Debug)]
pub enum Slot {
    /// Nothing assigned or computed yet.
    #[default]
    Unset,
    /// Computed: there is no value.
    Missing,
    /// The value.
    Value(bytes::Bytes),
}

impl Variables {
    /// Takes the modules' records.
    pub fn declare(&mut self, defs: &[VariableDef]) {
        for def in defs {
            if def.prefix {
                self.families.push(*def);
            } else {
                self.built_in.insert(def.name, *def);
            }
        }
    }

    /// The index of a name that some value uses; whether it exists is checked by [`Self::finish`].
    pub fn index(&mut self, name: &str) -> VarIndex {
        let name = name.to_ascii_lowercase();
        if let Some(index) = self.by_name.get(name.as_str()) {
            return *index;
        }
        let index = VarIndex(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        self.entries.push(Entry { name: name.as_str().into(), kind: Kind::Unresolved });
        self.by_name.insert(name.into(), index);
        index
    }

    /// Whether a built-in variable that cannot be assigned has this name. A name that only a family covers may be given another meaning
    /// (`set $arg_x`).
    fn is_fixed(&self, name: &str) -> bool {
        self.built_in.get(name).is_some_and(|def| def.assign.is_none())
    }

    /// A variable that the configuration assigns (`set`, named captures).
    pub fn plain(&mut self, name: &str) -> std::result::Result<VarIndex, String> {
        let lower = name.to_ascii_lowercase();
        if self.is_fixed(&lower) {
            return Err(format!("the duplicate \"{name}\" variable"));
        }
        let assignable = self.built_in.get(lower.as_str()).copied();
        let index = self.index(&lower);
        if let Some(entry) = self.entries.get_mut(index.slot())
            && matches!(entry.kind, Kind::Unresolved)
        {
            entry.kind = match assignable {
                Some(def) => Kind::BuiltIn(def, Box::default()),
                None => Kind::Plain,
            };
        }
        Ok(index)
    }

    /// A variable that a module computes.
    pub fn computed(
        &mut self,
        name: &str,
        source: Arc<dyn VariableSource>,
    ) -> std::result::Result<VarIndex, String> {
        let lower = name.to_ascii_lowercase();
        if self.is_fixed(&lower) {
            return Err(format!("the duplicate \"{name}\" variable"));
        }
        let index = self.index(&lower);
        if let Some(entry) = self.entries.get_mut(index.slot()) {
            entry.kind = Kind::Computed(source);
        }
        Ok(index)
    }

    /// Ties every used name to what gives its value; an unknown one is nginx's `unknown "x" variable`.
    pub fn finish(&mut self) -> Result<()> {
        for entry in &mut self.entries {
            if !matches!(entry.kind, Kind::Unresolved) {
                continue;
            }
            let name: &str = &entry.name;
            entry.kind = if let Some(def) = self.built_in.get(name) {
                Kind::BuiltIn(*def, Box::default())
            } else if let Some(def) = self.families.iter().find(|def| name.starts_with(def.name)) {
                let suffix = name.get(def.name.len()..).unwrap_or_default();
                Kind::BuiltIn(*def, suffix.as_bytes().into())
            } else {
                let known = self.built_in.keys().copied();
                let error = Diagnostic::new(format!("unknown \"{name}\" variable"));
                return Err(match headwater_conf::diagnostic::nearest(name, known) {
                    Some(near) => error.with_help(format!("did you mean \"${near}\"?")),
                    None => error,
                });
            };
        }
        Ok(())
    }

    /// Whether any variable in use has a name that starts like this.
    #[must_use]
    pub fn uses_prefix(&self, prefix: &str) -> bool {
        self.named_at_run_time || self.entries.iter().any(|entry| entry.name.starts_with(prefix))
    }

    /// How many slots a request needs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no value uses a variable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A variable's name.
    #[must_use]
    pub fn name(&self, index: VarIndex) -> &str {
        self.entries.get(index.slot()).map_or("", |entry| &entry.name)
    }

    /// The index of a name in use after loading.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<VarIndex> {
        self.by_name.get(name).copied()
    }

    /// Appends the value of a variable whose name is known at run time only; `false` when it has none, or does not exist.
    pub fn write_named(&self, name: &str, r: &Request, out: &mut Vec<u8>) -> bool {
        let name = name.to_ascii_lowercase();
        if let Some(index) = self.find(&name) {
            return self.write(index, r, out);
        }
        if let Some(def) = self.built_in.get(name.as_str()) {
            return (def.get)(r, b"", out);
        }
        let family = self.families.iter().find(|def| name.starts_with(def.name));
        family.is_some_and(|def| (def.get)(r, name.get(def.name.len()..).unwrap_or_default().as_bytes(), out))
    }

    /// Notes that names of variables come up at run time, so that all must be at hand.
    pub fn expect_named(&mut self) {
        self.named_at_run_time = true;
    }

    /// Appends a variable's value; `false` when it has none.
    pub fn write(&self, index: VarIndex, r: &Request, out: &mut Vec<u8>) -> bool {
        let Some(entry) = self.entries.get(index.slot()) else { return false };
        match &entry.kind {
            Kind::BuiltIn(def, suffix) => (def.get)(r, suffix, out),
            Kind::Plain => match r.exchange.slot(index) {
                Slot::Value(value) => {
                    out.extend_from_slice(&value);
                    true
                }
                Slot::Missing => false,
                Slot::Unset => {
                    r.warn_uninitialized(&entry.name);
                    false
                }
            },
            Kind::Computed(source) => {
                match r.exchange.slot(index) {
                    Slot::Value(value) => {
                        out.extend_from_slice(&value);
                        return true;
                    }
                    Slot::Missing => return false,
                    Slot::Unset => {}
                }
                let start = out.len();
                let found = source.value(r, out);
                if !source.volatile() {
                    let slot = if found {
                        Slot::Value(bytes::Bytes::copy_from_slice(out.get(start..).unwrap_or_default()))
                    } else {
                        Slot::Missing
                    };
                    r.exchange.set_slot(index, slot);
                }
                found
            }
            Kind::Unresolved => false,
        }
    }

    /// Assigns a value at run time.
    pub fn assign(&self, index: VarIndex, r: &Request, value: &[u8]) {
        match self.entries.get(index.slot()).map(|entry| &entry.kind) {
            Some(Kind::BuiltIn(VariableDef { assign: Some(assign), .. }, _)) => assign(r, value),
            _ => r.exchange.set_slot(index, Slot::Value(bytes::Bytes::copy_from_slice(value))),
        }
    }
}

/// The name of a variable argument such as `$foo`, or nginx's `invalid variable name "foo"`.
pub fn variable_name(directive: &Directive, index: usize) -> Result<&str> {
    let word = directive.arg(index);
    let name = word.strip_prefix(b"$").and_then(|name| std::str::from_utf8(name).ok());
    name.filter(|name| !name.is_empty()).ok_or_else(|| {
        directive.error_at(index, format!("invalid variable name \"{}\"", directive.word(index).str()))
    })
}

/// Declares the variable that a directive assigns (`set $x`, `auth_request_set $x`).
pub fn declare_plain(cx: &mut Cx<'_>, directive: &Directive, index: usize) -> Result<VarIndex> {
    let name = variable_name(directive, index)?;
    cx.state::<Variables>().plain(name).map_err(|message| directive.error_at(index, message))
}
