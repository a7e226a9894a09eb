//! The largest object that each kind allows, with its status, is stored for real and stays below 1 MiB; its rules cost less than
//! the API server's budget. It is made from the published schemas, so that a widened bound shows here.

mod fill;
mod shape;

use std::fs;

use bascule_tests::api_server::ApiServer;
use serde_json::{Value, json};

use crate::Findings;
use crate::explain::PLURALS;

/// etcd refuses more than 1.5 MiB in one request; below 1 MiB there is room for labels and annotations.
const LIMIT: usize = 1024 * 1024;

pub(crate) fn run(server: &ApiServer) -> Findings {
    let mut findings = Vec::new();
    let namespace = server.kubectl_ok(["create", "namespace", "largest"]);
    findings.extend(namespace.err().map(|error| format!("{error:#}")));
    for plural in PLURALS {
        match store(server, plural) {
            Ok(bytes) if bytes < LIMIT => println!("  largest {plural}: {} KiB", bytes / 1024),
            Ok(bytes) => findings.push(format!("{plural}: the largest object has {} KiB", bytes / 1024)),
            Err(error) => findings.push(format!("{plural}: {error:#}")),
        }
    }
    findings
}

/// Stores spec and status as their writers do, and returns how many bytes the API server keeps.
fn store(server: &ApiServer, plural: &str) -> anyhow::Result<usize> {
    let crd: Value = serde_json::from_str(&server.kubectl_ok([
        "get",
        "crd",
        &format!("{plural}.bascule.dev"),
        "-o",
        "json",
    ])?)?;
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut object = json!({
        "apiVersion": "bascule.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "l".repeat(63)},
        "spec": fill::fill(&schema["properties"]["spec"], 0),
    });
    if crd["spec"]["scope"] == "Namespaced" {
        object["metadata"]["namespace"] = "largest".into();
    }
    shape::shape(kind, &mut object["spec"]);
    let file = server.dir().join(format!("largest-{plural}.json"));
    let apply = |object: &Value, manager: &str, more: &[&str]| {
        fs::write(&file, object.to_string())?;
        let mut args = vec!["apply", "--server-side", "--field-manager", manager];
        args.extend(more);
        let path = file.display().to_string();
        args.extend(["-f", &path]);
        server.kubectl_ok(args)
    };
    apply(&object, "bascule-operator", &[])?;
    object.as_object_mut().expect("an object").remove("spec");
    object["status"] = fill::fill(&schema["properties"]["status"], 0);
    apply(&object, "bascule-operator-status", &["--subresource=status"])?;
    let mut get = vec!["get", plural, object["metadata"]["name"].as_str().unwrap_or_default()];
    get.extend(["-n", "largest", "-o", "json", "--show-managed-fields"]);
    let stored: Value = serde_json::from_str(&server.kubectl_ok(get)?)?;
    anyhow::ensure!(stored["status"] != Value::Null, "the status was not stored");
    Ok(escaped(&stored))
}

/// The length of what is kept in etcd: compact JSON, in which Go also escapes `<`, `>` and `&`.
fn escaped(value: &Value) -> usize {
    let text = value.to_string();
    text.len() + 5 * text.bytes().filter(|byte| b"<>&".contains(byte)).count()
}
