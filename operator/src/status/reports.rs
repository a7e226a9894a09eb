//! What the agents say of one thing, each on its director, as one answer.

use bascule_compile::BindingKey;
use bascule_crds::common::Condition;

use super::Surroundings;
use super::conditions::{Truth, Verdict};
use crate::bound::{Binding, Binds, Bound};

/// As many directors are named in a message.
const NAMED: usize = 4;

/// Whether a director's agent lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It renews its Lease.
    Alive,
    /// It does not; why that is thought.
    Unknown(String),
}

/// What one director's agent says.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The director.
    pub director: &'a str,
    /// Whether its agent lives.
    pub life: Life,
    /// Whether it speaks of what is to be there now: that is written, and the agent has taken it up.
    pub current: bool,
    /// What it says.
    pub conditions: &'a [Condition],
    /// Why the API server refuses what is to be there.
    pub refused: Option<String>,
}

impl Report<'_> {
    fn alive(&self) -> bool {
        self.life == Life::Alive
    }

    fn says(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|one| one.type_ == type_)
    }
}

/// Where an object is to be, what is said there, and by which binding.
pub(super) fn of<'a>(
    around: &Surroundings<'a>,
    binds: Binds,
    key: &BindingKey,
) -> Vec<(Report<'a>, Option<&'a Binding>)> {
    let on = |director: &'a String| {
        let bound = Bound::new(binds, key.clone(), director);
        let wanted = bound.wanted(around.compiled)?;
        let place = bound.place();
        let binding = around.index.binding(binds, &place);
        let said = binding.and_then(Binding::said);
        let current = binding.zip(said).is_some_and(|(binding, (observed, _))| {
            binding.spec() == wanted && observed == binding.meta().generation
        });
        let report = Report {
            director,
            life: (around.life)(director),
            current,
            conditions: said.map_or(&[], |(_, conditions)| conditions),
            refused: (around.refused)(binds.kind(), &place),
        };
        Some((report, binding))
    };
    around.compiled.nodes.keys().filter_map(on).collect()
}

/// Whether every living director has spoken of what is to be there now.
pub(super) fn settled(reports: &[Report<'_>]) -> bool {
    reports.iter().all(|one| one.current || !one.alive() || one.refused.is_some())
}

/// `Programmed` and `Ready`; `QuorumMet` and `Degraded` where living directors say it. `reports` is not empty.
///
/// Of a service with several directors nothing is said of one that is not known, as long as another one lives: a director that is lost would be
/// as many writes as it has services.
pub(super) fn verdicts(reports: &[Report<'_>]) -> Vec<Verdict> {
    let mut verdicts = vec![programmed(reports), ready(reports)];
    verdicts.extend(quorum(reports));
    let alive: Vec<_> = reports.iter().filter(|one| one.alive()).cloned().collect();
    verdicts.extend(degraded(&alive));
    verdicts
}

/// Whether the kernels of all living directors hold it.
pub(super) fn programmed(reports: &[Report<'_>]) -> Verdict {
    let refused: Vec<_> =
        reports.iter().filter_map(|one| Some((one.director, one.refused.as_deref()?))).collect();
    if !refused.is_empty() {
        return Verdict::new("Programmed", Truth::False, "Rejected", named(&refused));
    }
    if let Some(unknown) = nobody_lives("Programmed", reports) {
        return unknown;
    }
    if let Some(bad) = bad("Programmed", reports) {
        return bad;
    }
    let pending: Vec<_> = reports
        .iter()
        .filter(|one| one.alive() && (!one.current || one.says("Programmed").is_none()))
        .map(|one| (one.director, "its agent has yet to carry it out"))
        .collect();
    if !pending.is_empty() {
        return Verdict::new("Programmed", Truth::False, "Pending", named(&pending));
    }
    Verdict::new("Programmed", Truth::True, "Programmed", "")
}

/// Whether it does its work on all living directors.
pub(super) fn ready(reports: &[Report<'_>]) -> Verdict {
    if let Some(unknown) = nobody_lives("Ready", reports) {
        return unknown;
    }
    // What serves goes on serving while a change is carried out.
    let earlier = !settled(reports);
    let verdict = bad("Ready", reports).unwrap_or_else(|| {
        let silent: Vec<_> = reports
            .iter()
            .filter(|one| one.alive() && one.says("Ready").is_none_or(|said| said.status == "Unknown"))
            .map(|one| (one.director, "its agent has yet to say"))
            .collect();
        if silent.is_empty() {
            Verdict::new("Ready", Truth::True, "Ready", "")
        } else {
            Verdict::new("Ready", Truth::Unknown, "Pending", named(&silent))
        }
    });
    Verdict { earlier, ..verdict }
}

fn quorum(reports: &[Report<'_>]) -> Option<Verdict> {
    let said = reports.iter().any(|one| one.alive() && one.says("QuorumMet").is_some());
    said.then(|| {
        let met = || Verdict::new("QuorumMet", Truth::True, "QuorumMet", "");
        Verdict { earlier: !settled(reports), ..bad("QuorumMet", reports).unwrap_or_else(met) }
    })
}

/// What works with less than there should be.
pub(super) fn degraded(reports: &[Report<'_>]) -> Option<Verdict> {
    let mut lacking: Vec<(&str, &str)> = Vec::new();
    let mut reason = None;
    for report in reports {
        match &report.life {
            Life::Unknown(why) => {
                reason.get_or_insert("DirectorUnknown");
                lacking.push((report.director, why));
            }
            Life::Alive => {
                if let Some(said) = report.says("Degraded").filter(|said| said.status == "True") {
                    reason.get_or_insert(said.reason.as_str());
                    lacking.push((report.director, &said.message));
                }
            }
        }
    }
    reason.map(|reason| Verdict::new("Degraded", Truth::True, reason, named(&lacking)))
}

/// What is said where no director lives.
fn nobody_lives(type_: &'static str, reports: &[Report<'_>]) -> Option<Verdict> {
    let why = |one: &Report<'_>| match &one.life {
        Life::Alive => None,
        Life::Unknown(why) => Some(why.clone()),
    };
    let whys: Option<Vec<String>> = reports.iter().map(why).collect();
    let whys = whys?;
    let told: Vec<_> = reports.iter().map(|one| one.director).zip(whys.iter().map(String::as_str)).collect();
    Some(Verdict::new(type_, Truth::Unknown, "DirectorUnknown", named(&told)))
}

/// The first director that says no, and what others say.
fn bad(type_: &'static str, reports: &[Report<'_>]) -> Option<Verdict> {
    let no: Vec<_> = reports
        .iter()
        .filter(|one| one.alive())
        .filter_map(|one| Some((one, one.says(type_).filter(|said| said.status == "False")?)))
        .collect();
    let (_, first) = no.first()?;
    let told: Vec<_> = no.iter().map(|(report, said)| (report.director, said.message.as_str())).collect();
    Some(Verdict::new(type_, Truth::False, &first.reason, named(&told)))
}

/// Each director with what is to be said of it, as many as are worth reading.
fn named(told: &[(&str, &str)]) -> String {
    let some = told.iter().take(NAMED).map(|(director, what)| {
        if what.is_empty() { (*director).to_owned() } else { format!("{director}: {what}") }
    });
    let mut text = some.collect::<Vec<_>>().join("; ");
    if told.len() > NAMED {
        text.push_str(&format!("; and {} more", told.len() - NAMED));
    }
    text
}
