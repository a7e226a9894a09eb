//! The pure heart of the directory source: what was read in, changes of objects out.
//!
//! No I/O and no clock: `now` is a parameter. It decides what a file that cannot be read, an object that turned
//! invalid, a name that two files use and a file that vanished mean; see [`Catalog`].

mod claims;
mod problems;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bascule_crds::{Object, ObjectRef};

use super::disk::FileName;
use super::problem::Problem;
use claims::{Claim, Claims};

/// How long a file has to be gone, or empty, before its objects go: longer than an editor takes to write a file
/// anew, shorter than a person's patience.
pub const SETTLE: Duration = Duration::from_secs(1);

/// An object of a file, judged.
#[derive(Debug)]
pub enum Form {
    /// Valid. The object is absent when the catalog has the same text already.
    Good {
        /// The object with its defaults, in one canonical line of JSON.
        json: Arc<str>,
        /// The object itself.
        object: Option<Box<Object>>,
    },
    /// Invalid, and why.
    Bad(Vec<Problem>),
}

/// One document of a file that says which object it is.
#[derive(Debug)]
pub struct Document {
    /// Which object.
    pub reference: ObjectRef,
    /// Line of the file where it starts.
    pub line: usize,
    /// Hash of the document as written.
    pub source: u64,
    /// What it was judged to be.
    pub form: Form,
}

/// What was found valid in a file before, as canonical JSON, so that of a file with thousands of objects only those changed are
/// judged, and of those only what changed.
#[derive(Debug, Default)]
pub struct Known {
    /// By the hash of the document.
    pub documents: BTreeMap<u64, Arc<str>>,
    /// By the object that it says.
    pub objects: BTreeMap<ObjectRef, Arc<str>>,
}

/// A file, examined.
#[derive(Debug)]
pub enum Examined {
    /// It could be parsed.
    Parsed {
        /// The documents that say which object they are.
        documents: Vec<Document>,
        /// What is wrong with those that do not. As long as there is one, no object of the file goes: it may be
        /// the one that lost its name.
        nameless: Vec<Problem>,
    },
    /// It could not be read or parsed.
    Failed(Problem),
}

/// What became of an object.
#[derive(Debug)]
pub enum Change {
    /// It is there, in this form.
    Put(Put),
    /// It is gone.
    Delete,
}

/// An object that appeared, changed or moved.
#[derive(Debug)]
pub struct Put {
    /// Canonical JSON.
    pub json: Arc<str>,
    /// The object, where it is at hand; else the JSON has to be decoded.
    pub object: Option<Box<Object>>,
    /// The file that it stands in.
    pub file: FileName,
    /// Its line there.
    pub line: usize,
    /// Only the place changed, not the object.
    pub moved_only: bool,
}

/// What changed since the last call.
#[derive(Debug, Default)]
pub struct Changes {
    /// By object, the newest only.
    pub objects: BTreeMap<ObjectRef, Change>,
    /// Files whose problems may be others now.
    pub files: BTreeSet<FileName>,
}

impl Changes {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.files.is_empty()
    }
}

