//! `bascule-operator` against a real kube-apiserver, with exactly the rights of `operator/deploy/rbac.yaml`. Most is one test, because one
//! server serves all; the parts build on each other. What waits for minutes has a server of its own, and waits beside the others.

mod agent;
mod bindings;
mod cluster;
mod conflicts;
mod disturbances;
mod faults;
mod maintenance;
mod rights;
mod rules;
mod scale;
mod statuses;

use std::time::Instant;

use anyhow::{Context as _, Result};

use cluster::Cluster;

/// A part's name and itself.
type Part = (&'static str, fn(&mut Cluster) -> Result<()>);

#[test]
fn against_a_real_api_server() {
    play(&[
        ("what files give", bindings::what_files_give),
        ("nothing is written twice", bindings::nothing_is_written_twice),
        ("life and death of agents", statuses::life_and_death),
        ("ready when agents say so", statuses::ready_when_agents_say_so),
        ("the group has one active", statuses::the_group_has_one_active),
        ("a cordoned node", maintenance::a_cordoned_node),
        ("statuses by hand", faults::statuses_by_hand),
        ("a weight is one write", bindings::a_weight_is_one_write),
        ("what others undo comes back", bindings::what_others_undo_comes_back),
        ("a name that was used again", bindings::a_name_that_was_used_again),
        ("what is deleted goes", bindings::what_is_deleted_goes),
        ("rules are carried", rules::rules_are_carried),
        ("two want one address", conflicts::two_want_one_address),
        ("hostile names", conflicts::hostile_names),
        ("a refused write", conflicts::a_refused_write),
        ("labelled nodes", conflicts::labelled_nodes),
        ("ids that are left out", statuses::ids_that_are_left_out),
        ("a namespace is deleted", faults::a_namespace_is_deleted),
        ("a bad line", faults::a_bad_line),
        ("killed in the middle", disturbances::killed_in_the_middle),
        ("the API server is gone for a while", disturbances::api_server_gone),
        ("the watches have expired", disturbances::watches_expired),
        ("a leader that was stopped", disturbances::a_leader_that_was_stopped),
        ("an end in order", disturbances::an_end_in_order),
    ]);
}

#[test]
fn each_right_is_missed() {
    play(&[
        ("what files give", bindings::what_files_give),
        ("each right is missed", rights::each_right_is_missed),
    ]);
}

/// Takes minutes, and is for figures: `cargo test -p bascule-tests --test operator -- --ignored --nocapture`.
#[test]
#[ignore = "for figures; takes minutes"]
fn many_services() {
    play(&[("what files give", bindings::what_files_give), ("many services", scale::many_services)]);
}

/// All of them, or the first one and those that `BASCULE_OPERATOR_PARTS` names, with commas.
fn play(parts: &[Part]) {
    let only = std::env::var("BASCULE_OPERATOR_PARTS").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|one| one == name));
    if !parts.iter().any(|(name, _)| wanted(name)) {
        return;
    }
    let mut cluster = Cluster::start().expect("a cluster with the operator");
    let chosen = parts.iter().enumerate().filter(|(at, (name, _))| *at == 0 || wanted(name));
    for (name, part) in chosen.map(|(_, part)| part) {
        let begin = Instant::now();
        let result = part(&mut cluster).with_context(|| (*name).to_owned());
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("{name}: {verdict} in {:.1} s", begin.elapsed().as_secs_f64());
        if let Err(error) = result {
            // The next ones build on it.
            panic!("{error:?}\n{}", cluster.keep());
        }
    }
}
