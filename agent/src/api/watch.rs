//! Watches: each kind is listed and followed, again and again, and what is heard goes into one channel.

use std::sync::Arc;

use bascule_crds::{DirectorConfig, HealthCheck, NatRuleBinding, VirtualServiceBinding};
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::connect::{trouble, trouble_of};
use super::heard::{self, Heard, Place, Trouble, What};
use super::wanted::{Passes, Wanted};
use crate::endpoints::{self, Service};

/// So long one watch lasts, in seconds: a connection that died without a word is noticed a little later.
pub(super) const WATCH: u32 = 60;
/// Objects in one piece of a list.
const PAGE: u32 = 250;

/// Where a kind is, and which objects of it are this director's.
pub(super) fn selection(what: What, director: &str, client: &Client) -> (Api<DynamicObject>, Config) {
    let (resource, fields) = match what {
        What::Bindings => {
            (ApiResource::erase::<VirtualServiceBinding>(&()), Some(format!("spec.director={director}")))
        }
        What::Rules => (ApiResource::erase::<NatRuleBinding>(&()), Some(format!("spec.director={director}"))),
        What::Config => {
            (ApiResource::erase::<DirectorConfig>(&()), Some(format!("metadata.name={director}")))
        }
        What::Checks => (ApiResource::erase::<HealthCheck>(&()), None),
        What::Slices => (ApiResource::erase::<EndpointSlice>(&()), None),
    };
    let config = Config::default().timeout(WATCH).page_size(PAGE);
    let config = match fields {
        Some(fields) => config.fields(&fields),
        None => config,
    };
    (Api::all_with(client.clone(), &resource), config)
}

/// The running watches; dropping ends them.
#[derive(Debug)]
pub(super) struct Watches {
    tasks: JoinSet<()>,
    again: [Arc<Notify>; What::ALL.len()],
}

impl Watches {
    /// Follows every kind.
    pub(super) fn spawn(
        client: &Client,
        director: &str,
        wanted: &Arc<Wanted>,
        to: &mpsc::Sender<Heard>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let again: [Arc<Notify>; What::ALL.len()] = std::array::from_fn(|_| Arc::new(Notify::new()));
        for (what, again) in What::ALL.into_iter().zip(&again) {
            let (client, director) = (client.clone(), director.to_owned());
            let wanted = Arc::clone(wanted);
            tasks.spawn(follow(client, director, what, wanted, to.clone(), Arc::clone(again)));
        }
        Self { tasks, again }
    }

    /// Has a kind listed anew.
    pub(super) fn again(&self, what: What) {
        for (_, notify) in What::ALL.into_iter().zip(&self.again).filter(|(one, _)| *one == what) {
            notify.notify_one();
        }
    }

    /// Whether one of them has ended, which none does by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.tasks.try_join_next().is_some()
    }
}

async fn follow(
    client: Client,
    director: String,
    what: What,
    wanted: Arc<Wanted>,
    to: mpsc::Sender<Heard>,
    again: Arc<Notify>,
) {
    if what == What::Slices {
        // A cluster has many, and most directors need none.
        wanted.any().await;
    }
    loop {
        let (api, config) = selection(what, &director, &client);
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        loop {
            let event = tokio::select! {
                () = again.notified() => break,
                event = stream.next() => event,
            };
            let Some(event) = event else { return };
            for heard in hear(what, &director, &wanted, event) {
                // A channel that is full holds the watch up, and no memory.
                if to.send(heard).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What an event says; nothing, of slices that nobody wants.
fn hear(
    what: What,
    director: &str,
    wanted: &Wanted,
    event: Result<Event<DynamicObject>, Error>,
) -> impl Iterator<Item = Heard> {
    let (first, second) = match event {
        Ok(Event::Init) if what == What::Slices => {
            (Some(Heard::Listing(what)), Some(Heard::Asked(wanted.services())))
        }
        Ok(Event::Init) => (Some(Heard::Listing(what)), None),
        Ok(Event::InitApply(object) | Event::Apply(object)) if what == What::Slices => {
            (slice(director, wanted, object, true), None)
        }
        Ok(Event::InitApply(object) | Event::Apply(object)) => {
            (Some(Heard::There(what, Box::new(heard::read(what, director, object)))), None)
        }
        Ok(Event::Delete(object)) if what == What::Slices => (slice(director, wanted, object, false), None),
        Ok(Event::Delete(object)) => (Some(Heard::Gone(what, place(&object))), None),
        Ok(Event::InitDone) => (Some(Heard::Listed(what)), None),
        Err(error) => (Some(Heard::Failed(what, trouble_of_watch(&error))), None),
    };
    first.into_iter().chain(second)
}

fn place(object: &DynamicObject) -> Place {
    let metadata = &object.metadata;
    Place {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// What is to be said of a slice that is there, or gone.
pub(super) fn slice(director: &str, wanted: &Wanted, object: DynamicObject, there: bool) -> Option<Heard> {
    let place = place(&object);
    let service = endpoints::service_of(object.metadata.labels.as_ref());
    let service = service.map(|name| Service { namespace: place.namespace.clone(), name: name.to_owned() });
    match wanted.passes(&place, service.as_ref().filter(|_| there)) {
        Passes::In => Some(Heard::There(What::Slices, Box::new(heard::read(What::Slices, director, object)))),
        Passes::Out => Some(Heard::Gone(What::Slices, place)),
        Passes::Not => None,
    }
}

pub(super) fn trouble_of_watch(error: &Error) -> Trouble {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            trouble(error)
        }
        Error::WatchError(status) => trouble_of(status.code, &status.message),
        error @ Error::NoResourceVersion => Trouble::Lost(error.to_string()),
    }
}
