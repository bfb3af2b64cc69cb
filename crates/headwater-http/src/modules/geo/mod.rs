//! `geo`: a variable whose value depends on an address.
//!
//! This file reads the block; `table` holds what was read and finds addresses. nginx's counterpart: `ngx_http_geo_module.c`.

mod table;

use std::net::IpAddr;
use std::sync::Arc;

use headwater_conf::context::HTTP;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result};
use headwater_io::addr::Addr;
use headwater_wire::headers::KnownHeader;

use super::Module;
use super::cidr::{self, Cidr, Place};
use crate::request::Request;
use crate::script::variables::variable_name;
use crate::script::{VarIndex, VariableSource, Variables};
use table::{Networks, Ranges, Table, Values};

/// `ngx_http_geo_module`.
pub static MODULE: Module = Module { directives: &[DIRECTIVES], ..Module::named("ngx_http_geo_module") };

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "geo",
    module: "ngx_http_geo_module",
    contexts: HTTP,
    args: Args::range(1, 2).with_block(),
    syntax: "[$address] $variable",
    default: "",
    doc: "Makes a variable whose value depends on the client's address, or on the address in another variable. Inside: `network value` pairs, and `default`, `delete`, `include`, `proxy`, `proxy_recursive`, `ranges`, `volatile`.\n",
    set: geo,
}];

/// What an address is looked up as when there is none: nginx's `INADDR_NONE`.
const NO_ADDRESS: u32 = u32::MAX;

struct Geo {
    address: Option<VarIndex>,
    proxies: Vec<Cidr>,
    recursive: bool,
    volatile: bool,
    v4: Table<u32>,
    /// Without one, IPv6 addresses are looked up as no address (ranges).
    v6: Option<Table<u128>>,
    values: Values,
}

impl VariableSource for Geo {
    fn value(&self, r: &Request, out: &mut Vec<u8>) -> bool {
        let place = self.address(r).map_or(Place::Unix, |addr| Place::of(&addr));
        let index = match (place, &self.v6) {
            (Place::V4(ip), _) => self.v4.find(ip),
            (Place::V6(ip), Some(table)) => table.find(ip),
            (Place::V6(_), None) | (Place::Unix, _) => self.v4.find(NO_ADDRESS),
        };
        out.extend_from_slice(self.values.get(index));
        true
    }

    fn volatile(&self) -> bool {
        self.volatile
    }
}

impl Geo {
    fn address(&self, r: &Request) -> Option<Addr> {
        let addr = match self.address {
            None => r.peer().clone(),
            Some(variable) => {
                let mut text = Vec::new();
                if !r.exchange.generation.variables.write(variable, r, &mut text) {
                    return None;
                }
                Addr::Inet((cidr::parse_ip(&text)?, 0).into())
            }
        };
        if self.proxies.is_empty() {
            return Some(addr);
        }
        let lines: Vec<&[u8]> = r.exchange.head.headers.get_all_known(KnownHeader::XForwardedFor).collect();
        Some(cidr::forwarded_addr(&addr, lines.into_iter(), &self.proxies, self.recursive).unwrap_or(addr))
    }
}

/// A block while it is read.
#[derive(Default)]
struct Reader {
    proxies: Vec<Cidr>,
    recursive: bool,
    volatile: bool,
    /// Set once an entry of either kind was read.
    networks: Option<Networks>,
    ranges: Option<Ranges>,
    values: Values,
}

fn geo(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let mut address = None;
    let mut at = 0;
    if directive.args.len() == 2 {
        let name = variable_name(directive, 0)?;
        address = Some(cx.state::<Variables>().index(name));
        at = 1;
    }
    let name = variable_name(directive, at)?.to_owned();
    let mut reader = Reader::default();
    for entry in cx.entries(directive)? {
        reader.entry(cx, &entry)?;
    }
    let (v4, v6) = match reader.ranges {
        Some(ranges) => (ranges.finish(), None),
        None => {
            let (v4, v6) = reader.networks.unwrap_or_default().finish();
            (v4, Some(v6))
        }
    };
    let source = Geo {
        address,
        proxies: reader.proxies,
        recursive: reader.recursive,
        volatile: reader.volatile,
        v4,
        v6,
        values: reader.values.finish(),
    };
    cx.state::<Variables>()
        .computed(&name, Arc::new(source))
        .map_err(|message| directive.error_at(at, message))?;
    Ok(())
}

