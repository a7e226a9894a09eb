//! An API server with the definitions and the rights, and the operator beside it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_tests::api_server::ApiServer;
use bascule_tests::operator::{NAMESPACE, Operator, eventually};
use serde_json::Value;

use crate::agent::Agents;

/// Everything that a part needs.
pub(crate) struct Cluster {
    pub(crate) agents: Agents,
    pub(crate) operator: Operator,
    pub(crate) server: ApiServer,
    pub(crate) kubeconfig: PathBuf,
    started: u32,
}

impl Cluster {
    pub(crate) fn start() -> Result<Cluster> {
        let server = ApiServer::start()?;
        server.install()?;
        server.kubectl_ok(["create", "namespace", "tp"])?;
        let kubeconfig = server.kubeconfig_of("bascule-operator", "operator.kubeconfig")?;
        let operator = Operator::start(&server, &kubeconfig, "operator-0")?;
        let agents = Agents::start(&server)?;
        let mut cluster = Cluster { agents, operator, server, kubeconfig, started: 0 };
        cluster.wait_until_it_leads()?;
        Ok(cluster)
    }

    /// One more operator, of another name.
    pub(crate) fn another(&mut self) -> Result<Operator> {
        self.started += 1;
        Operator::start(&self.server, &self.kubeconfig, &format!("operator-{}", self.started))
    }

    pub(crate) fn wait_until_it_leads(&mut self) -> Result<()> {
        let operator = &self.operator;
        eventually("the operator leads", || {
            ensure!(operator.leads(), "{}", operator.log());
            Ok(())
        })?;
        Ok(())
    }

    /// Applies manifests as a user does.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        self.pipe(
            &["apply", "--server-side", "--force-conflicts", "--field-manager=user", "-f", "-"],
            manifests,
        )
    }

    /// Applies statuses as an agent does.
    pub(crate) fn report(&self, statuses: &str) -> Result<()> {
        let args =
            ["apply", "--server-side", "--subresource=status", "--field-manager=bascule-agent", "-f", "-"];
        self.pipe(&args, statuses)
    }

    fn pipe(&self, args: &[&str], input: &str) -> Result<()> {
        let mut command = self.server.kubectl();
        // kubectl would fetch all of the API's description each time, and not wait for it long.
        command
            .args(args)
            .arg("--validate=false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{args:?}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub(crate) fn kubectl(&self, args: &str) -> Result<String> {
        self.server.kubectl_ok(args.split_whitespace())
    }

    /// Gives a ServiceAccount its rights anew, of these manifests and without one verb. `asked` are verbs with resources of them: when the
    /// server answers as it should for these, it goes by the new ones.
    pub(crate) fn rights(
        &self,
        manifests: &str,
        account: &str,
        without: Option<&str>,
        asked: &[(&str, &str)],
    ) -> Result<()> {
        let documents = bascule_crds::manifest::parse(manifests).expect("YAML");
        let mut roles: Vec<Value> = documents.into_iter().map(|document| document.value).collect();
        roles.retain(|one| one["kind"] == "ClusterRole" || one["kind"] == "Role");
        for rule in roles.iter_mut().flat_map(|role| role["rules"].as_array_mut().into_iter().flatten()) {
            if let Some(verbs) = rule["verbs"].as_array_mut() {
                verbs.retain(|verb| Some(verb.as_str().unwrap_or_default()) != without);
                // A rule says at least something.
                if verbs.is_empty() {
                    verbs.push("deletecollection".into());
                }
            }
        }
        // In one step: at no moment it lacks more than this.
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": roles}).to_string();
        self.pipe(&["replace", "-f", "-"], &list)?;
        for (verb, resource) in asked {
            let call = format!(
                "auth can-i {verb} {resource} -n {NAMESPACE} --as=system:serviceaccount:{NAMESPACE}:{account}"
            );
            eventually("the server goes by them", || {
                let output = self.server.kubectl().args(call.split_whitespace()).output()?;
                ensure!(output.status.success() == (without != Some(verb)), "{call}: {output:?}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// An object as it is.
    pub(crate) fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("get {what} -o json"))?)?)
    }

    /// The objects of a kind in all namespaces.
    pub(crate) fn list(&self, kind: &str) -> Result<Vec<Value>> {
        match self.get(&format!("{kind} -A"))?["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("no list: {other}"),
        }
    }

    /// The bindings of a VirtualService.
    pub(crate) fn bindings(&self, service: &str) -> Result<Vec<Value>> {
        let all = self.list("virtualservicebindings")?;
        Ok(all.into_iter().filter(|one| one["spec"]["virtualService"] == service).collect())
    }

    /// The binding of a VirtualService on a director.
    pub(crate) fn binding(&self, service: &str, director: &str) -> Result<Value> {
        let mut all = self.bindings(service)?;
        all.retain(|one| one["spec"]["director"] == director);
        ensure!(all.len() == 1, "{} bindings of {service} on {director}", all.len());
        Ok(all.remove(0))
    }

    /// Waits until a condition of an object is so; returns it.
    pub(crate) fn condition(&self, what: &str, type_: &str, status: &str) -> Result<Value> {
        let mut found = Value::Null;
        eventually(&format!("{what}: {type_}={status}"), || {
            let object = self.get(what)?;
            found = condition_of(&object, type_);
            ensure!(found["status"] == status, "{}", object["status"]);
            Ok(())
        })?;
        Ok(found)
    }

    /// Waits until a condition of an object is so, for that reason; returns it.
    pub(crate) fn because(&self, what: &str, type_: &str, status: &str, reason: &str) -> Result<Value> {
        let mut found = Value::Null;
        eventually(&format!("{what}: {type_}={status}, {reason}"), || {
            let object = self.get(what)?;
            found = condition_of(&object, type_);
            ensure!(found["status"] == status && found["reason"] == reason, "{}", object["status"]);
            Ok(())
        })?;
        Ok(found)
    }

    /// How many requests of some labels have been sent.
    pub(crate) fn writes(&self, labels: &[&str]) -> Result<u64> {
        self.operator.metric("bascule_operator_writes_total", labels)
    }

    /// Waits until nothing waits and nothing runs.
    pub(crate) fn settled(&self) -> Result<()> {
        let mut quiet = 0;
        eventually("nothing is to be written", || {
            let waiting = self.operator.metric("bascule_operator_writes_waiting", &[])?;
            let running = self.operator.metric("bascule_operator_writes_running", &[])?;
            quiet = if waiting + running == 0 { quiet + 1 } else { 0 };
            ensure!(quiet >= 5, "{waiting} wait, {running} run");
            Ok(())
        })?;
        Ok(())
    }

    /// Ends everything and says where the logs are.
    pub(crate) fn keep(self) -> String {
        let Cluster { agents, operator, server, .. } = self;
        drop(agents);
        let log = operator.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        drop(operator);
        format!("--- end of the operator's log\n{end}\nall logs are in {}", server.keep_logs().display())
    }
}

/// A condition of an object, or null.
pub(crate) fn condition_of(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == type_).cloned().unwrap_or_default()
}
