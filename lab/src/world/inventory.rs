//! What is on this machine of the kinds of things that a lab makes: namespaces, links, mounts, groups, processes. Compared before
//! and after a run, it shows that nothing was left.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::cgroup;

/// A process, from `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its number.
    pub pid: i32,
    /// Its name, at most 15 characters.
    pub name: String,
    /// What it is doing: `R`, `S`, `T` (stopped), `Z` (ended, not collected) …
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// When it started, in clock ticks since boot: with the number, its identity.
    pub started: u64,
}

impl Listed {
    /// Whether it does not run until it is continued: it is stopped, or waits in the kernel (vfork(2)) for a child that is.
    pub fn stands_still(&self, all: &[Listed]) -> bool {
        let waits_for = |child: &Listed| child.parent == self.pid && child.state == 'T';
        self.state == 'T' || self.state == 'D' && all.iter().any(waits_for)
    }
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
pub fn process(pid: i32) -> Option<Listed> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain anything, also parentheses.
    let (left, right) = text.rsplit_once(')')?;
    let name = left.split_once('(')?.1.to_owned();
    let fields: Vec<_> = right.split_ascii_whitespace().collect();
    Some(Listed {
        pid,
        name,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// All processes.
pub fn processes() -> Vec<Listed> {
    pids().into_iter().filter_map(process).collect()
}

fn pids() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The processes of a PID namespace, given by the inode of its `/proc/PID/ns/pid`.
pub fn processes_in(pid_namespace: u64) -> Vec<Listed> {
    pids()
        .into_iter()
        .filter(|pid| {
            std::fs::metadata(format!("/proc/{pid}/ns/pid")).is_ok_and(|data| data.ino() == pid_namespace)
        })
        .filter_map(process)
        .collect()
}

/// The states of a process's threads.
pub fn thread_states(pid: i32) -> Vec<char> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            text.rsplit_once(')')?.1.trim_start().chars().next()
        })
        .collect()
}

/// A list to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Of all processes and of the places where `ip netns` keeps them: `net:[4026531840]`.
    pub namespaces: BTreeSet<String>,
    /// Interfaces of this process's network namespace.
    pub links: BTreeSet<String>,
    /// Mounts that this process sees.
    pub mounts: BTreeSet<String>,
    /// Folders of the cgroup2 file system.
    pub cgroups: BTreeSet<String>,
    /// Number, start time and name.
    pub processes: BTreeSet<String>,
    /// Registered runs.
    pub runs: BTreeSet<String>,
}

impl Inventory {
    /// Lists what there is now.
    pub fn take() -> Self {
        let mut inventory = Self::default();
        for pid in pids() {
            let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/ns")) else { continue };
            for entry in entries.flatten() {
                if let Ok(target) = std::fs::read_link(entry.path()) {
                    inventory.namespaces.insert(target.display().to_string());
                }
            }
            if let Some(process) = process(pid) {
                inventory.processes.insert(format!("{pid} {} {}", process.started, process.name));
            }
        }
        for path in names("/run/netns") {
            inventory.namespaces.insert(format!("/run/netns/{path}"));
        }
        inventory.links = names("/sys/class/net").into_iter().collect();
        inventory.mounts = std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        if let Some(mount) = cgroup::mount_point() {
            folders(&mount, &mut inventory.cgroups);
        }
        inventory.runs = names(super::janitor::FOLDER).into_iter().collect();
        inventory
    }

    /// What is in this list and not in the other, a line each.
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        let pairs = [
            ("namespace", &self.namespaces, &other.namespaces),
            ("link", &self.links, &other.links),
            ("mount", &self.mounts, &other.mounts),
            ("cgroup", &self.cgroups, &other.cgroups),
            ("process", &self.processes, &other.processes),
            ("run", &self.runs, &other.runs),
        ];
        pairs
            .into_iter()
            .flat_map(|(kind, mine, theirs)| mine.difference(theirs).map(move |one| format!("{kind} {one}")))
            .collect()
    }
}

fn names(folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn folders(path: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.insert(entry.path().display().to_string());
            folders(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_listed_and_nothing_is_beyond_itself() {
        let me = std::process::id().cast_signed();
        let listed = process(me).unwrap();
        assert!(listed.started > 0 && listed.pid == me);
        assert!(processes().iter().any(|process| process.pid == me));
        let namespace = std::fs::metadata("/proc/self/ns/pid").unwrap().ino();
        assert!(processes_in(namespace).iter().any(|process| process.pid == me));
        assert!(!thread_states(me).is_empty());
        let inventory = Inventory::take();
        assert!(inventory.beyond(&inventory).is_empty());
        assert!(inventory.beyond(&Inventory::default()).iter().any(|line| line == "link lo"));
        assert!(process(-1).is_none());
    }
}
