//! Probes that are files in the directory of `--allow-file` (keepalived: FILE_CHECK), watched and not polled.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use bascule_checks_core::Outcome;

use super::Shared;
use crate::plane::netlink::wait;
use crate::watch::{Event, Watch};

/// Longest content that can be a weight, in bytes.
const MAX_CONTENT: u64 = 64;
/// How long the end of the agent, and new checks, may wait for this thread.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often a directory that cannot be watched is looked at.
const POLL: Duration = Duration::from_secs(2);

/// Watches until nobody is there any more. All files are read when something happens in the directory, and when other files are
/// asked for: there are few, and they are short.
pub(super) fn watch(directory: &Path, shared: &Weak<Shared>) {
    let mut watch = None;
    let mut read: Vec<(u64, String)> = Vec::new();
    let mut said = false;
    let mut created = false;
    let mut looked = std::time::Instant::now();
    loop {
        let mut due = false;
        if watch.is_none() {
            // Any name may be a check's.
            match Watch::open(directory, |_| true) {
                Ok(opened) => {
                    (watch, due, said) = (Some(opened), true, false);
                }
                Err(error) => {
                    if !said {
                        tracing::error!("{} cannot be watched: {error}", directory.display());
                    }
                    (said, due) = (true, looked.elapsed() >= POLL);
                }
            }
        }
        let descriptors: Vec<_> = watch.iter().map(Watch::as_fd).collect();
        if wait(&descriptors, PATIENCE).is_err() {
            std::thread::sleep(PATIENCE);
        }
        drop(descriptors);
        match watch.as_ref().map(Watch::events) {
            Some(Ok(events)) => {
                // What was just created is about to be written, most likely, which ends with an event; a link is read a moment later.
                due |= std::mem::take(&mut created);
                for event in &events {
                    match event {
                        Event::Created(_) => created = true,
                        _ => due = true,
                    }
                }
                if events.contains(&Event::DirectoryGone) {
                    watch = None;
                }
            }
            Some(Err(_)) => (watch, due) = (None, true),
            None => {}
        }
        let Some(shared) = shared.upgrade() else { return };
        let wanted = shared.lock().watched();
        if due || wanted != read {
            looked = std::time::Instant::now();
            for (id, name) in &wanted {
                shared.report(*id, &look(directory, name));
            }
            read = wanted;
        }
    }
}

/// What a file says.
fn look(directory: &Path, name: &str) -> Outcome {
    match content(&directory.join(name)) {
        Ok(text) => judge(name, text.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Outcome::failed(format!("no file {name}")),
        Err(error) => Outcome::failed(format!("{name}: {error}")),
    }
}

fn content(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_CONTENT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A number is a weight; without one, being there is enough.
fn judge(name: &str, text: &str) -> Outcome {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Outcome::passed(format!("{name} is there"));
    }
    match text.parse::<u16>() {
        Ok(weight) => Outcome::passed(format!("{name}: weight {weight}")).with_weight(weight),
        Err(_) => Outcome::failed(format!("{name}: {text} is not a weight, 0 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_weight_and_presence_is_enough() {
        for (text, passed, weight) in [
            ("", true, None),
            ("maintenance over", true, None),
            ("-", true, None),
            ("0", true, Some(0)),
            ("65535", true, Some(65535)),
            ("65536", false, None),
            ("-1", false, None),
        ] {
            let outcome = judge("srv1", text);
            assert_eq!((outcome.is_passed(), outcome.weight()), (passed, weight), "{text}");
        }
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(look(directory.path(), "srv1").message(), "no file srv1");
        fs::write(directory.path().join("srv1"), " 7\n").unwrap();
        assert_eq!(look(directory.path(), "srv1").weight(), Some(7));
        fs::create_dir(directory.path().join("srv2")).unwrap();
        assert!(!look(directory.path(), "srv2").is_passed());
    }
}
