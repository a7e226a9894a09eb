use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::file::{FILE, Kept};
use super::*;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";

fn named(secret: &str, key: &str) -> Named {
    Named { secret: secret.into(), key: key.into(), usage: Usage::Hmac }
}

fn there(version: &str, keys: &[(&str, &[u8])]) -> Heard {
    let keys: BTreeMap<String, Bytes> =
        keys.iter().map(|(key, bytes)| ((*key).to_owned(), Bytes::new(bytes.to_vec()))).collect();
    Heard::There(version.to_owned(), keys)
}

/// A book that names one key.
fn book() -> (Book, Named) {
    let mut book = Book::default();
    book.set_namespace("bascule-system");
    let front = named("vrrp", "front");
    book.want([front.clone()].into());
    (book, front)
}

fn words(said: &[Said]) -> Vec<(bool, &str)> {
    said.iter().map(|one| (one.good, one.text.as_str())).collect()
}

#[test]
fn a_key_that_was_never_there_is_none_and_each_cause_has_its_word() {
    let forbidden = Heard::Forbidden("secrets \"vrrp\" is forbidden".into());
    let long = [b'x'; 300];
    for (heard, reason, words) in [
        (Heard::Missing, Reason::SecretNotFound, "there is no Secret bascule-system/vrrp: create it"),
        (
            there("1", &[("back", KEY)]),
            Reason::SecretKeyNotFound,
            "Secret bascule-system/vrrp has no key front",
        ),
        (there("1", &[("front", b"\n")]), Reason::SecretInvalid, "key front: empty"),
        (
            there("1", &[("front", b"short\n")]),
            Reason::SecretInvalid,
            "5 bytes long: a key of hmac must have 32 to 64",
        ),
        (there("1", &[("front", &long)]), Reason::SecretInvalid, "longer than 256 bytes"),
        (forbidden.clone(), Reason::SecretForbidden, "add vrrp to agent.vrrpSecrets of the chart"),
        (forbidden, Reason::SecretForbidden, "Role bascule-agent-vrrp-secrets"),
    ] {
        let (mut book, front) = book();
        let unread = book.read(&front).unwrap_err();
        assert_eq!(unread.reason, Reason::SecretNotRead);
        assert_eq!(book.status(&front).reason, Some(Reason::SecretNotRead));
        let said = book.hear("vrrp", &heard);
        assert!(said.len() == 1 && !said[0].good && said[0].text.contains(words), "{said:?}");
        assert!(said[0].text.starts_with(reason.as_str()), "{said:?}");
        let trouble = book.read(&front).unwrap_err();
        assert!(trouble.reason == reason && trouble.message.contains(words), "{trouble:?}");
        let status = book.status(&front);
        assert!(!status.in_force && status.reason == Some(reason), "{status:?}");
        assert!(!status.message.contains("stays in force"), "{status:?}");
        assert_eq!(book.take_unsaved(), None, "nothing was ever in force");
        assert_eq!(book.hear("vrrp", &heard), [], "the same is not said twice");
    }
}

#[test]
fn what_is_in_force_outlives_its_secret() {
    for heard in
        [Heard::Missing, there("2", &[]), there("2", &[("front", b"short")]), Heard::Forbidden("no".into())]
    {
        let (mut book, front) = book();
        let said = book.hear("vrrp", &there("1", &[("front", KEY)]));
        assert_eq!(words(&said), [(true, "Secret bascule-system/vrrp: key front was read")]);
        assert!(book.take_unsaved().is_some());
        let said = book.hear("vrrp", &heard);
        assert!(said.len() == 1 && !said[0].good, "{said:?}");
        assert!(said[0].text.ends_with("; the key that was read last stays in force"), "{said:?}");
        assert_eq!(book.read(&front).unwrap(), KEY);
        let status = book.status(&front);
        assert!(status.in_force && status.reason.is_some(), "{status:?}");
        assert_eq!(status.resource_version.as_deref(), Some("1"), "the version that the key was in");
        assert_eq!(book.take_unsaved(), None, "nothing else is in force");
        let said = book.hear("vrrp", &there("3", &[("front", KEY)]));
        assert_eq!(words(&said), [(true, "Secret bascule-system/vrrp: key front is there again")]);
        let status = book.status(&front);
        assert_eq!((status.reason, status.resource_version.as_deref()), (None, Some("3")));
    }
}

