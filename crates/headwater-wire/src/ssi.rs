//! Server side includes: text and commands `<!--#name param="value" … -->`, resumable at any byte.
//!
//! Called by the SSI filter with each piece of a body. What a command means is the filter's business. nginx counterpart:
//! `ngx_http_ssi_parse`.

use std::fmt::Write as _;
use std::ops::Range;

use memchr::{memchr2, memmem};

/// What a command begins with.
const OPENING: &[u8] = b"<!--#";
/// The longest name of a command and of a parameter, bytes.
const NAME_LIMIT: usize = 32;

/// A command as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name.
    pub name: Vec<u8>,
    /// Its parameters in order; backslashes are still in the values.
    pub params: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Text: first so many bytes of `<!--` that were held back, then these of the buffer.
    Text(usize, Range<usize>),
    /// A whole command; take it with [`Parser::take`].
    Command,
    /// The end of something that began like a command and is none.
    Broken,
    /// A line for the error log; a [`Event::Broken`] will follow.
    Complaint(String),
    /// The buffer is used up.
    More,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Outside of commands, behind so many bytes of `<!--#`.
    Text(usize),
    BeforeName,
    Name,
    BeforeParam,
    Param,
    BeforeEqual,
    BeforeValue,
    /// In a value that ends with this quote; whether the byte before was a backslash.
    Value(u8, bool),
    AfterValue,
    /// Behind `-` or `--` of the end.
    End(u8),
    /// Broken, behind no, one or two `-`.
    Broken(u8),
}

/// A resumable parser.
#[derive(Clone, Debug)]
pub struct Parser {
    state: State,
    command: Command,
    value_limit: usize,
}

impl Parser {
    /// A parser at the beginning of a body; values may be that long, bytes (`ssi_value_length`).
    #[must_use]
    pub fn new(value_limit: usize) -> Self {
        Self { state: State::Text(0), command: Command::default(), value_limit }
    }

    /// The command just found.
    pub fn take(&mut self) -> Command {
        std::mem::take(&mut self.command)
    }

    /// Bytes of `<!--` that are held back because a command may follow; they are text when the body ends here.
    #[must_use]
    pub fn held_back(&self) -> usize {
        match self.state {
            State::Text(matched) => matched,
            _ => 0,
        }
    }

    /// Goes on at `*pos`, which is moved behind what was read.
    pub fn next(&mut self, buf: &[u8], pos: &mut usize) -> Event {
        if let State::Text(matched) = self.state
            && let Some(event) = self.text(buf, pos, matched)
        {
            return event;
        }
        loop {
            *pos = pos.saturating_add(self.run(buf.get(*pos..).unwrap_or_default()));
            let Some(&byte) = buf.get(*pos) else { return Event::More };
            *pos = pos.saturating_add(1);
            if let Some(event) = self.step(byte) {
                return event;
            }
        }
    }

    /// Takes the bytes at once that only make a name or a value longer; gives their number.
    fn run(&mut self, rest: &[u8]) -> usize {
        let until = |ends: fn(u8) -> bool| rest.iter().position(|byte| ends(*byte));
        let param = self.command.params.last_mut();
        let (taken, limit, end) = match (self.state, param) {
            (State::Name, _) => {
                (&mut self.command.name, NAME_LIMIT, until(|byte| is_blank(byte) || byte == b'-'))
            }
            (State::Param, Some((name, _))) => {
                (name, NAME_LIMIT, until(|byte| is_blank(byte) || matches!(byte, b'=' | b'-')))
            }
            (State::Value(quote, false), Some((_, value))) => {
                (value, self.value_limit, memchr2(quote, b'\\', rest))
            }
            _ => return 0,
        };
        let length = end.unwrap_or(rest.len()).min(limit.saturating_sub(taken.len()));
        taken.extend_from_slice(rest.get(..length).unwrap_or_default());
        length
    }

    /// Text up to the next command; nothing when that begins here.
    fn text(&mut self, buf: &[u8], pos: &mut usize, matched: usize) -> Option<Event> {
        let rest = buf.get(*pos..).unwrap_or_default();
        let wanted = OPENING.get(matched..).unwrap_or_default();
        if matched > 0 {
            let same = rest.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            if same == wanted.len() {
                *pos = pos.saturating_add(same);
                self.begin();
                return None;
            }
            if same == rest.len() {
                *pos = buf.len();
                self.state = State::Text(matched.saturating_add(same));
                return Some(Event::More);
            }
        }
        if rest.is_empty() {
            return Some(Event::More);
        }
        // What was held back is text. Nothing of it can begin another command: `<` stands only at its beginning.
        let start = *pos;
        if let Some(at) = memmem::find(rest, OPENING) {
            let end = start.saturating_add(at);
            *pos = end.saturating_add(OPENING.len());
            self.begin();
            return (matched > 0 || at > 0).then_some(Event::Text(matched, start..end));
        }
        let tail = (1..OPENING.len())
            .rev()
            .find(|length| rest.ends_with(OPENING.get(..*length).unwrap_or_default()));
        let tail = tail.unwrap_or(0);
        *pos = buf.len();
        self.state = State::Text(tail);
        let end = buf.len().saturating_sub(tail);
        (matched > 0 || end > start).then_some(Event::Text(matched, start..end)).or(Some(Event::More))
    }

