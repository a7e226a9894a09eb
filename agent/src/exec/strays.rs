//! Children of a program that left its process group: found in /proc, and held by a pidfd, so that no number that the
//! kernel has given to somebody else meanwhile is ever killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Most that are held; a program that has more is killed as far.
const MAX_STRAYS: usize = 256;

/// proc(5): `/proc/PID/stat`, what of it is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: i32,
    session: i32,
}

/// Processes of the session of `leader`, and descendants of it, `leader` itself not among them.
#[derive(Debug, Default)]
pub(super) struct Strays(BTreeMap<i32, OwnedFd>);

impl Strays {
    /// Looks for those that are there now, beside those found before. `leader` must not have been waited for: its number
    /// is its own only so long.
    pub(super) fn find(&mut self, leader: i32) {
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let table: BTreeMap<i32, Stat> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
        for pid in family(&table, leader) {
            if self.0.len() >= MAX_STRAYS {
                return;
            }
            // What is found once more after the pidfd is open is what the pidfd is of.
            if !self.0.contains_key(&pid)
                && let Some(fd) = open(pid)
                && stat(pid) == table.get(&pid).copied()
            {
                self.0.insert(pid, fd);
            }
        }
    }

    /// Sends a signal to all of them; those that have ended do not mind.
    pub(super) fn signal(&self, signal: libc::c_int) {
        for fd in self.0.values() {
            // SAFETY: takes integers; no siginfo is given.
            unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    fd.as_raw_fd(),
                    signal,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                );
            }
        }
    }

    /// How many were found so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn family(table: &BTreeMap<i32, Stat>, leader: i32) -> BTreeSet<i32> {
    let mut family = BTreeSet::from([leader]);
    loop {
        let more: Vec<i32> = table
            .iter()
            .filter(|(pid, stat)| {
                !family.contains(*pid) && (stat.session == leader || family.contains(&stat.parent))
            })
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            family.remove(&leader);
            return family;
        }
        family.extend(more);
    }
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in parentheses, may hold anything, so that counting begins behind the last one: state, parent, group, session.
fn parse(stat: &[u8]) -> Option<Stat> {
    let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(&stat[behind..]).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Stat { parent, session })
}

/// A pidfd (pidfd_open(2), Linux 5.3).
pub(super) fn open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: takes integers; the descriptor that comes back is ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_astray() {
        let line = b"12 (a) R 9 9 (b) c)) S 7 12 11 0 -1 4194560 1 2";
        assert_eq!(parse(line), Some(Stat { parent: 7, session: 11 }));
        for broken in [&b""[..], b"12 (x", b"12 (x) S 7", b"12 (x) S a b c d"] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn the_family_is_the_session_and_the_descendants() {
        let table = BTreeMap::from(
            [(10, 1, 10), (11, 10, 10), (12, 1, 10), (13, 11, 13), (14, 13, 13), (20, 1, 20), (21, 20, 20)]
                .map(|(pid, parent, session)| (pid, Stat { parent, session })),
        );
        assert_eq!(family(&table, 10), BTreeSet::from([11, 12, 13, 14]));
        assert_eq!(family(&table, 20), BTreeSet::from([21]));
        assert_eq!(family(&table, 99), BTreeSet::new());
    }
}
