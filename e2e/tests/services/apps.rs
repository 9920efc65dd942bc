//! The apps that stand behind a test's Services.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use svclb_e2e::{Host, wait};

use crate::space::Space;
use crate::world::PATIENCE;

/// The echo server that stands behind the Services.
const ECHO: &str = concat!("localhost/svclb-echo:", env!("CARGO_PKG_VERSION"));
/// The ports of its pods; in the pod they are named `web`, `tcp` and `udp`.
pub(crate) const WEB: u16 = 3000;
/// Sends everything back.
pub(crate) const TCP: u16 = 9000;
/// Sends everything back.
pub(crate) const UDP: u16 = 9001;

impl Space<'_> {
    /// Replicas of the echo server, one a node as far as possible, and waits until they are Ready.
    pub(crate) fn app(&self, name: &str, replicas: usize) -> Result<()> {
        self.deploy(name, replicas, None)?;
        self.wait_for_app(name)
    }

    /// One replica of the echo server on this node.
    pub(crate) fn app_on(&self, name: &str, node: &Host) -> Result<()> {
        self.deploy(name, 1, Some(&node.name()))?;
        self.wait_for_app(name)
    }

    /// Creates the Deployment, or changes where its pods run and how many there are.
    pub(crate) fn deploy(&self, name: &str, replicas: usize, node: Option<&str>) -> Result<()> {
        let mut deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "terminationGracePeriodSeconds": 2,
                        "topologySpreadConstraints": [{
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": {"app": name}},
                        }],
                        "containers": [{
                            "name": "echo",
                            "image": ECHO,
                            "args": ["--http", WEB.to_string(), "--tcp", TCP.to_string(),
                                     "--udp", UDP.to_string(), "--grace", "1"],
                            "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                            "ports": [
                                {"name": "web", "containerPort": WEB},
                                {"name": "tcp", "containerPort": TCP},
                                {"name": "udp", "containerPort": UDP, "protocol": "UDP"},
                            ],
                            "readinessProbe": {"httpGet": {"path": "/healthz", "port": WEB}, "periodSeconds": 1},
                        }],
                    },
                },
            },
        });
        if let Some(node) = node {
            deployment["spec"]["template"]["spec"]["nodeSelector"] =
                json!({"kubernetes.io/hostname": node});
        }
        let api = self.world.api::<Deployment>(self.name());
        let by = PatchParams::apply("services-test");
        self.world
            .block_on(api.patch(name, &by, &Patch::Apply(&deployment)))?;
        Ok(())
    }

    /// Waits until a Deployment has all its replicas Ready, and none from before a change.
    pub(crate) fn wait_for_app(&self, name: &str) -> Result<()> {
        let api = self.world.api::<Deployment>(self.name());
        wait::until(&format!("Deployment {name} rolled out"), PATIENCE, || {
            let deployment = self
                .world
                .block_on(api.get(name))
                .map_err(|error| error.to_string())?;
            let wanted = deployment
                .spec
                .and_then(|spec| spec.replicas)
                .filter(|replicas| *replicas > 0);
            let status = deployment.status.unwrap_or_default();
            let counts = [
                status.replicas,
                status.updated_replicas,
                status.ready_replicas,
            ];
            let current = status.observed_generation == deployment.metadata.generation;
            if current && counts.iter().all(|count| *count == wanted) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })?;
        Ok(())
    }
}
