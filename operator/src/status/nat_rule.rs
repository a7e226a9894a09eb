//! NatRules: what became of each on all of its directors together.

use bascule_compile::BindingKey;
use bascule_crds::ObjectRef;
use bascule_crds::nat_rule::{NatRule, NatRuleStatus};

use super::conditions::conditions;
use super::plain::not_in_force;
use super::reports::{self, Report};
use super::{Due, Surroundings, Verdict, haste, judged, news, same_conditions, write};
use crate::bound::Binds;

/// A director on which its group rests says `Programmed` too: it counts as any other.
pub(super) fn due(around: &Surroundings<'_>, reference: &ObjectRef, object: &NatRule) -> Option<Due> {
    let key = BindingKey::new(reference.namespace.as_deref().unwrap_or_default(), &reference.name);
    let told: Vec<Report<'_>> =
        reports::of(around, Binds::NatRule, &key).into_iter().map(|(report, _)| report).collect();
    let mut verdicts: Vec<Verdict> = judged(around, reference).iter().map(Verdict::judged).collect();
    if told.is_empty() {
        verdicts.extend(not_in_force(&verdicts));
    } else {
        verdicts.extend(reports::verdicts(&told));
    }
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let conditions = conditions(verdicts, generation, &before.conditions, &around.now);
    if before.observed_generation == generation && same_conditions(&before.conditions, &conditions) {
        return None;
    }
    let haste = haste(
        (before.observed_generation, &before.conditions),
        (generation, &conditions),
        reports::settled(&told),
    );
    let news = news(&before.conditions, &conditions);
    let status = NatRuleStatus { observed_generation: generation, conditions };
    Some(Due { haste, write: write(reference, &object.metadata, &before, &status), news })
}
