//! Which groups get what several want, each as a whole and on all its members at once.
//!
//! The rules are those of [`crate::contest`]; what is different is that a director has room for so many groups and no more,
//! which no pair of them can tell. Groups are few, and only those that have members in common, directly or through others,
//! are settled together: so all of these are settled anew, and what comes of it depends on nothing but what they
//! want, what they have and who comes first.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bascule_crds::director_config::DirectorVrrpGroup;

use super::routing::RouteKey;
use crate::contest::{Form, Precedence};

/// A group as each of its members carries it out, by the director's name.
pub(crate) type Forms = BTreeMap<Arc<str>, Arc<DirectorVrrpGroup>>;

/// One thing that one group has for itself on one director.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// A virtual router: of two with one id on one interface neither could tell the other's advertisements from its own.
    Router {
        /// Name of the director.
        director: Arc<str>,
        /// Its interface, the alias resolved.
        interface: Box<str>,
        /// The virtual router id.
        id: u8,
    },
    /// An address, advertised or not.
    Address {
        /// Name of the director.
        director: Arc<str>,
        /// The address, on whichever interface.
        address: IpAddr,
    },
    /// A route: the kernel has one of a kind.
    Route {
        /// Name of the director.
        director: Arc<str>,
        /// Which.
        route: RouteKey,
    },
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Router { director, interface, id } => {
                write!(f, "virtualRouterId {id} on interface {interface} of director {director}")
            }
            Hold::Address { director, address } => write!(f, "{address} on director {director}"),
            Hold::Route { director, route } => write!(f, "{route} on director {director}"),
        }
    }
}

/// Everything that the group has for itself.
pub(crate) fn holds(forms: &Forms) -> impl Iterator<Item = Hold> {
    forms.iter().flat_map(|(director, form)| {
        form.instances.iter().flat_map(move |instance| {
            let router = instance.virtual_router_id.map(|id| Hold::Router {
                director: Arc::clone(director),
                interface: instance.interface.as_str().into(),
                id,
            });
            let addresses = instance.addresses.iter().chain(&instance.excluded_addresses);
            let address = |one: &bascule_crds::common::AddressPrefix| Hold::Address {
                director: Arc::clone(director),
                address: one.address,
            };
            let routes = instance
                .routes
                .iter()
                .map(|one| Hold::Route { director: Arc::clone(director), route: RouteKey::of(one) });
            router.into_iter().chain(addresses.map(address)).chain(routes)
        })
    })
}

/// What the groups of a director are, counted as the rules of DirectorConfig count it: groups, instances, addresses, services,
/// and things that they track.
type Load = [usize; 5];

/// As much of each as a DirectorConfig may hold; a group alone never has more.
const MOST: [(usize, &str); 5] =
    [(8, "groups"), (32, "instances"), (6144, "addresses"), (16, "services"), (96, "tracked things")];

fn load(form: &DirectorVrrpGroup) -> Load {
    let addresses =
        |one: &bascule_crds::vrrp_group::Instance| one.addresses.len() + one.excluded_addresses.len();
    let tracked = form
        .track
        .as_ref()
        .map_or(0, |t| t.interfaces.len() + t.virtual_services.len() + t.health_checks.len());
    [1, form.instances.len(), form.instances.iter().map(addresses).sum(), form.services.len(), tracked]
}

/// Why a group was not granted what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Another one has it.
    Taken {
        /// What.
        hold: Hold,
        /// Who.
        winner: Arc<str>,
    },
    /// Others leave too little room on a director.
    Full {
        /// Name of the director.
        director: Arc<str>,
        /// So many of what all its groups together may have.
        most: usize,
        /// As in "instances".
        what: &'static str,
        /// The groups that are there, at most 8; not empty.
        winners: Vec<Arc<str>>,
    },
}

/// A group that wants something or has something.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// Name of the group.
    pub(crate) name: Arc<str>,
    /// When it was created, in nanoseconds since 1970; unknown comes last. Counts with [`Precedence::Age`] only.
    pub(crate) created: Option<i128>,
    /// What it wants; none when something is wrong with it.
    pub(crate) wanted: Option<Forms>,
    /// What it has; may be empty.
    pub(crate) had: Forms,
}

