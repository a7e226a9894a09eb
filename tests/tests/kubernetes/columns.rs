//! What `kubectl get` shows is golden: the first question that a person has is answered by the columns.

use bascule_tests::api_server::ApiServer;

use crate::Findings;
use crate::explain::PLURALS;

pub(crate) fn run(server: &ApiServer) -> Findings {
    let objects = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubernetes/columns.yaml");
    let mut findings = Vec::new();
    let mut ask = |args: &[&str]| {
        server.kubectl_ok(args).unwrap_or_else(|error| {
            findings.push(format!("{error:#}"));
            String::new()
        })
    };
    ask(&["create", "namespace", "tp"]);
    ask(&["apply", "--server-side", "--field-manager=user", "-f", objects]);
    ask(&[
        "apply",
        "--server-side",
        "--field-manager=bascule-operator-status",
        "--subresource=status",
        "-f",
        objects,
    ]);
    let mut text = String::new();
    for kind in PLURALS {
        text.extend(["$ kubectl get ", kind, " -A -o wide\n"]);
        text += &ask(&["get", kind, "-A", "-o", "wide"]);
    }
    for names in ["vs,hc,nat,vsb,natb", "vg,dir,dc", "bascule"] {
        text.extend(["$ kubectl get ", names, " -A -o name\n"]);
        text += &ask(&["get", names, "-A", "-o", "name"]);
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("columns", without_ages(&text)));
    findings
}

/// Ages pass, and the width of their columns with them: the last cell of a line counts seconds, others count days since a date of
/// the objects.
fn without_ages(text: &str) -> String {
    let counts = |cell: &str, unit: char| {
        cell.ends_with(unit)
            && cell.starts_with(|c: char| c.is_ascii_digit())
            && !cell.contains(char::is_whitespace)
    };
    let mut result = String::new();
    for line in text.lines() {
        let mut cells: Vec<_> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        if let Some(last) = cells.last_mut().filter(|last| counts(last, 's')) {
            *last = "<age>";
        }
        for cell in cells.iter_mut().filter(|cell| counts(cell, 'd')) {
            *cell = "<age>";
        }
        result.extend([&cells.join(" | "), "\n"]);
    }
    result
}
