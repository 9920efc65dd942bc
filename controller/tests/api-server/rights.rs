//! The rights that the manifest grants, against those that were used in all the tests before.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use crate::Test;
use crate::bed::Bed;
use crate::objects::{host_ports, tcp};

pub(crate) const TESTS: &[(&str, Test)] = &[(
    "the_rights_that_are_used_are_the_rights_that_are_granted",
    rights,
)];

/// Has the controller do all that it ever does, so that this test says the same when it runs alone.
fn use_all(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller_with("svclb-controller", 9300, &["--repeat-warnings=1s"])?;
    bed.run(async {
        // No node: a Warning, which is repeated.
        let service = bed.service("web", &[80]).await?;
        bed.until("a series of events", async || {
            let events = bed.events(&service).await?;
            let repeated = events.iter().find_map(|event| event.series.as_ref());
            repeated.with_context(|| format!("{events:?}"))?;
            Ok(())
        })
        .await?;
        bed.node("n1", "192.0.2.1").await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        // The first apply over what was created, then one more.
        for port in [81, 82] {
            bed.edit("web", json!({"spec": {"ports": tcp(&[port])}}))
                .await?;
            bed.until("the new port", async || {
                let ports = host_ports(&bed.daemonset_of(&service).await?);
                if ports == [i32::from(port)] {
                    Ok(())
                } else {
                    bail!("{ports:?}")
                }
            })
            .await?;
        }
        bed.delete("web").await?;
        bed.until_no_daemonset().await
    })
    .with_context(|| controller.said())
}

/// API group, resource with its subresource, and verb.
type Right = (String, String, String);

fn rights(bed: &Bed) -> anyhow::Result<()> {
    use_all(bed)?;
    let used = used(&bed.audit_log())?;
    let granted = granted()?;
    let unused: Vec<_> = granted.difference(&used).collect();
    let missing: Vec<_> = used.difference(&granted).collect();
    ensure!(missing.is_empty(), "used and not granted: {missing:?}");
    ensure!(unused.is_empty(), "granted and not used: {unused:?}");
    Ok(())
}

/// From the API server's audit log, which has the controller's requests alone.
fn used(log: &Path) -> anyhow::Result<BTreeSet<Right>> {
    let mut used = BTreeSet::new();
    for line in std::fs::read_to_string(log)?.lines() {
        let event: Value = serde_json::from_str(line)?;
        let reference = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut resource = text(&reference["resource"]);
        if let Some(subresource) = reference["subresource"].as_str() {
            resource = format!("{resource}/{subresource}");
        }
        used.insert((text(&reference["apiGroup"]), resource, text(&event["verb"])));
    }
    Ok(used)
}

fn granted() -> anyhow::Result<BTreeSet<Right>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/svclb.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
    let mut granted = BTreeSet::new();
    for object in objects {
        if !matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")) {
            continue;
        }
        let rules: Vec<PolicyRule> =
            serde_json::from_value(object["rules"].clone()).context("rules")?;
        for rule in rules {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    let rights = rule
                        .verbs
                        .iter()
                        .map(|verb| (group.clone(), resource.clone(), verb.clone()));
                    granted.extend(rights);
                }
            }
        }
    }
    Ok(granted)
}
