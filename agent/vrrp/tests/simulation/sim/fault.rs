//! What goes wrong, at random.

use bascule_vrrp::{Group, GroupState, Input};

use super::world::{Event, World};

impl World {
    /// One fault, and the time of the next while the storm lasts.
    pub(crate) fn fault(&mut self) -> Result<(), String> {
        if !self.storming {
            return Ok(());
        }
        let apart = self.plan.fault_every;
        let next = self.rng.range(apart / 4, apart * 7 / 4);
        self.schedule(self.now + next, Event::Fault);
        self.counts.faults += 1;
        let at = self.rng.index(self.nodes.len());
        match self.rng.index(16) {
            0 => self.crash(at),
            1 | 2 => self.start(at)?,
            3 => self.kill_and_restart(at)?,
            4 => self.order(at, "stops", Input::Stop)?,
            5 => self.take_over(at)?,
            6 | 7 => self.flip_link(at)?,
            8 => self.flip_tracker(at)?,
            9 => self.order(at, "is told to switch over", Input::Switchover)?,
            10..=12 => self.cut_or_mend(at),
            13 => self.freeze_at_random(at),
            14 => self.configure(at)?,
            _ => self.change_weather(),
        }
        Ok(())
    }

    pub(crate) fn crash(&mut self, at: usize) {
        self.say(|| format!("node {at} crashes"));
        self.nodes[at].crash();
    }

    /// Starts the machine if it is down, and the agent if it does not run.
    pub(crate) fn start(&mut self, at: usize) -> Result<(), String> {
        if !self.nodes[at].up {
            self.say(|| format!("node {at} boots"));
            self.nodes[at].boot(self.now);
        }
        let running =
            self.nodes[at].process.as_ref().is_some_and(|group| group.state() != GroupState::Initialize);
        if running || self.nodes[at].frozen.is_some() {
            return Ok(());
        }
        self.say(|| format!("the agent of node {at} starts"));
        for input in self.nodes[at].start(self.now) {
            self.feed_quietly(at, input)?;
        }
        self.nodes[at].check(self.now)
    }

    /// Addresses of the process before are still there until Start tells what becomes of them.
    fn feed_quietly(&mut self, at: usize, input: Input<'_>) -> Result<(), String> {
        match input {
            Input::Start { .. } => self.feed(at, input),
            input => {
                let clock = self.nodes[at].clock(self.now);
                let group = self.nodes[at].process.as_mut().ok_or("no process")?;
                let actions = group.handle(clock, input);
                if actions.is_empty() { Ok(()) } else { Err(format!("before Start: {actions:?}")) }
            }
        }
    }

    pub(crate) fn kill_and_restart(&mut self, at: usize) -> Result<(), String> {
        if !self.nodes[at].up || self.nodes[at].process.is_none() {
            return Ok(());
        }
        self.say(|| format!("the agent of node {at} is killed"));
        self.nodes[at].kill();
        // Sometimes at once, sometimes by a later fault.
        if self.rng.chance(500) { self.start(at) } else { Ok(()) }
    }

    /// A planned upgrade: another process goes on with the state, written and read as JSON.
    pub(crate) fn take_over(&mut self, at: usize) -> Result<(), String> {
        let Some(old) = self.nodes[at].process.take() else { return Ok(()) };
        self.say(|| format!("another process takes over on node {at}"));
        let snapshot = serde_json::to_string(&old.snapshot()).map_err(|error| error.to_string())?;
        let snapshot = serde_json::from_str(&snapshot).map_err(|error| error.to_string())?;
        if self.sabotage == Some(super::world::Sabotage::ForgetsOnUpgrade) {
            return self.start(at);
        }
        let restored = Group::restore(old.config().clone(), snapshot, &[]);
        let group = restored.map_err(|error| error.to_string())?.group;
        if group.next_deadline() != old.next_deadline() || group.status().state != old.status().state {
            return Err(format!(
                "node {at} is not taken over as it was: {:?} {:?}",
                old.status(),
                group.status()
            ));
        }
        self.nodes[at].process = Some(group);
        Ok(())
    }

