//! The kernels' tables at the moments that matter: when the scenario began, before the first thing that changes something, at the end.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::timeline::Timeline;
use crate::scenario::step::Action;
use crate::scenario::{Feature, Scenario, Step};
use crate::world::{Exec, World};

/// The file, in the folder of results.
const FILE: &str = "tables.json";
/// As much is kept of each table, in bytes.
const MAX_TABLE: usize = 128 << 10;
/// How long a node may take to print its tables.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of nodes without a director's program this is enough.
const PLAIN: [&str; 2] = ["ip -brief address show", "ip route show"];
/// What a director has besides.
const DIRECTOR: [&str; 2] = ["ipvsadm -Ln", "nft list ruleset"];
/// Before each table, so that one call prints all.
const MARK: &str = "-- bascule-lab table --";

/// Tables, as they were seen.
#[derive(Default)]
pub(super) struct Moments {
    seen: Vec<Value>,
    changed: bool,
}

impl Moments {
    /// Looks, if this is the first step that changes something.
    pub(super) fn before(&mut self, step: &Step, scenario: &Scenario, world: &World, timeline: &Timeline) {
        let changes = matches!(
            step.action,
            Action::Fault(_) | Action::Apply(_) | Action::Server(_) | Action::RestartAgent(_)
        );
        if changes && !self.changed {
            self.changed = true;
            self.look("beforeChange", scenario, world, timeline);
        }
    }

    /// Looks at all nodes that are on. What cannot be read is left out: it says nothing about what is tested.
    pub(super) fn look(&mut self, moment: &str, scenario: &Scenario, world: &World, timeline: &Timeline) {
        let t = timeline.seconds(crate::world::now());
        let mut nodes = Map::new();
        for spec in &scenario.topology.nodes {
            let Ok(node) = world.node(&spec.name) else { continue };
            if !node.is_up() || node.is_frozen() {
                continue;
            }
            let director = spec.agent.is_some() || spec.peer.is_some();
            // ipvsadm would load the module for a scenario that does without.
            let ipvs = scenario.requires.kernel.contains(&Feature::Ipvs);
            let wanted = |command: &&&str| director && (ipvs || !command.starts_with("ipvsadm"));
            let commands: Vec<&str> = PLAIN.iter().chain(DIRECTOR.iter().filter(wanted)).copied().collect();
            // Nice: who looks must not be in the way of what is looked at.
            let each: Vec<String> = commands
                .iter()
                .map(|command| format!("echo '{MARK}'; nice -n 15 {command} 2>/dev/null"))
                .collect();
            let exec = Exec::shell(&each.join("; ")).timeout(PATIENCE).limit(4 * MAX_TABLE);
            let Ok(output) = node.exec(&exec) else { continue };
            nodes.insert(spec.name.to_string(), tables(&commands, &output.text()));
        }
        self.seen.push(json!({"moment": moment, "t": t, "nodes": nodes}));
    }

    /// Writes them down.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_string_pretty(&self.seen)?;
        text.push('\n');
        std::fs::write(folder.join(FILE), text)
    }
}

/// What each command printed.
fn tables(commands: &[&str], printed: &str) -> Value {
    let mut tables = Map::new();
    for (command, text) in commands.iter().zip(printed.split(&format!("{MARK}\n")).skip(1)) {
        let end = (0..=text.len().min(MAX_TABLE)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        if !text.trim().is_empty() {
            tables.insert((*command).to_owned(), text[..end].trim_end().into());
        }
    }
    Value::Object(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_told_apart() {
        let printed = format!("{MARK}\nlo UP\n{MARK}\n{MARK}\nIP Virtual Server\n");
        let commands = ["ip -brief address show", "ip route show", "ipvsadm -Ln"];
        assert_eq!(
            tables(&commands, &printed),
            json!({"ip -brief address show": "lo UP", "ipvsadm -Ln": "IP Virtual Server"})
        );
    }
}
