//! `zone` of a group: its state outlives a reload.
//!
//! State is shared by all workers anyway; the size is checked as nginx does it and is no limit. nginx's counterpart: the directive of
//! `ngx_http_upstream_zone_module.c`, `ngx_shared_memory_add`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headwater_conf::context::UPSTREAM;
use headwater_conf::value::parse_size;
use headwater_conf::{Args, Cx, Diagnostic, Directive, DirectiveDef, Result};

use super::Building;
use crate::modules::limit_zone::{self, SMALLEST};

pub(super) const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "zone",
    module: "ngx_http_upstream_zone_module",
    contexts: UPSTREAM,
    args: Args::range(1, 2),
    syntax: "name [size]",
    default: "",
    doc: "Names the state of the group. A reload keeps the state of the servers that both configurations have in a group and zone of these names. The size is no limit.\n",
    set: zone,
}];

/// A declared zone, which several groups may have.
struct Declared {
    name: Box<str>,
    /// 0 as long as no `zone` named a size.
    size: AtomicUsize,
}

/// The zones of the configuration being loaded.
#[derive(Default)]
struct Zones(Vec<Arc<Declared>>);

fn zone(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let name = directive.word(0).str();
    if name.is_empty() {
        return Err(directive.error_at(0, "invalid zone name \"\""));
    }
    let size = match directive.args.get(1) {
        None => 0,
        Some(size) => {
            let text = size.str();
            let size = parse_size(&size.text);
            let size = size.ok_or_else(|| directive.error_at(1, format!("invalid zone size \"{text}\"")))?;
            if size < SMALLEST {
                return Err(directive.error_at(1, format!("zone \"{name}\" is too small")));
            }
            size
        }
    };
    let declared = Declared { name: name.as_ref().into(), size: AtomicUsize::new(size) };
    match limit_zone::claim(cx, directive, &name, declared)? {
        Ok(fresh) => cx.state::<Zones>().0.push(fresh),
        Err(known) => {
            let before = known.size.load(Ordering::Relaxed);
            if before == 0 {
                known.size.store(size, Ordering::Relaxed);
            } else if size > 0 && size != before {
                let message = format!(
                    "the size {size} of shared memory zone \"{name}\" conflicts with already declared size {before}"
                );
                return Err(directive.error(message));
            }
        }
    }
    cx.state::<Building>().zone = Some(name.as_ref().into());
    Ok(())
}

/// Refuses zones whose size no directive named.
pub(super) fn finish(cx: &mut Cx<'_>) -> Result<()> {
    match cx.state::<Zones>().0.iter().find(|zone| zone.size.load(Ordering::Relaxed) == 0) {
        Some(zone) => Err(Diagnostic::new(format!("zero size shared memory zone \"{}\"", zone.name))),
        None => Ok(()),
    }
}
