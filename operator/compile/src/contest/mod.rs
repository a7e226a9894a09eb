//! Who gets what several want, each as a whole; everyone else is told by whom it is taken.
//!
//! An object that has something and now wants something else keeps what it has until it can have what it wants: nobody's
//! mistake takes down what works, and nobody who waits gets it meanwhile. Who comes first where two want the same is a
//! matter of [`Precedence`]. A change is settled among those that it can reach.

mod age;
mod holding;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::claims::{Claim, Claims};
use crate::compiler::Trust;
use crate::types::BindingKey;

/// Who comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precedence {
    /// Who has something already, then by name. See [`holding`].
    Holding,
    /// The older one, then by name. See [`age`].
    Age,
}

impl Precedence {
    /// Who comes first where objects trust each other so.
    pub(crate) const fn of(trust: Trust) -> Precedence {
        match trust {
            Trust::Files => Precedence::Holding,
            Trust::Cluster => Precedence::Age,
        }
    }
}

/// Which of its forms an object was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// Neither.
    #[default]
    Nothing,
    /// What it wants now.
    Wanted,
    /// What it had before, because what it wants is taken.
    LastGood,
}

/// What an object wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// Not empty.
    pub(crate) claims: Vec<Claim>,
    /// When it was created, in nanoseconds since 1970; unknown comes last. Counts with [`Precedence::Age`] only.
    pub(crate) created: Option<i128>,
    /// The directors on which what it has may stay when it cannot have what it wants.
    pub(crate) keeps: BTreeSet<Arc<str>>,
}

/// An object that wants something.
#[derive(Debug)]
struct Contender {
    wanted: Vec<Claim>,
    /// Of [`Form::LastGood`]: what it has.
    kept: Vec<Claim>,
    form: Form,
    age: i128,
}

impl Contender {
    fn has(&self) -> &[Claim] {
        match self.form {
            Form::Nothing => &[],
            Form::Wanted => &self.wanted,
            Form::LastGood => &self.kept,
        }
    }
}

/// What a settlement has changed so far.
#[derive(Debug, Default)]
struct Stir {
    /// Claims that somebody got or gave up.
    claims: BTreeSet<Claim>,
    /// Those whose form, or whose wish, may be another.
    keys: BTreeSet<BindingKey>,
}

/// The contenders and what each of them was granted.
#[derive(Debug)]
pub(crate) struct Contest {
    precedence: Precedence,
    contenders: BTreeMap<BindingKey, Contender>,
    /// What was granted.
    taken: Claims,
    /// What those want who did not get it.
    waiting: Claims,
    /// What is out of everybody's reach, and because of whom.
    reserved: Claims,
    /// What was held before the first settlement.
    remembered: BTreeMap<BindingKey, Vec<Claim>>,
    /// Where somebody follows what is granted: what was, since the last time that it was asked for.
    journal: Option<Vec<Entry>>,
}

/// Somebody was granted something, or gave it up.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) claim: Claim,
    pub(crate) owner: BindingKey,
    pub(crate) granted: bool,
}

impl Contest {
    /// Nobody wants anything.
    pub(crate) fn new(precedence: Precedence) -> Contest {
        Contest {
            precedence,
            contenders: BTreeMap::new(),
            taken: Claims::default(),
            waiting: Claims::default(),
            reserved: Claims::default(),
            remembered: BTreeMap::new(),
            journal: None,
        }
    }

    /// From now on keeps a journal of what is granted, for those whose wishes come after these.
    pub(crate) fn with_journal(mut self) -> Contest {
        self.journal = Some(Vec::new());
        self
    }

    /// What was granted and given up since the last time, in order.
    pub(crate) fn take_journal(&mut self) -> Vec<Entry> {
        self.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, claims: &[Claim], owner: &BindingKey, granted: bool) {
        if let Some(journal) = &mut self.journal {
            let entry = |claim: &Claim| Entry { claim: claim.clone(), owner: owner.clone(), granted };
            journal.extend(claims.iter().map(entry));
        }
    }

    /// Tells, before the first settlement, what an object has had until now, on one director after the other.
    pub(crate) fn remember(&mut self, key: BindingKey, claims: Vec<Claim>) {
        self.remembered.entry(key).or_default().extend(claims);
    }

    /// Puts something out of everybody's reach, for `owner` who does not take part, or back within it. Returns those who have
    /// it or want it: their wishes have to be settled once more.
    pub(crate) fn reserve(
        &mut self,
        claim: &Claim,
        owner: &BindingKey,
        reserved: bool,
    ) -> BTreeSet<BindingKey> {
        if reserved {
            self.reserved.insert(claim, owner);
        } else {
            self.reserved.remove(claim, owner);
        }
        self.taken.excluded(claim).chain(self.waiting.excluded(claim)).cloned().collect()
    }

