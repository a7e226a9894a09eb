//! What `kubectl explain` and `kubectl api-resources` say is golden.

use std::time::{Duration, Instant};

use bascule_tests::api_server::ApiServer;

use crate::Findings;

/// The kinds by the names that kubectl takes.
pub(crate) const PLURALS: [&str; 8] = [
    "virtualservices",
    "healthchecks",
    "vrrpgroups",
    "natrules",
    "directors",
    "virtualservicebindings",
    "natrulebindings",
    "directorconfigs",
];
/// How long the server may take to publish the schemas; it takes about 2 s.
const PUBLISHED: Duration = Duration::from_secs(60);

pub(crate) fn run(server: &ApiServer) -> Findings {
    let mut findings = Vec::new();
    let begin = Instant::now();
    while let Err(error) = PLURALS.iter().try_for_each(|kind| server.kubectl_ok(["explain", kind]).map(drop))
    {
        if begin.elapsed() > PUBLISHED {
            return vec![format!("the schemas are not published after {PUBLISHED:?}: {error:#}")];
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut ask = |args: &[&str]| {
        server.kubectl_ok(args).unwrap_or_else(|error| {
            findings.push(format!("{error:#}"));
            String::new()
        })
    };
    let resources = ask(&["api-resources", "--api-group=bascule.dev", "-o", "wide", "--sort-by=name"]);
    let texts: Vec<_> = PLURALS
        .iter()
        .map(|kind| {
            // The first says what the kind and the fields of its spec are, the second lists everything below.
            let spec = ask(&["explain", &format!("{kind}.spec")]);
            let tree = ask(&["explain", kind, "--recursive"]);
            (kind, format!("{spec}\n{tree}"))
        })
        .collect();
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::assert_snapshot!("api-resources", resources);
        for (kind, text) in texts {
            insta::assert_snapshot!(format!("explain-{kind}"), text);
        }
    });
    findings
}
