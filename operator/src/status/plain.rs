//! Objects of which compiling alone speaks.

use bascule_crds::ObjectRef;
use bascule_crds::health_check::{HealthCheck, HealthCheckStatus};

use super::conditions::conditions;
use super::{Due, Haste, Surroundings, Truth, Verdict, judged, news, same_conditions, write};

/// What follows from that no director has to do anything for the object.
pub(super) fn not_in_force(verdicts: &[Verdict]) -> [Verdict; 2] {
    let because = verdicts.iter().find(|one| one.truth == Truth::False);
    let why = because.map_or_else(
        || "no director has to carry it out".to_owned(),
        |because| format!("{} is False", because.type_),
    );
    ["Programmed", "Ready"].map(|type_| Verdict::new(type_, Truth::False, "NotInForce", why.clone()))
}

pub(super) fn health_check(
    around: &Surroundings<'_>,
    reference: &ObjectRef,
    object: &HealthCheck,
) -> Option<Due> {
    let verdicts = judged(around, reference).iter().map(Verdict::judged).collect();
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let conditions = conditions(verdicts, generation, &before.conditions, &around.now);
    if before.observed_generation == generation && same_conditions(&before.conditions, &conditions) {
        return None;
    }
    let news = news(&before.conditions, &conditions);
    let status = HealthCheckStatus { observed_generation: generation, conditions };
    Some(Due { haste: Haste::Now, write: write(reference, &object.metadata, &before, &status), news })
}
