//! What was read of Secrets, and what it means: pure. A key that was once in force stays so until another one can be used in its place,
//! whatever becomes of the Secret: no group that runs stops for it. A key that never was in force is none.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::file::Kept;
use super::key::{Bytes, Named, Reason, Trouble, Usage, usable};

/// Most keys that are followed: 8 groups of a director with 8 keys each.
pub const MAX_NAMED: usize = 64;

/// The chart's value that lets agents read a Secret.
const VALUE: &str = "agent.vrrpSecrets";
/// The Role that the chart makes of it.
const ROLE: &str = "bascule-agent-vrrp-secrets";

/// What is heard of a Secret.
#[derive(Clone, Debug)]
pub enum Heard {
    /// It is there, in that version, with these of the keys that were asked for.
    There(String, BTreeMap<String, Bytes>),
    /// There is none of this name.
    Missing,
    /// The API server refuses to tell, in its words.
    Forbidden(String),
}

/// What is to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether it is well.
    pub good: bool,
    /// In words.
    pub text: String,
}

/// How it stands with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretStatus {
    /// The Secret: NAMESPACE/NAME once the namespace is known.
    pub secret: String,
    /// Key in its data.
    pub key: String,
    /// Whether there is a key in force: the one that was read last and could be used.
    pub in_force: bool,
    /// Version of the Secret (`metadata.resourceVersion`) that the key in force was last seen in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Why what the Secret should hold now cannot be had, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The keys that the configuration names.
#[derive(Debug, Default)]
pub struct Book {
    namespace: String,
    entries: BTreeMap<Named, Entry>,
    /// What is in force is not what was kept last.
    unsaved: bool,
}

#[derive(Debug, Default)]
struct Entry {
    /// In force, with the version of the Secret.
    key: Option<(Bytes, String)>,
    trouble: Option<Trouble>,
    /// Something was heard of the Secret since the start.
    heard: bool,
}

impl Book {
    /// With the keys that were in force before.
    pub fn new(remembered: impl IntoIterator<Item = Kept>) -> Self {
        let entry = |Kept { named, version, bytes }: Kept| {
            (named, Entry { key: Some((bytes, version)), ..Entry::default() })
        };
        Self { entries: remembered.into_iter().take(MAX_NAMED).map(entry).collect(), ..Self::default() }
    }

    /// Where the Secrets are.
    pub fn set_namespace(&mut self, namespace: &str) {
        namespace.clone_into(&mut self.namespace);
    }

    /// These keys are named from now on, and no others; of more than [`MAX_NAMED`] the first.
    pub fn want(&mut self, wanted: BTreeSet<Named>) {
        let wanted: BTreeSet<Named> = wanted.into_iter().take(MAX_NAMED).collect();
        let before = self.entries.len();
        self.entries.retain(|named, _| wanted.contains(named));
        self.unsaved |= self.entries.len() != before;
        for named in wanted {
            self.entries.entry(named).or_default();
        }
    }

    /// The Secrets that are to be followed, each with the keys in it that are named.
    pub fn secrets(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut secrets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Named { secret, key, .. } in self.entries.keys() {
            secrets.entry(secret.clone()).or_default().insert(key.clone());
        }
        secrets
    }

    /// Takes in what was heard of a Secret. Returns what is to be said, which is nothing where nothing has changed for any group.
    pub fn hear(&mut self, secret: &str, heard: &Heard) -> Vec<Said> {
        let place = self.place(secret);
        let mut said = Vec::new();
        for (named, entry) in self.entries.iter_mut().filter(|(named, _)| named.secret == secret) {
            let first = !std::mem::replace(&mut entry.heard, true);
            let now = judge(&place, named, heard);
            let key = &named.key;
            match now {
                Ok((bytes, version)) => {
                    let recovered = entry.trouble.take().is_some();
                    let before = entry.key.replace((bytes, version));
                    let (before, now) = (before.as_ref(), entry.key.as_ref());
                    self.unsaved |= before != now;
                    let same = before.map(|(bytes, _)| bytes) == now.map(|(bytes, _)| bytes);
                    let text = match (before, same) {
                        (None, _) => format!("Secret {place}: key {key} was read"),
                        (Some(_), false) => format!("Secret {place}: key {key} is another one now"),
                        (Some(_), true) if recovered => format!("Secret {place}: key {key} is there again"),
                        // What is remembered is there still.
                        (Some(_), true) => continue,
                    };
                    said.push(Said { good: true, text });
                }
                Err(trouble) if first || entry.trouble.as_ref() != Some(&trouble) => {
                    let text =
                        format!("{}: {}", trouble.reason.as_str(), with_effect(&trouble.message, entry));
                    entry.trouble = Some(trouble);
                    said.push(Said { good: false, text });
                }
                Err(_) => {}
            }
        }
        said
    }

