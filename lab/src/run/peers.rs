//! How the programs of others are run in a node, whose `/run`, `/var/lib` and `/var/log` are its own and empty at first: with what their
//! packages would have made there, in the foreground, their words on standard output.

use crate::scenario::topology::{Frr, Heartbeat, Ipvsadm, Keepalived, Peer};

/// What its package and `systemd-tmpfiles` make for heartbeat; its log, which it writes itself, is followed. It runs in the background, because
/// it starts itself anew when the other one returns after a silence: it has ended when nobody has taken the place of the one before.
const HEARTBEAT: &str = "\
set -e
install -d -o hacluster -g haclient -m 750 /run/heartbeat /run/heartbeat/ccm /run/heartbeat/dopd
install -d -m 1755 /run/resource-agents
install -d -m 755 /var/lib/heartbeat /var/lib/heartbeat/cores
for user in root hacluster nobody; do install -d -o $user -m 700 /var/lib/heartbeat/cores/$user; done
touch /var/log/ha-log
tail --pid=$$ -n 0 -F /var/log/ha-log 2>/dev/null &
heartbeat=/usr/libexec/heartbeat/heartbeat
trap '$heartbeat -k; exit 0' TERM
$heartbeat
gone=0
while test $gone -lt 30; do
  sleep 1 & wait $!
  if kill -0 \"$(cat /run/heartbeat.pid 2>/dev/null)\" 2>/dev/null; then gone=0; else gone=$((gone + 1)); fi
done
echo 'heartbeat has ended, and no other one has come'
exit 1";

/// zebra has to be there before vrrpd; both give up root for a user of their own. The end of one is the end of both.
const FRR: &str = "\
install -d -o frr -g frr -m 755 /run/frr
chown frr:frr /etc/frr/vrrpd.conf
: >/run/frr/empty.conf
/usr/lib/frr/zebra -P 0 -f /run/frr/empty.conf --log stdout &
zebra=$!
for try in $(seq 600); do test ! -S /run/frr/zserv.api || break; sleep 0.1; done
/usr/lib/frr/vrrpd -P 0 -f /etc/frr/vrrpd.conf --log stdout &
vrrpd=$!
trap 'kill $vrrpd $zebra' TERM
wait -n
kill $vrrpd $zebra 2>/dev/null
wait";

/// What runs a peer and stays; `None` for one of which nothing stays.
pub(super) fn command(peer: &Peer) -> Option<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match peer {
        Peer::Keepalived(Keepalived { arguments, .. }) => {
            let mut argv = words(&["keepalived", "--dont-fork", "--log-console", "--log-detail"]);
            argv.extend(arguments.iter().cloned());
            Some(argv)
        }
        Peer::Heartbeat(Heartbeat { .. }) => Some(words(&["bash", "-c", HEARTBEAT])),
        Peer::Frr(Frr { .. }) => Some(words(&["bash", "-c", FRR])),
        Peer::Ipvsadm(Ipvsadm { .. }) => None,
    }
}
