//! The command line: nginx's options in nginx's forms.
//!
//! Called by `main` through [`crate::run_command_line`]. Letters may be joined (`-tq`), and a value may be glued to its letter
//! (`-cfile`). nginx's counterpart: `ngx_get_options`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use headwater_io::Sig;

/// What `-s` asks a running server to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Stop at once.
    Stop,
    /// Stop when the running requests are answered.
    Quit,
    /// Open the log files again.
    Reopen,
    /// Read the configuration again.
    Reload,
}

impl Order {
    fn parse(word: &[u8]) -> Option<Order> {
        match word {
            b"stop" => Some(Order::Stop),
            b"quit" => Some(Order::Quit),
            b"reopen" => Some(Order::Reopen),
            b"reload" => Some(Order::Reload),
            _ => None,
        }
    }

    /// The signal that carries it.
    #[must_use]
    pub fn signal(self) -> Sig {
        match self {
            Order::Stop => Sig::Term,
            Order::Quit => Sig::Quit,
            Order::Reopen => Sig::Usr1,
            Order::Reload => Sig::Hup,
        }
    }
}

/// A parsed command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `-?`, `-h`.
    pub help: bool,
    /// `-v`, and all that imply it.
    pub version: bool,
    /// `-V`.
    pub configure: bool,
    /// `-t`, `-T`.
    pub test: bool,
    /// `-T`.
    pub dump: bool,
    /// `-q`.
    pub quiet: bool,
    /// `-p`.
    pub prefix: Option<OsString>,
    /// `-e`.
    pub error_log: Option<OsString>,
    /// `-c`.
    pub file: Option<OsString>,
    /// `-g`.
    pub globals: Option<OsString>,
    /// `-s`.
    pub order: Option<Order>,
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// nginx's sentence about the first wrong one.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let Some(mut letters) = arg.as_bytes().strip_prefix(b"-") else {
            return Err(format!("invalid option: \"{}\"", arg.display()));
        };
        while let Some((letter, rest)) = letters.split_first() {
            letters = rest;
            if options.flag(*letter) {
                continue;
            }
            let Some(missing) = value_of(*letter) else {
                let letter = String::from_utf8_lossy(std::slice::from_ref(letter)).into_owned();
                return Err(format!("invalid option: \"{letter}\""));
            };
            let value = match rest {
                [] => args
                    .next()
                    .ok_or_else(|| format!("option \"-{}\" requires {missing}", char::from(*letter)))?,
                glued => OsStr::from_bytes(glued).to_owned(),
            };
            options.value(*letter, value)?;
            break;
        }
    }
    Ok(options)
}

/// What an option with a value needs, in nginx's words.
fn value_of(letter: u8) -> Option<&'static str> {
    match letter {
        b'p' => Some("directory name"),
        b'e' | b'c' => Some("file name"),
        b'g' | b's' => Some("parameter"),
        _ => None,
    }
}

impl Options {
    fn flag(&mut self, letter: u8) -> bool {
        match letter {
            b'?' | b'h' => (self.help, self.version) = (true, true),
            b'v' => self.version = true,
            b'V' => (self.configure, self.version) = (true, true),
            b't' => self.test = true,
            b'T' => (self.test, self.dump) = (true, true),
            b'q' => self.quiet = true,
            _ => return false,
        }
        true
    }

    fn value(&mut self, letter: u8, value: OsString) -> Result<(), String> {
        match letter {
            b'p' => self.prefix = Some(value),
            b'e' => self.error_log = Some(value),
            b'c' => self.file = Some(value),
            b'g' => self.globals = Some(value),
            _ => {
                let order = Order::parse(value.as_bytes());
                let invalid = || {
                    let text = String::from_utf8_lossy(&value.clone().into_vec()).into_owned();
                    format!("invalid option: \"-s {text}\"")
                };
                self.order = Some(order.ok_or_else(invalid)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn letters_may_be_joined() {
        let options = parse_line("-tq").unwrap();
        assert!(options.test && options.quiet && !options.dump);
        assert!(parse_line("-T").unwrap().dump);
        let options = parse_line("-hV").unwrap();
        assert!(options.help && options.version && options.configure);
        assert_eq!(parse_line("-").unwrap(), Options::default());
    }

    #[test]
    fn value_may_be_glued_or_follow() {
        let glued = parse_line("-tc/a/nginx.conf -p/srv").unwrap();
        let apart = parse_line("-t -c /a/nginx.conf -p /srv").unwrap();
        assert_eq!(glued, apart);
        assert_eq!(glued.file.as_deref(), Some(OsStr::new("/a/nginx.conf")));
        assert_eq!(parse_line("-sreload").unwrap().order, Some(Order::Reload));
        assert_eq!(parse_line("-s quit").unwrap().order, Some(Order::Quit));
        let globals = parse(["-g".into(), "daemon off; pid x;".into()]).unwrap().globals;
        assert_eq!(globals, Some("daemon off; pid x;".into()));
    }

    #[test]
    fn errors_have_the_texts_of_nginx() {
        let error = |line| parse_line(line).unwrap_err();
        assert_eq!(error("x"), "invalid option: \"x\"");
        assert_eq!(error("-tz"), "invalid option: \"z\"");
        assert_eq!(error("--help"), "invalid option: \"-\"");
        assert_eq!(error("-c"), "option \"-c\" requires file name");
        assert_eq!(error("-e"), "option \"-e\" requires file name");
        assert_eq!(error("-p"), "option \"-p\" requires directory name");
        assert_eq!(error("-g"), "option \"-g\" requires parameter");
        assert_eq!(error("-s"), "option \"-s\" requires parameter");
        assert_eq!(error("-s foo"), "invalid option: \"-s foo\"");
    }

    #[test]
    fn order_has_the_signal_of_nginx() {
        let signals = [Order::Stop, Order::Quit, Order::Reopen, Order::Reload].map(Order::signal);
        assert_eq!(signals, [Sig::Term, Sig::Quit, Sig::Usr1, Sig::Hup]);
    }
}
