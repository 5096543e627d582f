//! Where networks are found: a socket for each, side by side in a directory for their owner alone.
//!
//! `networks/NAME.sock` below the directory of the other control sockets. What a network is, its process alone knows: nothing
//! else is kept, so that nothing can contradict it after a crash. A socket that nobody answers at is a network that is gone.
//!
//! Two kinds of locks, which end with whoever holds them: one for making and ending networks, since subnets must not overlap, and
//! one for each network for connecting containers to it, since what is leased is what the members have. All are bytes of one
//! file, `.lock`, which stays. A file for each network would stay as well: it could not be removed without somebody who has it open
//! already locking what nobody else will find.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::{ClientError, Connection};
use crate::config::network::wish::NetworkName;
use crate::run::instance;
use crate::sys::byte_lock;

const LOCKS: &str = ".lock";
/// The byte that is the lock on all networks.
const ALL: u32 = 0;

/// The directory of networks.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
}

/// A lock, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Place {
    /// Ours, made if it is not there.
    pub fn own() -> Result<Place, ClientError> {
        let failed = |error| ClientError::Place { source: error };
        let directory = instance::own_directory().map_err(failed)?.join(instance::NETWORKS);
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        if !instance::is_ours(&directory) {
            let text = format!("{} is not for us alone", directory.display());
            return Err(failed(io::Error::other(text)));
        }
        Ok(Place { directory })
    }

    /// The socket of a network.
    #[must_use]
    pub fn socket(&self, name: &NetworkName) -> PathBuf {
        self.directory.join(format!("{name}.sock"))
    }

    /// Keeps everybody else from making and ending networks.
    pub fn lock_all(&self) -> Result<Lock, ClientError> {
        self.lock(ALL)
    }

    /// Keeps everybody else from connecting containers to this network.
    pub fn lock_members(&self, name: &NetworkName) -> Result<Lock, ClientError> {
        self.lock(byte_of(name))
    }

    fn lock(&self, byte: u32) -> Result<Lock, ClientError> {
        let path = self.directory.join(LOCKS);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let locked = opened.and_then(|file| byte_lock::lock(&file, byte).map(|()| file));
        locked.map(|file| Lock { _file: file }).map_err(|source| ClientError::Place { source })
    }

    /// The network of that name, if its process answers.
    pub fn open(&self, name: &NetworkName) -> Result<Option<Connection>, ClientError> {
        let path = self.socket(name);
        match Connection::open(&path) {
            Ok(connection) => Ok(Some(connection)),
            Err(ClientError::Connect { source, .. }) if is_absence(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, where it has to be there.
    pub fn reach(&self, name: &NetworkName) -> Result<Connection, ClientError> {
        self.open(name)?.ok_or_else(|| ClientError::NoNetwork { name: name.to_string() })
    }

    /// Removes what a network that is gone has left; to be called under [`Self::lock_all`].
    pub fn clear(&self, name: &NetworkName) -> Result<(), ClientError> {
        match fs::remove_file(self.socket(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ClientError::Place { source: error })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The names of all networks, those included that are gone without a word, in order.
    pub fn names(&self) -> Result<Vec<NetworkName>, ClientError> {
        let entries = fs::read_dir(&self.directory).map_err(|source| ClientError::Place { source })?;
        let name_of = |path: &Path| {
            let is_socket = path.extension().is_some_and(|extension| extension == "sock");
            path.file_stem().filter(|_| is_socket)?.to_str()?.parse().ok()
        };
        let mut names: Vec<NetworkName> =
            entries.flatten().filter_map(|entry| name_of(&entry.path())).collect();
        names.sort();
        Ok(names)
    }
}

/// The byte that is the lock on a network's members, by FNV-1a. Should two networks share one, they wait for each other.
fn byte_of(name: &NetworkName) -> u32 {
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let hash = name.to_string().bytes().fold(0x811c_9dc5, hash);
    if hash == ALL { 1 } else { hash }
}

/// Whether nobody is there, as opposed to somebody who does not answer.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
