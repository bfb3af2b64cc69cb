//! The memory allocator, and giving unused memory back to the system.
//!
//! The binary makes [`Allocator`] its global allocator; workers call [`release`] when many connections have gone idle, because what
//! their requests used lies scattered between what stays. nginx has no counterpart: its pools go back as they are freed.

/// The allocator of the binary.
pub type Allocator = mimalloc::MiMalloc;

/// The allocator's value, for `#[global_allocator]`.
pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;

/// Gives pages that this thread no longer uses back to the system. Costs some microseconds for each megabyte.
pub fn release() {
    // SAFETY: `mi_collect` takes no pointers, may be called at any time on any thread, and does nothing to live memory.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
