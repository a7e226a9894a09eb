//! A scenario as a file that `bascule-lab run` plays.

use super::{Problem, Scenario, load};

/// Writes it as YAML, below a heading of comments, and reads that back: what comes out is what will be played.
///
/// # Errors
/// When it cannot be written, or is no scenario.
pub(crate) fn write(scenario: &Scenario, heading: &str) -> Result<(String, Scenario), String> {
    let yaml =
        serde_saphyr::to_string(scenario).map_err(|error| format!("writing {}: {error}", scenario.name))?;
    let comments: String = heading.lines().map(|line| format!("# {line}\n")).collect();
    let text = comments + &yaml;
    let told =
        |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let read = load(&format!("{}.yaml", scenario.name), &text).map_err(told)?;
    Ok((text, read))
}