    pub(crate) fn order(&mut self, at: usize, what: &str, input: Input<'_>) -> Result<(), String> {
        if self.nodes[at].frozen.is_some() {
            return Ok(());
        }
        self.say(|| format!("node {at} {what}"));
        self.feed(at, input)
    }

    fn flip_link(&mut self, at: usize) -> Result<(), String> {
        let net = self.rng.index(self.cut.len());
        let up = !self.nodes[at].link_up[net];
        self.set_link(at, net, up)
    }

    pub(crate) fn set_link(&mut self, at: usize, net: usize, up: bool) -> Result<(), String> {
        if self.nodes[at].frozen.is_some() || self.nodes[at].link_up[net] == up {
            return Ok(());
        }
        self.say(|| format!("link of node {at} in net {net} up: {up}"));
        self.nodes[at].link_up[net] = up;
        for (router, of) in self.nodes[at].routers.clone() {
            if of == net {
                let link = self.nodes[at].link(&router);
                self.feed(at, Input::Link { router, link })?;
            }
        }
        Ok(())
    }

    fn flip_tracker(&mut self, at: usize) -> Result<(), String> {
        let name = self.rng.pick(&["weighs", "fault"]);
        let failing = !self.nodes[at].failing.get(name).copied().unwrap_or(false);
        self.set_tracker(at, name, failing)
    }

    pub(crate) fn set_tracker(&mut self, at: usize, name: &'static str, failing: bool) -> Result<(), String> {
        if self.nodes[at].frozen.is_some() {
            return Ok(());
        }
        self.nodes[at].failing.insert(name, failing);
        self.order(at, &format!("tracks {name}, failing: {failing}"), Input::Tracked { name, failing })
    }

    fn cut_or_mend(&mut self, a: usize) {
        let b = self.rng.index(self.nodes.len());
        let (all, both, cut) = (self.rng.chance(400), self.rng.chance(700), self.rng.chance(500));
        let net = self.rng.index(self.cut.len());
        self.say(|| format!("{a} to {b} cut: {cut} (net {net}, all nets: {all}, both ways: {both})"));
        for of in (0..self.cut.len()).filter(|of| all || *of == net) {
            self.cut[of][a][b] = cut;
            self.cut[of][b][a] = if both { cut } else { self.cut[of][b][a] };
        }
    }

    fn freeze_at_random(&mut self, at: usize) {
        let length = self.plan.interval() * self.rng.range(1, 80) / 8;
        let cut = self.rng.chance(500);
        self.freeze(at, length, cut);
    }

    /// Nothing of it runs for so long; its frames are cut too, or wait in its sockets.
    pub(crate) fn freeze(&mut self, at: usize, length: u64, cut: bool) {
        if self.nodes[at].process.is_none() || self.nodes[at].frozen.is_some() {
            return;
        }
        self.say(|| format!("node {at} is frozen for {length} ns, frames cut: {cut}"));
        let until = self.now + length;
        self.nodes[at].frozen = Some((until, cut));
        self.schedule(until, Event::Thaw { node: at });
    }

    fn configure(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].frozen.is_some() {
            return Ok(());
        }
        let mut config = self.nodes[at].config.clone();
        match self.rng.index(3) {
            // Each has its own range, so that priorities stay different.
            0 => {
                let member = &self.plan.members[at];
                config.priority = if config.priority == member.priority {
                    member.priority.saturating_sub(1).max(1)
                } else {
                    member.priority
                };
            }
            1 => {
                config.preferred = !config.preferred && !self.nodes.iter().any(|node| node.config.preferred);
            }
            _ => config.warn_after = None,
        }
        self.nodes[at].config = config.clone();
        let (priority, preferred) = (config.priority, config.preferred);
        self.order(
            at,
            &format!("is configured: priority {priority}, preferred: {preferred}"),
            Input::Configure { config: Box::new(config), links: Vec::new() },
        )
    }

    fn change_weather(&mut self) {
        let weather = if self.rng.chance(500) { self.plan.storm } else { self.plan.calm };
        self.set_weather(weather);
    }
}
