//! Files inside a node, read and written from outside. Paths are resolved as the node would: a symbolic link to `/etc/x` there
//! never leads to the machine's own `/etc/x`.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest file that is read whole, in bytes.
pub(crate) const MAX_FILE: u64 = 64 << 20;

/// A folder taken as the root of all paths.
pub(crate) struct Root(OwnedFd);

impl Root {
    /// Opens it: `/proc/PID/root` of a process in the node, or the folder of a disk.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)?;
        Ok(Self(file.into()))
    }

    /// `openat2(2)` (Linux 5.6) with everything resolved inside the root.
    fn open_inside(&self, path: &Path, flags: i32) -> io::Result<OwnedFd> {
        /// `struct open_how` of `linux/openat2.h`.
        #[repr(C)]
        struct How {
            flags: u64,
            mode: u64,
            resolve: u64,
        }
        const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
        const RESOLVE_IN_ROOT: u64 = 0x10;
        let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let how = How {
            flags: u64::from((flags | libc::O_CLOEXEC).cast_unsigned()),
            mode: 0,
            resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
        };
        // SAFETY: path and structure outlive the call, and the size given is the structure's.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                self.0.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<How>(),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: just made.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Opens a file to read from it.
    pub(crate) fn open_file(&self, path: &Path) -> io::Result<std::fs::File> {
        Ok(std::fs::File::from(self.open_inside(path, libc::O_RDONLY | libc::O_NONBLOCK)?))
    }

    /// Reads a file whole, up to [`MAX_FILE`].
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_file(path)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!("is larger than {MAX_FILE} bytes")));
        }
        Ok(bytes)
    }

    /// Writes a file whole: beside it first, then renamed over it, so that a watcher never sees half of it. Folders on the way are made.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (folder, name) = self.parent(path, true)?;
        let folder = folder_path(&folder);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let draft = folder.join(format!(".{}.{}-{number}", name.display(), std::process::id()));
        let written = (|| {
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
            file.write_all(bytes)?;
            // The mode above is masked.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            drop(file);
            std::fs::rename(&draft, folder.join(&name))
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        written
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.parent(path, false)?;
        std::fs::remove_file(folder_path(&folder).join(name))
    }

    /// The folder of a path, opened, and the last name.
    fn parent(&self, path: &Path, make: bool) -> io::Result<(OwnedFd, PathBuf)> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path of a file");
        let name = path.file_name().ok_or_else(wrong)?;
        let mut folder = self.open_inside(Path::new("/"), libc::O_PATH | libc::O_DIRECTORY)?;
        let mut so_far = PathBuf::from("/");
        for part in path.parent().ok_or_else(wrong)?.components() {
            match part {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(part) => so_far.push(part),
                Component::ParentDir | Component::Prefix(_) => return Err(wrong()),
            }
            folder = match self.open_inside(&so_far, libc::O_PATH | libc::O_DIRECTORY) {
                Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
                    let made = folder_path(&folder).join(so_far.file_name().unwrap_or_default());
                    match std::fs::create_dir(made) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                        _ => self.open_inside(&so_far, libc::O_PATH | libc::O_DIRECTORY)?,
                    }
                }
                other => other?,
            };
        }
        Ok((folder, name.into()))
    }
}

/// An open folder as a path of this process.
fn folder_path(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// An open file in memory with contents, at its beginning: the standard input of a command.
pub(crate) fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = nix::sys::memfd::memfd_create(c"stdin", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Whether something can be read now, without waiting.
pub(crate) fn ready(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_and_folders_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        root.write(Path::new("/a/b/c"), b"one", 0o640).unwrap();
        root.write(Path::new("/a/b/c"), b"two", 0o600).unwrap();
        assert_eq!(root.read(Path::new("/a/b/c")).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
        // A link to /a in the node is the node's /a, not the machine's.
        std::os::unix::fs::symlink("/a", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", folder.path().join("out")).unwrap();
        assert_eq!(root.read(Path::new("/link/b/c")).unwrap(), b"two");
        assert!(root.read(Path::new("/out/passwd")).is_err());
        root.write(Path::new("/link/d"), b"x", 0o644).unwrap();
        assert!(folder.path().join("a/d").exists());
        root.remove(Path::new("/link/d")).unwrap();
        assert!(!folder.path().join("a/d").exists());
        assert!(root.write(Path::new("/a/../../x"), b"x", 0o644).is_err());
        assert!(root.write(Path::new("/"), b"x", 0o644).is_err());
    }
}
