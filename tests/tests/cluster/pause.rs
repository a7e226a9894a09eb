//! The image that holds a pod's namespaces: one static program that sleeps, in the form that `docker save` writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Its name.
pub(crate) const NAME: &str = "bascule.test/pause:1";
/// The distribution's, without libraries (package busybox-static).
const PROGRAM: &str = "/bin/busybox";

/// Writes it below `folder` and returns where.
pub(crate) fn write(folder: &Path) -> Result<PathBuf> {
    let image = folder.join("pause");
    let root = image.join("root");
    for name in ["bin", "proc", "sys", "dev", "etc"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(PROGRAM, root.join("bin/busybox"))
        .with_context(|| format!("{PROGRAM}: apt-get install busybox-static"))?;
    tar(&image.join("layer.tar"), &root, &["."])?;
    let digest: String =
        Sha256::digest(fs::read(image.join("layer.tar"))?).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": [PROGRAM, "sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    fs::write(image.join("config.json"), config.to_string())?;
    fs::write(image.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("pause.tar");
    tar(&archive, &image, &["config.json", "layer.tar", "manifest.json"])?;
    Ok(archive)
}

fn tar(archive: &Path, folder: &Path, names: &[&str]) -> Result<()> {
    let output = Command::new("tar")
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .args(names)
        .output()
        .context("tar")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
