//! Who gets what several want: the older one, as a whole, and everyone else is told by whom.
//!
//! The objects are ordered; an object is granted what it claims if no object before it that was granted its own claims excludes it. A change is
//! settled among those that it can reach: the changed ones, those that exclude them, and so on only as long as
//! somebody gains or loses.

use std::collections::{BTreeMap, BTreeSet};

use crate::claims::{Claim, Claims};
use crate::types::BindingKey;

/// By what those who want the same are ordered, before their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seniority {
    /// By when they were created, in nanoseconds since 1970; unknown comes last.
    Created(Option<i128>),
    /// By what they already have.
    Holding,
}

/// An object that wants something; `claims` is not empty.
#[derive(Debug)]
struct Contender {
    claims: Vec<Claim>,
    rank: i128,
    /// Its rank follows from what it holds.
    holding: bool,
    granted: bool,
}

/// Holds everything that was granted before and now: ranks of [`Seniority::Holding`].
const KEEPS: i128 = 0;
/// Holds something, and now wants something that it did not hold.
const GROWS: i128 = 1;
/// Holds nothing.
const COMES: i128 = 2;

/// The contenders and who of them was granted what it claims.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    contenders: BTreeMap<BindingKey, Contender>,
    claims: Claims,
    /// What was held before the first settlement.
    remembered: BTreeMap<BindingKey, BTreeSet<Claim>>,
}

impl Contest {
    /// Tells, before the first settlement, what an object has held until now.
    pub(crate) fn remember(&mut self, key: BindingKey, claims: impl IntoIterator<Item = Claim>) {
        self.remembered.entry(key).or_default().extend(claims);
    }

    /// Puts the changed objects in (`None`: takes them out) and settles. Returns those whose grant, or the reason
    /// why they have none, may have changed, the changed objects themselves included.
    pub(crate) fn settle(
        &mut self,
        changes: impl IntoIterator<Item = (BindingKey, Option<(Vec<Claim>, Seniority)>)>,
    ) -> BTreeSet<BindingKey> {
        let mut affected = BTreeSet::new();
        let mut changed = BTreeSet::new();
        for (key, wanted) in changes {
            let old = self.contenders.remove(&key);
            let mut held = self.remembered.remove(&key).unwrap_or_default();
            if let Some(old) = old {
                for claim in &old.claims {
                    self.claims.remove(claim, &key);
                    affected.extend(self.claims.rivals(claim, &key).cloned());
                }
                if old.granted {
                    held.extend(old.claims);
                }
            }
            if let Some((claims, seniority)) = wanted {
                for claim in &claims {
                    self.claims.insert(claim, &key);
                }
                let rank = match seniority {
                    Seniority::Created(created) => created.unwrap_or(i128::MAX),
                    Seniority::Holding if held.is_empty() => COMES,
                    Seniority::Holding if claims.iter().all(|c| held.contains(c)) => KEEPS,
                    Seniority::Holding => GROWS,
                };
                self.contenders.insert(
                    key.clone(),
                    Contender { claims, rank, holding: seniority == Seniority::Holding, granted: false },
                );
            }
            changed.insert(key);
        }
        self.remembered.clear();

        // In order, so that whoever could stand in somebody's way has been decided before.
        let mut open: BTreeSet<(i128, BindingKey)> = BTreeSet::new();
        for key in &changed {
            // Those that came to exclude a changed object may have to give way to it.
            affected.extend(self.rivals(key).cloned());
        }
        affected.append(&mut changed);
        for key in &affected {
            if let Some(contender) = self.contenders.get(key) {
                open.insert((contender.rank, key.clone()));
            }
        }
        let mut before: BTreeMap<BindingKey, bool> = BTreeMap::new();
        while let Some((rank, key)) = open.pop_first() {
            let granted = !self.rivals(&key).any(|rival| {
                let other = &self.contenders[rival];
                other.granted && (other.rank, rival) < (rank, &key)
            });
            let contender = self.contenders.get_mut(&key).expect("only contenders are open");
            before.entry(key.clone()).or_insert(contender.granted);
            let flipped = contender.granted != granted;
            contender.granted = granted;
            if flipped {
                let later: Vec<_> = self
                    .rivals(&key)
                    .map(|rival| (self.contenders[rival].rank, rival.clone()))
                    .filter(|other| *other > (rank, key.clone()))
                    .collect();
                open.extend(later);
            }
        }
        for (key, was) in &before {
            if self.contenders[key].granted != *was {
                affected.extend(self.rivals(key).cloned());
            }
        }
        affected.extend(before.into_keys());
        for key in &affected {
            if let Some(contender) = self.contenders.get_mut(key)
                && contender.holding
            {
                contender.rank = if contender.granted { KEEPS } else { COMES };
            }
        }
        affected
    }

    /// Whether the object has what it claims.
    pub(crate) fn granted(&self, key: &BindingKey) -> bool {
        self.contenders.get(key).is_some_and(|c| c.granted)
    }

    /// For an object that was not granted its claims: the first of them that another one has, and that one.
    pub(crate) fn lost_to<'a>(&'a self, key: &'a BindingKey) -> Option<(&'a Claim, &'a BindingKey)> {
        let contender = self.contenders.get(key).filter(|c| !c.granted)?;
        contender.claims.iter().find_map(|claim| {
            let winner = self.claims.rivals(claim, key).filter(|r| self.granted(r)).min()?;
            Some((claim, winner))
        })
    }

    /// Those that exclude the object; one may come several times.
    fn rivals<'a>(&'a self, key: &'a BindingKey) -> impl Iterator<Item = &'a BindingKey> {
        let claims = self.contenders.get(key).map_or(&[][..], |c| &c.claims);
        claims.iter().flat_map(move |claim| self.claims.rivals(claim, key))
    }
}

