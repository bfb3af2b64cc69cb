//! Tokens to a tree of directives with spans.
//!
//! A syntax error does not lose what stands before it: it becomes the last item of the block that was open, so that the
//! interpreter reports errors in file order, as nginx does, which executes while it reads. Called by `interpret`; nginx's counterpart
//! is `ngx_conf_parse`.

use std::borrow::Cow;

use crate::diagnostic::Diagnostic;
use crate::lexer::{Lexer, Terminator};

/// A stretch of one configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Index into `Files`.
    pub file: u32,
    /// Line of the first byte, from 1.
    pub line: u32,
    /// Byte offset of the first byte.
    pub start: u32,
    /// Byte offset after the last byte.
    pub end: u32,
}

/// File and line of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Index into `Files`.
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
}

/// One word of a directive, quotes and escapes resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The bytes.
    pub text: Vec<u8>,
    /// Where it stands, quotes included.
    pub span: Span,
    /// Whether it was quoted.
    pub quoted: bool,
}

impl Word {
    /// The word as text; bytes that are not UTF-8 are replaced (for messages and keywords only).
    #[must_use]
    pub fn str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.text)
    }

    /// Whether the word is exactly this.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.text == text.as_bytes()
    }

    /// What follows a `prefix=`-like beginning.
    #[must_use]
    pub fn after(&self, prefix: &str) -> Option<&[u8]> {
        self.text.strip_prefix(prefix.as_bytes())
    }
}

/// One directive: a name, its arguments and, for block directives, the block.
#[derive(Debug, Clone)]
pub struct Directive {
    /// The first word.
    pub name: Word,
    /// The words after it.
    pub args: Vec<Word>,
    /// The block, when the directive ended with `{`.
    pub block: Option<Block>,
    /// The line of the terminating `;` or `{`: the one nginx names in errors.
    pub line: u32,
}

/// The inside of `{ … }` or of a file.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Directives in order.
    pub items: Vec<Directive>,
    /// The syntax error that ended the block early.
    pub error: Option<Box<Diagnostic>>,
    /// The line of the closing brace or of the end of the file.
    pub end_line: u32,
}

impl Directive {
    /// The directive with its block empty, to remember where something was said.
    #[must_use]
    pub fn head(&self) -> Directive {
        let block = self.block.as_ref().map(|block| Block { end_line: block.end_line, ..Block::default() });
        Directive { name: self.name.clone(), args: self.args.clone(), block, line: self.line }
    }

    /// The directive's name as text.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        self.name.str()
    }

    /// An argument's bytes, empty when there is none.
    #[must_use]
    pub fn arg(&self, index: usize) -> &[u8] {
        self.args.get(index).map_or(&[], |word| word.text.as_slice())
    }

    /// The first argument's word, or the name when there is none.
    #[must_use]
    pub fn word(&self, index: usize) -> &Word {
        self.args.get(index).unwrap_or(&self.name)
    }

    /// Where the setting stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { file: self.name.span.file, line: self.line }
    }

    /// An error pointing at the directive's name: the message is nginx's whole text.
    #[must_use]
    pub fn error(&self, message: impl Into<String>) -> Box<Diagnostic> {
        Diagnostic::at(self.name.span, self.line, message)
    }

    /// An error pointing at an argument.
    #[must_use]
    pub fn error_at(&self, index: usize, message: impl Into<String>) -> Box<Diagnostic> {
        Diagnostic::at(self.word(index).span, self.line, message)
    }

    /// nginx's `"NAME" directive TEXT`, pointing at the first argument.
    #[must_use]
    pub fn complain(&self, text: &str) -> Box<Diagnostic> {
        self.error_at(0, format!("\"{}\" directive {text}", self.name()))
    }

    /// nginx's `"NAME" directive is duplicate`.
    #[must_use]
    pub fn duplicate(&self) -> Box<Diagnostic> {
        self.error(format!("\"{}\" directive is duplicate", self.name()))
    }

    /// nginx's `invalid parameter "X"`.
    #[must_use]
    pub fn invalid_parameter(&self, index: usize) -> Box<Diagnostic> {
        self.error_at(index, format!("invalid parameter \"{}\"", self.word(index).str()))
    }
}

/// How deep blocks may nest, over all files; nginx has no limit but its stack.
pub(crate) const MAX_DEPTH: usize = 200;

/// Parses one file. Never fails: a syntax error is in the tree.
#[must_use]
pub fn parse(file: u32, input: &[u8]) -> Block {
    let mut lexer = Lexer::new(file, input);
    block(&mut lexer, 0)
}

fn block(lexer: &mut Lexer<'_>, depth: usize) -> Block {
    let mut items = Vec::new();
    let failed = |items, error, line| Block { items, error: Some(error), end_line: line };
    loop {
        let statement = match lexer.statement() {
            Ok(statement) => statement,
            Err(error) => return failed(items, error, lexer.line()),
        };
        let line = statement.line;
        match statement.terminator {
            Terminator::EndOfFile if depth > 0 => {
                let message = "unexpected end of file, expecting \"}\"";
                let error = Diagnostic::at(lexer.here(), line, message);
                return failed(items, error, line);
            }
            Terminator::EndOfFile => {
                return Block { items, error: None, end_line: line };
            }
            Terminator::CloseBrace if depth == 0 => {
                let error = Diagnostic::at(lexer.here(), line, "unexpected \"}\"");
                return failed(items, error, line);
            }
            Terminator::CloseBrace => {
                return Block { items, error: None, end_line: line };
            }
            Terminator::Semicolon | Terminator::OpenBrace => {}
        }
        let mut words = statement.words.into_iter();
        let Some(name) = words.next() else { continue };
        let args: Vec<Word> = words.collect();
        let inner = if statement.terminator == Terminator::OpenBrace {
            if depth >= MAX_DEPTH {
                let error = Diagnostic::at(name.span, line, "blocks are nested too deeply");
                return failed(items, error, line);
            }
            Some(block(lexer, depth.saturating_add(1)))
        } else {
            None
        };
        let broken = inner.as_ref().is_some_and(|inner| inner.error.is_some());
        items.push(Directive { name, args, block: inner, line });
        if broken {
            // The error lives in the inner block; nothing after it can be trusted.
            return Block { items, error: None, end_line: lexer.line() };
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
