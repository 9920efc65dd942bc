//! The connection to the API server.

use std::time::Duration;

use kube::{Client, Config};
use thiserror::Error;

/// How long a TCP and TLS handshake may take. kube's own 30 s would hide an outage.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, Error)]
pub enum Error {
    /// Neither in a pod nor with a kubeconfig.
    #[error("find the API server: neither a pod's environment nor a kubeconfig")]
    Find(#[source] Box<kube::config::InferConfigError>),
    /// The credentials or certificates are of no use.
    #[error("set up the connection to the API server")]
    SetUp(#[source] Box<kube::Error>),
}

/// A client by the pod's environment (the API server's address, no DNS), or by a kubeconfig.
pub async fn connect() -> Result<Client, Error> {
    let mut config = Config::infer()
        .await
        .map_err(|error| Error::Find(Box::new(error)))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).map_err(|error| Error::SetUp(Box::new(error)))
}
