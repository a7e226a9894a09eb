//! The transition table, `table.txt`, row by row; and that it has a row for every state and input.

mod language;

use std::collections::BTreeSet;

use language::Row;

#[test]
fn every_row_holds() {
    let failures: Vec<String> = rows().filter_map(|row| row.check().err()).collect();
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures.join("\n"));
}

/// The match is total by the compiler; the table is by this.
#[test]
fn every_state_and_input_has_a_row() {
    let covered: BTreeSet<(&str, &str)> = rows().map(|row| (row.state_kind(), row.input_kind())).collect();
    let mut missing = Vec::new();
    for state in ["Initialize", "Backup listening", "Backup ready", "Active holding", "Active releasing"] {
        for input in [
            "Startup",
            "Resume",
            "Shutdown",
            "Timer",
            "Advert",
            "Release",
            "Activate",
            "GiveWay",
            "GroupReleased",
            "GroupHeard",
        ] {
            if !covered.contains(&(state, input)) {
                missing.push((state, input));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

fn rows() -> impl Iterator<Item = Row> {
    include_str!("table.txt")
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|(number, line)| Row::read(number + 1, line))
}
