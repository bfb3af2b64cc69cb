//! Boxing a future in the place where it stays.
//!
//! Called wherever a large future is boxed for a request. nginx has no counterpart.

use std::pin::Pin;

/// Boxes the future that `make` gives. `Box::pin` makes it first and copies it then, which costs more than the rest for one of some kilobytes.
#[inline(always)]
pub fn pinned<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}
