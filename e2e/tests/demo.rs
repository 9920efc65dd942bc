//! The guided tour, as `make demo` gives it, on one node.
#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it cannot go on, as the test harness expects"
)]

use std::process::{Command, Output, Stdio};

/// Beside the demo that somebody may have up.
const NAME: &str = "test-demo";

/// The cluster goes, however the test ends.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        let output = svclb_e2e(&["down", "--name", NAME]);
        assert!(output.status.success(), "{output:?}");
    }
}

fn svclb_e2e(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svclb-e2e"))
        .args(arguments)
        .current_dir(svclb_e2e::repository())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// All replicas answer at the node's address, and the user is told how to go on. On the cluster that is up
/// already the tour is given again.
#[test]
fn the_tour_ends_with_answers_of_all_replicas_and_may_be_given_again() {
    let _down = Down;
    for cluster in ["all nodes are Ready", "It is up already."] {
        let output = svclb_e2e(&["demo", "--name", NAME, "--nodes", "1"]);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(output.status.success(), "{text}");
        for expected in [
            cluster,
            "$ kubectl get nodes",
            "$ kubectl get service web",
            "svclb-web-",
            "all 3 replicas have answered",
            "make kubectl",
            "make down",
        ] {
            assert!(text.contains(expected), "no `{expected}` in {text}");
        }
    }
}
