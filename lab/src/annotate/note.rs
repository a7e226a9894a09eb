//! What there is to say of a frame, and the words for it in two languages.

use std::time::Duration;

/// A language that comments and reports are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    /// English.
    #[default]
    En,
    /// French.
    Fr,
}

/// Why a node becomes active.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Why {
    /// It is the first that is seen.
    First,
    /// Nothing came from the one before, for so many intervals; the time.
    Silence { intervals: f64, silence: Duration },
    /// The one before released the addresses; how long before.
    Released { before: String, after: Duration },
    /// Its priority is above that of the one before.
    Preempts { before: String, own: u8, other: u8 },
    /// None of these is seen.
    Unknown { before: String },
}

/// How a packet was rewritten by the machine that forwarded it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rewriting {
    /// The machine.
    pub(crate) by: String,
    /// Its end of the link on the other side.
    pub(crate) other: String,
    /// Source and destination before.
    pub(crate) before: (String, String),
    /// And after.
    pub(crate) after: (String, String),
}

/// What there is to say of a frame.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Note {
    /// An advertisement of one that was not active before.
    Active { who: String, group: String, why: Why },
    /// An advertisement with priority 0.
    Releases { who: String, group: String },
    /// Another priority than before.
    Priority { who: String, group: String, from: u8, to: u8 },
    /// Another list of addresses than before.
    Addresses { who: String, group: String, now: String },
    /// Two are active at once.
    TwoActive { who: String, group: String, other: String },
    /// An advertisement that a receiver must refuse, and why.
    BadAdvertisement { from: String, problem: BadVrrp },
    /// Gratuitous ARP or an unsolicited neighbour advertisement; who had claimed the address before, and how often in a row.
    Claims { who: String, address: String, before: Option<String>, times: u32, six: bool },
    /// A message of connection synchronisation: its id, how many connections, the first of them.
    Sync { who: String, id: u8, count: usize, connections: Vec<String> },
    /// The first packet of a connection, and the server that was chosen.
    Chosen { client: String, service: String, server: String, by: String, how: Forwarded, other: String },
    /// The first packet of a flow in one direction whose addresses are rewritten.
    Nat(Rewriting),
    /// A check of a server fails: who checks, what, why.
    CheckFails { by: String, server: String, why: CheckFailure },
    /// Sent, and never seen where it should have arrived.
    Lost { at: Vec<String>, more: usize },
}

/// How a director hands a packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// With another destination.
    Masquerade,
    /// In a tunnel.
    Tunnel,
    /// As it is, to another hardware address.
    DirectRouting,
}

/// What is wrong with an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadVrrp {
    /// Its time to live is not 255 (RFC 9568 section 5.1.1.3): it came through a router, or was forged.
    Ttl(u8),
    /// Its checksum is wrong.
    Checksum,
    /// It is shorter than it says.
    Short,
    /// A version that there is none of.
    Version(u8),
}

/// Why a check fails.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CheckFailure {
    /// The port is closed.
    Refused,
    /// Nothing came back.
    NoAnswer,
    /// An HTTP status that is no success.
    Status(u16),
    /// ICMP says that it cannot be reached.
    Unreachable,
}

