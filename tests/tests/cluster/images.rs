//! The images that `scripts/images` has built: their programs need nothing but what is beside them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use bascule_tests::chart;
use serde_json::Value;

use crate::machine::images;

/// What the programs may have, in bytes: an image is pulled while a director is without one.
const SIZE: u64 = 48 << 20;

#[test]
#[ignore = "needs the images: make cluster"]
fn programs_need_nothing_but_what_is_beside_them() {
    for name in ["bascule-agent", "bascule-operator"] {
        if let Err(error) = alone(name) {
            panic!("{name}: {error:?}");
        }
    }
}

fn alone(name: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    unpack(&images()?.join(format!("{name}.oci.tar")), &folder.path().join("layout"), &root)?;
    let program = fs::read(root.join("usr/bin").join(name))?;
    ensure!(u64::try_from(program.len())? < SIZE, "{} bytes", program.len());
    for path in [chart::root().canonicalize()?.display().to_string(), std::env::var("HOME")?] {
        let path = format!("{}/", path.trim_end_matches('/'));
        // A home that is the root is a part of every path.
        let named = path.len() > 1 && program.windows(path.len()).any(|part| part == path.as_bytes());
        ensure!(!named, "it names {path}, a path of the machine that built it");
    }

    let version = inside(&root, &[&format!("/usr/bin/{name}"), "--version"])?;
    ensure!(version.status.success(), "{version:?}");
    let said = String::from_utf8(version.stdout)?;
    ensure!(said.trim() == format!("{name} {}", env!("CARGO_PKG_VERSION")), "{said}");
    if name == "bascule-agent" {
        validates(&root)?;
    }
    Ok(())
}

/// It reads manifests and says what is wrong with them.
fn validates(root: &Path) -> Result<()> {
    let manifests = root.join("manifests");
    fs::create_dir(&manifests)?;
    let text = include_str!("tp.yaml");
    let call = ["/usr/bin/bascule-agent", "validate", "--manifests", "/manifests"];
    fs::write(manifests.join("tp.yaml"), text)?;
    let good = inside(root, &call)?;
    ensure!(good.status.success(), "{good:?}");
    fs::write(manifests.join("tp.yaml"), text.replace("Masquerade", "Masquerades"))?;
    let bad = inside(root, &call)?;
    ensure!(bad.status.code() == Some(1), "it has not seen what is wrong: {bad:?}");
    Ok(())
}

/// Runs a program with this folder as its root, and without an environment.
fn inside(root: &Path, call: &[&str]) -> Result<Output> {
    Command::new("chroot")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        .arg(root)
        .args(call)
        .output()
        .context("chroot")
}

/// Unpacks an archive and the one layer that its image has.
fn unpack(archive: &Path, layout: &Path, root: &Path) -> Result<()> {
    tar(archive, layout)?;
    let blob = |described: &Value| -> Result<_> {
        let digest = described["digest"].as_str().context("no digest")?;
        Ok(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest: Value = serde_json::from_slice(&fs::read(blob(&index["manifests"][0])?)?)?;
    tar(&blob(&manifest["layers"][0])?, root)
}

fn tar(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let output = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).output().context("tar")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
