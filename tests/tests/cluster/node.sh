# Runs in the machine, in a node's network namespace and a mount namespace of its own: containerd and the kubelet of NODE, whose
# address is ADDRESS and whose pods are in PODS. WORK is a folder of the host.
PATH=/tmp/bin:$PATH
R=/tmp/node
mount -t tmpfs tmpfs $R
mkdir -p $R/containerd $R/run $R/cni
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /var/log
mkdir -p /var/lib/kubelet /var/log/pods
# `ip netns exec` has mounted /sys anew, without what is below it.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /

cat >$R/cni/10-pods.conf <<K
{"cniVersion": "0.4.0", "name": "pods", "type": "bridge", "bridge": "cni0", "isGateway": true,
 "ipam": {"type": "host-local", "subnet": "$PODS", "routes": [{"dst": "0.0.0.0/0"}]}}
K
cat >$R/containerd.toml <<K
version = 3
root = "$R/containerd"
state = "$R/run"
[grpc]
address = "$R/containerd.sock"
[ttrpc]
address = "$R/containerd.sock.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "$PAUSE"
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "$R/cni"
K
cat >$R/kubelet.yaml <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /$NODE
containerRuntimeEndpoint: unix://$R/containerd.sock
failSwapOn: false
evictionHard: {}
localStorageCapacityIsolation: false
K
containerd -c $R/containerd.toml &
tries=0
until ctr -a $R/containerd.sock version >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ $tries -lt 240 ]
  sleep 0.5
done
for image in $IMAGES; do ctr -a $R/containerd.sock -n k8s.io images import "$image"; done
# What is upgraded to is another tag.
for name in agent operator; do
  ctr -a $R/containerd.sock -n k8s.io images tag "docker.io/bascule/bascule-$name:$VERSION" "docker.io/bascule/bascule-$name:next"
done
exec kubelet --kubeconfig "$WORK/$NODE.kubeconfig" --config $R/kubelet.yaml --hostname-override "$NODE" --node-ip "$ADDRESS" \
  --root-dir /var/lib/kubelet
