//! Which thread gets the processor when several want it.

use std::io;

use tracing::debug;

/// The niceness of a thread that clients wait for (setpriority(2)): before everything ordinary, behind real time.
const URGENT: i32 = -10;

/// Lets the calling thread go before the ordinary ones. Needs CAP_SYS_NICE or RLIMIT_NICE; without, it runs as the others do.
pub(crate) fn raise() {
    set(URGENT);
}

/// Lets the calling thread run as the ordinary ones do: it began with the priority of the thread that started it.
pub(crate) fn ordinary() {
    set(0);
}

fn set(niceness: i32) {
    // On Linux 0 means the calling thread, and only that.
    // SAFETY: takes and gives integers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    if result != 0 {
        debug!("this thread keeps its ordinary priority: {}", io::Error::last_os_error());
    }
}
