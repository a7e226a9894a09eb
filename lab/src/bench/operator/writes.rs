//! How often kinds were written, as the API server counts it (`apiserver_request_total`).

use std::collections::BTreeMap;

/// Writes of each resource, as `RESOURCE` or `RESOURCE/status`, refused ones too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writes(BTreeMap<String, u64>);

/// The verbs that write, as the metric has them.
const VERBS: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

/// A label's value; those of this metric have no quotes in them.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|one| one.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

impl Writes {
    /// From the text of the API server's metrics, those of our kinds.
    pub(super) fn read(text: &str) -> Self {
        let mut writes = BTreeMap::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("apiserver_request_total{") else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let of = |name: &str| label(labels, name).unwrap_or_default();
            if of("group") != "bascule.dev" || !VERBS.contains(&of("verb")) {
                continue;
            }
            let (resource, part) = (of("resource"), of("subresource"));
            let name = if part.is_empty() { resource.to_owned() } else { format!("{resource}/{part}") };
            // A counter may be written as 1.2e+06.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let value = value.trim().parse::<f64>().unwrap_or(0.0) as u64;
            *writes.entry(name).or_default() += value;
        }
        Self(writes)
    }

    /// Those of one resource.
    pub(super) fn of(&self, resource: &str) -> u64 {
        self.0.get(resource).copied().unwrap_or(0)
    }

    /// What came after `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let later = |(name, count): (&String, &u64)| (name.clone(), count.saturating_sub(before.of(name)));
        Self(self.0.iter().map(later).filter(|(_, count)| *count > 0).collect())
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_our_kinds_are_added_up() {
        let line = |verb: &str, code: u32, resource: &str, part: &str, count: &str| {
            format!(
                "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group=\"bascule.dev\",\
                 resource=\"{resource}\",scope=\"resource\",subresource=\"{part}\",verb=\"{verb}\",version=\"v1alpha1\"}} {count}\n"
            )
        };
        let text = line("APPLY", 200, "virtualservicebindings", "", "3")
            + &line("APPLY", 201, "virtualservicebindings", "", "1.2e+06")
            + &line("APPLY", 200, "virtualservicebindings", "status", "7")
            + &line("LIST", 200, "virtualservicebindings", "", "90")
            + &line("PATCH", 409, "vrrpgroups", "status", "1").replace("bascule.dev", "other")
            + "apiserver_request_duration_seconds_count{group=\"bascule.dev\",verb=\"APPLY\"} 5\n";
        let before = Writes::read(&text);
        assert_eq!(before.of("virtualservicebindings"), 1_200_003);
        assert_eq!(before.words(), "virtualservicebindings 1200003, virtualservicebindings/status 7");
        let after = Writes::read(&text.replace("} 7", "} 9"));
        assert_eq!(after.since(&before).words(), "virtualservicebindings/status 2");
        assert_eq!(before.since(&before).words(), "nothing");
    }
}
