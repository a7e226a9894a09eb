//! Boundary cases, as a table against what keepalived does, and what must hold for any pool.

use proptest::prelude::*;

use super::*;
use crate::{Outcome, Thresholds, Time};

use Standing::{Lost, Met};

fn reading(letter: char) -> Reading {
    let health = match letter {
        '?' => Health::Unknown,
        '-' => Health::Down,
        _ => Health::Up,
    };
    Reading { health, weight: letter.to_digit(10).map(|digit| u16::try_from(digit).unwrap()) }
}

/// Servers of IPv4 as words: a weight, `d` where it was told to drain, and a letter for each check: `+` up, `-` down, `?` not
/// known, a digit up and asking for that weight. `2:+-` weighs 2 and one of its two checks fails.
fn servers(words: &str) -> Vec<Server> {
    let server = |word: &str| {
        let (weight, checks) = word.split_once(':').unwrap();
        Server {
            weight: weight.trim_end_matches('d').parse().unwrap(),
            drain: weight.ends_with('d'),
            families: Families::IPV4,
            checks: checks.chars().map(reading).collect(),
        }
    };
    words.split_whitespace().map(server).collect()
}

/// What the kernel holds for IPv4, as words: a weight, `q` quiesced, `x` absent; then who serves where it is not the real servers.
fn held(judgement: &Judgement) -> String {
    let word = |judged: &Judged| match judged.ipv4 {
        Held::Weight(weight) => weight.to_string(),
        Held::Quiesced => "q".into(),
        Held::Absent => "x".into(),
    };
    let mut words: Vec<_> = judgement.servers.iter().map(word).collect();
    match judgement.ipv4 {
        Serving::RealServers => {}
        Serving::SorryServer => words.push("sorry".into()),
        Serving::Withdrawn => words.push("withdrawn".into()),
    }
    words.join(" ")
}

fn pool(weight: u32, hysteresis: u32, words: &str) -> Pool {
    Pool {
        quorum: Quorum { weight, hysteresis },
        sorry: Families::IPV4,
        servers: servers(words),
        ..Pool::default()
    }
}

/// `update_quorum_state`: `threshold = quorum + (up ? -1 : 1) * hysteresis`; gained when `sum >= threshold`, lost when
/// `!sum || sum < threshold`. Restated with its types (all are `long` there), to be compared with for all small figures.
fn keepalived(up: bool, quorum: i64, hysteresis: i64, sum: i64) -> bool {
    let threshold = quorum + if up { -hysteresis } else { hysteresis };
    if !up && sum >= threshold {
        true
    } else if up && (sum == 0 || sum < threshold) {
        false
    } else {
        up
    }
}

#[test]
fn the_quorum_is_keepaliveds() {
    for (quorum, hysteresis, before, sum, after) in [
        // The default: one of weight 1.
        (1, 0, Lost, 0, Lost),
        (1, 0, Lost, 1, Met),
        (1, 0, Met, 1, Met),
        (1, 0, Met, 0, Lost),
        // Exactly at the bounds, which are different ones.
        (5, 2, Lost, 6, Lost),
        (5, 2, Lost, 7, Met),
        (5, 2, Met, 3, Met),
        (5, 2, Met, 2, Lost),
        // Between them, it is what it was.
        (5, 2, Lost, 5, Lost),
        (5, 2, Met, 5, Met),
        // A hysteresis as large as the quorum, or larger: nothing alive is never enough.
        (2, 2, Met, 1, Met),
        (2, 2, Met, 0, Lost),
        (2, 3, Met, 0, Lost),
        // The largest that the schema takes.
        (16_776_960, 16_776_959, Lost, 33_553_918, Lost),
        (16_776_960, 16_776_959, Lost, 33_553_919, Met),
    ] {
        let judged = Quorum { weight: quorum, hysteresis }.judge(before, sum);
        assert_eq!(judged, after, "{quorum}±{hysteresis}, {before:?}, {sum}");
    }
    for quorum in 1..6_u32 {
        for hysteresis in 0..7_u32 {
            for sum in 0..14_u32 {
                for before in [Lost, Met] {
                    let ours = Quorum { weight: quorum, hysteresis }.judge(before, sum.into());
                    let theirs = keepalived(before == Met, quorum.into(), hysteresis.into(), sum.into());
                    assert_eq!(ours == Met, theirs, "{quorum}±{hysteresis}, {before:?}, {sum}");
                }
            }
        }
    }
}

