//! What is done to Services, endpoints and nodes, and how long each consequence takes to show.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::bare;
use super::bed::Bed;
use super::observer::{Kind, Observer, Seen};

/// Every duration that is measured, as the table names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Measured {
    FirstAddress,
    AllAddresses,
    FirstByte,
    CreateShare,
    CreateBare,
    NothingLeft,
    DeleteShare,
    DeleteBare,
    TypeToAddress,
    TypeShare,
    TypeToNothing,
    EndpointMoved,
    EndpointShare,
    NodeCut,
    NodeShare,
}

impl Measured {
    /// All, in the order of the table.
    pub(super) const ALL: [Self; 15] = [
        Self::FirstAddress,
        Self::AllAddresses,
        Self::FirstByte,
        Self::CreateShare,
        Self::CreateBare,
        Self::NothingLeft,
        Self::DeleteShare,
        Self::DeleteBare,
        Self::TypeToAddress,
        Self::TypeShare,
        Self::TypeToNothing,
        Self::EndpointMoved,
        Self::EndpointShare,
        Self::NodeCut,
        Self::NodeShare,
    ];

    /// The figure's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FirstAddress => "create to first address",
            Self::AllAddresses => "create to all addresses",
            Self::FirstByte => "create to first byte at every node",
            Self::CreateShare => "create, the controller's own share",
            Self::CreateBare => "create, the same writes by a bare client",
            Self::NothingLeft => "delete to nothing left",
            Self::DeleteShare => "delete, the controller's own share",
            Self::DeleteBare => "delete, the same writes by a bare client",
            Self::TypeToAddress => "type patched to LoadBalancer to first address",
            Self::TypeShare => "type patched to LoadBalancer, the controller's own share",
            Self::TypeToNothing => "type patched away to nothing left",
            Self::EndpointMoved => "endpoint moved to status, Local",
            Self::EndpointShare => "endpoint moved, the controller's own share",
            Self::NodeCut => "node cut to address gone",
            Self::NodeShare => "node cut, the controller's own share",
        }
    }
}

/// What one scene measured.
pub(super) type Durations = Vec<(Measured, Duration)>;

/// A Service's life: created, its type patched away and back, deleted. Then the controller's writes of
/// it once more, by a client that decides nothing.
pub(super) fn life(bed: &Bed<'_>, observer: &mut Observer, name: &str) -> Result<Durations> {
    let mut durations = created(bed, observer, name)?;
    let daemonset = bed.daemonset_of(name)?;
    durations.push((Measured::TypeToNothing, {
        let begun = begin(observer);
        bed.set_type(name, "ClusterIP")?;
        nothing_left(bed, observer, name, begun, |seen| {
            seen.is(Kind::Service, name) && seen.object["metadata"]["finalizers"].is_null()
        })?
    }));
    let begun = begin(observer);
    bed.set_type(name, "LoadBalancer")?;
    let first = addresses(observer, name, 1)?;
    durations.push((Measured::TypeToAddress, first - begun));
    durations.push((Measured::TypeShare, share(observer, name, first)?));
    addresses(observer, name, bed.addresses()?.len())?;
    durations.extend(deleted(bed, observer, name)?);
    durations.extend(bare::life(
        bed,
        observer,
        &format!("bare-{name}"),
        daemonset,
    )?);
    Ok(durations)
}

/// From the request for a Service until every node answers.
pub(super) fn created(bed: &Bed<'_>, observer: &mut Observer, name: &str) -> Result<Durations> {
    let all = bed.addresses()?.len();
    let begun = begin(observer);
    let (bytes, (first, every)) = bed.first_bytes(|| {
        bed.create(name, &json!({}))?;
        Ok((
            addresses(observer, name, 1)?,
            addresses(observer, name, all)?,
        ))
    })?;
    let share = share(observer, name, first)?;
    let last_byte = bytes.into_iter().max().context("there are no nodes")?;
    Ok(vec![
        (Measured::FirstAddress, first - begun),
        (Measured::AllAddresses, every - begun),
        (Measured::FirstByte, last_byte - begun),
        (Measured::CreateShare, share),
    ])
}

/// The controller's own share of the time from a Service of type LoadBalancer to its first address.
fn share(observer: &mut Observer, name: &str, first: Instant) -> Result<Duration> {
    let service = observer.when("the Service", |seen| {
        seen.is(Kind::Service, name) && seen.text("/spec/type") == "LoadBalancer"
    })?;
    let daemonset = observer.when("its DaemonSet", |seen| {
        seen.kind == Kind::DaemonSet && !seen.deleted && seen.service() == name
    })?;
    let cause = observer.last(first, |seen| {
        seen.kind == Kind::Pod && seen.service() == name && !seen.text("/spec/nodeName").is_empty()
    });
    // On a busy machine the status may overtake the pod's own event on its way here.
    let written = cause.map_or(Duration::ZERO, |cause| first - cause);
    Ok((daemonset - service) + written)
}

/// From the request to delete a Service until neither it nor a DaemonSet nor a pod of it is left.
pub(super) fn deleted(bed: &Bed<'_>, observer: &mut Observer, name: &str) -> Result<Durations> {
    let begun = begin(observer);
    bed.delete(name)?;
    let gone = |seen: &Seen| {
        seen.kind == Kind::Service && seen.deleted && seen.text("/metadata/name") == name
    };
    let took = nothing_left(bed, observer, name, begun, gone)?;
    let asked = observer.when("the Service's end", |seen| {
        seen.is(Kind::Service, name) && !seen.text("/metadata/deletionTimestamp").is_empty()
    })?;
    let gone = observer.when("the Service gone", gone)?;
    Ok(vec![
        (Measured::NothingLeft, took),
        (Measured::DeleteShare, gone - asked),
    ])
}

