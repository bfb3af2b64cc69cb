//! Directives whose words are a set: `proxy_next_upstream`, `gzip_proxied` and the like.
//!
//! Used by the modules that have them. nginx's counterpart: `ngx_conf_set_bitmask_slot`.

/// Declares a set of words as bits, with its directive value.
macro_rules! flags {
    ($(#[$meta:meta])* $vis:vis $name:ident { $($(#[doc = $doc:expr])+ $flag:ident = $bit:expr, $word:expr;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        $vis struct $name(pub u32);

        impl $name {
            $($(#[doc = $doc])+ $vis const $flag: $name = $name(1 << $bit);)*
            const WORDS: &'static [(&'static str, $name)] = &[$(($word, $name::$flag)),*];

            /// Whether all of these are in the set.
            #[must_use]
            $vis fn has(self, flags: $name) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Both sets.
            #[must_use]
            $vis const fn and(self, flags: $name) -> $name {
                $name(self.0 | flags.0)
            }

            /// The flag of a word, whatever its case.
            #[must_use]
            $vis fn from_word(word: &[u8]) -> Option<$name> {
                let known = Self::WORDS.iter().find(|(known, _)| word.eq_ignore_ascii_case(known.as_bytes()));
                known.map(|(_, flag)| *flag)
            }
        }

        impl headwater_conf::Value for $name {
            const ARGS: headwater_conf::Args = headwater_conf::Args::at_least(1);

            fn parse(
                cx: &mut headwater_conf::Cx<'_>,
                directive: &headwater_conf::Directive,
            ) -> headwater_conf::Result<Self> {
                let mut slot = None;
                Self::set(&mut slot, cx, directive)?;
                Ok(slot.unwrap_or_default())
            }

            // A directive that stands twice adds to the set.
            fn set(
                slot: &mut Option<Self>,
                cx: &mut headwater_conf::Cx<'_>,
                directive: &headwater_conf::Directive,
            ) -> headwater_conf::Result<()> {
                let set = slot.get_or_insert_default();
                for (index, word) in directive.args.iter().enumerate() {
                    let Some(flag) = Self::from_word(&word.text) else {
                        let message = format!("invalid value \"{}\"", word.str());
                        return Err(directive.error_at(index, message));
                    };
                    if set.has(flag) {
                        cx.warn(directive, format!("duplicate value \"{}\"", word.str()));
                    }
                    *set = set.and(flag);
                }
                Ok(())
            }
        }
    };
}
pub(crate) use flags;
