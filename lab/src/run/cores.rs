//! Core files. In the lab's own virtual machine they are kept; elsewhere they go where that kernel's `kernel.core_pattern` says, which
//! belongs to the whole machine, not to a namespace, and is left alone.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::vm::executor::MACHINE;
use crate::world::now;

/// Where the machine's kernel leaves them until the run collects them.
const FOLDER: &str = "/run/bascule-cores";
/// So many are kept of a run.
const MOST: usize = 8;
/// As much is kept of each, in bytes: it is memory of the machine. A debugger reads what there is of one that was cut.
const MAX_CORE: u64 = 32 << 20;
/// What takes a core: the kernel runs it outside all nodes, so that one is kept whatever became of its node. core(5).
const KEEP: &str = "keep";

/// Where core files are kept, or why none is.
pub(super) struct Cores {
    folder: Result<PathBuf, String>,
}

/// A core file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Core {
    /// Where it is now.
    pub(super) path: PathBuf,
    /// What `uname -n` printed where its process ran.
    pub(super) host: String,
    /// The process, as its node counts.
    pub(super) pid: i32,
    /// The signal.
    pub(super) signal: i32,
    /// The command name.
    pub(super) program: String,
    /// When it was written: CLOCK_MONOTONIC, nanoseconds.
    pub(super) at: u64,
    /// Whether there was more of it.
    pub(super) cut: bool,
}

impl Cores {
    /// Has this kernel's core files kept, if it is the lab's own.
    pub(super) fn begin() -> Self {
        if std::env::var_os(MACHINE).is_none() {
            let why = "not kept: where core files go (kernel.core_pattern) is a setting of the whole machine, which the lab changes in its own virtual machine only (--kernel vm)";
            return Self { folder: Err(why.to_owned()) };
        }
        let folder = Path::new(FOLDER);
        let begun = prepare(folder).and_then(|()| {
            std::fs::write("/proc/sys/kernel/core_pipe_limit", "4")?;
            std::fs::write("/proc/sys/kernel/core_pattern", format!("|/bin/sh {FOLDER}/{KEEP} %h,%p,%s,%e"))
        });
        let why = |error: io::Error| format!("not kept: setting kernel.core_pattern: {error}");
        Self { folder: begun.map(|()| folder.to_owned()).map_err(why) }
    }

    /// Those that are there.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub(super) fn list(&self) -> io::Result<Vec<Core>> {
        let Ok(folder) = &self.folder else { return Ok(Vec::new()) };
        let mut cores = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            cores.extend(core(&entry?.path())?);
        }
        cores.sort_by_key(|core| core.at);
        cores.truncate(MOST);
        Ok(cores)
    }

    /// Why there is none of a process.
    pub(super) fn why_none(&self) -> String {
        match &self.folder {
            Ok(_) => format!("none was written, or {MOST} others were there already"),
            Err(why) => why.clone(),
        }
    }
}

/// Empties the folder, and puts there what takes cores.
fn prepare(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    std::fs::DirBuilder::new().mode(0o700).create(folder)?;
    // The kernel gives it no environment. Without a reader it would not end what it writes: what is not kept is read as well.
    let script = format!(
        "PATH=/usr/bin:/bin\numask 077\ncd '{}' || exit 1\nset -- \"$1\" core,*\ntest $# -le {MOST} || exec cat >/dev/null\nhead -c {MAX_CORE} >\"core,$1\"\nexec cat >/dev/null\n",
        folder.display()
    );
    std::fs::write(folder.join(KEEP), script)
}

/// What a file's name says of it; none if it is no core.
fn core(path: &Path) -> io::Result<Option<Core>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parts: Vec<&str> = name.splitn(5, ',').collect();
    let ["core", host, pid, signal, program] = parts[..] else { return Ok(None) };
    let (Ok(pid), Ok(signal)) = (pid.parse(), signal.parse()) else { return Ok(None) };
    let metadata = std::fs::metadata(path)?;
    let age = SystemTime::now().duration_since(metadata.modified()?).unwrap_or(Duration::ZERO);
    Ok(Some(Core {
        path: path.to_owned(),
        host: host.to_owned(),
        pid,
        signal,
        program: program.to_owned(),
        at: now().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        cut: metadata.len() >= MAX_CORE,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// Does what the kernel does with a core of so many bytes.
    fn dump(folder: &Path, words: &str, length: usize) {
        let mut child = Command::new("/bin/sh")
            .arg(folder.join(KEEP))
            .arg(words)
            .env_clear()
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&vec![7; length]).unwrap();
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn so_many_cores_are_kept_and_so_much_of_each() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("cores");
        prepare(&folder).unwrap();
        let cores = Cores { folder: Ok(folder.clone()) };
        assert!(cores.list().unwrap().is_empty());
        let most = usize::try_from(MAX_CORE).unwrap();
        dump(&folder, "SRV1,12,11,a program, named so", most + 100_000);
        for pid in 1..MOST + 3 {
            dump(&folder, &format!("dir1,{pid},6,bascule-agent"), 10);
        }
        let found = cores.list().unwrap();
        assert_eq!(found.len(), MOST);
        let large = found.iter().find(|core| core.host == "SRV1").unwrap();
        assert_eq!((large.pid, large.signal, &*large.program), (12, 11, "a program, named so"));
        assert!(large.cut && large.at <= now());
        assert_eq!(std::fs::metadata(&large.path).unwrap().len(), MAX_CORE);
        let small = found.iter().find(|core| core.host == "dir1").unwrap();
        assert!(!small.cut && std::fs::read(&small.path).unwrap() == [7; 10]);
        // Those of an earlier run go.
        prepare(&folder).unwrap();
        assert!(cores.list().unwrap().is_empty());
    }

    #[test]
    fn where_cores_are_not_the_labs_it_says_so() {
        let cores = Cores { folder: Err("not kept: why".into()) };
        assert!(cores.list().unwrap().is_empty());
        assert_eq!(cores.why_none(), "not kept: why");
    }
}
