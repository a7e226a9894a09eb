//! The faults stop: what must come true then, and one thing done on purpose.

use bascule_vrrp::group::Switchover;
use bascule_vrrp::{GroupState, Input};

use super::plan::nanos;
use super::world::World;

impl World {
    /// No more faults: the network is whole, what was frozen goes on, and most of what was down is started.
    pub(crate) fn calm_down(&mut self) -> Result<(), String> {
        self.say(|| "the faults stop".to_owned());
        self.storming = false;
        self.set_weather(self.plan.calm);
        for net in &mut self.cut {
            for row in net {
                row.fill(false);
            }
        }
        for at in 0..self.nodes.len() {
            if let Some((until, _)) = &mut self.nodes[at].frozen {
                *until = self.now;
                self.thaw(at)?;
            }
            for net in 0..self.cut.len() {
                self.set_link(at, net, true)?;
            }
            if self.rng.chance(800) || at == 0 {
                self.set_tracker(at, "fault", false)?;
            }
            if self.rng.chance(700) || at == 0 {
                if self.nodes[at].releasing() {
                    // It may be about to stop: it is killed first, and goes on.
                    self.nodes[at].kill();
                }
                self.start(at)?;
            }
        }
        Ok(())
    }

    fn slack(&self) -> u64 {
        self.weather.delay.1 + self.weather.lateness + self.cost() * self.nodes[0].routers.len() as u64
    }

    /// The longest Active_Down_Interval of a member, by the slowest clock.
    fn longest_wait(&self) -> u64 {
        self.plan.interval() * (u64::from(self.plan.members[0].down_intervals) + 1) * 102 / 100
    }

    /// After so long somebody is active: the longest first wait, or what was set by an advertisement of the storm that came
    /// last; then at most one more interval and Skew_Time for a member that was late itself.
    fn bound_of_none(&self) -> u64 {
        let config = &self.plan.members[0];
        let first_wait = self.longest_wait().max(nanos(config.startup_grace) * 102 / 100);
        self.plan.storm.delay.1
            + self.plan.storm.lateness
            + first_wait
            + 2 * self.plan.interval()
            + self.slack()
    }

    /// Skew_Time, and the tenth of an interval after which priority 0 is said again.
    fn longest_skew(&self) -> u64 {
        self.plan.interval() * 112 / 100
    }

