//! Whatever comes late, twice or never: watches that lag and break, writes that fail, that take effect though no answer came,
//! or that take effect after all else. The DaemonSets that there are in the end are those of the Services that there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Ledger;
use crate::carry_out::Done;
use crate::decision::{DaemonSetStep, Decision, FinalizerStep, StatusWrite};
use crate::facts::ServiceKey;
use crate::fixtures::{at, key, mk_node, mk_service, patched};
use crate::names;
use crate::settings::Settings;
use crate::watch::Change;
use crate::write;

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Create(usize, Wish),
    Edit(usize, Wish),
    Delete(usize),
    /// Somebody who does not want to wait.
    DropFinalizer(usize),
    DeleteDaemonSet(usize),
    Show(Kind, usize),
    ListAnew(Kind),
    /// Every Service that is due is decided on.
    Decide,
    /// Requests that are under way reach the API server.
    Answer(Vec<(usize, Answer)>),
    /// A request that nobody waits for any more reaches the API server.
    Land(usize),
    Milliseconds(i64),
    Restart,
    Rest,
}

#[derive(Clone, Debug)]
struct Wish {
    load_balancer: bool,
    port: u16,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Services,
    DaemonSets,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Done,
    /// Nothing is done.
    Failed,
    /// It is done, and the answer is lost.
    Lost,
    /// It is done later, when its sender has given up.
    Late,
}

/// What reaches the API server in one request.
#[derive(Clone, Debug)]
enum Request {
    Finalizer(FinalizerStep),
    DaemonSet(DaemonSetStep),
    Status(StatusWrite),
}

/// One Service's requests, sent one after the other.
struct UnderWay {
    requests: VecDeque<Request>,
    done: Done,
}

/// The API server, and a controller that sees it through two watches.
struct Cluster {
    now: Timestamp,
    uids: u64,
    services: BTreeMap<ServiceKey, Service>,
    daemonsets: BTreeMap<String, DaemonSet>,
    /// What the watches have not shown yet.
    of_services: VecDeque<Event<Service>>,
    of_daemonsets: VecDeque<Event<DaemonSet>>,
    ledger: Ledger,
    under_way: Vec<UnderWay>,
    late: Vec<(ServiceKey, Request)>,
}

fn new_ledger(now: Timestamp) -> Ledger {
    let mut ledger = Ledger::new(Arc::new(Settings::default()), now);
    ledger.take_in(Change::Node(Event::Init), now);
    for (name, number) in [("a", 1), ("b", 2)] {
        let node = mk_node(name, number, json!({}));
        ledger.take_in(Change::Node(Event::InitApply(node)), now);
    }
    for change in [
        Change::Node(Event::InitDone),
        Change::Pod(Event::InitDone),
        Change::Slice(Event::InitDone),
        Change::ProxyConfig(Event::InitDone),
    ] {
        ledger.take_in(change, now);
    }
    ledger
}

