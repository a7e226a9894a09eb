# Runs in the machine. The network of the TP around two nodes: a client outside, two web servers inside; eth0 of each node leads to
# the API server. PORT is that server's on the host's loopback; PROGRAMS and WORK are folders of the host.
mkdir -p /tmp/bin /tmp/node
for name in kubelet containerd containerd-shim-runc-v2 ctr; do cp "$PROGRAMS/$name" /tmp/bin/; done

# The machine's card, whatever it is called.
modprobe virtio_net
card=
tries=0
until [ -n "$card" ]; do
  tries=$((tries + 1))
  [ $tries -lt 50 ] || { echo "the machine has no network card: $(ls /sys/class/net /sys/bus/virtio/drivers)" >&2; exit 1; }
  for device in /sys/class/net/*/device; do
    [ ! -e "$device" ] || card=$(basename "${device%/device}")
  done
  sleep 0.2
done
ip link set "$card" down
ip link set "$card" name host
ip address add 10.0.2.15/24 dev host
ip link set host up
ip route add default via 10.0.2.2
echo 1 >/proc/sys/net/ipv4/ip_forward
nft -f - <<'N'
table ip host { chain out { type nat hook postrouting priority srcnat; oifname "host" masquerade; }; }
N

for bridge in nodes outside inside; do
  ip link add "$bridge" type bridge
  ip link set "$bridge" up
done
ip address add 10.9.0.1/24 dev nodes

# NAMESPACE INTERFACE BRIDGE ADDRESS
plug() {
  ip link add "$1-$2" type veth peer name "$2" netns "$1"
  ip link set "$1-$2" master "$3" up
  ip -n "$1" address add "$4" dev "$2"
  ip -n "$1" link set "$2" up
}

for name in dir1 dir2 SRV1 SRV2 ClientA; do
  ip netns add "$name"
  ip -n "$name" link set lo up
done
number=0
for node in dir1 dir2; do
  number=$((number + 1))
  plug "$node" eth0 nodes "10.9.0.1$number/24"
  plug "$node" enp0s3 outside "192.16.193.$number/24"
  plug "$node" enp0s8 inside "172.16.193.$number/16"
  ip -n "$node" route add default via 10.9.0.1
  # What kube-proxy does for the Service `kubernetes`; and pods get out.
  ip netns exec "$node" nft -f - <<N
table ip cluster {
  chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 tcp dport 443 dnat to 10.0.2.2:$PORT; }
  chain local { type nat hook output priority -100; ip daddr 10.96.0.1 tcp dport 443 dnat to 10.0.2.2:$PORT; }
  chain post { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
}
N
  mkdir -p "/sys/fs/cgroup/$node"
done
plug ClientA enp0s3 outside 192.16.193.100/24
plug SRV1 enp0s3 inside 172.16.193.10/16
plug SRV2 enp0s3 inside 172.16.193.40/16
for server in SRV1 SRV2; do ip -n "$server" route add default via 172.16.193.253; done

for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
modprobe overlay
mount --make-rshared /