    /// Takes changed wishes in (`None`: it wants nothing any more) and settles. Returns those whose form, or the reason
    /// why they have no better one, may have changed, the changed objects themselves included.
    pub(crate) fn settle(&mut self, changes: BTreeMap<BindingKey, Option<Wish>>) -> BTreeSet<BindingKey> {
        let mut stir = Stir::default();
        let mut wishes = Vec::with_capacity(changes.len());
        for (key, wish) in changes {
            let had = self.take_out(&key, &mut stir);
            if let Some(wish) = wish {
                wishes.push((key, wish, had));
            }
        }
        self.remembered.clear();
        match self.precedence {
            Precedence::Holding => self.settle_by_holding(wishes, &mut stir),
            Precedence::Age => self.settle_by_age(wishes, &mut stir),
        }
        let Stir { claims, keys: mut affected } = stir;
        for claim in &claims {
            affected.extend(self.waiting.excluded(claim).cloned());
        }
        affected
    }

    /// What the object was granted.
    pub(crate) fn form(&self, key: &BindingKey) -> Form {
        self.contenders.get(key).map(|contender| contender.form).unwrap_or_default()
    }

    /// For an object that was not granted what it wants: the first of its claims that is reserved, or else that another one
    /// has, and for whom, or who.
    pub(crate) fn lost_to<'a>(&'a self, key: &'a BindingKey) -> Option<(&'a Claim, &'a BindingKey)> {
        let contender = self.contenders.get(key).filter(|contender| contender.form != Form::Wanted)?;
        // What is reserved no change of other contenders can win.
        let reserved = contender.wanted.iter();
        let mut reserved = reserved.filter_map(|claim| Some((claim, self.reserved.excluded(claim).min()?)));
        if let Some(lost) = reserved.next() {
            return Some(lost);
        }
        contender.wanted.iter().find_map(|claim| {
            let rivals = self.taken.rivals(claim, key);
            let stands = |rival: &&BindingKey| match self.precedence {
                Precedence::Holding => true,
                Precedence::Age => self.place(rival) < self.place(key),
            };
            let winner = rivals.filter(stands).min_by_key(|rival| self.place(rival))?;
            Some((claim, winner))
        })
    }

    fn is_reserved(&self, claim: &Claim) -> bool {
        self.reserved.excluded(claim).next().is_some()
    }

    /// The place in the order of those who want the same.
    fn place<'a>(&self, key: &'a BindingKey) -> (i128, &'a BindingKey) {
        (self.contenders.get(key).map_or(i128::MAX, |contender| contender.age), key)
    }

    /// Returns what it had.
    fn take_out(&mut self, key: &BindingKey, stir: &mut Stir) -> Vec<Claim> {
        stir.keys.insert(key.clone());
        let remembered = self.remembered.remove(key).unwrap_or_default();
        let Some(old) = self.lift(key, stir) else { return remembered };
        match old.form {
            Form::Nothing => Vec::new(),
            Form::Wanted => old.wanted,
            Form::LastGood => old.kept,
        }
    }

    /// Takes a contender out, with all that it has and waits for.
    fn lift(&mut self, key: &BindingKey, stir: &mut Stir) -> Option<Contender> {
        let old = self.contenders.remove(key)?;
        for claim in old.has() {
            self.taken.remove(claim, key);
        }
        self.note(old.has(), key, false);
        stir.claims.extend(old.has().iter().cloned());
        if old.form != Form::Wanted {
            for claim in &old.wanted {
                self.waiting.remove(claim, key);
            }
        }
        Some(old)
    }

    fn put_in(&mut self, key: &BindingKey, contender: Contender, stir: &mut Stir) {
        for claim in contender.has() {
            self.taken.insert(claim, key);
        }
        self.note(contender.has(), key, true);
        stir.claims.extend(contender.has().iter().cloned());
        stir.keys.insert(key.clone());
        if contender.form != Form::Wanted {
            for claim in &contender.wanted {
                self.waiting.insert(claim, key);
            }
        }
        self.contenders.insert(key.clone(), contender);
    }

    /// Grants another form than the one it has.
    fn change(&mut self, key: &BindingKey, form: Form, stir: &mut Stir) {
        let Some(mut contender) = self.lift(key, stir) else { return };
        contender.form = form;
        if form != Form::LastGood {
            contender.kept = Vec::new();
        }
        self.put_in(key, contender, stir);
    }
}

#[cfg(test)]
mod tests;
