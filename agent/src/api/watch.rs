//! Watches: each kind is listed and followed, again and again, and what is heard goes into one channel.

use std::sync::Arc;

use bascule_crds::{DirectorConfig, HealthCheck, NatRuleBinding, VirtualServiceBinding};
use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::connect::{trouble, trouble_of};
use super::heard::{self, Heard, Place, Trouble, What};

/// So long one watch lasts, in seconds: a connection that died without a word is noticed a little later.
const WATCH: u32 = 60;
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
    pub(super) fn spawn(client: &Client, director: &str, to: &mpsc::Sender<Heard>) -> Self {
        let mut tasks = JoinSet::new();
        let again: [Arc<Notify>; What::ALL.len()] = std::array::from_fn(|_| Arc::new(Notify::new()));
        for (what, again) in What::ALL.into_iter().zip(&again) {
            let (client, director) = (client.clone(), director.to_owned());
            tasks.spawn(follow(client, director, what, to.clone(), Arc::clone(again)));
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

async fn follow(client: Client, director: String, what: What, to: mpsc::Sender<Heard>, again: Arc<Notify>) {
    loop {
        let (api, config) = selection(what, &director, &client);
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        loop {
            let event = tokio::select! {
                () = again.notified() => break,
                event = stream.next() => event,
            };
            let Some(event) = event else { return };
            let heard = match event {
                Ok(Event::Init) => Heard::Listing(what),
                Ok(Event::InitApply(object) | Event::Apply(object)) => {
                    Heard::There(what, Box::new(heard::read(what, &director, object)))
                }
                Ok(Event::Delete(object)) => {
                    let namespace = object.metadata.namespace.unwrap_or_default();
                    let name = object.metadata.name.unwrap_or_default();
                    Heard::Gone(what, Place { namespace, name })
                }
                Ok(Event::InitDone) => Heard::Listed(what),
                Err(error) => Heard::Failed(what, trouble_of_watch(&error)),
            };
            // A channel that is full holds the watch up, and no memory.
            if to.send(heard).await.is_err() {
                return;
            }
        }
    }
}

fn trouble_of_watch(error: &Error) -> Trouble {
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            trouble(error)
        }
        Error::WatchError(status) => trouble_of(status.code, &status.message),
        error @ Error::NoResourceVersion => Trouble::Lost(error.to_string()),
    }
}
