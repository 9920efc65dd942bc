//! A kube client for tests, which run in the real host's network: its sockets are opened on a thread in
//! the control plane's namespace, and a socket stays in the namespace that it was opened in.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ConfigExt};
use kube::config::AuthInfo;
use tokio::runtime::{Builder, Runtime};
use tower::{BoxError, ServiceBuilder};

use crate::addresses::API_PORT;
use crate::host::Host;

/// How long the API server may take to accept a connection: it is on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds a client of the API server at `server` that is authenticated by a token. To be called
/// within a tokio runtime, in which its connections then live.
pub(crate) fn build(
    control_plane: &Host,
    server: &str,
    authority: &Path,
    token: String,
) -> Result<kube::Client, Error> {
    let url = server.parse().map_err(|_| Error::Server {
        server: server.to_owned(),
    })?;
    let mut config = kube::Config::new(url);
    config.root_cert_file = Some(authority.to_owned());
    config.auth_info = AuthInfo {
        token: Some(token.into()),
        ..AuthInfo::default()
    };

    let host = control_plane.clone();
    let connector = tower::service_fn(move |_: http::Uri| connect(host.clone()));
    let connector = config
        .rustls_https_connector_with_connector(connector)
        .map_err(Error::Build)?;
    let http: HyperClient<_, Body> = HyperClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(Error::Build)?)
        .map_err(BoxError::from)
        .service(http);
    Ok(kube::Client::new(service, config.default_namespace))
}

/// For requests to the API server from code that is not asynchronous.
pub(crate) fn runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)
}

async fn connect(control_plane: Host) -> io::Result<TokioIo<tokio::net::TcpStream>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    thread::spawn(move || sender.send(open_socket(&control_plane)));
    let stream = receiver.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    Ok(TokioIo::new(tokio::net::TcpStream::from_std(stream)?))
}

fn open_socket(control_plane: &Host) -> io::Result<TcpStream> {
    let own = control_plane.addresses();
    let address = own.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let address = SocketAddr::new(*address, API_PORT);
    let connected = control_plane.within(|| TcpStream::connect_timeout(&address, CONNECT_TIMEOUT));
    let stream = connected.map_err(io::Error::other)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig's server is no URL.
    #[error("{server} is no URL of an API server")]
    Server {
        /// As it is in the kubeconfig.
        server: String,
    },
    /// tokio could not be started.
    #[error("cannot start an asynchronous runtime")]
    Runtime(#[source] io::Error),
    /// TLS or authentication.
    #[error("cannot build a client of the API server")]
    Build(#[source] kube::Error),
}
