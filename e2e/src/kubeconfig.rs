//! kubeconfig files, which say where the API server is and who asks. They are written as JSON, which is
//! YAML too.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::files;

/// The content of a kubeconfig.
pub(crate) fn render(server: &str, authority: &Path, user: &str, token: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "svclb", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "svclb", "context": {"cluster": "svclb", "user": user}}],
        "current-context": "svclb",
    });
    format!("{config:#}\n")
}

/// The token in a kubeconfig that `render` wrote.
pub(crate) fn token(path: &Path) -> Result<String, Error> {
    let not_ours = || Error::NotOurs {
        path: path.to_owned(),
    };
    let config: Value = serde_json::from_str(&files::read(path)?).map_err(|_| not_ours())?;
    let token = config
        .pointer("/users/0/user/token")
        .and_then(Value::as_str);
    token.map(str::to_owned).ok_or_else(not_ours)
}

/// What is wrong with a kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no token where ours have it.
    #[error("{} is no kubeconfig of this cluster", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// It could not be read.
    #[error(transparent)]
    File(#[from] files::Error),
}