    fn begin(&mut self) {
        self.command = Command::default();
        self.state = State::BeforeName;
    }

    /// One byte of a command.
    fn step(&mut self, byte: u8) -> Option<Event> {
        let blank = is_blank(byte);
        match self.state {
            State::BeforeName if blank => {}
            State::BeforeName => {
                self.command.name.push(byte);
                self.state = State::Name;
            }
            State::Name if blank => self.state = State::BeforeParam,
            State::BeforeParam | State::BeforeEqual | State::BeforeValue if blank => {}
            State::Name | State::BeforeParam if byte == b'-' => self.state = State::End(1),
            State::Name => return self.name(byte),
            State::BeforeParam => {
                self.command.params.push((vec![byte], Vec::new()));
                self.state = State::Param;
            }
            State::Param if blank => self.state = State::BeforeEqual,
            State::Param | State::BeforeEqual if byte == b'=' => self.state = State::BeforeValue,
            State::Param if byte != b'-' => return self.param_name(byte),
            State::Param | State::BeforeEqual => {
                let shown = self.param();
                return self.complain(
                    byte,
                    format!("unexpected \"{}\" symbol after \"{shown}\" parameter", shown_byte(byte)),
                );
            }
            State::BeforeValue if matches!(byte, b'"' | b'\'') => self.state = State::Value(byte, false),
            State::BeforeValue => {
                let shown = self.param();
                let text = format!(
                    "unexpected \"{}\" symbol before value of \"{shown}\" parameter",
                    shown_byte(byte)
                );
                return self.complain(byte, text);
            }
            State::Value(quote, false) if byte == quote => self.state = State::AfterValue,
            State::Value(quote, escaped) => return self.value(byte, quote, !escaped && byte == b'\\'),
            State::AfterValue if blank => self.state = State::BeforeParam,
            State::AfterValue if byte == b'-' => self.state = State::End(1),
            State::AfterValue => {
                let (shown, value) = (self.param(), self.last_value());
                let byte = shown_byte(byte);
                return self.complain(
                    b' ',
                    format!("unexpected \"{byte}\" symbol after \"{value}\" value of \"{shown}\" parameter"),
                );
            }
            State::End(1) if byte == b'-' => self.state = State::End(2),
            State::End(2) if byte == b'>' => {
                self.state = State::Text(0);
                return Some(Event::Command);
            }
            State::End(_) => {
                return self.complain(b' ', format!("unexpected \"{}\" symbol", shown_byte(byte)));
            }
            State::Broken(2) if byte == b'>' => {
                self.state = State::Text(0);
                return Some(Event::Broken);
            }
            State::Broken(dashes) if byte == b'-' && dashes < 2 => self.state = State::Broken(dashes + 1),
            _ => self.state = State::Broken(0),
        }
        None
    }

    fn name(&mut self, byte: u8) -> Option<Event> {
        if self.command.name.len() == NAME_LIMIT {
            self.state = State::Broken(0);
            let text =
                format!("the \"{}{}...\" SSI command is too long", self.command_name(), shown_byte(byte));
            return Some(Event::Complaint(text));
        }
        self.command.name.push(byte);
        None
    }

    fn param_name(&mut self, byte: u8) -> Option<Event> {
        let full = self.command.params.last().is_some_and(|(name, _)| name.len() == NAME_LIMIT);
        if full {
            let text = format!("too long \"{}{}...\" parameter", self.param(), shown_byte(byte));
            return self.complain(b' ', text);
        }
        if let Some((name, _)) = self.command.params.last_mut() {
            name.push(byte);
        }
        None
    }

    fn value(&mut self, byte: u8, quote: u8, escaped: bool) -> Option<Event> {
        let (_, value) = self.command.params.last_mut()?;
        if value.len() == self.value_limit {
            let value = self.last_value();
            let text = format!(
                "too long \"{value}{}...\" value of \"{}\" parameter",
                shown_byte(byte),
                self.param()
            );
            return self.complain(b' ', text);
        }
        value.push(byte);
        self.state = State::Value(quote, escaped);
        None
    }

