//! The API against a real kube-apiserver and the real kubectl. One test, because one server serves all and takes seconds to
//! start; every part is run and reported, whatever became of the others.

mod columns;
mod corpus;
mod explain;
mod install;
mod largest;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use bascule_tests::api_server::ApiServer;

/// What a part found wrong, one entry each.
type Findings = Vec<String>;

/// A part's name and itself.
type Part = (&'static str, fn(&ApiServer) -> Findings);

/// So many characters of a finding are shown.
const FINDING: usize = 2000;

/// The folder of the API types.
fn crds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds")
}

#[test]
fn against_a_real_api_server() {
    let begin = Instant::now();
    let server = ApiServer::start().expect("an API server");
    println!("kube-apiserver is ready after {:.1} s", begin.elapsed().as_secs_f64());
    let parts: [Part; 5] = [
        ("install", install::run),
        ("explain", explain::run),
        // Before others leave objects behind.
        ("columns", columns::run),
        ("corpus", corpus::run),
        ("largest", largest::run),
    ];
    let mut failures = Vec::new();
    for (name, part) in parts {
        let begin = Instant::now();
        // Golden files are compared by a macro that panics.
        let findings = catch_unwind(AssertUnwindSafe(|| part(&server)))
            .unwrap_or_else(|_| vec!["panicked; its words are above".to_owned()]);
        let verdict = if findings.is_empty() { "ok" } else { "FAILED" };
        println!("{name}: {verdict} in {:.1} s", begin.elapsed().as_secs_f64());
        let short = |finding: String| finding.chars().take(FINDING).collect::<String>();
        failures.extend(findings.into_iter().map(|finding| format!("{name}: {}", short(finding))));
    }
    if !failures.is_empty() {
        let logs = server.logs();
        let kept = server.keep_logs();
        panic!(
            "{} findings\n{}\n{logs}all logs are in {}",
            failures.len(),
            failures.join("\n"),
            kept.display()
        );
    }
}
