//! One large read buffer per worker, lent out for the length of a call.
//!
//! Reads land here first; a connection keeps only what could not be passed on at once. Called by the read paths of
//! the client and upstream sides. nginx has no counterpart: there each connection owns its buffers.

use std::cell::Cell;

/// Size of the scratch buffer in bytes.
pub const SCRATCH_SIZE: usize = 128 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Calls `f` with this worker's scratch buffer of [`SCRATCH_SIZE`] bytes, whose content is whatever the last user left.
///
/// A nested call gets a buffer of its own, made for it.
pub fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut lent = Lent(SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_else(fresh));
    f(&mut lent.0)
}

/// The buffer while it is out; returns itself to the thread even when the user unwinds.
struct Lent(Box<[u8]>);

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // When the thread is going away there is no one to keep the buffer for.
        let _ = SCRATCH.try_with(|slot| slot.set(Some(buffer)));
    }
}

/// A new zeroed buffer.
fn fresh() -> Box<[u8]> {
    vec![0; SCRATCH_SIZE].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_scratch_twice_reuses_the_buffer() {
        let first = with_scratch(|buffer| buffer.as_ptr() as usize);
        let second = with_scratch(|buffer| (buffer.as_ptr() as usize, buffer.len()));
        assert_eq!((first, SCRATCH_SIZE), second);
    }

    #[test]
    fn with_scratch_nested_gets_another_buffer() {
        with_scratch(|outer| {
            outer[0] = 1;
            with_scratch(|inner| {
                inner[0] = 2;
                assert_eq!(inner.len(), SCRATCH_SIZE);
            });
            assert_eq!(outer[0], 1);
        });
    }
}
