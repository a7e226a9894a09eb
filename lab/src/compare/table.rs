//! Comparisons as people read them.

use std::fmt::Write as _;

use super::{Comparison, Part, Play};
use crate::expect::GapKind;
use crate::expect::bound::show;
use crate::run::Verdict;

/// What stands where there is nothing.
const NONE: &str = "–";
/// What a row is about.
const KINDS: [(GapKind, &str); 3] = [
    (GapKind::Held, "nobody had the address"),
    (GapKind::Claimed, "nobody else claimed it"),
    (GapKind::Served, "nobody answered"),
];

/// All comparisons, for a terminal.
pub fn text(comparisons: &[Comparison]) -> String {
    let mut text = String::new();
    for comparison in comparisons {
        let rows = rows(comparison);
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..=comparison.plays.len()).map(width).collect();
        let _ = writeln!(text, "\n{}, kernel {}", comparison.name, comparison.kernel);
        for row in &rows {
            let mut line = String::from(" ");
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, " {cell:<width$} ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for line in notes(comparison) {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// All comparisons as a page.
pub fn markdown(comparisons: &[Comparison]) -> String {
    let mut text = String::from("# Side by side\n");
    for comparison in comparisons {
        let _ = writeln!(text, "\n## {}\n\nOn kernel {}.\n", comparison.name, comparison.kernel);
        for (index, row) in rows(comparison).iter().enumerate() {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
            }
        }
        let notes = notes(comparison);
        if !notes.is_empty() {
            text.push('\n');
        }
        for line in notes {
            let _ = writeln!(text, "- {line}");
        }
    }
    text
}

/// A heading, then one row a measure; a column for each who played.
fn rows(comparison: &Comparison) -> Vec<Vec<String>> {
    let plays = &comparison.plays;
    let row = |what: &str, cell: &dyn Fn(&Play) -> String| -> Vec<String> {
        std::iter::once(what.to_owned()).chain(plays.iter().map(cell)).collect()
    };
    let mut rows = vec![
        row("", &|play| play.with.clone()),
        row("verdict", &|play| play.verdict.name().to_owned()),
        row("lines of configuration", &|play| play.configuration_lines.to_string()),
        row("requests lost", &|play| lost(play.requests)),
        row("connections survived", &|play| survived(play.connections)),
    ];
    for (kind, words) in KINDS {
        rows.push(row(&format!("{} gap at worst ({words})", kind.name()), &|play| worst(play, kind, None)));
    }
    let mut steps: Vec<&str> = Vec::new();
    for gap in plays.iter().flat_map(|play| &play.gaps) {
        if !steps.contains(&gap.step.as_str()) {
            steps.push(&gap.step);
        }
    }
    for step in steps {
        for (kind, _) in KINDS {
            let there = |play: &Play| play.gaps.iter().any(|gap| gap.step == step && gap.gap.kind == kind);
            if plays.iter().any(there) {
                rows.push(row(&format!("{}: {step}", kind.name()), &|play| worst(play, kind, Some(step))));
            }
        }
    }
    rows
}

/// The longest gap of a kind, of one step or of all.
fn worst(play: &Play, kind: GapKind, step: Option<&str>) -> String {
    let gaps =
        play.gaps.iter().filter(|gap| gap.gap.kind == kind && step.is_none_or(|step| gap.step == step));
    let longest = gaps.map(|gap| gap.gap.milliseconds).reduce(f64::max);
    longest.map_or_else(
        || NONE.to_owned(),
        |longest| show(std::time::Duration::from_secs_f64(longest.max(0.0) / 1000.0)),
    )
}

fn lost(part: Part) -> String {
    if part.of == 0 { NONE.to_owned() } else { format!("{} of {}", part.lost, part.of) }
}

fn survived(part: Part) -> String {
    if part.of == 0 {
        NONE.to_owned()
    } else {
        format!("{} of {}", part.of - part.lost.min(part.of), part.of)
    }
}

/// What a number does not say: why somebody has not passed, and what was played otherwise.
fn notes(comparison: &Comparison) -> Vec<String> {
    let mut notes = Vec::new();
    for play in &comparison.plays {
        if play.verdict != Verdict::Passed {
            let reason = play.reason.lines().next().unwrap_or_default();
            notes.push(format!("{}: {}: {reason}", play.with, play.verdict.name()));
        }
        for other in &play.otherwise {
            notes.push(format!("{} differs at `{}`: {}", play.with, other.step, other.because));
        }
    }
    notes
}
