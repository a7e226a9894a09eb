//! Collecting what is wrong with an object.

use crate::types::{Problem, Reason};

/// The problems found so far with one object.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// The object contradicts itself.
    pub(crate) fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add(Reason::Invalid, field, message);
    }

    /// The field asks for something that this version does not do; `what` as in "health checks are".
    pub(crate) fn unsupported(&mut self, field: impl Into<String>, what: &str) {
        self.add(
            Reason::Unsupported,
            field,
            format!("{what} not supported by this version; remove the field"),
        );
    }

    pub(crate) fn add(&mut self, reason: Reason, field: impl Into<String>, message: impl Into<String>) {
        let problem = Problem { reason, field: field.into(), message: message.into() };
        // One mistake in a default shows at every real server.
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }
}
