//! Reads a scenario file; every mistake has its line and field.

use std::fmt;
use std::path::Path;

use bascule_crds::manifest;

use super::topology::Name;
use super::{Fault, Scenario, check, refer, schema, shipped};

/// The largest scenario file, in bytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// A mistake in a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or the scenario's name, as it was given.
    pub file: String,
    /// 1 for the first line; 0 where the file as a whole is meant.
    pub line: usize,
    /// Such as `steps[3].requests.rate`; empty where the file as a whole is meant.
    pub field: String,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.field.is_empty() {
            write!(f, ": {}", self.message)
        } else {
            write!(f, ": {}: {}", self.field, self.message)
        }
    }
}

/// A shipped scenario by its name, else a scenario from a file: what has a slash or ends in `.yaml` is a path.
///
/// # Errors
/// All mistakes, in the order of their lines; or that none has that name.
pub fn resolve(name: &str) -> Result<Scenario, Vec<Problem>> {
    if let Some(shipped) = shipped::find(name) {
        return load(shipped.name, shipped.text);
    }
    let path = Path::new(name);
    if name.contains('/')
        || path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
    {
        return load_file(path);
    }
    let message = format!(
        "no scenario has that name{}; `bascule-lab list` names those that ship, and a file's path has a `/` or ends in `.yaml`",
        shipped::hint(name)
    );
    Err(vec![Problem { file: name.to_owned(), line: 0, field: String::new(), message }])
}

/// A fault that stands alone, judged as one in a scenario.
///
/// # Errors
/// All mistakes, in words.
pub fn fault(value: serde_json::Value) -> Result<Fault, String> {
    let schema = schema::schema();
    let violations = check::check_part(schema, &schema["$defs"]["Fault"], &value);
    let told = |violation: &check::Violation| {
        if violation.path.is_empty() {
            violation.message.clone()
        } else {
            format!("{}: {}", violation.path, violation.message)
        }
    };
    if violations.is_empty() {
        serde_json::from_value(value).map_err(|error| error.to_string())
    } else {
        Err(violations.iter().map(told).collect::<Vec<_>>().join("; "))
    }
}

/// Reads a scenario from a file.
///
/// # Errors
/// All mistakes, in the order of their lines.
pub fn load_file(path: &Path) -> Result<Scenario, Vec<Problem>> {
    load(&path.display().to_string(), &read_text(path)?)
}

/// The text of a file of at most [`MAX_BYTES`].
///
/// # Errors
/// That it is none, too large, or no text.
pub(crate) fn read_text(path: &Path) -> Result<String, Vec<Problem>> {
    let file = path.display().to_string();
    let whole =
        |message: String| vec![Problem { file: file.clone(), line: 0, field: String::new(), message }];
    let unreadable = |error: std::io::Error| whole(format!("cannot be read: {error}"));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(whole("is not a file".into()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(whole(format!("has {} bytes; a file has at most {MAX_BYTES}", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = String::from_utf8_lossy(good).matches('\n').count();
        vec![Problem {
            file: file.clone(),
            line: line + 1,
            field: String::new(),
            message: "is not text in UTF-8".into(),
        }]
    })
}

/// Reads a scenario. `file` is what mistakes call it; the scenario's name is its last part without `.yaml`.
///
/// # Errors
/// All mistakes, in the order of their lines: of the YAML, of the structure, of names that nothing has.
pub fn load(file: &str, text: &str) -> Result<Scenario, Vec<Problem>> {
    let problem = |line, field: &str, message| Problem {
        file: file.to_owned(),
        line,
        field: field.to_owned(),
        message,
    };
    let documents = manifest::parse(text).map_err(|error| vec![problem(error.line, "", error.message)])?;
    let document = match documents.as_slice() {
        [document] => document,
        [] => {
            return Err(vec![problem(
                0,
                "",
                "is empty; a scenario has `summary`, `topology` and `steps`".into(),
            )]);
        }
        [_, second, ..] => {
            return Err(vec![problem(
                second.line,
                "",
                "a scenario file has one document; here begins another".into(),
            )]);
        }
    };
    let place = |violations: Vec<check::Violation>| {
        let mut problems: Vec<Problem> = violations
            .into_iter()
            .map(|violation| problem(document.line_of(&violation.path), &violation.path, violation.message))
            .collect();
        problems.sort_by_key(|problem| problem.line);
        problems
    };
    let violations = check::check(schema::schema(), &document.value);
    if !violations.is_empty() {
        return Err(place(violations));
    }
    let mut scenario: Scenario = serde_json::from_value(document.value.clone())
        .map_err(|error| vec![problem(document.line, "", error.to_string())])?;
    scenario.name =
        Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    // It becomes the name of a folder.
    Name::check(&scenario.name)
        .map_err(|why| vec![problem(0, "", format!("the scenario is named after its file: {why}"))])?;
    let violations = refer::check(&scenario);
    if violations.is_empty() { Ok(scenario) } else { Err(place(violations)) }
}
