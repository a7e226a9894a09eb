//! Regular expressions on bodies: linear in time, bounded in size, one for all probes that have it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use regex::bytes::{Regex, RegexBuilder};
use tokio::sync::{AcquireError, Semaphore};

use crate::course::Course;
use crate::{Invalid, words};

/// Bytes of a compiled regular expression at most. The time that a match takes grows with this times the window, whatever the body
/// is: some seconds for the worst ones.
pub const SIZE_MAX: usize = 256 * 1024;
/// Bytes of a compiled expression that is matched where the probe runs: some ten milliseconds for the worst ones, microseconds for
/// `It works`. What is larger (`\w+`, long repetitions) goes to a thread of its own, so that no other probe waits for it.
const LIGHT: usize = 8 * 1024;
/// What a match may take where the probe runs; an expression that once took longer is large from then on, whatever its size.
const LONG: Duration = Duration::from_millis(1);
/// Bytes of the tables that a match may build.
const TABLES_MAX: usize = 1024 * 1024;
/// Characters of an expression at most, as in the API.
const TEXT_MAX: usize = 256;
/// Threads that large expressions may keep busy.
const HEAVY_MAX: usize = 2;

/// A compiled expression.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    compiled: Arc<Compiled>,
    heavy: Arc<Semaphore>,
}

#[derive(Debug)]
struct Compiled {
    regex: Regex,
    light: AtomicBool,
    /// Of the threads for large ones each expression gets one at a time: one that thousands of probes have keeps no other waiting
    /// for longer than a match.
    turn: Arc<Semaphore>,
}