#[test]
fn what_the_kernel_holds() {
    for (words, before, expected, standing) in [
        // All checks must pass; no check is no failure.
        ("1:+ 2:++ 3:", Met, "1 2 3", Met),
        ("1:+ 2:+- 3:", Met, "1 x 3", Met),
        ("1:- 2:--", Met, "x x sorry", Lost),
        // Before a check has spoken, the server serves; one that failed is enough to end that.
        ("1:? 1:+?", Met, "1 1", Met),
        ("1:-?", Met, "x sorry", Lost),
        // Weight 0 is alive and adds nothing; the sorry server comes, its connections stay.
        ("0:+ 1:-", Met, "0 x sorry", Lost),
        ("0:+ 1:+", Lost, "0 1", Met),
        ("4d:+ 1:+", Met, "0 1", Met),
        ("4d:- 1:+", Met, "x 1", Met),
        ("4d:+ 4d:+", Met, "0 0 sorry", Lost),
        // Weights that programs ask for: the smallest; they count for the quorum, and do not end a draining.
        ("1:9+ 1:+", Met, "9 1", Met),
        ("1:93 1:+", Met, "3 1", Met),
        ("1:0 1:-", Met, "0 x sorry", Lost),
        ("0:7 1:+", Met, "0 1", Met),
        ("4d:7 1:+", Met, "0 1", Met),
        // No real server at all: the sorry server alone.
        ("", Lost, "sorry", Lost),
    ] {
        let judgement = pool(1, 0, words).judge(before);
        assert_eq!((held(&judgement).as_str(), judgement.standing), (expected, standing), "{words}");
    }
}

/// Four servers that die one after the other and come back, quorum 3, hysteresis 1.
#[test]
fn the_way_down_and_up_is_keepaliveds() {
    let mut standing = Lost;
    let mut story = Vec::new();
    for words in [
        "1:+ 1:+ 1:+ 1:-", // 3: not yet, at the start it takes 4
        "1:+ 1:+ 1:+ 1:+",
        "1:+ 1:+ 1:+ 1:-",
        "1:+ 1:+ 1:- 1:-", // 2 = 3 - 1: still
        "1:+ 1:- 1:- 1:-", // lost: the one that lives leaves for the sorry server
        "1:+ 1:+ 1:- 1:-",
        "1:+ 1:+ 1:+ 1:-",
        "1:+ 1:+ 1:+ 1:+", // gained: all at once
    ] {
        let judgement = pool(3, 1, words).judge(standing);
        standing = judgement.standing;
        story.push(held(&judgement));
    }
    let sorry = "x x x x sorry";
    assert_eq!(story, [sorry, "1 1 1 1", "1 1 1 x", "1 1 x x", sorry, sorry, sorry, "1 1 1 1"]);
}

#[test]
fn what_happens_below() {
    let words = "1:+ 1:- 1:?";
    for (below, sorry, on_failure, expected) in [
        (Below::SorryServer, Families::IPV4, OnFailure::Remove, "x x x sorry"),
        // Inhibited servers are never taken out: ipvs_cmd turns a removal into weight 0.
        (Below::SorryServer, Families::IPV4, OnFailure::Quiesce, "q q q sorry"),
        // "Change only if we have quorum or no sorry server": without one, those alive go on.
        (Below::SorryServer, Families::default(), OnFailure::Remove, "1 x 1"),
        (Below::SorryServer, Families::IPV6, OnFailure::Remove, "1 x 1"),
        (Below::SorryServer, Families::default(), OnFailure::Quiesce, "1 q 1"),
        (Below::Keep, Families::IPV4, OnFailure::Remove, "1 x 1"),
        (Below::Keep, Families::IPV4, OnFailure::Quiesce, "1 q 1"),
        (Below::Withdraw, Families::IPV4, OnFailure::Quiesce, "x x x withdrawn"),
    ] {
        let judgement = Pool { below, on_failure, sorry, ..pool(5, 0, words) }.judge(Met);
        assert_eq!(held(&judgement), expected, "{below:?} {sorry:?} {on_failure:?}");
        assert_eq!(judgement.standing, Lost);
    }
}

