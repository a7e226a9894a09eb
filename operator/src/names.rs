//! Names of what the operator writes, and of what it looks for.

use sha2::{Digest as _, Sha256};

/// Field manager of specs.
pub const MANAGER: &str = "bascule-operator";
/// Field manager of the statuses of users' objects.
pub const STATUS_MANAGER: &str = "bascule-operator-status";
/// The Lease by which operators settle who of them writes.
pub const ELECTION_LEASE: &str = "bascule-operator";
/// The label that makes a Node a director, whatever its value, except `false`.
pub const NODE_LABEL: &str = "bascule.dev/director";
/// The label with which a Node takes no part in load balancing, whatever its value (Kubernetes' well-known labels).
pub const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The label that says where a Node is (Kubernetes' well-known labels).
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The label by which Kubernetes' tools tell who made an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Digits of a hash in a name: 80 bits, and whoever finds two services with one hash only takes from himself.
const HASH: usize = 20;
/// What the name of a director's Lease begins with, so that no director's is [`ELECTION_LEASE`].
const LEASE: &str = "director-";

/// Name of the binding of a VirtualService or NatRule on a director, in its namespace: bindings of two kinds may have one name. Both names have at most
/// 63 characters (their schemas), of the 253 that Kubernetes allows.
pub fn binding(service: &str, director: &str) -> String {
    format!("{service}-{}", hash(&[service, director]))
}

/// Name of the Lease that a director's agent renews, in the operator's namespace.
pub fn director_lease(director: &str) -> String {
    format!("{LEASE}{director}")
}

/// Whose Lease has that name, if it is a director's.
pub fn director_of(lease: &str) -> Option<&str> {
    lease.strip_prefix(LEASE).filter(|director| !director.is_empty())
}

fn hash(parts: &[&str]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update(part.as_bytes());
        sha.update([0]);
    }
    sha.finalize().iter().take(HASH / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        let long = "a".repeat(63);
        for (service, director) in [("web", "dir1"), ("a.b", &*long), (&*long, "dir1"), (&*long, &*long)] {
            let name = binding(service, director);
            assert!(name.len() <= 253, "{name}");
            assert!(name.split('.').all(|label| !label.starts_with('-') && !label.ends_with('-')), "{name}");
            assert_ne!(name, binding(service, "dir2"));
            assert_eq!(director_of(&director_lease(director)), Some(director));
        }
        assert_ne!(binding("ab", "c"), binding("a", "bc"));
        assert_eq!(director_of(ELECTION_LEASE), None);
        assert_ne!(director_lease(ELECTION_LEASE), ELECTION_LEASE);
    }

    #[test]
    fn a_name_stays_what_it_is() {
        // Another name would be another object: every binding would be made anew at an upgrade.
        assert_eq!(binding("web", "dir1"), "web-44e04078e30bf8d03f3a");
    }
}