impl Note {
    /// Its kind, in one word: what the report filters by.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Active { .. }
            | Self::Releases { .. }
            | Self::Priority { .. }
            | Self::Addresses { .. }
            | Self::TwoActive { .. }
            | Self::BadAdvertisement { .. } => "vrrp",
            Self::Claims { .. } => "claim",
            Self::Sync { .. } => "sync",
            Self::Chosen { .. } => "ipvs",
            Self::Nat(_) => "nat",
            Self::CheckFails { .. } => "check",
            Self::Lost { .. } => "lost",
        }
    }

    /// The words.
    pub(crate) fn text(&self, language: Language) -> String {
        match language {
            Language::En => self.english(),
            Language::Fr => self.french(),
        }
    }

    fn english(&self) -> String {
        match self {
            Self::Active { who, group, why } => match why {
                Why::First => format!("VRRP: {who} is active for {group}; it is the first that is seen"),
                Why::Silence { intervals, silence } => format!(
                    "VRRP: {who} heard nothing for {intervals:.2} intervals ({}) and becomes active for {group}",
                    length(*silence)
                ),
                Why::Released { before, after } => format!(
                    "VRRP: {who} becomes active for {group}, {} after {before} released the addresses",
                    length(*after)
                ),
                Why::Preempts { before, own, other } => format!(
                    "VRRP: {who} becomes active for {group}: its priority {own} is above {other} of {before}"
                ),
                Why::Unknown { before } => format!("VRRP: {who} becomes active for {group} after {before}"),
            },
            Self::Releases { who, group } => {
                format!(
                    "VRRP: {who} releases the addresses of {group} (priority 0): another may take them at once"
                )
            }
            Self::Priority { who, group, from, to } => {
                format!("VRRP: the priority of {who} for {group} goes from {from} to {to}")
            }
            Self::Addresses { who, group, now } => format!("VRRP: {who} now advertises {now} for {group}"),
            Self::TwoActive { who, group, other } => {
                format!("VRRP: {who} and {other} are both active for {group}")
            }
            Self::BadAdvertisement { from, problem } => format!(
                "VRRP: receivers must ignore this advertisement from {from}: {}",
                match problem {
                    BadVrrp::Ttl(ttl) => format!("its time to live is {ttl}, not 255"),
                    BadVrrp::Checksum => "its checksum is wrong".to_owned(),
                    BadVrrp::Short => "it is shorter than it says".to_owned(),
                    BadVrrp::Version(version) => format!("there is no version {version}"),
                }
            ),
            Self::Claims { who, address, before, times, six } => {
                let what = if *six { "unsolicited neighbour advertisement" } else { "gratuitous ARP" };
                match (before, times) {
                    (_, 2..) => {
                        format!("{what}: {who} claims {address}, for the {} time in a row", ordinal(*times))
                    }
                    (Some(before), _) => format!("{what}: {who} claims {address}, which was at {before}"),
                    (None, _) => format!("{what}: {who} claims {address}"),
                }
            }
            Self::Sync { who, id, count, connections } => {
                let word = if *count == 1 { "connection" } else { "connections" };
                format!(
                    "connection sync {id}: {who} tells of {count} {word}: {}",
                    list(connections, *count, "more")
                )
            }
            Self::Chosen { client, service, server, by, how, other } => format!(
                "IPVS on {by} chose {server} for {client}, which asks for {service} ({}; see {other})",
                match how {
                    Forwarded::Masquerade => "masquerading: the destination is rewritten",
                    Forwarded::Tunnel => "tunnelling: the packet is wrapped into another one",
                    Forwarded::DirectRouting => "direct routing: only the hardware address changes",
                }
            ),
            Self::Nat(change) => format!(
                "address translation on {}: {} (see {})",
                change.by,
                change.words("becomes", "source", "destination"),
                change.other
            ),
            Self::CheckFails { by, server, why } => format!(
                "health check by {by}: {server} {}",
                match why {
                    CheckFailure::Refused => "refuses the connection".to_owned(),
                    CheckFailure::NoAnswer => "does not answer".to_owned(),
                    CheckFailure::Status(status) => format!("answers {status}"),
                    CheckFailure::Unreachable => "cannot be reached (ICMP)".to_owned(),
                }
            ),
            Self::Lost { at, more } => format!("never arrived at {}", list(at, at.len() + more, "more")),
        }
    }

    fn french(&self) -> String {
        match self {
            Self::Active { who, group, why } => match why {
                Why::First => format!("VRRP : {who} est actif pour {group} ; c’est le premier que l’on voit"),
                Why::Silence { intervals, silence } => format!(
                    "VRRP : {who} n’a rien entendu pendant {} intervalles ({}) et devient actif pour {group}",
                    comma(format!("{intervals:.2}")),
                    comma(length(*silence))
                ),
                Why::Released { before, after } => format!(
                    "VRRP : {who} devient actif pour {group}, {} après que {before} a rendu les adresses",
                    comma(length(*after))
                ),
                Why::Preempts { before, own, other } => format!(
                    "VRRP : {who} devient actif pour {group} : sa priorité {own} dépasse {other}, celle de {before}"
                ),
                Why::Unknown { before } => format!("VRRP : {who} devient actif pour {group} après {before}"),
            },
            Self::Releases { who, group } => format!(
                "VRRP : {who} rend les adresses de {group} (priorité 0) : un autre peut les prendre aussitôt"
            ),
            Self::Priority { who, group, from, to } => {
                format!("VRRP : la priorité de {who} pour {group} passe de {from} à {to}")
            }
            Self::Addresses { who, group, now } => {
                format!("VRRP : {who} annonce maintenant {now} pour {group}")
            }
            Self::TwoActive { who, group, other } => {
                format!("VRRP : {who} et {other} sont actifs en même temps pour {group}")
            }
            Self::BadAdvertisement { from, problem } => format!(
                "VRRP : cette annonce de {from} doit être ignorée : {}",
                match problem {
                    BadVrrp::Ttl(ttl) => format!("sa durée de vie est {ttl}, non 255"),
                    BadVrrp::Checksum => "sa somme de contrôle est fausse".to_owned(),
                    BadVrrp::Short => "elle est plus courte qu’elle ne le dit".to_owned(),
                    BadVrrp::Version(version) => format!("il n’y a pas de version {version}"),
                }
            ),
            Self::Claims { who, address, before, times, six } => {
                let what = if *six { "annonce de voisin non sollicitée" } else { "ARP gratuit" };
                match (before, times) {
                    (_, 2..) => format!("{what} : {who} réclame {address}, pour la {times}ᵉ fois de suite"),
                    (Some(before), _) => format!("{what} : {who} réclame {address}, qui était chez {before}"),
                    (None, _) => format!("{what} : {who} réclame {address}"),
                }
            }
            Self::Sync { who, id, count, connections } => {
                let word = if *count == 1 { "connexion" } else { "connexions" };
                format!(
                    "synchronisation {id} : {who} fait part de {count} {word} : {}",
                    list(connections, *count, "de plus")
                )
            }
            Self::Chosen { client, service, server, by, how, other } => format!(
                "IPVS sur {by} a choisi {server} pour {client}, qui demande {service} ({} ; voir {other})",
                match how {
                    Forwarded::Masquerade => "translation : la destination est réécrite",
                    Forwarded::Tunnel => "tunnel : le paquet est emballé dans un autre",
                    Forwarded::DirectRouting => "routage direct : seule l’adresse matérielle change",
                }
            ),
            Self::Nat(change) => format!(
                "traduction d’adresses sur {} : {} (voir {})",
                change.by,
                change.words("devient", "source", "destination"),
                change.other
            ),
            Self::CheckFails { by, server, why } => format!(
                "contrôle de santé par {by} : {server} {}",
                match why {
                    CheckFailure::Refused => "refuse la connexion".to_owned(),
                    CheckFailure::NoAnswer => "ne répond pas".to_owned(),
                    CheckFailure::Status(status) => format!("répond {status}"),
                    CheckFailure::Unreachable => "n’est pas joignable (ICMP)".to_owned(),
                }
            ),
            Self::Lost { at, more } => {
                format!("jamais arrivée chez {}", list(at, at.len() + more, "de plus"))
            }
        }
    }
}

impl Rewriting {
    fn words(&self, becomes: &str, source: &str, destination: &str) -> String {
        let mut words = Vec::new();
        if self.before.0 != self.after.0 {
            words.push(format!("{source} {} {becomes} {}", self.before.0, self.after.0));
        }
        if self.before.1 != self.after.1 {
            words.push(format!("{destination} {} {becomes} {}", self.before.1, self.after.1));
        }
        words.join(", ")
    }
}

fn list(words: &[String], count: usize, more: &str) -> String {
    let hidden = count.saturating_sub(words.len());
    let mut text = words.join(", ");
    if hidden > 0 {
        text.push_str(&format!(", {hidden} {more}"));
    }
    text
}

fn comma(number: String) -> String {
    number.replace('.', ",")
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (1, rest) if rest != 11 => "st",
        (2, rest) if rest != 12 => "nd",
        (3, rest) if rest != 13 => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// A length of time with three figures or so.
fn length(length: Duration) -> String {
    let seconds = length.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1000.0) } else { format!("{seconds:.3} s") }
}
