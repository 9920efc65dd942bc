//! Files and folders, with errors that name them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What could not be done, and to which file or folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Error {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Writes to a file, which may be one of the kernel's.
pub(crate) fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    fs::write(path, contents).map_err(|source| Error::new("write", path, source))
}

/// Writes a file whole: whoever reads it meanwhile sees what was there before.
pub(crate) fn replace(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    let beside = path.with_added_extension("new");
    write(&beside, contents)?;
    fs::rename(&beside, path).map_err(|source| Error::new("write", path, source))
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::new("read", path, source))
}

/// The path without symbolic links on it.
pub(crate) fn canonical(path: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(path).map_err(|source| Error::new("find", path, source))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::new("make folder", path, source))
}

/// Removes a file. One that is not there is as good as removed.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove", path, source))
        }
        _ => Ok(()),
    }
}

/// Removes a folder with all that is in it. One that is not there is as good as removed.
pub(crate) fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::new("remove folder", path, source))
        }
        _ => Ok(()),
    }
}
