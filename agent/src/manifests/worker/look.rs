//! Looking: which files there are, which changed, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{BATCH, FILLING, PARALLEL, RESCAN, RESCAN_UNWATCHED, Worker};
use crate::manifests::catalog::{Examined, SETTLE};
use crate::manifests::disk::{self, Content, FileName, Signature};
use crate::manifests::examine::examine;
use crate::manifests::problem::{Effect, Problem};
use crate::watch::Watch;

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

    /// Reads files and has the catalog know; publishes, and answers who asks, in between when they are many. Ends early
    /// when the worker is to stop.
    pub(super) fn read(&mut self, seen: Instant, names: &[FileName]) {
        for batch in names.chunks(BATCH) {
            if self.inbox.is_stopped() {
                return;
            }
            self.read_batch(seen, batch);
            if names.len() > BATCH {
                if self.started {
                    self.publish(seen);
                }
                self.serve_requests();
            }
        }
    }

    fn read_batch(&mut self, seen: Instant, names: &[FileName]) {
        // As a look does: a new name beyond the bound is not read, whoever told of it.
        let mut room = disk::MAX_FILES.saturating_sub(self.signatures.len());
        let names: Vec<_> = names
            .iter()
            .filter(|name| self.signatures.contains_key(*name) || take_one(&mut room))
            .cloned()
            .collect();
        let results = self.read_all(&names);
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
        // Few are read here, without asking: the answer is in several files of /proc and of the control group.
        if names.len() < PARALLEL {
            return names.iter().map(read).collect();
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        if cores == 1 {
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
        match Watch::open(&self.options.directory, disk::is_manifest) {
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

    /// The path leads to another directory, or to none that was seen before, and nothing is in it: a mount that went or
    /// did not come looks like this.
    fn lose_as_empty(&mut self) {
        self.rescan_at = Instant::now() + RESCAN;
        if self.engine.catalog.lost().is_some_and(|lost| lost.reason == "Empty") {
            return;
        }
        let problem = self.whole_directory(
            "Empty",
            "holds no manifests, while the last good configuration has objects, which stay in force; put a manifest \
             there, or remove the last good configuration and start again, if nothing is wanted"
                .to_owned(),
        );
        tracing::error!("{problem}");
        self.signatures.clear();
        self.suspects.clear();
        self.engine.catalog.directory_lost(problem);
    }

    /// A name told of while the directory may still be filled: if it is new, more may come.
    pub(super) fn still_filled(&mut self, now: Instant, name: &str) {
        let Some(since) = self.filling else { return };
        if !self.signatures.contains_key(name) && now < since + FILLING {
            self.engine.catalog.hold_until(now + self.patience());
        }
    }

    /// How long a directory has to be without a new name to count as filled.
    fn patience(&self) -> Duration {
        if self.watch.is_some() { SETTLE } else { SETTLE + RESCAN_UNWATCHED }
    }

    /// What is in the directory, unless that cannot be told or not be believed.
    fn list(&mut self, now: Instant) -> Option<disk::Listing> {
        let id = disk::directory_id(&self.options.directory);
        let listing = id.and_then(|id| Ok((id, disk::list(&self.options.directory)?)));
        let (id, listing) = match listing {
            Ok(listing) => listing,
            Err(error) => {
                self.lose(&error);
                return None;
            }
        };
        if disk::directory_id(&self.options.directory).ok() != Some(id) {
            // Replaced while it was listed: which of the two was it?
            self.listed = None;
            self.check_at = now;
            self.rescan_at = now + SETTLE;
            return None;
        }
        if self.listed != Some(id) {
            if listing.files.is_empty() && self.engine.catalog.active_count() > 0 {
                self.lose_as_empty();
                return None;
            }
            self.listed = Some(id);
            self.filling = Some(now);
            self.engine.catalog.hold_until(now + self.patience());
        }
        Some(listing)
    }

    /// Looks at all files and reads those that changed: at once, or (for what no event told) when they are settled.
    pub(super) fn look(&mut self, now: Instant, at_once: bool) {
        let begin = Instant::now();
        let Some(listing) = self.list(now) else { return };
        if self.engine.catalog.lost().is_some() {
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
        for name in changed.keys() {
            self.still_filled(now, name);
        }
        if at_once {
            // What was good before is in force while thousands of files are read.
            if !self.started && self.engine.catalog.active_count() > 0 {
                self.publish(now);
            }
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
        notes.truncate(100);
        for note in notes.iter().filter(|note| !self.name_notes.contains(note)) {
            tracing::error!("{note}");
        }
        self.name_notes = notes;
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
        if !settled.is_empty() && self.engine.catalog.lost().is_some() {
            // A first manifest ends what an empty directory means.
            self.look(now, true);
        }
        self.read(now, &settled);
    }

    /// Removes the objects of files that are gone, having made sure that they are.
    pub(super) fn expire(&mut self, now: Instant) {
        for name in self.engine.catalog.vanished_and_due(now) {
            let there = std::fs::symlink_metadata(self.options.directory.join(&*name));
            if there.is_ok_and(|metadata| !metadata.is_dir()) {
                self.engine.catalog.reappeared(&name);
                let signature = disk::signature(&self.options.directory, &name);
                self.suspects.entry(name).or_insert((signature, now));
            }
        }
        self.engine.catalog.expire(now);
    }
}

fn take_one(room: &mut usize) -> bool {
    let is_left = *room > 0;
    *room = room.saturating_sub(1);
    is_left
}
