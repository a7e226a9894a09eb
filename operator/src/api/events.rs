//! Events on users' objects (events.k8s.io/v1): what a person wants to read in `kubectl describe`. They are for people; nothing depends on
//! them, so that what is too much is dropped.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bascule_crds::common::API_VERSION;
use bascule_crds::{Kind, ObjectRef};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::{mpsc, watch};

use crate::election::lease::Term;
use crate::names::MANAGER;
use crate::status::News;
use crate::tally::Tally;

/// Events that wait to be sent.
const QUEUE: usize = 256;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(100);
/// The same is not said again within this time.
const QUIET: Duration = Duration::from_secs(300);
/// So many are remembered as having been said.
const REMEMBERED: usize = 4096;
/// Longest note, in characters (the API allows 1 kB).
const NOTE: usize = 480;

/// Something to be said of an object.
#[derive(Clone, Debug)]
pub struct Said {
    /// The object.
    pub object: ObjectRef,
    /// Its `uid`.
    pub uid: Option<String>,
    /// What.
    pub news: News,
}

/// Takes events, and drops what is too much.
#[derive(Clone, Debug)]
pub struct Events {
    to: mpsc::Sender<Said>,
    tally: Tally,
}

impl Events {
    /// Starts sending what is said, while this operator leads and the API server takes it.
    pub fn spawn(
        client: Client,
        instance: String,
        term: watch::Receiver<Term>,
        patience: Duration,
        tally: &Tally,
    ) -> Events {
        let (to, mut from) = mpsc::channel::<Said>(QUEUE);
        let recorder =
            Recorder::new(client, Reporter { controller: MANAGER.into(), instance: Some(instance) });
        tokio::spawn(async move {
            let (mut told, mut warned) = (Told::default(), None::<Instant>);
            while let Some(said) = from.recv().await {
                let now = Instant::now();
                let leads = term.borrow().until.is_some_and(|until| now < until);
                if !leads || !told.is_new(&said, now) {
                    continue;
                }
                let (event, object) = event(&said);
                let sent = tokio::time::timeout(patience, recorder.publish(&event, &object)).await;
                if let Ok(Err(error)) = sent {
                    let error = super::causes(&error);
                    // Loud once in a while: events are for people, and nothing else waits for them.
                    if warned.is_none_or(|at| now.saturating_duration_since(at) >= QUIET) {
                        warned = Some(now);
                        tracing::warn!(object = %said.object, "an event was not taken: {error}");
                    } else {
                        tracing::debug!(object = %said.object, "an event was not taken: {error}");
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Events { to, tally: tally.clone() }
    }

    /// Says something of an object, if there is room.
    pub fn say(&self, said: Said) {
        if self.to.try_send(said).is_err() {
            self.tally.events_dropped.inc();
        }
    }
}

/// What has been said of late.
#[derive(Debug, Default)]
struct Told(BTreeMap<(ObjectRef, String, String), Instant>);

impl Told {
    fn is_new(&mut self, said: &Said, now: Instant) -> bool {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let key = (said.object.clone(), said.news.reason.clone(), said.news.note.clone());
        let before = self.0.get(&key).is_some_and(|at| now.saturating_duration_since(*at) < QUIET);
        if !before {
            self.0.insert(key, now);
        }
        !before
    }
}

fn event(said: &Said) -> (Event, ObjectReference) {
    let Said { object, uid, news } = said;
    let type_ = if news.warning { EventType::Warning } else { EventType::Normal };
    let note = news.note.chars().take(NOTE).collect();
    let event = Event {
        type_,
        reason: news.reason.clone(),
        note: Some(note),
        action: "Reconcile".into(),
        secondary: None,
    };
    let reference = ObjectReference {
        api_version: Some(API_VERSION.into()),
        kind: Some(object.kind.as_str().into()),
        name: Some(object.name.clone()),
        // Without one the event is put into `default`.
        namespace: object.namespace.clone(),
        uid: uid.clone(),
        ..ObjectReference::default()
    };
    debug_assert!(object.kind != Kind::EndpointSlice);
    (event, reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(note: &str) -> Said {
        let news = News { warning: true, reason: "Conflicted".into(), note: note.into() };
        Said { object: ObjectRef::new(Kind::VirtualService, Some("tp"), "web"), uid: None, news }
    }

    #[test]
    fn the_same_is_said_once_in_a_while() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert!(told.is_new(&said("a"), now));
        assert!(told.is_new(&said("b"), now));
        assert!(!told.is_new(&said("a"), now + QUIET / 2));
        assert!(told.is_new(&said("a"), now + QUIET));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut told, now) = (Told::default(), Instant::now());
        for n in 0..3 * REMEMBERED {
            assert!(told.is_new(&said(&n.to_string()), now));
            assert!(told.0.len() <= REMEMBERED);
        }
    }
}
