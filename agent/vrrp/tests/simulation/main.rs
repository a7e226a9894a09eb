//! A few hundred seeds of the simulation; `make simulate SEEDS=N` plays as many as one likes.

mod sim;

/// Seeds that once failed.
const REMEMBERED: &[u64] = &[];

#[test]
fn seeds_keep_every_promise() {
    let seeds: u64 = std::env::var("BASCULE_SIMULATE_SEEDS").map_or(300, |seeds| seeds.parse().unwrap());
    let mut failed = Vec::new();
    for seed in REMEMBERED.iter().copied().chain(0..seeds) {
        if let Err(failure) = sim::run(seed, false) {
            failed.push(format!(
                "seed {seed}: {} (cargo run -p bascule-vrrp --example simulate -- --seed {seed})",
                failure.what
            ));
        }
    }
    assert!(failed.is_empty(), "{} of {seeds} seeds failed:\n{}", failed.len(), failed.join("\n"));
}
