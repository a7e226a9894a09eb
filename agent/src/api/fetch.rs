//! What the API says now, once: for `plan`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bascule_compile::{CheckKey, NodeConfig};
use bascule_crds::HealthCheckSpec;
use kube::api::ListParams;

use super::connect::{Cluster, connect};
use super::heard::{self, Heard, What};
use super::source::Source;
use super::watch::selection;
use crate::manifests::Problem;
use crate::state::Saved;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Objects in one piece of a list.
const PAGE: u32 = 250;

/// What the API says of a director.
#[derive(Debug)]
pub struct Fetched {
    /// The configuration; none without a DirectorConfig.
    pub config: Option<NodeConfig>,
    /// The HealthChecks that it names.
    pub checks: BTreeMap<CheckKey, Arc<HealthCheckSpec>>,
    /// What this version cannot use.
    pub problems: Vec<Problem>,
}

/// Asks. `remembered` is the last good configuration, whose forms count where this version cannot use the API's.
pub async fn fetch(
    cluster: &Cluster,
    director: &str,
    remembered: &BTreeMap<String, Saved>,
) -> anyhow::Result<Fetched> {
    let work = async {
        let connection = connect(cluster).await?;
        let mut source = Source::new(director);
        source.remember(remembered);
        for what in What::ALL {
            let (api, config) = selection(what, director, &connection.client);
            source.hear(Heard::Listing(what));
            let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
            params.field_selector = config.field_selector;
            loop {
                let list = api.list(&params).await.with_context(|| format!("{what} cannot be listed"))?;
                for object in list.items {
                    source.hear(Heard::There(what, Box::new(heard::read(what, director, object))));
                }
                params.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
                if params.continue_token.is_none() {
                    break;
                }
            }
            source.hear(Heard::Listed(what));
        }
        // Bindings that were doubted: the DirectorConfig has been listed after them.
        source.step();
        let known = source.is_started();
        let (told, checks) = source.told();
        Ok(Fetched {
            config: known.then(|| told.clone()),
            checks: checks.clone(),
            problems: source.problems(&connection.server),
        })
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(anyhow::anyhow!("the API server does not answer within {} s", PATIENCE.as_secs()))
    })
}