    fn active(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].state() == Some(GroupState::Active)).collect()
    }

    fn healthy(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].healthy()).collect()
    }

    /// First one is active, then it is the right one, then nothing changes.
    pub(crate) fn come_to_rest(&mut self) -> Result<(), String> {
        self.run(self.now + self.bound_of_none() + self.bound_of_two())?;
        // Two may be, if one is just preempting the other; that is looked at elsewhere.
        if self.active().is_empty() {
            return Err(format!("nobody is active after the bound, healthy are {:?}", self.healthy()));
        }
        let preemption = nanos(self.plan.members[0].preempt.delay) * 102 / 100 + 2 * self.longest_wait();
        self.run(self.now + preemption + self.bound_of_two())?;
        self.stay()?;
        let active = self.active()[0];
        let healthy = self.healthy();
        let Some(top) = healthy.iter().map(|at| self.nodes[*at].priority()).max() else {
            return Err("nobody is healthy".to_owned());
        };
        let entitled = |at: &usize| {
            let node = &self.nodes[*at];
            let hold = node.process.as_ref().is_some_and(bascule_vrrp::Group::hold);
            node.config.preferred || (node.config.preempt.enabled && !hold)
        };
        let best: Vec<usize> = healthy.into_iter().filter(|at| self.nodes[*at].priority() == top).collect();
        if best.iter().all(entitled) && !best.contains(&active) {
            return Err(format!("{active} is active, though {best:?} are better and entitled to preempt"));
        }
        Ok(())
    }

    /// Nothing changes for a while, and one is active.
    fn stay(&mut self) -> Result<(), String> {
        self.at_rest = true;
        self.run(self.now + 3 * self.longest_wait())?;
        self.at_rest = false;
        match self.active().len() {
            1 => Ok(()),
            _ => Err(format!("{:?} are active at rest", self.active())),
        }
    }

    /// Waits at most `bound` until somebody else than `old` is active; returns how long it took, in hundredths of an interval.
    fn wait_for_successor(&mut self, old: usize, bound: u64) -> Result<u64, String> {
        let begin = self.now;
        let step = (self.plan.interval() / 100).max(1);
        while self.now < begin + bound {
            self.run(self.now + step)?;
            if self.active().iter().any(|at| *at != old) {
                return Ok((self.now - begin) * 100 / self.plan.interval());
            }
        }
        Err(format!("nobody took over from {old} within {bound} ns"))
    }

    /// One thing on purpose, if there is somebody to take over.
    pub(crate) fn finale(&mut self) -> Result<(&'static str, u64), String> {
        let active = self.active()[0];
        let successors = self.healthy().into_iter().filter(|at| *at != active).count();
        let several = self.cut.len() > 1;
        let kind = self.rng.index(8);
        let (name, gap) = match kind {
            0 if successors > 0 && !self.nodes[active].config.preferred => {
                ("switch-over", self.switch_over(active)?)
            }
            1 if successors > 0 => ("stop", self.stop(active)?),
            2 if successors > 0 => ("crash", self.crash_of(active)?),
            3 if successors > 0 => ("freeze", self.freeze_of(active)?),
            4 => ("kill", self.kill_of(active)?),
            5 => ("upgrade", self.upgrade(active)?),
            7 if successors > 0 => ("sleepy backup", self.sleepy_backup(active)?),
            6 if successors > 0 && several => ("link lost", self.lose_link(active)?),
            _ => return Ok(("none", 0)),
        };
        Ok((name, gap))
    }

    /// The addresses are never without a holder, the successor comes within Skew_Time, and it stays.
    fn switch_over(&mut self, active: usize) -> Result<u64, String> {
        self.covered = true;
        self.order(active, "is told to switch over", Input::Switchover)?;
        let bound = self.longest_skew() + self.slack();
        let took = self.wait_for_successor(active, bound)?;
        self.run(self.now + self.bound_of_two() + self.plan.interval())?;
        self.covered = false;
        if !matches!(self.switchover, Some(Switchover::Done { .. })) {
            return Err(format!("the switch-over ended as {:?}", self.switchover));
        }
        // Whoever is better than the successor, other than the one that gave way, may still preempt it.
        let delay = nanos(self.plan.members[0].preempt.delay) * 102 / 100;
        self.run(self.now + delay + 3 * self.longest_wait())?;
        self.stay()?;
        if self.active() == [active] {
            return Err(format!("{active} took back what it gave away"));
        }
        Ok(took)
    }

    fn stop(&mut self, active: usize) -> Result<u64, String> {
        self.covered = true;
        self.order(active, "stops", Input::Stop)?;
        let bound = self.longest_skew() + self.slack();
        let took = self.wait_for_successor(active, bound)?;
        self.run(self.now + self.bound_of_two())?;
        self.covered = false;
        self.run(self.now + 2 * self.longest_wait() + self.bound_of_none())?;
        if self.nodes[active].routers.iter().any(|(router, _)| self.nodes[active].holds(self.now, router)) {
            return Err(format!("{active} stopped and still has addresses"));
        }
        self.stay()?;
        Ok(took)
    }

    /// One of several networks is lost: priority 0 on the others costs Skew_Time only.
    fn lose_link(&mut self, active: usize) -> Result<u64, String> {
        let net = self.rng.index(self.cut.len());
        self.set_link(active, net, false)?;
        if self.nodes[active].state() != Some(GroupState::Fault) {
            return Err(format!("{active} lost a network and is {:?}", self.nodes[active].state()));
        }
        self.wait_for_successor(active, self.longest_skew() + self.slack())
    }

    /// Within Active_Down_Interval somebody else is active.
    fn crash_of(&mut self, active: usize) -> Result<u64, String> {
        self.crash(active);
        let took = self.wait_for_successor(active, self.longest_wait() + self.slack())?;
        Ok(took)
    }

    /// While it is frozen somebody else takes over; when it goes on it steps down before it speaks (looked at wherever a node
    /// is fed).
    fn freeze_of(&mut self, active: usize) -> Result<u64, String> {
        let length = 2 * self.longest_wait();
        let cut = self.rng.chance(500);
        self.freeze(active, length, cut);
        let began = self.now;
        let took = self.wait_for_successor(active, self.longest_wait() + self.slack())?;
        self.run(began + length)?;
        if self.active().contains(&active) {
            return Err(format!("{active} slept for {length} ns and still takes itself for active"));
        }
        Ok(took)
    }

    /// The agent is killed and comes back before anybody missed it: nobody changes.
    fn kill_of(&mut self, active: usize) -> Result<u64, String> {
        let interval = self.plan.interval();
        self.say(|| format!("the agent of node {active} is killed"));
        self.nodes[active].kill();
        self.run(self.now + interval / 2)?;
        self.start(active)?;
        if self.nodes[active].state() != Some(GroupState::Active) {
            return Err(format!("{active} did not go on as active"));
        }
        self.stay()?;
        Ok(0)
    }

    /// A backup sleeps beyond every wait and hears nothing meanwhile: when it wakes it does not take its own deafness for silence.
    fn sleepy_backup(&mut self, active: usize) -> Result<u64, String> {
        let sleeper = self.healthy().into_iter().find(|at| *at != active).ok_or("no backup")?;
        self.at_rest = true;
        let length = 2 * self.longest_wait();
        self.freeze(sleeper, length, true);
        self.run(self.now + length)?;
        self.stay()?;
        Ok(0)
    }

    fn upgrade(&mut self, active: usize) -> Result<u64, String> {
        self.at_rest = true;
        self.take_over(active)?;
        self.stay()?;
        Ok(0)
    }
}
