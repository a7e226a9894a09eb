//! Rules of VrrpGroup.

use serde_json::Value;

use crate::common::{between, rule, rule_at};

/// Rules of the spec as a whole. What they compare in all instances is taken out of these first: an instance may have thousands
/// of addresses.
pub(crate) fn spec() -> Vec<Value> {
    vec![
        rule_at(
            ".preferred",
            "!has(self.preferred) || self.members.exists(m, m.director == self.preferred)",
            "preferred must be one of the members",
        ),
        rule_at(
            ".advertisementInterval",
            "self.version == 3 ? duration(self.advertisementInterval) <= duration('40s950ms') : !self.advertisementInterval.contains('ms')",
            "version 3 has at most 40s950ms, version 2 whole seconds",
        ),
        rule_at(
            ".version",
            "self.version == 3 || self.instances.all(i, i.addresses.all(a, !a.contains(':')))",
            "version 2 is for IPv4 only",
        ),
        rule_at(
            ".instances",
            // Not taken out first: the API server knows no bound of strings that a rule puts together.
            "self.instances.all(i, !has(i.virtualRouterId) || self.instances.exists_one(j, \
             has(j.virtualRouterId) && j.virtualRouterId == i.virtualRouterId && j.interface == i.interface))",
            "two instances on one interface must have different virtualRouterIds",
        ),
        rule_at(
            ".instances",
            "self.instances.map(i, i.addresses.size()).sum() <= 2048",
            "all instances together have at most 2048 addresses",
        ),
        rule_at(
            ".instances",
            "self.instances.map(i, has(i.excludedAddresses) ? i.excludedAddresses.size() : 0).sum() <= 4096",
            "all instances together have at most 4096 excludedAddresses",
        ),
        rule_at(
            ".members",
            "[self.instances.map(i, i.name)].all(names, \
             self.members.all(m, !has(m.addresses) || m.addresses.all(n, n in names)))",
            "the addresses of a member are named after instances",
        ),
        rule_at(
            ".members",
            "!has(self.peers) || !has(self.peers.unicast) \
             || [self.instances.map(i, i.name)].all(names, \
             self.members.all(m, has(m.addresses) && names.all(n, n in m.addresses)))",
            "unicast needs every member's own address in every instance",
        ),
        rule_at(
            ".authentication",
            "self.version == 2 || !has(self.authentication) || !has(self.authentication.simple)",
            "version 3 has no simple authentication: use hmac",
        ),
        rule_at(
            ".onAgentLoss",
            "!has(self.onAgentLoss) || self.onAgentLoss == 'Keep' || self.members.size() >= 2",
            "Release needs at least two members",
        ),
    ]
}

/// Rules of `spec.advertisementInterval`.
pub(crate) fn advertisement_interval() -> Vec<Value> {
    let mut rules = between("10ms", "255s");
    rules.push(rule("duration(self).getMilliseconds() % 10 == 0", "must be a multiple of 10ms"));
    rules
}

/// Rules of an instance.
pub(crate) fn instance() -> Vec<Value> {
    vec![rule_at(
        ".addresses",
        "self.addresses.filter(a, !a.contains(':')).size() <= 255 && self.addresses.filter(a, a.contains(':')).size() <= 80",
        "one packet holds at most 255 IPv4 and 80 IPv6 addresses; put more into excludedAddresses",
    )]
}

/// One more rule of an instance whose interface is no alias any more: what the kernel keeps is the interface's name, a colon and the
/// label, in IFNAMSIZ - 1 characters.
pub(crate) fn label() -> Value {
    rule_at(
        ".label",
        "!has(self.label) || self.interface.size() + 1 + self.label.size() <= 15",
        "interface, colon and label have at most 15 characters together",
    )
}

/// Rules of a route.
pub(crate) fn route() -> Vec<Value> {
    vec![
        rule_at(
            ".via",
            "!has(self.via) || self.via.contains(':') == self.to.contains(':')",
            "via must be of the family of to",
        ),
        rule_at(
            ".source",
            "!has(self.source) || self.source.contains(':') == self.to.contains(':')",
            "source must be of the family of to",
        ),
    ]
}

/// Rules of a policy rule.
pub(crate) fn routing_rule() -> Vec<Value> {
    vec![
        rule("has(self.from) || has(self.to)", "from or to must be set"),
        rule_at(
            ".from",
            "!has(self.from) || !has(self.to) || self.from.contains(':') == self.to.contains(':')",
            "from must be of the family of to",
        ),
    ]
}

/// Rules of what is tracked.
pub(crate) fn weight() -> Vec<Value> {
    vec![rule_at(
        ".weight",
        "!has(self.weight) || self.weight != 0",
        "a weight of 0 would change nothing: leave it out for Fault",
    )]
}

/// Rules of the HMAC.
pub(crate) fn hmac() -> Vec<Value> {
    vec![
        rule_at(
            ".activeKey",
            "self.keys.exists(k, k.id == self.activeKey)",
            "activeKey must be the id of one of the keys",
        ),
        rule_at(".window", "!has(self.window) || self.antiReplay == 'Time'", "window needs antiReplay: Time"),
    ]
}
