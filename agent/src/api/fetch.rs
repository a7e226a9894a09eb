//! What the API says now, once: for `plan`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bascule_compile::{CheckKey, NodeConfig, SERVICE_LABEL};
use bascule_crds::HealthCheckSpec;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};

use super::connect::{Cluster, connect, trouble};
use super::heard::{self, Heard, Item, Trouble, What};
use super::source::Source;
use super::wanted::Wanted;
use super::watch::{self, selection};
use crate::endpoints::Service;
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

/// All slices of a Service, as they are now.
pub(super) async fn slices(
    client: &Client,
    director: &str,
    wanted: &Wanted,
    service: &Service,
) -> Result<Vec<Item>, Trouble> {
    let resource = ApiResource::erase::<EndpointSlice>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &service.namespace, &resource);
    let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
    params.label_selector = Some(format!("{SERVICE_LABEL}={}", service.name));
    let mut items = Vec::new();
    let read = async {
        loop {
            let list = api.list(&params).await.map_err(|error| trouble(&error))?;
            let heard =
                list.items.into_iter().filter_map(|object| watch::slice(director, wanted, object, true));
            items.extend(heard.filter_map(|heard| match heard {
                Heard::There(_, item) => Some(*item),
                _ => None,
            }));
            params.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(());
            }
        }
    };
    let lost = |_| Trouble::Lost(format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, read).await.map_err(lost)??;
    Ok(items)
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
        let wanted = Wanted::default();
        for what in What::ALL {
            let (api, config) = selection(what, director, &connection.client);
            source.hear(Heard::Listing(what));
            if what == What::Slices {
                // The bindings have been listed before.
                source.step();
                wanted.set(source.services().unwrap_or_default());
                if wanted.services().is_empty() {
                    continue;
                }
                source.hear(Heard::Asked(wanted.services()));
            }
            let mut params = ListParams { limit: Some(PAGE), ..ListParams::default() };
            params.field_selector = config.field_selector;
            loop {
                let list = api.list(&params).await.with_context(|| format!("{what} cannot be listed"))?;
                for object in list.items {
                    if what == What::Slices {
                        watch::slice(director, &wanted, object, true)
                            .into_iter()
                            .for_each(|one| source.hear(one));
                    } else {
                        source.hear(Heard::There(what, Box::new(heard::read(what, director, object))));
                    }
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