#[derive(Debug, Default)]
struct File {
    claims: Claims,
    nameless: Vec<Problem>,
    /// It could not be read or parsed; its claims are those last read.
    frozen: Option<Problem>,
    gone: Option<Gone>,
    /// Known from the last good configuration and not read yet.
    remembered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Gone {
    since: Instant,
    /// It is there, but holds nothing.
    empty: bool,
}

/// The form of an object that is in force.
#[derive(Clone, Debug)]
pub struct Active {
    /// The file that it came from.
    pub file: FileName,
    /// Its line there.
    pub line: usize,
    /// Hash of the document as written, where it is known (else 0).
    pub source: u64,
    /// Canonical JSON.
    pub json: Arc<str>,
    /// What the file says now is invalid: this is the last good form.
    pub stale: bool,
}

#[derive(Debug, Default)]
struct Slot {
    /// Those that name it, sorted; nearly always one.
    files: Vec<FileName>,
    active: Option<Active>,
}

impl Slot {
    fn add(&mut self, file: &FileName) {
        if let Err(at) = self.files.binary_search(file) {
            self.files.insert(at, file.clone());
        }
    }
}

/// Which files say what, and which objects are in force. Its rules:
///
/// * a file that cannot be read or parsed freezes the objects last read from it;
/// * an object that turned invalid keeps its last good form, the others of that file go on;
/// * a vanished (or emptied) file removes its objects after [`SETTLE`], unless another file has them by then;
/// * of two manifests with one name the one in force stays, else the first by file name; the other is an error;
/// * a directory that cannot be read freezes everything.
#[derive(Debug)]
pub struct Catalog {
    directory: PathBuf,
    files: BTreeMap<FileName, File>,
    objects: BTreeMap<ObjectRef, Slot>,
    lost: Option<Problem>,
    changes: Changes,
    /// Files whose `gone` is set: so that looking for the next deadline costs nothing when none is.
    going: BTreeSet<FileName>,
    /// How many objects are in force.
    in_force: usize,
    /// Nothing vanished goes before this.
    hold: Option<Instant>,
}

impl Catalog {
    /// An empty one for files of this directory (the path is for messages only).
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            files: BTreeMap::new(),
            objects: BTreeMap::new(),
            lost: None,
            changes: Changes::default(),
            going: BTreeSet::new(),
            in_force: 0,
            hold: None,
        }
    }

    /// The path of a file as messages name it.
    pub fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }

    /// Takes an object of the last good configuration as last read from `file`.
    /// `source` is the hash of the document that says so, 0 when that is not known.
    pub fn remember(
        &mut self,
        file: FileName,
        line: usize,
        reference: ObjectRef,
        source: u64,
        json: Arc<str>,
    ) {
        let entry =
            self.files.entry(file.clone()).or_insert_with(|| File { remembered: true, ..File::default() });
        entry.claims.insert(Claim { reference: reference.clone(), line, source, form: Ok(json) });
        self.objects.entry(reference.clone()).or_default().add(&file);
        self.settle(&reference, &mut BTreeMap::new());
    }

    /// Whether nothing changed since the last [`Catalog::take`].
    pub fn is_unchanged(&self) -> bool {
        self.changes.is_empty()
    }

    /// What this program found valid in this file before.
    pub fn known(&self, file: &str) -> Known {
        let mut known = Known::default();
        let claims = self.files.get(file).into_iter().flat_map(|file| file.claims.iter());
        for claim in claims.filter(|claim| claim.source != 0) {
            if let Ok(json) = &claim.form {
                known.documents.insert(claim.source, json.clone());
                known.objects.insert(claim.reference.clone(), json.clone());
            }
        }
        known
    }

    /// A file was read.
    pub fn read(&mut self, now: Instant, file: &FileName, examined: Examined) {
        self.changes.files.insert(file.clone());
        let entry = self.files.entry(file.clone()).or_default();
        entry.remembered = false;
        let (documents, nameless) = match examined {
            Examined::Failed(problem) => {
                entry.frozen = Some(problem);
                entry.gone = None;
                self.going.remove(file);
                let touched = entry.claims.references();
                self.settle_all(touched, &mut BTreeMap::new());
                return;
            }
            Examined::Parsed { documents, nameless } => (documents, nameless),
        };
        entry.frozen = None;
        entry.nameless = nameless;
        let mut touched: BTreeSet<ObjectRef> = entry.claims.references().into_iter().collect();
        if documents.is_empty() && entry.nameless.is_empty() && !entry.claims.is_empty() {
            // Half of how some programs write a file: emptied first, filled a moment later.
            entry.gone.get_or_insert(Gone { since: now, empty: true });
            self.going.insert(file.clone());
            self.settle_all(touched, &mut BTreeMap::new());
            return;
        }
        entry.gone = None;
        self.going.remove(file);
        let mut fresh = BTreeMap::new();
        let mut claims = Vec::with_capacity(documents.len());
        for Document { reference, line, source, form } in documents {
            let form = match form {
                Form::Good { json, object } => {
                    if let Some(object) = object {
                        fresh.insert(json.clone(), object);
                    }
                    Ok(json)
                }
                Form::Bad(problems) => Err(problems.into()),
            };
            claims.push(Claim { reference, line, source, form });
        }
        let mut claims = Claims::new(claims);
        if !entry.nameless.is_empty() {
            let lost = entry.claims.by_object().filter(|former| claims.of(&former[0].reference).is_empty());
            let lost: Vec<_> =
                lost.map(|former| Claim { form: Err([].into()), ..former[0].clone() }).collect();
            lost.into_iter().for_each(|claim| claims.insert(claim));
        }
        touched.extend(claims.references());
        for reference in &touched {
            if !claims.of(reference).is_empty() {
                self.objects.entry(reference.clone()).or_default().add(file);
            } else if let Some(slot) = self.objects.get_mut(reference) {
                slot.files.retain(|other| other != file);
            }
        }
        entry.claims = claims;
        self.settle_all(touched, &mut fresh);
    }

    /// There is no such file any more.
    pub fn vanished(&mut self, now: Instant, file: &str) {
        let Some((name, entry)) = self.files.get_key_value(file) else { return };
        let (name, claims) = (name.clone(), entry.claims.references());
        self.changes.files.insert(name.clone());
        if claims.is_empty() {
            self.files.remove(&name);
            self.going.remove(&name);
            return;
        }
        if let Some(entry) = self.files.get_mut(&name) {
            let since = entry.gone.map_or(now, |gone| gone.since);
            entry.gone = Some(Gone { since, empty: false });
            self.going.insert(name);
        }
        self.settle_all(claims, &mut BTreeMap::new());
    }

    /// The directory was listed: known files that are not in it have vanished, those in it have not.
    pub fn listed(&mut self, now: Instant, is_there: impl Fn(&str) -> bool) {
        self.lost = None;
        let mut vanished = Vec::new();
        let mut back = Vec::new();
        for (name, file) in &self.files {
            match (is_there(name), file.gone) {
                (false, Some(Gone { empty: false, .. })) | (true, Some(Gone { empty: true, .. }) | None) => {}
                (false, _) => vanished.push(name.clone()),
                (true, Some(_)) => back.push(name.clone()),
            }
        }
        for name in vanished {
            self.vanished(now, &name);
        }
        for name in back {
            self.reappeared(&name);
        }
    }

    /// A file that had vanished is there again; what it says now is not known yet.
    pub fn reappeared(&mut self, name: &str) {
        let Some(name) = self.going.get(name).cloned() else { return };
        let Some(file) = self.files.get_mut(&name) else { return };
        if file.gone.take_if(|gone| !gone.empty).is_none() {
            return;
        }
        self.going.remove(&name);
        let claims = file.claims.references();
        self.changes.files.insert(name);
        self.settle_all(claims, &mut BTreeMap::new());
    }

    /// Nothing that vanished goes before `until`: the directory is another one and may still be filled.
    pub fn hold_until(&mut self, until: Instant) {
        self.hold = Some(until);
    }

    /// Vanished files whose objects [`Catalog::expire`] would remove now.
    pub fn vanished_and_due(&self, now: Instant) -> Vec<FileName> {
        let vanished = |name: &&FileName| {
            self.files.get(*name).and_then(|file| file.gone).is_some_and(|gone| !gone.empty)
        };
        self.due(now).filter(vanished).cloned().collect()
    }

    fn due(&self, now: Instant) -> impl Iterator<Item = &FileName> {
        let held = self.lost.is_some() || self.hold.is_some_and(|until| now < until);
        let due = move |file: &File| file.gone.is_some_and(|gone| gone.since + SETTLE <= now);
        self.going.iter().filter(move |name| !held && self.files.get(*name).is_some_and(due))
    }

    /// The directory cannot be read: everything stays as it is, also what was about to go.
    pub fn directory_lost(&mut self, problem: Problem) {
        let files = &mut self.files;
        self.going.retain(|name| {
            files.get_mut(name).is_some_and(|file| {
                file.gone = file.gone.filter(|gone| gone.empty);
                file.gone.is_some()
            })
        });
        self.lost = Some(problem);
    }

    /// Removes what has been gone for [`SETTLE`].
    pub fn expire(&mut self, now: Instant) {
        let names: Vec<_> = self.due(now).cloned().collect();
        for name in names {
            self.going.remove(&name);
            let Some(mut file) = self.files.remove(&name) else { continue };
            let claims = std::mem::take(&mut file.claims).references();
            if file.gone.is_some_and(|gone| gone.empty) {
                self.files.insert(name.clone(), File::default());
            }
            for reference in &claims {
                if let Some(slot) = self.objects.get_mut(reference) {
                    slot.files.retain(|other| *other != name);
                }
            }
            self.settle_all(claims, &mut BTreeMap::new());
            self.changes.files.insert(name);
        }
    }

    /// When [`Catalog::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.lost.is_some() {
            return None;
        }
        let going = self.going.iter().filter_map(|name| self.files.get(name)?.gone);
        let first = going.map(|gone| gone.since + SETTLE).min()?;
        Some(self.hold.map_or(first, |until| first.max(until)))
    }

    /// What changed since the last call.
    pub fn take(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The objects in force.
    pub fn active(&self) -> impl Iterator<Item = (&ObjectRef, &Active)> {
        self.objects.iter().filter_map(|(reference, slot)| Some((reference, slot.active.as_ref()?)))
    }

    /// The form of an object that is in force.
    pub fn active_of(&self, reference: &ObjectRef) -> Option<&Active> {
        self.objects.get(reference)?.active.as_ref()
    }

    /// Objects that some file names and that have no form in force: never valid so far.
    pub fn never_good(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.iter().filter(|(_, slot)| slot.active.is_none()).map(|(reference, _)| reference)
    }

    /// How many objects are in force.
    pub fn active_count(&self) -> usize {
        self.in_force
    }

    /// Whether a file could not be read or parsed when last tried.
    pub fn is_frozen(&self, file: &str) -> bool {
        self.files.get(file).is_some_and(|file| file.frozen.is_some())
    }

    /// How many files are known.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Why the directory as a whole is frozen, if it is.
    pub fn lost(&self) -> Option<&Problem> {
        self.lost.as_ref()
    }

    fn settle_all(
        &mut self,
        references: impl IntoIterator<Item = ObjectRef>,
        fresh: &mut BTreeMap<Arc<str>, Box<Object>>,
    ) {
        for reference in references {
            self.settle(&reference, fresh);
        }
    }

    /// Decides which form of an object is in force, and notes the change.
    fn settle(&mut self, reference: &ObjectRef, fresh: &mut BTreeMap<Arc<str>, Box<Object>>) {
        let Some(slot) = self.objects.get(reference) else { return };
        let chosen = self.choose(reference, slot);
        let rivals = slot.files.len() > 1;
        let before = slot.active.clone();
        let files = if rivals { slot.files.clone() } else { Vec::new() };
        match (&before, &chosen) {
            (None, None) => {}
            (Some(_), None) => {
                self.changes.objects.insert(reference.clone(), Change::Delete);
            }
            (before, Some(active)) => {
                let same = before.as_ref().is_some_and(|before| before.json == active.json);
                let place = before
                    .as_ref()
                    .is_some_and(|before| before.file == active.file && before.source == active.source);
                if !(same && place) {
                    let object = fresh.remove(&active.json);
                    // A change that nobody took yet may have been more than a move.
                    let pending = self.changes.objects.get(reference);
                    let moved_only =
                        same && !matches!(pending, Some(Change::Put(Put { moved_only: false, .. })));
                    let put = Put {
                        json: active.json.clone(),
                        object,
                        file: active.file.clone(),
                        line: active.line,
                        moved_only,
                    };
                    self.changes.objects.insert(reference.clone(), Change::Put(put));
                }
            }
        }
        // The verdict on the others' duplicates may have changed with it.
        self.changes.files.extend(files);
        if let Some(slot) = self.objects.get_mut(reference) {
            self.in_force += usize::from(chosen.is_some());
            self.in_force -= usize::from(before.is_some());
            slot.active = chosen;
            if slot.active.is_none() && slot.files.is_empty() {
                self.objects.remove(reference);
            }
        }
    }

    fn choose(&self, reference: &ObjectRef, slot: &Slot) -> Option<Active> {
        let claims_of = |name: &FileName| Some(self.files.get(name)?.claims.of(reference));
        let is_gone = |name: &FileName| self.files.get(name).is_none_or(|file| file.gone.is_some());
        let good = |name: &FileName, prefer: Option<&Arc<str>>| -> Option<Active> {
            let claims = claims_of(name)?;
            let good = || claims.iter().filter_map(|claim| Some((claim, claim.form.as_ref().ok()?)));
            let (claim, json) = good().find(|(_, json)| Some(*json) == prefer).or_else(|| good().next())?;
            let (line, source) = (claim.line, claim.source);
            Some(Active { file: name.clone(), line, source, json: json.clone(), stale: false })
        };
        let stale = |name: &FileName, active: &Active| -> Option<Active> {
            let line = claims_of(name)?.first()?.line;
            Some(Active { file: name.clone(), line, stale: true, ..active.clone() })
        };
        let present = || slot.files.iter().filter(|name| !is_gone(name));
        let Some(active) = &slot.active else {
            return present().find_map(|name| good(name, None));
        };
        let holds = slot.files.contains(&active.file);
        if holds && !is_gone(&active.file) {
            return good(&active.file, Some(&active.json)).or_else(|| stale(&active.file, active));
        }
        present()
            .find_map(|name| good(name, Some(&active.json)))
            .or_else(|| holds.then(|| active.clone()))
            .or_else(|| present().find_map(|name| stale(name, active)))
            .or_else(|| slot.files.iter().find_map(|name| good(name, Some(&active.json))))
    }
}

#[cfg(test)]
mod tests;
