//! The worker, on a real directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::web;
use crate::manifests::catalog::SETTLE;
use crate::manifests::{Manifests, Options, View};
use crate::reconcile::{ConfigChange, ConfigUpdate};
use crate::state::{Keeper, Saved, load};

/// How long anything may take that has to happen; longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(300);

struct Live {
    directory: tempfile::TempDir,
    manifests: Manifests,
    updates: mpsc::UnboundedReceiver<ConfigUpdate>,
    runtime: tokio::runtime::Runtime,
    bindings: BTreeMap<String, u32>,
}

impl Live {
    fn start(
        directory: tempfile::TempDir,
        keeper: Option<Arc<Keeper>>,
        remembered: BTreeMap<String, Saved>,
    ) -> Self {
        // Without a bound: a worker that waits for a test that has failed would never end.
        let (sender, updates) = mpsc::unbounded_channel();
        let options =
            Options { directory: directory.path().join("m"), director: "dir1".into(), remembered, keeper };
        let manifests = Manifests::spawn(options, move |update| drop(sender.send(update))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { directory, manifests, updates, runtime, bindings: BTreeMap::new() }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("m")).unwrap();
        for (name, text) in files {
            fs::write(directory.path().join("m").join(name), text).unwrap();
        }
        let mut live = Self::start(directory, None, BTreeMap::new());
        live.update();
        live
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("m").join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let beside = self.path(".beside");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    /// The next update, followed.
    fn update(&mut self) -> ConfigUpdate {
        let next = async { tokio::time::timeout(PATIENCE, self.updates.recv()).await };
        let update = self.runtime.block_on(next).expect("an update in time").expect("the worker lives");
        match &update.change {
            ConfigChange::All(config) => {
                self.bindings = config
                    .bindings
                    .iter()
                    .map(|(key, binding)| (key.to_string(), binding.real_servers[0].weight))
                    .collect();
            }
            ConfigChange::Some { bindings, .. } => {
                for (key, binding) in bindings {
                    match binding {
                        Some(binding) => {
                            self.bindings.insert(key.to_string(), binding.real_servers[0].weight)
                        }
                        None => self.bindings.remove(&key.to_string()),
                    };
                }
            }
        }
        update
    }

    /// Follows updates until the bindings are these: `tp/a=1`.
    fn until(&mut self, expected: &[(&str, u32)]) {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(key, weight)| ((*key).to_owned(), *weight)).collect();
        let limit = Instant::now() + PATIENCE;
        while self.bindings != expected {
            assert!(Instant::now() < limit, "{:?}", self.bindings);
            self.update();
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.updates.try_recv().is_err()
    }

    fn view(&self) -> Arc<View> {
        self.runtime.block_on(self.manifests.view(PATIENCE)).expect("an answer")
    }
}

#[test]
fn a_rename_is_followed_at_once_and_with_the_time_it_was_seen() {
    let mut live = Live::with(&[("a.yaml", &web("a", "10.0.0.1", 1))]);
    assert_eq!(live.bindings, BTreeMap::from([("tp/a".into(), 1)]));
    let mut fastest = Duration::MAX;
    for weight in 2..30 {
        let before = Instant::now();
        live.put("a.yaml", &web("a", "10.0.0.1", weight));
        let update = live.update();
        assert!(update.seen >= before);
        assert_eq!(update.serial, u64::from(weight));
        fastest = fastest.min(before.elapsed());
    }
    // The settle time of a vanished file, or any pause, would show.
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
}

#[test]
fn checks_come_with_the_configuration_and_alone() {
    let check = |fall: u32| {
        format!(
            "apiVersion: bascule.dev/v1alpha1\nkind: HealthCheck\nmetadata: {{name: up, namespace: tp}}\n\
             spec: {{tcp: {{}}, fall: {fall}}}\n"
        )
    };
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("m")).unwrap();
    fs::write(directory.path().join("m/check.yaml"), check(2)).unwrap();
    let mut live = Live::start(directory, None, BTreeMap::new());
    let falls = |update: &ConfigUpdate| -> Vec<_> {
        update.checks.iter().map(|(key, spec)| (key.to_string(), spec.as_ref().map(|one| one.fall))).collect()
    };
    let first = live.update();
    assert!(matches!(first.change, ConfigChange::All(_)));
    assert_eq!(falls(&first), [("tp/up".to_owned(), Some(2))]);
    live.put("check.yaml", &check(5));
    let next = live.update();
    assert!(
        matches!(&next.change, ConfigChange::Some { director: None, bindings, .. } if bindings.is_empty())
    );
    assert_eq!((falls(&next), next.serial > first.serial), (vec![("tp/up".to_owned(), Some(5))], true));
}

#[test]
fn written_in_place_vanished_and_back() {
    let mut live = Live::with(&[("a.yaml", &web("a", "10.0.0.1", 1)), ("b.yaml", &web("b", "10.0.0.2", 1))]);
    fs::write(live.path("a.yaml"), web("a", "10.0.0.1", 2)).unwrap();
    live.until(&[("tp/a", 2), ("tp/b", 1)]);
    let removed = Instant::now();
    fs::remove_file(live.path("b.yaml")).unwrap();
    live.until(&[("tp/a", 2)]);
    assert!(removed.elapsed() >= SETTLE, "it went at once");
    // As vim does: aside, then anew.
    fs::rename(live.path("a.yaml"), live.path("a.yaml~")).unwrap();
    fs::write(live.path("a.yaml"), web("a", "10.0.0.1", 3)).unwrap();
    live.until(&[("tp/a", 3)]);
    fs::remove_file(live.path("a.yaml~")).unwrap();
    // Nothing more comes of it: a later change is the next thing told.
    live.put("c.yaml", &web("c", "10.0.0.3", 1));
    live.update();
    assert_eq!(live.bindings, BTreeMap::from([("tp/a".into(), 3), ("tp/c".into(), 1)]));
}

