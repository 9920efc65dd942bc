//! The pod network: a bridge on each node by the CNI plugin `bridge`, with hostPorts by `portmap`. The
//! ways between the nodes' bridges are routes that the hosts have.

use std::path::Path;

use serde_json::{Value, json};

use crate::addresses;
use crate::options::IpFamily;

/// Where the plugins are: Debian has its own place for them.
pub(super) fn plugin_folder() -> &'static Path {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .map(Path::new)
        .into_iter()
        .find(|folder| folder.join("bridge").exists())
        .unwrap_or(Path::new("/opt/cni/bin"))
}

/// The list of plugins that every pod of a node goes through.
pub(super) fn conflist(number: usize, family: IpFamily) -> String {
    let ranges: Vec<Value> = addresses::node_pod_subnets(number, family)
        .iter()
        .map(|subnet| json!([{"subnet": subnet.to_string()}]))
        .collect();
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "isDefaultGateway": true,
                "hairpinMode": true,
                // Masquerading would hide a pod's address from everything outside its node.
                "ipMasq": false,
                "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": ranges},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    format!("{list:#}\n")
}
