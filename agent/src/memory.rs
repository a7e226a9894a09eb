//! Giving memory back after work that needed much of it for a moment.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Less than this the allocator may keep, in bytes.
const LARGE: usize = 1 << 20;
/// Between two times: it holds up every thread that allocates meanwhile.
const SELDOM: Duration = Duration::from_secs(60);

/// Returns what the allocator keeps to the kernel. For use after reading thousands of manifests; takes some milliseconds.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread; it takes no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The same after an answer of so many bytes: if it was large, and not often.
pub(crate) fn give_back_after(bytes: usize) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    if worthwhile(bytes, &mut LAST.lock().unwrap_or_else(PoisonError::into_inner), Instant::now()) {
        give_back();
    }
}

fn worthwhile(bytes: usize, last: &mut Option<Instant>, now: Instant) -> bool {
    let worthwhile = bytes >= LARGE && last.is_none_or(|last| now.saturating_duration_since(last) >= SELDOM);
    if worthwhile {
        *last = Some(now);
    }
    worthwhile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_answers_are_worth_it_and_only_once_a_minute() {
        let start = Instant::now();
        let mut last = None;
        for (after, bytes, expected) in [
            (0, LARGE - 1, false),
            (1, LARGE, true),
            (16, LARGE, false),
            (60, usize::MAX, false),
            (61, LARGE, true),
        ] {
            let now = start + Duration::from_secs(after);
            assert_eq!(worthwhile(bytes, &mut last, now), expected, "after {after} s");
        }
    }
}
