use std::collections::BTreeSet;

use proptest::prelude::*;

use super::expansion::changes;
use crate::plane::{
    fixture::{config, key},
    ipvs::{Io as _, Scope, desired, model::Shared, observe, plan},
};
use crate::reconcile::Lives;

proptest! {
    #[test]
    fn applying_the_plan_gives_what_is_wanted_and_spares_what_is_not_ours(
        before in changes(), wanted in changes(), ledger in proptest::collection::btree_set(0usize..6, 0..6), adopt: bool,
    ) {
        // The kernel holds something, some of it ours.
        let mut old = config([]);
        old.bindings.extend(before.into_iter().filter_map(|(name, spec)| Some((key(name), spec?))));
        let mut new = config([]);
        new.bindings.extend(wanted.into_iter().filter_map(|(name, spec)| Some((key(name), spec?))));
        let now = std::time::Instant::now();
        let (old, new) = (desired(&old, &Lives::new(), now), desired(&new, &Lives::new(), now));
        let mut io = Shared::default();
        for entry in old.services().values() {
            let destinations = entry.wanted.destinations.iter().map(|one| (one.id, *one)).collect();
            io.0.borrow_mut().table.insert(entry.wanted.service.id, (entry.wanted.service.clone(), destinations));
        }
        let original = io.0.borrow().table.clone();
        let ours: BTreeSet<_> = original.keys().enumerate().filter(|(index, _)| ledger.contains(index)).map(|(_, id)| *id).collect();

        let ids: BTreeSet<_> = new.services().keys().chain(&ours).copied().collect();
        let scope = || ids.iter().map(|id| (*id, new.services().get(id).map(|entry| &entry.wanted)));
        let observed = observe(&mut io, Scope::All(&ids), true, |id| ours.contains(id), |_, _| {}).unwrap();
        let made = plan(scope(), None, &observed, adopt);
        let results = io.execute_all(&made.commands).unwrap();
        prop_assert!(results.iter().all(Result::is_ok), "{results:?}");

        let table = io.0.borrow().table.clone();
        for (id, entry) in new.services() {
            if made.conflicts.contains(id) {
                prop_assert!(!adopt && !ours.contains(id));
                prop_assert_eq!(table.get(id), original.get(id));
                continue;
            }
            let (service, destinations) = &table[id];
            prop_assert_eq!(service, &entry.wanted.service);
            prop_assert_eq!(destinations.values().copied().collect::<Vec<_>>(), entry.wanted.destinations.clone());
        }
        for (id, held) in &original {
            if !new.services().contains_key(id) {
                prop_assert_eq!(table.get(id), if ours.contains(id) { None } else { Some(held) });
            }
        }
        // And then nothing is left to do.
        let now_ours = |id: &_| ours.contains(id) || !original.contains_key(id) || made.claims.contains(id);
        let observed = observe(&mut io, Scope::All(&ids), true, now_ours, |_, _| {}).unwrap();
        let again = plan(scope(), None, &observed, adopt);
        prop_assert_eq!(again.commands, vec![]);
        prop_assert_eq!(again.conflicts, made.conflicts);
    }
}
