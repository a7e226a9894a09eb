//! Files between host and machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::{Client, HOST_VIEW, Shared};
use crate::vm::frame::{Frame, Kind, MAX_PAYLOAD};
use crate::vm::message::{Done, Entry};

/// Entries that one fetch may list.
const MAX_ENTRIES: usize = 20_000;
/// Paths that may be made visible in one call.
const MAX_EXPOSED: usize = 64;

fn finished(result: Result<()>) -> Done {
    match result {
        Ok(()) => Done::Ok,
        Err(error) => Done::Failed(format!("{error:#}")),
    }
}

/// A path that is absolute and has no `..`.
fn absolute(path: &str) -> Result<&Path> {
    let path = Path::new(path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        bail!("{}: must be absolute and without `..`", path.display());
    }
    Ok(path)
}

/// Writes a file from the client's input; it appears at its place when it is complete.
pub(super) async fn put(path: &str, mode: u32, client: &Client, inbox: &mut mpsc::Receiver<Frame>) -> Done {
    let mut failed = None;
    let mut file = match create(path, mode) {
        Ok(file) => Some(file),
        Err(error) => {
            failed = Some(error);
            None
        }
    };
    // The input is read to its end also when it cannot be kept, so that the channel stays in step.
    loop {
        let Some(frame) = inbox.recv().await else {
            let _ = fs::remove_file(temporary(Path::new(path)));
            return Done::Failed("the client is gone".to_owned());
        };
        match frame.kind {
            Kind::Input => {
                client.credit(&frame).await;
                if let Some(open) = &mut file
                    && let Err(error) = open.write_all(&frame.payload)
                {
                    failed = Some(anyhow::Error::new(error).context(format!("writing {path}")));
                    file = None;
                }
            }
            Kind::InputEnd => break,
            _ => {}
        }
    }
    if let Some(error) = failed {
        let _ = fs::remove_file(temporary(Path::new(path)));
        return Done::Failed(format!("{error:#}"));
    }
    drop(file);
    finished(fs::rename(temporary(Path::new(path)), path).with_context(|| format!("naming {path}")))
}

/// Bytes of one read of the host's files: each is a round trip.
const COPY_READ: usize = 512 << 10;

/// Copies a file of the host, past what the machine has mounted over it; it appears at its place when it is complete.
pub(super) async fn copy(from: String, path: String, mode: u32, length: u64) -> Done {
    let copied = tokio::task::spawn_blocking(move || {
        copy_from(Path::new(HOST_VIEW), &from, &path, (mode, length))
            .inspect_err(|_| drop(fs::remove_file(temporary(Path::new(&path)))))
    });
    finished(copied.await.unwrap_or_else(|error| Err(error.into())))
}

fn copy_from(view: &Path, from: &str, path: &str, (mode, length): (u32, u64)) -> Result<()> {
    let real = view.join(absolute(from)?.strip_prefix("/")?);
    let mut source = fs::File::open(real).with_context(|| format!("opening {from} of the host"))?;
    let mut file = create(path, mode)?;
    let (mut buffer, mut copied) = (vec![0; COPY_READ], 0);
    loop {
        let count = source.read(&mut buffer).with_context(|| format!("reading {from} of the host"))?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).with_context(|| format!("writing {path}"))?;
        copied += count as u64;
    }
    if copied != length {
        bail!("{from} of the host has {copied} bytes and not {length}");
    }
    drop(file);
    fs::rename(temporary(Path::new(path)), path).with_context(|| format!("naming {path}"))
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn create(path: &str, mode: u32) -> Result<fs::File> {
    let path = absolute(path)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    let temporary = temporary(path);
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .with_context(|| format!("creating {}", temporary.display()))
}

/// Sends a file, or a directory with everything below it. Symbolic links, sockets and the like are left out.
pub(super) async fn get(path: &str, client: &Client) -> Done {
    let result = async {
        let root = absolute(path)?;
        let mut entries = Vec::new();
        list(root, Path::new(""), &mut entries)?;
        for entry in entries {
            let full = if entry.path.is_empty() { root.to_owned() } else { root.join(&entry.path) };
            let announced = Frame::json(client.id, Kind::Entry, &entry)?;
            if !client.send(Kind::Entry, announced.payload).await {
                bail!("the client is gone");
            }
            if !entry.directory {
                send_file(&full, client).await?;
            }
        }
        Ok(())
    };
    finished(result.await)
}

