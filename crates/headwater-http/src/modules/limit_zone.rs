//! Shared zones of `limit_req`, `limit_conn` and `sticky learn`, and the names of all zones: their declaration, and entries by key within a budget of bytes.
//!
//! A zone's state outlives the configuration that declared it as long as the next one declares it alike. nginx's counterpart:
//! `ngx_shared_memory_add`, `ngx_slab.c`.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use headwater_conf::value::parse_size;
use headwater_conf::{Cx, Diagnostic, Directive, Result};

use crate::request::Request;
use crate::script::Complex;

/// The smallest zone: eight pages.
pub(crate) const SMALLEST: usize = 8 * 4096;

/// One declared zone: what its entries are kept by, and the entries.
#[derive(Debug)]
pub(crate) struct Zone<T> {
    pub(crate) name: Box<str>,
    key: Complex,
    key_text: Box<[u8]>,
    /// In thousandths of a request per second, for `limit_req`.
    pub(crate) rate: u64,
    entries: Arc<Mutex<Entries<T>>>,
}

impl<T> Zone<T> {
    /// The entries, for this thread alone.
    pub(crate) fn entries(&self) -> MutexGuard<'_, Entries<T>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a request; `None` when it has none, or one that is too long, which is logged.
    pub(crate) fn key(&self, r: &Request, longest: usize) -> Option<Vec<u8>> {
        let key = self.key.value(r).into_owned();
        if key.len() > longest {
            let (text, key) = (String::from_utf8_lossy(&self.key_text), String::from_utf8_lossy(&key));
            r.log(
                crate::flow::error_log::Level::Error,
                format_args!("the value of the \"{text}\" key is more than {longest} bytes: \"{key}\""),
            );
            return None;
        }
        Some(key).filter(|key| !key.is_empty())
    }
}

/// The zones of the configuration being loaded.
#[derive(Default)]
struct Declared(HashMap<Box<str>, Arc<dyn Any + Send + Sync>>);

/// Zones in use, for the next configuration.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

struct Kept {
    kind: TypeId,
    name: Box<str>,
    key: Box<[u8]>,
    size: usize,
    entries: Weak<dyn Any + Send + Sync>,
}

/// Reads `key zone=name:size` and what else `other` knows, and declares the zone.
pub(crate) fn declare<T: Send + 'static>(
    cx: &mut Cx<'_>,
    directive: &Directive,
    overhead: usize,
    mut other: impl FnMut(&[u8]) -> Option<std::result::Result<u64, String>>,
) -> Result<()> {
    let key = Complex::compile(cx, directive, 0)?;
    let mut zone: Option<(String, usize)> = None;
    let mut rate = 1000;
    for (index, word) in directive.args.iter().enumerate().skip(1) {
        if let Some(text) = word.after("zone=") {
            zone = Some(name_and_size(directive, index, text)?);
        } else {
            match other(&word.text) {
                Some(Ok(found)) => rate = found,
                Some(Err(message)) => return Err(directive.error_at(index, message)),
                None => return Err(directive.invalid_parameter(index)),
            }
        }
    }
    let Some((name, size)) = zone.filter(|(name, _)| !name.is_empty()) else {
        return Err(directive.error(format!("\"{}\" must have \"zone\" parameter", directive.name())));
    };
    if let Some(known) = cx.state::<Declared>().0.get(name.as_str()) {
        let message = match known.clone().downcast::<Zone<T>>() {
            Ok(zone) => {
                let key = String::from_utf8_lossy(&zone.key_text);
                format!("{} \"{name}\" is already bound to key \"{key}\"", directive.name())
            }
            Err(_) => format!("the shared memory zone \"{name}\" is already declared for a different use"),
        };
        return Err(directive.error(message));
    }
    let key_text: Box<[u8]> = directive.arg(0).into();
    let entries = keep::<T>(&name, &key_text, size, overhead);
    let zone = Zone { name: name.as_str().into(), key, key_text, rate, entries };
    cx.state::<Declared>().0.insert(name.into(), Arc::new(zone));
    Ok(())
}

/// Declares the name of a zone that is none of `limit_req` or `limit_conn`; gives what declared it first in this configuration, if it is of the same kind.
///
/// # Errors
/// When the name has another use.
pub(crate) fn claim<T: Send + Sync + 'static>(
    cx: &mut Cx<'_>,
    directive: &Directive,
    name: &str,
    value: T,
) -> Result<std::result::Result<Arc<T>, Arc<T>>> {
    if let Some(known) = cx.state::<Declared>().0.get(name) {
        let message = || format!("the shared memory zone \"{name}\" is already declared for a different use");
        return known.clone().downcast::<T>().map(Err).map_err(|_| directive.error(message()));
    }
    let value = Arc::new(value);
    cx.state::<Declared>().0.insert(name.into(), value.clone());
    Ok(Ok(value))
}

/// Reads `name:size`.
pub(crate) fn name_and_size(directive: &Directive, index: usize, text: &[u8]) -> Result<(String, usize)> {
    let shown = directive.word(index).str();
    let invalid = || directive.error_at(index, format!("invalid zone size \"{shown}\""));
    let colon = text.iter().position(|byte| *byte == b':').ok_or_else(invalid)?;
    let (name, size) = text.split_at(colon);
    let size = parse_size(size.get(1..).unwrap_or_default()).ok_or_else(invalid)?;
    if size < SMALLEST {
        return Err(directive.error_at(index, format!("zone \"{shown}\" is too small")));
    }
    Ok((String::from_utf8_lossy(name).into_owned(), size))
}

