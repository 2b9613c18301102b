//! Listening on a Unix socket. A socket file is replaced only if no server listens on it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileTypeExt,
    path::Path,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::{coop::consume_budget, server::builder::Server, tcp};

/// How often the lock on the directory is tried, and the pause between tries.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

impl Server<UnixListener> {
    /// Listens on a Unix socket, as [`bind`](Server::bind) does on a TCP address.
    ///
    /// A socket file on which no server listens any more is replaced. A server that was killed
    /// leaves such a file. Other files, and sockets on which a server listens, are not touched. If
    /// several servers replace the same file at once, one gets it, because each holds a lock on the
    /// directory meanwhile.
    ///
    /// # Errors
    /// The system's, when the socket cannot be listened on; `AddrInUse` when a server listens
    /// there. The text begins with the path. [`source`](std::error::Error::source) is the system's
    /// error.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn bind_unix(path: impl AsRef<Path>) -> io::Result<Self> {
        consume_budget().await;
        let path = path.as_ref();
        let lock = lock_directory(path).await;
        let listener = bind(path).map_err(|error| tcp::at(path.display(), error));
        drop(lock);
        Ok(Self::new(listener?))
    }
}

/// Locks the directory of the file against other servers that replace the file. `None` if the lock
/// cannot be had; the file is then replaced without it.
async fn lock_directory(path: &Path) -> Option<File> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..TRIES {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
            Err(fs::TryLockError::Error(_)) => return None,
        }
    }
    None
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path)? => {
            tracing::debug!(path = %path.display(), "replacing a socket that no server listens on");
            fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Whether the file is a socket on which no server listens. The test does not wait: a server whose
/// queue is full counts as listening.
fn is_left_behind(path: &Path) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let refused = socket.connect(&SockAddr::unix(path)?).err();
    Ok(refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Client, server::Router};

    async fn answers(path: &Path) -> bool {
        Client::connect_unix(path).await.is_ok()
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(Server::bind_unix(&path).await.unwrap());
        assert!(path.exists(), "it is left behind");
        let server = Server::bind_unix(&path).await.unwrap();
        let task = tokio::spawn(server.serve(Router::new()).into_future());
        let error = Server::bind_unix(&path).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(answers(&path).await);
        task.abort();
    }

    /// A server that accepts no connection at present, and whose queue is full, still listens.
    #[tokio::test]
    async fn a_busy_socket_is_not_stolen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        busy.listen(0).unwrap();
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let one = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                one.set_nonblocking(true).unwrap();
                let _ = one.connect(&SockAddr::unix(&path).unwrap());
                one
            })
            .collect();
        let error = Server::bind_unix(&path).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(waiting);
    }

    #[tokio::test]
    async fn other_files_are_not_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let error = Server::bind_unix(path).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{}", path.display());
            assert_eq!(fs::read(path).unwrap(), b"precious");
        }
        assert!(Server::bind_unix(directory.path()).await.is_err());
    }

    /// Of many servers that start at once on a stale file, one gets it and keeps it.
    #[tokio::test]
    async fn one_of_many_servers_gets_a_stale_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(Server::bind_unix(&path).await.unwrap());
        let starting: Vec<_> = (0..16)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { Server::bind_unix(path).await })
            })
            .collect();
        let mut bound = Vec::new();
        for starting in starting {
            bound.extend(starting.await.unwrap().ok());
        }
        assert_eq!(bound.len(), 1);
        let server = bound.remove(0);
        let task = tokio::spawn(server.serve(Router::new()).into_future());
        assert!(answers(&path).await);
        task.abort();
    }
}
