//! VirtualServices: what became of each on all of its directors together.

use bascule_compile::{BindingKey, OutOfService};
use bascule_crds::virtual_service::{
    RealServerCounts, VirtualService, VirtualServiceStatus, VirtualServiceSummary,
};
use bascule_crds::{ObjectRef, VirtualServiceSpec};

use super::conditions::conditions;
use super::plain::not_in_force;
use super::reports::{self, Life, Report};
use super::{Due, Haste, Surroundings, Truth, Verdict, haste, judged, news, same_conditions, write};
use crate::bound::{Binding, Binds};

/// Longest text of a column, in characters.
const COLUMN: usize = 256;

pub(super) fn due(around: &Surroundings<'_>, reference: &ObjectRef, object: &VirtualService) -> Option<Due> {
    let key = BindingKey::new(reference.namespace.as_deref().unwrap_or_default(), &reference.name);
    let placed = reports::of(around, Binds::VirtualService, &key);
    let told: Vec<Report<'_>> = placed.iter().map(|(report, _)| report.clone()).collect();
    let mut verdicts: Vec<Verdict> = judged(around, reference).iter().map(Verdict::judged).collect();
    if told.is_empty() {
        verdicts.extend(not_in_force(&verdicts));
    } else {
        verdicts.extend(reports::verdicts(&told));
        drained(around, &object.spec, &mut verdicts);
    }
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let counts = counts(&placed);
    let status = VirtualServiceStatus {
        observed_generation: generation,
        conditions: conditions(verdicts, generation, &before.conditions, &around.now),
        real_servers: counts,
        summary: Some(summary(&object.spec, counts)),
    };
    let same = before.observed_generation == status.observed_generation
        && same_conditions(&before.conditions, &status.conditions)
        && before.real_servers == status.real_servers
        && before.summary == status.summary;
    if same {
        return None;
    }
    let mut haste = haste(
        (before.observed_generation, &before.conditions),
        (status.observed_generation, &status.conditions),
        reports::settled(&told),
    );
    // Real servers come and go, a hundred services at a time.
    if haste == Haste::Soon && same_conditions(&before.conditions, &status.conditions) {
        haste = Haste::Late;
    }
    let news = news(&before.conditions, &status.conditions);
    Some(Due { haste, write: write(reference, &object.metadata, &before, &status), news })
}

/// What is on one director alone takes no new connections while that is in maintenance, whatever its agent says of its real servers.
fn drained(around: &Surroundings<'_>, spec: &VirtualServiceSpec, verdicts: &mut [Verdict]) {
    let Some(placement) = &spec.director else { return };
    let out = around.compiled.machines.get(&placement.name).and_then(|machine| machine.out);
    let ready = verdicts.iter_mut().find(|one| one.type_ == "Ready" && one.truth == Truth::True);
    if let (Some(OutOfService::Maintenance), Some(ready)) = (out, ready) {
        let why = format!("{}: it is out of service and takes no new connections", placement.name);
        *ready =
            Verdict { earlier: ready.earlier, ..Verdict::new("Ready", Truth::False, "Maintenance", why) };
    }
}

/// The lowest count of real servers that are up among the living directors that have counted.
fn counts(placed: &[(Report<'_>, Option<&Binding>)]) -> Option<RealServerCounts> {
    let counted =
        placed.iter().filter(|(report, _)| report.life == Life::Alive).filter_map(|(_, binding)| {
            let Some(Binding::VirtualService(binding)) = binding else { return None };
            let status = binding.status.as_ref()?;
            Some(RealServerCounts { up: status.real_servers_up?, total: status.real_servers_total? })
        });
    counted.min_by_key(|counts| counts.up)
}

fn summary(spec: &VirtualServiceSpec, counts: Option<RealServerCounts>) -> VirtualServiceSummary {
    let up = match counts {
        Some(RealServerCounts { up, total }) => format!("{up}/{total}"),
        None => format!("?/{}", spec.real_servers.len()),
    };
    let addresses = match &spec.fwmark {
        Some(fwmark) => format!("fwmark {} ({:?})", fwmark.mark, fwmark.family),
        None => listed(spec.addresses.iter().map(ToString::to_string)),
    };
    let ports = listed(spec.ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)));
    VirtualServiceSummary { addresses, ports, up }
}

/// As many as fit in a column, and how many more there are.
fn listed(all: impl ExactSizeIterator<Item = String>) -> String {
    let count = all.len();
    let mut text = String::new();
    for (told, one) in all.enumerate() {
        // Room for the number of the others.
        if told > 0 && text.len() + one.len() + 1 > COLUMN - 16 {
            text.push_str(&format!(",+{}", count - told));
            break;
        }
        if told > 0 {
            text.push(',');
        }
        text.push_str(&one);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn columns_are_bounded() {
        for (count, length) in [(0, 0), (1, 3), (64, 2), (64, 40), (3, 200)] {
            let text = listed(vec!["x".repeat(length); count].into_iter());
            assert!(text.len() <= super::COLUMN, "{text}");
            let told = text.split(',').filter(|one| one.starts_with('x')).count();
            let more: usize = text.rsplit_once('+').map_or(0, |(_, more)| more.parse().unwrap());
            assert_eq!(told + more, count, "{text}");
        }
    }
}
