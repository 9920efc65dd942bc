//! containerd: it keeps images and runs containers by runc, asked by the kubelet over CRI.

use std::path::Path;

/// Where containerd answers, in the node's own `/run`.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// The image that holds a pod's namespaces: ours under the name that the kubelet has in its books.
const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

/// containerd's configuration file, of version 2: containerd 1.6 and 1.7 take it, 2.x converts it.
pub(super) fn configuration(network_configurations: &Path, network_plugins: &Path) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
# Snapshotters that this cluster does not use: looking for their tools takes time.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{SOCKET}"

# Instead of /opt/containerd, which is the real host's.
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Machines without CAP_SYS_RESOURCE cannot lower a process's oom_score_adj, which runc reports as
  # "can't get final child's PID from pipe".
  restrict_oom_score_adj = true
  # Profiles are loaded into the kernel, which is the real host's.
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  # Under /run/containerd, not in /run/netns.
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{network_plugins}"
    conf_dir = "{network_configurations}"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        network_plugins = network_plugins.display(),
        network_configurations = network_configurations.display(),
    )
}