/// The name of the Service with `externalTrafficPolicy: Local`, whose one endpoint moves.
const LOCAL: &str = "local";

/// Makes the Service whose endpoint will move, with its endpoint on the first node.
pub(super) fn begin_local(bed: &Bed<'_>, observer: &mut Observer) -> Result<()> {
    bed.place(1, true)?;
    begin(observer);
    bed.create(
        LOCAL,
        &json!({"externalTrafficPolicy": "Local", "selector": {"app": "backend", "at": "here"}}),
    )?;
    addresses(observer, LOCAL, 1)?;
    Ok(())
}

/// Moves the endpoint from one node to another.
pub(super) fn moved(
    bed: &Bed<'_>,
    observer: &mut Observer,
    from: usize,
    to: usize,
) -> Result<Durations> {
    let wanted = bed.addresses()?[to - 1].to_string();
    let begun = begin(observer);
    bed.place(to, true)?;
    bed.place(from, false)?;
    let shown = observer.when("the endpoint's new node in status", |seen| {
        seen.is(Kind::Service, LOCAL) && seen.addresses() == [wanted.as_str()]
    })?;
    let cause = observer.last(shown, |seen| {
        seen.kind == Kind::EndpointSlice
            && seen.text("/metadata/labels/kubernetes.io~1service-name") == LOCAL
    });
    Ok(vec![
        (Measured::EndpointMoved, shown - begun),
        (
            Measured::EndpointShare,
            cause.map_or(Duration::ZERO, |cause| shown - cause),
        ),
    ])
}

/// Removes the Service whose endpoint has moved, and the label of its last endpoint.
pub(super) fn end_local(bed: &Bed<'_>, observer: &mut Observer, at: usize) -> Result<()> {
    deleted(bed, observer, LOCAL)?;
    bed.place(at, false)
}

/// The name of the Service that loses a node.
pub(super) const STEADY: &str = "steady";

/// Cuts nodes off, and puts them back.
pub(super) fn cut(
    bed: &Bed<'_>,
    observer: &mut Observer,
    nodes: RangeInclusive<usize>,
) -> Result<Durations> {
    begin(observer);
    let mut cut = Vec::new();
    for node in nodes {
        let host = bed.cluster.node(node);
        let begun = Instant::now();
        host.cut()?;
        cut.push((node, host, begun));
    }
    let seen: Result<Vec<_>> = cut
        .iter()
        .map(|(node, host, begun)| {
            let (gone, unknown) = gone(bed, observer, *node, &host.name())?;
            // The write that follows a change of a node may overtake the node's own event on its way here.
            let share = gone.saturating_duration_since(unknown);
            Ok([
                (Measured::NodeCut, gone - *begun),
                (Measured::NodeShare, share),
            ])
        })
        .collect();
    begin(observer);
    for (_, host, _) in &cut {
        host.heal()?;
    }
    addresses(observer, STEADY, bed.addresses()?.len())?;
    Ok(seen?.into_iter().flatten().collect())
}

/// When a node's address was gone from status, and when the node was marked Unknown.
fn gone(
    bed: &Bed<'_>,
    observer: &mut Observer,
    node: usize,
    name: &str,
) -> Result<(Instant, Instant)> {
    let address = bed.addresses()?[node - 1].to_string();
    let gone = observer.when("the cut node's address gone from status", |seen| {
        seen.is(Kind::Service, STEADY) && !seen.addresses().contains(&address.as_str())
    })?;
    let unknown = observer.when("the cut node Unknown", |seen| {
        let conditions = seen.object["status"]["conditions"].as_array();
        let is_unknown = |condition: &serde_json::Value| {
            condition["type"] == "Ready" && condition["status"] == "Unknown"
        };
        seen.is(Kind::Node, name)
            && conditions.is_some_and(|conditions| conditions.iter().any(is_unknown))
    })?;
    Ok((gone, unknown))
}

pub(super) fn begin(observer: &mut Observer) -> Instant {
    observer.begin();
    Instant::now()
}

/// When the Service's status first had at least `count` addresses.
pub(super) fn addresses(observer: &mut Observer, name: &str, count: usize) -> Result<Instant> {
    observer.when(&format!("{count} addresses of Service {name}"), |seen| {
        seen.is(Kind::Service, name) && seen.addresses().len() >= count
    })
}

/// How long after `begun` the Service was as it should be and nothing of it was left.
pub(super) fn nothing_left(
    bed: &Bed<'_>,
    observer: &mut Observer,
    name: &str,
    begun: Instant,
    service: impl Fn(&Seen) -> bool,
) -> Result<Duration> {
    let service = observer.when("the Service let go", service)?;
    let daemonset = observer.when("its DaemonSet gone", |seen| {
        seen.kind == Kind::DaemonSet && seen.service() == name && seen.deleted
    })?;
    // One pod a node, each with an event of its own.
    let (nodes, mut gone) = (bed.cluster.options().nodes, HashSet::new());
    let pods = observer.when("its pods gone", |seen| {
        if seen.kind == Kind::Pod && seen.service() == name && seen.deleted {
            gone.insert(seen.text("/metadata/name").to_owned());
        }
        gone.len() == nodes
    })?;
    Ok(service.max(daemonset).max(pods) - begun)
}
