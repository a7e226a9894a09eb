//! What one run of a probe found.

/// Characters of a message at most, as in the status of a binding.
pub const MESSAGE_MAX: usize = 128;

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Passed,
    Failed,
    Undecided,
}

/// What one run of a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    finding: Finding,
    weight: Option<u16>,
    message: String,
}

impl Outcome {
    /// The probe passed.
    pub fn passed(message: impl Into<String>) -> Self {
        Self { finding: Finding::Passed, weight: None, message: bounded(message.into()) }
    }

    /// The probe failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { finding: Finding::Failed, weight: None, message: bounded(message.into()) }
    }

    /// The target was not asked: this machine lacked something, such as descriptors or ports. That says nothing about the target,
    /// so that its verdict stays as it is (keepalived: "Rescheduling").
    pub fn undecided(message: impl Into<String>) -> Self {
        Self { finding: Finding::Undecided, weight: None, message: bounded(message.into()) }
    }

    /// The same, with the weight that the real server shall have (keepalived: misc_dynamic).
    #[must_use]
    pub fn with_weight(mut self, weight: u16) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Whether it passed.
    pub fn is_passed(&self) -> bool {
        self.finding == Finding::Passed
    }

    /// Whether it says anything about the target: it passed or failed.
    pub fn is_decided(&self) -> bool {
        self.finding != Finding::Undecided
    }

    /// The weight that it asks for.
    pub fn weight(&self) -> Option<u16> {
        self.weight
    }

    /// Why, for a person: one line of at most [`MESSAGE_MAX`] characters, never a part of a body.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// One line without control characters, cut where it is too long.
fn bounded(text: String) -> String {
    let line = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= MESSAGE_MAX {
        return text.chars().map(line).collect();
    }
    text.chars().take(MESSAGE_MAX - 1).map(line).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_bounded_line() {
        assert_eq!(Outcome::failed("503,\r\nwanted 200").message(), "503,  wanted 200");
        let long = Outcome::failed("é".repeat(MESSAGE_MAX + 1));
        assert_eq!(long.message().chars().count(), MESSAGE_MAX);
        assert!(long.message().ends_with('…'));
    }
}
