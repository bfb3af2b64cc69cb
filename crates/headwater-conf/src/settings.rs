//! `Setting<T>` (unset or set, with its position) and the macro that declares a module's settings and their directives together.

use crate::diagnostic::Result;
use crate::interpret::Cx;
use crate::parse::{Directive, Position};
use crate::value::Value;

/// A value that a block may or may not have set, and where it did.
#[derive(Debug, Clone)]
pub struct Setting<T> {
    value: Option<T>,
    position: Option<Position>,
}

impl<T> Default for Setting<T> {
    fn default() -> Self {
        Self { value: None, position: None }
    }
}

impl<T> Setting<T> {
    /// The value, when set here or in an outer block.
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// Where it was set.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Replaces the value without a position, for settings that follow from others.
    pub fn assign(&mut self, value: T) {
        self.value = Some(value);
    }
}

impl<T: Value> Setting<T> {
    /// Stores a directive's arguments, or adds to what the block has (see [`Value::set`]).
    pub fn set(&mut self, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        T::set(&mut self.value, cx, directive)?;
        self.position.get_or_insert(directive.position());
        Ok(())
    }

    /// Takes the outer block's value where this one has none.
    pub fn inherit(&mut self, outer: &Setting<T>) {
        if !self.is_set() {
            self.position = outer.position;
        }
        T::inherit(&mut self.value, &outer.value);
    }
}

/// Declares a group of settings once: the raw form per block, the resolved form, merging, and the directive records.
///
/// ```text
/// settings! {
///     /// What the group is.
///     pub struct GzipSettings, raw GzipRaw, module "ngx_http_gzip_module" {
///         /// Compresses responses.
///         "gzip", HSLI, "on | off", "off" => enabled: bool = false;
///     }
/// }
/// ```
///
/// Each entry is: name, contexts, syntax, default as documented `=>` field: type = default value. The type implements
/// [`Value`](crate::value::Value), which says how many arguments there are, how they are read and how blocks inherit. The records are
/// `GzipSettings::DIRECTIVES`. Several names may be built with `concat!`, so that families with a prefix are declared once.
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $vis:vis struct $resolved:ident, raw $raw:ident, module $module:literal {
            $(
                $(#[doc = $doc:expr])+
                $name:expr, $contexts:expr, $syntax:expr, $default_text:expr =>
                $field:ident : $ty:ty = $default:expr ;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis struct $resolved {
            $( $(#[doc = $doc])+ pub $field: $ty, )*
        }

        /// The settings of one block before merging.
        #[derive(Debug, Clone, Default)]
        $vis struct $raw {
            $( $(#[doc = $doc])+ pub $field: $crate::Setting<$ty>, )*
        }

        impl $resolved {
            /// The records of the directives declared with these settings.
            $vis const DIRECTIVES: &'static [$crate::DirectiveDef] = &[
                $( $crate::DirectiveDef {
                    name: $name,
                    module: $module,
                    contexts: $contexts,
                    args: <$ty as $crate::Value>::ARGS,
                    syntax: $syntax,
                    default: $default_text,
                    doc: concat!($($doc, "\n"),+),
                    set: |cx, directive| {
                        let mut slot = std::mem::take(&mut cx.raw::<$raw>().$field);
                        let outcome = slot.set(cx, directive);
                        cx.raw::<$raw>().$field = slot;
                        outcome
                    },
                }, )*
            ];
        }

        impl $crate::Settings for $resolved {
            const INHERITS: bool = true $( && <$ty as $crate::Value>::INHERITS )*;
            type Raw = $raw;

            fn merge(raw: &mut $raw, outer: &$raw) {
                $( raw.$field.inherit(&outer.$field); )*
                let _ = (raw, outer);
            }

            fn resolve(raw: &$raw) -> Self {
                let _ = raw;
                Self {
                    $( $field: match raw.$field.get() {
                        Some(value) => value.clone(),
                        None => $default,
                    }, )*
                }
            }
        }
    };
}