#[test]
fn a_config_map_is_followed_when_its_link_is_swapped() {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().join("m");
    let version = |name: &str, weight| {
        fs::create_dir(mount.join(name)).unwrap();
        fs::write(mount.join(name).join("a.yaml"), web("a", "10.0.0.1", weight)).unwrap();
    };
    fs::create_dir(&mount).unwrap();
    version("..1", 1);
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/a.yaml", mount.join("a.yaml")).unwrap();
    let mut live = Live::start(directory, None, BTreeMap::new());
    live.until(&[("tp/a", 1)]);
    version_swap(&mount, "..2", &web("a", "10.0.0.1", 2));
    live.until(&[("tp/a", 2)]);
}

fn version_swap(mount: &Path, name: &str, text: &str) {
    fs::create_dir(mount.join(name)).unwrap();
    fs::write(mount.join(name).join("a.yaml"), text).unwrap();
    symlink(name, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
}

#[test]
fn a_link_to_elsewhere_is_followed_by_looking() {
    let mut live = Live::with(&[]);
    let elsewhere = live.directory.path().join("elsewhere.yaml");
    fs::write(&elsewhere, web("a", "10.0.0.1", 1)).unwrap();
    symlink(&elsewhere, live.path("a.yaml")).unwrap();
    live.until(&[("tp/a", 1)]);
    fs::write(&elsewhere, web("a", "10.0.0.1", 2)).unwrap();
    live.manifests.rescan();
    live.until(&[("tp/a", 2)]);
}

#[test]
fn a_directory_that_is_replaced_or_gone() {
    let mut live = Live::with(&[("a.yaml", &web("a", "10.0.0.1", 1))]);
    let (mount, away) = (live.directory.path().join("m"), live.directory.path().join("away"));
    fs::rename(&mount, &away).unwrap();
    let limit = Instant::now() + PATIENCE;
    while live.view().lost.is_none() {
        assert!(Instant::now() < limit, "its absence was not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(live.is_quiet(), "nothing goes with the directory");
    // Another one in its place, with more in it.
    fs::create_dir(away.join("new")).unwrap();
    fs::write(away.join("new/a.yaml"), web("a", "10.0.0.1", 2)).unwrap();
    fs::write(away.join("new/b.yaml"), web("b", "10.0.0.2", 2)).unwrap();
    fs::rename(away.join("new"), &mount).unwrap();
    live.until(&[("tp/a", 2), ("tp/b", 2)]);
    assert_eq!(live.view().lost, None);
    // And it is watched.
    live.put("b.yaml", &web("b", "10.0.0.2", 3));
    live.until(&[("tp/a", 2), ("tp/b", 3)]);
}

#[test]
fn without_manifests_and_without_memory_nothing_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut live = Live::start(directory, None, BTreeMap::new());
    assert!(live.view().lost.is_some());
    assert!(live.is_quiet(), "an empty configuration would clear what the kernel holds");
    assert!(!live.manifests.summary().started);
    fs::create_dir(live.directory.path().join("m")).unwrap();
    let update = live.update();
    assert!(matches!(update.change, ConfigChange::All(_)), "now it is known that there is nothing");
}

#[test]
fn what_was_said_of_names_is_said_no_longer_than_it_is_true() {
    let mut live = Live::with(&[]);
    assert!(live.view().notes[0].contains("names the director dir1"), "{:?}", live.view().notes);
    live.put("a.yaml", &web("a", "10.0.0.1", 1));
    live.until(&[("tp/a", 1)]);
    assert_eq!(live.view().notes, [""; 0]);
}

#[test]
fn thousands_of_files_at_once() {
    let files: Vec<_> = (0..1000_u32)
        .map(|n| (format!("{n:04}.yaml"), web(&format!("s{n}"), &format!("10.1.{}.{}", n / 250, n % 250), 1)))
        .collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut live = Live::with(&files);
    assert_eq!(live.bindings.len(), 1000);
    for (name, text) in &files {
        fs::write(live.path(name), text.replace("weight: 1", "weight: 2")).unwrap();
    }
    let limit = Instant::now() + PATIENCE;
    while live.bindings.values().any(|weight| *weight != 2) {
        assert!(Instant::now() < limit);
        live.update();
    }
    assert_eq!(live.bindings.len(), 1000);
}

#[test]
fn the_last_good_configuration_is_kept_and_used() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::create_dir(directory.path().join("m")).unwrap();
    fs::write(directory.path().join("m/a.yaml"), web("a", "10.0.0.1", 1)).unwrap();
    let keeper = Arc::new(Keeper::spawn(&state, load(&state)).unwrap());
    let mut live = Live::start(directory, Some(keeper.clone()), BTreeMap::new());
    live.until(&[("tp/a", 1)]);
    live.put("a.yaml", &web("a", "10.0.0.1", 2));
    live.until(&[("tp/a", 2)]);
    live.put("a.yaml", &web("a", "10.0.0.1", 70_000));
    let limit = Instant::now() + PATIENCE;
    while live.view().problems.is_empty() {
        assert!(Instant::now() < limit, "the mistake was not told");
    }
    let Live { directory, manifests, .. } = live;
    drop(manifests);
    drop(Arc::into_inner(keeper).expect("the worker has ended"));

    let loaded = load(&state);
    assert_eq!(loaded.notes, [""; 0]);
    let mut live = Live::start(directory, None, loaded.objects);
    live.until(&[("tp/a", 2)]);
    let view = live.view();
    assert!(view.objects[0].last_good, "{view:?}");
    assert_eq!(view.problems.len(), 1);
    assert_eq!(live.view().digest, view.digest);
}
