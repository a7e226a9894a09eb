//! Scripts: what happens to the files, and what must come of it. Times are in milliseconds.

use std::collections::BTreeMap;

use bascule_crds::Kind;
use proptest::prelude::*;

use super::*;

/// What a file says: `web=1` a valid form, `web!` an invalid one, `?` a document without a name, `%` text that cannot
/// be parsed. Each takes a line, from 1.
fn examined(path: &str, text: &str) -> Examined {
    let problem = |line, message: &str| Problem {
        file: path.into(),
        line: Some(line),
        message: message.into(),
        ..Problem::default()
    };
    let mut documents = Vec::new();
    let mut nameless = Vec::new();
    for (index, word) in text.split_whitespace().enumerate() {
        let line = index + 1;
        if word == "%" {
            return Examined::Failed(problem(line, "unparsable"));
        } else if word == "?" {
            nameless.push(problem(line, "no name"));
        } else if let Some(name) = word.strip_suffix('!') {
            let form = Form::Bad(vec![problem(line, "invalid")]);
            documents.push(Document { reference: reference(name), line, source: 1, form });
        } else {
            let (name, _) = word.split_once('=').expect("name=form");
            let form = Form::Good { json: word.into(), object: None };
            documents.push(Document { reference: reference(name), line, source: 1, form });
        }
    }
    Examined::Parsed { documents, nameless }
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::VirtualService, namespace: Some("tp".into()), name: name.into() }
}

struct Script {
    catalog: Catalog,
    start: Instant,
}

impl Script {
    fn new() -> Self {
        Self { catalog: Catalog::new("m"), start: Instant::now() }
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }

    fn remember(&mut self, file: &str, word: &str) {
        let (name, _) = word.split_once('=').unwrap();
        self.catalog.remember(file.into(), 1, reference(name), 0, word.into());
        self.catalog.take();
    }

    fn read(&mut self, at: u64, file: &str, text: &str) -> String {
        self.catalog.read(self.at(at), &file.into(), examined(&format!("m/{file}"), text));
        self.changes()
    }

    fn vanished(&mut self, at: u64, file: &str) -> String {
        self.catalog.vanished(self.at(at), file);
        self.changes()
    }

    fn listed(&mut self, at: u64, files: &[&str]) -> String {
        self.catalog.listed(self.at(at), |name| files.contains(&name));
        self.changes()
    }

    fn expire(&mut self, at: u64) -> String {
        self.catalog.expire(self.at(at));
        self.changes()
    }

    fn lose(&mut self) -> String {
        self.catalog.directory_lost(Problem {
            file: "m".into(),
            message: "lost".into(),
            ..Problem::default()
        });
        self.changes()
    }

