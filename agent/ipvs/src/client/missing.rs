//! What to do about a kernel without IPVS.

use std::{fs, path::Path};

/// What to load or install, from what this machine has.
pub(super) fn advice() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    advice_for(release, &Path::new("/lib/modules").join(release))
}

fn advice_for(release: &str, modules: &Path) -> String {
    // Kernels name modules with underscores; the file may be compressed (.ko.xz, .ko.zst).
    let listed = |file: &str| {
        fs::read_to_string(modules.join(file)).is_ok_and(|text| text.contains("/net/netfilter/ipvs/ip_vs.ko"))
    };
    if listed("modules.builtin") {
        return format!(
            "kernel {release} has it built in, yet it does not answer: look for `IPVS` in its log (dmesg)"
        );
    }
    if listed("modules.dep") || modules.join("kernel/net/netfilter/ipvs").is_dir() {
        return format!(
            "load it with `modprobe ip_vs` (kernel {release} has the module, but did not load it by itself: it may be blacklisted, \
             or modules may be locked)"
        );
    }
    format!(
        "kernel {release} has no module ip_vs in {}; install the distribution's full kernel with its modules (Debian: \
         linux-image-amd64 instead of linux-image-cloud-amd64; Ubuntu: linux-modules-extra-{release}; Fedora, RHEL: \
         kernel-modules-core), boot it, then `modprobe ip_vs`; or build the kernel with CONFIG_IP_VS. In a container, the host's \
         kernel counts: load ip_vs there",
        modules.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("bascule-ipvs-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn says_what_to_load_or_install() {
        let path = folder("none");
        assert!(advice_for("6.1", &path).contains("install"));
        assert!(advice_for("6.1", &path.join("absent")).contains("install"));
        fs::write(path.join("modules.dep"), "kernel/net/netfilter/ipvs/ip_vs.ko.xz: x").unwrap();
        assert!(advice_for("6.1", &path).starts_with("load it with `modprobe ip_vs`"));
        fs::write(path.join("modules.builtin"), "kernel/net/netfilter/ipvs/ip_vs.ko\n").unwrap();
        assert!(advice_for("6.1", &path).contains("built in"));
        fs::remove_dir_all(path).unwrap();
    }
}
