//! Keys, several at once while they are rotated.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Most keys at once.
pub const MAX_KEYS: usize = 8;

/// A key and its id. It never shows its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: u8,
    bytes: Vec<u8>,
}

impl Key {
    /// Key `id` (1 to 255) of 32 to 64 bytes.
    pub fn new(id: u8, bytes: &[u8]) -> Result<Self, KeyError> {
        if id == 0 {
            return Err(KeyError::Id);
        }
        if !(32..=64).contains(&bytes.len()) {
            return Err(KeyError::Length { id, length: bytes.len() });
        }
        Ok(Key { id, bytes: bytes.to_vec() })
    }

    /// Its id on the wire.
    pub const fn id(&self) -> u8 {
        self.id
    }

    pub(super) fn mac(&self) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        Hmac::new_from_slice(&self.bytes).unwrap_or_else(|_| unreachable!("HMAC has no bad key length"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys that are accepted, and which of them signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    keys: Vec<Key>,
    active: u8,
}

impl Keys {
    /// 1 to [`MAX_KEYS`] keys with different ids; `active` is the id of the one that signs.
    pub fn new(keys: Vec<Key>, active: u8) -> Result<Self, KeyError> {
        if keys.len() > MAX_KEYS {
            return Err(KeyError::TooMany { count: keys.len() });
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|other| other.id == key.id) {
                return Err(KeyError::Twice { id: key.id });
            }
        }
        if !keys.iter().any(|key| key.id == active) {
            return Err(KeyError::Active { id: active });
        }
        Ok(Keys { keys, active })
    }

    /// The key that signs.
    pub fn active(&self) -> &Key {
        self.get(self.active).unwrap_or_else(|| unreachable!("checked when it was made"))
    }

    pub(super) fn get(&self, id: u8) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }
}

/// Why keys are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Id 0.
    #[error("a key's id is 1 to 255")]
    Id,
    /// Too short or too long.
    #[error("key {id} has {length} bytes: it must have 32 to 64")]
    Length {
        /// Its id.
        id: u8,
        /// Its length.
        length: usize,
    },
    /// Two of one id.
    #[error("two keys have the id {id}")]
    Twice {
        /// The id.
        id: u8,
    },
    /// More than [`MAX_KEYS`].
    #[error("{count} keys: at most 8 are accepted at once")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// The key that should sign is not among them.
    #[error("no key has the id {id}, which should sign")]
    Active {
        /// The id.
        id: u8,
    },
}
