//! What is wrong, told from what the catalog knows.

use bascule_crds::ObjectRef;

use super::claims::Claim;
use super::{Active, Catalog, File};
use crate::manifests::problem::{Effect, Problem};

impl Catalog {
    /// Objects in force that are not what their file says at the moment: it cannot be read, or what it says is invalid,
    /// or it was not read since the start.
    pub fn last_good(&self) -> impl Iterator<Item = &ObjectRef> {
        let unread = |file: &File| file.remembered || file.frozen.is_some();
        let is_last_good = move |active: &Active| {
            active.stale || self.lost.is_some() || self.files.get(&active.file).is_none_or(unread)
        };
        self.active().filter(move |(_, active)| is_last_good(active)).map(|(reference, _)| reference)
    }

    /// What is wrong with a file and the objects in it.
    pub fn problems_of(&self, name: &str) -> Vec<Problem> {
        // What is about to go is wrong no more.
        let Some(file) = self.files.get(name).filter(|file| file.gone.is_none()) else { return Vec::new() };
        let mut problems = Vec::new();
        if let Some(frozen) = &file.frozen {
            let effect = if file.claims.is_empty() { Effect::Ignored } else { Effect::LastGoodStays };
            problems.push(Problem { effect, ..frozen.clone() });
            return problems;
        }
        problems.extend(file.nameless.iter().cloned());
        for claims in file.claims.by_object() {
            let reference = &claims[0].reference;
            let effect =
                if self.active_of(reference).is_some() { Effect::LastGoodStays } else { Effect::Ignored };
            for claim in claims {
                if let Some(problem) = self.duplicate(name, claim, claims.len()) {
                    problems.push(problem);
                } else if let Err(own) = &claim.form {
                    problems.extend(own.iter().map(|problem| Problem { effect, ..problem.clone() }));
                }
            }
        }
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    /// All that is wrong: the directory, then file by file.
    pub fn problems(&self) -> Vec<Problem> {
        let files = self.files.keys().flat_map(|name| self.problems_of(name));
        self.lost.iter().cloned().chain(files).collect()
    }

    /// The error of a document whose name another document has, if it is the one that does not count. `in_file` is how
    /// many documents of its own file have the name.
    fn duplicate(&self, name: &str, claim: &Claim, in_file: usize) -> Option<Problem> {
        let slot = self.objects.get(&claim.reference)?;
        if in_file == 1 && slot.files.len() == 1 {
            return None;
        }
        let (file, line) = if let Some(active) = &slot.active {
            (active.file.clone(), active.line)
        } else {
            let first = slot.files.first()?;
            (first.clone(), self.files.get(first)?.claims.of(&claim.reference).first()?.line)
        };
        if *file == *name && line == claim.line {
            return None;
        }
        // A file that is about to go is no rival.
        if *file != *name && self.files.get(&file).is_some_and(|file| file.gone.is_some()) {
            return None;
        }
        Some(Problem {
            file: self.path(name),
            line: Some(claim.line),
            object: Some(claim.reference.to_string()),
            field: Some("metadata.name".into()),
            reason: "Duplicate".into(),
            message: format!(
                "another manifest has this name already, {}:{line}, and that one counts: rename or remove one",
                self.path(&file)
            ),
            effect: Effect::Ignored,
        })
    }
}
