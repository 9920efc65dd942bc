//! The connection to the API server: by a pod's environment and files, or by a kubeconfig.
//!
//! The client is put together here, not by kube's `Client::try_from`: that one carries authentication plugins with it,
//! which is half a megabyte for what no pod has, and keeps idle connections with their buffers for longer than needed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use secrecy::ExposeSecret;
use thiserror::Error;
use tower::Service;

/// How long a TCP handshake may take. Longer would hide an outage.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A watch is silent for minutes: this finds a peer that has gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a connection without a request is kept. Each holds some 50 kB of buffers.
const IDLE: Duration = Duration::from_secs(10);

/// The most that is read from a connection at once. hyper's 400 kB would stay with each of the six watches.
const READ_BUFFER: usize = 32 * 1024;

/// How long a token that was read from a file is used. Kubernetes puts a new one there long before the old one ends.
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// Why there is no client.
#[derive(Debug, Error)]
pub enum Error {
    /// Neither in a pod nor with a kubeconfig.
    #[error("find the API server: KUBECONFIG is not set, and there is no pod's environment")]
    InCluster(#[source] kube::config::InClusterError),
    /// The kubeconfig cannot be read.
    #[error("read kubeconfig {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kubeconfig is not YAML.
    #[error("parse kubeconfig {}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// The kubeconfig has fields of another form.
    #[error("understand kubeconfig {}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        #[source]
        source: serde_json::Error,
    },
    /// The kubeconfig lacks what is needed.
    #[error("use kubeconfig {}", path.display())]
    Use {
        /// The file.
        path: PathBuf,
        /// What is missing.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The certificates are of no use.
    #[error("set up TLS to the API server")]
    Tls(#[source] Box<kube::Error>),
    /// The token has characters that no header may have.
    #[error("use the API server's token")]
    Token(#[source] hyper::header::InvalidHeaderValue),
    /// The user needs a plugin.
    #[error("use the kubeconfig's user: only tokens and client certificates are supported")]
    Unsupported,
}

/// A client by the file that KUBECONFIG names, else by the pod's environment: by address, without DNS.
pub async fn connect() -> Result<Client, Error> {
    let config = match std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
        Some(path) => by_kubeconfig(path.into()).await?,
        None => Config::incluster().map_err(Error::InCluster)?,
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_nodelay(true);
    let tls = config
        .rustls_https_connector_with_connector(tcp)
        .map_err(|error| Error::Tls(Box::new(error)))?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_max_buf_size(READ_BUFFER)
        .build(tls);
    let authorized = Authorized {
        inner: http,
        token: Token::of(&config.auth_info)?.map(Arc::new),
    };
    Ok(
        ClientBuilder::new(authorized, config.default_namespace.clone())
            .with_layer(&config.base_uri_layer())
            .build(),
    )
}

async fn by_kubeconfig(path: PathBuf) -> Result<Config, Error> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(Error::Read { path, source }),
    };
    // By way of a value: kube's own reader would instantiate all of YAML for these types once more.
    let value: serde_json::Value = match serde_saphyr::from_str(&text) {
        Ok(value) => value,
        Err(source) => {
            let source = Box::new(source);
            return Err(Error::Syntax { path, source });
        }
    };
    let kubeconfig: Kubeconfig = match serde_json::from_value(value) {
        Ok(kubeconfig) => kubeconfig,
        Err(source) => return Err(Error::Form { path, source }),
    };
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|source| Error::Use {
            path,
            source: Box::new(source),
        })
}

/// What goes into the header `Authorization`.
#[derive(Debug)]
enum Token {
    Fixed(HeaderValue),
    File {
        path: PathBuf,
        read: Mutex<Option<(HeaderValue, Instant)>>,
    },
}

impl Token {
    /// Nothing where a client certificate says who asks.
    fn of(user: &AuthInfo) -> Result<Option<Self>, Error> {
        if user.exec.is_some() || user.auth_provider.is_some() || user.username.is_some() {
            return Err(Error::Unsupported);
        }
        if let Some(token) = &user.token {
            let header = bearer(token.expose_secret()).map_err(Error::Token)?;
            return Ok(Some(Self::Fixed(header)));
        }
        Ok(user.token_file.as_ref().map(|path| Self::File {
            path: path.into(),
            read: Mutex::new(None),
        }))
    }

    fn header(&self) -> Option<HeaderValue> {
        let (path, read) = match self {
            Self::Fixed(header) => return Some(header.clone()),
            Self::File { path, read } => (path, read),
        };
        let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = read
            .as_ref()
            .is_some_and(|(_, at)| at.elapsed() < TOKEN_AGE);
        if !fresh {
            // One that cannot be read just now leaves the last one in use.
            match std::fs::read_to_string(path) {
                Ok(text) => match bearer(text.trim()) {
                    Ok(header) => *read = Some((header, Instant::now())),
                    Err(error) => tracing::warn!(%error, "use the token in {}", path.display()),
                },
                Err(error) => tracing::warn!(%error, "read the token in {}", path.display()),
            }
        }
        read.as_ref().map(|(header, _)| header.clone())
    }
}

fn bearer(token: &str) -> Result<HeaderValue, hyper::header::InvalidHeaderValue> {
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Says with each request who asks.
#[derive(Clone)]
struct Authorized<S> {
    inner: S,
    token: Option<Arc<Token>>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Authorized<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        if let Some(header) = self.token.as_ref().and_then(|token| token.header()) {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_file_without_the_line_end() {
        let path = std::env::temp_dir().join(format!("svclb-token-{}", std::process::id()));
        std::fs::write(&path, "abc\n").unwrap();
        let user = AuthInfo {
            token_file: Some(path.display().to_string()),
            ..AuthInfo::default()
        };
        let token = Token::of(&user).unwrap().unwrap();
        assert_eq!(token.header().unwrap(), "Bearer abc");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(token.header().unwrap(), "Bearer abc", "it is remembered");
    }

    #[test]
    fn a_user_that_needs_a_plugin_is_refused() {
        let user: AuthInfo =
            serde_json::from_value(serde_json::json!({"exec": {"command": "login"}})).unwrap();
        assert!(matches!(Token::of(&user), Err(Error::Unsupported)));
    }

    #[test]
    fn a_client_certificate_needs_no_token() {
        assert!(Token::of(&AuthInfo::default()).unwrap().is_none());
    }
}
