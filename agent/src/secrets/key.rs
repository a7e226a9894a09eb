//! What a key is, what it is for, and why there is none.

use std::collections::BTreeSet;
use std::fmt;

use bascule_crds::common::SecretKeyRef;
use bascule_crds::director_config::DirectorVrrpGroup;
use bascule_crds::vrrp_group::Authentication;
use bascule_vrrp::authentication::{Key, KeyError};
use serde::{Deserialize, Serialize};

/// Most bytes that are looked at: a key has at most 64; with a line feed and a little air.
pub const MAX: usize = 256;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Usage {
    /// HMAC: 32 to 64 bytes.
    Hmac,
    /// The password of version 2, of which the first eight bytes count.
    Simple,
}

/// A key that the configuration names, and what for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// Name of the Secret, which is in the release's own namespace.
    pub secret: String,
    /// Key in its data.
    pub key: String,
    /// What it is for.
    pub usage: Usage,
}

impl Named {
    /// As a group names it.
    pub fn new(reference: &SecretKeyRef, usage: Usage) -> Self {
        Self { secret: reference.name.clone(), key: reference.key.clone(), usage }
    }
}

/// The keys of Secrets that a group names, each once: at most 8 (`spec.authentication.hmac.keys`).
pub fn named_by(group: &DirectorVrrpGroup) -> BTreeSet<Named> {
    let Some(Authentication { hmac, simple }) = &group.authentication else { return BTreeSet::new() };
    let simple = simple.iter().filter_map(|one| one.secret_ref.as_ref());
    let keys = hmac.iter().flat_map(|hmac| &hmac.keys).filter_map(|key| key.secret_ref.as_ref());
    let simple = simple.map(|reference| Named::new(reference, Usage::Simple));
    simple.chain(keys.map(|reference| Named::new(reference, Usage::Hmac))).collect()
}

/// Bytes that nothing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// Of a Secret's data; of more than [`MAX`] only so many as tell that there are more.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.truncate(MAX + 1);
        Self(bytes)
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bytes(…)")
    }
}

/// What stands in a file or in a Secret as a key. One line feed at its end is an editor's, not the key's. The error says what is
/// wrong with it.
pub fn content(mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if bytes.len() > MAX {
        return Err(format!("longer than {MAX} bytes"));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err("empty".to_owned());
    }
    Ok(bytes)
}

/// The same, and whether it can be used for that.
pub fn usable(bytes: &Bytes, usage: Usage) -> Result<Bytes, String> {
    let content = content(bytes.0.clone())?;
    // Its id does not matter here.
    if usage == Usage::Hmac
        && let Err(KeyError::Length { length, .. }) = Key::new(1, &content)
    {
        return Err(format!("{length} bytes long: a key of hmac must have 32 to 64"));
    }
    Ok(Bytes(content))
}

/// Why a key cannot be had, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// There is no such Secret.
    SecretNotFound,
    /// The Secret has no such key.
    SecretKeyNotFound,
    /// What stands there cannot be used.
    SecretInvalid,
    /// The agent may not read the Secret.
    SecretForbidden,
    /// Nothing is known of the Secret yet.
    SecretNotRead,
}

impl Reason {
    /// As a condition has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretKeyNotFound => "SecretKeyNotFound",
            Self::SecretInvalid => "SecretInvalid",
            Self::SecretForbidden => "SecretForbidden",
            Self::SecretNotRead => "SecretNotRead",
        }
    }
}

/// Why a key cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In one word.
    pub reason: Reason,
    /// For people, with the way out.
    pub message: String,
}