    /// `+web=1` put, `~web=1` moved to another file, `-web` deleted.
    fn changes(&mut self) -> String {
        let changes = self.catalog.take().objects;
        let words = changes.iter().map(|(reference, change)| match change {
            Change::Delete => format!("-{}", reference.name),
            Change::Put(put) if put.moved_only => format!("~{}", put.json),
            Change::Put(put) => format!("+{}", put.json),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    fn active(&self) -> String {
        let words = self.catalog.active().map(|(_, active)| {
            format!("{}@{}{}", active.json, active.file, if active.stale { "!" } else { "" })
        });
        let text = words.collect::<Vec<_>>().join(" ");
        assert_eq!(self.catalog.active().count(), self.catalog.active_count());
        text
    }

    fn problems(&self) -> Vec<String> {
        self.catalog.problems().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn objects_come_change_and_go() {
    let mut script = Script::new();
    assert_eq!(script.read(0, "a", "web=1 db=1"), "+db=1 +web=1");
    assert_eq!(script.read(1, "a", "web=1 db=1"), "");
    assert_eq!(script.read(2, "a", "web=2 db=1"), "+web=2");
    assert_eq!(script.read(3, "a", "db=1"), "-web");
    assert_eq!(script.active(), "db=1@a");
    assert_eq!(script.problems(), [""; 0]);
}

#[test]
fn a_file_that_cannot_be_parsed_freezes_its_objects_only() {
    let mut script = Script::new();
    script.read(0, "a", "web=1 db=1");
    script.read(0, "b", "dns=1");
    assert_eq!(script.read(1, "a", "web=2 %"), "");
    assert_eq!(script.read(2, "b", "dns=2"), "+dns=2");
    assert_eq!(script.active(), "db=1@a dns=2@b web=1@a");
    assert_eq!(script.problems(), ["m/a:2: unparsable (what was last read from it stays in force)"]);
    assert_eq!(script.catalog.last_good().count(), 2);
    assert_eq!(script.read(3, "a", "web=3"), "-db +web=3");
    assert_eq!(script.problems(), [""; 0]);
}

#[test]
fn a_file_bad_from_the_start_has_nothing_to_freeze_and_ends_without_trace() {
    let mut script = Script::new();
    assert_eq!(script.read(0, "a", "%"), "");
    assert_eq!(script.problems(), ["m/a:1: unparsable"]);
    assert_eq!(script.vanished(1, "a"), "");
    assert_eq!(script.problems(), [""; 0]);
    assert_eq!((script.catalog.files(), script.catalog.next_deadline()), (0, None));
}

#[test]
fn an_object_that_turned_invalid_keeps_its_last_good_form_and_the_others_go_on() {
    let mut script = Script::new();
    script.read(0, "a", "web=1 db=1");
    assert_eq!(script.read(1, "a", "web! db=2"), "+db=2");
    assert_eq!(script.active(), "db=2@a web=1@a!");
    assert_eq!(script.problems(), ["m/a:1: invalid (what was last read from it stays in force)"]);
    assert_eq!(script.read(2, "a", "db=2"), "-web", "and can be removed all the same");
}

#[test]
fn an_object_invalid_from_the_start_is_left_out() {
    let mut script = Script::new();
    assert_eq!(script.read(0, "a", "web! db=1"), "+db=1");
    assert_eq!(script.problems(), ["m/a:1: invalid"]);
    assert_eq!(script.catalog.never_good().count(), 1);
    assert_eq!(script.read(1, "a", "web=1 db=1"), "+web=1");
    assert_eq!(script.catalog.never_good().count(), 0);
}

#[test]
fn an_object_may_have_lost_its_name() {
    let mut script = Script::new();
    script.read(0, "a", "web=1 db=1");
    assert_eq!(script.read(1, "a", "? db=2"), "+db=2", "web may be the nameless one");
    assert_eq!(script.active(), "db=2@a web=1@a!");
    assert_eq!(script.problems(), ["m/a:1: no name"]);
    assert_eq!(script.read(2, "a", "db=2"), "-web");
}

#[test]
fn a_vanished_file_removes_its_objects_after_the_settle_time() {
    let mut script = Script::new();
    script.read(0, "a", "web=1");
    assert_eq!(script.vanished(100, "a"), "");
    assert_eq!(script.catalog.next_deadline(), Some(script.at(1100)));
    assert_eq!(script.vanished(500, "a"), "", "told twice, counts from the first");
    assert_eq!(script.expire(1099), "");
    assert_eq!(script.expire(1100), "-web");
    assert_eq!((script.active().as_str(), script.catalog.files()), ("", 0));
}

#[test]
fn an_editor_that_replaces_the_file_removes_nothing() {
    let mut script = Script::new();
    script.read(0, "a", "web=1");
    script.vanished(100, "a");
    assert_eq!(script.read(200, "a", "web=2"), "+web=2");
    assert_eq!(script.expire(5000), "");
    // And one that empties it first.
    assert_eq!(script.read(6000, "a", ""), "");
    assert_eq!(script.read(6100, "a", "web=3"), "+web=3");
    assert_eq!(script.expire(9000), "");
}

#[test]
fn a_file_that_stays_empty_removes_its_objects() {
    let mut script = Script::new();
    script.read(0, "a", "web=1");
    script.read(100, "a", "");
    assert_eq!(script.listed(200, &["a"]), "", "that it is there does not end its being empty");
    assert_eq!(script.expire(1100), "-web");
    assert_eq!(script.read(2000, "a", "web=1"), "+web=1");
}

#[test]
fn a_renamed_file_keeps_its_objects_without_a_word() {
    let mut script = Script::new();
    script.read(0, "a", "web=1");
    script.vanished(100, "a");
    assert_eq!(script.read(100, "b", "web=1"), "~web=1");
    assert_eq!(script.problems(), [""; 0]);
    assert_eq!(script.expire(1100), "");
    assert_eq!(script.active(), "web=1@b");
    // The new name may also be told first.
    assert_eq!(script.read(2000, "c", "web=1"), "");
    assert_eq!(script.vanished(2000, "b"), "~web=1");
    assert_eq!(script.problems(), [""; 0]);
    script.expire(3000);
    assert_eq!(script.active(), "web=1@c");
}

#[test]
fn of_two_manifests_with_one_name_the_one_in_force_stays() {
    let mut script = Script::new();
    script.read(0, "b", "web=1");
    assert_eq!(script.read(1, "a", "db=1 web=2"), "+db=1");
    assert_eq!(
        script.problems(),
        [
            "m/a:2: metadata.name: another manifest has this name already, m/b:1, and that one counts: rename or remove \
             one (VirtualService tp/web)"
        ]
    );
    assert_eq!(script.read(2, "b", "web=3"), "+web=3", "it goes on");
    script.vanished(3, "b");
    assert_eq!(script.changes(), "");
    assert_eq!(script.active(), "db=1@a web=2@a", "its end makes place for the other at once");
}

#[test]
fn of_two_manifests_with_one_name_read_at_the_same_time_the_first_by_name_stays() {
    let mut script = Script::new();
    let now = script.at(0);
    script.catalog.read(now, &"a".into(), examined("m/a", "web=1"));
    script.catalog.read(now, &"b".into(), examined("m/b", "web=2"));
    assert_eq!(script.changes(), "+web=1");
    assert!(
        script.problems()[0]
            .starts_with("m/b:1: metadata.name: another manifest has this name already, m/a:1")
    );
}

#[test]
fn two_manifests_with_one_name_in_one_file() {
    let mut script = Script::new();
    assert_eq!(script.read(0, "a", "web=1 web=2"), "+web=1");
    assert!(
        script.problems()[0]
            .starts_with("m/a:2: metadata.name: another manifest has this name already, m/a:1")
    );
    // What is in force stays, also when a new one is put before it.
    assert_eq!(script.read(1, "a", "web=3 web=1"), "");
    assert!(script.problems()[0].starts_with("m/a:1: metadata.name"), "{:?}", script.problems());
    assert_eq!(script.read(2, "a", "web=3"), "+web=3");
    assert_eq!(script.problems(), [""; 0]);
}

#[test]
fn a_duplicate_counts_when_the_first_is_invalid_from_the_start() {
    let mut script = Script::new();
    script.read(0, "a", "web!");
    assert_eq!(script.read(1, "b", "web=1"), "+web=1");
    assert_eq!(script.active(), "web=1@b");
}

#[test]
fn a_lost_directory_freezes_all_also_what_was_about_to_go() {
    let mut script = Script::new();
    script.read(0, "a", "web=1");
    script.read(0, "b", "db=1");
    script.vanished(100, "a");
    assert_eq!(script.lose(), "");
    assert_eq!(script.expire(9000), "");
    assert_eq!((script.catalog.next_deadline(), script.problems()), (None, vec!["m: lost".to_owned()]));
    assert_eq!(script.catalog.last_good().count(), 2);
    // It comes back without a: the settle time begins anew.
    assert_eq!(script.listed(10_000, &["b"]), "");
    assert_eq!(script.expire(10_999), "");
    assert_eq!(script.expire(11_000), "-web");
    assert_eq!(script.catalog.last_good().count(), 0);
}

#[test]
fn a_listing_finds_what_no_event_told() {
    let mut script = Script::new();
    script.read(0, "a", "web=1");
    script.read(0, "b", "db=1");
    assert_eq!(script.listed(100, &["b"]), "");
    assert_eq!(script.listed(600, &["a", "b"]), "", "it is back");
    assert_eq!(script.expire(5000), "");
    assert_eq!(script.listed(6000, &["b"]), "");
    assert_eq!(script.expire(7000), "-web");
}

#[test]
fn the_last_good_configuration_stands_in_for_what_cannot_be_read() {
    let mut script = Script::new();
    script.remember("a", "web=1");
    script.remember("a", "db=1");
    script.remember("b", "dns=1");
    script.remember("c", "ntp=1");
    script.remember("d", "ftp=1");
    assert_eq!(script.catalog.last_good().count(), 5);
    assert_eq!(script.listed(0, &["a", "b", "d"]), "");
    assert_eq!(script.read(0, "a", "web! db=2"), "+db=2");
    assert_eq!(script.read(0, "b", "%"), "");
    assert_eq!(script.read(0, "d", "ftp=1"), "~ftp=1", "as it was, but now it is known by which document");
    assert_eq!(script.read(0, "d", "ftp=1"), "");
    assert_eq!(script.active(), "db=2@a dns=1@b ftp=1@d ntp=1@c web=1@a!");
    assert_eq!(script.catalog.last_good().count(), 3, "{:?}", script.active());
    assert_eq!(script.expire(1000), "-ntp", "its file is gone for good");
}

#[test]
fn documents_found_valid_before_are_known_by_their_source() {
    let mut script = Script::new();
    script.read(0, "a", "web=1 db!");
    let known = script.catalog.known("a");
    assert_eq!(known.documents, BTreeMap::from([(1, Arc::from("web=1"))]));
    assert_eq!(known.objects.values().map(|json| &**json).collect::<Vec<_>>(), ["web=1"]);
    assert!(script.catalog.known("b").documents.is_empty());
}

#[derive(Clone, Debug)]
enum Action {
    Read(usize, String),
    Vanish(usize),
    List(u8),
    Lose,
    Wait(u64),
}

const FILES: [&str; 3] = ["a", "b", "c"];

fn action() -> impl Strategy<Value = Action> {
    let word = prop_oneof![
        8 => ("[xyz]", 0..3_u8).prop_map(|(name, form)| format!("{name}={form}")),
        2 => "[xyz]!",
        1 => Just("?".to_owned()),
        1 => Just("%".to_owned()),
    ];
    let text = prop::collection::vec(word, 0..4).prop_map(|words| words.join(" "));
    prop_oneof![
        6 => (0..FILES.len(), text).prop_map(|(file, text)| Action::Read(file, text)),
        2 => (0..FILES.len()).prop_map(Action::Vanish),
        1 => (0..8_u8).prop_map(Action::List),
        1 => Just(Action::Lose),
        3 => (0..1500_u64).prop_map(Action::Wait),
    ]
}

proptest! {
    /// Whatever happened before: once all files are readable, valid and without rivals, and the settle time is over,
    /// exactly what they say is in force, without a problem. And the changes add up to it.
    #[test]
    fn in_the_end_it_is_what_the_files_say(actions in prop::collection::vec(action(), 0..40)) {
        let mut script = Script::new();
        let mut now = 0;
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let follow = |changes: String, seen: &mut BTreeMap<String, String>| {
            for word in changes.split_whitespace() {
                match word.split_at(1) {
                    ("-", name) => drop(seen.remove(name)),
                    (_, form) => drop(seen.insert(form.split('=').next().unwrap().into(), form.into())),
                }
            }
        };
        for action in actions {
            let changes = match action {
                Action::Read(file, text) => script.read(now, FILES[file], &text),
                Action::Vanish(file) => script.vanished(now, FILES[file]),
                Action::List(bits) => {
                    let there: Vec<_> = (0..3).filter(|bit| bits & (1 << bit) != 0).map(|bit| FILES[bit]).collect();
                    script.listed(now, &there)
                }
                Action::Lose => script.lose(),
                Action::Wait(milliseconds) => {
                    now += milliseconds;
                    script.expire(now)
                }
            };
            follow(changes, &mut seen);
            let active: Vec<_> = script.catalog.active().map(|(_, active)| active.json.to_string()).collect();
            prop_assert_eq!(&active, &seen.values().cloned().collect::<Vec<_>>());
            prop_assert_eq!(active.len(), script.catalog.active_count());
        }
        let _ = script.listed(now, &["a", "b"]);
        for (file, text) in [("a", "x=7 y=7"), ("b", "z=7")] {
            let _ = script.read(now, file, text);
        }
        let _ = script.expire(now + 3000);
        // What one file took over from another moves back only when it is read.
        for (file, text) in [("a", "x=7 y=7"), ("b", "z=7")] {
            let _ = script.read(now + 3000, file, text);
        }
        prop_assert_eq!(script.active(), "x=7@a y=7@a z=7@b");
        prop_assert_eq!(script.problems(), Vec::<String>::new());
        prop_assert_eq!(script.catalog.next_deadline(), None);
    }
}