/// What became of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Which of its forms it was granted.
    pub(crate) form: Form,
    /// That form. It may be empty also when it was granted: in a cluster a member may have no Director.
    pub(crate) has: Forms,
    /// Why it is not the wanted one, if another group is the reason.
    pub(crate) lost: Option<Lost>,
}

/// Settles anew between groups that have members in common.
pub(crate) fn settle(precedence: Precedence, contenders: Vec<Contender>) -> BTreeMap<Arc<str>, Outcome> {
    match precedence {
        Precedence::Age => by_age(contenders),
        Precedence::Holding => by_holding(contenders),
    }
}

/// What was granted so far.
#[derive(Debug, Default)]
struct Board {
    taken: BTreeMap<Hold, Arc<str>>,
    /// By director, the groups there.
    loads: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Load>>,
}

impl Board {
    /// The first reason why a group that is not on the board cannot have this.
    fn obstacle(&self, forms: &Forms) -> Option<Lost> {
        for hold in holds(forms) {
            if let Some(winner) = self.taken.get(&hold) {
                return Some(Lost::Taken { winner: Arc::clone(winner), hold });
            }
        }
        forms.iter().find_map(|(director, form)| self.full(director, load(form)))
    }

    fn full(&self, director: &Arc<str>, more: Load) -> Option<Lost> {
        let there = self.loads.get(director)?;
        MOST.iter().zip(more).enumerate().find_map(|(i, ((most, what), more))| {
            let sum: usize = there.values().map(|load| load[i]).sum();
            (sum > 0 && sum + more > *most).then(|| Lost::Full {
                director: Arc::clone(director),
                most: *most,
                what,
                winners: there.keys().cloned().collect(),
            })
        })
    }

    fn put(&mut self, name: &Arc<str>, forms: &Forms) {
        self.taken.extend(holds(forms).map(|hold| (hold, Arc::clone(name))));
        for (director, form) in forms {
            self.loads.entry(Arc::clone(director)).or_default().insert(Arc::clone(name), load(form));
        }
    }

    fn lift(&mut self, name: &Arc<str>, forms: &Forms) {
        for hold in holds(forms) {
            if let Entry::Occupied(taken) = self.taken.entry(hold)
                && taken.get() == name
            {
                taken.remove();
            }
        }
        for director in forms.keys() {
            if let Entry::Occupied(mut there) = self.loads.entry(Arc::clone(director)) {
                there.get_mut().remove(name);
                if there.get().is_empty() {
                    there.remove();
                }
            }
        }
    }
}

fn by_age(mut contenders: Vec<Contender>) -> BTreeMap<Arc<str>, Outcome> {
    contenders.sort_by(|a, b| {
        let place = |one: &Contender| one.created.unwrap_or(i128::MAX);
        place(a).cmp(&place(b)).then_with(|| a.name.cmp(&b.name))
    });
    let mut board = Board::default();
    let mut outcomes = BTreeMap::new();
    for Contender { name, wanted, had, .. } in contenders {
        let lost = wanted.as_ref().and_then(|wanted| board.obstacle(wanted));
        let (form, has) = match wanted {
            Some(wanted) if lost.is_none() => (Form::Wanted, wanted),
            _ if !had.is_empty() && board.obstacle(&had).is_none() => (Form::LastGood, had),
            _ => (Form::Nothing, Forms::new()),
        };
        board.put(&name, &has);
        outcomes.insert(name, Outcome { form, has, lost });
    }
    outcomes
}

/// What [`by_holding`] works on.
struct Holders {
    board: Board,
    wanted: BTreeMap<Arc<str>, Forms>,
    outcomes: BTreeMap<Arc<str>, Outcome>,
}

