//! The OCI archives that `scripts/images` writes: read by a reader that knows nothing of the writer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bascule_tests::chart;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The files of an archive of `tar`: as tar itself unpacks them.
fn unpacked(archive: &Path, into: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::create_dir_all(into).expect("a folder");
    let tar = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).output().expect("tar");
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let mut files = BTreeMap::new();
    let mut folders = vec![into.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(into).expect("below it").display().to_string();
                files.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    files
}

fn digest(bytes: &[u8]) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hash}")
}

fn write(out: &Path, binary: &Path, mask: &str) -> Output {
    Command::new("sh")
        .args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", mask])
        .arg(chart::root().join("scripts/images"))
        .arg("--out")
        .arg(out)
        .args(["--binary", &format!("bascule-agent={}", binary.display())])
        .output()
        .expect("scripts/images")
}

/// A static program; what it does is not asked.
fn program(folder: &Path, name: &str, flags: &[&str]) -> std::path::PathBuf {
    let (source, program) = (folder.join("main.rs"), folder.join(name));
    fs::write(&source, "fn main() {}\n").expect("a file");
    let rustc =
        Command::new("rustc").args(flags).arg(&source).arg("-o").arg(&program).output().expect("rustc");
    assert!(rustc.status.success(), "{}", String::from_utf8_lossy(&rustc.stderr));
    program
}

#[test]
fn an_image_is_what_it_says_and_always_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let static_one = program(folder.path(), "static", &["-C", "target-feature=+crt-static"]);
    let first = write(&at("one"), &static_one, "022");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let second = write(&at("two"), &static_one, "077");
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    let archive = "bascule-agent.oci.tar";
    assert_eq!(
        fs::read(at("one").join(archive)).expect("an archive"),
        fs::read(at("two").join(archive)).expect("an archive"),
        "another time, another place, another umask: the same bytes"
    );

    let files = unpacked(&at("one").join(archive), &at("unpacked"));
    let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).expect("JSON") };
    assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
    for (name, content) in &files {
        if let Some(named) = name.strip_prefix("blobs/sha256/") {
            assert_eq!(digest(content), format!("sha256:{named}"));
        }
    }
    let blob = |described: &Value| -> &Vec<u8> {
        let name = described["digest"].as_str().expect("a digest").replace(':', "/");
        let content = &files[&format!("blobs/{name}")];
        assert_eq!(described["size"], content.len());
        content
    };
    let index = json("index.json");
    let entry = &index["manifests"][0];
    let said = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(said.contains(entry["digest"].as_str().expect("a digest")), "{said}");
    let manifest: Value = serde_json::from_slice(blob(entry)).expect("JSON");
    let config: Value = serde_json::from_slice(blob(&manifest["config"])).expect("JSON");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/bin/bascule-agent"]));
    assert_eq!(config["os"], "linux");

    // The layer, as gzip and tar unpack it, is what the configuration says it is.
    let layer = at("layer.tar");
    fs::write(at("layer.tar.gz"), blob(&manifest["layers"][0])).expect("a file");
    let gzip = Command::new("gzip").arg("-dk").arg(at("layer.tar.gz")).status().expect("gzip");
    assert!(gzip.success());
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(&fs::read(&layer).expect("a layer")));
    let inside = unpacked(&layer, &at("root"));
    assert_eq!(inside["usr/bin/bascule-agent"], fs::read(&static_one).expect("a program"));
    assert!(String::from_utf8_lossy(&inside["etc/passwd"]).contains("nobody:x:65534:"));
    parts(&inside["usr/share/sbom/bascule-agent.cdx.json"]);
}

/// Every part that is named is pinned in Cargo.lock, and those that the agent stands on are named.
fn parts(sbom: &[u8]) {
    let sbom: Value = serde_json::from_slice(sbom).expect("JSON");
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    assert_eq!(sbom["metadata"]["component"]["name"], "bascule-agent");
    let lock = fs::read_to_string(chart::root().join("Cargo.lock")).expect("Cargo.lock");
    let components = sbom["components"].as_array().expect("components");
    let mut names = Vec::new();
    for component in components {
        let (name, version) =
            (component["name"].as_str().expect("a name"), component["version"].as_str().expect("a version"));
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{name} {version}");
        names.push(name);
    }
    for wanted in ["bascule-ipvs", "bascule-vrrp", "tokio", "rustls", "libc"] {
        assert!(names.contains(&wanted), "{wanted} is missing");
    }
    for other in ["tempfile", "insta", "bascule-lab"] {
        assert!(!names.contains(&other), "{other} is not in the program");
    }
}

#[test]
fn a_program_that_needs_libraries_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let dynamic = program(folder.path(), "dynamic", &["-C", "target-feature=-crt-static"]);
    let output = write(&folder.path().join("out"), &dynamic, "022");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("linked dynamically") && said.contains("crt-static"), "{said}");
}
