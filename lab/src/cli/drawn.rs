//! `bascule-lab graph -o svg` and `-o mermaid`: a topology for pages and documents.

use std::fmt::Write as _;

use super::graph::{addresses, interface, members, runs};
use crate::scenario::Scenario;

/// Widths and heights, in pixels: of a machine's box, between two of them, of a rail's place, of a line of text, and of a letter in it.
const BOX: (usize, usize) = (150, 56);
const GAP: usize = 40;
const RAIL: usize = 96;
const LINE: usize = 14;
const LETTER: usize = 7;
const EDGE: usize = 20;

/// For Markdown that is shown by GitHub, GitLab and others.
pub(super) fn mermaid(scenario: &Scenario) -> String {
    let mut out = String::from("graph LR\n");
    for (number, network) in scenario.topology.networks.iter().enumerate() {
        let _ = writeln!(out, "  network{number}([\"{}\"])", entity(&network.name));
    }
    for (number, node) in scenario.topology.nodes.iter().enumerate() {
        let mut label = entity(&node.name);
        for what in runs(node) {
            label.push_str("<br/>");
            label.push_str(&entity(&what));
        }
        let _ = writeln!(out, "  node{number}[\"{label}\"]");
    }
    for (number, network) in scenario.topology.networks.iter().enumerate() {
        for (node, link) in members(scenario, network) {
            let Some(from) = scenario.topology.nodes.iter().position(|other| other.name == node.name) else {
                continue;
            };
            let mut label = entity(&interface(link));
            let all = addresses(link, "<br/>");
            if !all.is_empty() {
                label.push_str("<br/>");
                label.push_str(&all);
            }
            let _ = writeln!(out, "  node{from} ---|\"{label}\"| network{number}");
        }
    }
    out
}

/// A picture of its own: networks are rails, one half of them above the machines, the other below.
pub(super) fn svg(scenario: &Scenario) -> String {
    let topology = &scenario.topology;
    let above = topology.networks.len().div_ceil(2);
    let widest = |node: &crate::scenario::topology::Node| {
        let named = node.name.len().max(runs(node).join(", ").len());
        let linked = node.links.iter().map(|link| link.interface.len() + 2 + longest(&addresses(link, "\n")));
        (named.max(linked.max().unwrap_or(0)) * LETTER + 16).max(BOX.0)
    };
    let mut places = Vec::new();
    let mut right = EDGE;
    for node in &topology.nodes {
        let width = widest(node);
        places.push((right, width));
        right += width + GAP;
    }
    let machines = EDGE + above * RAIL;
    let rail = |number: usize| {
        if number < above {
            EDGE + LINE + number * RAIL
        } else {
            machines + BOX.1 + (number - above + 1) * RAIL - LINE
        }
    };
    let height = machines + BOX.1 + (topology.networks.len() - above) * RAIL + EDGE;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{right}\" height=\"{height}\" viewBox=\"0 0 {right} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        entity(&scenario.name)
    );
    for (number, network) in topology.networks.iter().enumerate() {
        let y = rail(number);
        let _ = writeln!(
            out,
            "<line x1=\"{EDGE}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"#336699\" stroke-width=\"3\"/>\n\
             <text x=\"{EDGE}\" y=\"{}\" fill=\"#336699\" font-weight=\"bold\">{}</text>",
            right.saturating_sub(GAP),
            y.saturating_sub(6),
            entity(&network.name)
        );
        for (node, link) in members(scenario, network) {
            let at = topology.nodes.iter().position(|other| other.name == node.name);
            let Some(&(x, width)) = at.and_then(|at| places.get(at)) else { continue };
            // Each link of a machine has a line of its own.
            let links = node.links.len().max(1);
            let nth = node.links.iter().position(|other| other.interface == link.interface).unwrap_or(0);
            let x = x + width * (2 * nth + 1) / (2 * links).max(4);
            let from = if number < above { machines } else { machines + BOX.1 };
            let _ = writeln!(
                out,
                "<line x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{y}\" stroke=\"#444444\"/>\n\
                 <circle cx=\"{x}\" cy=\"{y}\" r=\"4\" fill=\"#336699\"/>"
            );
            let label = std::iter::once(interface(link)).chain(link_lines(&addresses(link, "\n")));
            let first = if number < above { y + 18 } else { machines + BOX.1 + 16 };
            for (line, text) in label.enumerate() {
                let _ = writeln!(
                    out,
                    "<text x=\"{}\" y=\"{}\" font-size=\"11\">{}</text>",
                    x + 6,
                    first + line * LINE,
                    entity(&text)
                );
            }
        }
    }
    for (node, (x, width)) in topology.nodes.iter().zip(&places) {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{machines}\" width=\"{width}\" height=\"{}\" rx=\"6\" fill=\"#f4f4f4\" stroke=\"#444444\"/>\n\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>\n\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">{}</text>",
            BOX.1,
            machines + 24,
            entity(&node.name),
            machines + 42,
            entity(&runs(node).join(", ")),
            middle = x + width / 2,
        );
    }
    out.push_str("</svg>\n");
    out
}

fn longest(text: &str) -> usize {
    text.lines().map(str::len).max().unwrap_or(0)
}

fn link_lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Names are a user's: none of them is markup.
fn entity(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::resolve;

    #[test]
    fn the_tp_is_drawn() {
        let scenario = resolve("tp-ipvs").expect("it ships");
        insta::assert_snapshot!("graph_mermaid", mermaid(&scenario));
        insta::assert_snapshot!("graph_svg", svg(&scenario));
    }

    #[test]
    fn every_shipped_scenario_is_drawn_whole() {
        for shipped in crate::scenario::shipped::SHIPPED {
            let scenario = resolve(shipped.name).expect("it ships");
            let (drawn, written) = (svg(&scenario), mermaid(&scenario));
            assert_eq!(drawn.matches("<rect x=").count(), scenario.topology.nodes.len(), "{}", shipped.name);
            let links: usize = scenario.topology.nodes.iter().map(|node| node.links.len()).sum();
            assert_eq!(drawn.matches("<circle").count(), links, "{}", shipped.name);
            assert_eq!(written.matches(" ---|").count(), links, "{}", shipped.name);
        }
    }

    #[test]
    fn names_are_no_markup() {
        assert_eq!(entity("a<b>&\"c"), "a&lt;b&gt;&amp;&quot;c");
    }
}
