//! Watches of single Secrets: one for each that the configuration names, begun and ended as it changes. The rights to them name each
//! Secret (`resourceNames`), which list and watch only where the request selects that name alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::heard::Trouble;
use super::watch::{WATCH, trouble_of_watch};
use crate::secrets::{Bytes, Heard};

/// From a refusal to the next try: the right may be granted by then.
const REFUSED: Duration = Duration::from_secs(15);

/// What a watch tells.
#[derive(Debug)]
pub(super) struct Told {
    /// Which watch: one that has ended meanwhile is not believed.
    pub(super) serial: u64,
    /// The Secret's name.
    pub(super) secret: String,
    /// What was heard of it, or why nothing is.
    pub(super) heard: Result<Heard, Trouble>,
}

/// The running watches; dropping ends them.
pub(super) struct Watches {
    client: Client,
    namespace: String,
    to: mpsc::Sender<Told>,
    tasks: JoinSet<()>,
    running: BTreeMap<String, Running>,
    serial: u64,
}

struct Running {
    keys: BTreeSet<String>,
    serial: u64,
    task: AbortHandle,
}

impl Watches {
    /// None yet; what they hear goes to `to`.
    pub(super) fn new(client: &Client, namespace: &str, to: &mpsc::Sender<Told>) -> Self {
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            to: to.clone(),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Follows these Secrets and no others, each for the keys in it that are named. Whoever names them bounds how many.
    pub(super) fn follow(&mut self, wanted: &BTreeMap<String, BTreeSet<String>>) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|secret, running| {
            // None ends by itself; whatever happened, it is begun anew.
            let stays = wanted.get(secret) == Some(&running.keys) && !running.task.is_finished();
            if !stays {
                running.task.abort();
            }
            stays
        });
        for (secret, keys) in wanted {
            if self.running.contains_key(secret) {
                continue;
            }
            self.serial += 1;
            let (serial, to) = (self.serial, self.to.clone());
            let (secret, keys) = (secret.clone(), keys.clone());
            let api = Api::namespaced(self.client.clone(), &self.namespace);
            let task = self.tasks.spawn(follow(api, secret.clone(), keys.clone(), serial, to));
            self.running.insert(secret, Running { keys, serial, task });
        }
    }

    /// Whether that was told by a watch that still runs.
    pub(super) fn is_current(&self, told: &Told) -> bool {
        self.running.get(&told.secret).is_some_and(|running| running.serial == told.serial)
    }
}

async fn follow(
    api: Api<Secret>,
    secret: String,
    keys: BTreeSet<String>,
    serial: u64,
    to: mpsc::Sender<Told>,
) {
    loop {
        let config = Config::default().timeout(WATCH).fields(&format!("metadata.name={secret}"));
        let mut stream = std::pin::pin!(watcher(api.clone(), config).default_backoff());
        let mut listed = None;
        while let Some(event) = stream.next().await {
            let Some(heard) = hear(&keys, &mut listed, event) else { continue };
            let refused = matches!(heard, Ok(Heard::Forbidden(_)));
            // A channel that is full holds the watch up, and no memory.
            if to.send(Told { serial, secret: secret.clone(), heard }).await.is_err() {
                return;
            }
            // Where it is granted and nothing changes, a watch says nothing: it is listed anew.
            if refused {
                tokio::time::sleep(REFUSED).await;
                break;
            }
        }
    }
}

/// What an event says; nothing before a list is whole. `listed` is what the list has had so far.
fn hear(
    keys: &BTreeSet<String>,
    listed: &mut Option<Heard>,
    event: Result<Event<Secret>, Error>,
) -> Option<Result<Heard, Trouble>> {
    match event {
        Ok(Event::Init) => {
            *listed = None;
            None
        }
        Ok(Event::InitApply(secret)) => {
            *listed = Some(there(keys, secret));
            None
        }
        Ok(Event::InitDone) => Some(Ok(listed.take().unwrap_or(Heard::Missing))),
        Ok(Event::Apply(secret)) => Some(Ok(there(keys, secret))),
        Ok(Event::Delete(_)) => Some(Ok(Heard::Missing)),
        Err(error) => match trouble(&error) {
            Trouble::Denied(words) => Some(Ok(Heard::Forbidden(words))),
            Trouble::Expired => None,
            trouble => Some(Err(trouble)),
        },
    }
}

/// Of a Secret, the keys that are named, and no others.
fn there(keys: &BTreeSet<String>, secret: Secret) -> Heard {
    let version = secret.metadata.resource_version.unwrap_or_default();
    let data = secret.data.unwrap_or_default();
    let named = data.into_iter().filter(|(key, _)| keys.contains(key));
    Heard::There(version, named.map(|(key, value)| (key, Bytes::new(value.0))).collect())
}