fn by_holding(mut contenders: Vec<Contender>) -> BTreeMap<Arc<str>, Outcome> {
    contenders.sort_by(|a, b| a.name.cmp(&b.name));
    let mut all = Holders { board: Board::default(), wanted: BTreeMap::new(), outcomes: BTreeMap::new() };
    for Contender { name, wanted, had, .. } in contenders {
        // What is remembered from outside may be at odds with itself.
        let mut outcome = Outcome::default();
        if !had.is_empty() && all.board.obstacle(&had).is_none() {
            (outcome.form, outcome.has) = match &wanted {
                Some(wanted) if is_within(wanted, &had) => (Form::Wanted, wanted.clone()),
                _ => (Form::LastGood, had),
            };
        }
        all.board.put(&name, &outcome.has);
        all.outcomes.insert(Arc::clone(&name), outcome);
        all.wanted.extend(wanted.map(|wanted| (name, wanted)));
    }
    all.move_those_who_can();
    for name in all.with(Form::Nothing) {
        all.grant(&BTreeSet::from([name]));
    }
    for name in all.with(Form::LastGood).into_iter().chain(all.with(Form::Nothing)) {
        let Some(outcome) = all.outcomes.get_mut(&name) else { continue };
        all.board.lift(&name, &outcome.has);
        outcome.lost = all.wanted.get(&name).and_then(|wanted| all.board.obstacle(wanted));
        all.board.put(&name, &outcome.has);
    }
    all.outcomes
}

/// Whether who has the one needs nobody's leave for the other.
fn is_within(wanted: &Forms, had: &Forms) -> bool {
    let has: BTreeSet<_> = holds(had).collect();
    let fits = |(director, form): (&Arc<str>, &Arc<DirectorVrrpGroup>)| {
        had.get(director).is_some_and(|had| load(form).iter().zip(load(had)).all(|(new, old)| *new <= old))
    };
    wanted.iter().all(fits) && holds(wanted).all(|hold| has.contains(&hold))
}

impl Holders {
    fn with(&self, form: Form) -> Vec<Arc<str>> {
        let those = self.outcomes.iter().filter(|(_, outcome)| outcome.form == form);
        those.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Every round but the last moves somebody, and nobody moves twice.
    fn move_those_who_can(&mut self) {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for name in self.with(Form::LastGood) {
                // It may have moved together with one before it.
                let waits = self.outcomes[&name].form == Form::LastGood;
                if waits && let Some(together) = self.together(&name) {
                    moved |= self.grant(&together);
                }
            }
        }
    }

    /// All who have to move so that this one can; none when one of them does not want to.
    fn together(&self, first: &Arc<str>) -> Option<BTreeSet<Arc<str>>> {
        let mut together = BTreeSet::from([Arc::clone(first)]);
        let mut open = vec![Arc::clone(first)];
        while let Some(name) = open.pop() {
            for hold in holds(self.wanted.get(&name)?) {
                let Some(owner) = self.board.taken.get(&hold) else { continue };
                if together.contains(owner) {
                    continue;
                }
                if self.outcomes[owner].form != Form::LastGood {
                    return None;
                }
                together.insert(Arc::clone(owner));
                open.push(Arc::clone(owner));
            }
        }
        Some(together)
    }

    /// Grants these what they want, if all of them can have it at once.
    fn grant(&mut self, names: &BTreeSet<Arc<str>>) -> bool {
        for name in names {
            self.board.lift(name, &self.outcomes[name].has);
        }
        let mut put = Vec::new();
        for name in names {
            match self.wanted.get(name) {
                Some(wanted) if self.board.obstacle(wanted).is_none() => {
                    self.board.put(name, wanted);
                    put.push(name);
                }
                _ => break,
            }
        }
        let granted = put.len() == names.len();
        if !granted {
            for name in put {
                self.board.lift(name, &self.wanted[name]);
            }
        }
        for name in names {
            if granted {
                let outcome = Outcome { form: Form::Wanted, has: self.wanted[name].clone(), lost: None };
                self.outcomes.insert(Arc::clone(name), outcome);
            } else {
                self.board.put(name, &self.outcomes[name].has);
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests;
