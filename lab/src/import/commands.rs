//! What a command of `exec` does to the network of its node: pure, a line goes in and effects come out.

use std::net::IpAddr;

use super::words::{self, Token};
use crate::scenario::Prefix;
use crate::scenario::topology::{Name, Route};
use crate::scenario::value::{Destination, Mac};

/// What one command does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// An address comes.
    Address { device: String, address: Prefix, label: Option<String> },
    /// A route comes.
    Route(Route),
    /// The hardware address changes.
    Mac { device: String, mac: Mac },
    /// An interface comes up, which a link does by itself.
    Up { device: String },
    /// It goes down, until it comes up again.
    Down { device: String },
    /// A kernel parameter is set.
    Sysctl { name: String, value: String },
    /// It is played in the node as it is.
    Same(Same),
    /// Nothing here; why, where that is worth a word.
    Nothing(Option<&'static str>),
}

/// A command that does the same in a node of the lab.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Same {
    /// The interface that it is about, which has to be there.
    pub(super) device: Option<String>,
    /// The interface that it makes.
    pub(super) makes: Option<String>,
}

/// A command and what it does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Translated {
    pub(super) words: Vec<String>,
    pub(super) effect: Effect,
}

impl Translated {
    fn of(words: &[String], effect: Effect) -> Self {
        // Of several that one command sets, and of what a shell writes into a file, each is a command of its own.
        let words = match &effect {
            Effect::Sysctl { name, value } => vec!["sysctl".into(), "-w".into(), format!("{name}={value}")],
            _ => words.to_vec(),
        };
        Self { words, effect }
    }
}

/// Programs that set up the kernel of the node that they run in, and nothing else: they do the same in a node of the lab.
const KERNEL_PROGRAMS: [&str; 6] = ["bridge", "ethtool", "ip6tables", "iptables", "nft", "tc"];
/// Their options after which a file has what is to be done.
const READS_A_FILE: [&str; 6] = ["-b", "-batch", "--batch", "-f", "--file", "--filename"];
const SHELLS: [&str; 3] = ["ash", "bash", "sh"];
/// A script in a script in a script is none that anybody wrote.
const MAX_DEPTH: usize = 3;

/// What a line of `exec` does, command by command.
///
/// # Errors
/// Why it cannot be translated.
pub(super) fn translate(line: &str) -> Result<Vec<Translated>, String> {
    let tokens = words::split(line)?.into_iter().map(Token::Word).collect::<Vec<_>>();
    command(&tokens, 0)
}

fn command(tokens: &[Token], depth: usize) -> Result<Vec<Translated>, String> {
    if let [Token::Word(echo), Token::Word(value), Token::Into, Token::Word(file)] = tokens
        && echo == "echo"
        && let Some(name) = file.strip_prefix("/proc/sys/")
    {
        let effect = sysctl(name, value)?;
        return Ok(vec![Translated::of(&[], effect)]);
    }
    let mut words = Vec::new();
    for token in tokens {
        match token {
            Token::Word(word) => words.push(word.clone()),
            _ => return Err("`>` needs a shell".to_owned()),
        }
    }
    let [program, arguments @ ..] = words.as_slice() else { return Ok(Vec::new()) };
    let base = program.rsplit('/').next().unwrap_or(program);
    if SHELLS.contains(&base) {
        let [option, script] = arguments else {
            return Err(format!(
                "a script of the container's own is not here; only `{base} -c '…'` can be read"
            ));
        };
        if !matches!(option.as_str(), "-c" | "-ec" | "-lc") || depth >= MAX_DEPTH {
            return Err(format!("only `{base} -c '…'` can be read"));
        }
        let commands = words::script(script)?;
        let all: Result<Vec<_>, String> = commands.iter().map(|tokens| command(tokens, depth + 1)).collect();
        return Ok(all?.concat());
    }
    let effects = match base {
        "ip" => vec![ip(arguments)?],
        "sysctl" => sysctls(arguments)?,
        "true" | ":" | "sleep" | "echo" => vec![Effect::Nothing(None)],
        _ if KERNEL_PROGRAMS.contains(&base) => {
            if let Some(option) = arguments.iter().find(|one| READS_A_FILE.contains(&one.as_str())) {
                return Err(format!("`{option}` reads a file of the container's, which is not here"));
            }
            vec![Effect::Same(Same::default())]
        }
        _ => return Err(format!("`{base}` is a program whose effect on the network is not known")),
    };
    Ok(effects.into_iter().map(|effect| Translated::of(&words, effect)).collect())
}

/// Arguments, one after another.
struct Arguments<'a>(std::slice::Iter<'a, String>);