/// The entries of the zone as the configuration before declared it, or none yet.
pub(crate) fn keep<T: Send + 'static>(
    name: &str,
    key: &[u8],
    size: usize,
    overhead: usize,
) -> Arc<Mutex<Entries<T>>> {
    let kind = TypeId::of::<T>();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.retain(|zone| zone.entries.strong_count() > 0);
    let alike =
        |zone: &&Kept| zone.kind == kind && *zone.name == *name && *zone.key == *key && zone.size == size;
    let known = kept.iter().rev().find(alike).and_then(|zone| zone.entries.upgrade());
    if let Some(entries) = known.and_then(|entries| entries.downcast::<Mutex<Entries<T>>>().ok()) {
        return entries;
    }
    let entries = Arc::new(Mutex::new(Entries::new(size, overhead)));
    let weak = Arc::downgrade(&entries);
    kept.push(Kept { kind, name: name.into(), key: key.into(), size, entries: weak });
    entries
}

/// A zone by its name, once all files are read.
pub(crate) fn find<T: Send + 'static>(cx: &mut Cx<'_>, name: &str) -> Result<Arc<Zone<T>>> {
    let Some(zone) = cx.state::<Declared>().0.get(name).cloned() else {
        return Err(Diagnostic::new(format!("zero size shared memory zone \"{name}\"")));
    };
    zone.downcast::<Zone<T>>().map_err(|_| {
        Diagnostic::new(format!("the shared memory zone \"{name}\" is already declared for a different use"))
    })
}

/// Entries by key, the least recently used first to go.
#[derive(Debug)]
pub struct Entries<T> {
    by_key: HashMap<Arc<[u8]>, (u64, T)>,
    by_use: BTreeMap<u64, Arc<[u8]>>,
    clock: u64,
    /// Bytes that are left, as nginx's slabs would have it.
    left: usize,
    overhead: usize,
}

impl<T> Entries<T> {
    /// Room for as many entries of this overhead as nginx's slabs would take.
    pub(crate) fn new(size: usize, overhead: usize) -> Self {
        // A page needs a descriptor too, and the pool's head takes a page.
        let left = (size / 4128).saturating_sub(1).saturating_mul(4096);
        Self { by_key: HashMap::new(), by_use: BTreeMap::new(), clock: 0, left, overhead }
    }

    fn cost(&self, key: &[u8]) -> usize {
        let bytes = self.overhead.saturating_add(key.len());
        if bytes > 2048 { bytes.div_ceil(4096).saturating_mul(4096) } else { bytes.next_power_of_two() }
    }

    /// An entry, which becomes the most recently used.
    pub(crate) fn touch(&mut self, key: &[u8]) -> Option<&mut T> {
        let (stamp, _) = self.by_key.get(key)?;
        let shared = self.by_use.remove(stamp)?;
        self.clock = self.clock.saturating_add(1);
        self.by_use.insert(self.clock, shared);
        let (stamp, value) = self.by_key.get_mut(key)?;
        *stamp = self.clock;
        Some(value)
    }

    /// An entry as it is.
    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut T> {
        self.by_key.get_mut(key).map(|(_, value)| value)
    }

    /// The least recently used entry.
    pub(crate) fn oldest(&self) -> Option<&T> {
        let (_, key) = self.by_use.first_key_value()?;
        self.by_key.get(key).map(|(_, value)| value)
    }

    /// Drops the least recently used entry.
    pub(crate) fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.by_use.first_key_value() {
            let key = key.clone();
            self.remove(&key);
        }
    }

    /// Drops an entry.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        if let Some((stamp, _)) = self.by_key.remove(key) {
            self.by_use.remove(&stamp);
            self.left = self.left.saturating_add(self.cost(key));
        }
    }

    /// Adds an entry; `false` when there is no room.
    pub(crate) fn insert(&mut self, key: &[u8], value: T) -> bool {
        let Some(left) = self.left.checked_sub(self.cost(key)) else { return false };
        self.left = left;
        self.clock = self.clock.saturating_add(1);
        let shared: Arc<[u8]> = key.into();
        self.by_use.insert(self.clock, shared.clone());
        self.by_key.insert(shared, (self.clock, value));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_full_zone_takes_no_more_until_the_oldest_goes() {
        let mut entries = Entries::new(SMALLEST, 80);
        let mut count = 0_u32;
        while entries.insert(&count.to_be_bytes(), count) {
            count += 1;
        }
        // Six pages of 32 entries of 128 bytes.
        assert_eq!(count, 192);
        assert_eq!(entries.touch(&0_u32.to_be_bytes()).copied(), Some(0));
        assert_eq!(entries.oldest().copied(), Some(1));
        entries.drop_oldest();
        assert_eq!(entries.get_mut(&1_u32.to_be_bytes()), None);
        assert!(entries.insert(b"new!", 7));
        assert!(!entries.insert(b"more", 8));
    }

    #[test]
    fn keep_zones_declared_alike_share_entries_and_others_do_not() {
        let first = keep::<u8>("limit_zone_test", b"$a", SMALLEST, 80);
        first.lock().expect("not poisoned").insert(b"x", 1);
        let again = keep::<u8>("limit_zone_test", b"$a", SMALLEST, 80);
        assert!(Arc::ptr_eq(&first, &again));
        assert!(!Arc::ptr_eq(&first, &keep::<u8>("limit_zone_test", b"$b", SMALLEST, 80)));
        assert!(!Arc::ptr_eq(&first, &keep::<u8>("limit_zone_test", b"$a", SMALLEST * 2, 80)));
    }
}
