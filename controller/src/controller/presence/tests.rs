//! When the API server counts as silent.

use std::convert::Infallible;
use std::future::{Pending, pending};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt;
use hyper::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use super::SILENT_AFTER;
use crate::carry_out::Hands;
use crate::controller::{Controller, Parts};
use crate::fixtures::mk_node;
use crate::http::Readiness;
use crate::lease::Seen;
use crate::metrics::Metrics;
use crate::recorder::recorder;
use crate::settings::Settings;
use crate::watch::Change;
use crate::write::Writer;

/// An API server that never answers.
#[derive(Clone)]
struct Mute;

impl tower::Service<Request<Body>> for Mute {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pending<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        pending()
    }
}

/// A controller, and what it sees of the Lease.
fn controller() -> (Controller, watch::Sender<Seen>) {
    let client = Client::new(Mute, "default");
    let settings = Arc::new(Settings::default());
    let metrics = Arc::new(Metrics::default());
    let (sender, seen) = watch::channel(Seen::default());
    let (recorder, _) = recorder(client.clone(), Arc::clone(&metrics), "one".to_owned());
    let writer = Writer::new(client.clone(), &settings.namespace, Arc::clone(&metrics));
    let controller = Controller::new(Parts {
        client,
        settings,
        streaming_lists: false,
        identity: "one".to_owned(),
        seen,
        hands: Hands::new(writer, recorder),
        metrics,
        readiness: Readiness::default(),
    });
    (controller, sender)
}

/// The Lease was read so long ago.
fn read(ago: SignedDuration) -> Seen {
    Seen {
        answered: Some(Timestamp::now() - ago),
        holder: None,
    }
}

#[tokio::test]
async fn after_five_seconds_without_an_answer_the_api_server_counts_as_silent() {
    let (mut controller, sender) = controller();
    controller.notice_silence();
    assert!(!controller.silent, "nothing has been asked yet");
    sender.send_replace(read(SILENT_AFTER - SignedDuration::from_secs(3)));
    controller.notice_silence();
    assert!(!controller.silent);
    sender.send_replace(read(SILENT_AFTER));
    controller.notice_silence();
    assert!(controller.silent);
    sender.send_replace(read(SignedDuration::ZERO));
    controller.hear();
    assert!(!controller.silent);
}

#[tokio::test]
async fn while_the_lease_cannot_be_read_no_watch_is_started_anew() {
    let (mut controller, sender) = controller();
    sender.send_replace(read(SILENT_AFTER));
    controller.notice_silence();
    // What a watch says before it has asked anything, and what one says that is answered where the Lease's reader is not.
    let init = controller.changes.next().await.unwrap();
    let node: Node = mk_node("a", 1, serde_json::json!({}));
    for change in [init, Change::Node(Event::Apply(node))] {
        controller.take_in(change);
        assert!(controller.silent);
    }
}
