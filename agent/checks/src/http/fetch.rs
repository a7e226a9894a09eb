//! The digests of a page, for `bascule-agent digest`.

use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::Take;
use crate::answer::http::BODY_MAX;
use crate::course::Course;
use crate::hex;

/// A page that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its status code.
    pub status: u16,
    /// Bytes of its body.
    pub length: u64,
    /// MD5 of its body, as keepalived's genhash prints: 32 hexadecimal digits.
    pub md5: String,
    /// SHA-256 of its body: 64 hexadecimal digits.
    pub sha256: String,
}

/// A body so far.
#[derive(Debug, Default)]
pub(super) struct Fingerprint {
    md5: Md5,
    sha256: Sha256,
    length: u64,
}

impl Take for Fingerprint {
    type Made = Page;

    fn body(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.md5.update(bytes);
        self.sha256.update(bytes);
    }

    fn has_enough(&self) -> bool {
        self.length > BODY_MAX
    }

    fn status(&self, _: Option<u16>) -> Result<(), String> {
        Ok(())
    }

    async fn made(self, status: Option<u16>, _: &Course) -> Result<Page, String> {
        let status = status.ok_or("the server sent no answer")?;
        if self.has_enough() {
            return Err("the body is longer than 16 MiB".into());
        }
        Ok(Page {
            status,
            length: self.length,
            md5: hex::encode(&self.md5.finalize()),
            sha256: hex::encode(&self.sha256.finalize()),
        })
    }
}
