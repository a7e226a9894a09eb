//! The rtnetlink messages of routes and rules (linux/rtnetlink.h, linux/fib_rules.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bascule_crds::common::AddressPrefix;

use super::{Event, HeldRoute, HeldRule, MARK, Op, Route, RouteKey, Selector};
use crate::plane::{
    attribute::{Attributes, Writer, address, number, octets},
    netlink::{CREATE, EXCLUSIVE, Message, REPLACE},
};

pub(super) const NEW_ROUTE: u16 = 24;
pub(super) const DELETE_ROUTE: u16 = 25;
pub(super) const GET_ROUTE: u16 = 26;
pub(super) const NEW_RULE: u16 = 32;
pub(super) const DELETE_RULE: u16 = 33;
pub(super) const GET_RULE: u16 = 34;

/// struct rtmsg, and struct fib_rule_hdr.
const HEADER: usize = 12;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;

/// RTN_UNICAST.
const UNICAST: u8 = 1;
/// RT_SCOPE_UNIVERSE, of what goes through a gateway and of everything in IPv6; RT_SCOPE_LINK, of what is on the link;
/// RT_SCOPE_NOWHERE, which in a removal stands for any.
const UNIVERSE: u8 = 0;
const LINK: u8 = 253;
const NOWHERE: u8 = 255;
/// FR_ACT_TO_TBL.
const TO_TABLE: u8 = 1;
/// RTM_F_CLONED: a cached answer, not an entry of a table.
const CLONED: u32 = 0x200;

