//! What one file says about its objects, compactly: most files have one object, and there are many files.

use std::sync::Arc;

use bascule_crds::ObjectRef;

use crate::manifests::Problem;

/// What a file says about an object.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) reference: ObjectRef,
    pub(super) line: usize,
    /// Hash of the document as written; 0 when it is not known.
    pub(super) source: u64,
    /// Canonical JSON, or why it is invalid.
    pub(super) form: Result<Arc<str>, Arc<[Problem]>>,
}

/// The claims of a file: usually one an object, more when the file names it twice.
#[derive(Debug, Default)]
pub(super) struct Claims(Vec<Claim>);

impl Claims {
    /// Of claims in the order of the file.
    pub(super) fn new(mut claims: Vec<Claim>) -> Self {
        // Stable: claims of one object stay in the order of the file.
        claims.sort_by(|a, b| a.reference.cmp(&b.reference));
        claims.shrink_to_fit();
        Self(claims)
    }

    /// Adds one, behind those of the same object.
    pub(super) fn insert(&mut self, claim: Claim) {
        let at = self.0.partition_point(|other| other.reference <= claim.reference);
        self.0.insert(at, claim);
    }

    /// The claims of an object, in the order of the file; empty when there is none.
    pub(super) fn of(&self, reference: &ObjectRef) -> &[Claim] {
        let from = self.0.partition_point(|claim| claim.reference < *reference);
        let length = self.0[from..].partition_point(|claim| claim.reference == *reference);
        &self.0[from..from + length]
    }

    /// Object by object.
    pub(super) fn by_object(&self) -> impl Iterator<Item = &[Claim]> {
        self.0.chunk_by(|a, b| a.reference == b.reference)
    }

    /// The objects, each once.
    pub(super) fn references(&self) -> Vec<ObjectRef> {
        self.by_object().map(|claims| claims[0].reference.clone()).collect()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Claim> {
        self.0.iter()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
