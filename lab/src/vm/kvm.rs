//! Whether hardware virtualisation works here. `/dev/kvm` can be there and fail, or hang: a timed test boot decides.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::dir::StateDir;
use super::find::Kernel;

/// How long the test boot may take. With working hardware virtualisation it takes less than two seconds.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long it may take to its kernel's first line, which comes within a second where it works, and never where it hangs.
const SILENCE: Duration = Duration::from_secs(4);
/// That line begins so.
const BANNER: &str = "Linux version";

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Verdict {
    /// A kernel booted in so many milliseconds.
    Works {
        /// Duration of the test boot.
        millis: u64,
    },
    /// It cannot be used; why.
    Broken {
        /// What happened, in words.
        reason: String,
    },
}

impl Verdict {
    /// Whether it works.
    pub fn works(&self) -> bool {
        matches!(self, Self::Works { .. })
    }
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Cached {
    boot_id: String,
    qemu: (u64, i64),
    kernel: String,
    device: (u64, u32, u32),
    verdict: Verdict,
    /// In how many test boots in a row the kernel said nothing. One may have been slow; the second one is believed for good.
    silent: u8,
}

/// The verdict on this computer, from the cache when nothing that matters has changed since the last test boot.
pub fn verdict(dir: &StateDir, qemu: &Path, kernel: &Kernel) -> Verdict {
    let device = match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(file) => file,
        Err(error) => {
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
                std::io::ErrorKind::PermissionDenied => {
                    "/dev/kvm may not be opened (join the group that owns it, often `kvm`)".to_owned()
                }
                _ => format!("/dev/kvm: {error}"),
            };
            return Verdict::Broken { reason };
        }
    };
    let identity = || -> std::io::Result<_> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let program = fs::metadata(qemu)?;
        let device = device.metadata()?;
        Ok((boot_id, (program.size(), program.mtime()), (device.rdev(), device.uid(), device.gid())))
    };
    let Ok((boot_id, program, device)) = identity() else {
        return test_boot(qemu, kernel).0;
    };
    let cache = dir.path().join("kvm.json");
    let known = fs::read(&cache).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    let known = known.filter(|known| {
        known.boot_id == boot_id
            && known.qemu == program
            && known.kernel == kernel.release
            && known.device == device
    });
    let before = known.as_ref().map_or(0, |known| known.silent);
    if let Some(known) = known
        && known.silent != 1
    {
        return known.verdict;
    }
    let (verdict, was_silent) = test_boot(qemu, kernel);
    let silent = if was_silent { before + 1 } else { 0 };
    let (kernel, verdict) = (kernel.release.clone(), verdict);
    let cached = Cached { boot_id, qemu: program, kernel, device, verdict: verdict.clone(), silent };
    if let Ok(bytes) = serde_json::to_vec(&cached) {
        // Without a cache the next call tests again.
        let _ = fs::write(cache, bytes);
    }
    verdict
}

/// Boots the kernel without a root file system: it must come to its panic, and QEMU to its end, in time.
/// And whether it was ended because the kernel said nothing.
fn test_boot(qemu: &Path, kernel: &Kernel) -> (Verdict, bool) {
    let start = Instant::now();
    let mut command = Command::new(qemu);
    command
        .args(["-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256M", "-smp", "1"])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel"])
        .arg(&kernel.image)
        .args(["-append", "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: prctl is a system call without pointers; it may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (Verdict::Broken { reason: format!("{}: {error}", qemu.display()) }, false),
    };
    let said = Arc::new(Mutex::new(Vec::new()));
    let stdout = child.stdout.take().map(|stream| gather(stream, &said));
    let stderr = child.stderr.take().map(|stream| gather(stream, &said));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if start.elapsed() < patience(&said) => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    for reader in [stdout, stderr].into_iter().flatten() {
        let _ = reader.join();
    }
    let text = String::from_utf8_lossy(&said.lock().expect("readers do not panic")).into_owned();
    if text.contains(BANNER) && text.contains("Kernel panic") && status.is_some() {
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        return (Verdict::Works { millis }, false);
    }
    let reason = match status {
        None if !text.contains(BANNER) => {
            format!("the kernel of a test boot with /dev/kvm said nothing within {} s", SILENCE.as_secs())
        }
        None => format!("a test boot with /dev/kvm did not end within {} s", PATIENCE.as_secs()),
        Some(status) => {
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no word");
            format!("a test boot with /dev/kvm failed ({status}): {}", last.trim())
        }
    };
    (Verdict::Broken { reason }, status.is_none() && !text.contains(BANNER))
}

/// How long it may take, by what it has said until now.
fn patience(said: &Mutex<Vec<u8>>) -> Duration {
    let said = String::from_utf8_lossy(&said.lock().expect("readers do not panic")).into_owned();
    if said.contains(BANNER) { PATIENCE } else { SILENCE }
}

/// Reads a stream to its end and keeps the first 256 KiB.
fn gather(
    mut stream: impl std::io::Read + Send + 'static,
    into: &Arc<Mutex<Vec<u8>>>,
) -> std::thread::JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = stream.by_ref().read(&mut buffer) {
            if length == 0 {
                return;
            }
            let mut all = into.lock().expect("readers do not panic");
            if all.len() < 256 * 1024 {
                all.extend_from_slice(&buffer[..length]);
            }
        }
    })
}
