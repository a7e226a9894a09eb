//! How a row of the table is read.

use std::net::IpAddr;
use std::time::Duration;

use bascule_vrrp::packet::{Family, Version};
use bascule_vrrp::router::{
    Action, Active, Afterwards, Announcer, Backup, Input, Notice, Parameters, Peer, Phase, State,
    VirtualRouter, Waiting,
};
use bascule_vrrp::timers::Interval;
use bascule_vrrp::{BootTime, Heard};

/// Every row plays at this time; it leaves room before it.
const NOW: BootTime = BootTime::from_nanos(1_000_000_000_000);

pub(crate) struct Row {
    number: usize,
    columns: Vec<&'static str>,
}

/// Words of a column: bare ones, and `name=value`.
struct Words(Vec<&'static str>);

impl Words {
    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    fn value(&self, name: &str) -> Option<&'static str> {
        self.0.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn address(&self, name: &str) -> Option<IpAddr> {
        self.value(name).map(|value| value.parse().unwrap())
    }

    fn millis(&self, name: &str) -> Option<f64> {
        self.value(name).map(|value| value.parse().unwrap())
    }
}

/// So many milliseconds after [`NOW`], or before.
fn at(millis: f64) -> BootTime {
    let span = Duration::from_secs_f64(millis.abs() / 1000.0);
    if millis < 0.0 {
        BootTime::from_duration(Duration::from_nanos(NOW.as_nanos()).saturating_sub(span))
    } else {
        NOW + span
    }
}

fn interval(version: Version, millis: Option<f64>) -> Interval {
    Interval::new(version, Duration::from_secs_f64(millis.unwrap_or(1000.0) / 1000.0)).unwrap()
}

impl Row {
    pub(crate) fn read(number: usize, line: &'static str) -> Self {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(columns.len(), 7, "line {number}: seven columns");
        Row { number, columns }
    }

    fn words(&self, column: usize) -> Words {
        Words(self.columns[column].split_whitespace().collect())
    }

    pub(crate) fn state_kind(&self) -> &'static str {
        let words = self.words(2);
        match words.0[0] {
            "Initialize" => "Initialize",
            "Backup" if words.has("ready") => "Backup ready",
            "Backup" => "Backup listening",
            "Active" if words.value("releasing").is_some() => "Active releasing",
            "Active" => "Active holding",
            other => panic!("line {}: {other}", self.number),
        }
    }

    pub(crate) fn input_kind(&self) -> &'static str {
        self.words(3).0[0]
    }

    fn parameters(&self) -> Parameters {
        let words = self.words(1);
        let version = if words.has("v2") { Version::V2 } else { Version::V3 };
        let priority = words.value("p").map_or(100, |value| value.parse().unwrap());
        Parameters {
            interval: interval(version, words.millis("i")),
            down_intervals: words.value("down").map_or(3, |value| value.parse().unwrap()),
            preempt: !words.has("nopreempt"),
            lock_step: words.has("lockstep"),
            leading: !words.has("follow"),
            step_down_when_late: !words.has("solitary"),
            ..Parameters::new(version, Family::Ipv4, priority)
        }
    }

    fn state(&self, version: Version) -> State {
        let words = self.words(2);
        let timer = || at(words.millis("in").unwrap());
        let peer =
            |name: &str, priority| words.address(name).map(|source| Peer { source, priority, at: NOW });
        match words.0[0] {
            "Initialize" => State::Initialize,
            "Backup" => State::Backup(Backup {
                waiting: if words.has("ready") {
                    Waiting::Ready
                } else {
                    Waiting::Listening { until: timer() }
                },
                active_adver_interval: interval(version, words.millis("i")),
                active: peer("of", 100),
                heard_at: NOW,
                grace: words.has("grace"),
                released_by: words.address("by"),
                lower: peer("lower", 50),
                doubted: words.has("doubted"),
            }),
            _ => State::Active(Active {
                adver_at: timer(),
                last_sent: at(-words.millis("sent").unwrap_or(0.0)),
                before: None,
                patience: self.parameters().patience(),
                answer_from: at(words.millis("quiet").unwrap_or(0.0)),
                phase: words.value("releasing").map_or(Phase::Holding, releasing),
                tie: words.millis("tie").map(|since| (at(-since), NOW)),
                announcer: Announcer::default(),
            }),
        }
    }

    fn input(&self, version: Version) -> Input {
        let words = self.words(3);
        let source: IpAddr = "10.0.0.2".parse().unwrap();
        match words.0[0] {
            "Startup" => {
                let grace = words.millis("grace").unwrap_or(0.0);
                Input::Startup { source, grace: Duration::from_secs_f64(grace / 1000.0) }
            }
            "Resume" => Input::Resume { source },
            "Shutdown" => Input::Shutdown,
            "Timer" => Input::Timer,
            "Release" => Input::Release(afterwards(words.0[1])),
            "Activate" => Input::Activate,
            "GiveWay" => Input::GiveWay,
            "GroupReleased" => Input::GroupReleased { by: "10.0.0.3".parse().unwrap() },
            "GroupHeard" => Input::GroupHeard,
            "Advert" => Input::Advertisement(Heard {
                signed_in_vain: false,
                source: words.address("from").unwrap_or("10.0.0.3".parse().unwrap()),
                priority: words.value("p").unwrap().parse().unwrap(),
                interval: interval(version, words.millis("i")),
                differ: None,
            }),
            other => panic!("line {}: {other}", self.number),
        }
    }

    /// Plays the row. What comes out is written in the table's own words and compared with them.
    pub(crate) fn check(&self) -> Result<(), String> {
        let parameters = self.parameters();
        let version = parameters.version;
        let source = self.words(2).0[0] != "Initialize";
        let source = source.then(|| "10.0.0.2".parse().unwrap());
        let mut router = VirtualRouter::restore(parameters, source, self.state(version));
        let actions = router.handle(NOW, self.input(version));
        let mut reason = String::from("-");
        let mut said = Vec::new();
        for action in actions {
            match action {
                // The first: what comes after it in the same call is told by the state.
                Action::Transition { reason: why, .. } if reason == "-" => reason = why.to_string(),
                Action::Transition { .. } => {}
                action => said.push(written(&action)),
            }
        }
        let said = if said.is_empty() { "-".to_owned() } else { said.join(", ") };
        let state = written_state(router.state());
        let (actions, after, why) = (self.columns[4], self.columns[5], self.columns[6]);
        let right =
            said == actions && state == after && (reason == why || (why != "-" && reason.contains(why)));
        if right {
            return Ok(());
        }
        Err(format!(
            "line {}: {}\n    gives: {said} | {state} | {reason}",
            self.number,
            self.columns.join(" | ")
        ))
    }
}

