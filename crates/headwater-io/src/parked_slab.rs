//! Numbered slots for parked connections, in chunks, so that growing never copies and memory never doubles.
//!
//! Used by `parked.rs` alone. nginx counterpart: the preallocated connection array with its free list.

use std::os::fd::OwnedFd;

use crate::stream::StreamKind;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Slots per chunk.
const CHUNK: usize = 256;

/// One parked connection. `previous` and `next` link those with the same deadline.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) fd: OwnedFd,
    pub(super) kind: StreamKind,
    pub(super) bucket: u32,
    pub(super) previous: u32,
    pub(super) next: u32,
    pub(super) payload: T,
}

#[derive(Debug)]
enum Slot<T> {
    Used(Entry<T>),
    /// The next free slot.
    Free(u32),
}

/// The slots.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: u32,
    used: usize,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: NONE, used: 0 }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// The slot that the next [`Slab::insert`] will use.
    pub(super) fn next_slot(&self) -> u32 {
        if self.free != NONE {
            return self.free;
        }
        let filled = self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len());
        u32::try_from(filled).unwrap_or(NONE)
    }

    /// Stores an entry in the slot that [`Slab::next_slot`] named.
    pub(super) fn insert(&mut self, entry: Entry<T>) {
        let slot = self.next_slot();
        if slot == self.free
            && let Some(place) = slot_mut(&mut self.chunks, slot)
        {
            if let Slot::Free(next) = place {
                self.free = *next;
            }
            *place = Slot::Used(entry);
        } else {
            match self.chunks.last_mut() {
                Some(last) if last.len() < CHUNK => last.push(Slot::Used(entry)),
                _ => {
                    let mut chunk = Vec::with_capacity(CHUNK);
                    chunk.push(Slot::Used(entry));
                    self.chunks.push(chunk);
                }
            }
        }
        self.used += 1;
    }

    /// The entry in a slot.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        match slot_mut(&mut self.chunks, slot)? {
            Slot::Used(entry) => Some(entry),
            Slot::Free(_) => None,
        }
    }

    /// Takes the entry out of a slot. An empty slab gives its memory back.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry<T>> {
        let place = slot_mut(&mut self.chunks, slot)?;
        if matches!(place, Slot::Free(_)) {
            return None;
        }
        let Slot::Used(entry) = std::mem::replace(place, Slot::Free(self.free)) else {
            return None;
        };
        self.free = slot;
        self.used -= 1;
        if self.used == 0 && self.chunks.len() > 1 {
            *self = Slab::new();
        }
        Some(entry)
    }

    /// Takes all entries out.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Entry<T>> + use<T> {
        std::mem::replace(self, Slab::new()).chunks.into_iter().flatten().filter_map(|slot| match slot {
            Slot::Used(entry) => Some(entry),
            Slot::Free(_) => None,
        })
    }
}

fn slot_mut<T>(chunks: &mut [Vec<Slot<T>>], slot: u32) -> Option<&mut Slot<T>> {
    let slot = slot as usize;
    chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: u32) -> Entry<u32> {
        let fd = std::fs::File::open("/dev/null").unwrap().into();
        Entry { fd, kind: StreamKind::Tcp, bucket: 0, previous: NONE, next: NONE, payload }
    }

    #[test]
    fn slot_size_stays_small() {
        assert!(size_of::<Slot<()>>() <= 24);
        assert!(size_of::<Slot<Box<u8>>>() <= 32);
    }

    #[test]
    fn insert_remove_reuses_slots_and_gives_memory_back() {
        let mut slab = Slab::new();
        let slots: Vec<u32> = (0..CHUNK as u32 * 2)
            .map(|payload| {
                let slot = slab.next_slot();
                slab.insert(entry(payload));
                slot
            })
            .collect();
        assert_eq!(slots.last(), Some(&(CHUNK as u32 * 2 - 1)));
        assert_eq!(slab.remove(7).map(|entry| entry.payload), Some(7));
        assert!(slab.remove(7).is_none() && slab.get_mut(NONE).is_none());
        assert_eq!(slab.next_slot(), 7);
        slab.insert(entry(70));
        assert_eq!((slab.get_mut(7).map(|entry| entry.payload), slab.len()), (Some(70), CHUNK * 2));
        for slot in slots {
            slab.remove(slot);
        }
        assert_eq!((slab.len(), slab.chunks.len()), (0, 0));
        slab.insert(entry(1));
        assert_eq!(slab.take_all().count(), 1);
    }
}
