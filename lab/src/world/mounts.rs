//! The files of a node: the machine's own, read-only, and on top of them what a computer of one's own has: `/proc`, `/sys`,
//! an empty `/run` and `/tmp` at each boot, and a disk that outlives it (`/var/lib`, `/var/log`, and what is written in `/etc`).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use super::error::{Doing, Result};

/// Where the lab's own things are inside a node.
pub const INSIDE: &str = "/run/bascule-lab";
/// Folders whose changes are kept on the disk by an overlay, in every node.
pub(crate) const OVERLAID: [&str; 2] = ["/etc", "/root"];
/// Folders that are on the disk, and empty at first.
pub(crate) const ON_DISK: [&str; 2] = ["/var/lib", "/var/log"];
/// Folders that are empty after each boot.
pub(crate) const VOLATILE: [&str; 4] = ["/run", "/tmp", "/var/tmp", "/dev/shm"];

/// What a node sees.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    /// The folder that is its disk.
    pub(crate) disk: PathBuf,
    /// Programs that it gets as `/run/bascule-lab/bin/NAME`.
    pub(crate) programs: Vec<(String, PathBuf)>,
    /// Folders that can be written, besides [`OVERLAID`]: those of its `files`. Parents before children.
    pub(crate) writable: Vec<PathBuf>,
}

/// Where on the disk the changes of an overlaid folder are.
pub(crate) fn upper(disk: &Path, folder: &Path) -> PathBuf {
    disk.join("over").join(flat(folder)).join("upper")
}

/// A path as one file name.
fn flat(folder: &Path) -> String {
    folder.to_string_lossy().trim_matches('/').replace('%', "%25").replace('/', "%2F")
}

/// Where a path of a node is on its disk when the node is off; `None` for what is not on the disk.
pub(crate) fn on_disk(config: &Config, path: &Path) -> Option<PathBuf> {
    for folder in ON_DISK {
        if let Ok(rest) = path.strip_prefix(folder) {
            return Some(config.disk.join(folder.trim_start_matches('/')).join(rest));
        }
    }
    // The deepest overlay hides those above it.
    let overlays = OVERLAID.iter().map(Path::new).chain(config.writable.iter().map(PathBuf::as_path));
    overlays
        .filter(|folder| path.starts_with(folder))
        .max_by_key(|folder| folder.components().count())
        .and_then(|folder| Some(upper(&config.disk, folder).join(path.strip_prefix(folder).ok()?)))
}

/// Gives the calling process, which has a mount namespace of its own, the files of a node.
pub(crate) fn set_up(config: &Config) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .doing(|| "making mounts private".into())?;
    // Taken before `/run` and `/tmp`, where they may be, are hidden, and before everything is made read-only.
    let disk = take(&config.disk).doing(|| format!("taking the disk {}", config.disk.display()))?;
    let mut programs = Vec::new();
    for (name, path) in &config.programs {
        programs.push((name, take(path).doing(|| format!("taking the program {}", path.display()))?));
    }
    read_only(Path::new("/")).doing(|| "making the machine's files read-only".into())?;
    plain("proc", "/proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, "")?;
    plain("sysfs", "/sys", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, "")?;
    if Path::new("/sys/fs/cgroup").is_dir() {
        // For those who look; nothing here depends on it.
        let _ = mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), None::<&str>);
    }
    for folder in VOLATILE {
        if Path::new(folder).is_dir() {
            let mode = if folder == "/run" { "mode=0755" } else { "mode=1777" };
            plain("tmpfs", folder, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, mode)?;
        }
    }
    let inside = Path::new(INSIDE);
    for folder in [inside.join("bin"), inside.join("disk"), PathBuf::from("/run/lock")] {
        std::fs::create_dir_all(&folder).doing(|| format!("making {}", folder.display()))?;
    }
    put(&disk, &inside.join("disk")).doing(|| "attaching the disk".into())?;
    for (name, tree) in programs {
        let target = inside.join("bin").join(name);
        std::fs::write(&target, b"").doing(|| format!("making {}", target.display()))?;
        put(&tree, &target).doing(|| format!("attaching {}", target.display()))?;
    }
    for folder in ON_DISK {
        let source = inside.join("disk").join(folder.trim_start_matches('/'));
        std::fs::create_dir_all(&source).doing(|| format!("making {}", source.display()))?;
        mount(Some(&source), folder, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .doing(|| format!("attaching {folder}"))?;
    }
    for folder in OVERLAID {
        overlay(&inside.join("disk"), Path::new(folder))?;
    }
    for folder in &config.writable {
        overlay(&inside.join("disk"), folder)?;
    }
    Ok(())
}

fn plain(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .doing(|| format!("mounting {kind} at {target}"))
}

/// Keeps on the disk what is changed in a folder of the machine.
fn overlay(disk: &Path, folder: &Path) -> Result<()> {
    let upper = upper(disk, folder);
    let work = upper.with_file_name("work");
    for path in [&upper, &work] {
        std::fs::create_dir_all(path).doing(|| format!("making {}", path.display()))?;
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", escape(folder), escape(&upper), escape(&work));
    mount(Some("overlay"), folder, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .doing(|| format!("overlaying {} (this needs overlayfs: `modprobe overlay`)", folder.display()))
}

/// A path as a value of overlayfs's options, where colons and commas separate.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, '\\' | ':' | ',') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// A file or folder as a mount of its own that is nowhere yet (`open_tree(2)`, Linux 5.2).
fn take(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    // SAFETY: the path is a C string that outlives the call; on success the result is a descriptor that is ours.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches what [`take`] took (`move_mount(2)`, Linux 5.2).
fn put(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    let target = c_string(target)?;
    // SAFETY: both paths are C strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a mount and all below it read-only (`mount_setattr(2)`, Linux 5.12).
fn read_only(path: &Path) -> io::Result<()> {
    /// `struct mount_attr` of `linux/mount.h`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const MOUNT_ATTR_RDONLY: u64 = 1;
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    let path = c_string(path)?;
    let attributes = Attributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the path and the structure outlive the call, and the size given is the structure's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            AT_RECURSIVE,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_on_the_disk_of_a_node_that_is_off() {
        let config = Config {
            disk: "/d".into(),
            programs: Vec::new(),
            writable: vec!["/usr/share/x".into(), "/etc/deep".into()],
        };
        let find = |path: &str| on_disk(&config, Path::new(path));
        assert_eq!(find("/etc/bascule/web.yaml"), Some("/d/over/etc/upper/bascule/web.yaml".into()));
        assert_eq!(find("/etc/deep/a"), Some("/d/over/etc%2Fdeep/upper/a".into()));
        assert_eq!(find("/usr/share/x/a"), Some("/d/over/usr%2Fshare%2Fx/upper/a".into()));
        assert_eq!(find("/var/lib/bascule/last"), Some("/d/var/lib/bascule/last".into()));
        assert_eq!(find("/run/x"), None);
        assert_eq!(find("/etcetera"), None);
    }

    #[test]
    fn options_of_an_overlay_escape_what_separates() {
        assert_eq!(escape(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
    }
}