impl<'a> Arguments<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.0.next().map(String::as_str)
    }

    fn value(&mut self, of: &str) -> Result<&'a str, String> {
        self.next().ok_or_else(|| format!("`{of}` has no value"))
    }
}

/// iproute2 takes the beginnings of its words.
fn short(word: &str, of: &str, least: usize) -> bool {
    word.len() >= least && of.starts_with(word)
}

fn ip(arguments: &[String]) -> Result<Effect, String> {
    let mut rest = Arguments(arguments.iter());
    let mut six = false;
    let object = loop {
        match rest.next() {
            Some("-6") => six = true,
            Some("-4") => {}
            Some(option) if option.starts_with('-') => {
                return Err(format!("the option `{option}` of ip is not known"));
            }
            Some(object) => break object,
            None => return Err("ip does nothing without an object".to_owned()),
        }
    };
    let verb = rest.next().unwrap_or("show");
    match object {
        _ if short(verb, "show", 2) || verb == "list" => Ok(Effect::Nothing(None)),
        _ if short(object, "address", 1) => address(verb, rest),
        _ if short(object, "route", 1) => route(verb, rest, six),
        _ if short(object, "link", 1) => link(verb, rest),
        "tunnel" | "tuntap" if verb == "add" => {
            let makes = rest.0.clone().find(|word| !matches!(word.as_str(), "dev" | "name")).cloned();
            Ok(Effect::Same(Same { device: None, makes }))
        }
        "rule" | "neigh" | "neighbor" | "neighbour" | "nexthop" if verb == "add" || verb == "replace" => {
            let device = rest.0.clone().skip_while(|word| *word != "dev").nth(1).cloned();
            Ok(Effect::Same(Same { device, makes: None }))
        }
        _ => Err(format!("`ip {object} {verb}` is not known here")),
    }
}

fn address(verb: &str, mut rest: Arguments<'_>) -> Result<Effect, String> {
    if !matches!(verb, "a" | "add" | "replace" | "change") {
        return Err(format!(
            "`ip address {verb}` cannot be translated; leave the address out where it is added"
        ));
    }
    let (mut address, mut device, mut label, mut same) = (None, None, None, false);
    while let Some(word) = rest.next() {
        match word {
            "dev" => device = Some(rest.value(word)?.to_owned()),
            "label" => label = Some(rest.value(word)?.to_owned()),
            // The kernel finds it by itself.
            "brd" | "broadcast" => {
                rest.value(word)?;
            }
            "local" => address = Some(prefix(rest.value(word)?)?),
            "scope" => same |= rest.value(word)? != "global",
            "peer" | "metric" | "valid_lft" | "preferred_lft" | "proto" => {
                rest.value(word)?;
                same = true;
            }
            "nodad" | "noprefixroute" | "home" | "mngtmpaddr" | "autojoin" => same = true,
            _ => address = Some(prefix(word)?),
        }
    }
    let device = device.ok_or("`ip address add` needs `dev` and an interface")?;
    let address = address.ok_or("`ip address add` needs an address")?;
    if same {
        return Ok(Effect::Same(Same { device: Some(device), makes: None }));
    }
    Ok(Effect::Address { device, address, label })
}

fn prefix(text: &str) -> Result<Prefix, String> {
    text.parse()
}

fn gateway(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not the address of a gateway"))
}

const GONE: &str = "there is no default route of a management network that would have to go";

fn route(verb: &str, mut rest: Arguments<'_>, six: bool) -> Result<Effect, String> {
    match verb {
        "a" | "add" | "replace" | "change" | "append" => {}
        "d" | "del" | "delete" if rest.0.clone().any(|word| word == "default") => {
            return Ok(Effect::Nothing(Some(GONE)));
        }
        _ => return Err(format!("`ip route {verb}` cannot be translated")),
    }
    let (mut to, mut via, mut device, mut source, mut same) = (None, None, None, None, false);
    while let Some(word) = rest.next() {
        match word {
            "to" | "unicast" => {}
            "via" => {
                let mut value = rest.value(word)?;
                if matches!(value, "inet" | "inet6") {
                    value = rest.value(word)?;
                }
                via = Some(gateway(value)?);
            }
            "dev" => device = Some(rest.value(word)?.to_owned()),
            "src" => source = Some(gateway(rest.value(word)?)?),
            // `scope` follows from whether there is a gateway.
            "proto" | "protocol" | "scope" => {
                rest.value(word)?;
            }
            "blackhole" | "unreachable" | "prohibit" | "throw" | "local" | "nexthop" | "onlink" => {
                same = true
            }
            "metric" | "table" | "mtu" | "advmss" | "encap" | "pref" | "weight" | "initcwnd" | "initrwnd"
            | "congctl" | "rto_min" | "hoplimit" | "nhid" => {
                rest.value(word)?;
                same = true;
            }
            _ if to.is_none() => to = Some(word.parse::<Destination>()?),
            _ if same => {}
            _ => return Err(format!("`{word}` of ip route is not known")),
        }
    }
    let to = to.ok_or("`ip route add` needs a destination")?;
    // Of which family it is, nothing says.
    same |= to == Destination::Default && via.is_none() && six;
    if same {
        return Ok(Effect::Same(Same { device, makes: None }));
    }
    if via.is_none() && device.is_none() {
        return Err("`ip route add` needs `via` and a gateway, or `dev` and an interface".to_owned());
    }
    let everything = |to: Destination| match to {
        Destination::Network(prefix) => {
            prefix.length == 0 && prefix.address.is_unspecified() && via.is_some()
        }
        Destination::Default => true,
    };
    let to = if everything(to) { Destination::Default } else { to };
    let interface = device.as_deref().map(Name::from);
    Ok(Effect::Route(Route { to, via, interface, source }))
}

