//! An API server, helm, and tokens.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use bascule_tests::api_server::ApiServer;
use bascule_tests::helm::Helm;
use bascule_tests::operator::{NAMESPACE, Operator};
use serde_json::Value;

/// Everything that a part needs.
pub(crate) struct Cluster {
    // Before the server that it speaks to.
    pub(crate) operator: Option<Operator>,
    pub(crate) helm: Helm,
    pub(crate) server: ApiServer,
    identities: u32,
}

/// Somebody with a token.
pub(crate) struct Identity(PathBuf);

impl Cluster {
    pub(crate) fn start() -> Result<Cluster> {
        let server = ApiServer::start()?;
        let helm = Helm::new(Some(server.dir().join("kubeconfig")))?;
        Ok(Cluster { operator: None, helm, server, identities: 0 })
    }

    /// Somebody with the token that `kubectl create token ARGS` gives.
    pub(crate) fn identity(&mut self, args: &str) -> Result<Identity> {
        let token = self.kubectl(&format!("create token {args} --duration=12h"))?;
        self.identities += 1;
        let name = format!("identity-{}.kubeconfig", self.identities);
        Ok(Identity(self.server.kubeconfig(&name, token.trim())?))
    }

    /// The operator, as the chart's ServiceAccount.
    pub(crate) fn start_operator(&mut self) -> Result<()> {
        let Identity(kubeconfig) = self.identity(&format!("bascule-operator -n {NAMESPACE}"))?;
        self.operator = Some(Operator::start(&self.server, &kubeconfig, "operator")?);
        Ok(())
    }

    pub(crate) fn kubectl(&self, args: &str) -> Result<String> {
        self.server.kubectl_ok(args.split_whitespace())
    }

    /// An object as it is.
    pub(crate) fn get(&self, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&format!("get {what} -o json"))?)?)
    }

    /// Runs `kubectl ARGS -f -`, as the administrator or somebody else.
    pub(crate) fn pipe(&self, who: Option<&Identity>, args: &str, input: &str) -> Result<Output> {
        let mut command = self.server.kubectl();
        if let Some(Identity(kubeconfig)) = who {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
            .args(args.split_whitespace())
            .args(["--validate=false", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Applies manifests as the administrator.
    pub(crate) fn apply(&self, manifests: &str) -> Result<()> {
        self.allowed(None, "apply --server-side", manifests)
    }

    /// It goes through.
    pub(crate) fn allowed(&self, who: Option<&Identity>, args: &str, input: &str) -> Result<()> {
        let output = self.pipe(who, args, input)?;
        ensure!(output.status.success(), "{args}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// It is refused, in these words.
    pub(crate) fn refused(
        &self,
        who: Option<&Identity>,
        args: &str,
        input: &str,
        words: &[&str],
    ) -> Result<()> {
        let output = self.pipe(who, args, input)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{args} went through:\n{input}");
        for word in words {
            ensure!(said.contains(word), "{args} is refused, but not with {word:?}: {said}\n{input}");
        }
        Ok(())
    }

    /// Ends everything and says where the logs are.
    pub(crate) fn keep(self) -> String {
        let Cluster { operator, helm: _, server, .. } = self;
        let log = operator.map(|operator| operator.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- end of the operator's log\n{end}\nall logs are in {}", server.keep_logs().display())
    }
}
