//! `allow` and `deny`: access by the client's address.
//!
//! Rules are tried in order, the first that matches decides. Called in the access phase; `satisfy` is the flow's. nginx's counterpart:
//! `ngx_http_access_module.c`.

use std::sync::Arc;

use headwater_conf::context::HSLX;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, Settings};

use super::Module;
use super::cidr::{Cidr, Place, mask4, mask6};
use crate::config::LocationBuilder;
use crate::config::core::Satisfy;
use crate::flow::error_log::Level;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;

const DIRECTIVES: &[DirectiveDef] = &[
    DirectiveDef {
        name: "allow",
        module: "ngx_http_access_module",
        contexts: HSLX,
        args: Args::exactly(1),
        syntax: "address | CIDR | unix: | all",
        default: "",
        doc: "Allows access for the network or address.\n",
        set: |cx, directive| add(cx, directive, false),
    },
    DirectiveDef {
        name: "deny",
        module: "ngx_http_access_module",
        contexts: HSLX,
        args: Args::exactly(1),
        syntax: "address | CIDR | unix: | all",
        default: "",
        doc: "Denies access for the network or address.\n",
        set: |cx, directive| add(cx, directive, true),
    },
];

/// `ngx_http_access_module`.
pub static MODULE: Module =
    Module { directives: &[DIRECTIVES], build, ..Module::named("ngx_http_access_module") };

/// The rules of a block in order. A block with rules of its own does not take the outer block's.
#[derive(Debug, Clone, Default)]
pub struct AccessRules {
    v4: Vec<Rule<u32>>,
    v6: Vec<Rule<u128>>,
    unix: Vec<bool>,
}

#[derive(Debug, Clone, Copy)]
struct Rule<T> {
    network: T,
    mask: T,
    deny: bool,
}

impl AccessRules {
    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.unix.is_empty()
    }

    fn add(&mut self, network: Cidr, deny: bool) {
        match network {
            Cidr::V4(network, length) => self.v4.push(Rule { network, mask: mask4(length), deny }),
            Cidr::V6(network, length) => self.v6.push(Rule { network, mask: mask6(length), deny }),
            Cidr::Unix => self.unix.push(deny),
        }
    }

    /// Whether the first rule that matches denies; `None` when none matches.
    fn denies(&self, place: Place) -> Option<bool> {
        match place {
            Place::V4(ip) => self.v4.iter().find(|rule| ip & rule.mask == rule.network).map(|rule| rule.deny),
            Place::V6(ip) => self.v6.iter().find(|rule| ip & rule.mask == rule.network).map(|rule| rule.deny),
            Place::Unix => self.unix.first().copied(),
        }
    }
}

impl Settings for AccessRules {
    const INHERITS: bool = true;
    type Raw = AccessRules;

    fn merge(raw: &mut AccessRules, outer: &AccessRules) {
        if raw.is_empty() {
            raw.clone_from(outer);
        }
    }

    fn resolve(raw: &AccessRules) -> Self {
        raw.clone()
    }
}

fn add(cx: &mut Cx<'_>, directive: &Directive, deny: bool) -> Result<()> {
    let networks: &[Cidr] = match directive.arg(0) {
        b"all" => &[Cidr::V4(0, 0), Cidr::V6(0, 0), Cidr::Unix],
        b"unix:" => &[Cidr::Unix],
        text => {
            let Some((network, has_low_bits)) = Cidr::parse(text) else {
                return Err(directive.invalid_parameter(0));
            };
            if has_low_bits {
                cx.warn(
                    directive,
                    format!("low address bits of {} are meaningless", directive.word(0).str()),
                );
            }
            &[network]
        }
    };
    for network in networks {
        cx.raw::<AccessRules>().add(*network, deny);
    }
    Ok(())
}

struct Access(Arc<AccessRules>);

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let rules = builder.settings::<AccessRules>();
    if !rules.is_empty() {
        builder.location.access.push(Box::new(Access(rules)));
    }
    Ok(())
}

impl Handler for Access {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        match self.0.denies(Place::of(r.peer())) {
            None => Outcome::Declined,
            Some(false) => Outcome::Ok,
            Some(true) => {
                // With `satisfy any` another check may still let the request pass; the flow logs when none does.
                if r.loc().core.satisfy == Satisfy::All {
                    r.log(Level::Error, format_args!("access forbidden by rule"));
                }
                Outcome::Status(403)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::cidr::parse_addr_port;

    fn rules(list: &[(&str, bool)]) -> AccessRules {
        let mut rules = AccessRules::default();
        for (text, deny) in list {
            rules.add(Cidr::parse(text.as_bytes()).expect("a network").0, *deny);
        }
        rules
    }

    fn denies(rules: &AccessRules, addr: &str) -> Option<bool> {
        rules.denies(Place::of(&parse_addr_port(addr.as_bytes()).expect("an address")))
    }

    #[test]
    fn rules_first_match_decides() {
        let rules = rules(&[
            ("192.168.1.1", true),
            ("192.168.1.0/24", false),
            ("0.0.0.0/0", true),
            ("2001:db8::/32", false),
        ]);
        assert_eq!(denies(&rules, "192.168.1.1"), Some(true));
        assert_eq!(denies(&rules, "192.168.1.2"), Some(false));
        assert_eq!(denies(&rules, "[::ffff:192.168.1.2]:1"), Some(false));
        assert_eq!(denies(&rules, "8.8.8.8"), Some(true));
        assert_eq!(denies(&rules, "2001:db8::5"), Some(false));
        assert_eq!(denies(&rules, "::1"), None);
        assert_eq!(rules.denies(Place::Unix), None);
    }

    #[test]
    fn merge_block_with_rules_keeps_only_its_own() {
        let outer = rules(&[("10.0.0.0/8", true)]);
        let mut own = rules(&[("1.2.3.4", true)]);
        AccessRules::merge(&mut own, &outer);
        assert_eq!(denies(&own, "10.0.0.1"), None);
        let mut none = AccessRules::default();
        AccessRules::merge(&mut none, &outer);
        assert_eq!(denies(&none, "10.0.0.1"), Some(true));
    }
}
