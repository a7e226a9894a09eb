//! Groups mixed with other implementations of VRRP: who becomes active, who takes over, who comes back. A selection in which every two
//! properties meet, at the usual intervals, runs always; `BASCULE_INTEROP=all` runs every combination, and `BASCULE_INTEROP_MATRIX=FILE` writes what came out.

mod case;
mod frr;
mod keepalived;
mod play;

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use case::{Case, Software};
use play::Seen;

use crate::net::can_run;

/// Combinations that are played at once: they mostly wait.
const WORKERS: usize = 4;

/// Plays cases and panics at the end if any went wrong.
fn run(software: Software, cases: &[Case]) -> Vec<(Case, Seen)> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<Seen, String>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((at, case)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|at| cases.get(at).map(|case| (at, case)))
                {
                    let seen = std::panic::catch_unwind(|| play::play(software, case));
                    let seen = seen.map_err(|cause| match cause.downcast::<String>() {
                        Ok(text) => *text,
                        Err(cause) => {
                            cause.downcast_ref::<&str>().map_or_else(String::new, ToString::to_string)
                        }
                    });
                    results.lock().unwrap().push((at, seen));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(at, _)| *at);
    let (mut seen, mut failures) = (Vec::new(), String::new());
    for (at, result) in results {
        match result {
            Ok(result) => seen.push((cases[at], result)),
            Err(text) => {
                let _ = writeln!(failures, "{software} {}: {text}", cases[at]);
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    eprintln!("{software}: {} of {} combinations", seen.len(), cases.len());
    seen
}

fn with(software: Software) {
    if !can_run() {
        return;
    }
    let Some(version) = software.version() else {
        eprintln!("not run here: {software} is not installed");
        return;
    };
    if software == Software::Frr && !frr::has_macvlan() {
        eprintln!("not run here: this kernel has no macvlan, which FRR's vrrpd needs");
        return;
    }
    let all = std::env::var("BASCULE_INTEROP").is_ok_and(|value| value == "all");
    let possible: Vec<Case> = Case::all().filter(|case| software.can(case)).collect();
    // Longer intervals take long, and with shorter ones a busy machine is taken for dead: both are for the whole matrix.
    let is_usual = |case: &&Case| case.interval_ms == if case.version == 2 { 1000 } else { 100 };
    let usual = |cases: &[Case]| cases.iter().filter(is_usual).copied().collect::<Vec<_>>();
    let cases = if all { possible } else { case::pairwise(&usual(&possible)) };
    let seen = run(software, &cases);
    if let Some(folder) = std::env::var_os("BASCULE_INTEROP_MATRIX").map(PathBuf::from) {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{}.md", software.word())), table(software, &version, &seen))
            .unwrap();
    }
}

fn table(software: Software, version: &str, seen: &[(Case, Seen)]) -> String {
    let mut text = format!("### {software} ({version})\n\n");
    text.push_str(
        "| version | family | sent | interval | preemption | password | higher priority | active | after its crash | after priority 0 | it returns |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (case, seen) in seen {
        let _ = writeln!(text, "{case}{seen}");
    }
    text
}

#[test]
fn keepalived_2_2() {
    with(Software::Keepalived);
}

#[test]
fn keepalived_2_3() {
    with(Software::NewerKeepalived);
}

#[test]
fn frr() {
    with(Software::Frr);
}

#[test]
fn the_selection_has_every_two_properties() {
    let all: Vec<Case> = Case::all().collect();
    let selection = case::pairwise(&all);
    assert!(selection.len() < all.len() / 4, "{} of {}", selection.len(), all.len());
    let pairs =
        |cases: &[Case]| -> std::collections::BTreeSet<_> { cases.iter().flat_map(Case::pairs).collect() };
    assert_eq!(pairs(&selection), pairs(&all));
}
