//! The memory allocator, and giving unused memory back to the system.
//!
//! The binary makes [`Allocator`] its global allocator; workers call [`release`] when many connections have gone idle, because what
//! their requests used lies scattered between what stays. nginx has no counterpart: its pools go back as they are freed.

use std::alloc::{GlobalAlloc, Layout};

/// What mimalloc aligns every block of at least this many bytes to.
const NATURAL: usize = 16;

/// mimalloc. Its own binding takes the entry for any alignment, which costs as much again as the allocation itself; nearly all
/// layouts ask for no more than each block has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

/// The allocator's value, for `#[global_allocator]`.
pub const ALLOCATOR: Allocator = Allocator;

/// Whether every block of this size has this alignment: blocks below 16 bytes have that of their size class, 8.
#[inline]
fn is_natural(size: usize, align: usize) -> bool {
    align <= 8 || (align <= NATURAL && size >= NATURAL)
}

// SAFETY: each method forwards to the mimalloc function of the same contract; mimalloc does not unwind, blocks may be freed on any thread, and
// `mi_malloc` aligns as `is_natural` says (`MI_MAX_ALIGN_SIZE`), so that the layout is met in either branch.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if is_natural(size, align) {
            // SAFETY: any size is allowed; failure is a null pointer, as the trait wants it.
            unsafe { libmimalloc_sys::mi_malloc(size).cast() }
        } else {
            // SAFETY: as above; `align` is a power of two, as `Layout` guarantees.
            unsafe { libmimalloc_sys::mi_malloc_aligned(size, align).cast() }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if is_natural(size, align) {
            // SAFETY: as in `alloc`.
            unsafe { libmimalloc_sys::mi_zalloc(size).cast() }
        } else {
            // SAFETY: as in `alloc`.
            unsafe { libmimalloc_sys::mi_zalloc_aligned(size, align).cast() }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, _layout: Layout) {
        // SAFETY: the caller gives a block that this allocator gave out and that was not freed since.
        unsafe { libmimalloc_sys::mi_free(ptr.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let align = layout.align();
        if is_natural(size, align) {
            // SAFETY: the block is live and ours; on failure it stays as it is and null is returned, as the trait wants it.
            unsafe { libmimalloc_sys::mi_realloc(ptr.cast(), size).cast() }
        } else {
            // SAFETY: as above; `align` is a power of two.
            unsafe { libmimalloc_sys::mi_realloc_aligned(ptr.cast(), size, align).cast() }
        }
    }
}

/// Gives pages that this thread no longer uses back to the system. Costs some microseconds for each megabyte.
pub fn release() {
    // SAFETY: `mi_collect` takes no pointers, may be called at any time on any thread, and does nothing to live memory.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Has this process use pages of the usual size alone, from here on. A huge page stays whole as long as one connection's few hundred bytes lie
/// in it: with them, idle connections take three times the memory, and no request is cheaper for it. Does nothing where the kernel has no
/// such setting.
pub fn refuse_huge_pages() {
    let _ = crate::sys::disable_huge_pages();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_size_and_alignment_are_aligned_and_keep_their_bytes() {
        for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
            for size in [1, 7, 8, 15, 16, 17, 24, 100, 1000, 5000, 100_000] {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                // SAFETY: the layout is not empty; the block is used within its size and freed once, with the size it then has.
                unsafe {
                    let block = ALLOCATOR.alloc_zeroed(layout);
                    assert_eq!(block as usize % align, 0, "{size} bytes aligned to {align}");
                    assert_eq!((block.read(), block.add(size - 1).read()), (0, 0));
                    block.add(size - 1).write(7);
                    let larger = ALLOCATOR.realloc(block, layout, size * 3);
                    assert_eq!(larger as usize % align, 0, "{size} bytes grown, aligned to {align}");
                    assert_eq!(larger.add(size - 1).read(), 7);
                    let grown = Layout::from_size_align(size * 3, align).expect("a layout");
                    ALLOCATOR.dealloc(larger, grown);
                }
            }
        }
    }
}