#[test]
fn another_key_is_in_force_at_once_and_what_does_not_matter_is_not_said() {
    let (mut book, front) = book();
    book.hear("vrrp", &there("1", &[("front", KEY)]));
    assert_eq!(book.hear("other", &there("1", &[("front", OTHER)])), [], "nobody names that Secret");
    assert_eq!(book.hear("vrrp", &there("2", &[("front", KEY)])), [], "a label, or a line feed, or nothing");
    let said = book.hear("vrrp", &there("3", &[("front", OTHER), ("back", KEY)]));
    assert_eq!(words(&said), [(true, "Secret bascule-system/vrrp: key front is another one now")]);
    assert_eq!(book.read(&front).unwrap(), OTHER);
    let mut with_line_feed = OTHER.to_vec();
    with_line_feed.push(b'\n');
    assert_eq!(book.hear("vrrp", &there("4", &[("front", &with_line_feed)])), [], "an editor's line feed");
}

#[test]
fn only_what_is_named_is_followed_and_kept_and_there_is_a_bound() {
    let (mut book, front) = book();
    let back = named("vrrp", "back");
    book.want([front.clone(), back.clone(), named("more", "a")].into());
    let secrets = book.secrets();
    assert_eq!(secrets.keys().collect::<Vec<_>>(), ["more", "vrrp"]);
    assert_eq!(secrets["vrrp"], ["back".to_owned(), "front".to_owned()].into());
    book.hear("vrrp", &there("1", &[("front", KEY), ("back", OTHER)]));
    let kept = book.take_unsaved().unwrap();
    assert_eq!(kept.iter().map(|one| &one.named).collect::<Vec<_>>(), [&back, &front]);
    book.want([back.clone()].into());
    assert_eq!(book.take_unsaved().unwrap().len(), 1, "what nobody names any more is not kept");
    assert_eq!(book.read(&front).unwrap_err().reason, Reason::SecretNotRead);
    assert_eq!(book.read(&back).unwrap(), OTHER);
    // What could not be written is written later.
    book.not_saved();
    assert_eq!(book.take_unsaved().unwrap().len(), 1);
    book.want((0..200).map(|n| named("vrrp", &format!("k{n:03}"))).collect());
    assert_eq!(book.secrets()["vrrp"].len(), MAX_NAMED);
}

/// One and the same content may do for one use and not for another.
#[test]
fn a_password_is_judged_as_one() {
    let mut book = Book::default();
    let [hmac, simple] = [Usage::Hmac, Usage::Simple].map(|usage| Named { usage, ..named("vrrp", "front") });
    book.want([hmac.clone(), simple.clone()].into());
    book.hear("vrrp", &there("1", &[("front", b"password-of-more-than-eight\n")]));
    assert_eq!(book.read(&hmac).unwrap_err().reason, Reason::SecretInvalid);
    assert_eq!(book.read(&simple).unwrap(), b"password-of-more-than-eight");
}

#[test]
fn a_restart_goes_on_with_the_keys_of_the_file() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state");
    let (secrets, note) = Secrets::open(&directory);
    assert_eq!(note, None, "none is no mistake");
    let front = named("vrrp", "front");
    let kept = {
        let mut book = secrets.book().unwrap();
        book.want([front.clone(), named("vrrp", "never")].into());
        book.hear("vrrp", &there("7", &[("front", KEY)]));
        book.take_unsaved().unwrap()
    };
    file::save(&directory, &kept).unwrap();
    let path = directory.join(FILE);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);

    let (again, note) = Secrets::open(&directory);
    assert_eq!(note, None);
    let mut book = again.book().unwrap();
    assert_eq!(book.read(&front).unwrap(), KEY, "before anything was heard, or named");
    book.want([front.clone(), named("vrrp", "never")].into());
    let status = book.status(&front);
    assert!(status.in_force && status.reason.is_none(), "{status:?}");
    assert_eq!(status.resource_version.as_deref(), Some("7"));
    assert_eq!(book.read(&named("vrrp", "never")).unwrap_err().reason, Reason::SecretNotRead);
    assert_eq!(book.take_unsaved(), None, "it is on the disk");
    assert_eq!(book.hear("vrrp", &there("7", &[("front", KEY)])).len(), 1, "the one that never was there");
    drop(book);

    // Over one that is left from a crash, also somebody's link.
    let victim = parent.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, directory.join(format!("{FILE}.new"))).unwrap();
    file::save(&directory, &kept).unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    file::save(&directory, &[]).unwrap();
    assert!(!path.exists());
    file::forget(&directory).unwrap();
}

