//! The worker by its parts, with times as the test has them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::*;
use crate::manifests::tests::web;

struct Bench {
    worker: Worker,
    requests: SyncSender<Request>,
    updates: Arc<Mutex<Vec<ConfigUpdate>>>,
    directory: tempfile::TempDir,
}

impl Bench {
    fn with(files: &[(&str, String)], remembered: BTreeMap<String, Saved>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        fs::create_dir(&path).unwrap();
        for (name, text) in files {
            fs::write(path.join(name), text).unwrap();
        }
        let (requests, receiver) = sync_channel(REQUESTS);
        let (_, woken) = UnixStream::pair().unwrap();
        woken.set_nonblocking(true).unwrap();
        let inbox = Inbox { requests: receiver, woken, stop: Arc::default() };
        let updates = Arc::new(Mutex::new(Vec::new()));
        let theirs = updates.clone();
        let sink = Box::new(move |update| theirs.lock().unwrap().push(update));
        let options = Options { directory: path, director: "dir1".into(), remembered, keeper: None };
        Self { worker: Worker::new(options, sink, inbox, Arc::default()), requests, updates, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.worker.options.directory.join(name)
    }

    fn asks(&self) -> oneshot::Receiver<Arc<View>> {
        let (answer, receiver) = oneshot::channel();
        assert!(self.requests.try_send(Request::View(answer)).is_ok());
        receiver
    }

    /// Puts another directory in the place of this one.
    fn replace(&self, files: &[(&str, String)]) {
        let aside = self.directory.path().join("aside");
        fs::create_dir(&aside).unwrap();
        for (name, text) in files {
            fs::write(aside.join(name), text).unwrap();
        }
        fs::rename(&self.worker.options.directory, self.directory.path().join("old")).unwrap();
        fs::rename(aside, &self.worker.options.directory).unwrap();
    }

    fn in_force(&self) -> usize {
        self.worker.engine.catalog.active_count()
    }
}

fn service(n: usize) -> String {
    web(&format!("s{n}"), &format!("10.1.{}.{}", n / 250, n % 250), 1)
}

#[test]
fn who_asks_while_thousands_of_files_are_read_is_answered() {
    let files: Vec<_> = (0..=2 * BATCH).map(|n| (format!("{n:04}.yaml"), service(n))).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    let mut bench = Bench::with(&files, BTreeMap::new());
    let mut answer = bench.asks();
    bench.worker.start();
    let view = answer.try_recv().expect("an answer before the end of the first read");
    assert_eq!(view.objects.len(), BATCH, "after the first batch");
    assert_eq!(bench.in_force(), files.len());
    // The kernel hears of all of them at once: what is not read yet would count as absent.
    assert_eq!(bench.updates.lock().unwrap().len(), 1);
}

#[test]
fn one_view_is_made_for_all_who_wait_and_none_for_those_who_gave_up() {
    let mut made = 0;
    let mut view = || {
        made += 1;
        View::default()
    };
    let ask = |count| (0..count).map(|_| oneshot::channel::<Arc<View>>()).unzip::<_, _, Vec<_>, Vec<_>>();
    let (gone, receivers) = ask(50);
    drop(receivers);
    requests::answer(gone, &mut view);
    let (waiting, mut receivers) = ask(3);
    requests::answer(waiting, &mut view);
    let answers: Vec<_> = receivers.iter_mut().map(|receiver| receiver.try_recv().unwrap()).collect();
    assert!(answers.iter().all(|one| Arc::ptr_eq(one, &answers[0])));
    assert_eq!(made, 1);
}

#[test]
fn a_stop_is_heard_before_everything_is_read_and_nothing_half_read_is_told() {
    let bench = Bench::with(&[("a.yaml", service(1))], BTreeMap::new());
    bench.worker.inbox.stop.store(true, Ordering::Relaxed);
    let updates = bench.updates.clone();
    bench.worker.run();
    assert!(updates.lock().unwrap().is_empty());
}

#[test]
fn the_last_good_configuration_is_handed_over_before_anything_is_read() {
    let mut first = Bench::with(&[("a.yaml", service(1)), ("b.yaml", service(2))], BTreeMap::new());
    first.worker.start();
    let catalog = &first.worker.engine.catalog;
    let remembered: BTreeMap<_, _> = catalog
        .active()
        .map(|(reference, active)| {
            let (file, json) = (active.file.clone(), active.json.clone());
            (reference.to_string(), Saved { file, line: active.line, source: active.source, json })
        })
        .collect();
    assert_eq!(remembered.len(), 2);

    let changed = service(1).replace("weight: 1", "weight: 2");
    let mut bench = Bench::with(&[("a.yaml", changed), ("b.yaml", service(2))], remembered);
    // What is as it was needs no judging.
    let known = bench.worker.engine.catalog.known("b.yaml");
    let examined = crate::manifests::examine::examine("m/b.yaml", service(2).as_bytes(), &known);
    let crate::manifests::catalog::Examined::Parsed { documents, .. } = examined else { panic!() };
    assert!(matches!(documents[0].form, crate::manifests::catalog::Form::Good { object: None, .. }));

    bench.worker.start();
    let updates = bench.updates.lock().unwrap();
    let weights: Vec<_> = updates
        .iter()
        .map(|update| match &update.change {
            ConfigChange::All(config) => {
                config.bindings.values().map(|one| one.real_servers[0].weight).collect::<Vec<_>>()
            }
            ConfigChange::Some { bindings, .. } => {
                bindings.iter().map(|(_, one)| one.as_ref().unwrap().real_servers[0].weight).collect()
            }
        })
        .collect();
    assert_eq!(weights, [vec![1, 1], vec![2]]);
}

#[test]
fn a_directory_emptied_by_replacing_it_takes_nothing_along() {
    let mut bench = Bench::with(&[("a.yaml", service(1))], BTreeMap::new());
    bench.worker.start();
    let now = Instant::now();
    bench.replace(&[]);
    bench.worker.check_directory(now);
    assert_eq!(bench.worker.engine.catalog.lost().unwrap().reason, "Empty");
    bench.worker.expire(now + 10 * SETTLE);
    bench.worker.look(now + 10 * SETTLE, false);
    bench.worker.expire(now + 20 * SETTLE);
    assert_eq!(bench.in_force(), 1);
    // Files that are deleted one by one are meant.
    fs::write(bench.path("a.yaml"), service(1)).unwrap();
    bench.worker.serve_events(now + 20 * SETTLE);
    assert!(bench.worker.engine.catalog.lost().is_none());
    fs::remove_file(bench.path("a.yaml")).unwrap();
    bench.worker.serve_events(now + 30 * SETTLE);
    bench.worker.expire(now + 31 * SETTLE);
    assert_eq!(bench.in_force(), 0);
}

#[test]
fn what_is_missing_from_a_replaced_directory_goes_when_it_is_filled() {
    let files = [("a.yaml", service(1)), ("b.yaml", service(2)), ("c.yaml", service(3))];
    let mut bench = Bench::with(&files, BTreeMap::new());
    bench.worker.start();
    let now = Instant::now() + 10 * SETTLE;
    bench.replace(&files[..1]);
    bench.worker.check_directory(now);
    let almost = now + SETTLE * 9 / 10;
    fs::write(bench.path("b.yaml"), service(2)).unwrap();
    bench.worker.serve_events(almost);
    bench.worker.expire(now + SETTLE);
    assert_eq!(bench.in_force(), 3, "b has just come, c may");
    bench.worker.expire(almost + SETTLE);
    assert_eq!(bench.in_force(), 2);
    // One that is never done being filled is at some time.
    fs::remove_file(bench.path("a.yaml")).unwrap();
    let much_later = now + FILLING;
    bench.worker.serve_events(much_later);
    fs::write(bench.path("d.yaml"), service(4)).unwrap();
    bench.worker.serve_events(much_later + SETTLE * 9 / 10);
    bench.worker.expire(much_later + SETTLE);
    assert_eq!(bench.in_force(), 2, "a is gone, d is there");
}

#[test]
fn a_file_that_is_made_anew_slowly_keeps_its_objects() {
    let mut bench = Bench::with(&[("a.yaml", service(1)), ("b.yaml", service(2))], BTreeMap::new());
    bench.worker.start();
    let now = Instant::now() + 10 * SETTLE;
    fs::remove_file(bench.path("a.yaml")).unwrap();
    let being_written = fs::File::create(bench.path("a.yaml")).unwrap();
    bench.worker.serve_events(now);
    bench.worker.expire(now + 2 * SETTLE);
    assert_eq!(bench.in_force(), 2);
    drop(being_written);
    // Nor does one go of which no event told that it came back.
    bench.worker.engine.catalog.vanished(now, "b.yaml");
    bench.worker.expire(now + SETTLE);
    assert_eq!(bench.in_force(), 2);
    assert!(bench.worker.suspects.contains_key("b.yaml"), "it is read soon");
}
