use super::*;

const T: Timing = Timing::DEFAULT;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn record(holder: &str, version: u32) -> Record {
    Record { holder: holder.into(), duration: T.lease, version: version.to_string(), transitions: 0 }
}

/// A Lease in a server, and the operators that want it.
struct World {
    begin: Instant,
    lease: Option<Record>,
    version: u32,
}

impl World {
    fn new() -> World {
        World { begin: Instant::now(), lease: None, version: 0 }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.begin + s(seconds)
    }

    /// One operator does all that it has to do now; the server answers, or not.
    fn turn(&mut self, who: &mut Election, now: Instant, reachable: bool) {
        for _ in 0..8 {
            match who.step(now) {
                Step::Wait(until) => {
                    assert!(until > now);
                    return;
                }
                Step::Read => who.read(if reachable { Ok(self.lease.clone()) } else { Err(()) }, now),
                Step::Create => {
                    let answer = self.write(who.me().to_owned(), None, 0, reachable);
                    who.wrote(answer, now, now);
                }
                Step::Write { version, transitions, .. } => {
                    let answer = self.write(who.me().to_owned(), Some(version), transitions, reachable);
                    who.wrote(answer, now, now);
                }
            }
        }
        panic!("{who:?} asks without end");
    }

    fn write(
        &mut self,
        holder: String,
        version: Option<String>,
        transitions: i32,
        reachable: bool,
    ) -> Result<Record, Failure> {
        if !reachable {
            return Err(Failure::Other);
        }
        if self.lease.as_ref().map(|lease| lease.version.clone()) != version {
            return Err(Failure::Conflict);
        }
        self.version += 1;
        let record = Record { holder, duration: T.lease, version: self.version.to_string(), transitions };
        self.lease = Some(record.clone());
        Ok(record)
    }
}

#[test]
fn the_times_are_safe() {
    assert!(T.is_safe());
    assert!(!Timing { request: s(5), ..T }.is_safe());
}

#[test]
fn the_first_one_gets_it_and_keeps_it_while_it_renews() {
    let mut world = World::new();
    let mut a = Election::new("a".into(), T, world.begin);
    let mut b = Election::new("b".into(), T, world.begin);
    for second in 0..100 {
        let now = world.at(second);
        world.turn(&mut a, now, true);
        world.turn(&mut b, now, true);
        assert!(a.leads(now) && !b.leads(now), "{second}");
    }
    assert_eq!(world.lease.unwrap().transitions, 0);
}

#[test]
fn who_cannot_renew_stops_before_another_one_begins() {
    let mut world = World::new();
    let mut a = Election::new("a".into(), T, world.begin);
    let mut b = Election::new("b".into(), T, world.begin);
    let mut stopped = None;
    let mut began = None;
    for second in 0..60 {
        let now = world.at(second);
        world.turn(&mut a, now, second < 10);
        world.turn(&mut b, now, true);
        assert!(!(a.leads(now) && b.leads(now)), "{second}");
        if !a.leads(now) && stopped.is_none() {
            stopped = Some(second);
        }
        if b.leads(now) && began.is_none() {
            began = Some(second);
        }
    }
    let (stopped, began) = (stopped.unwrap(), began.unwrap());
    assert!(s(began - stopped) > T.request, "stopped at {stopped}, the other began at {began}");
    assert!(s(began) <= s(10) + T.lease + 2 * T.retry);
    // The first one sees who has it, and waits.
    let now = world.at(61);
    world.turn(&mut a, now, true);
    world.turn(&mut b, now, true);
    assert!(!a.leads(now) && b.leads(now));
    assert_eq!(world.lease.unwrap().transitions, 1);
}

#[test]
fn who_was_stopped_by_a_signal_begins_nothing_when_it_goes_on() {
    let mut world = World::new();
    let mut a = Election::new("a".into(), T, world.begin);
    let now = world.at(0);
    world.turn(&mut a, now, true);
    assert!(a.leads(world.at(9)));
    // No step in between: the clock alone decides.
    assert!(!a.leads(world.at(10)));
    // It is looked at, and not ours for being unchanged: that has to last for its whole duration.
    let now = world.at(12);
    assert_eq!(a.step(now), Step::Read);
    world.turn(&mut a, now, true);
    assert!(!a.leads(now));
    let now = world.at(16);
    world.turn(&mut a, now, true);
    assert_eq!(a.until(), Some(now + T.renew));
    assert_eq!(world.lease.unwrap().transitions, 1);
}

#[test]
fn clocks_that_are_wrong_do_not_matter() {
    // Nothing of a record is compared with a clock: only whether it changes.
    let mut world = World::new();
    world.lease = Some(record("z", 7));
    let mut a = Election::new("a".into(), T, world.begin);
    for second in 0..15 {
        let now = world.at(second);
        world.turn(&mut a, now, true);
        assert!(!a.leads(now), "{second}");
    }
    for second in 15..=16 {
        let now = world.at(second);
        world.turn(&mut a, now, true);
    }
    assert!(a.leads(world.at(16)));
}

#[test]
fn what_is_given_up_is_taken_at_once() {
    let mut world = World::new();
    let mut a = Election::new("a".into(), T, world.begin);
    let mut b = Election::new("b".into(), T, world.begin);
    let now = world.at(0);
    world.turn(&mut a, now, true);
    world.turn(&mut b, now, true);
    let held = a.release(world.at(1)).expect("it is ours");
    assert!(!a.leads(world.at(1)));
    world.write(String::new(), Some(held.version), held.transitions, true).unwrap();
    let now = world.at(2);
    world.turn(&mut b, now, true);
    assert!(b.leads(now));
    assert_eq!(a.release(now), None);
}

#[test]
fn a_write_that_may_have_come_through_is_looked_at() {
    let mut world = World::new();
    let mut a = Election::new("a".into(), T, world.begin);
    let now = world.at(0);
    world.turn(&mut a, now, true);
    // The answer to the next renewal is lost, the renewal is not.
    let now = world.at(2);
    let Step::Write { version, transitions, renewal: true } = a.step(now) else { panic!("{a:?}") };
    world.write("a".into(), Some(version), transitions, true).unwrap();
    a.wrote(Err(Failure::Other), now, now);
    let now = world.at(4);
    world.turn(&mut a, now, true);
    assert_eq!(a.until(), Some(now + T.renew));
    assert_eq!(world.lease.unwrap().transitions, 0);
}

#[test]
fn a_lease_that_vanishes_or_is_taken_ends_it() {
    for taken in [None, Some(record("b", 9))] {
        let mut world = World::new();
        let mut a = Election::new("a".into(), T, world.begin);
        let now = world.at(0);
        world.turn(&mut a, now, true);
        let gone = taken.is_none();
        world.lease = taken;
        let now = world.at(2);
        world.turn(&mut a, now, true);
        let now = world.at(3);
        world.turn(&mut a, now, true);
        // One that vanished is made anew; that is another term of office, which begins with another list.
        assert_eq!(a.leads(now), gone);
    }
}

#[test]
fn a_renewal_counts_from_when_it_was_sent() {
    let mut world = World::new();
    let mut a = Election::new("a".into(), T, world.begin);
    let sent = world.at(0);
    a.read(Ok(None), sent);
    assert_eq!(a.step(sent), Step::Create);
    let answer = world.write("a".into(), None, 0, true);
    // The answer took a while: others may have seen the renewal all that time.
    a.wrote(answer, sent, world.at(3));
    assert_eq!(a.until(), Some(sent + T.renew));
}