fn link(verb: &str, mut rest: Arguments<'_>) -> Result<Effect, String> {
    match verb {
        "add" | "a" => {
            let mut makes = None;
            while let Some(word) = rest.next() {
                match word {
                    "type" => break,
                    "link" | "address" | "mtu" | "txqueuelen" | "numtxqueues" | "numrxqueues" => {
                        rest.value(word)?;
                    }
                    "name" | "dev" => makes = Some(rest.value(word)?.to_owned()),
                    _ => makes = Some(word.to_owned()),
                }
            }
            Ok(Effect::Same(Same {
                device: None,
                makes: Some(makes.ok_or("`ip link add` names no interface")?),
            }))
        }
        "s" | "set" => set(rest),
        _ => Err(format!("`ip link {verb}` cannot be translated")),
    }
}

fn set(mut rest: Arguments<'_>) -> Result<Effect, String> {
    let (mut device, mut mac, mut same, mut down) = (None, None, false, false);
    while let Some(word) = rest.next() {
        match word {
            "dev" => device = Some(rest.value(word)?.to_owned()),
            "up" => down = false,
            "down" => down = true,
            "address" => mac = Some(rest.value(word)?.parse::<Mac>()?),
            "nomaster" => same = true,
            "mtu" | "master" | "txqueuelen" | "qlen" | "arp" | "multicast" | "promisc" | "vrf" | "alias" => {
                rest.value(word)?;
                same = true;
            }
            _ if device.is_none() => device = Some(word.to_owned()),
            // What a kind of interface has of its own: `type bridge vlan_filtering 1`.
            "type" => {
                same = true;
                break;
            }
            _ => return Err(format!("`{word}` of ip link set cannot be translated")),
        }
    }
    let device = device.ok_or("`ip link set` names no interface")?;
    Ok(match (mac, same || down) {
        (Some(mac), false) => Effect::Mac { device, mac },
        (None, false) => Effect::Up { device },
        (None, true) if !same => Effect::Down { device },
        (_, true) => Effect::Same(Same { device: Some(device), makes: None }),
    })
}

fn sysctls(arguments: &[String]) -> Result<Vec<Effect>, String> {
    let mut effects = Vec::new();
    for argument in arguments {
        if matches!(argument.as_str(), "-w" | "--write" | "-q" | "--quiet" | "-e" | "--ignore") {
            continue;
        }
        let (name, value) = argument
            .split_once('=')
            .ok_or_else(|| format!("`{argument}` is not NAME=VALUE, which alone can be read of sysctl"))?;
        effects.push(sysctl(name, value)?);
    }
    if effects.is_empty() { Err("sysctl sets nothing here".to_owned()) } else { Ok(effects) }
}

/// A kernel parameter. In `/proc/sys` its parts are told apart by slashes, which stay where a part has a dot: `net/ipv4/conf/eth1.10/rp_filter`.
pub(super) fn sysctl(name: &str, value: &str) -> Result<Effect, String> {
    let name = if name.contains('.') { name.to_owned() } else { name.replace('/', ".") };
    if !name.starts_with("net.") && !name.starts_with("net/") {
        return Err(format!("the kernel parameter `{name}` is the whole machine's, not a node's"));
    }
    Ok(Effect::Sysctl { name, value: value.trim().to_owned() })
}

/// The interface that a kernel parameter is of, if it is of one.
pub(super) fn interface_of(name: &str) -> Option<&str> {
    let parts: Vec<&str> = name.split(if name.contains('/') { '/' } else { '.' }).collect();
    match parts[..] {
        ["net", "ipv4" | "ipv6", "conf" | "neigh", "all" | "default", _] => None,
        ["net", "ipv4" | "ipv6", "conf" | "neigh", interface, _] => Some(interface),
        _ => None,
    }
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
