//! What an answer must be, and whether it is.

use std::sync::Arc;

use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::Take;
use super::pattern::{Pattern, Patterns};
use crate::answer::http::{BODY_MAX, WINDOW};
use crate::course::{Course, Phase};
use crate::{Digest, Http, Invalid, StatusCodes, hex, words};

/// Digits of a digest that a message shows.
const DIGITS: usize = 12;
/// Characters of a regular expression that a message shows.
const PATTERN_SHOWN: usize = 40;

/// What an answer must be.
#[derive(Debug)]
pub(super) struct Wanted {
    status: StatusCodes,
    digest: Option<Digest>,
    matches: Option<Pattern>,
    not_matches: Option<Pattern>,
}

impl Wanted {
    pub(super) fn new(http: &Http, patterns: &Patterns) -> Result<Self, Invalid> {
        let pattern =
            |field, text: &Option<String>| text.as_deref().map(|text| patterns.get(field, text)).transpose();
        Ok(Self {
            status: http.status.clone(),
            digest: http.digest.clone(),
            matches: pattern("http.body.matches", &http.matches)?,
            not_matches: pattern("http.body.notMatches", &http.not_matches)?,
        })
    }
}

/// Digest of a body so far.
#[derive(Debug)]
enum Hash {
    Md5(Md5),
    Sha256(Sha256),
}

/// Judges one answer.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    wanted: &'a Wanted,
    hash: Option<Hash>,
    /// The begin of the body, where a regular expression looks at it.
    window: Vec<u8>,
    /// Bytes of the body so far.
    length: u64,
}

impl<'a> Judge<'a> {
    pub(super) fn new(wanted: &'a Wanted) -> Self {
        let hash = wanted.digest.as_ref().map(|digest| match digest {
            Digest::Md5(_) => Hash::Md5(Md5::new()),
            Digest::Sha256(_) => Hash::Sha256(Sha256::new()),
        });
        Self { wanted, hash, window: Vec::new(), length: 0 }
    }
}

impl Take for Judge<'_> {
    /// The status code of an answer that passes.
    type Made = u16;

    fn body(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        match &mut self.hash {
            Some(Hash::Md5(hash)) => hash.update(bytes),
            Some(Hash::Sha256(hash)) => hash.update(bytes),
            None => (),
        }
        if self.wanted.matches.is_some() || self.wanted.not_matches.is_some() {
            let room = WINDOW - self.window.len();
            self.window.extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
    }

    /// A digest needs all of the body, up to a bound, all else the begin.
    fn has_enough(&self) -> bool {
        if self.hash.is_some() { self.length > BODY_MAX } else { self.length >= WINDOW as u64 }
    }

    /// A wrong status code needs no body.
    fn status(&self, status: Option<u16>) -> Result<(), String> {
        match status {
            Some(status) if !self.wanted.status.contains(status) => {
                Err(format!("{status}, wanted {}", self.wanted.status))
            }
            _ => Ok(()),
        }
    }

    async fn made(self, status: Option<u16>, course: &Course) -> Result<u16, String> {
        self.status(status)?;
        let status = status.ok_or("the server sent no answer")?;
        if let (Some(hash), Some(wanted)) = (self.hash, &self.wanted.digest) {
            if self.length > BODY_MAX {
                return Err("the body is longer than 16 MiB, no digest".into());
            }
            digest(hash, wanted)?;
        }
        course.enter(Phase::Match);
        let window = Arc::from(self.window);
        if let Some(pattern) = &self.wanted.matches
            && !pattern.is_match(&window, course).await?
        {
            return Err(format!("the body does not match {}", words::short(pattern.text(), PATTERN_SHOWN)));
        }
        if let Some(pattern) = &self.wanted.not_matches
            && pattern.is_match(&window, course).await?
        {
            return Err(format!("the body matches {}", words::short(pattern.text(), PATTERN_SHOWN)));
        }
        Ok(status)
    }
}

fn digest(hash: Hash, wanted: &Digest) -> Result<(), String> {
    let (name, found) = match hash {
        Hash::Md5(hash) => ("md5", hash.finalize().to_vec()),
        Hash::Sha256(hash) => ("sha256", hash.finalize().to_vec()),
    };
    let wanted = match wanted {
        Digest::Md5(wanted) => &wanted[..],
        Digest::Sha256(wanted) => &wanted[..],
    };
    if found == wanted {
        return Ok(());
    }
    let begin = |bytes: &[u8]| hex::encode(bytes).chars().take(DIGITS).collect::<String>();
    Err(format!("the body has {name} {}…, wanted {}…", begin(&found), begin(wanted)))
}
