//! `connect` is for a person: it says so where there is no terminal, before it looks for anything.

use std::process::{Command, Stdio};

#[test]
fn without_a_terminal_connect_says_what_to_call_instead() {
    let output = Command::new(env!("CARGO_BIN_EXE_bascule-lab"))
        .args(["connect", "SRV1"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("have to be a terminal"), "{said}");
    assert!(said.contains("`bascule-lab exec SRV1 -- COMMAND`"), "{said}");
}