    /// The bytes in force of a key, or why there are none.
    pub fn read(&self, named: &Named) -> Result<Vec<u8>, Trouble> {
        let entry = self.entries.get(named);
        match entry.and_then(|entry| entry.key.as_ref()) {
            Some((bytes, _)) => Ok(bytes.expose().to_vec()),
            None => Err(self.trouble(named, entry)),
        }
    }

    /// How it stands with a key.
    pub fn status(&self, named: &Named) -> SecretStatus {
        let entry = self.entries.get(named);
        let key = entry.and_then(|entry| entry.key.as_ref());
        let trouble = match entry.and_then(|entry| entry.trouble.clone()) {
            None if key.is_none() => Some(self.trouble(named, entry)),
            trouble => trouble,
        };
        let message = trouble.as_ref().map(|trouble| match entry {
            Some(entry) => with_effect(&trouble.message, entry),
            None => trouble.message.clone(),
        });
        SecretStatus {
            secret: self.place(&named.secret),
            key: named.key.clone(),
            in_force: key.is_some(),
            resource_version: key.map(|(_, version)| version.clone()).filter(|version| !version.is_empty()),
            reason: trouble.map(|trouble| trouble.reason),
            message: message.unwrap_or_default(),
        }
    }

    /// What has to be kept, where that is not what was kept last; asked once.
    pub fn take_unsaved(&mut self) -> Option<Vec<Kept>> {
        if !std::mem::take(&mut self.unsaved) {
            return None;
        }
        let kept = |(named, entry): (&Named, &Entry)| {
            let (bytes, version) = entry.key.clone()?;
            Some(Kept { named: named.clone(), version, bytes })
        };
        Some(self.entries.iter().filter_map(kept).collect())
    }

    /// It could not be kept: it is unsaved as before.
    pub fn not_saved(&mut self) {
        self.unsaved = true;
    }

    fn trouble(&self, named: &Named, entry: Option<&Entry>) -> Trouble {
        let known = entry.and_then(|entry| entry.trouble.clone());
        known.unwrap_or_else(|| Trouble {
            reason: Reason::SecretNotRead,
            message: format!("Secret {} has not been read yet", self.place(&named.secret)),
        })
    }

    fn place(&self, secret: &str) -> String {
        if self.namespace.is_empty() { secret.to_owned() } else { format!("{}/{secret}", self.namespace) }
    }
}

/// What was heard, for one key: its bytes and the Secret's version.
fn judge(place: &str, named: &Named, heard: &Heard) -> Result<(Bytes, String), Trouble> {
    let key = &named.key;
    let trouble = |reason, message| Err(Trouble { reason, message });
    match heard {
        Heard::There(version, keys) => match keys.get(key).map(|bytes| usable(bytes, named.usage)) {
            Some(Ok(bytes)) => Ok((bytes, version.clone())),
            Some(Err(why)) => {
                let of = if named.usage == Usage::Hmac { "hmac" } else { "simple" };
                trouble(
                    Reason::SecretInvalid,
                    format!("Secret {place}: key {key}: {why}; put a key in its place that {of} can use"),
                )
            }
            None => trouble(
                Reason::SecretKeyNotFound,
                format!("Secret {place} has no key {key}: add it, or name another one in the VrrpGroup"),
            ),
        },
        Heard::Missing => trouble(
            Reason::SecretNotFound,
            format!("there is no Secret {place}: create it with the key {key}"),
        ),
        Heard::Forbidden(words) => {
            let name = &named.secret;
            trouble(
                Reason::SecretForbidden,
                format!(
                    "this agent may not read Secret {place}: add {name} to {VALUE} of the chart, which makes the Role {ROLE} \
                     of it ({words})"
                ),
            )
        }
    }
}

fn with_effect(message: &str, entry: &Entry) -> String {
    let effect = if entry.key.is_some() { "; the key that was read last stays in force" } else { "" };
    format!("{message}{effect}")
}
