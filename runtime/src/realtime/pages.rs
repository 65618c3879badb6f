//! Large blocks on huge pages.

use std::alloc::{GlobalAlloc, Layout, System};

/// Blocks of this many bytes and more: camera frames, and nothing small that many of would be held.
const LARGE: usize = 512 * 1024;
/// A huge page of x86-64 and of arm64 with 4 KiB pages, bytes.
pub(super) const HUGE_PAGE: usize = 2 * 1024 * 1024;

/// The system's allocator, which puts large blocks on whole huge pages where the kernel gives them.
///
/// A camera frame lies on hundreds of ordinary pages, and an inference comes to it when the processor has forgotten
/// where they are. In a virtual machine each is looked up through two sets of tables: `endplate bench pipeline` shows
/// what that costs an image at p99. A kernel that gives no huge pages, or only to who asks in another way, gives
/// ordinary ones. Blocks that are allocated after the memory is locked are ordinary ones too: they are made present before
/// the kernel can be asked.
///
/// # Real-time
/// As the system's allocator; a large block is rounded up to whole huge pages.
#[derive(Copy, Clone, Debug, Default)]
pub struct LargePages;

// SAFETY: every block comes from and goes back to `System` with the layout that `placed` gives for the caller's layout,
// which is at least as large and as aligned.
unsafe impl GlobalAlloc for LargePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(placed) = placed(layout) else {
            // SAFETY: the caller's contract.
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: not of size 0.
        let block = unsafe { System.alloc(placed) };
        if !block.is_null() {
            advise(block, placed.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if placed(layout).is_none() {
            // SAFETY: the caller's contract.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // Asked for before it is touched, or it is given ordinary pages.
        // SAFETY: the caller's contract.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: `layout.size()` bytes from `block` on were allocated just now.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: allocated above with the same layout, as the caller promises.
        unsafe { System.dealloc(block, placed(layout).unwrap_or(layout)) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `new_size` rounded up to the alignment fits an `isize`.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (placed(layout), placed(new)) {
            // SAFETY: the caller's contract.
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            (Some(old), Some(new)) if old == new => block,
            _ => {
                // SAFETY: not of size 0, as the caller promises.
                let moved = unsafe { self.alloc(new) };
                if !moved.is_null() {
                    // SAFETY: both blocks hold that many bytes and are different blocks; the old one is given back as
                    // it was allocated.
                    unsafe {
                        moved.copy_from_nonoverlapping(block, layout.size().min(new_size));
                        self.dealloc(block, layout);
                    }
                }
                moved
            }
        }
    }
}

/// The layout a large block gets; `None` for one that stays where the system puts it.
fn placed(layout: Layout) -> Option<Layout> {
    let rounded = layout.size().checked_next_multiple_of(HUGE_PAGE)?;
    if layout.size() < LARGE || !cfg!(target_os = "linux") {
        return None;
    }
    Layout::from_size_align(rounded, layout.align().max(HUGE_PAGE)).ok()
}

#[cfg(target_os = "linux")]
fn advise(block: *mut u8, size: usize) {
    // SAFETY: advice about whole pages that were allocated just now; nothing depends on whether it is taken.
    unsafe { libc::madvise(block.cast(), size, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise(_block: *mut u8, _size: usize) {}

/// Memory that is freed stays with the process: given back, its pages would be made and cleared anew at the next inference.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn keep_memory() {
    /// The largest that glibc takes: blocks above come from the kernel one by one.
    const LARGEST_KEPT: libc::c_int = 32 << 20;
    // SAFETY: takes numbers only; −1 is never to trim.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_KEPT);
    }
}

/// Other allocators keep what they keep.
#[cfg(all(target_os = "linux", not(target_env = "gnu")))]
pub(super) fn keep_memory() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_shrink_and_keep_what_they_hold() {
        let sizes = [16, LARGE - 1, LARGE, 3 * HUGE_PAGE - 5, 3 * HUGE_PAGE, HUGE_PAGE + 1, LARGE / 2, 1];
        let mut layout = Layout::from_size_align(64, 16).unwrap();
        // SAFETY: every block is used within its size and given back with its layout.
        unsafe {
            let mut block = LargePages.alloc_zeroed(layout);
            block.write_bytes(7, layout.size());
            let mut kept = layout.size();
            for size in sizes {
                block = LargePages.realloc(block, layout, size);
                layout = Layout::from_size_align(size, 16).unwrap();
                assert!(!block.is_null() && block.addr().is_multiple_of(16));
                kept = kept.min(size);
                assert!((0..kept).all(|at| *block.add(at) == 7), "{size}");
                assert!(size < LARGE || block.addr().is_multiple_of(HUGE_PAGE), "{size}");
            }
            LargePages.dealloc(block, layout);
        }
    }

    #[test]
    fn a_zeroed_block_is_zeroed_where_another_was() {
        let layout = Layout::from_size_align(LARGE + 3, 1).unwrap();
        for _ in 0..3 {
            // SAFETY: used within its size, given back with its layout.
            unsafe {
                let block = LargePages.alloc_zeroed(layout);
                assert!((0..layout.size()).all(|at| *block.add(at) == 0));
                block.write_bytes(255, layout.size());
                LargePages.dealloc(block, layout);
            }
        }
    }

    #[test]
    fn what_is_small_or_too_large_to_round_up_stays_with_the_system() {
        assert_eq!(placed(Layout::from_size_align(LARGE - 1, 8).unwrap()), None);
        assert_eq!(placed(Layout::from_size_align(isize::MAX as usize, 1).unwrap()), None);
        let frame = placed(Layout::from_size_align(640 * 480 * 3, 1).unwrap());
        assert_eq!(frame, Layout::from_size_align(HUGE_PAGE, HUGE_PAGE).ok().filter(|_| cfg!(target_os = "linux")));
    }
}
