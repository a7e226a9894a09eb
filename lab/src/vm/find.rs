//! What is needed for a virtual machine, and where it is on this computer.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// A kernel that a machine can be booted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The image, `/boot/vmlinuz-RELEASE`.
    pub image: PathBuf,
    /// Its release.
    pub release: String,
}

/// The newest kernel in `/boot` that has modules with IPVS, or the one that `BASCULE_VM_KERNEL` names.
pub fn kernel() -> Result<Kernel, String> {
    if let Some(image) = std::env::var_os("BASCULE_VM_KERNEL").filter(|path| !path.is_empty()) {
        let image = PathBuf::from(image);
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !image.is_file() {
            return Err(format!("BASCULE_VM_KERNEL: there is no file {}", image.display()));
        }
        let release = name.strip_prefix("vmlinuz-").unwrap_or(&name).to_owned();
        return Ok(Kernel { image, release });
    }
    kernel_in(Path::new("/boot"), Path::new("/lib/modules"))
}

fn kernel_in(boot: &Path, modules: &Path) -> Result<Kernel, String> {
    let mut found: Vec<Kernel> = Vec::new();
    let mut unfit: Vec<String> = Vec::new();
    let entries = std::fs::read_dir(boot).map_err(|error| format!("{}: {error}", boot.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(release) = name.strip_prefix("vmlinuz-") else { continue };
        let image = entry.path();
        if !has_ipvs(&modules.join(release)) {
            unfit.push(format!("{name} has no ip_vs module"));
        } else if let Err(error) = std::fs::File::open(&image) {
            unfit.push(format!("{}: {error}", image.display()));
        } else {
            found.push(Kernel { image, release: release.to_owned() });
        }
    }
    found.sort_by(|a, b| compare_releases(&a.release, &b.release));
    found.pop().ok_or_else(|| {
        if unfit.is_empty() {
            format!("no kernel in {}", boot.display())
        } else {
            format!("no usable kernel in {}: {}", boot.display(), unfit.join(", "))
        }
    })
}

fn has_ipvs(modules: &Path) -> bool {
    let folder = modules.join("kernel/net/netfilter/ipvs");
    ["ip_vs.ko", "ip_vs.ko.xz", "ip_vs.ko.zst", "ip_vs.ko.gz"].iter().any(|name| folder.join(name).is_file())
}

/// Compares releases part by part, numbers as numbers: `6.1.0-56` is newer than `6.1.0-9`.
fn compare_releases(a: &str, b: &str) -> Ordering {
    fn parts(text: &str) -> Vec<(u64, &str)> {
        text.split(['.', '-', '+', '_'])
            .map(|part| {
                let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
                (part[..digits].parse().unwrap_or(0), &part[digits..])
            })
            .collect()
    }
    parts(a).cmp(&parts(b))
}

/// virtme-ng: `BASCULE_VNG`, else `vng` in `PATH`, else where `make lab` installs it (`~/.cache/bascule/venv`), else in a `.venv` of
/// the working directory or of a directory above it or above this program.
pub fn vng() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("BASCULE_VNG").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("BASCULE_VNG: there is no file {}", path.display()))
        };
    }
    if let Some(path) = in_path("vng") {
        return Ok(path);
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache =
        std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from).or(home);
    if let Some(cache) = cache {
        let candidate = cache.join("bascule/venv/bin/vng");
        if is_executable(&candidate) {
            return Ok(candidate);
        }
    }
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    for start in starts.into_iter().flatten() {
        for directory in start.ancestors() {
            let candidate = directory.join(".venv/bin/vng");
            if is_executable(&candidate) {
                return Ok(candidate);
            }
        }
    }
    Err("virtme-ng (`vng`) is not installed".to_owned())
}

/// QEMU for this processor.
pub fn qemu() -> Result<PathBuf, String> {
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    in_path(&name).ok_or_else(|| format!("{name} is not installed"))
}

/// The program of this name in `PATH`, or in the directories that root's `PATH` has.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for (older, newer) in [
            ("6.1.0-9-amd64", "6.1.0-56-amd64"),
            ("6.1.0-56-amd64", "6.12.1-amd64"),
            ("5.10.0-1-amd64", "6.1.0-1-amd64"),
        ] {
            assert_eq!(compare_releases(older, newer), Ordering::Less, "{older} {newer}");
        }
    }

    #[test]
    fn the_newest_kernel_with_ipvs_is_taken() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let (boot, modules) = (base.path().join("boot"), base.path().join("modules"));
        std::fs::create_dir(&boot).expect("new");
        assert!(kernel_in(&boot, &modules).expect_err("nothing is there").starts_with("no kernel in"));
        for release in ["6.1.0-9-amd64", "6.1.0-56-amd64", "6.2.0-1-cloud"] {
            std::fs::write(boot.join(format!("vmlinuz-{release}")), "").expect("writable");
        }
        let error = kernel_in(&boot, &modules).expect_err("no modules");
        assert!(error.contains("vmlinuz-6.2.0-1-cloud has no ip_vs module"), "{error}");
        for release in ["6.1.0-9-amd64", "6.1.0-56-amd64"] {
            let folder = modules.join(release).join("kernel/net/netfilter/ipvs");
            std::fs::create_dir_all(&folder).expect("new");
            std::fs::write(folder.join("ip_vs.ko"), "").expect("writable");
        }
        assert_eq!(kernel_in(&boot, &modules).expect("two fit").release, "6.1.0-56-amd64");
    }
}
