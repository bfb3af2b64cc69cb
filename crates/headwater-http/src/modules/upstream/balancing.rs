//! The directives that choose a group's balancing method.
//!
//! The methods themselves are in `upstream::peers`. nginx's counterpart: the directives of `ngx_http_upstream_hash_module.c`,
//! `ngx_http_upstream_ip_hash_module.c`, `ngx_http_upstream_least_conn_module.c`, `ngx_http_upstream_random_module.c`, and of `least_time` in 1.31.

use headwater_conf::context::UPSTREAM;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result};

use super::Building;
use crate::script::Complex;
use crate::upstream::peers::Method;
use crate::upstream::peers::least_time::{LeastTime, Until};
use crate::upstream::peers::random::Draw;

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
        name: "least_time",
        module: "ngx_http_upstream_least_time_module",
        contexts: UPSTREAM,
        args: Args::range(1, 2),
        syntax: "header | last_byte [inflight]",
        default: "",
        doc: "Chooses the server with the least average response time and the fewest connections for its weight; with `inflight`, by requests that still wait, too.\n",
        set: |cx, directive| {
            let until = until(directive.arg(0)).ok_or_else(|| directive.invalid_parameter(0))?;
            let inflight = match directive.args.get(1) {
                None => false,
                Some(word) if word.is("inflight") => true,
                Some(_) => return Err(directive.invalid_parameter(1)),
            };
            choose(cx, directive, Method::LeastTime(LeastTime { until, inflight }), true)
        },
    },
    DirectiveDef {
        name: "random",
        module: "ngx_http_upstream_random_module",
        contexts: UPSTREAM,
        args: Args::range(0, 2),
        syntax: "[two [least_conn | least_time[=header | last_byte]]]",
        default: "",
        doc: "Chooses the server by chance and weight; with `two`, the better one of two: with fewer connections, or with less response time and connections.\n",
        set: |cx, directive| {
            if directive.args.first().is_some_and(|word| !word.is("two")) {
                return Err(directive.invalid_parameter(0));
            }
            let draw = match directive.args.get(1) {
                None if directive.args.is_empty() => Draw::One,
                None => Draw::LeastConn,
                Some(word) if word.is("least_conn") => Draw::LeastConn,
                Some(word) if word.is("least_time") => Draw::LeastTime(Until::Header),
                Some(word) => {
                    let time = word.after("least_time=").and_then(until);
                    Draw::LeastTime(time.ok_or_else(|| directive.invalid_parameter(1))?)
                }
            };
            choose(cx, directive, Method::Random(draw), false)
        },
    },
];

fn until(text: &[u8]) -> Option<Until> {
    match text {
        b"header" => Some(Until::Header),
        b"last_byte" => Some(Until::LastByte),
        _ => None,
    }
}

fn choose(cx: &mut Cx<'_>, directive: &Directive, method: Method, backups: bool) -> Result<()> {
    if cx.state::<Building>().method.is_some() {
        cx.warn(directive, "load balancing method redefined");
    }
    let building = cx.state::<Building>();
    building.method = Some(method);
    building.no_backups = !backups;
    Ok(())
}
