//! Who has something keeps it; among those who have nothing the name decides.
//!
//! The rules, in this order:
//!
//! 1. Whoever wants only what it has, has it.
//! 2. Whoever has something and wants something else moves there if that is free. Where it is taken only by others who
//!    want to move, too, they move together (two that exchange their addresses, for instance) or, if one of them
//!    cannot, not at all. Several that could move, and not all of them can, do so in the order of their names.
//! 3. Whoever has nothing gets what it wants if nobody has it, in the order of the names.
//!
//! So nobody loses what it has to another one's change.

use std::collections::BTreeSet;

use super::{Contender, Contest, Form, Stir, Wish};
use crate::claims::{Claim, Claims};
use crate::types::BindingKey;

impl Contest {
    /// Settles for wishes of objects that were taken out with what they had.
    pub(super) fn settle_by_holding(&mut self, wishes: Vec<(BindingKey, Wish, Vec<Claim>)>, stir: &mut Stir) {
        for (key, wish, mut had) in wishes {
            had.retain(|claim| wish.keeps.contains(&claim.director));
            // What is remembered from outside may be at odds with itself.
            let kept = if self.is_free(&key, &had) { had } else { Vec::new() };
            let form = if kept.is_empty() {
                Form::Nothing
            } else if wish.claims.iter().all(|claim| kept.contains(claim)) {
                Form::Wanted
            } else {
                Form::LastGood
            };
            let kept = if form == Form::LastGood { kept } else { Vec::new() };
            self.put_in(&key, Contender { wanted: wish.claims, kept, form, age: 0 }, stir);
        }
        self.move_those_who_can(stir);
        let mut comers = self.reached(stir, Form::Nothing);
        while let Some(key) = comers.pop_first() {
            if self.is_free(&key, &self.contenders[&key].wanted) {
                self.change(&key, Form::Wanted, stir);
            }
        }
    }

    fn is_free(&self, key: &BindingKey, claims: &[Claim]) -> bool {
        let free = |claim: &Claim| self.taken.rivals(claim, key).next().is_none();
        claims.iter().all(|claim| free(claim) && !self.is_reserved(claim))
    }

    /// Those with a form who wait for something that somebody got or gave up, or who changed themselves.
    fn reached(&self, stir: &Stir, form: Form) -> BTreeSet<BindingKey> {
        let waiting = stir.claims.iter().flat_map(|claim| self.waiting.excluded(claim));
        waiting.chain(&stir.keys).filter(|key| self.form_of(key) == Some(form)).cloned().collect()
    }

    fn form_of(&self, key: &BindingKey) -> Option<Form> {
        Some(self.contenders.get(key)?.form)
    }

    fn move_those_who_can(&mut self, stir: &mut Stir) {
        let mut movers = self.movers(stir);
        let mut moved = true;
        while std::mem::take(&mut moved) && !movers.is_empty() {
            // Whoever needs one of these to move cannot move either.
            let mut stuck = BTreeSet::new();
            for key in movers.clone() {
                if !movers.contains(&key) {
                    continue;
                }
                let Some(together) = self.together(&key, &stuck) else {
                    stuck.insert(key);
                    continue;
                };
                for key in &together {
                    self.change(key, Form::Wanted, stir);
                    movers.remove(key);
                }
                // With them gone from where they were, others may be able to.
                stuck.clear();
                moved = true;
            }
        }
    }

    /// Those who may be able to move now: for whom something changed that they want, or that one of those wants whom
    /// they need to move, and so on.
    fn movers(&self, stir: &Stir) -> BTreeSet<BindingKey> {
        let mut movers = BTreeSet::new();
        let mut open: Vec<_> = self.reached(stir, Form::LastGood).into_iter().collect();
        let mut seen: BTreeSet<&Claim> = stir.claims.iter().collect();
        while let Some(key) = open.pop() {
            for claim in &self.contenders[&key].kept {
                if seen.insert(claim) {
                    let waiting = self.waiting.excluded(claim);
                    open.extend(waiting.filter(|key| self.form_of(key) == Some(Form::LastGood)).cloned());
                }
            }
            movers.insert(key);
        }
        movers
    }

    /// All who have to move so that this one can; none when one of them cannot.
    fn together(&self, first: &BindingKey, stuck: &BTreeSet<BindingKey>) -> Option<BTreeSet<BindingKey>> {
        let mut together = BTreeSet::from([first.clone()]);
        let mut open = vec![first.clone()];
        let mut wanted = Claims::default();
        let mut seen: BTreeSet<&Claim> = BTreeSet::new();
        while let Some(key) = open.pop() {
            let contender = self.contenders.get(&key)?;
            for claim in &contender.wanted {
                if self.is_reserved(claim) || wanted.rivals(claim, &key).next().is_some() {
                    return None;
                }
                if !seen.insert(claim) {
                    continue;
                }
                for rival in self.taken.rivals(claim, &key) {
                    if stuck.contains(rival) || self.form_of(rival) != Some(Form::LastGood) {
                        return None;
                    }
                    if together.insert(rival.clone()) {
                        open.push(rival.clone());
                    }
                }
            }
            for claim in &contender.wanted {
                wanted.insert(claim, &key);
            }
        }
        Some(together)
    }
}
