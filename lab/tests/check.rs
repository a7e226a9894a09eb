//! What a person configures by hand is judged by the scenario's own expectations: right, wrong, and what it takes. Needs root, namespaces and
//! nftables; not IPVS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bascule_lab::run::{Checked, RunOptions, Up, up};
use bascule_lab::scenario::{load_file, resolve};
use bascule_lab::world::Exec;

fn options(out: &Path) -> RunOptions {
    let mut options = RunOptions::new(out.to_owned()).unwrap();
    options.program = PathBuf::from(env!("CARGO_BIN_EXE_bascule-lab"));
    options.progress = Arc::new(|_| {});
    // No agent runs, so that none need be there.
    options.agent = Some(PathBuf::from("/bin/false"));
    options.topology_only = true;
    options
}

fn typed(up: &Up, node: &str, lines: &[&str]) {
    for line in lines {
        up.world.node(node).unwrap().exec(&Exec::shell(line)).unwrap().checked().unwrap();
    }
}

fn part<'a>(checked: &'a Checked, step: &str) -> &'a str {
    let (_, rest) =
        checked.text.split_once(&format!("  {step}\n")).unwrap_or_else(|| panic!("{}", checked.text));
    let ends = ["\n  right ", "\n  WRONG ", "\n  not judged "];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    &rest[..end.unwrap_or(rest.len())]
}

#[test]
fn a_router_configured_by_hand_is_judged() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: building networks needs root");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let options = options(out.path());
    let standing = up(&resolve("tp-router-nat").unwrap(), &options).unwrap();
    let check = || standing.check(false, &options).unwrap();

    let nothing = check();
    assert_eq!(nothing.code, 1, "{}", nothing.text);
    let forwards = part(&nothing, "WRONG       the router forwards");
    assert!(
        forwards.contains("net.ipv4.ip_forward = 1\n")
            && forwards.contains("hint:   on Router: echo 1 > /proc/sys/net/ipv4/ip_forward"),
        "{}",
        nothing.text
    );
    let address = part(&nothing, "WRONG       SRV1 has the address of the cluster");
    assert!(address.contains("on SRV1: ip address add 172.16.193.30/16 dev enp0s3"), "{}", nothing.text);
    assert!(part(&nothing, "WRONG       both answer").contains("exec ClientA -- ping"), "{}", nothing.text);

    typed(
        &standing,
        "SRV1",
        &["ip address add 172.16.193.30/16 dev enp0s3", "/etc/bascule-programs/apache2 start"],
    );
    let nat =
        "nft add table ip nat && nft 'add chain ip nat pre { type nat hook prerouting priority dstnat; }'";
    let rule = |to: &str| format!("nft add rule ip nat pre iifname fa0-0 tcp dport 80 dnat to {to}:80");
    typed(&standing, "Router", &["echo 1 > /proc/sys/net/ipv4/ip_forward", nat, &rule("172.16.193.30")]);
    let right = check();
    assert_eq!(right.code, 0, "{}", right.text);
    for said in [
        "tp-router-nat, as it is up: all right (",
        "  right       SRV1 sees who asks\n",
        "  not judged  the router forwards: `agentStatus` needs the agent\n",
        "  not judged  ifdown enp0s3 on SRV1: it is a fault (--faults plays it)\n",
        "  not judged  SRV2 has the address: comes after `ifdown enp0s3 on SRV1`\n",
    ] {
        assert!(right.text.contains(said), "{said}: {}", right.text);
    }

    // One rule that is wrong: to where nobody serves.
    typed(&standing, "Router", &["nft flush chain ip nat pre", &rule("172.16.193.31")]);
    let wrong = check();
    assert_eq!(wrong.code, 1, "{}", wrong.text);
    assert!(wrong.text.contains("  right       both answer\n"), "{}", wrong.text);
    let page = part(&wrong, "WRONG       the page is SRV1's");
    assert!(page.contains("exec ClientA -- curl -m 5 http://192.16.193.20/"), "{}", wrong.text);
    standing.tear_down().unwrap();
}

/// Faults are played when asked for, what they expect is judged, and it can be done again.
#[test]
fn with_faults_all_of_a_plain_scenario_is_judged() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: building networks needs root");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let options = options(out.path());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/plain.yaml");
    let standing = up(&load_file(&file).unwrap_or_else(|problems| panic!("{problems:?}")), &options).unwrap();
    let without = standing.check(false, &options).unwrap();
    assert_eq!(without.code, 0, "{}", without.text);
    assert!(without.text.contains("  not judged  they came: comes after `a command`\n"), "{}", without.text);
    for _ in 0..2 {
        let with = standing.check(true, &options).unwrap();
        assert_eq!(with.code, 0, "{}", with.text);
        assert!(with.text.contains("  right       nobody has its addresses\n"), "{}", with.text);
        assert!(with.text.contains("  right       they came\n"), "{}", with.text);
    }
    standing.tear_down().unwrap();
}
