//! Blocks as scopes: each holds the raw settings that its directives set; resolving merges main → http → server → location.
//!
//! A scope that set nothing of a group shares its parent's resolved group (one `Arc`), so ten thousand servers that say nothing about
//! gzip share one gzip. nginx's counterpart: `create_loc_conf`, `merge_loc_conf`.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

/// Names one block of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeId(u32);

/// A group of settings declared by `settings!`.
pub trait Settings: Any + Send + Sync + Sized {
    /// Whether every value of the group is taken over by inner blocks.
    const INHERITS: bool;
    /// What one block has set.
    type Raw: Any + Clone + Default + Send + Sync;
    /// Takes the outer block's values where this block has none.
    fn merge(raw: &mut Self::Raw, outer: &Self::Raw);
    /// Replaces what is still unset with defaults.
    fn resolve(raw: &Self::Raw) -> Self;
}

struct Resolved {
    raw: Arc<dyn Any + Send + Sync>,
    settings: Arc<dyn Any + Send + Sync>,
}

#[derive(Default)]
struct Scope {
    parent: Option<ScopeId>,
    raws: Vec<(TypeId, Box<dyn Any + Send + Sync>)>,
    resolved: HashMap<TypeId, Resolved>,
}

/// All blocks of one configuration.
pub struct Scopes {
    scopes: Vec<Scope>,
}

impl Default for Scopes {
    fn default() -> Self {
        Self { scopes: vec![Scope::default()] }
    }
}

impl Scopes {
    /// The scope of the main context.
    pub const ROOT: ScopeId = ScopeId(0);

    /// Opens a block inside another.
    pub fn open(&mut self, parent: ScopeId) -> ScopeId {
        let id = ScopeId(u32::try_from(self.scopes.len()).unwrap_or(u32::MAX));
        self.scopes.push(Scope { parent: Some(parent), ..Scope::default() });
        id
    }

    /// The block around this one.
    #[must_use]
    pub fn parent(&self, scope: ScopeId) -> Option<ScopeId> {
        self.scopes.get(scope.0 as usize)?.parent
    }

    /// The raw settings of a block, made empty on first use.
    ///
    /// # Panics
    /// When the scope is not one of these scopes.
    #[allow(clippy::expect_used, reason = "the entry was just made with this very type")]
    pub fn raw<R: Any + Default + Send + Sync>(&mut self, scope: ScopeId) -> &mut R {
        let raws = &mut self.scopes[scope.0 as usize].raws;
        let id = TypeId::of::<R>();
        let at = match raws.iter().position(|(known, _)| *known == id) {
            Some(at) => at,
            None => {
                raws.push((id, Box::<R>::default()));
                raws.len() - 1
            }
        };
        raws[at].1.downcast_mut::<R>().expect("typed by its TypeId")
    }

    /// The raw settings of a block, when it set any of the group.
    #[must_use]
    pub fn peek<R: Any>(&self, scope: ScopeId) -> Option<&R> {
        let raws = &self.scopes.get(scope.0 as usize)?.raws;
        let (_, raw) = raws.iter().find(|(known, _)| *known == TypeId::of::<R>())?;
        raw.downcast_ref()
    }

    /// The merged settings of a block with defaults filled in; shared with the parent when the block set none of the group.
    pub fn resolve<S: Settings>(&mut self, scope: ScopeId) -> Arc<S> {
        self.resolve_both::<S>(scope).1
    }

    /// The merged raw settings of a block, for settings whose default depends on others.
    pub fn merged<S: Settings>(&mut self, scope: ScopeId) -> Arc<S::Raw> {
        self.resolve_both::<S>(scope).0
    }

    fn resolve_both<S: Settings>(&mut self, scope: ScopeId) -> (Arc<S::Raw>, Arc<S>) {
        let id = TypeId::of::<S>();
        let Some(this) = self.scopes.get(scope.0 as usize) else {
            let raw = Arc::new(S::Raw::default());
            let settings = Arc::new(S::resolve(&raw));
            return (raw, settings);
        };
        if let Some(known) = this.resolved.get(&id)
            && let (Ok(raw), Ok(settings)) =
                (Arc::downcast::<S::Raw>(known.raw.clone()), Arc::downcast::<S>(known.settings.clone()))
        {
            return (raw, settings);
        }
        let own: Option<S::Raw> = self.peek::<S::Raw>(scope).cloned();
        let parent = self.parent(scope);
        let outcome = match (own, parent) {
            (None, Some(parent)) if S::INHERITS => self.resolve_both::<S>(parent),
            (own, parent) => {
                let mut raw = own.unwrap_or_default();
                if let Some(parent) = parent {
                    let outer = self.resolve_both::<S>(parent).0;
                    S::merge(&mut raw, &outer);
                }
                let settings = Arc::new(S::resolve(&raw));
                (Arc::new(raw), settings)
            }
        };
        if let Some(this) = self.scopes.get_mut(scope.0 as usize) {
            let raw = outcome.0.clone() as Arc<dyn Any + Send + Sync>;
            let settings = outcome.1.clone() as Arc<dyn Any + Send + Sync>;
            this.resolved.insert(id, Resolved { raw, settings });
        }
        outcome
    }
}
