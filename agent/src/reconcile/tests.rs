//! The queue of changes and the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::json;

use super::{
    ConfigChange, ConfigUpdate, Failure, FailureReason, Lag, LagHistogram, Lives, MAX_LAGS, PlaneName,
    PlaneReport, Programmed, Report,
    inbox::{Inbox, Merged},
};
use crate::plane::fixture::{config, key, rule, web};

fn update(serial: u64, change: ConfigChange) -> ConfigUpdate {
    ConfigUpdate { serial, seen: Instant::now(), change, checks: Vec::new(), live: Lives::new() }
}

#[test]
fn lags_are_counted_and_the_newest_kept() {
    let mut histogram = LagHistogram::default();
    for serial in 0..MAX_LAGS as u64 + 5 {
        histogram.record(Lag { serial, duration: Duration::from_millis(serial % 3) });
    }
    histogram.record(Lag { serial: 9_999, duration: Duration::from_secs(61) });
    assert_eq!(histogram.newest.len(), MAX_LAGS);
    assert_eq!(histogram.newest.back().unwrap().serial, 9_999);
    assert_eq!(histogram.buckets.iter().sum::<u64>(), histogram.count);
    assert_eq!(
        (histogram.buckets[0] > 0, histogram.buckets[1] > 0, *histogram.buckets.last().unwrap()),
        (true, true, 1)
    );
}

#[test]
fn programmed_says_why_not() {
    let plane = |settled| PlaneReport { settled, serial: 1, ..PlaneReport::default() };
    let mut report = Report::default();
    assert_eq!(report.programmed(&key("web")), Programmed::Pending);
    for name in PlaneName::ALL {
        report.planes.insert(name, Arc::new(plane(true)));
    }
    assert_eq!(report.programmed(&key("web")), Programmed::Yes);
    let failure = |reason| Failure {
        object: "TCP 10.0.0.1:80".into(),
        reason,
        message: "m".into(),
        bindings: BTreeSet::from([key("web")]),
        nat_rules: BTreeSet::new(),
    };
    let with = |reason| {
        let failures = Arc::new(BTreeMap::from([("x".to_owned(), failure(reason))]));
        Arc::new(PlaneReport { failures, ..plane(true) })
    };
    report.planes.insert(PlaneName::Nat, with(FailureReason::Ledger));
    assert_eq!(report.programmed(&key("web")), Programmed::Yes, "a ledger does not hinder");
    report.planes.insert(PlaneName::Nat, with(FailureReason::Conflict));
    assert_eq!(report.programmed(&key("web")), Programmed::No(vec![failure(FailureReason::Conflict)]));
    assert_eq!(report.programmed(&key("mail")), Programmed::Yes);
    let missing = PlaneReport { missing: Some("modprobe ip_vs".into()), ..plane(true) };
    report.planes.insert(PlaneName::Ipvs, Arc::new(missing));
    assert!(
        matches!(report.programmed(&key("mail")), Programmed::No(failures) if failures[0].message == "modprobe ip_vs")
    );
}

type Spec = Option<Arc<bascule_crds::VirtualServiceBindingSpec>>;

fn apply(
    state: &mut BTreeMap<bascule_compile::BindingKey, Arc<bascule_crds::VirtualServiceBindingSpec>>,
    change: &Merged,
) {
    if change.all {
        state.clear();
    }
    for (key, spec) in &change.bindings {
        match spec {
            Some(spec) => state.insert(key.clone(), Arc::clone(spec)),
            None => state.remove(key),
        };
    }
}

proptest! {
    /// However many updates lie in the queue when it is emptied: what comes out amounts to the same.
    #[test]
    fn merged_updates_amount_to_the_same(updates in proptest::collection::vec(
        (any::<bool>(), proptest::collection::btree_map(prop_oneof![Just("a"), Just("b"), Just("c")], proptest::option::of(1u32..4), 0..3), any::<bool>()), 1..12)
    ) {
        let inbox = Inbox::new().unwrap();
        let (mut expected, mut seen) = (BTreeMap::new(), BTreeMap::new());
        let mut serial = 0;
        for (everything, parts, emptied) in updates {
            serial += 1;
            let bindings: Vec<(_, Spec)> = parts
                .into_iter()
                .map(|(name, timeout)| (key(name), timeout.map(|number| web(json!({"addresses": [format!("10.0.0.{number}")]})))))
                .collect();
            let change = if everything {
                expected.clear();
                let mut all = config([]);
                all.bindings.extend(bindings.iter().filter_map(|(key, spec)| Some((key.clone(), spec.clone()?))));
                ConfigChange::All(Arc::new(all))
            } else {
                ConfigChange::Some { director: None, bindings: bindings.clone(), nat_rules: Vec::new() }
            };
            for (key, spec) in bindings {
                match spec {
                    Some(spec) => { expected.insert(key, spec); }
                    None => { expected.remove(&key); }
                }
            }
            inbox.update(&update(serial, change));
            if emptied {
                let merged = inbox.take().merged.unwrap();
                prop_assert_eq!(merged.serial, serial);
                apply(&mut seen, &merged);
                prop_assert_eq!(&seen, &expected);
                prop_assert!(inbox.take().merged.is_none());
            }
        }
        if let Some(merged) = inbox.take().merged {
            apply(&mut seen, &merged);
        }
        prop_assert_eq!(seen, expected);
    }
}

#[test]
fn rules_and_what_is_known_of_groups_merge_too() {
    let inbox = Inbox::new().unwrap();
    let masquerade =
        |interface: &str| rule(json!({"masquerade": {"outInterface": interface}}), Some("front"));
    inbox.role("front".into(), true);
    inbox.role("back".into(), true);
    let merged = inbox.take().merged.unwrap();
    assert!(!merged.is_configuration() && merged.nat_rules.is_empty());
    assert_eq!(merged.roles, [("back".into(), true), ("front".into(), true)].into());
    inbox.role("front".into(), true);
    let mut all = config([]);
    all.nat_rules = [(key("a"), masquerade("eth0")), (key("b"), masquerade("eth1"))].into();
    inbox.update(&update(1, ConfigChange::All(Arc::new(all))));
    inbox.role("front".into(), false);
    let nat_rules = vec![(key("a"), None), (key("b"), Some(masquerade("eth2")))];
    inbox.update(&update(2, ConfigChange::Some { director: None, bindings: Vec::new(), nat_rules }));
    let merged = inbox.take().merged.unwrap();
    assert!(merged.is_configuration() && merged.all);
    assert_eq!(merged.nat_rules, [(key("b"), Some(masquerade("eth2")))].into());
    assert_eq!(merged.roles, [("front".into(), false)].into(), "the last word counts");
    // Of changes alone, what went is said.
    let nat_rules = vec![(key("b"), None)];
    inbox.update(&update(3, ConfigChange::Some { director: None, bindings: Vec::new(), nat_rules }));
    assert_eq!(inbox.take().merged.unwrap().nat_rules, [(key("b"), None)].into());
}