impl Compiled {
    fn new(regex: Regex, light: bool) -> Self {
        Self { regex, light: AtomicBool::new(light), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Where the probe runs.
    fn match_here(&self, bytes: &[u8]) -> bool {
        let begun = busy();
        let found = self.regex.is_match(bytes);
        self.took(busy().saturating_sub(begun));
        found
    }

    fn took(&self, time: Duration) {
        if time > LONG {
            self.light.store(false, Ordering::Relaxed);
        }
    }
}

/// What this thread has computed: the time of others on the same processor does not count.
fn busy() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Pattern {
    /// Whether the expression matches somewhere. Dropped, it goes on to its end on its thread, which is some seconds away at most.
    pub(crate) async fn is_match(&self, bytes: &Arc<[u8]>, course: &Course) -> Result<bool, String> {
        const NO_THREAD: &str = "no thread to match the body";
        if self.compiled.light.load(Ordering::Relaxed) {
            return Ok(self.compiled.match_here(bytes));
        }
        let turn = async {
            let own = Arc::clone(&self.compiled.turn).acquire_owned().await?;
            Ok::<_, AcquireError>((own, Arc::clone(&self.heavy).acquire_owned().await?))
        };
        let turn = course.turn(turn).await.ok_or("the body was not matched: other matches take too long")?;
        let turn = turn.map_err(|_| NO_THREAD)?;
        let (compiled, bytes) = (Arc::clone(&self.compiled), Arc::clone(bytes));
        let matching = tokio::task::spawn_blocking(move || {
            let found = compiled.regex.is_match(&bytes);
            drop(turn);
            found
        });
        matching.await.map_err(|_| NO_THREAD.into())
    }

    pub(crate) fn text(&self) -> &str {
        self.compiled.regex.as_str()
    }
}

/// The expressions that probes have.
#[derive(Debug)]
pub(crate) struct Patterns {
    made: Mutex<HashMap<String, Weak<Compiled>>>,
    heavy: Arc<Semaphore>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self { made: Mutex::default(), heavy: Arc::new(Semaphore::new(HEAVY_MAX)) }
    }
}

impl Patterns {
    /// Compiles an expression, or finds it.
    pub(crate) fn get(&self, field: &'static str, text: &str) -> Result<Pattern, Invalid> {
        let pattern = |compiled| Pattern { compiled, heavy: Arc::clone(&self.heavy) };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = made.get(text).and_then(Weak::upgrade) {
            return Ok(pattern(compiled));
        }
        if text.chars().count() > TEXT_MAX {
            return Err(Invalid::new(field, format!("has more than {TEXT_MAX} characters")));
        }
        let compiled = Arc::new(compile(field, text)?);
        made.retain(|_, compiled| compiled.strong_count() > 0);
        made.insert(text.to_owned(), Arc::downgrade(&compiled));
        Ok(pattern(compiled))
    }
}

fn compile(field: &'static str, text: &str) -> Result<Compiled, Invalid> {
    let within = |size| RegexBuilder::new(text).size_limit(size).dfa_size_limit(TABLES_MAX).build();
    if let Ok(regex) = within(LIGHT) {
        return Ok(Compiled::new(regex, true));
    }
    match within(SIZE_MAX) {
        Ok(regex) => Ok(Compiled::new(regex, false)),
        Err(regex::Error::CompiledTooBig(_)) => {
            Err(Invalid::new(field, "is too large once its repetitions and classes are written out"))
        }
        Err(error) => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(Invalid::new(field, format!("is no regular expression: {}", words::short(reason, 80))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course() -> Course {
        Course::new(Duration::from_secs(600))
    }

    #[test]
    fn expressions_that_are_refused() {
        let patterns = Patterns::default();
        let refused = |text: &str| patterns.get("field", text).unwrap_err().reason().to_owned();
        assert!(refused("(a").starts_with("is no regular expression: unclosed group"), "{}", refused("(a"));
        assert!(
            refused("(?=a)").starts_with("is no regular expression: look-around"),
            "{}",
            refused("(?=a)")
        );
        assert!(refused("(((a{100}){100}){100})").starts_with("is too large"));
        assert!(refused(&"a".repeat(257)).starts_with("has more than 256"));
    }

    #[test]
    fn probes_share_an_expression() {
        let patterns = Patterns::default();
        let first = patterns.get("field", "It works").unwrap();
        let second = patterns.get("other", "It works").unwrap();
        assert!(Arc::ptr_eq(&first.compiled, &second.compiled));
        assert!(first.compiled.light.load(Ordering::Relaxed));
        drop((first, second));
        patterns.get("field", r"\w+").unwrap();
        assert_eq!(patterns.made.lock().unwrap().len(), 1, "what nobody has is let go");
    }

    #[tokio::test]
    async fn what_would_explode_elsewhere_ends() {
        let patterns = Patterns::default();
        let body: Arc<[u8]> = vec![b'a'; crate::answer::http::WINDOW].into();
        for text in ["(a+a+)+b", "(a|aa)+$b", "((a{30}){30})b", "(?:a?){100}a{100}b"] {
            let pattern = patterns.get("field", text).unwrap();
            assert_eq!(pattern.is_match(&body, &course()).await, Ok(false), "{text}");
        }
    }

    #[tokio::test]
    async fn a_match_that_took_long_is_made_elsewhere_from_then_on() {
        let patterns = Patterns::default();
        let pattern = patterns.get("field", "It works").unwrap();
        let body: Arc<[u8]> = b"It works"[..].into();
        // Nobody gets a thread: only what is matched here is.
        let threads = Arc::clone(&patterns.heavy).acquire_many_owned(2).await.unwrap();
        pattern.compiled.took(LONG);
        assert_eq!(pattern.is_match(&body, &course()).await, Ok(true));
        pattern.compiled.took(2 * LONG);
        let course = Course::new(Duration::from_millis(10));
        assert!(pattern.is_match(&body, &course).await.is_err() && course.was_short());
        drop(threads);
        assert_eq!(pattern.is_match(&body, &super::tests::course()).await, Ok(true));
    }

    #[tokio::test]
    async fn an_expression_that_many_have_leaves_a_thread_to_others() {
        let patterns = Patterns::default();
        let (many, other) = (patterns.get("field", r"\w+").unwrap(), patterns.get("field", r"\d+").unwrap());
        let body: Arc<[u8]> = b"1"[..].into();
        // One is being matched, and takes very long.
        let running = Arc::clone(&many.compiled.turn).acquire_owned().await.unwrap();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let (many, body) = (many.clone(), Arc::clone(&body));
                tokio::spawn(async move { many.is_match(&body, &course()).await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(other.is_match(&body, &course()).await, Ok(true));
        assert!(waiting.iter().all(|one| !one.is_finished()));
        drop(running);
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(true));
        }
    }
}
