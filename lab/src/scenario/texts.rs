//! What programs and commands say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::expectation::{Count, Window};
use super::topology::Name;

/// What a program of a node logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogExpectation {
    /// The node.
    pub node: Name,
    /// `agent`, the name of one of its servers, or its peer program.
    pub program: Name,
    /// Words that one of its lines has.
    #[schemars(length(min = 1, max = 1024))]
    pub contains: String,
    /// How many such lines; at least one unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// When they were written; the whole run unless told.
    #[serde(default, skip_serializing_if = "Window::is_all")]
    pub window: Window,
}

/// What a command prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandExpectation {
    /// The node.
    pub node: Name,
    /// For `/bin/sh -c`.
    #[schemars(length(min = 1, max = 4096))]
    pub command: String,
    /// Its exit code; 0 unless told.
    #[serde(default)]
    pub exit_code: u8,
    /// What it prints.
    #[serde(default, skip_serializing_if = "TextExpectation::is_empty")]
    pub stdout: TextExpectation,
}

/// What is true of a text. Spaces in a row count as one; `*` in `lines` and `noLines` stands for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TextExpectation {
    /// Words that are in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub contains: Vec<String>,
    /// Words that are not in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub contains_not: Vec<String>,
    /// Lines that are in it, in this order, perhaps with others between.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub lines: Vec<String>,
    /// All of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
}

impl TextExpectation {
    /// Whether any text will do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
