//! Walks the tree in file order and calls each directive's setter; `include` is here, because it may stand in any block.
//!
//! Called by the loader of each world (http); calls the setters declared with `settings!` and by hand. nginx's counterpart:
//! `ngx_conf_handler`, `ngx_conf_include`.

use std::any::Any;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Level, Result, nearest, os_error};
use crate::directive::{Args, Contexts, DirectiveDef, context};
use crate::parse::{Block, Directive, MAX_DEPTH, parse};
use crate::scope::{ScopeId, Scopes};
use crate::source::{Files, Source};

/// How deep files may include each other; nginx runs out of descriptors instead.
const MAX_INCLUDES: usize = 100;

/// `include`, the one directive of every block.
pub const INCLUDE: DirectiveDef = DirectiveDef {
    name: "include",
    module: "ngx_core_module",
    contexts: context::ANY,
    args: Args::exactly(1),
    syntax: "file | mask",
    default: "",
    doc: "Includes another file, or the files that match a mask, at this place. Paths are relative to the main file.\n",
    set: include,
};

/// All known directives by name.
#[derive(Debug, Default)]
pub struct Registry {
    by_name: HashMap<&'static str, Vec<&'static DirectiveDef>>,
}

impl Registry {
    /// Collects the records of every module.
    pub fn new(groups: impl IntoIterator<Item = &'static [DirectiveDef]>) -> Self {
        let mut by_name: HashMap<&'static str, Vec<&'static DirectiveDef>> = HashMap::new();
        by_name.entry(INCLUDE.name).or_default().push(&INCLUDE);
        for record in groups.into_iter().flatten() {
            by_name.entry(record.name).or_default().push(record);
        }
        Self { by_name }
    }

    /// Every record, by name.
    #[must_use]
    pub fn all(&self) -> Vec<&'static DirectiveDef> {
        let mut all: Vec<_> = self.by_name.values().flatten().copied().collect();
        all.sort_by_key(|record| (record.module, record.name, record.contexts.0));
        all
    }

    fn find(&self, name: &str) -> Option<&[&'static DirectiveDef]> {
        self.by_name.get(name).map(Vec::as_slice)
    }
}

/// What a setter works with: the current block, the files, and what the world being configured keeps while it loads.
pub struct Cx<'a> {
    /// All blocks.
    pub scopes: Scopes,
    /// The current block's settings.
    pub scope: ScopeId,
    /// The kind of the current block.
    pub context: Contexts,
    /// The files read.
    pub files: Files,
    /// Warnings and notices so far.
    pub warnings: Vec<Diagnostic>,
    /// The directory against which relative paths of the configuration are taken.
    pub conf_prefix: PathBuf,
    /// The directory against which other relative paths are taken (`-p`).
    pub prefix: PathBuf,
    /// Where bytes come from.
    pub source: &'a dyn Source,
    registry: &'a Registry,
    state: Vec<Box<dyn Any>>,
    /// Files that are open because they include the current one.
    includes: usize,
    /// Blocks around the current one, over all files.
    depth: usize,
}

impl<'a> Cx<'a> {
    /// A load that has read nothing yet.
    pub fn new(
        registry: &'a Registry,
        source: &'a dyn Source,
        prefix: PathBuf,
        conf_prefix: PathBuf,
    ) -> Self {
        Self {
            scopes: Scopes::default(),
            scope: Scopes::ROOT,
            context: context::MAIN,
            files: Files::default(),
            warnings: Vec::new(),
            conf_prefix,
            prefix,
            source,
            registry,
            state: Vec::new(),
            includes: 0,
            depth: 0,
        }
    }

    /// Reads the main file and everything in it. `globals` (`-g`) are interpreted after it, as nginx does before it for conflicts'
    /// sake: a directive given both ways is a duplicate.
    pub fn load(&mut self, path: &Path, globals: Option<&str>) -> Result<()> {
        if let Some(text) = globals {
            let file = self.files.add(PathBuf::from("command line"), text.as_bytes().to_vec());
            let block = parse(file, text.as_bytes());
            self.run(&block).map_err(|mut error| {
                error.message = format!("{} in command line", error.message);
                error.position = None;
                error
            })?;
        }
        let block = self.read(path, None)?;
        self.run(&block)
    }

    fn read(&mut self, path: &Path, from: Option<&Directive>) -> Result<Block> {
        let bytes = self.source.read(path).map_err(|error| {
            let call = if error.kind() == std::io::ErrorKind::IsADirectory { "read()" } else { "open()" };
            let message = format!("{call} \"{}\" failed {}", path.display(), os_error(&error));
            match from {
                Some(directive) => directive.error_at(0, message),
                None => Diagnostic::new(message),
            }
        })?;
        let file = self.files.add(path.to_path_buf(), bytes);
        Ok(parse(file, self.files.content(file)))
    }

    /// State of a type that the world being configured keeps while it loads, made empty on first use.
    #[allow(clippy::expect_used, reason = "the entry was just made with this very type")]
    pub fn state<T: Any + Default>(&mut self) -> &mut T {
        let at = match self.state.iter().position(|entry| entry.is::<T>()) {
            Some(at) => at,
            None => {
                self.state.push(Box::<T>::default());
                self.state.len() - 1
            }
        };
        self.state[at].downcast_mut::<T>().expect("found by its type")
    }

    /// Takes the state of a type out, leaving none.
    pub fn take_state<T: Any + Default>(&mut self) -> T {
        std::mem::take(self.state::<T>())
    }

    /// The raw settings of the current block.
    pub fn raw<R: Any + Default + Send + Sync>(&mut self) -> &mut R {
        self.scopes.raw::<R>(self.scope)
    }

