use proptest::prelude::*;
use serde_json::json;

use super::*;

const WEB: &str = "\
# a comment
apiVersion: bascule.dev/v1alpha1
kind: VirtualService
metadata:
  name: web
  labels: {app.kubernetes.io/name: web}
spec:
  ports:
    - {port: 80, protocol: TCP}
    - port: 443
      protocol: TCP
---
kind: HealthCheck
";

#[test]
fn documents_know_their_lines() {
    let documents = parse(WEB).unwrap();
    assert_eq!(documents.len(), 2);
    let web = &documents[0];
    assert_eq!(web.value["spec"]["ports"][1], json!({"port": 443, "protocol": "TCP"}));
    for (path, line) in [
        ("", 2),
        ("kind", 3),
        ("metadata.name", 5),
        ("metadata.labels[app.kubernetes.io/name]", 6),
        ("spec.ports[0].port", 9),
        ("spec.ports[1]", 10),
        ("spec.ports[1].protocol", 11),
        ("spec.ports[1].targetPort", 10),
        ("spec.ports[7]", 8),
        ("spec.scheduler.name", 7),
    ] {
        assert_eq!(web.line_of(path), line, "{path}");
    }
    assert_eq!(documents[1].line, 13);
    assert_eq!(documents[1].line_of("spec"), 13);
}

#[test]
fn aliases_are_followed() {
    let documents = parse("a: &x [1, {b: 2}]\nc: *x\n").unwrap();
    assert_eq!(documents[0].value, json!({"a": [1, {"b": 2}], "c": [1, {"b": 2}]}));
}

#[test]
fn quoted_scalars_are_strings_and_empty_documents_nothing() {
    assert_eq!(
        parse("---\n---\na: \"80\"\nb: 'on'\nc: !!str 5\n---\n").unwrap()[0].value,
        json!({"a": "80", "b": "on", "c": "5"})
    );
    assert_eq!(
        parse("on: 1\n'on': 2\n\"010\": 3\n010: 4\n!!str off: 5\n").unwrap()[0].value,
        json!({"true": 1, "on": 2, "010": 3, "8": 4, "off": 5})
    );
    assert_eq!(parse("").unwrap(), []);
    assert_eq!(parse("# only a comment\n").unwrap(), []);
    assert_eq!(
        parse(r#"{"kind": "Director", "spec": {"x": [1]}}"#).unwrap()[0].value["spec"]["x"],
        json!([1])
    );
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let deep = "[".repeat(MAX_DEPTH + 2) + &"]".repeat(MAX_DEPTH + 2);
    for (text, line, message) in [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key `a`, first on line 1"),
        ("a:\n  - b: 1\n    b: 2\n", 3, "duplicate key `b`, first on line 2"),
        ("a: 1\n\u{0}\n", 2, "a NUL byte"),
        ("a: *x\n", 1, "the alias *x stands for nothing before it"),
        ("a: &x [*x]\n", 1, "an alias"),
        ("x: &x {a: 1}\nb:\n  <<: *x\n", 3, "merge keys"),
        ("a: !secret b\n", 1, "the tag !secret is not supported"),
        ("[a]: b\n", 1, "a key must be"),
        ("a: 1\n~: b\n", 2, "the key `~` is no string"),
        ("1.5: b\n", 1, "the key `1.5` is no string"),
        ("on: a\ntrue: b\n", 2, "duplicate key `true`, first on line 1"),
        (&deep, 1, "nest"),
        ("a: [1, 2\nb: 3\n", 2, ""),
        ("a: b: c\n", 1, ""),
        ("a:\n\t- b\n", 2, ""),
        ("a: .nan\n", 1, "no number"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.line == line && error.message.contains(message), "{text:?}: {error}");
    }
}

#[test]
fn a_small_text_cannot_become_a_large_value() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = level - 1;
        text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
    }
    assert!(parse(&text).unwrap_err().message.contains("values in one file"));
    assert!(parse(&" ".repeat(MAX_BYTES + 1)).unwrap_err().message.contains("bytes"));
}

proptest! {
    #[test]
    fn random_text_is_survived(text in "[ -~\n\t]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn random_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn json_reads_as_itself(number in any::<i64>(), word in "[a-z]{1,8}", quoted in "\\PC{0,20}") {
        let value = json!({"number": number, "list": [word, quoted, null, true]});
        prop_assert_eq!(&parse(&value.to_string()).unwrap()[0].value, &value);
    }
}
