//! The program that makes scenarios of containerlab's topologies: files, exit codes, and that `validate` takes what it writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/clab").join(format!("{name}.clab.yml"))
}

fn lab(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bascule-lab")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn validate_takes_what_import_writes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["two-hosts", "routed", "bridged"] {
        let out = folder.path().join(format!("{name}.yaml"));
        let out = out.to_str().unwrap();
        let output = lab(&["import", data(name).to_str().unwrap(), "-o", out]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("networks"), "{}", text(&output.stdout));
        let output = lab(&["validate", out]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        let output = lab(&["graph", out]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    }
}

#[test]
fn without_out_the_scenario_is_printed_and_the_notes_are_apart() {
    let output = lab(&["import", data("routed").to_str().unwrap()]);
    assert!(output.status.success());
    let (scenario, notes) = (text(&output.stdout), text(&output.stderr));
    assert!(bascule_lab::scenario::load("routed.yaml", &scenario).is_ok(), "{scenario}");
    assert!(notes.contains("routed.clab.yml:9: note: `env` of pc1, r1, r2, pc2 is not used"), "{notes}");
    for note in notes.lines() {
        let said = note.split_once("note: ").unwrap().1;
        assert!(scenario.contains(said), "`{said}` is in no comment");
    }
}

#[test]
fn bad_input_is_exit_code_2_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.yaml");
    let out = out.to_str().unwrap();
    let large = folder.path().join("large.clab.yml");
    std::fs::File::create(&large).unwrap().set_len((4 << 20) + 1).unwrap();
    let binary = folder.path().join("binary.clab.yml");
    std::fs::write(&binary, [b'a', b'\n', 0xff]).unwrap();
    for (file, because) in [
        (data("other-kinds"), "`ceos` is of kind `arista_ceos`"),
        (data("wrong"), "did you mean `topology`?"),
        (data("lenient"), "`--lenient` leaves it out"),
        (data("not-there"), "cannot be read"),
        (large, "at most 4194304"),
        (binary, "binary.clab.yml:2: is not text"),
        (folder.path().to_owned(), "is not a file"),
    ] {
        let output = lab(&["import", file.to_str().unwrap(), "-o", out]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{}: {said}", file.display());
        assert!(said.contains(because), "{said}\nlacks {because}");
        assert!(!Path::new(out).exists(), "{}", file.display());
    }
}

#[test]
fn a_topology_is_not_written_over_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.yml");
    std::fs::copy(data("two-hosts"), &file).unwrap();
    let file = file.to_str().unwrap();
    let output = lab(&["import", file, "-o", file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("over itself"), "{}", text(&output.stderr));
    let output = lab(&["import", file, "-o", "/tmp/x.json"]);
    assert_eq!(output.status.code(), Some(2));
    let output = lab(&["import", file, "-o", "/nowhere/at/all.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}
