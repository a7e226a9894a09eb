//! What kubectl prints when the server refuses a manifest.

/// The server's verdict on one manifest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It would be stored.
    Accepted,
    /// These fields are not known.
    Unknown(Vec<String>),
    /// Field paths, and what is wrong there.
    Invalid(Vec<(String, String)>),
    /// Something else.
    Unclear(String),
}

impl Answer {
    /// Reads kubectl's exit and complaint about a single manifest.
    pub(crate) fn read(success: bool, complaint: &str) -> Answer {
        if success && complaint.is_empty() {
            return Answer::Accepted;
        }
        if complaint.contains("strict decoding error: ") {
            let fields: Vec<_> = complaint
                .split("unknown field \"")
                .skip(1)
                .filter_map(|rest| rest.split_once('"').map(|(field, _)| field.to_owned()))
                .collect();
            if !fields.is_empty() {
                return Answer::Unknown(fields);
            }
        }
        let causes: Vec<_> = if let Some((_, cause)) =
            complaint.split_once(" is invalid: ").filter(|(_, c)| !c.starts_with('\n'))
        {
            vec![cause]
        } else {
            complaint.lines().filter_map(|line| line.strip_prefix("* ")).collect()
        };
        let causes: Vec<_> = causes
            .into_iter()
            .filter_map(|cause| cause.trim_end().split_once(": "))
            // Remarks about the whole, beside what is told of the fields: rules were skipped, a value could not be decoded.
            .filter(|(path, _)| *path != "<nil>")
            .map(|(path, words)| (path.to_owned(), words.to_owned()))
            .collect();
        if causes.is_empty() { Answer::Unclear(complaint.trim().to_owned()) } else { Answer::Invalid(causes) }
    }
}

#[test]
fn answers_of_kubectl() {
    let invalid = |causes: &[(&str, &str)]| {
        Answer::Invalid(
            causes.iter().map(|(path, words)| ((*path).to_owned(), (*words).to_owned())).collect(),
        )
    };
    for (success, complaint, answer) in [
        (true, "", Answer::Accepted),
        (
            true,
            "Warning: unknown field \"spec.x\"",
            Answer::Unclear("Warning: unknown field \"spec.x\"".into()),
        ),
        (
            false,
            "Error from server (BadRequest): error when creating \"m.yaml\": VirtualService in version \"v1alpha1\" cannot be \
             handled as a VirtualService: strict decoding error: unknown field \"spec.a\", unknown field \"spec.b[0].c\"\n",
            Answer::Unknown(vec!["spec.a".into(), "spec.b[0].c".into()]),
        ),
        (
            false,
            "The VirtualService \"b\" is invalid: spec.realServers: Invalid value: nobody serves IPv4\n",
            invalid(&[("spec.realServers", "Invalid value: nobody serves IPv4")]),
        ),
        (
            false,
            "The VirtualService \"a\" is invalid: \n* spec: Invalid value: one\n* spec.addresses[0]: Invalid value: \"x\": two\n",
            invalid(&[("spec", "Invalid value: one"), ("spec.addresses[0]", "Invalid value: \"x\": two")]),
        ),
        (
            false,
            "The Director \"a\" is invalid: \n* spec: Required value\n* <nil>: Invalid value: null: some validation rules were not \
             checked because the object was invalid\n",
            invalid(&[("spec", "Required value")]),
        ),
        (false, "error: no such host", Answer::Unclear("error: no such host".into())),
    ] {
        assert_eq!(Answer::read(success, complaint), answer, "{complaint}");
    }
}