#[test]
fn before_the_first_success_nothing_is_sent() {
    for (on_failure, expected) in [(OnFailure::Remove, "x x 1 x"), (OnFailure::Quiesce, "q q 1 q")] {
        let initial_state = InitialState::Down;
        let judgement = Pool { on_failure, initial_state, ..pool(1, 0, "1:? 1:+? 1:++ 1:-") }.judge(Lost);
        assert_eq!(held(&judgement), expected);
        let states: Vec<_> = judgement.servers.iter().map(|server| server.state).collect();
        assert_eq!(states, [State::Starting, State::Starting, State::Up, State::Down]);
    }
}

#[test]
fn states_tell_what_a_server_does() {
    let judgement = pool(1, 0, "1:+ 1:- 1:? 1d:+ 1d:- 1d:? 0: 1:0").judge(Met);
    let states: Vec<_> = judgement.servers.iter().map(|server| server.state).collect();
    use State::{Down, Draining, Starting, Up};
    assert_eq!(states, [Up, Down, Starting, Draining, Down, Starting, Draining, Draining]);
}

#[test]
fn datagrams_do_not_go_on_to_a_quiesced_server() {
    for (held, connections, datagrams) in
        [(Held::Weight(3), Some(3), Some(3)), (Held::Quiesced, Some(0), None), (Held::Absent, None, None)]
    {
        assert_eq!((held.weight(false), held.weight(true)), (connections, datagrams));
    }
}

#[test]
fn a_family_in_which_nothing_lives_has_its_sorry_server() {
    let server =
        |families, letter| Server { weight: 1, drain: false, families, checks: vec![reading(letter)] };
    let servers = vec![
        server(Families::IPV4, '-'),
        server(Families::IPV6, '+'),
        // Of a tunnel's outer family nothing can be told.
        server(Families::BOTH, '-'),
    ];
    let pool = Pool { sorry: Families::BOTH, servers, ..Pool::default() };
    let judgement = pool.judge(Met);
    assert_eq!(judgement.standing, Met);
    assert_eq!((judgement.ipv4, judgement.ipv6), (Serving::SorryServer, Serving::RealServers));
    assert_eq!(judgement.servers[1].ipv6, Held::Weight(1));
    assert_eq!(judgement.servers[1].ipv4, Held::Absent);
    let withdrawing = Pool { below: Below::Withdraw, ..pool };
    assert_eq!(withdrawing.judge(Met).ipv4, Serving::Withdrawn);
}

fn any_reading() -> impl Strategy<Value = Reading> {
    let health = prop_oneof![Just(Health::Unknown), Just(Health::Up), Just(Health::Down)];
    (health, proptest::option::of(0..4_u16)).prop_map(|(health, weight)| Reading { health, weight })
}

fn any_server() -> impl Strategy<Value = Server> {
    let families = prop_oneof![Just(Families::IPV4), Just(Families::IPV6), Just(Families::BOTH)];
    (0..4_u16, any::<bool>(), families, proptest::collection::vec(any_reading(), 0..4))
        .prop_map(|(weight, drain, families, checks)| Server { weight, drain, families, checks })
}

prop_compose! {
    fn any_pool()(
        weight in 1..8_u32,
        hysteresis in 0..9_u32,
        below in prop_oneof![Just(Below::SorryServer), Just(Below::Withdraw), Just(Below::Keep)],
        on_failure in prop_oneof![Just(OnFailure::Remove), Just(OnFailure::Quiesce)],
        initial_state in prop_oneof![Just(InitialState::Up), Just(InitialState::Down)],
        sorry in (any::<bool>(), any::<bool>()),
        servers in proptest::collection::vec(any_server(), 0..6),
    ) -> Pool {
        let sorry = Families { ipv4: sorry.0, ipv6: sorry.1 };
        Pool { quorum: Quorum { weight, hysteresis }, below, on_failure, initial_state, sorry, servers }
    }
}

fn any_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![Just(Lost), Just(Met)]
}

