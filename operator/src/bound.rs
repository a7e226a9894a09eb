//! Bindings of both kinds: what the operator writes for agents, one object for what a user wrote on one director.

use bascule_compile::{BindingKey, Compiled, NodeConfig};
use bascule_crds::common::Condition;
use bascule_crds::{
    Kind, NatRuleBinding, NatRuleBindingSpec, ObjectRef, VirtualServiceBinding, VirtualServiceBindingSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use crate::index::{Place, Source};
use crate::names;

/// What is bound to directors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Binds {
    /// VirtualServices, by VirtualServiceBindings.
    VirtualService,
    /// NatRules, by NatRuleBindings.
    NatRule,
}

impl Binds {
    /// Both.
    pub const ALL: [Binds; 2] = [Binds::VirtualService, Binds::NatRule];

    /// What objects of that kind are bound as, if they are.
    pub fn of(owner: Kind) -> Option<Binds> {
        Binds::ALL.into_iter().find(|binds| binds.owner().kind() == Some(owner))
    }

    /// What is bound.
    pub const fn owner(self) -> Source {
        match self {
            Binds::VirtualService => Source::VirtualService,
            Binds::NatRule => Source::NatRule,
        }
    }

    /// The kind of the bindings.
    pub const fn kind(self) -> Kind {
        match self {
            Binds::VirtualService => Kind::VirtualServiceBinding,
            Binds::NatRule => Kind::NatRuleBinding,
        }
    }

    /// Whose bindings a director has, as compiled.
    pub fn keys(self, node: &NodeConfig) -> Box<dyn Iterator<Item = &BindingKey> + '_> {
        match self {
            Binds::VirtualService => Box::new(node.bindings.keys()),
            Binds::NatRule => Box::new(node.nat_rules.keys()),
        }
    }
}

/// What a binding is for: a user's object on a director.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bound {
    /// Its kind.
    pub binds: Binds,
    /// The object.
    pub key: BindingKey,
    /// The director.
    pub director: String,
}

impl Bound {
    /// That object on that director.
    pub fn new(binds: Binds, key: BindingKey, director: &str) -> Bound {
        Bound { binds, key, director: director.to_owned() }
    }

    /// All that are to be there.
    pub fn all(compiled: &Compiled) -> impl Iterator<Item = Bound> {
        compiled.nodes.iter().flat_map(|(director, node)| Bound::on(director, node))
    }

    /// All that are to be on a director.
    pub fn on<'a>(director: &'a str, node: &'a NodeConfig) -> impl Iterator<Item = Bound> + 'a {
        let of =
            move |binds: Binds| binds.keys(node).map(move |key| Bound::new(binds, key.clone(), director));
        Binds::ALL.into_iter().flat_map(of)
    }

    /// The user's object.
    pub fn owner(&self) -> ObjectRef {
        let kind = match self.binds {
            Binds::VirtualService => Kind::VirtualService,
            Binds::NatRule => Kind::NatRule,
        };
        ObjectRef::new(kind, Some(&*self.key.namespace), &self.key.name)
    }

    /// Where its binding is to be.
    pub fn place(&self) -> Place {
        Place {
            namespace: self.key.namespace.to_string(),
            name: names::binding(&self.key.name, &self.director),
        }
    }

    /// What its binding is to say, if there is to be one.
    pub fn wanted<'a>(&self, compiled: &'a Compiled) -> Option<Spec<'a>> {
        let node = compiled.nodes.get(&self.director)?;
        match self.binds {
            Binds::VirtualService => node.bindings.get(&self.key).map(|spec| Spec::VirtualService(spec)),
            Binds::NatRule => node.nat_rules.get(&self.key).map(|spec| Spec::NatRule(spec)),
        }
    }
}

/// What a binding says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Spec<'a> {
    /// Of a VirtualService.
    VirtualService(&'a VirtualServiceBindingSpec),
    /// Of a NatRule.
    NatRule(&'a NatRuleBindingSpec),
}

/// A binding that is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    /// Of a VirtualService.
    VirtualService(Box<VirtualServiceBinding>),
    /// Of a NatRule.
    NatRule(Box<NatRuleBinding>),
}

impl Binding {
    /// Its kind.
    pub fn binds(&self) -> Binds {
        match self {
            Binding::VirtualService(_) => Binds::VirtualService,
            Binding::NatRule(_) => Binds::NatRule,
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Binding::VirtualService(one) => &one.metadata,
            Binding::NatRule(one) => &one.metadata,
        }
    }

    /// What it says.
    pub fn spec(&self) -> Spec<'_> {
        match self {
            Binding::VirtualService(one) => Spec::VirtualService(&one.spec),
            Binding::NatRule(one) => Spec::NatRule(&one.spec),
        }
    }

    /// What it says that it is for.
    pub fn bound(&self) -> Bound {
        let (owner, director) = match self.spec() {
            Spec::VirtualService(spec) => (&spec.virtual_service, &spec.director),
            Spec::NatRule(spec) => (&spec.nat_rule, &spec.director),
        };
        let namespace = self.meta().namespace.as_deref().unwrap_or_default();
        Bound::new(self.binds(), BindingKey::new(namespace, owner), director)
    }

    /// What its director's agent says of it, and of which generation.
    pub fn said(&self) -> Option<(Option<i64>, &[Condition])> {
        match self {
            Binding::VirtualService(one) => {
                one.status.as_ref().map(|status| (status.observed_generation, &*status.conditions))
            }
            Binding::NatRule(one) => {
                one.status.as_ref().map(|status| (status.observed_generation, &*status.conditions))
            }
        }
    }
}

impl From<VirtualServiceBinding> for Binding {
    fn from(one: VirtualServiceBinding) -> Binding {
        Binding::VirtualService(Box::new(one))
    }
}

impl From<NatRuleBinding> for Binding {
    fn from(one: NatRuleBinding) -> Binding {
        Binding::NatRule(Box::new(one))
    }
}
