//! A real multi-node Kubernetes cluster on one Linux host, and what tests need to try things on it.
//!
//! Every host of a cluster is a set of namespaces: [`Cluster::up`] makes them, wires them to a switch,
//! and starts in them the programs that Kubernetes consists of. Nothing of the real host is changed,
//! and [`Cluster::down`] leaves nothing behind.
//!
//! ```text
//!  client 172.30.77.2      control-plane 10.231.0.10      node-1 10.231.1.1 ... node-N 10.231.1.N
//!     │                       │ etcd, kube-apiserver,        │ containerd, kubelet,      │
//!     │                       │ kube-controller-manager,     │ kube-proxy, pods in       │
//!     │                       │ kube-scheduler               │ 10.244.1.0/24             │
//!     └───────────────────────┴────────── switch ────────────┴───────────────────────────┘
//! ```
//!
//! To read how it is put together, begin with `up`, then `namespaces`, `machine` and `network` for a
//! host, `control_plane` and `node` for what runs on it, and `down` for how it ends.
//!
//! ```no_run
//! use svclb_e2e::{Component, Options, Progress, Temporary};
//!
//! let cluster = Temporary::up(&Options::default(), &Progress::silent())?;
//! cluster.node(1).cut()?;
//! println!("{}", cluster.kubectl(&["get", "nodes"])?);
//! cluster.node(1).heal()?;
//! cluster.control_plane().restart(Component::KubeApiserver)?;
//! # Ok::<(), svclb_e2e::Error>(())
//! ```

pub mod wait;

mod addresses;
mod certificates;
mod cgroups;
mod client;
mod cluster;
mod component;
mod control_plane;
mod down;
mod error;
mod files;
mod host;
mod images;
mod kubeconfig;
mod machine;
mod namespaces;
mod network;
mod node;
mod options;
mod paths;
mod pods;
mod prepare;
mod process;
mod progress;
mod readiness;
mod requirements;
mod state;
mod up;

pub use cluster::{Cluster, Temporary};
pub use component::{Component, Role, UnknownComponent};
pub use error::{Error, LogTail};
pub use host::{Host, HostCommand};
pub use options::{IpFamily, MOST_NODES, NodeSettings, Options, ProxyMode};
pub use paths::{cgroup, repository};
pub use pods::ECHO_IMAGE;
pub use process::ProcessId;
pub use progress::{Interrupted, Progress};