proptest! {
    #[test]
    fn judging_again_changes_nothing(pool in any_pool(), before in any_standing()) {
        let first = pool.judge(before);
        prop_assert_eq!(pool.judge(first.standing), first);
    }

    #[test]
    fn the_order_of_servers_and_checks_does_not_matter(pool in any_pool(), before in any_standing()) {
        let mut turned = pool.clone();
        turned.servers.reverse();
        for server in &mut turned.servers {
            server.checks.reverse();
        }
        let mut judgement = turned.judge(before);
        judgement.servers.reverse();
        prop_assert_eq!(judgement, pool.judge(before));
    }

    /// Verdicts come one by one, in any order: without hysteresis what is held in the end is the same.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        mut pool in any_pool(),
        results in proptest::collection::vec((0..6_usize, 0..4_usize, any::<bool>()), 0..12)
            .prop_flat_map(|results| (Just(results.clone()), Just(results).prop_shuffle())),
        before in any_standing(),
    ) {
        pool.quorum.hysteresis = 0;
        let play = |results: &[(usize, usize, bool)]| {
            let (mut pool, mut standing) = (pool.clone(), before);
            for (server, check, _) in results {
                // One verdict a check: the same for it in both orders.
                let up = results.iter().filter(|result| (result.0, result.1) == (*server, *check)).all(|result| result.2);
                if let Some(check) = pool.servers.get_mut(*server).and_then(|server| server.checks.get_mut(*check)) {
                    check.health = if up { Health::Up } else { Health::Down };
                }
                standing = pool.judge(standing).standing;
            }
            pool.judge(standing)
        };
        prop_assert_eq!(play(&results.0), play(&results.1));
    }

    /// The quorum changes at most once while the sum moves in one direction.
    #[test]
    fn it_does_not_flap(weight in 1..40_u32, hysteresis in 0..40_u32, mut sums in proptest::collection::vec(0..90_u64, 1..30)) {
        let quorum = Quorum { weight, hysteresis };
        sums.sort_unstable();
        let mut standing = quorum.judge(Lost, sums[0]);
        for rising in [true, false] {
            if !rising {
                sums.reverse();
            }
            let mut changes = 0;
            for sum in &sums {
                let next = quorum.judge(standing, *sum);
                changes += u32::from(next != standing);
                standing = next;
            }
            prop_assert!(changes <= 1, "{changes} changes");
        }
    }

    /// A server that is down stands in no table with a weight, and somebody serves wherever somebody can.
    #[test]
    fn no_request_goes_to_a_dead_server(pool in any_pool(), before in any_standing()) {
        let judgement = pool.judge(before);
        for (server, judged) in pool.servers.iter().zip(&judgement.servers) {
            let dead = server.checks.iter().any(|check| check.health == Health::Down);
            for held in [judged.ipv4, judged.ipv6] {
                prop_assert!(!dead || held.weight(false).unwrap_or(0) == 0);
                prop_assert!(!dead || held.weight(true).is_none());
            }
        }
        if pool.below == Below::SorryServer && judgement.ipv4 == Serving::RealServers && pool.sorry.ipv4 {
            prop_assert!(judgement.servers.iter().any(|server| server.ipv4.weight(false).unwrap_or(0) > 0));
        }
    }

    /// A server that is taken out of the pool and put back is judged as before.
    #[test]
    fn removed_and_added_again(mut pool in any_pool(), before in any_standing()) {
        pool.quorum.hysteresis = 0;
        let first = pool.judge(before);
        let mut without = pool.clone();
        without.servers.pop();
        prop_assert_eq!(pool.judge(without.judge(first.standing).standing), first);
    }

    /// Any results: a verdict is down after `fall` failures in a row, up after `rise` passes, and between them what it was.
    #[test]
    fn a_verdict_is_what_the_last_results_say(
        rise in 1..5_u32, fall in 1..5_u32, results in proptest::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut verdict = Verdict::unknown(Time::ZERO);
        let mut expected = Health::Unknown;
        for (index, passed) in results.iter().enumerate() {
            let outcome = if *passed { Outcome::passed("") } else { Outcome::failed("") };
            verdict.apply(Time::ZERO, &outcome, Thresholds { rise, fall });
            let row = results[..=index].iter().rev().take_while(|result| *result == passed).count();
            let (needed, becomes) = if *passed { (rise, Health::Up) } else { (fall, Health::Down) };
            if index == 0 || row >= needed as usize {
                expected = becomes;
            }
            prop_assert_eq!(verdict.health, expected);
        }
    }
}
