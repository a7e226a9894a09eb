//! The nodes of the topology file: their kinds, and what they inherit from `defaults`, `kinds` and `groups`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::reader::Reader;
use crate::scenario::join;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A node.
    Machine,
    /// A network.
    Switch,
    /// It cannot be one here, and was told so.
    Refused,
}

/// A node with all that it inherits.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) part: Part,
    /// Commands with their paths, in the order in which they are played.
    pub(super) exec: Vec<(String, String)>,
    /// Kernel parameters with their paths.
    pub(super) sysctls: BTreeMap<String, (String, String)>,
}

const IMAGE: &str = "a node runs this machine's programs";
const STARTED: &str =
    "nothing of an image is started; write what should run as `servers`, `agent`, `peer` or `exec`";
const HOST: &str = "nodes are reached by `bascule-lab exec`, not by addresses and ports of this machine";
const LIMITS: &str = "nodes have all of this machine";
const ORDER: &str = "all links are there before any command is played";

/// Fields of a node that are read.
const READ: [&str; 6] = ["exec", "group", "kind", "network-mode", "stages", "sysctls"];
/// Fields that say nothing about the network or what runs in it.
const IDLE: [&str; 10] = [
    "annotations",
    "auto-remove",
    "debug",
    "graph-icon",
    "image-pull-policy",
    "labels",
    "position",
    "restart-policy",
    "runtime",
    "type",
];
/// Fields that are not used, and why.
const UNUSED: [(&str, &str); 36] = [
    ("SANs", STARTED),
    ("aliases", HOST),
    ("binds", STARTED),
    ("cap-add", LIMITS),
    ("certificate", STARTED),
    ("cmd", STARTED),
    ("components", STARTED),
    ("config", STARTED),
    ("cpu", LIMITS),
    ("cpu-set", LIMITS),
    ("credentials", STARTED),
    ("devices", LIMITS),
    ("dns", STARTED),
    ("enforce-startup-config", STARTED),
    ("entrypoint", STARTED),
    ("env", STARTED),
    ("env-files", STARTED),
    ("extras", STARTED),
    ("healthcheck", STARTED),
    ("image", IMAGE),
    ("kernel", IMAGE),
    ("license", IMAGE),
    ("memory", LIMITS),
    ("mgmt-ipv4", HOST),
    ("mgmt-ipv6", HOST),
    ("mgmt_ipv4", HOST),
    ("mgmt_ipv6", HOST),
    ("ports", HOST),
    ("publish", HOST),
    ("sandbox", IMAGE),
    ("shm-size", LIMITS),
    ("startup-config", STARTED),
    ("startup-delay", ORDER),
    ("suppress-startup-config", STARTED),
    ("user", STARTED),
    ("wait-for", ORDER),
];

fn known() -> Vec<&'static str> {
    READ.into_iter().chain(IDLE).chain(UNUSED.map(|(field, _)| field)).collect()
}

/// Fields of a node at one level, and the path of the level.
type Level<'a> = (String, &'a Map<String, Value>);

/// The nodes, in the order of the file.
pub(super) fn read<'a>(reader: &mut Reader<'a>, topology: &'a Map<String, Value>) -> Vec<Source> {
    let levels = Levels::read(reader, topology);
    let path = "topology.nodes";
    let Some(nodes) = reader.object(topology.get("nodes"), path) else {
        if reader.problems.is_empty() {
            reader.wrong("topology", "has no `nodes`: a topology has at least one");
        }
        return Vec::new();
    };
    let document = reader.document;
    let mut names: Vec<(&String, &Value)> = nodes.iter().collect();
    names.sort_by_key(|(name, _)| document.line_of(&join(path, name)));
    if names.is_empty() {
        reader.wrong(path, "is empty: a topology has at least one node");
    }
    names.into_iter().map(|(name, value)| node(reader, &levels, name, value)).collect()
}

/// `defaults`, `kinds` and `groups`.
struct Levels<'a> {
    defaults: Option<Level<'a>>,
    kinds: BTreeMap<&'a str, Level<'a>>,
    groups: BTreeMap<&'a str, Level<'a>>,
}

impl<'a> Levels<'a> {
    fn read(reader: &mut Reader<'a>, topology: &'a Map<String, Value>) -> Self {
        let known = known();
        let level = |reader: &mut Reader<'a>, value: &'a Value, path: String| {
            let map = reader.object(Some(value), &path)?;
            reader.unknown(map, &path, &known);
            Some((path, map))
        };
        let defaults = topology
            .get("defaults")
            .and_then(|defaults| level(reader, defaults, "topology.defaults".to_owned()));
        let named = |reader: &mut Reader<'a>, field: &str| {
            let path = format!("topology.{field}");
            let map = reader.object(topology.get(field), &path);
            let entries = map.into_iter().flatten();
            entries
                .filter_map(|(name, value)| Some((name.as_str(), level(reader, value, join(&path, name))?)))
                .collect()
        };
        let kinds = named(reader, "kinds");
        let groups = named(reader, "groups");
        Self { defaults, kinds, groups }
    }
}

