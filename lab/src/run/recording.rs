//! Looks at what is up, and records its links, for a person who works in it.

use std::path::Path;

use super::captures::{self, Capture};
use super::error::Result;
use super::session::Up;
use crate::inspect::{Inspection, inspect};
use crate::scenario::Feature;

/// Links that are recorded.
pub struct Recording(Vec<Capture>);

impl Recording {
    /// Ends it.
    pub fn stop(&mut self) {
        for capture in &mut self.0 {
            capture.stop();
        }
    }

    /// Writes all of it into one file, with names and comments.
    ///
    /// # Errors
    /// When a link's frames cannot be read, or the file cannot be written.
    pub fn write(&self, up: &Up, path: &Path) -> Result<()> {
        captures::merge(&up.world, &up.scenario, &self.0, path)
    }
}

impl Up {
    /// How everything is now.
    pub fn inspect(&self) -> Inspection {
        // Asking for its table would load the module for a scenario that does without.
        let ipvs = self.scenario.requires.kernel.contains(&Feature::Ipvs);
        inspect(&self.scenario.name, &self.scenario.topology, &self.world, ipvs)
    }

    /// Nodes and interfaces from `NODE` and `NODE:INTERFACE`; all when none is given.
    ///
    /// # Errors
    /// One that is not there, and those that are.
    pub fn links(&self, wanted: &[String]) -> std::result::Result<Vec<(String, String)>, String> {
        let all: Vec<(String, String)> = self
            .world
            .nodes()
            .iter()
            .flat_map(|node| {
                let name = node.name().to_owned();
                node.interfaces().into_iter().map(move |interface| (name.clone(), interface))
            })
            .collect();
        choose(&all, wanted)
    }

    /// Begins to record links.
    ///
    /// # Errors
    /// When one cannot be recorded.
    pub fn record(&self, links: &[(String, String)]) -> Result<Recording> {
        let mut recording = Recording(Vec::new());
        for (node, interface) in links {
            match Capture::start(&self.world, node, interface) {
                Ok(capture) => recording.0.push(capture),
                Err(error) => {
                    recording.stop();
                    return Err(error);
                }
            }
        }
        Ok(recording)
    }
}

fn choose(all: &[(String, String)], wanted: &[String]) -> std::result::Result<Vec<(String, String)>, String> {
    if wanted.is_empty() {
        return Ok(all.to_vec());
    }
    let mut chosen: Vec<(String, String)> = Vec::new();
    for link in wanted {
        let (node, interface) = link.split_once(':').map_or((link.as_str(), None), |(a, b)| (a, Some(b)));
        let meant = |(of, name): &&(String, String)| {
            of.eq_ignore_ascii_case(node) && interface.is_none_or(|interface| interface == name)
        };
        let found: Vec<_> = all.iter().filter(meant).cloned().collect();
        if found.is_empty() {
            let there: Vec<String> = all.iter().map(|(node, name)| format!("{node}:{name}")).collect();
            return Err(format!("there is no link {link}; there are {}", there.join(", ")));
        }
        let new: Vec<_> = found.into_iter().filter(|link| !chosen.contains(link)).collect();
        chosen.extend(new);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_chosen_by_node_and_interface() {
        let link = |node: &str, interface: &str| (node.to_owned(), interface.to_owned());
        let all = [link("dir1", "enp0s3"), link("dir1", "enp0s8"), link("ClientA", "enp0s3")];
        let chosen =
            |wanted: &[&str]| choose(&all, &wanted.iter().map(|&one| one.to_owned()).collect::<Vec<_>>());
        assert_eq!(chosen(&[]), Ok(all.to_vec()));
        assert_eq!(chosen(&["clienta"]), Ok(vec![link("ClientA", "enp0s3")]));
        assert_eq!(
            chosen(&["dir1:enp0s8", "dir1"]),
            Ok(vec![link("dir1", "enp0s8"), link("dir1", "enp0s3")])
        );
        assert_eq!(chosen(&["dir1", "dir1:enp0s3"]).map(|links| links.len()), Ok(2));
        let wrong = chosen(&["dir1:eth0"]).unwrap_err();
        assert!(wrong.contains("dir1:eth0") && wrong.contains("ClientA:enp0s3"), "{wrong}");
    }
}
