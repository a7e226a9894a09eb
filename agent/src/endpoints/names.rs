//! What people read of an endpoint: the name of its pod, where that is enough to tell it from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::slice::Endpoint;

/// Longest name, in bytes: the API's bound on names of pods.
const LONGEST: usize = 253;

/// A name for each endpoint, all different. One whose pod has another endpoint, as with two families, has its address in it, too;
/// one of no pod has only that.
pub(super) fn named<'a>(all: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<String> {
    let mut pods: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in all.clone().filter_map(|one| one.pod.as_deref()) {
        *pods.entry(pod).or_default() += 1;
    }
    let mut given = BTreeSet::new();
    let mut again: BTreeMap<String, usize> = BTreeMap::new();
    all.map(|one| {
        let address = spelled(one.address);
        let name = match one.pod.as_deref() {
            Some(pod) if pods.get(pod) == Some(&1) => pod.to_owned(),
            Some(pod) if pod.len() + 1 + address.len() <= LONGEST => format!("{pod}.{address}"),
            _ => address,
        };
        let mut different = name.clone();
        // One address with several sets of ports.
        while !given.insert(different.clone()) {
            let times = again.entry(name.clone()).or_insert(1);
            *times += 1;
            different = format!("{name}.{times}");
        }
        different
    })
    .collect()
}

/// An address as a name can have it: no colons.
fn spelled(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    }
}
