//! What was measured: the file for programs and the table for people.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// All of `bench.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The benchmark.
    pub name: String,
    /// The kernel's release, and what it ran in.
    pub kernel: String,
    /// Processors.
    pub cpus: usize,
    /// What was compared.
    pub comparisons: Vec<Comparison>,
}

/// One figure, ours and, where there is one, a peer's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// What was measured.
    pub what: String,
    /// In what: `s`, `ms`, `MB`, `% of a core`.
    pub unit: &'static str,
    /// Whether less is better.
    pub lower_is_better: bool,
    /// Ours.
    pub ours: Ours,
    /// The peer's.
    pub peer: Option<Peer>,
    /// Our median over the peer's.
    pub ratio: Option<f64>,
    /// What is to be reached: the ratio where there is a peer, else the figure itself.
    pub limit: Option<f64>,
    /// Whether it was; none without a limit.
    pub met: Option<bool>,
}

/// What we measured of ourselves.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ours {
    /// What the program says of its version.
    pub version: String,
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
}

/// What we measured of somebody else.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Who.
    pub name: String,
    /// What the program says of its version.
    pub version: String,
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
}

impl Comparison {
    /// A figure of ours, where less is better.
    pub(super) fn new(what: impl Into<String>, unit: &'static str, version: &str, samples: &[f64]) -> Self {
        Self {
            what: what.into(),
            unit,
            lower_is_better: true,
            ours: Ours { version: version.to_owned(), samples: samples.iter().copied().map(round).collect() },
            peer: None,
            ratio: None,
            limit: None,
            met: None,
        }
    }

    /// More is better.
    #[must_use]
    pub(super) fn more_is_better(mut self) -> Self {
        self.lower_is_better = false;
        self
    }

    /// Beside a peer's.
    #[must_use]
    pub(super) fn beside(mut self, peer: Peer) -> Self {
        let peer = Peer { samples: peer.samples.into_iter().map(round).collect(), ..peer };
        let (ours, theirs) = (median(&self.ours.samples), median(&peer.samples));
        self.ratio = (theirs > 0.0 && ours.is_finite()).then(|| round(ours / theirs));
        self.peer = Some(peer);
        self
    }

    /// The ratio, or the median of ours without a peer, is to be at most this.
    #[must_use]
    pub(super) fn at_most(self, limit: f64) -> Self {
        let reached = if self.peer.is_some() { self.ratio } else { Some(median(&self.ours.samples)) };
        self.judged(limit, reached)
    }

    /// Each of our samples is to be at most this.
    #[must_use]
    pub(super) fn each_at_most(self, limit: f64) -> Self {
        let worst = self.ours.samples.iter().copied().reduce(f64::max);
        self.judged(limit, worst)
    }

    fn judged(mut self, limit: f64, reached: Option<f64>) -> Self {
        self.limit = Some(limit);
        self.met = Some(reached.is_some_and(|reached| reached <= limit));
        self
    }
}

/// To a nanosecond where the unit is a second: more digits say nothing.
fn round(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// The middle, or the mean of the two in the middle; not a number of none.
pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// The least sample that at least `percent` of a hundred samples do not exceed (nearest rank).
pub(super) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

impl Report {
    /// Whether every limit was met.
    pub fn all_met(&self) -> bool {
        self.comparisons.iter().all(|comparison| comparison.met != Some(false))
    }

    /// Writes `bench.json` into a folder, which is made.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join("bench.json");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = format!("\n{} on {}, {} processors\n", self.name, self.kernel, self.cpus);
        let mut rows = vec![["", "Bascule", "peer", "ratio", "limit", ""].map(str::to_owned)];
        for one in &self.comparisons {
            rows.push([
                one.what.clone(),
                figure(&one.ours.samples, one.unit),
                one.peer.as_ref().map_or_else(String::new, |peer| {
                    format!("{} {}", peer.name, figure(&peer.samples, one.unit))
                }),
                one.ratio.map_or_else(String::new, proportion),
                one.limit.map_or_else(String::new, |limit| {
                    if one.peer.is_some() {
                        proportion(limit)
                    } else {
                        format!("{} {}", number(limit), one.unit)
                    }
                }),
                match one.met {
                    Some(true) => "met",
                    Some(false) => "NOT MET",
                    None => "",
                }
                .to_owned(),
            ]);
        }
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &rows {
            let mut line = String::from(" ");
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, " {cell:<width$} ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A ratio as people say it: 0.13, or 1/7.5 where it is small.
fn proportion(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.5 { format!("1/{}", number(1.0 / ratio)) } else { number(ratio) }
}

/// The median, and from what to what when there are several.
fn figure(samples: &[f64], unit: &str) -> String {
    let middle = number(median(samples));
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match samples.len() {
        0 => "none".to_owned(),
        1 => format!("{middle} {unit}"),
        count => format!("{middle} {unit} ({} to {}, {count} samples)", number(least), number(most)),
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert!(median(&[]).is_nan() && percentile(&[], 99).is_nan());
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        for (samples, middle, high) in [
            (&[3.0][..], 3.0, 3.0),
            (&[5.0, 1.0][..], 3.0, 5.0),
            (&[9.0, 1.0, 2.0][..], 2.0, 9.0),
            (&hundred, 50.5, 99.0),
        ] {
            assert!((median(samples) - middle).abs() < 1e-9, "{samples:?}");
            assert!((percentile(samples, 99) - high).abs() < 1e-9, "{samples:?}");
        }
    }

    fn report() -> Report {
        let peer = |samples: &[f64]| Peer {
            name: "ipvsadm".into(),
            version: "1.31".into(),
            samples: samples.to_vec(),
        };
        Report {
            name: "ipvs-program".into(),
            kernel: "6.1.0".into(),
            cpus: 2,
            comparisons: vec![
                Comparison::new("in the kernel", "s", "0.1.0", &[0.5, 0.7, 0.6])
                    .beside(peer(&[6.0]))
                    .at_most(1.0 / 7.0),
                Comparison::new("in the kernel, bare", "s", "0.1.0", &[1.5])
                    .beside(peer(&[1.0]))
                    .at_most(1.2),
                Comparison::new("memory", "MB", "0.1.0", &[150.0]).at_most(200.0),
                Comparison::new("address", "ms", "0.1.0", &[1.0, 70.0, 2.0]).each_at_most(50.0),
                Comparison::new("all of it", "s", "0.1.0", &[4.0]).beside(peer(&[40.0])),
            ],
        }
    }

    #[test]
    fn limits_hold_for_the_ratio_or_for_the_figure_or_for_each_sample() {
        let report = report();
        let met: Vec<_> = report.comparisons.iter().map(|comparison| comparison.met).collect();
        assert_eq!(met, [Some(true), Some(false), Some(true), Some(false), None]);
        assert!(!report.all_met());
    }

    #[test]
    fn the_file_and_the_table() {
        insta::assert_snapshot!(report().table());
        insta::assert_json_snapshot!(report().comparisons[0]);
        insta::assert_json_snapshot!(report().comparisons[2]);
    }
}
