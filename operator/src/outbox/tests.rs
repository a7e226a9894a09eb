use super::*;

const S: Duration = Duration::from_secs(1);

fn begin(outbox: &mut Outbox<&'static str>, now: Instant) -> Vec<&'static str> {
    std::iter::from_fn(|| outbox.begin(now)).collect()
}

#[test]
fn so_many_run_at_a_time_and_each_once() {
    let now = Instant::now();
    let mut outbox = Outbox::new(2);
    for task in ["a", "b", "c", "a"] {
        outbox.offer(task, Some(now), true, now);
    }
    assert_eq!(begin(&mut outbox, now), ["a", "b"]);
    assert_eq!((outbox.running(), outbox.waiting(), outbox.next_deadline()), (2, 1, None));
    outbox.offer("a", Some(now), false, now);
    outbox.end(&"b", End::Done, now, 0.5);
    assert_eq!(begin(&mut outbox, now), ["c"]);
    outbox.end(&"c", End::Done, now, 0.5);
    // It changed while it ran.
    outbox.end(&"a", End::Done, now, 0.5);
    assert_eq!(begin(&mut outbox, now), ["a"]);
}

#[test]
fn nothing_begins_before_its_time_and_what_is_withdrawn_never() {
    let now = Instant::now();
    let mut outbox = Outbox::new(2);
    outbox.offer("a", Some(now + S), false, now);
    outbox.offer("b", Some(now + S), false, now);
    assert_eq!(begin(&mut outbox, now), Vec::<&str>::new());
    assert_eq!(outbox.next_deadline(), Some(now + S));
    outbox.offer("b", None, false, now);
    // Sooner than thought.
    outbox.offer("a", Some(now), false, now);
    assert_eq!(begin(&mut outbox, now), ["a"]);
    assert_eq!(begin(&mut outbox, now + S), Vec::<&str>::new());
}

#[test]
fn waits_grow_with_failures_and_are_bounded() {
    for (how, first, longest) in [
        (End::Failed(None), FIRST, LONGEST),
        (End::Conflict, FIRST / 10, LONGEST),
        (End::Refused, FIRST_REFUSED, LONGEST_REFUSED),
        (End::Failed(Some(7 * S)), 7 * S, LONGEST),
        (End::Failed(Some(10_000 * S)), LONGEST_REFUSED, LONGEST_REFUSED),
    ] {
        let mut now = Instant::now();
        let mut outbox = Outbox::new(1);
        outbox.offer("a", Some(now), true, now);
        let mut waits = Vec::new();
        for _ in 0..70 {
            assert_eq!(outbox.begin(now), Some("a"));
            outbox.end(&"a", how, now, 0.5);
            // What it should be was looked at again meanwhile: that changes nothing.
            outbox.offer("a", Some(now), false, now);
            let next = outbox.next_deadline().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert_eq!((waits[0], waits[69]), (first, longest), "{how:?}");
        assert!(waits.is_sorted(), "{how:?} {waits:?}");
        // Somebody changed it: at once.
        outbox.offer("a", Some(now), true, now);
        assert_eq!(outbox.begin(now), Some("a"));
        outbox.end(&"a", End::Done, now, 0.5);
        assert_eq!(outbox.failing(), 0);
    }
}

#[test]
fn who_failed_together_does_not_come_back_together() {
    let now = Instant::now();
    let waits: Vec<Duration> = [0.0, 0.3, 1.0]
        .into_iter()
        .map(|dice| {
            let mut outbox = Outbox::new(1);
            outbox.offer("a", Some(now), true, now);
            outbox.begin(now);
            outbox.end(&"a", End::Failed(None), now, dice);
            outbox.next_deadline().unwrap() - now
        })
        .collect();
    assert!(waits.is_sorted_by(|a, b| a < b), "{waits:?}");
    assert!(waits[0] >= FIRST / 2 && waits[2] <= FIRST * 2, "{waits:?}");
}

#[test]
fn a_quarrel_with_somebody_who_undoes_everything_slows_down() {
    let begin = Instant::now();
    let mut now = begin;
    let mut outbox = Outbox::new(1);
    outbox.offer("a", Some(now), false, now);
    for round in 0..30 {
        assert_eq!(outbox.begin(now), Some("a"), "{round}");
        outbox.offer("a", Some(now), false, now);
        outbox.end(&"a", End::Done, now, 0.5);
        now = outbox.next_deadline().unwrap();
        assert!(round >= FREE - 1 || now == begin, "the first come back at once: {round}");
    }
    assert!(now - begin > 10 * LONGEST, "{:?}", now - begin);
    // After a while it is forgotten.
    assert_eq!(outbox.begin(now), Some("a"));
    outbox.end(&"a", End::Nothing, now, 0.5);
    now += 2 * QUIET;
    outbox.forget(now);
    outbox.offer("a", Some(now), false, now);
    assert_eq!(outbox.begin(now), Some("a"));
}
