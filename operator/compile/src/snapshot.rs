//! Everything at once.

use std::collections::{BTreeMap, BTreeSet};

use bascule_crds::Object;

use crate::compiler::{Change, Compiler, Trust};
use crate::types::{Compiled, NodeConfig};

/// All that decides what each director must do.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Whose word counts how much.
    pub trust: Trust,
    /// Directors that exist whether or not a manifest says so.
    pub directors: BTreeSet<String>,
    /// By director, what has been programmed until now. It stays while an object cannot have what it wants now, and
    /// ([`Trust::Files`]) where two want the same.
    pub programmed: BTreeMap<String, NodeConfig>,
    /// The objects, one of a kind, namespace and name; of several, the last counts.
    pub objects: Vec<Object>,
}

impl Snapshot {
    /// Nothing yet.
    pub fn new(trust: Trust) -> Snapshot {
        Snapshot { trust, directors: BTreeSet::new(), programmed: BTreeMap::new(), objects: Vec::new() }
    }
}

/// Says what each director must do and what is to be said of each object. An object with a mistake is refused by its conditions and spares
/// all others.
pub fn compile(snapshot: &Snapshot) -> Compiled {
    let mut compiler = Compiler::new(snapshot.trust);
    for director in &snapshot.directors {
        compiler.declare_director(director);
    }
    for (director, node) in &snapshot.programmed {
        compiler.remember(director, node);
    }
    compiler.apply(snapshot.objects.iter().cloned().map(Change::Put));
    compiler.into_compiled()
}
