//! A control plane, and the controller's program on it, under exactly the manifest's rights.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use svclb_e2e::{Options, Progress, Temporary, wait};
use tokio::runtime::Runtime;

/// Generous: the machine may be busy. What is waited for takes a tenth of a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where the controller's DaemonSets and pods are.
pub(crate) const NAMESPACE: &str = "kube-system";

const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: ['system:serviceaccount:kube-system:svclb-controller']
  - level: None
";

/// A control plane for all tests.
pub(crate) struct Bed {
    pub(crate) cluster: Temporary,
    pub(crate) client: Client,
    runtime: Runtime,
    /// Of the controller's ServiceAccount.
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Bed {
    pub(crate) fn up() -> anyhow::Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("api-server");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let policy = folder.join("audit-policy.yaml");
        std::fs::write(&policy, AUDIT_POLICY)?;
        let options = Options {
            name: "controller".to_owned(),
            nodes: 0,
            // Nobody keeps the tests' nodes alive, and nobody but they makes svclb pods.
            controllers:
                "*,-daemonset-controller,-node-lifecycle-controller,-taint-eviction-controller"
                    .to_owned(),
            kube_apiserver_flags: vec![
                format!("--audit-policy-file={}", policy.display()),
                format!("--audit-log-path={}", folder.join("audit.log").display()),
            ],
            ..Options::default()
        };
        let cluster = Temporary::up(&options, &Progress::silent())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = runtime.block_on(async { cluster.kube() })?;
        apply_manifest(&cluster, &folder)?;
        let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, "svclb-controller")?;
        Ok(Self {
            cluster,
            client,
            runtime,
            kubeconfig,
            folder,
        })
    }

    pub(crate) fn run<T>(
        &self,
        test: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        self.runtime.block_on(test)
    }

    /// One JSON object a line: every request of the controller.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    /// A controller that has begun to work.
    pub(crate) fn controller(&self) -> anyhow::Result<Controller> {
        self.controller_with("svclb-controller", 9300, &[])
    }

    /// A controller with these flags that has listed everything. It works unless another one does.
    pub(crate) fn controller_with(
        &self,
        identity: &str,
        port: u16,
        flags: &[&str],
    ) -> anyhow::Result<Controller> {
        let log = self.folder.join(format!("{identity}.log"));
        let metrics = format!("--metrics-address=[::]:{port}");
        let identity = format!("--identity={identity}");
        let child = self
            .program(&log)?
            .args([metrics.as_str(), &identity])
            .args(flags)
            .spawn()?;
        let controller = Controller {
            child,
            cluster: (*self.cluster).clone(),
            port,
            log,
        };
        wait::until("the controller is ready", PATIENCE, || {
            let answer = controller
                .get("/readyz")
                .map_err(|error| format!("{error:#}"))?;
            if answer == "ok\n" {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .with_context(|| controller.said())?;
        Ok(controller)
    }

    /// The program, with the controller's rights, in the control plane's network.
    pub(crate) fn program(&self, log: &Path) -> anyhow::Result<svclb_e2e::HostCommand> {
        let output = File::options().create(true).append(true).open(log)?;
        let host = self.cluster.control_plane();
        let mut command = host.command(env!("CARGO_BIN_EXE_svclb-controller"));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("SVCLB_LOG_LEVEL", "info,svclb_controller=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output);
        Ok(command)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// Takes away what an earlier test has left, whether it succeeded or not.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        let client = || self.client.clone();
        let cleared = self.run(async {
            let services = Api::<Service>::namespaced(client(), "default");
            for service in services.list(&ListParams::default()).await? {
                let finalizers = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                let name = service.name_any();
                if name != "kubernetes" {
                    gone(
                        services
                            .patch(&name, &PatchParams::default(), &finalizers)
                            .await,
                    )?;
                    gone(services.delete(&name, &DeleteParams::default()).await)?;
                }
            }
            remove_all(&Api::<DaemonSet>::namespaced(client(), NAMESPACE)).await?;
            remove_all(&Api::<Pod>::namespaced(client(), NAMESPACE)).await?;
            remove_all(&Api::<Pod>::namespaced(client(), "default")).await?;
            remove_all(&Api::<Node>::all(client())).await?;
            let slices = Api::<EndpointSlice>::namespaced(client(), "default");
            for slice in slices.list(&ListParams::default()).await? {
                let name = slice.name_any();
                if name != "kubernetes" {
                    gone(slices.delete(&name, &DeleteParams::default()).await)?;
                }
            }
            Ok(())
        });
        cleared.context("clear what an earlier test left")
    }
}

/// What is gone already need not be removed.
pub(crate) fn gone<T>(result: kube::Result<T>) -> anyhow::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => {
            other?;
            Ok(())
        }
    }
}

async fn remove_all<K>(api: &Api<K>) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    for object in api.list(&ListParams::default()).await? {
        let now = DeleteParams::default().grace_period(0);
        gone(api.delete(&object.name_any(), &now).await)?;
    }
    Ok(())
}

/// All of the manifest but the Deployment: the tests run the program themselves.
fn apply_manifest(cluster: &Temporary, folder: &Path) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/svclb.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
    let items: Vec<_> = objects
        .into_iter()
        .filter(|object| object["kind"] != "Deployment")
        .collect();
    let list = folder.join("manifest.json");
    let text = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    std::fs::write(&list, text)?;
    cluster.kubectl(&["apply", "-f", &list.display().to_string()])?;
    Ok(())
}

/// A running controller. It is killed when this is dropped.
pub(crate) struct Controller {
    child: Child,
    cluster: svclb_e2e::Cluster,
    port: u16,
    log: PathBuf,
}

impl Controller {
    /// The answer of one of its endpoints.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<String> {
        let port = self.port;
        let answer = self.cluster.control_plane().within(move || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer)
        })??;
        let (_, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
        Ok(body.to_owned())
    }

    /// A number of `/metrics`, by its full name with labels; 0 if it is not there yet.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.get("/metrics")?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?.unwrap_or_default())
    }

    /// Writes that the API server took, of one kind.
    pub(crate) fn writes(&self, kind: &str) -> anyhow::Result<f64> {
        self.metric(&format!(
            "svclb_api_writes_total{{kind=\"{kind}\",outcome=\"ok\"}}"
        ))
    }

    pub(crate) fn leads(&self) -> anyhow::Result<bool> {
        Ok(self.metric("svclb_leader")? > 0.0)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let status = self
            .cluster
            .control_plane()
            .command("kill")
            .arg(self.pid().to_string())
            .status()?;
        ensure!(status.success(), "kill: {status}");
        // A second is promised; a busy machine may need longer for the rest.
        let ended = wait::until(
            "the controller ends",
            Duration::from_secs(10),
            || match self.child.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err("it runs".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        );
        ended.with_context(|| self.said())
    }

    /// Ends it without asking (SIGKILL).
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The end of its log.
    pub(crate) fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("the controller's log:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself, which is no error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
