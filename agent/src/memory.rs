//! Giving memory back after work that needed much of it for a moment.

/// Returns what the allocator keeps to the kernel. For use after reading thousands of manifests or writing a large
/// answer; takes some milliseconds.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread; it takes no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}