/// What an error means. What a parser says may hold a piece of what it read, which may be a key: it is not passed on.
fn trouble(error: &Error) -> Trouble {
    match error {
        Error::InitialListFailed(inner) | Error::WatchStartFailed(inner) | Error::WatchFailed(inner)
            if matches!(inner, kube::Error::SerdeError(_)) =>
        {
            Trouble::Lost("an answer about a Secret cannot be understood".into())
        }
        error => trouble_of_watch(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(version: &str, data: serde_json::Value) -> Secret {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "vrrp", "namespace": "bascule-system", "resourceVersion": version}, "data": data,
        }))
        .unwrap()
    }

    fn api(code: u16) -> kube::Error {
        let answer = json!({"code": code, "message": "in its words"});
        kube::Error::Api(Box::new(serde_json::from_value(answer).unwrap()))
    }

    #[test]
    fn a_secret_is_told_whole_and_with_the_named_keys_alone() {
        let keys = BTreeSet::from(["front".to_owned(), "back".to_owned()]);
        let mut listed = None;
        let mut hear = |event| hear(&keys, &mut listed, event);
        assert!(hear(Ok(Event::Init)).is_none());
        let one = secret("7", json!({"front": "cHJlY2lvdXM=", "other": "eA==", "back": "A".repeat(4000)}));
        assert!(hear(Ok(Event::InitApply(one.clone()))).is_none(), "a list that is not whole says nothing");
        let Some(Ok(Heard::There(version, told))) = hear(Ok(Event::InitDone)) else { panic!() };
        assert_eq!(version, "7");
        assert_eq!(told.keys().collect::<Vec<_>>(), ["back", "front"]);
        assert_eq!(told["front"].expose(), b"precious");
        assert_eq!(
            told["back"].expose().len(),
            crate::secrets::key::MAX + 1,
            "no more than shows that it is too long"
        );
        assert!(!format!("{told:?}").contains("precious"));

        assert!(hear(Ok(Event::Init)).is_none());
        assert!(matches!(hear(Ok(Event::InitDone)), Some(Ok(Heard::Missing))), "a list without it");
        let Some(Ok(Heard::There(version, told))) = hear(Ok(Event::Apply(secret("8", json!(null))))) else {
            panic!()
        };
        assert!(version == "8" && told.is_empty());
        assert!(matches!(hear(Ok(Event::Delete(one))), Some(Ok(Heard::Missing))));
    }

    /// Of an API server that nobody answers for.
    fn watches(to: &mpsc::Sender<Told>) -> Watches {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        Watches::new(&Client::try_from(config).unwrap(), "bascule-system", to)
    }

    #[tokio::test]
    async fn there_is_one_watch_for_each_secret_and_what_an_ended_one_says_is_not_believed() {
        let (to, _told) = mpsc::channel(16);
        let mut watches = watches(&to);
        let wanted = |secrets: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
            let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
            secrets.iter().map(|(secret, named)| ((*secret).to_owned(), keys(named))).collect()
        };
        let says = |watches: &Watches, secret: &str| {
            let serial = watches.running[secret].serial;
            Told { serial, secret: secret.into(), heard: Ok(Heard::Missing) }
        };
        watches.follow(&wanted(&[("vrrp", &["front"]), ("more", &["a"])]));
        let (vrrp, more) = (says(&watches, "vrrp"), says(&watches, "more"));
        assert!(watches.is_current(&vrrp) && watches.is_current(&more));
        watches.follow(&wanted(&[("vrrp", &["front"]), ("more", &["a"])]));
        assert!(watches.is_current(&vrrp) && watches.is_current(&more), "what stays is not begun anew");
        // It did not look for that key.
        watches.follow(&wanted(&[("vrrp", &["front", "back"])]));
        assert!(!watches.is_current(&vrrp) && !watches.is_current(&more));
        assert!(watches.is_current(&says(&watches, "vrrp")));
        watches.follow(&BTreeMap::new());
        assert!(watches.running.is_empty());
        let ended = async { while watches.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("all have ended");
    }

    #[test]
    fn what_is_not_answered_is_no_absence_and_a_refusal_is_told_in_the_servers_words() {
        let keys = BTreeSet::from(["front".to_owned()]);
        let mut listed = None;
        let mut hear = |error| hear(&keys, &mut listed, Err(error));
        let Some(Ok(Heard::Forbidden(words))) = hear(Error::InitialListFailed(api(403))) else { panic!() };
        assert_eq!(words, "in its words");
        assert!(hear(Error::WatchFailed(api(410))).is_none(), "it is listed anew");
        assert!(matches!(hear(Error::WatchFailed(api(500))), Some(Err(Trouble::Lost(_)))));
        assert!(matches!(hear(Error::InitialListFailed(api(401))), Some(Err(Trouble::Unknown(_)))));
        let piece = serde_json::from_str::<u8>("\"precious\"").unwrap_err();
        assert!(piece.to_string().contains("precious"), "or there is nothing to hide: {piece}");
        let Some(Err(Trouble::Lost(why))) = hear(Error::WatchFailed(kube::Error::SerdeError(piece))) else {
            panic!()
        };
        assert!(!why.contains("precious"), "{why}");
    }
}