#[test]
fn a_file_that_cannot_be_believed_is_said_without_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    let kept = Kept { named: named("vrrp", "front"), version: "1".into(), bytes: Bytes::new(KEY.to_vec()) };
    file::save(directory.path(), &[kept]).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(file::load(directory.path()).unwrap_err().contains("mode 0600"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for damaged in [
        text[..text.len() - 5].to_owned(),
        text.replace("\"format\":1", "\"format\":2"),
        text.replace("\"Hmac\"", "\"precious\""),
        "\"precious\"".to_owned(),
    ] {
        std::fs::write(&path, damaged).unwrap();
        let note = file::load(directory.path()).unwrap_err();
        assert!(note.contains("is damaged") && !note.contains("precious"), "{note}");
        let (secrets, said) = Secrets::open(directory.path());
        assert_eq!(said, Some(note));
        assert!(secrets.book().unwrap().secrets().is_empty());
    }
}

#[test]
fn nothing_shows_a_key() {
    let (mut book, front) = book();
    let said = book.hear("vrrp", &there("1", &[("front", KEY)]));
    let bad = there("2", &[("front", b"precious")]);
    let more = book.hear("vrrp", &bad);
    let kept = Kept { named: front.clone(), version: "1".into(), bytes: Bytes::new(KEY.to_vec()) };
    let status = book.status(&front);
    let texts = [
        format!("{book:?} {said:?} {more:?} {bad:?} {kept:?} {status:?}"),
        serde_json::to_string(&status).unwrap(),
    ];
    let numbers: Vec<String> = KEY.iter().take(4).map(ToString::to_string).collect();
    for text in texts {
        for shown in ["0123456789", "precious", "MDEyMzQ1Njc4", &numbers.join(", ")] {
            assert!(!text.contains(shown), "{shown} is in {text}");
        }
    }
}

#[test]
fn a_group_names_its_keys_once_each() {
    let group = |authentication: serde_json::Value| -> DirectorVrrpGroup {
        let spec = serde_json::json!({
            "name": "front", "priority": 100, "version": 3, "advertisementInterval": "1s", "downIntervals": 3,
            "preempt": {}, "onAgentLoss": "Keep", "authentication": authentication,
            "instances": [{"name": "a", "interface": "eth0", "virtualRouterId": 1, "addresses": ["192.0.2.1/32"]}],
        });
        serde_json::from_value(spec).unwrap()
    };
    let reference = serde_json::json!({"name": "vrrp", "key": "front"});
    let hmac = group(serde_json::json!({"hmac": {"activeKey": 1, "keys": [
        {"id": 1, "secretRef": reference}, {"id": 2, "secretRef": reference}, {"id": 3, "file": "/etc/key"}]}}));
    assert_eq!(key::named_by(&hmac), [named("vrrp", "front")].into());
    let simple = group(serde_json::json!({"simple": {"secretRef": reference}}));
    assert_eq!(key::named_by(&simple), [Named { usage: Usage::Simple, ..named("vrrp", "front") }].into());
    assert_eq!(key::named_by(&group(serde_json::Value::Null)), [].into());
    // Without a cluster there are none, and that is what is said.
    let none = Secrets::default();
    let error = none.read(&serde_json::from_value(reference).unwrap(), Usage::Hmac).unwrap_err();
    assert_eq!(error, "a Secret can be had in a cluster only; name a file instead");
    assert!(none.status(&hmac).is_empty() && !none.has_yet_to_read(&hmac));
    let parent = tempfile::tempdir().unwrap();
    let (some, _) = Secrets::open(parent.path());
    assert!(some.has_yet_to_read(&hmac));
    some.book().unwrap().want(key::named_by(&hmac));
    some.book().unwrap().hear("vrrp", &Heard::Missing);
    assert!(!some.has_yet_to_read(&hmac));
}