fn family(is_ipv4: bool) -> u8 {
    u8::try_from(if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or_default()
}

/// A table's number where it has one byte: RT_TABLE_UNSPEC where it does not fit, the attribute has it in any case.
fn narrow(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(0)
}

/// Asks for all routes of a family that have our mark, where the kernel filters (Linux 4.20), else for all.
pub(super) fn routes_request(is_ipv4: bool) -> [u8; HEADER] {
    [family(is_ipv4), 0, 0, 0, 0, MARK, 0, 0, 0, 0, 0, 0]
}

/// Asks for all rules of a family.
pub(super) fn rules_request(is_ipv4: bool) -> [u8; HEADER] {
    [family(is_ipv4), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Type, flags and payload of a change.
pub(super) fn change(op: &Op) -> (u16, u16, Vec<u8>) {
    match op {
        Op::AddRoute { route, index, replace } => {
            let how = if *replace { REPLACE } else { EXCLUSIVE };
            (NEW_ROUTE, CREATE | how, add_route(route, *index))
        }
        Op::RemoveRoute(key) => (DELETE_ROUTE, 0, about_route(key, NOWHERE, 0).finish()),
        Op::AddRule(rule) => (NEW_RULE, CREATE | EXCLUSIVE, about_rule(&rule.selector, rule.priority)),
        Op::RemoveRule(HeldRule { selector, priority }) => {
            (DELETE_RULE, 0, about_rule(selector, Some(*priority)))
        }
    }
}

fn about_route(key: &RouteKey, scope: u8, kind: u8) -> Writer {
    let RouteKey { table, to, metric } = key;
    let is_ipv4 = to.address.is_ipv4();
    let scope = if is_ipv4 { scope } else { UNIVERSE };
    let header = [family(is_ipv4), to.length, 0, 0, narrow(*table), MARK, scope, kind, 0, 0, 0, 0];
    let mut message = Writer::after(&header);
    if to.length > 0 {
        message = message.bytes(RTA_DST, &octets(to.address));
    }
    message.host(RTA_TABLE, *table).host(RTA_PRIORITY, *metric)
}

fn add_route(route: &Route, index: u32) -> Vec<u8> {
    let scope = if route.via.is_some() { UNIVERSE } else { LINK };
    let mut message = about_route(&route.key, scope, UNICAST).host(RTA_OIF, index);
    if let Some(via) = route.via {
        message = message.bytes(RTA_GATEWAY, &octets(via));
    }
    if let Some(source) = route.source {
        message = message.bytes(RTA_PREFSRC, &octets(source));
    }
    message.finish()
}

fn about_rule(selector: &Selector, priority: Option<u32>) -> Vec<u8> {
    let Selector { is_ipv4, from, to, table } = selector;
    let length = |network: &Option<AddressPrefix>| network.map_or(0, |network| network.length);
    let header = [family(*is_ipv4), length(to), length(from), 0, narrow(*table), 0, 0, TO_TABLE, 0, 0, 0, 0];
    let mut message = Writer::after(&header);
    for (kind, network) in [(FRA_DST, to), (FRA_SRC, from)] {
        if let Some(network) = network.filter(|network| network.length > 0) {
            message = message.bytes(kind, &octets(network.address));
        }
    }
    if let Some(priority) = priority {
        message = message.host(FRA_PRIORITY, priority);
    }
    message.host(FRA_TABLE, *table).bytes(FRA_PROTOCOL, &[MARK]).finish()
}

/// What a notification or an answer says of something of ours.
pub(super) fn read(message: &Message) -> Option<Event> {
    match message.kind {
        NEW_ROUTE => read_route(message).map(|(key, route)| Event::Route(key, route)),
        DELETE_ROUTE => read_route(message).map(|(key, _)| Event::RouteGone(key)),
        NEW_RULE => read_rule(message).map(Event::Rule),
        DELETE_RULE => read_rule(message).map(Event::RuleGone),
        _ => None,
    }
}

fn unspecified(is_ipv4: bool) -> IpAddr {
    if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn is_ipv4(header: &[u8]) -> Option<bool> {
    match i32::from(*header.first()?) {
        libc::AF_INET => Some(true),
        libc::AF_INET6 => Some(false),
        _ => None,
    }
}

fn read_route(message: &Message) -> Option<(RouteKey, HeldRoute)> {
    let (header, attributes) = message.payload.split_at_checked(HEADER)?;
    let is_ipv4 = is_ipv4(header)?;
    if header[5] != MARK || number(&header[8..12])? & CLONED != 0 {
        return None;
    }
    let to = AddressPrefix { address: unspecified(is_ipv4), length: header[1] };
    let mut key = RouteKey { table: header[4].into(), to, metric: 0 };
    let mut held = HeldRoute { via: None, index: None, source: None };
    for (kind, value) in Attributes(attributes) {
        match kind {
            RTA_DST => key.to.address = address(value)?,
            RTA_OIF => held.index = number(value),
            RTA_GATEWAY => held.via = address(value),
            RTA_PRIORITY => key.metric = number(value)?,
            RTA_PREFSRC => held.source = address(value),
            RTA_TABLE => key.table = number(value)?,
            _ => {}
        }
    }
    Some((key, held))
}

fn read_rule(message: &Message) -> Option<HeldRule> {
    let (header, attributes) = message.payload.split_at_checked(HEADER)?;
    let is_ipv4 = is_ipv4(header)?;
    let network =
        |length: u8| (length > 0).then_some(AddressPrefix { address: unspecified(is_ipv4), length });
    let (mut from, mut to, mut table) = (network(header[2]), network(header[1]), header[4].into());
    let (mut priority, mut mark) = (0, 0);
    for (kind, value) in Attributes(attributes) {
        match kind {
            FRA_DST => to = Some(AddressPrefix { address: address(value)?, length: header[1] }),
            FRA_SRC => from = Some(AddressPrefix { address: address(value)?, length: header[2] }),
            FRA_PRIORITY => priority = number(value)?,
            FRA_TABLE => table = number(value)?,
            FRA_PROTOCOL => mark = *value.first()?,
            _ => {}
        }
    }
    let ours = mark == MARK && header[7] == TO_TABLE;
    ours.then_some(HeldRule { selector: Selector { is_ipv4, from, to, table }, priority })
}