    /// The rest of the command is skipped; `byte` may begin its end.
    fn complain(&mut self, byte: u8, mut text: String) -> Option<Event> {
        self.state = State::Broken(u8::from(byte == b'-'));
        // Writing to a string cannot fail.
        let _ = write!(text, " in \"{}\" SSI command", self.command_name());
        Some(Event::Complaint(text))
    }

    fn command_name(&self) -> String {
        String::from_utf8_lossy(&self.command.name).into_owned()
    }

    fn param(&self) -> String {
        self.command
            .params
            .last()
            .map_or_else(String::new, |(name, _)| String::from_utf8_lossy(name).into_owned())
    }

    fn last_value(&self) -> String {
        self.command
            .params
            .last()
            .map_or_else(String::new, |(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\r' | b'\n' | b'\t')
}

fn shown_byte(byte: u8) -> String {
    String::from_utf8_lossy(&[byte]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything a body amounts to, fed in pieces: text as it is, commands and broken ones in brackets.
    fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut parser = Parser::new(20);
        let mut out = Vec::new();
        for piece in pieces {
            let mut pos = 0;
            loop {
                match parser.next(piece, &mut pos) {
                    Event::Text(held, range) => {
                        out.extend_from_slice(&OPENING[..held]);
                        out.extend_from_slice(&piece[range]);
                    }
                    Event::Command => out.extend_from_slice(format!("[{:?}]", parser.take()).as_bytes()),
                    Event::Broken => out.extend_from_slice(b"[broken]"),
                    Event::Complaint(text) => out.extend_from_slice(format!("[{text}]").as_bytes()),
                    Event::More => break,
                }
            }
            assert_eq!(pos, piece.len());
        }
        out.extend_from_slice(&OPENING[..parser.held_back()]);
        out
    }

    fn text(body: &str) -> String {
        String::from_utf8(run([body.as_bytes()])).expect("text")
    }

    #[test]
    fn text_without_commands_passes_unchanged() {
        for body in ["", "plain", "<p><!-- a --><!-x<!--", "<<!--<<!-", "<!--"] {
            assert_eq!(text(body), body);
        }
    }

    #[test]
    fn commands_have_names_and_parameters() {
        let mut parser = Parser::new(256);
        let (body, mut pos) = (br#"<!--#  include virtual = "/a\"b" wait='yes'-->tail"#, 0);
        assert_eq!(parser.next(body, &mut pos), Event::Command);
        let command = parser.take();
        assert_eq!(command.name, b"include");
        let expected: [(&[u8], &[u8]); 2] = [(b"virtual", br#"/a\"b"#), (b"wait", b"yes")];
        assert!(command.params.iter().map(|(a, b)| (a.as_slice(), b.as_slice())).eq(expected));
        assert_eq!(parser.next(body, &mut pos), Event::Text(0, pos_of(body, b"tail")..body.len()));
    }

    fn pos_of(body: &[u8], part: &[u8]) -> usize {
        memmem::find(body, part).expect("part")
    }

    #[test]
    fn what_is_wrong_is_told_and_skipped() {
        assert_eq!(
            text("a<!--#echo var-->b"),
            "a[unexpected \"-\" symbol after \"var\" parameter in \"echo\" SSI command][broken]b"
        );
        assert_eq!(
            text("<!--#echo var=x-->b"),
            "[unexpected \"x\" symbol before value of \"var\" parameter in \"echo\" SSI command][broken]b"
        );
        assert_eq!(
            text("<!--#echo var=\"x\"y -- -->b"),
            "[unexpected \"y\" symbol after \"x\" value of \"var\" parameter in \"echo\" SSI command][broken]b"
        );
        assert_eq!(text("<!--#echo -x-->b"), "[unexpected \"x\" symbol in \"echo\" SSI command][broken]b");
        assert!(text("<!--#echo var=\"123456789012345678901\" -->b").contains("too long"));
        assert!(text("<!--#abcdefghijklmnopqrstuvwxyzabcdefghijk -->b").contains("is too long"));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            body in "(<|!|-|#|<!--#|-->|echo| |=|\"|'|\\\\|[a-z]){0,60}",
            cuts in prop::collection::vec(0_usize..120, 0..8),
        ) {
            let body = body.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.sort_unstable();
            cuts.push(body.len());
            let mut start = 0;
            let pieces: Vec<&[u8]> = cuts.iter().map(|cut| &body[std::mem::replace(&mut start, *cut)..*cut]).collect();
            prop_assert_eq!(run(pieces), run([body]));
        }

        #[test]
        fn text_in_pieces_is_never_lost(body in "[<!a-]{0,40}", cut in 0_usize..40) {
            let body = body.as_bytes();
            let (a, b) = body.split_at(cut.min(body.len()));
            prop_assert_eq!(run([a, b]), body.to_vec());
        }
    }
}