fn list<K: Clone>(objects: impl Iterator<Item = K>) -> VecDeque<Event<K>> {
    let mut events = VecDeque::from([Event::Init]);
    events.extend(objects.map(Event::InitApply));
    events.push_back(Event::InitDone);
    events
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            now: at(0),
            uids: 0,
            services: BTreeMap::new(),
            daemonsets: BTreeMap::new(),
            of_services: VecDeque::new(),
            of_daemonsets: VecDeque::new(),
            ledger: new_ledger(at(0)),
            under_way: Vec::new(),
            late: Vec::new(),
        };
        cluster.list_anew(Kind::Services);
        cluster.list_anew(Kind::DaemonSets);
        cluster
    }

    fn list_anew(&mut self, kind: Kind) {
        match kind {
            Kind::Services => self.of_services = list(self.services.values().cloned()),
            Kind::DaemonSets => self.of_daemonsets = list(self.daemonsets.values().cloned()),
        }
    }

    fn show(&mut self, kind: Kind) -> bool {
        let change = match kind {
            Kind::Services => self.of_services.pop_front().map(Change::Service),
            Kind::DaemonSets => self.of_daemonsets.pop_front().map(Change::DaemonSet),
        };
        let Some(change) = change else {
            return false;
        };
        self.ledger.take_in(change, self.now);
        true
    }

    fn put_service(&mut self, service: Service) {
        let key = key(service.metadata.name.as_deref().unwrap());
        let is_over = service.metadata.deletion_timestamp.is_some()
            && service
                .metadata
                .finalizers
                .iter()
                .flatten()
                .next()
                .is_none();
        if is_over {
            self.services.remove(&key);
            self.of_services.push_back(Event::Delete(service));
        } else {
            self.services.insert(key, service.clone());
            self.of_services.push_back(Event::Apply(service));
        }
    }

    fn edit(&mut self, key: &ServiceKey, patch: Value) {
        if let Some(service) = self.services.get(key) {
            self.put_service(patched(service, patch));
        }
    }

    fn put_daemonset(&mut self, daemonset: DaemonSet) {
        let name = daemonset.metadata.name.clone().unwrap();
        if self.daemonsets.get(&name) != Some(&daemonset) {
            self.daemonsets.insert(name, daemonset.clone());
            self.of_daemonsets.push_back(Event::Apply(daemonset));
        }
    }

    fn remove_daemonset(&mut self, name: &str) {
        if let Some(gone) = self.daemonsets.remove(name) {
            self.of_daemonsets.push_back(Event::Delete(gone));
        }
    }

    /// A request reaches the API server: is it accepted?
    fn receive(&mut self, service: &ServiceKey, request: Request) -> bool {
        let uid = |service: Option<&Service>| service.and_then(|it| it.metadata.uid.clone());
        let there = uid(self.services.get(service));
        match request {
            Request::Finalizer(FinalizerStep::Keep) => {}
            Request::Finalizer(FinalizerStep::Add { uid }) => {
                if there.as_ref() != Some(&uid) {
                    return false;
                }
                let ours = format!("v:\"{}\"", names::FINALIZER);
                let managed = json!([{
                    "manager": names::FIELD_MANAGER,
                    "fieldsV1": { "f:metadata": { "f:finalizers": { (ours): {} } } },
                }]);
                let finalizers = json!([names::FINALIZER]);
                let metadata = json!({ "finalizers": finalizers, "managedFields": managed });
                self.edit(service, json!({ "metadata": metadata }));
            }
            Request::Finalizer(FinalizerStep::Remove { uid }) => {
                if there.as_ref() != Some(&uid) {
                    return false;
                }
                let metadata = json!({ "finalizers": null, "managedFields": null });
                self.edit(service, json!({ "metadata": metadata }));
            }
            Request::Status(write) => {
                if there.as_ref() != Some(&write.uid) {
                    return false;
                }
                let mut service = self.services[service].clone();
                let status = service.status.get_or_insert_default();
                let conditions = status.conditions.get_or_insert_default();
                conditions.retain(|there| {
                    let set = |set: &Condition| there.type_ == set.type_;
                    !write.clear_conditions.contains(&there.type_.as_str())
                        && !write.set_conditions.iter().any(set)
                });
                conditions.extend(write.set_conditions);
                self.put_service(service);
            }
            Request::DaemonSet(DaemonSetStep::Create { mut object, .. }) => {
                let name = object.metadata.name.clone().unwrap();
                if self.daemonsets.contains_key(&name) {
                    return false;
                }
                self.uids += 1;
                object.metadata.uid = Some(format!("daemonset {}", self.uids));
                self.put_daemonset(*object);
            }
            Request::DaemonSet(DaemonSetStep::Apply {
                uid, mut object, ..
            }) => {
                let there = self.daemonsets.get(object.metadata.name.as_ref().unwrap());
                if there.and_then(|there| there.metadata.uid.as_ref()) != Some(&uid) {
                    return false;
                }
                object.metadata.uid = Some(uid);
                self.put_daemonset(*object);
            }
            Request::DaemonSet(DaemonSetStep::Delete { name, uid, .. }) => {
                let there = self.daemonsets.get(&name);
                if there.is_some_and(|there| there.metadata.uid.as_ref() != Some(&uid)) {
                    return false;
                }
                self.remove_daemonset(&name);
            }
        }
        true
    }

    fn decide(&mut self) -> bool {
        let mut any = false;
        while let Some(turn) = self
            .ledger
            .synced()
            .then(|| self.ledger.decide(self.now))
            .flatten()
        {
            any = true;
            if super::has_writes(&turn.decision) {
                let done = Done::of(turn.service, &turn.decision);
                let requests = requests(turn.decision);
                self.under_way.push(UnderWay { requests, done });
            }
        }
        any
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        if self.under_way.is_empty() {
            return;
        }
        let number = number % self.under_way.len();
        let mut work = self.under_way.swap_remove(number);
        let service = work.done.service.clone();
        let ok = match work.requests.pop_front() {
            None => true,
            Some(request) => match answer {
                Answer::Done => {
                    let accepted = self.receive(&service, request.clone());
                    if accepted && let Request::DaemonSet(step) = &request {
                        work.done.step_done(step);
                    }
                    accepted
                }
                Answer::Failed => false,
                Answer::Lost => {
                    self.receive(&service, request);
                    false
                }
                Answer::Late => {
                    self.late.push((service, request));
                    false
                }
            },
        };
        if ok && !work.requests.is_empty() {
            self.under_way.push(work);
            return;
        }
        if !ok {
            let action = "write".to_owned();
            work.done.result = Err(write::Error::NoAnswer { action });
        }
        self.ledger.end(&work.done, self.now);
    }

    fn land(&mut self, number: usize) -> bool {
        if self.late.is_empty() {
            return false;
        }
        let (service, request) = self.late.swap_remove(number % self.late.len());
        self.receive(&service, request);
        true
    }

    fn happen(&mut self, step: &Step) {
        let named = |number: &usize| key(&format!("s{number}"));
        match step {
            Step::Create(number, wish) => {
                let key = named(number);
                if !self.services.contains_key(&key) {
                    self.uids += 1;
                    let uid = format!("{:08}-uid", self.uids);
                    let created = self.now.to_string();
                    let metadata = json!({ "uid": uid, "creationTimestamp": created });
                    let service = mk_service(&key.name, json!({ "metadata": metadata }));
                    self.put_service(patched(&service, wish.patch()));
                }
            }
            Step::Edit(number, wish) => self.edit(&named(number), wish.patch()),
            Step::Delete(number) => self.delete(&named(number)),
            Step::DropFinalizer(number) => {
                self.edit(
                    &named(number),
                    json!({ "metadata": { "finalizers": null } }),
                );
            }
            Step::DeleteDaemonSet(number) => {
                let names = self.daemonsets.keys();
                let name = names
                    .cycle()
                    .nth(*number)
                    .filter(|_| !self.daemonsets.is_empty());
                if let Some(name) = name.cloned() {
                    self.remove_daemonset(&name);
                }
            }
            Step::Show(kind, count) => {
                for _ in 0..*count {
                    self.show(*kind);
                }
            }
            Step::ListAnew(kind) => self.list_anew(*kind),
            Step::Decide => drop(self.decide()),
            Step::Answer(all) => {
                for (number, answer) in all {
                    self.answer(*number, *answer);
                }
            }
            Step::Rest => self.come_to_rest(),
            Step::Land(number) => drop(self.land(*number)),
            Step::Milliseconds(some) => self.now += SignedDuration::from_millis(*some),
            Step::Restart => {
                // What was on its way when the process ended may arrive all the same.
                for mut work in std::mem::take(&mut self.under_way) {
                    let next = work.requests.pop_front();
                    self.late.extend(next.map(|next| (work.done.service, next)));
                }
                self.ledger = new_ledger(self.now);
                self.list_anew(Kind::Services);
                self.list_anew(Kind::DaemonSets);
            }
        }
    }

    fn delete(&mut self, key: &ServiceKey) {
        let now = self.now.to_string();
        self.edit(key, json!({ "metadata": { "deletionTimestamp": now } }));
    }

    /// Everything arrives, and nothing happens beside.
    fn come_to_rest(&mut self) {
        while self.land(0) {}
        let end = self.now + SignedDuration::from_mins(5);
        for _ in 0..2000 {
            while self.show(Kind::Services) || self.show(Kind::DaemonSets) {}
            if self.decide() {
                continue;
            }
            if !self.under_way.is_empty() {
                self.answer(0, Answer::Done);
                continue;
            }
            match self.ledger.next().filter(|next| *next < end) {
                Some(next) => self.now = self.now.max(next),
                None => return,
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&self) {
        let mut ports: BTreeMap<i32, usize> = BTreeMap::new();
        let served: BTreeMap<String, i32> = self
            .services
            .iter()
            .filter_map(|(key, service)| {
                assert!(service.metadata.deletion_timestamp.is_none(), "{key} hangs");
                let spec = service.spec.as_ref().unwrap();
                let is_served = spec.type_.as_deref() == Some("LoadBalancer");
                let has_finalizer = service
                    .metadata
                    .finalizers
                    .iter()
                    .flatten()
                    .next()
                    .is_some();
                assert_eq!(has_finalizer, is_served, "finalizer of {key}");
                let port = spec.ports.as_ref().unwrap()[0].port;
                let uid = service.metadata.uid.as_ref().unwrap();
                is_served.then(|| {
                    *ports.entry(port).or_default() += 1;
                    (names::daemonset(&key.name, uid), port)
                })
            })
            .collect();
        let mut holders = BTreeSet::new();
        for name in self.daemonsets.keys() {
            let port = served
                .get(name)
                .unwrap_or_else(|| panic!("{name} is left over"));
            assert!(holders.insert(port), "two DaemonSets have port {port}");
        }
        let wanted: BTreeSet<&i32> = ports.keys().collect();
        assert_eq!(holders, wanted, "a port that is wanted and that nobody has");
    }
}

/// In the order in which they are sent.
fn requests(decision: Decision) -> VecDeque<Request> {
    let (first, last) = match decision.finalizer {
        FinalizerStep::Keep => (None, None),
        add @ FinalizerStep::Add { .. } => (Some(add), None),
        remove @ FinalizerStep::Remove { .. } => (None, Some(remove)),
    };
    let finalizer = |step: Option<FinalizerStep>| step.map(Request::Finalizer).into_iter();
    finalizer(first)
        .chain(decision.daemonsets.into_iter().map(Request::DaemonSet))
        .chain(decision.status.map(Request::Status))
        .chain(finalizer(last))
        .collect()
}

impl Wish {
    fn patch(&self) -> Value {
        let kind = if self.load_balancer {
            "LoadBalancer"
        } else {
            "ClusterIP"
        };
        let port = json!({ "port": self.port, "protocol": "TCP", "nodePort": 30000 });
        json!({ "spec": { "type": kind, "ports": [port] } })
    }
}

fn steps(services: usize, ports: u16, most: usize) -> impl Strategy<Value = Vec<Step>> {
    let wish = move || {
        (prop::bool::weighted(0.8), 8000..8000 + ports).prop_map(|(load_balancer, port)| Wish {
            load_balancer,
            port,
        })
    };
    let kind = || prop::sample::select(vec![Kind::Services, Kind::DaemonSets]);
    let answer = prop_oneof![
        8 => Just(Answer::Done),
        1 => Just(Answer::Failed),
        1 => Just(Answer::Lost),
        1 => Just(Answer::Late),
    ];
    let step = prop_oneof![
        6 => (0..services, wish()).prop_map(|(number, wish)| Step::Create(number, wish)),
        3 => (0..services, wish()).prop_map(|(number, wish)| Step::Edit(number, wish)),
        3 => (0..services).prop_map(Step::Delete),
        1 => (0..services).prop_map(Step::DropFinalizer),
        1 => (0..services).prop_map(Step::DeleteDaemonSet),
        8 => (kind(), 1..8_usize).prop_map(|(kind, count)| Step::Show(kind, count)),
        1 => kind().prop_map(Step::ListAnew),
        8 => Just(Step::Decide),
        12 => prop::collection::vec((any::<usize>(), answer), 1..8).prop_map(Step::Answer),
        1 => any::<usize>().prop_map(Step::Land),
        4 => (1..12_000_i64).prop_map(Step::Milliseconds),
        1 => Just(Step::Restart),
        3 => Just(Step::Rest),
    ];
    prop::collection::vec(step, 1..most)
}

fn ends_well(services: usize, steps: &[Step]) {
    let mut cluster = Cluster::new();
    for step in steps {
        cluster.happen(step);
    }
    cluster.come_to_rest();
    cluster.check();
    for number in 0..services {
        cluster.delete(&key(&format!("s{number}")));
    }
    cluster.come_to_rest();
    cluster.check();
    assert!(cluster.services.is_empty() && cluster.daemonsets.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_few_services_in_any_order_leave_nothing_behind(steps in steps(3, 2, 80)) {
        ends_well(3, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forty_services_in_any_order_leave_nothing_behind(steps in steps(40, 30, 600)) {
        ends_well(40, &steps);
    }
}
