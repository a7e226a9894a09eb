//! The CustomResourceDefinitions install without a warning.

use std::fs;

use bascule_tests::api_server::ApiServer;

use crate::Findings;

pub(crate) fn run(server: &ApiServer) -> Findings {
    let yaml = crate::crds().join("yaml");
    let count = fs::read_dir(&yaml).expect("the generated YAML").count();
    let mut findings = Vec::new();
    // Twice: the second time nothing may change.
    for _ in 0..2 {
        let output =
            server.kubectl().args(["apply", "--server-side", "-f"]).arg(&yaml).output().expect("kubectl");
        let complaints = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !complaints.is_empty() {
            findings.push(format!("kubectl apply: {}: {complaints}", output.status));
        }
    }
    let wait = ["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"];
    match server.kubectl_ok(wait) {
        Ok(text) if text.lines().count() == count => {}
        Ok(text) => findings.push(format!("{count} definitions were to be established: {text}")),
        Err(error) => findings.push(format!("{error:#}")),
    }
    // The server publishes what can be explained and validated a moment after the definitions are established.
    for kind in ["NonStructuralSchema", "KubernetesAPIApprovalPolicyConformant"] {
        let path = format!(
            "jsonpath={{range .items[*]}}{{.metadata.name}}{{range .status.conditions[?(@.type==\"{kind}\")]}} {{.message}}{{end}}{{\"\\n\"}}{{end}}"
        );
        let text =
            server.kubectl_ok(["get", "crd", "-o", &path]).unwrap_or_else(|error| format!("? {error:#}"));
        findings.extend(text.lines().filter(|line| line.contains(' ')).map(|line| format!("{kind}: {line}")));
    }
    findings
}
