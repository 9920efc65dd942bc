//! A DaemonSet, reduced: ours, ServiceLB's, or one that stands where ours should.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::{Value, json};

use crate::facts::ServiceKey;
use crate::facts::host_ports;
use crate::names;
use crate::net::Port;
use crate::selector::Admission;

/// A DaemonSet, reduced.
#[derive(Clone, Debug, PartialEq)]
pub struct DaemonSetFacts {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// UID
    pub uid: String,
    /// Has a deletion timestamp: its claims are void.
    pub deleting: bool,
    /// The Service it is for, by its labels.
    pub service: Option<ServiceKey>,
    /// The UID of the Service, from our own label. With it the DaemonSet is ours.
    pub service_uid: Option<String>,
    /// Carries ServiceLB's mark: it is at work, whoever made this one.
    pub servicelb: bool,
    /// The host ports of its template.
    pub ports: BTreeSet<Port>,
    /// The nodes that its template admits.
    pub admission: Arc<Admission>,
    /// Its pods are being replaced: some are not of the newest template.
    pub rolling: bool,
    /// The DaemonSet controller lacks a pod on some node that it wants one on.
    pub lacks_pods: bool,
    /// What we applied last, as a hash.
    pub applied: Option<String>,
    /// Labels, annotations and spec.
    pub content: Content,
}

/// Labels, annotations and spec of a DaemonSet, until they have been compared with what is wanted: half of all memory
/// would be their text.
#[derive(Clone, Debug)]
pub struct Content {
    hash: u64,
    /// JSON, the smallest form in which they can be compared. Nothing once they have been found to hold all that
    /// [`DaemonSetFacts::applied`] stands for.
    text: Option<Box<str>>,
}

/// By the hash: whether the text is still there makes no difference.
impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Content {
    fn of(daemonset: &DaemonSet) -> Self {
        let text = content(daemonset).to_string();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            text: Some(text.into()),
        }
    }

    /// The text, unless it has been found to be as wanted.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// It has been found to be as wanted.
    pub(crate) fn forget_text(&mut self) {
        self.text = None;
    }
}

impl From<&DaemonSet> for DaemonSetFacts {
    fn from(daemonset: &DaemonSet) -> Self {
        let metadata = &daemonset.metadata;
        let label = |key: &str| metadata.labels.as_ref()?.get(key).cloned();
        let template = daemonset
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        let status = daemonset.status.clone().unwrap_or_default();
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            service: label(names::SERVICE_NAMESPACE)
                .zip(label(names::SERVICE_NAME))
                .map(|(namespace, name)| ServiceKey::new(namespace, name)),
            service_uid: label(names::SERVICE_UID),
            servicelb: names::SERVICELB_MARKS
                .iter()
                .any(|mark| label(mark).is_some()),
            ports: template
                .map(|spec| host_ports(spec).collect())
                .unwrap_or_default(),
            admission: template.map(Admission::from).unwrap_or_default().into(),
            rolling: status.observed_generation < metadata.generation
                || status.updated_number_scheduled.unwrap_or(0) < status.desired_number_scheduled,
            lacks_pods: status.current_number_scheduled < status.desired_number_scheduled,
            applied: metadata
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(names::APPLIED))
                .cloned(),
            content: Content::of(daemonset),
        }
    }
}

impl DaemonSetFacts {
    /// Did we make it? (ServiceLB may have put its mark on it since.)
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.service_uid.is_some()
    }
}

/// What of a DaemonSet is compared.
pub(crate) fn content(daemonset: &DaemonSet) -> Value {
    json!({
        "metadata": { "labels": daemonset.metadata.labels, "annotations": daemonset.metadata.annotations },
        "spec": daemonset.spec,
    })
}
