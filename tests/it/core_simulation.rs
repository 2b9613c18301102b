//! Both cores against each other by seed, without a runtime: the history of each run holds,
//! whatever faults occur. `scripts/cores.sh` runs more seeds.

use bellwire_testkit::cores;

/// Seeds of the test command.
const SEEDS: u64 = 400;
/// Others that were wrong once: a topic expires on a connection that its server leaves.
const KNOWN: [u64; 1] = [137_915];
/// Seeds that are played twice.
const REPLAYED: u64 = 50;

#[test]
fn histories_of_both_cores_hold() {
    for seed in (0..SEEDS).chain(KNOWN) {
        let wrong = cores::run(seed).check();
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
}

#[test]
fn a_seed_of_the_cores_replays_byte_for_byte() {
    for seed in 0..REPLAYED {
        let [one, other] = [(); 2].map(|()| cores::run(seed));
        assert!(one.hash == other.hash, "seed {seed} passes other bytes");
        assert!(one.history.render() == other.history.render(), "seed {seed} is another run");
    }
}

/// Without recorded decisions a run takes the default of each choice, and ends.
#[test]
fn a_run_with_default_decisions_ends() {
    let run = cores::run_by(&[]);
    assert_eq!(run.check(), [""; 0]);
    assert!(run.history.render().contains("\n"));
}
