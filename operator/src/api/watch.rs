//! Watches: each source is listed and followed, again and again, and what is heard goes into one channel.

use std::time::{Duration, Instant};

use bascule_crds::{
    Director, DirectorConfig, HealthCheck, NatRule, NatRuleBinding, Object, VirtualService,
    VirtualServiceBinding, VrrpGroup,
};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::utils::Backoff;
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
/// First wait after a failure.
const FIRST: Duration = Duration::from_millis(800);
/// Longest wait after failures. There are ten watches: that is one request a second.
const LONGEST: Duration = Duration::from_secs(10);
/// After so long without a failure a watch works: where there is nothing to hear, nothing else tells.
const WORKS: Duration = Duration::from_secs(60);

/// How long a watch that failed waits until it is begun anew.
#[derive(Debug, Default)]
struct Waits {
    next: Option<Duration>,
    last: Option<Instant>,
}

impl Waits {
    fn after(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > WORKS) {
            self.next = None;
        }
        let wait = self.next.unwrap_or(FIRST);
        (self.next, self.last) = (Some((wait * 2).min(LONGEST)), Some(now));
        wait
    }
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after(Instant::now()))
    }
}

impl Backoff for Waits {
    /// Called whenever something is heard: also that a list begins, which may well fail next. Time tells.
    fn reset(&mut self) {}
}

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
    let stream = watcher(api, config).backoff(Waits::default());
    let mut stream = std::pin::pin!(stream.inspect_err(|error| {
        let why = super::causes(error);
        tally.watch_failed(source, &why);
        tracing::warn!(%source, "watch: {why}");
    }));
    while let Some(event) = stream.next().await {
        let Ok(event) = event else { continue };
        // That it is listed anew is told before anybody was asked.
        if !matches!(event, Event::Init) {
            tally.watches.heard(source);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_it_works() {
        let (mut waits, begin) = (Waits::default(), Instant::now());
        let told: Vec<u128> = (0..6).map(|n| waits.after(begin + LONGEST * n).as_millis()).collect();
        assert_eq!(told, [800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        // A list that begins is none that works.
        waits.reset();
        assert_eq!(waits.after(begin + LONGEST * 6), LONGEST);
        // Silent, and well.
        assert_eq!(waits.after(begin + LONGEST * 13), FIRST);
        assert_eq!(waits.after(begin + LONGEST * 14), FIRST * 2);
    }
}
