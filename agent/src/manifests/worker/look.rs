//! Looking: which files there are, which changed, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{BATCH, PARALLEL, RESCAN, RESCAN_UNWATCHED, Worker};
use crate::manifests::catalog::{Examined, SETTLE};
use crate::manifests::disk::{self, Content, FileName, Signature};
use crate::manifests::examine::examine;
use crate::manifests::problem::{Effect, Problem};
use crate::manifests::watch::Watch;

impl Worker {
    /// A name with content from its first moment on: a symbolic link, or a second name of a file.
    pub(super) fn is_link(&self, name: &str) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::symlink_metadata(self.options.directory.join(name))
            .is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
    }

    pub(super) fn failed_before(&self, name: &str) -> bool {
        self.signatures.get(name).is_none_or(Option::is_none) || self.engine.catalog.is_frozen(name)
    }

    /// Reads files and has the catalog know; publishes in between when they are many.
    pub(super) fn read(&mut self, seen: Instant, names: &[FileName]) {
        for batch in names.chunks(BATCH) {
            self.read_batch(seen, batch);
            if names.len() > BATCH && self.started {
                self.publish(seen);
            }
        }
    }

    fn read_batch(&mut self, seen: Instant, names: &[FileName]) {
        let results = self.read_all(names);
        for (name, result) in names.iter().zip(results) {
            self.suspects.remove(name);
            match result {
                None => {
                    self.signatures.remove(name);
                    self.engine.catalog.vanished(seen, name);
                }
                Some((examined, signature)) => {
                    self.signatures.insert(name.clone(), signature);
                    self.engine.catalog.read(seen, name, examined);
                }
            }
        }
    }

    /// Reads and examines; none where the file vanished. On all cores when there are many.
    fn read_all(&self, names: &[FileName]) -> Vec<Option<(Examined, Option<Signature>)>> {
        let (catalog, directory) = (&self.engine.catalog, &self.options.directory);
        let read = |name: &FileName| {
            let path = catalog.path(name);
            match disk::read(directory, name) {
                Content::Vanished => None,
                Content::Bytes(bytes, signature) => {
                    Some((examine(&path, &bytes, &catalog.known(name)), Some(signature)))
                }
                Content::Failed(message, signature) => {
                    let reason = "Unreadable".to_owned();
                    let problem = Problem { file: path, reason, message, ..Problem::default() };
                    Some((Examined::Failed(problem), signature))
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        if names.len() < PARALLEL || cores == 1 {
            return names.iter().map(read).collect();
        }
        let share = names.len().div_ceil(cores);
        std::thread::scope(|scope| {
            let read = &read;
            let threads: Vec<_> = names
                .chunks(share)
                .map(|chunk| scope.spawn(move || chunk.iter().map(read).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("examining does not panic")).collect()
        })
    }

    /// Whether the path still leads to the directory that is watched.
    pub(super) fn check_directory(&mut self, now: Instant) {
        let id = disk::directory_id(&self.options.directory);
        match (&self.watch, id) {
            (Some((_, watched)), Ok(id)) if *watched == id => {}
            (None, Ok(_)) if self.unwatched.is_some() && self.engine.catalog.lost().is_none() => {}
            (Some(_), Ok(_)) => {
                tracing::info!("the manifests directory was replaced");
                self.open_directory(now);
            }
            (_, _) => self.open_directory(now),
        }
    }

    /// Watches the directory that the path leads to now and looks at all of it.
    pub(super) fn open_directory(&mut self, now: Instant) {
        self.watch = None;
        let id = match disk::directory_id(&self.options.directory) {
            Ok(id) => id,
            Err(error) => {
                self.lose(&error);
                return;
            }
        };
        // The watch first: what changes during the look is told.
        match Watch::open(&self.options.directory) {
            Ok(watch) => {
                self.watch = Some((watch, id));
                self.unwatched = None;
            }
            Err(error) => {
                let why = format!(
                    "the directory cannot be watched ({error}; see fs.inotify.max_user_instances and \
                     max_user_watches): changes are found by looking every {} s",
                    RESCAN_UNWATCHED.as_secs()
                );
                if self.unwatched.as_ref() != Some(&why) {
                    tracing::warn!("{why}");
                    self.unwatched = Some(why);
                }
            }
        }
        self.look(now, true);
    }

    fn lose(&mut self, error: &std::io::Error) {
        let problem =
            self.whole_directory("Unreadable", format!("the directory of manifests cannot be read: {error}"));
        if self.engine.catalog.lost() != Some(&problem) {
            tracing::error!("{problem}");
        }
        self.engine.catalog.directory_lost(problem);
        self.rescan_at = Instant::now() + RESCAN;
    }

    pub(super) fn whole_directory(&self, reason: &str, message: String) -> Problem {
        let effect =
            if self.engine.catalog.active_count() > 0 { Effect::LastGoodStays } else { Effect::Ignored };
        let file = self.options.directory.display().to_string();
        Problem { file, reason: reason.into(), message, effect, ..Problem::default() }
    }

    /// Looks at all files and reads those that changed: at once, or (for what no event told) when they are settled.
    pub(super) fn look(&mut self, now: Instant, at_once: bool) {
        let begin = Instant::now();
        let listing = match disk::list(&self.options.directory) {
            Ok(listing) => listing,
            Err(error) => {
                self.lose(&error);
                return;
            }
        };
        if self.engine.catalog.lost().is_some() {
            let still_empty = listing.files.is_empty()
                && self.engine.catalog.lost().is_some_and(|lost| lost.reason == "Empty");
            if still_empty {
                self.rescan_at = now + RESCAN;
                return;
            }
            tracing::info!("the manifests directory can be read again");
        }
        self.engine.catalog.listed(now, |name| listing.files.contains_key(name));
        self.tell_names(&listing);
        self.signatures.retain(|name, _| listing.files.contains_key(name));
        let changed: BTreeMap<FileName, Option<Signature>> = listing
            .files
            .into_iter()
            .filter(|(name, signature)| self.signatures.get(name) != Some(signature))
            .collect();
        if at_once {
            let names: Vec<_> = changed.into_keys().collect();
            self.read(now, &names);
        } else {
            for (name, signature) in changed {
                let suspect = self.suspects.entry(name).or_insert((signature, now));
                if suspect.0 != signature {
                    *suspect = (signature, now);
                }
            }
        }
        let pause = if self.watch.is_some() { RESCAN } else { RESCAN_UNWATCHED };
        self.rescan_at = now + pause.max(begin.elapsed() * 500);
    }

    /// Errors of names in the directory, which no file's content can have.
    fn tell_names(&mut self, listing: &disk::Listing) {
        let mut notes = Vec::new();
        for name in &listing.unreadable_names {
            notes.push(format!("{name}: the file's name is not valid UTF-8: it is not read"));
        }
        if listing.beyond > 0 {
            notes.push(format!(
                "{}: {} manifests more than the {} that one directory may hold: those last by name are not read",
                self.options.directory.display(),
                listing.beyond,
                disk::MAX_FILES
            ));
        }
        for note in notes {
            if !self.notes.contains(&note) && self.notes.len() < 100 {
                tracing::error!("{note}");
                self.notes.push(note);
            }
        }
    }

    pub(super) fn read_suspects(&mut self, now: Instant) {
        let due: Vec<_> = self
            .suspects
            .iter()
            .filter(|(_, (_, since))| *since + SETTLE <= now)
            .map(|(name, _)| name.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        let mut settled = BTreeSet::new();
        for name in due {
            let Some((before, _)) = self.suspects.remove(&name) else { continue };
            let signature = disk::signature(&self.options.directory, &name);
            if signature == before {
                settled.insert(name);
            } else {
                self.suspects.insert(name, (signature, now));
            }
        }
        let settled: Vec<_> = settled.into_iter().collect();
        self.read(now, &settled);
    }
}