impl Reader {
    fn entry(&mut self, cx: &mut Cx<'_>, entry: &Directive) -> Result<()> {
        match (entry.name.text.as_slice(), entry.args.as_slice()) {
            (b"ranges", []) => {
                if self.networks.is_some() {
                    let message = "the \"ranges\" directive must be the first directive inside \"geo\" block";
                    return Err(entry.error(message));
                }
                self.ranges.get_or_insert_default();
                Ok(())
            }
            (b"proxy_recursive", []) => {
                self.recursive = true;
                Ok(())
            }
            (b"volatile", []) => {
                self.volatile = true;
                Ok(())
            }
            (b"proxy", [network]) => {
                let network = parse_network(cx, entry, &network.text)?;
                self.proxies.push(network);
                Ok(())
            }
            (name, [value]) => match self.ranges.take() {
                Some(mut ranges) => {
                    let outcome = self.range(cx, entry, &mut ranges, name, &value.text);
                    self.ranges = Some(ranges);
                    outcome
                }
                None => self.network(cx, entry, name, &value.text),
            },
            _ => Err(entry.error("invalid number of the geo parameters")),
        }
    }

    fn network(&mut self, cx: &mut Cx<'_>, entry: &Directive, name: &[u8], value: &[u8]) -> Result<()> {
        if name == b"delete" {
            let network = parse_network(cx, entry, value)?;
            if !self.networks.get_or_insert_default().remove(network) {
                cx.warn(entry, format!("no network \"{}\" to delete", String::from_utf8_lossy(value)));
            }
            return Ok(());
        }
        let networks = match name {
            b"default" => vec![Cidr::V4(0, 0), Cidr::V6(0, 0)],
            _ => vec![parse_network(cx, entry, name)?],
        };
        let value = self.values.index(value);
        for network in networks {
            if let Some(old) = self.networks.get_or_insert_default().insert(network, value) {
                self.warn_duplicate(cx, entry, "network", name, old, value);
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        cx: &mut Cx<'_>,
        entry: &Directive,
        ranges: &mut Ranges,
        name: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        if name == b"default" {
            let new = self.values.index(value);
            if let Some(old) = ranges.default.replace(new) {
                let (value, old) = (shown(value), shown(self.values.get(old)));
                cx.warn(
                    entry,
                    format!("duplicate default geo range value: \"{value}\", old value: \"{old}\""),
                );
            }
            return Ok(());
        }
        let text = if name == b"delete" { value } else { name };
        let Some((start, end)) = parse_range(text) else {
            return Err(entry.error(format!("invalid range \"{}\"", shown(text))));
        };
        if name == b"delete" {
            if !ranges.remove(start, end) {
                cx.warn(entry, format!("no address range \"{}\" to delete", shown(text)));
            }
            return Ok(());
        }
        let value = self.values.index(value);
        let replaced = ranges.insert(start, end, value).map_err(|(start, end)| {
            let (start, end) = (IpAddr::V4(start.into()), IpAddr::V4(end.into()));
            entry.error(format!("range \"{}\" overlaps \"{start}-{end}\"", shown(text)))
        })?;
        for old in replaced {
            self.warn_duplicate(cx, entry, "range", name, old, value);
        }
        Ok(())
    }

    fn warn_duplicate(
        &self,
        cx: &mut Cx<'_>,
        entry: &Directive,
        what: &str,
        name: &[u8],
        old: u32,
        new: u32,
    ) {
        let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let (name, old, new) = (shown(name), shown(self.values.get(old)), shown(self.values.get(new)));
        cx.warn(entry, format!("duplicate {what} \"{name}\", value: \"{new}\", old value: \"{old}\""));
    }
}

fn parse_network(cx: &mut Cx<'_>, entry: &Directive, text: &[u8]) -> Result<Cidr> {
    if text == b"255.255.255.255" {
        return Ok(Cidr::V4(u32::MAX, 32));
    }
    let shown = String::from_utf8_lossy(text);
    let Some((network, has_low_bits)) = Cidr::parse(text) else {
        return Err(entry.error(format!("invalid network \"{shown}\"")));
    };
    if has_low_bits {
        cx.warn(entry, format!("low address bits of {shown} are meaningless"));
    }
    Ok(network)
}

/// `1.2.3.4-1.2.3.9`.
fn parse_range(text: &[u8]) -> Option<(u32, u32)> {
    let mut halves = text.splitn(2, |byte| *byte == b'-');
    let start = cidr::parse_v4(halves.next()?)?.to_bits();
    let end = cidr::parse_v4(halves.next()?)?.to_bits();
    (start <= end && end != NO_ADDRESS).then_some((start, end))
}
