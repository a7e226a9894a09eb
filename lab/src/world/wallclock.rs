//! The wall clock, CLOCK_REALTIME: it has no namespace, so that it is moved only where the machine is the lab's own, and moved back when
//! the world ends, or by the sweep after a lab that was killed.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::time::{ClockId, clock_settime};

use super::error::{Doing, Error, Result};
use crate::programs::clock::{monotonic_ns, realtime_ns};
use crate::vm::executor::MACHINE;

/// The file in a run's folder that says where the clock has to be set back to.
const FILE: &str = "clock";

/// Why the clock of this machine must not be moved; `None`: it may.
pub(crate) fn refusal() -> Option<&'static str> {
    // Set by the executor in the virtual machine, for every command there.
    std::env::var_os(MACHINE).is_none().then_some(
        "the wall clock is that of the whole machine, and this one is not the lab's own; play it with `--kernel vm`",
    )
}

/// How far the wall clock is ahead of CLOCK_MONOTONIC, in nanoseconds.
fn ahead() -> i128 {
    i128::from(realtime_ns()) - i128::from(monotonic_ns())
}

/// Sets the wall clock to be that far ahead.
fn set(ahead: i128) -> Result<()> {
    let wanted = i128::from(monotonic_ns()) + ahead;
    let what = || format!("setting the wall clock to {} s", wanted / 1_000_000_000);
    let wanted = u64::try_from(wanted).map_err(|_| Error::wrong(format!("{}: before 1970", what())))?;
    clock_settime(ClockId::CLOCK_REALTIME, std::time::Duration::from_nanos(wanted).into()).doing(what)
}

/// The wall clock of a world.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    /// How far ahead it was before it was moved.
    before: Mutex<Option<i128>>,
}

impl WallClock {
    /// Moves it, and writes into `folder` how to undo that. By how much it was seen to move, in nanoseconds.
    pub(crate) fn step(&self, folder: &Path, by: i128) -> Result<i128> {
        if let Some(why) = refusal() {
            return Err(Error::wrong(why));
        }
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_some() {
            return Err(Error::wrong("the wall clock has been moved already"));
        }
        let was = ahead();
        let path = folder.join(FILE);
        std::fs::write(&path, was.to_string()).doing(|| format!("writing {}", path.display()))?;
        set(was + by)?;
        *before = Some(was);
        Ok(ahead() - was)
    }

    /// Moves it back; how far it then is from where it was, in nanoseconds. `None` if it has not been moved.
    pub(crate) fn back(&self, folder: &Path) -> Result<Option<i128>> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(was) = *before else { return Ok(None) };
        set(was)?;
        *before = None;
        let path = folder.join(FILE);
        std::fs::remove_file(&path).doing(|| format!("removing {}", path.display()))?;
        Ok(Some(ahead() - was))
    }
}

/// Moves the clock back after a run that was killed, if it had moved it.
pub(super) fn back_after(folder: &Path) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(folder.join(FILE)) else { return Ok(()) };
    match text.parse() {
        Ok(was) if refusal().is_none() => set(was),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_machine_that_is_not_the_labs_own_is_not_moved() {
        if refusal().is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let before = ahead();
        let clock = WallClock::default();
        let error = clock.step(folder.path(), 3_600_000_000_000).unwrap_err().to_string();
        assert!(error.contains("--kernel vm"), "{error}");
        assert!(clock.back(folder.path()).unwrap().is_none(), "nothing has been moved");
        // Nor by the file of a run that was killed.
        std::fs::write(folder.path().join(FILE), (before + 3_600_000_000_000).to_string()).unwrap();
        back_after(folder.path()).unwrap();
        assert!((ahead() - before).abs() < 60_000_000_000, "the clock stayed");
    }
}