fn field<'a>(reader: &mut Reader<'a>, level: Option<&Level<'a>>, name: &str) -> Option<&'a str> {
    let (path, map) = level?;
    reader.text(map.get(name), &join(path, name)).filter(|text| !text.is_empty())
}

fn node<'a>(reader: &mut Reader<'a>, levels: &Levels<'a>, name: &str, value: &'a Value) -> Source {
    let path = join("topology.nodes", name);
    let own = reader.object(Some(value), &path).map(|map| (path.clone(), map));
    if let Some((_, map)) = &own {
        reader.unknown(map, &path, &known());
    }
    // A group may say the kind, and a kind the group: the nearest that says it wins.
    let own_group = field(reader, own.as_ref(), "group");
    let usual_group = field(reader, levels.defaults.as_ref(), "group");
    let group = own_group.or(usual_group).and_then(|group| levels.groups.get(group));
    let kind = field(reader, own.as_ref(), "kind")
        .or_else(|| field(reader, group, "kind"))
        .or_else(|| field(reader, levels.defaults.as_ref(), "kind"));
    let of_kind = kind.and_then(|kind| levels.kinds.get(kind));
    let group = own_group.or_else(|| field(reader, of_kind, "group")).or(usual_group);
    let of_group = group.and_then(|group| levels.groups.get(group));
    // From what says least to what says most.
    let all: Vec<&Level<'_>> =
        [levels.defaults.as_ref(), of_kind, of_group, own.as_ref()].into_iter().flatten().collect();
    let part = part(reader, name, &path, kind);
    let mut source = Source { name: name.to_owned(), path, part, exec: Vec::new(), sysctls: BTreeMap::new() };
    match part {
        Part::Machine => inherit(reader, &all, &mut source),
        Part::Switch if own.as_ref().is_some_and(|(_, map)| map.contains_key("exec")) => {
            reader.unused(name, "exec", "a bridge is a network here, which plays no commands", &source.path);
        }
        Part::Switch | Part::Refused => {}
    }
    source
}

fn part(reader: &mut Reader<'_>, name: &str, path: &str, kind: Option<&str>) -> Part {
    let why = match kind {
        Some("linux") => return Part::Machine,
        Some("bridge" | "ovs-bridge") => return Part::Switch,
        None => {
            "has no kind, and inherits none; the lab builds nodes of kind `linux` and networks from `bridge`"
                .to_owned()
        }
        Some(kind @ ("host" | "ext-container" | "k8s-kind")) => {
            format!(
                "`{name}` is of kind `{kind}`: what stands outside of the topology is not rebuilt; take it out, with its links"
            )
        }
        Some(kind) => {
            format!(
                "`{name}` is of kind `{kind}`, whose system only its image has; the lab builds nodes of kind `linux` and networks from `bridge`"
            )
        }
    };
    let at = format!("{path}.kind");
    reader.wrong(&at, why);
    Part::Refused
}

fn inherit<'a>(reader: &mut Reader<'a>, levels: &[&Level<'a>], source: &mut Source) {
    let mut mode = None;
    for (path, map) in levels {
        let at = join(path, "exec");
        for (index, command) in reader.list(map.get("exec"), &at).iter().enumerate() {
            let at = format!("{at}[{index}]");
            if let Some(command) = reader.text(Some(command), &at) {
                source.exec.push((at, command.to_owned()));
            }
        }
        let at = join(path, "sysctls");
        for (name, value) in reader.object(map.get("sysctls"), &at).into_iter().flatten() {
            let at = join(&at, name);
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(value) => u8::from(*value).to_string(),
                _ => {
                    reader.wrong(&at, "has to be a string or a number");
                    continue;
                }
            };
            source.sysctls.insert(name.clone(), (at, value));
        }
        let at = join(path, "network-mode");
        if let Some(text) = reader.text(map.get("network-mode"), &at) {
            mode = Some((at, text));
        }
        stages(reader, path, map, &source.name);
    }
    if let Some((at, mode)) = mode.filter(|(_, mode)| !matches!(*mode, "none" | "bridge" | "")) {
        let message = format!(
            "`{}` has the network mode `{mode}`, so that it is no machine of its own; let it have its own network, or give what it runs to the other",
            source.name
        );
        reader.wrong(&at, message);
    }
    for (name, why) in UNUSED {
        if let Some((path, _)) = levels.iter().rev().find(|(_, map)| map.contains_key(name)) {
            reader.unused(&source.name, name, why, &join(path, name));
        }
    }
}

/// Stages say in which order things start, and may have commands.
fn stages<'a>(reader: &mut Reader<'a>, path: &str, map: &'a Map<String, Value>, node: &str) {
    let at = join(path, "stages");
    let Some(stages) = reader.object(map.get("stages"), &at) else { return };
    let mut commands = false;
    for (name, stage) in stages {
        let at = join(&at, name);
        if stage.get("exec").is_some_and(|exec| exec.as_array().is_none_or(|list| !list.is_empty())) {
            commands = true;
            let message = format!(
                "the commands of `{node}` at the stage `{name}` cannot be translated; write them as `exec`"
            );
            reader.wrong_or_note(&at, message);
        }
    }
    if !commands {
        reader.unused(node, "stages", ORDER, &at);
    }
}
