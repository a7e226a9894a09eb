//! Has all agents take what is theirs out of their kernels, before Bascule is removed: `bascule-operator flush`.
//!
//! It takes the operators' Lease, so that none of them goes on writing, and names a flush in every DirectorConfig; each agent then
//! carries out nothing and says so in its status. Whatever comes of it, no operator has lost anything: the next one that leads takes
//! the flush out of the DirectorConfigs again, and the agents carry out what their bindings say.

mod answer;
mod lease;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bascule_crds::DirectorConfig;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::api::causes;
use crate::election::Timing;
use crate::names::MANAGER;
use answer::{Answer, answer};
use lease::Held;

/// Between two looks at what the agents say.
const LOOK: Duration = Duration::from_millis(500);
/// It lasts at least until no operator can have anything under way: [`Timing::renew`] and a request, and a little more.
pub const LEAST: Duration = Duration::from_secs(20);
/// DirectorConfigs in one answer of the API server.
const PAGE: u32 = 500;
/// Directors that did not answer and are named.
const NAMED: usize = 50;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Directors whose agents have said that nothing is left.
    pub flushed: Vec<String>,
    /// Directors for which no agent has ever spoken: as far as can be seen there is none.
    pub silent: Vec<String>,
    /// The others, and why not.
    pub unanswered: Vec<(String, String)>,
}

impl Outcome {
    /// For people: a line each.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = match self.flushed.len() {
            0 => writeln!(text, "no director had anything to take away"),
            1 => writeln!(text, "{} is clean", self.flushed[0]),
            count => writeln!(text, "{count} directors are clean: {}", self.flushed.join(", ")),
        };
        if !self.silent.is_empty() {
            let _ = writeln!(
                text,
                "no agent has ever spoken for, and none was waited for: {}",
                self.silent.join(", ")
            );
        }
        for (director, why) in self.unanswered.iter().take(NAMED) {
            let _ = writeln!(text, "NOT CLEAN: {director}: {why}");
        }
        if self.unanswered.len() > NAMED {
            let _ = writeln!(text, "NOT CLEAN: {} more", self.unanswered.len() - NAMED);
        }
        text
    }
}

/// Flushes, for at most `patience` and what taking the Lease takes. Where all have answered the Lease stays taken for a minute: time to
/// remove the operators before one of them leads again. Otherwise it is given up, and the next operator puts everything back.
///
/// # Errors
/// When the API server does not answer or refuses: nothing may be assumed then.
pub async fn run(client: Client, namespace: &str, identity: &str, patience: Duration) -> Result<Outcome> {
    let timing = Timing::DEFAULT;
    let patience = patience.max(LEAST);
    let deadline = Instant::now() + patience;
    let lasting = patience + LEAST + timing.lease + lease::AFTERWARDS;
    let held = Held::take(client.clone(), namespace, identity, lasting, deadline).await?;
    // Until then whoever led before may have something under way, or begin it because it has not heard yet.
    let alone = Instant::now() + timing.renew + timing.request;
    // Never over before it can be well.
    let deadline = deadline.max(alone + LOOK + timing.request);
    let flush = held.name();
    tracing::info!(flush, "the operators are held back; agents are asked to take everything away");
    let configs = Api::<DirectorConfig>::all(client);
    let mut told = 0;
    loop {
        let begun = Instant::now();
        let outcome = look(&configs, &flush, timing.request).await;
        let now = Instant::now();
        match outcome {
            Ok(outcome) => {
                // What was looked at before may have been taken back since.
                let done = outcome.unanswered.is_empty() && begun >= alone;
                if outcome.flushed.len() > told {
                    told = outcome.flushed.len();
                    tracing::info!(flushed = told, waiting = outcome.unanswered.len(), "answered");
                }
                if done {
                    held.end(true).await;
                    return Ok(outcome);
                }
                if now >= deadline && !outcome.unanswered.is_empty() {
                    held.end(false).await;
                    return Ok(outcome);
                }
            }
            Err(error) if now >= deadline => {
                held.end(false).await;
                return Err(error);
            }
            Err(error) => tracing::warn!("{}", causes(&*error)),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Names the flush wherever it is not named yet, and looks who has carried it out.
async fn look(configs: &Api<DirectorConfig>, flush: &str, patience: Duration) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for config in list(configs, patience).await? {
        let director = config.spec.director.clone();
        if config.spec.flush.as_deref() != Some(flush) {
            name(configs, &config, flush, patience).await?;
        }
        match answer(&config, flush) {
            Answer::Flushed => outcome.flushed.push(director),
            Answer::Silent => outcome.silent.push(director),
            Answer::Not(why) => outcome.unanswered.push((director, why)),
        }
    }
    Ok(outcome)
}

async fn list(configs: &Api<DirectorConfig>, patience: Duration) -> Result<Vec<DirectorConfig>> {
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = within(patience, configs.list(&params)).await.context("listing the DirectorConfigs")?;
        let more = page.metadata.continue_.clone().filter(|token| !token.is_empty());
        all.extend(page.items);
        let Some(token) = more else { return Ok(all) };
        params = ListParams::default().limit(PAGE).continue_token(&token);
    }
}

/// Names the flush in this version of a DirectorConfig; where there is a newer one, the next look does.
async fn name(
    configs: &Api<DirectorConfig>,
    config: &DirectorConfig,
    flush: &str,
    patience: Duration,
) -> Result<()> {
    let name = config.name_any();
    let patch = json!({"metadata": {"resourceVersion": config.resource_version()}, "spec": {"flush": flush}});
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match within(patience, configs.patch(&name, &params, &Patch::Merge(patch))).await {
        Ok(written) if written.spec.flush.as_deref() == Some(flush) => Ok(()),
        Ok(_) => anyhow::bail!(
            "the DirectorConfigs of this cluster have no field spec.flush: their definition is older than this program; \
             upgrade it (charts/bascule, or crds/yaml), or delete what the directors carry out"
        ),
        Err(Asked::Answer(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("naming the flush in DirectorConfig {name}")),
    }
}

/// A request that was answered otherwise than wished, or not at all.
#[derive(Debug, thiserror::Error)]
enum Asked {
    #[error("the API server has not answered for {0:?}")]
    Nothing(Duration),
    #[error(transparent)]
    Answer(#[from] kube::Error),
}

async fn within<T>(patience: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, Asked> {
    match tokio::time::timeout(patience, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Asked::Nothing(patience)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_it_names_whoever_did_not_answer() {
        let unanswered =
            |count| (0..count).map(|n| (format!("dir{n}"), "its agent says nothing".into())).collect();
        let outcome =
            Outcome { flushed: vec!["lb1".into()], silent: vec!["lb9".into()], unanswered: unanswered(1) };
        assert_eq!(
            outcome.text(),
            "lb1 is clean\nno agent has ever spoken for, and none was waited for: lb9\nNOT CLEAN: dir0: its agent says nothing\n"
        );
        let many = Outcome { unanswered: unanswered(NAMED + 3), ..Outcome::default() };
        assert_eq!(many.text().lines().count(), NAMED + 2);
        assert!(many.text().ends_with("NOT CLEAN: 3 more\n"));
    }
}
