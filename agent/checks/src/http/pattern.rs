//! Regular expressions on bodies: linear in time, bounded in size, one for all probes that have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use regex::bytes::{Regex, RegexBuilder};

use crate::{Invalid, words};

/// Bytes of a compiled expression at most. The time that a match takes grows with this times the window, however the body looks.
const SIZE_MAX: usize = 256 * 1024;
/// Characters of an expression at most, as in the API.
const TEXT_MAX: usize = 256;

/// A compiled expression.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Arc<Regex>);

impl Pattern {
    pub(crate) fn is_match(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }

    pub(crate) fn text(&self) -> &str {
        self.0.as_str()
    }
}

/// The expressions that probes have.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    made: Mutex<HashMap<String, Weak<Regex>>>,
}

impl Patterns {
    /// Compiles an expression, or finds it.
    pub(crate) fn get(&self, field: &'static str, text: &str) -> Result<Pattern, Invalid> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(regex) = made.get(text).and_then(Weak::upgrade) {
            return Ok(Pattern(regex));
        }
        if text.chars().count() > TEXT_MAX {
            return Err(Invalid::new(field, format!("has more than {TEXT_MAX} characters")));
        }
        let regex = RegexBuilder::new(text).size_limit(SIZE_MAX).dfa_size_limit(SIZE_MAX).build();
        let regex = Arc::new(regex.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                Invalid::new(field, "is too large once its repetitions are written out")
            }
            error => {
                let line = error.to_string();
                let last = line.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Invalid::new(field, format!("is not a regular expression: {}", words::short(&last, 80)))
            }
        })?);
        made.retain(|_, regex| regex.strong_count() > 0);
        made.insert(text.to_owned(), Arc::downgrade(&regex));
        Ok(Pattern(regex))
    }
}