    /// Notes a warning at a directive.
    pub fn warn(&mut self, directive: &Directive, message: impl Into<String>) {
        self.warnings.push(*directive.error(message).with_level(Level::Warn));
    }

    /// Notes that a directive has no meaning here.
    pub fn notice(&mut self, directive: &Directive, message: impl Into<String>) {
        self.warnings.push(*directive.error(message).with_level(Level::Notice));
    }

    /// A path of the configuration (relative to the directory of the main file).
    #[must_use]
    pub fn conf_path(&self, path: &[u8]) -> PathBuf {
        self.conf_prefix.join(bytes_path(path))
    }

    /// Any other path (relative to the prefix).
    #[must_use]
    pub fn prefix_path(&self, path: &[u8]) -> PathBuf {
        self.prefix.join(bytes_path(path))
    }

    /// Interprets a directive's block as a new scope of the given kind and gives the scope.
    pub fn enter(&mut self, directive: &Directive, kind: Contexts) -> Result<ScopeId> {
        let scope = self.scopes.open(self.scope);
        self.enter_scope(directive, kind, scope)?;
        Ok(scope)
    }

    /// The same in a scope that is already open.
    pub fn enter_scope(&mut self, directive: &Directive, kind: Contexts, scope: ScopeId) -> Result<()> {
        if self.depth >= MAX_DEPTH {
            return Err(directive.error("blocks are nested too deeply"));
        }
        let outer = (self.scope, self.context);
        (self.scope, self.context) = (scope, kind);
        self.depth = self.depth.saturating_add(1);
        let outcome = match &directive.block {
            Some(block) => self.run(block),
            None => Ok(()),
        };
        self.depth = self.depth.saturating_sub(1);
        (self.scope, self.context) = outer;
        outcome
    }

    /// The entries of a block whose inside is data, not directives (`map`, `types`, `geo`), with includes expanded.
    pub fn entries(&mut self, directive: &Directive) -> Result<Vec<Directive>> {
        let mut out = Vec::new();
        if let Some(block) = &directive.block {
            self.collect(block, &mut out)?;
        }
        Ok(out)
    }

    fn collect(&mut self, block: &Block, out: &mut Vec<Directive>) -> Result<()> {
        for item in &block.items {
            if item.name.is("include") && item.args.len() == 1 && item.block.is_none() {
                self.each_included(item, |cx, block| cx.collect(block, out))?;
            } else {
                out.push(item.clone());
            }
        }
        block.error.clone().map_or(Ok(()), Err)
    }

    /// Reads and interprets the files of an `include` one after another, so that errors come in the order of the files.
    fn each_included(
        &mut self,
        directive: &Directive,
        mut interpret: impl FnMut(&mut Self, &Block) -> Result<()>,
    ) -> Result<()> {
        if self.includes >= MAX_INCLUDES {
            return Err(directive.error("files include each other too deeply"));
        }
        let path = self.conf_path(directive.arg(0));
        let paths = if directive.arg(0).iter().any(|byte| b"*?[".contains(byte)) {
            self.source.glob(&path).map_err(|error| {
                let text = os_error(&error);
                directive.error_at(0, format!("glob() \"{}\" failed {text}", path.display()))
            })?
        } else {
            vec![path]
        };
        for path in paths {
            let block = self.read(&path, Some(directive))?;
            self.includes = self.includes.saturating_add(1);
            let outcome = interpret(self, &block);
            self.includes = self.includes.saturating_sub(1);
            outcome?;
        }
        Ok(())
    }

    fn run(&mut self, block: &Block) -> Result<()> {
        for item in &block.items {
            self.directive(item)?;
        }
        block.error.clone().map_or(Ok(()), Err)
    }

    fn directive(&mut self, directive: &Directive) -> Result<()> {
        let name = directive.name();
        let Some(records) = self.registry.find(&name) else {
            return Err(self.unknown(directive));
        };
        let Some(record) = records.iter().find(|record| record.contexts.meets(self.context)) else {
            let mut places: Vec<&str> = records.iter().flat_map(|record| record.contexts.names()).collect();
            places.dedup();
            return Err(directive
                .error(format!("\"{name}\" directive is not allowed here"))
                .with_help(format!("it may stand in: {}", places.join(", "))));
        };
        // A block that is broken inside still opened: its error comes when it is interpreted.
        if record.args.block && directive.block.is_none() {
            return Err(directive.error(format!("directive \"{name}\" has no opening \"{{\"")));
        }
        if !record.args.block && directive.block.is_some() {
            return Err(directive.error(format!("directive \"{name}\" is not terminated by \";\"")));
        }
        if !record.args.accepts(directive.args.len()) {
            return Err(directive
                .error(format!("invalid number of arguments in \"{name}\" directive"))
                .with_help(format!("{name} {}", record.syntax)));
        }
        (record.set)(self, directive)
    }

    fn unknown(&self, directive: &Directive) -> Box<Diagnostic> {
        let name = directive.name();
        let here = self
            .registry
            .by_name
            .iter()
            .filter(|(_, records)| records.iter().any(|record| record.contexts.meets(self.context)));
        let error = directive.error(format!("unknown directive \"{name}\""));
        match nearest(&name, here.map(|(known, _)| *known)) {
            Some(known) => error.with_help(format!("did you mean \"{known}\"?")),
            None => error,
        }
    }
}

fn include(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    cx.each_included(directive, Cx::run)
}

/// Bytes of the configuration as a path.
#[must_use]
pub fn bytes_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(path))
}

#[cfg(test)]
#[path = "interpret_tests.rs"]
mod tests;
