//! The directives that choose a group's balancing method.
//!
//! The methods themselves are in `upstream::peers`. nginx's counterpart: the directives of `ngx_http_upstream_hash_module.c`,
//! `ngx_http_upstream_ip_hash_module.c`, `ngx_http_upstream_least_conn_module.c`, `ngx_http_upstream_random_module.c`.

use headwater_conf::context::UPSTREAM;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result};

use super::Building;
use crate::script::Complex;
use crate::upstream::peers::Method;

pub(super) const DIRECTIVES: &[DirectiveDef] = &[
    DirectiveDef {
        name: "hash",
        module: "ngx_http_upstream_hash_module",
        contexts: UPSTREAM,
        args: Args::range(1, 2),
        syntax: "key [consistent]",
        default: "",
        doc: "Chooses the server by a text; with `consistent`, few keys move when servers come or go.\n",
        set: |cx, directive| {
            let key = Complex::compile(cx, directive, 0)?;
            let method = match directive.args.get(1) {
                None => Method::Hash(key),
                Some(word) if word.is("consistent") => Method::Consistent(key),
                Some(_) => return Err(directive.invalid_parameter(1)),
            };
            choose(cx, directive, method, false)
        },
    },
    DirectiveDef {
        name: "ip_hash",
        module: "ngx_http_upstream_ip_hash_module",
        contexts: UPSTREAM,
        args: Args::exactly(0),
        syntax: "",
        default: "",
        doc: "Chooses the server by the client's address; of IPv4 the first three bytes count.\n",
        set: |cx, directive| choose(cx, directive, Method::IpHash, false),
    },
    DirectiveDef {
        name: "least_conn",
        module: "ngx_http_upstream_least_conn_module",
        contexts: UPSTREAM,
        args: Args::exactly(0),
        syntax: "",
        default: "",
        doc: "Chooses the server with the fewest connections for its weight.\n",
        set: |cx, directive| choose(cx, directive, Method::LeastConn, true),
    },
    DirectiveDef {
        name: "random",
        module: "ngx_http_upstream_random_module",
        contexts: UPSTREAM,
        args: Args::range(0, 2),
        syntax: "[two [least_conn]]",
        default: "",
        doc: "Chooses the server by chance and weight; with `two`, the one with fewer connections of two.\n",
        set: |cx, directive| {
            let two = match directive.args.first() {
                None => false,
                Some(word) if word.is("two") => true,
                Some(_) => return Err(directive.invalid_parameter(0)),
            };
            if directive.args.get(1).is_some_and(|word| !word.is("least_conn")) {
                return Err(directive.invalid_parameter(1));
            }
            choose(cx, directive, Method::Random { two }, false)
        },
    },
];

fn choose(cx: &mut Cx<'_>, directive: &Directive, method: Method, backups: bool) -> Result<()> {
    if cx.state::<Building>().method.is_some() {
        cx.warn(directive, "load balancing method redefined");
    }
    let building = cx.state::<Building>();
    building.method = Some(method);
    building.no_backups = !backups;
    Ok(())
}