fn list(root: &Path, below: &Path, entries: &mut Vec<Entry>) -> Result<()> {
    let full = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) };
    let metadata = fs::symlink_metadata(&full).with_context(|| format!("looking at {}", full.display()))?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Ok(());
    }
    if entries.len() >= MAX_ENTRIES {
        bail!("{} has more than {MAX_ENTRIES} entries", root.display());
    }
    let name = below.to_str().with_context(|| format!("{}: the name is not UTF-8", full.display()))?;
    entries.push(Entry {
        path: name.to_owned(),
        mode: metadata.permissions().mode() & 0o777,
        directory: metadata.is_dir(),
    });
    if metadata.is_dir() {
        let mut names = fs::read_dir(&full)
            .with_context(|| format!("reading {}", full.display()))?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<_>, _>>()?;
        names.sort();
        for name in names {
            list(root, &below.join(name), entries)?;
        }
    }
    Ok(())
}

async fn send_file(path: &Path, client: &Client) -> Result<()> {
    let mut file =
        tokio::fs::File::open(path).await.with_context(|| format!("opening {}", path.display()))?;
    let mut buffer = vec![0; MAX_PAYLOAD];
    loop {
        let length = file.read(&mut buffer).await.with_context(|| format!("reading {}", path.display()))?;
        if length == 0 {
            return Ok(());
        }
        if !client.send(Kind::Output, buffer[..length].to_vec()).await {
            bail!("the client is gone");
        }
    }
}

/// Whether there is a file.
pub(super) fn has(path: &str) -> Done {
    Done::Present(Path::new(path).exists())
}

/// Removes a file or directory of the machine's own memory; the host's files cannot be reached for writing anyway.
pub(super) fn remove(path: &str) -> Done {
    let result = absolute(path).and_then(|path| match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
        Ok(metadata) if metadata.is_dir() => {
            fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
        }
        Ok(_) => fs::remove_file(path).with_context(|| format!("removing {}", path.display())),
    });
    finished(result)
}

/// Shows paths of the host where the machine has mounted something over them.
pub(super) fn expose(paths: &[String], shared: &Shared) -> Done {
    if paths.len() > MAX_EXPOSED {
        return Done::Failed(format!("at most {MAX_EXPOSED} paths can be made visible at once"));
    }
    finished(paths.iter().try_for_each(|path| expose_one(absolute(path)?, shared)))
}

fn expose_one(path: &Path, shared: &Shared) -> Result<()> {
    let root_device = fs::metadata("/")?.dev();
    let mut exposed = shared.exposed.lock().expect("no holder panics");
    if let Some(at) = exposed.iter().position(|known| known == path) {
        // The host may have replaced it since: look again.
        exposed.remove(at);
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("uncovering {}", path.display()))?;
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.dev() == root_device) {
        return Ok(());
    }
    let real = Path::new(HOST_VIEW).join(path.strip_prefix("/")?);
    let metadata = fs::metadata(&real).with_context(|| format!("{} is not on the host", path.display()))?;
    if metadata.is_dir() {
        if path.components().count() <= 2 {
            bail!("{}: a directory at the top is not replaced; use one below it", path.display());
        }
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    } else {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        }
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("making {}", path.display()))?;
    }
    mount(Some(&real), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("showing {} of the host", path.display()))?;
    exposed.push(path.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_host_is_copied_whole_or_not_at_all() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let view = base.path().join("host");
        fs::create_dir_all(view.join("opt")).expect("writable");
        let contents: Vec<u8> = (0..=250).cycle().take(COPY_READ * 2 + 7).collect();
        fs::write(view.join("opt/tool"), &contents).expect("writable");
        let to = base.path().join("programs/set/tool");
        let at = to.to_str().expect("UTF-8");
        copy_from(&view, "/opt/tool", at, (0o755, contents.len() as u64)).expect("copied");
        assert_eq!(fs::read(&to).expect("there"), contents);
        assert_eq!(fs::metadata(&to).expect("there").permissions().mode() & 0o111, 0o111);
        for (from, at) in [("/opt/none", at), ("/../opt/tool", at), ("opt/tool", at), ("/opt/tool", "tool")] {
            copy_from(&view, from, at, (0o755, contents.len() as u64)).expect_err("refused");
        }
        copy_from(&view, "/opt/tool", at, (0o755, 7)).expect_err("another file than it is meant to be");
        assert_eq!(fs::read(&to).expect("what was there stays"), contents);
    }
}