#[cfg(test)]
mod tests {
    use bascule_crds::common::Protocol;
    use proptest::prelude::*;

    use super::*;
    use crate::claims::What;

    type Wanted = Option<(Vec<Claim>, Option<i128>)>;

    fn key(n: u8) -> BindingKey {
        BindingKey::new("ns", &format!("vs{n}"))
    }

    fn claim() -> impl Strategy<Value = Claim> {
        let what = prop_oneof![
            4 => (80u16..82).prop_map(|port| What::Port { protocol: Protocol::Tcp, port }),
            1 => Just(What::Interface),
        ];
        (what, 0u8..10, 0u8..4, any::<bool>()).prop_map(|(what, first, more, tag)| Claim {
            director: "dir1".into(),
            what,
            addresses: format!("10.0.0.{first}-10.0.0.{}", first + more).parse().unwrap(),
            tag: (what == What::Interface).then(|| if tag { "eth0".into() } else { "eth1".into() }),
        })
    }

    fn steps() -> impl Strategy<Value = Vec<Vec<(u8, Wanted)>>> {
        let wanted = proptest::option::weighted(
            0.8,
            (proptest::collection::vec(claim(), 1..4), proptest::option::weighted(0.9, 0i128..5)),
        );
        proptest::collection::vec(proptest::collection::vec((0u8..8, wanted), 1..4), 1..12)
    }

    /// The definition, at its word: everybody in order, each against all that were granted before.
    fn by_definition(
        objects: &BTreeMap<u8, (Vec<Claim>, Option<i128>)>,
        held: &BTreeMap<u8, Vec<Claim>>,
        holding: bool,
    ) -> BTreeSet<u8> {
        let mut order: Vec<_> = objects
            .iter()
            .map(|(n, (claims, created))| {
                let rank = match (holding, held.get(n)) {
                    (false, _) => created.unwrap_or(i128::MAX),
                    (true, None) => 2,
                    (true, Some(had)) => i128::from(!claims.iter().all(|c| had.contains(c))),
                };
                (rank, *n)
            })
            .collect();
        order.sort_unstable();
        let mut granted: BTreeSet<u8> = BTreeSet::new();
        for (_, n) in order {
            let excluded = |other: &u8| {
                objects[other].0.iter().any(|theirs| objects[&n].0.iter().any(|ours| theirs.excludes(ours)))
            };
            if !granted.iter().any(excluded) {
                granted.insert(n);
            }
        }
        granted
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn step_by_step_is_as_all_at_once(steps in steps(), holding in any::<bool>()) {
            let seniority = |created| if holding { Seniority::Holding } else { Seniority::Created(created) };
            let mut contest = Contest::default();
            let mut objects: BTreeMap<u8, (Vec<Claim>, Option<i128>)> = BTreeMap::new();
            let mut held: BTreeMap<u8, Vec<Claim>> = BTreeMap::new();
            let mut told: BTreeMap<u8, (bool, Option<(Claim, BindingKey)>)> = BTreeMap::new();
            for step in steps {
                // One change an object and step, as the compiler does.
                let step: BTreeMap<u8, Wanted> = step.into_iter().collect();
                let affected = contest.settle(step.iter().map(|(n, wanted)| {
                    (key(*n), wanted.clone().map(|(claims, created)| (claims, seniority(created))))
                }));
                for (n, wanted) in step {
                    match wanted {
                        Some(wanted) => objects.insert(n, wanted),
                        None => objects.remove(&n),
                    };
                }

                let granted: BTreeSet<u8> = objects.keys().copied().filter(|n| contest.granted(&key(*n))).collect();
                prop_assert_eq!(&granted, &by_definition(&objects, &held, holding));

                let mut fresh = Contest::default();
                for (n, claims) in &held {
                    fresh.remember(key(*n), claims.iter().cloned());
                }
                fresh.settle(objects.iter().map(|(n, (claims, created))| {
                    (key(*n), Some((claims.clone(), seniority(*created))))
                }));
                for n in 0..8 {
                    let verdict = |contest: &Contest| {
                        let lost = contest.lost_to(&key(n)).map(|(claim, winner)| (claim.clone(), winner.clone()));
                        (contest.granted(&key(n)), lost)
                    };
                    let now = verdict(&contest);
                    prop_assert_eq!(&now, &verdict(&fresh));
                    // Whoever was not named as affected can still believe what it was told.
                    let before = told.insert(n, now.clone()).unwrap_or_default();
                    prop_assert!(affected.contains(&key(n)) || before == now, "vs{} was not told", n);
                }
                held = granted.iter().map(|n| (*n, objects[n].0.clone())).collect();
            }
        }
    }

    #[test]
    fn what_is_held_before_the_start_is_kept_although_a_name_comes_first() {
        let web = |port| Claim {
            director: "dir1".into(),
            what: What::Port { protocol: Protocol::Tcp, port },
            addresses: "10.0.0.1".parse().unwrap(),
            tag: None,
        };
        let mut contest = Contest::default();
        contest.remember(key(2), [web(80)]);
        contest.settle([1, 2].map(|n| (key(n), Some((vec![web(80)], Seniority::Holding)))));
        assert!(contest.granted(&key(2)));
        assert_eq!(contest.lost_to(&key(1)), Some((&web(80), &key(2))));
        // Nor is it lost by wanting more, unless somebody else has that.
        contest.settle([(key(2), Some((vec![web(80), web(81)], Seniority::Holding)))]);
        assert!(contest.granted(&key(2)));
        contest.settle([(key(2), None)]);
        assert!(contest.granted(&key(1)));
    }
}
