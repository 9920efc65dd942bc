//! What the controller asks the API server for, by kind: the API server's audit log has it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The controller's requests alone, each once: a watch when it begins, everything else when it is answered.
const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: Metadata
    users: ['system:serviceaccount:kube-system:svclb-controller']
    verbs: [watch]
    omitStages: [RequestReceived, ResponseComplete]
  - level: Metadata
    users: ['system:serviceaccount:kube-system:svclb-controller']
    omitStages: [RequestReceived, ResponseStarted]
  - level: None
";

/// How many requests there were, by verb and resource ("patch services/status").
pub(super) type Requests = BTreeMap<String, f64>;

/// The API server's audit log.
pub(super) struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    /// Writes the policy into `folder`, where the log will be too.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let policy = folder.join("audit-policy.yaml");
        fs::write(&policy, POLICY).with_context(|| format!("writing {}", policy.display()))?;
        Ok(Self {
            path: folder.join("audit.log"),
        })
    }

    /// What kube-apiserver must be started with.
    pub(super) fn flags(&self) -> Vec<String> {
        vec![
            format!(
                "--audit-policy-file={}",
                self.path.with_file_name("audit-policy.yaml").display()
            ),
            format!("--audit-log-path={}", self.path.display()),
            // In MB: it must not begin a new file while it is read.
            "--audit-log-maxsize=10000".to_owned(),
        ]
    }

    /// Where it ends now.
    pub(super) fn end(&self) -> u64 {
        // Until the first request there is none.
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// The requests that were logged after `end`.
    pub(super) fn since(&self, end: u64) -> Result<Requests> {
        let reading = || format!("reading {}", self.path.display());
        let mut file = File::open(&self.path).with_context(reading)?;
        file.seek(SeekFrom::Start(end)).with_context(reading)?;
        let mut requests = Requests::new();
        for line in BufReader::new(file).lines() {
            let event: Value =
                serde_json::from_str(&line.with_context(reading)?).with_context(reading)?;
            *requests.entry(kind(&event)).or_default() += 1.0;
        }
        Ok(requests)
    }
}

fn kind(event: &Value) -> String {
    let text = |pointer| event.pointer(pointer).and_then(Value::as_str);
    let verb = text("/verb").unwrap_or_default();
    let resource = text("/objectRef/resource").unwrap_or_default();
    match text("/objectRef/subresource") {
        Some(subresource) => format!("{verb} {resource}/{subresource}"),
        None => format!("{verb} {resource}"),
    }
}
