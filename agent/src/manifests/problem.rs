//! What is wrong with a manifest, told so that a person finds the place.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an error means for the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// What the error is about is not used; nothing else is touched by it.
    #[default]
    Ignored,
    /// The last good form of what the error is about stays in force.
    LastGoodStays,
    /// The field is not used; the others of the object are in force.
    OthersInForce,
}

/// One error in the manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Problem {
    /// The file, with the directory as it was given.
    pub file: String,
    /// Line in the file, from 1; none when the whole file is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The object, as `VirtualService tp/web`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of the field, as `spec.ports[0].port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The reason in one word, as conditions have it (`Invalid`, `Unsupported`, `Conflicted`, …).
    pub reason: String,
    /// What is the matter, and the way out.
    pub message: String,
    /// What it means for the machine.
    pub effect: Effect,
}

impl fmt::Display for Problem {
    /// `FILE:LINE: FIELD: MESSAGE (VirtualService tp/web)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if let Some(field) = self.field.as_deref().filter(|field| !field.is_empty()) {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        let stays = match self.effect {
            Effect::Ignored => None,
            Effect::LastGoodStays => Some("its last good form stays in force"),
            Effect::OthersInForce => Some("its other fields are in force"),
        };
        match (&self.object, stays) {
            (Some(object), Some(stays)) => write!(f, " ({object}; {stays})"),
            (Some(object), None) => write!(f, " ({object})"),
            (None, Some(_)) => f.write_str(" (what was last read from it stays in force)"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_told_as_compilers_do() {
        let whole =
            Problem { file: "m/a.yaml".into(), message: "is a directory".into(), ..Problem::default() };
        assert_eq!(whole.to_string(), "m/a.yaml: is a directory");
        let frozen = Problem { line: Some(3), effect: Effect::LastGoodStays, ..whole.clone() };
        assert_eq!(
            frozen.to_string(),
            "m/a.yaml:3: is a directory (what was last read from it stays in force)"
        );
        let field = Problem {
            line: Some(12),
            object: Some("VirtualService tp/web".into()),
            field: Some("spec.ports[0].port".into()),
            message: "must be at most 65535".into(),
            ..whole
        };
        assert_eq!(
            field.to_string(),
            "m/a.yaml:12: spec.ports[0].port: must be at most 65535 (VirtualService tp/web)"
        );
        let stays = Problem { effect: Effect::LastGoodStays, ..field };
        assert!(stays.to_string().ends_with("(VirtualService tp/web; its last good form stays in force)"));
    }
}
