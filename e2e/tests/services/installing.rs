//! svclb goes, as the README says, and comes to another namespace, as the example of a kustomization says.

use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::json;
use svclb_e2e::{repository, wait};

use crate::apps::WEB;
use crate::space::Space;
use crate::traffic;
use crate::world::{PATIENCE, SERVICE_NAME, World, manifest};

const PORT: u16 = 8120;
/// The namespace and the class of the example.
const ELSEWHERE: &str = "load-balancers";
const CLASS: &str = "example.org/nodes";
/// The example, but with the images that the nodes have.
const OVERLAY: &str = r#"
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../manifests]
images:
  - {name: registry.example.org/svclb-controller, newName: localhost/svclb-controller}
patches:
  - target: {kind: Deployment, name: svclb-controller}
    patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: svclb-controller}
      spec:
        template:
          spec:
            containers:
              - name: controller
                env: [{name: SVCLB_POD_IMAGE, value: "localhost/svclb-pod:VERSION"}]
"#;

/// With a Service in place, the manifest is applied over an older form of itself, and again: the Service keeps its
/// addresses and its DaemonSet throughout, and what is there already is not changed.
pub(crate) fn applied_again(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    space.load_balancer(
        "web",
        json!({"ports": [{"port": PORT + 3, "targetPort": WEB}]}),
    )?;
    space.expect_addresses("web", &world.ipv4())?;
    space.expect_ready_pods("web", &world.cluster().nodes())?;
    let uids = || -> Result<_> {
        let daemonset = space.daemonset("web")?.context("no DaemonSet")?;
        Ok((space.service("web")?.metadata.uid, daemonset.metadata.uid))
    };
    let before = uids()?;
    let watched = space.watch_addresses("web");

    let older = fs::read_to_string(manifest())?
        .replace("cpu: 10m", "cpu: 20m")
        .replace("periodSeconds: 2\n", "periodSeconds: 3\n")
        .replace("description: Pods", "description: In former times, pods")
        .replace("verbs: [get, create, patch, delete]", "verbs: [\"*\"]");
    let file = repository().join("target/e2e-older.yaml");
    fs::write(&file, older)?;
    for (file, changed) in [
        (file.display().to_string(), 3),
        (manifest(), 3),
        (manifest(), 0),
    ] {
        let told = world.kubectl(&["apply", "-f", &file])?;
        world.wait_for_controller()?;
        let of_changes = told.lines().filter(|line| !line.ends_with(" unchanged"));
        ensure!(
            of_changes.count() == changed && told.lines().count() > changed,
            "expected: {changed} objects changed by applying {file}; seen: {told}"
        );
    }
    space.expect_ready_pods("web", &world.cluster().nodes())?;
    let after = uids()?;
    ensure!(
        after == before,
        "expected: the same Service and DaemonSet; seen: {before:?}, then {after:?}"
    );
    watched.expect_throughout(&world.ipv4(), "the manifest applied again and again")
}

/// Uninstalled with Services in place: nothing hangs, then or when the Services are deleted. Then
/// installed elsewhere, with another class and two replicas.
pub(crate) fn uninstalled_and_elsewhere(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    space.app("web", 1)?;
    for (service, port) in [("one", PORT), ("two", PORT + 1)] {
        space.load_balancer(
            service,
            json!({"selector": {"app": "web"}, "ports": [{"port": port, "targetPort": WEB}]}),
        )?;
        space.expect_addresses(service, &world.ipv4())?;
    }
    uninstall(world)?;
    space.expect_released("one")?;
    for service in ["one", "two"] {
        world.kubectl(&[
            "delete",
            "service",
            service,
            "-n",
            space.name(),
            "--timeout=30s",
        ])?;
    }
    space.expect_nothing_left()?;

    let folder = repository().join("target/e2e-elsewhere");
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("kustomization.yaml"),
        OVERLAY.replace("VERSION", env!("CARGO_PKG_VERSION")),
    )?;
    let folder = folder.display().to_string();
    world.kubectl(&["apply", "-k", &folder])?;
    let rolled_out = [
        "rollout",
        "status",
        "-n",
        ELSEWHERE,
        "deployment/svclb-controller",
        "--timeout=60s",
    ];
    world.kubectl(&rolled_out)?;
    let mut spec =
        json!({"selector": {"app": "web"}, "ports": [{"port": PORT + 2, "targetPort": WEB}]});
    spec["loadBalancerClass"] = CLASS.into();
    space.load_balancer("elsewhere", spec)?;
    space.expect_addresses("elsewhere", &world.ipv4())?;
    let daemonsets: Vec<DaemonSet> = world.list(ELSEWHERE, &format!("{SERVICE_NAME}=elsewhere"))?;
    ensure!(
        daemonsets.len() == 1,
        "{} DaemonSets in {ELSEWHERE}",
        daemonsets.len()
    );
    for address in world.ipv4() {
        traffic::ask_patiently(&world.client(), address, PORT + 2)?;
    }

    space.delete_service("elsewhere")?;
    wait::until("the Service gone", PATIENCE, || {
        let left = space.services().map_err(|error| format!("{error:#}"))?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })?;
    world.kubectl(&["delete", "-k", &folder])?;
    world.kubectl(&["apply", "-f", &manifest()])?;
    world.wait_for_controller()
}

/// Runs the commands of the README, but for what is about k3s' own folders.
fn uninstall(world: &World) -> Result<()> {
    let readme = fs::read_to_string(repository().join("README.md"))?;
    let (_, rest) = readme
        .split_once("\n## Uninstalling\n")
        .context("the README has no such heading")?;
    let (_, rest) = rest
        .split_once("```sh\n")
        .context("the README has no commands under it")?;
    let (commands, _) = rest
        .split_once("```")
        .context("the README's commands have no end")?;
    let commands = commands
        .lines()
        .filter_map(|line| line.strip_prefix("kubectl "));
    let mut count = 0;
    for command in commands {
        let (command, _) = command.split_once(" #").unwrap_or((command, ""));
        // The README's user stands in the repository, kubectl here does not.
        let manifests = format!("{}/manifests/", repository().display());
        let command = command.replace("manifests/", &manifests);
        world.kubectl(&command.split_whitespace().collect::<Vec<_>>())?;
        count += 1;
    }
    ensure!(
        count >= 4,
        "the README has {count} commands for kubectl under its heading"
    );
    Ok(())
}
