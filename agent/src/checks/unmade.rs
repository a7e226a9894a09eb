//! Checks that cannot be run: each is said once for each reason. (Status and metrics tell of them for as long as it lasts.)

use std::collections::{BTreeMap, BTreeSet};

use bascule_compile::CheckKey;

/// Reasons that are said of one HealthCheck at most: some name a real server, of which there may be thousands.
const REASONS: usize = 8;

/// What was said, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Unmade {
    said: BTreeMap<CheckKey, BTreeSet<String>>,
    /// By reason.
    unsaid: BTreeMap<String, BTreeSet<CheckKey>>,
}

impl Unmade {
    /// A check cannot be run for a real server.
    pub(super) fn note(&mut self, check: &CheckKey, reason: &str) {
        let said = self.said.entry(check.clone()).or_default();
        if said.len() < REASONS && said.insert(reason.to_owned()) {
            self.unsaid.entry(reason.to_owned()).or_default().insert(check.clone());
        }
    }

    /// A HealthCheck is another one now, or is named by nobody any more.
    pub(super) fn forget(&mut self, check: &CheckKey) {
        self.said.remove(check);
    }

    /// Whether anything was, since it was forgotten.
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// A line for each reason that was not said yet.
    pub(super) fn lines(&mut self) -> Vec<String> {
        let line = |(reason, checks): (String, BTreeSet<CheckKey>)| {
            let first = checks.first().map(ToString::to_string).unwrap_or_default();
            let others = match checks.len() {
                0 | 1 => String::new(),
                count => format!(" and {} others", count - 1),
            };
            format!("HealthCheck {first}{others} cannot be run: {reason}; real servers stay what they were")
        };
        std::mem::take(&mut self.unsaid).into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_reason() {
        let check = |name: &str| CheckKey::new("tp", name);
        let mut unmade = Unmade::default();
        for _ in 0..3 {
            for number in 1..=1_000 {
                unmade.note(&check(&format!("check-{number}")), "no authorities");
            }
            unmade.note(&check("gone"), "there is no such HealthCheck");
        }
        let lines = unmade.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("HealthCheck tp/check-1 and 999 others cannot be run: no authorities;"));
        assert!(lines[1].starts_with("HealthCheck tp/gone cannot be run: there is no such"), "{lines:?}");
        unmade.note(&check("gone"), "there is no such HealthCheck");
        assert!(unmade.lines().is_empty());
        // It changes, and does not become better.
        unmade.forget(&check("gone"));
        unmade.note(&check("gone"), "there is no such HealthCheck");
        assert_eq!(unmade.lines().len(), 1);
        // However many reasons there are.
        for number in 0..1_000 {
            unmade.note(&check("families"), &format!("10.0.0.{number}"));
        }
        assert_eq!(unmade.lines().len(), REASONS);
    }
}
