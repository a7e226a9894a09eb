//! Where /proc/sys is: one for the process, because the settings are one for the machine.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Says where it is writable, before anything asks; said again it changes nothing. Unsaid it is /proc/sys.
pub fn set_root(root: &Path) {
    let _ = ROOT.set(root.to_owned());
}

/// Where a setting is, such as net/ipv4/ip_forward.
pub(crate) fn path(setting: &str) -> PathBuf {
    ROOT.get().map_or_else(|| Path::new("/proc/sys"), PathBuf::as_path).join(setting)
}
