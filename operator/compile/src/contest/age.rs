//! The older one wins, whatever the younger one has.
//!
//! In the order of age, and of names where that is equal, everyone gets what it wants if nobody before it has that; else
//! it keeps what it has if nobody before it has that; else nothing.

use std::collections::BTreeSet;

use super::{Contender, Contest, Form, Stir, Wish};
use crate::claims::Claim;
use crate::types::BindingKey;

impl Contest {
    /// Settles for wishes of objects that were taken out with what they had.
    pub(super) fn settle_by_age(&mut self, wishes: Vec<(BindingKey, Wish, Vec<Claim>)>, stir: &mut Stir) {
        let mut open = BTreeSet::new();
        for (key, wish, mut kept) in wishes {
            kept.retain(|claim| wish.keeps.contains(&claim.director));
            let form = if kept.is_empty() { Form::Nothing } else { Form::LastGood };
            let age = wish.created.unwrap_or(i128::MAX);
            self.put_in(&key, Contender { wanted: wish.claims, kept, form, age }, stir);
            open.insert((age, key));
        }
        for claim in &stir.claims {
            let waiting = self.waiting.excluded(claim);
            open.extend(waiting.map(|key| (self.contenders[key].age, key.clone())));
        }
        // In order, so that whoever could stand in somebody's way has been decided before.
        while let Some((age, key)) = open.pop_first() {
            let contender = &self.contenders[&key];
            let form = if self.is_left(&key, &contender.wanted) {
                Form::Wanted
            } else if contender.form == Form::LastGood && self.is_left(&key, &contender.kept) {
                Form::LastGood
            } else {
                Form::Nothing
            };
            if form == contender.form {
                continue;
            }
            let gave_up = contender.has().to_vec();
            self.change(&key, form, stir);
            let later = |other: &&BindingKey| self.place(other) > (age, &key);
            let waiting = gave_up.iter().flat_map(|claim| self.waiting.excluded(claim));
            let got = self.contenders[&key].has();
            let displaced = got.iter().flat_map(|claim| self.taken.rivals(claim, &key));
            let reached = waiting.chain(displaced).filter(later);
            open.extend(reached.map(|other| (self.contenders[other].age, other.clone())));
        }
    }

    /// Whether nobody before it in the order has any of this, and nothing of it is reserved.
    fn is_left(&self, key: &BindingKey, claims: &[Claim]) -> bool {
        let place = self.place(key);
        let left = |claim: &Claim| self.taken.rivals(claim, key).all(|rival| self.place(rival) > place);
        claims.iter().all(|claim| left(claim) && !self.is_reserved(claim))
    }
}
