//! Bytes to tokens: words with quoting and escapes resolved, `;`, `{`, `}`, end.
//!
//! Called by `parse` alone. nginx's counterpart: `ngx_conf_read_token`, whose messages and line numbers are kept.

use crate::diagnostic::{Diagnostic, Result};
use crate::parse::{Span, Word};

/// The longest word, bytes (nginx: `NGX_CONF_BUFFER`).
const WORD_LIMIT: usize = 4096;

/// What a directive's words ended with.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Terminator {
    Semicolon,
    OpenBrace,
    CloseBrace,
    EndOfFile,
}

/// One statement head: the words up to `;`, `{`, `}` or the end.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) words: Vec<Word>,
    pub(crate) terminator: Terminator,
    /// The line the terminator stands on, which is the one nginx reports.
    pub(crate) line: u32,
}

pub(crate) struct Lexer<'a> {
    file: u32,
    input: &'a [u8],
    position: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(file: u32, input: &'a [u8]) -> Self {
        // A byte order mark is skipped by editors' users' expectation; nginx reports it as an unknown directive.
        Self { file, input, position: 0, line: 1 }
    }

    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    fn peek(&self) -> Option<u8> {
        self.input.get(self.position).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.position = self.position.saturating_add(1);
        if byte == b'\n' {
            self.line = self.line.saturating_add(1);
        }
        Some(byte)
    }

    pub(crate) fn here(&self) -> Span {
        let start = u32::try_from(self.position).unwrap_or(u32::MAX);
        // At the end of the input there is nothing to point at but the end itself.
        let end = start.saturating_add(u32::from(self.peek().is_some()));
        Span { file: self.file, line: self.line, start, end }
    }

    fn error(&self, span: Span, message: impl Into<String>) -> Box<Diagnostic> {
        Diagnostic::at(span, self.line, message)
    }

    /// Reads words until the statement ends.
    pub(crate) fn statement(&mut self) -> Result<Statement> {
        let mut words: Vec<Word> = Vec::new();
        loop {
            self.skip_blank();
            let at = self.here();
            let end = |terminator, words, line| Ok(Statement { words, terminator, line });
            match self.peek() {
                None if words.is_empty() => return end(Terminator::EndOfFile, words, self.line),
                None => {
                    return Err(self.error(at, "unexpected end of file, expecting \";\" or \"}\""));
                }
                Some(byte @ (b';' | b'{')) => {
                    if words.is_empty() {
                        return Err(self.error(at, format!("unexpected \"{}\"", byte as char)));
                    }
                    let line = self.line;
                    self.bump();
                    let terminator = if byte == b';' { Terminator::Semicolon } else { Terminator::OpenBrace };
                    return end(terminator, words, line);
                }
                Some(b'}') => {
                    if !words.is_empty() {
                        return Err(self.error(at, "unexpected \"}\""));
                    }
                    let line = self.line;
                    self.bump();
                    return end(Terminator::CloseBrace, words, line);
                }
                Some(quote @ (b'"' | b'\'')) => {
                    let word = self.quoted(quote)?;
                    words.push(word);
                    self.after_quoted()?;
                }
                Some(_) => {
                    let word = self.bare()?;
                    words.push(word);
                }
            }
        }
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.bump();
                }
                b'#' => {
                    let rest = self.input.get(self.position..).unwrap_or_default();
                    let skip = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                    self.position = self.position.saturating_add(skip);
                }
                _ => return,
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<Word> {
        let mut span = self.here();
        self.bump();
        let start = self.position;
        loop {
            if self.position.saturating_sub(start) >= WORD_LIMIT {
                let message = format!(
                    "too long parameter, probably missing terminating \"{}\" character",
                    quote as char
                );
                return Err(Diagnostic::at(span, span.line, message));
            }
            match self.bump() {
                None => {
                    return Err(self
                        .error(span, "unexpected end of file, expecting \";\" or \"}\"")
                        .with_help("a quotation mark opened here is never closed"));
                }
                Some(b'\\') => {
                    self.bump();
                }
                Some(byte) if byte == quote => break,
                Some(_) => {}
            }
        }
        span.end = u32::try_from(self.position).unwrap_or(u32::MAX);
        let raw = self.input.get(start..self.position.saturating_sub(1)).unwrap_or_default();
        Ok(Word { text: unescape(raw), span, quoted: true })
    }

    fn after_quoted(&mut self) -> Result<()> {
        match self.peek() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => Ok(()),
            Some(byte) => {
                let message = format!("unexpected \"{}\"", byte as char);
                Err(self.error(self.here(), message))
            }
        }
    }

    fn bare(&mut self) -> Result<Word> {
        let mut span = self.here();
        let start = self.position;
        let mut after_dollar = false;
        while let Some(byte) = self.peek() {
            if self.position.saturating_sub(start) >= WORD_LIMIT {
                let head = self.input.get(start..start.saturating_add(10)).unwrap_or_default();
                let message = format!("too long parameter \"{}...\" started", String::from_utf8_lossy(head));
                return Err(Diagnostic::at(span, span.line, message));
            }
            match byte {
                b'{' if after_dollar => after_dollar = false,
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' => break,
                b'\\' => {
                    after_dollar = false;
                    self.bump();
                }
                b'$' => after_dollar = true,
                _ => after_dollar = false,
            }
            self.bump();
        }
        span.end = u32::try_from(self.position).unwrap_or(u32::MAX);
        let raw = self.input.get(start..self.position).unwrap_or_default();
        Ok(Word { text: unescape(raw), span, quoted: false })
    }
}

/// Resolves `\"`, `\'`, `\\`, `\t`, `\r`, `\n`; any other backslash stays.
fn unescape(raw: &[u8]) -> Vec<u8> {
    if memchr::memchr(b'\\', raw).is_none() {
        return raw.to_vec();
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let replacement = match (byte, bytes.peek()) {
            (b'\\', Some(next @ (b'"' | b'\'' | b'\\'))) => Some(*next),
            (b'\\', Some(b't')) => Some(b'\t'),
            (b'\\', Some(b'r')) => Some(b'\r'),
            (b'\\', Some(b'n')) => Some(b'\n'),
            _ => None,
        };
        match replacement {
            Some(value) => {
                bytes.next();
                out.push(value);
            }
            None => out.push(byte),
        }
    }
    out
}
