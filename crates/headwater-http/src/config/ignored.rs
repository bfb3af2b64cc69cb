//! Directives that have no meaning here: taken, checked for their number of arguments, noted once at `notice`.

use headwater_conf::{Args, Cx, Directive, Result, Value};

/// A directive without meaning that takes from `LOW` to `HIGH` arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored<const LOW: u32, const HIGH: u32>;

/// The names noted so far.
#[derive(Default)]
struct Noted(Vec<String>);

impl<const LOW: u32, const HIGH: u32> Value for Ignored<LOW, HIGH> {
    const ARGS: Args = if HIGH > 31 { Args::at_least(LOW as u8) } else { Args::range(LOW, HIGH) };

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let name = directive.name().into_owned();
        if !cx.state::<Noted>().0.contains(&name) {
            cx.notice(directive, format!("the \"{name}\" directive has no meaning here"));
            cx.state::<Noted>().0.push(name);
        }
        Ok(Self)
    }
}
