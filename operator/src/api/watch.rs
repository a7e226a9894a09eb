//! Watches: each source is listed and followed, again and again, and what is heard goes into one channel.

use bascule_crds::{
    Director, DirectorConfig, HealthCheck, NatRule, NatRuleBinding, Object, VirtualService,
    VirtualServiceBinding, VrrpGroup,
};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector::Lookup};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::index::{Heard, Item, LeaseFacts, NodeFacts, Place, Source};
use crate::tally::Tally;

/// So long one watch lasts, in seconds: a connection that died without a word is noticed a little later.
const WATCH: u32 = 60;

/// Follows every source, until the tasks are dropped. `namespace` is that of the Leases.
pub fn spawn(client: &Client, namespace: &str, to: &mpsc::Sender<Heard>, tally: &Tally) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    macro_rules! follow {
        ($kind:ty, $source:expr, $item:expr) => {
            tasks.spawn(follow(
                Api::<DeserializeGuard<$kind>>::all(client.clone()),
                $source,
                $item,
                to.clone(),
                tally.clone(),
            ));
        };
    }
    follow!(VirtualService, Source::VirtualService, |one| Item::User(Object::VirtualService(Box::new(one))));
    follow!(HealthCheck, Source::HealthCheck, |one| Item::User(Object::HealthCheck(Box::new(one))));
    follow!(VrrpGroup, Source::VrrpGroup, |one| Item::User(Object::VrrpGroup(Box::new(one))));
    follow!(NatRule, Source::NatRule, |one| Item::User(Object::NatRule(Box::new(one))));
    follow!(Director, Source::Director, |one| Item::User(Object::Director(Box::new(one))));
    follow!(VirtualServiceBinding, Source::VirtualServiceBinding, |one| Item::Binding(one.into()));
    follow!(NatRuleBinding, Source::NatRuleBinding, |one| Item::Binding(one.into()));
    follow!(DirectorConfig, Source::DirectorConfig, |one| Item::Config(Box::new(one)));
    follow!(Node, Source::Node, |one: Node| Item::Node(NodeFacts::of(&one)));
    let leases = Api::<DeserializeGuard<Lease>>::namespaced(client.clone(), namespace);
    let item = |one: Lease| Item::Lease(LeaseFacts::of(&one));
    tasks.spawn(follow(leases, Source::Lease, item, to.clone(), tally.clone()));
    tasks
}

async fn follow<K>(
    api: Api<DeserializeGuard<K>>,
    source: Source,
    item: fn(K) -> Item,
    to: mpsc::Sender<Heard>,
    tally: Tally,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    DeserializeGuard<K>: Resource<DynamicType = ()> + Lookup<DynamicType = ()>,
{
    let config = Config::default().timeout(WATCH);
    let stream = watcher(api, config).default_backoff();
    let mut stream = std::pin::pin!(stream.inspect_err(|error| {
        tally.watch_failed(source);
        tracing::warn!(%source, "watch: {}", super::causes(error));
    }));
    while let Some(event) = stream.next().await {
        let Ok(event) = event else { continue };
        let heard = match event {
            Event::Init => Heard::Listing(source),
            Event::InitApply(object) | Event::Apply(object) => there(source, object, item),
            Event::Delete(object) => Heard::Gone(
                source,
                Place::of(object.meta()),
                version(object.meta().resource_version.as_deref()),
            ),
            Event::InitDone => Heard::Listed(source),
        };
        // A channel that is full holds the watch up, and no memory.
        if to.send(heard).await.is_err() {
            return;
        }
    }
}

fn there<K: Resource<DynamicType = ()>>(
    source: Source,
    object: DeserializeGuard<K>,
    item: fn(K) -> Item,
) -> Heard {
    match object.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            let place = Place::of(object.meta());
            let version = version(object.meta().resource_version.as_deref());
            Heard::There(source, place, version, Box::new(item(object)))
        }
        Err(invalid) => {
            let place = Place::of(&invalid.metadata);
            tracing::error!(
                %source, namespace = place.namespace, name = place.name,
                "cannot be read by this version: {}; what was known of it stays in force", invalid.error
            );
            let version = version(invalid.metadata.resource_version.as_deref());
            Heard::Unreadable(source, place, version, invalid.error)
        }
    }
}

/// Versions of one source grow (KEP-5504); one that is no number counts as unknown.
pub(super) fn version(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}