fn afterwards(word: &str) -> Afterwards {
    match word {
        "resume" => Afterwards::Resume,
        "leave" => Afterwards::Leave,
        "keep" => Afterwards::LeaveAddresses,
        other => panic!("{other}"),
    }
}

fn releasing(value: &str) -> Phase {
    let (until, then) = value.split_once(':').unwrap();
    Phase::Releasing { until: at(until.parse().unwrap()), then: afterwards(then) }
}

fn written(action: &Action) -> String {
    match action {
        Action::Advertise { priority } => format!("advertise {priority}"),
        Action::HoldAddresses => "hold".into(),
        Action::DropAddresses => "drop".into(),
        Action::Announce { times } => format!("announce {times}"),
        Action::Notice(notice) => format!(
            "notice {}",
            match notice {
                Notice::Doubt { .. } => "late",
                Notice::Resumed { .. } => "no-successor",
                Notice::SamePriority { .. } => "same-priority",
                Notice::AlsoActive { .. } => "also-active",
            }
        ),
        Action::Transition { .. } => unreachable!(),
    }
}

/// Milliseconds from [`NOW`], as short as they can be said.
fn millis(time: BootTime) -> String {
    let nanos = i128::from(time.as_nanos()) - i128::from(NOW.as_nanos());
    let text = format!(
        "{}{}.{:06}",
        if nanos < 0 { "-" } else { "" },
        nanos.abs() / 1_000_000,
        nanos.abs() % 1_000_000
    );
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn written_state(state: &State) -> String {
    let mut words: Vec<String> = Vec::new();
    match state {
        State::Initialize => words.push("Initialize".into()),
        State::Backup(backup) => {
            words.push("Backup".into());
            words.push(match backup.waiting {
                Waiting::Ready => "ready".into(),
                Waiting::Listening { until } => format!("in={}", millis(until)),
            });
            if backup.active_adver_interval != Interval::SECOND {
                words.push(format!("i={}", backup.active_adver_interval.duration().as_millis()));
            }
            let named = [("of", backup.active.map(|peer| peer.source)), ("by", backup.released_by)];
            for (name, address) in named.into_iter().chain([("lower", backup.lower.map(|peer| peer.source))])
            {
                words.extend(address.map(|address| format!("{name}={address}")));
            }
            words.extend(backup.grace.then(|| "grace".into()));
            words.extend(backup.doubted.then(|| "doubted".into()));
        }
        State::Active(active) => {
            words.push(format!("Active in={}", millis(active.adver_at)));
            if let Phase::Releasing { until, then } = active.phase {
                let then = match then {
                    Afterwards::Resume => "resume",
                    Afterwards::Leave => "leave",
                    Afterwards::LeaveAddresses => "keep",
                };
                words.push(format!("releasing={}:{then}", millis(until)));
            }
            if active.answer_from > NOW {
                words.push(format!("quiet={}", millis(active.answer_from)));
            }
            if let Some((since, _)) = active.tie {
                words.push(format!("tie={}", NOW.since(since).as_millis()));
            }
        }
    }
    words.join(" ")
}
