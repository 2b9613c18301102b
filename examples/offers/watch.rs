//! The files that are at a path one after the other, however quickly: by inotify, on Linux.

use std::{
    io,
    path::{Path, PathBuf},
};

/// How often the path and the kernel's events are compared until they agree. If they still differ,
/// the folder is very busy, and the next look continues.
const TRIES: usize = 8;

/// The files that were at a path since the followed one was opened.
///
/// The kernel queues what is created, moved and deleted in the folder, and a look reads the queue.
/// A file that was moved within the folder is found at its current name.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    folder: PathBuf,
    /// The files in order, each with its current name, or `None` if it has vanished. The last one
    /// is at the path, unless the path is empty.
    passed: Vec<Option<PathBuf>>,
    /// A file that is being moved, by the cookie of the move. Its new name is still to come.
    moving: Option<(u32, PathBuf)>,
    #[cfg(target_os = "linux")]
    events: Option<rustix::fd::OwnedFd>,
}

/// A change of a name in the folder.
#[derive(Clone, Copy, Debug)]
enum Change {
    Created,
    Deleted,
    MovedFrom(u32),
    MovedTo(u32),
}

impl Watch {
    pub(crate) fn new(path: &Path) -> Self {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        let mut watch = Self {
            path: path.file_name().map_or(path.to_owned(), |name| folder.join(name)),
            folder: folder.to_owned(),
            passed: Vec::new(),
            moving: None,
            #[cfg(target_os = "linux")]
            events: None,
        };
        watch.drain();
        watch
    }

    /// See [`Watch`]; the state at the last [`settle`](Self::settle).
    pub(crate) fn passed(&self) -> &[Option<PathBuf>] {
        &self.passed
    }

    /// This many of the files were read, or are known to have vanished.
    pub(crate) fn take(&mut self, count: usize) {
        self.passed.drain(..count.min(self.passed.len()));
    }

    /// Reads the kernel's events, and checks the path, until the two agree.
    pub(crate) fn settle<T>(&mut self, look: impl Fn() -> T) -> T {
        self.drain();
        let mut seen = look();
        for _ in 0..TRIES {
            if !self.drain() {
                break;
            }
            seen = look();
        }
        seen
    }

    fn on(&mut self, change: Change, name: PathBuf) {
        if let Some((cookie, from)) = self.moving.take() {
            match change {
                Change::MovedTo(to) if to == cookie => return self.moved(&from, name),
                // The file was moved to another folder.
                _ => self.gone(&from),
            }
        }
        match change {
            Change::Deleted => self.gone(&name),
            Change::MovedFrom(cookie) => self.moving = Some((cookie, name)),
            Change::Created | Change::MovedTo(_) => self.came(name),
        }
    }

    fn moved(&mut self, from: &Path, to: PathBuf) {
        self.gone(&to);
        for at in self.passed.iter_mut().filter(|at| at.as_deref() == Some(from)) {
            *at = Some(to.clone());
        }
        if to == self.path && self.passed.last().is_none_or(|last| last.as_ref() != Some(&to)) {
            self.passed.push(Some(to));
        }
    }

    fn came(&mut self, name: PathBuf) {
        self.gone(&name);
        if name == self.path {
            self.passed.push(Some(name));
        }
    }

    /// The file at the path was removed from it, and is not elsewhere in the folder.
    fn gone(&mut self, name: &Path) {
        for at in self.passed.iter_mut().filter(|at| at.as_deref() == Some(name)) {
            *at = None;
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Watch {
    /// Without inotify there are no events.
    fn drain(&mut self) -> bool {
        false
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{ffi::OsStr, mem::MaybeUninit, os::unix::ffi::OsStrExt};

    use rustix::{
        fd::OwnedFd,
        fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
        io::Errno,
    };

    use super::{Change, Path, Watch, io};

    impl Watch {
        /// Reads the kernel's events. Returns whether anything has happened in the folder.
        pub(super) fn drain(&mut self) -> bool {
            let Some(events) = self.events.take().or_else(|| begin(&self.folder).ok()) else {
                return false;
            };
            match self.take_in(&events) {
                Ok(has_changed) => {
                    self.events = Some(events);
                    has_changed
                }
                // The folder was removed. Another one may appear.
                Err(_) => false,
            }
        }

        fn take_in(&mut self, events: &OwnedFd) -> io::Result<bool> {
            let mut buffer = [MaybeUninit::uninit(); 4_096];
            let mut reader = Reader::new(events, &mut buffer);
            let mut has_changed = false;
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(Errno::WOULDBLOCK) => return Ok(has_changed),
                    Err(error) => return Err(error.into()),
                };
                if event.events().contains(ReadFlags::IGNORED) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                has_changed = true;
                if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                    // The files that were at the path meanwhile are not known.
                    self.passed.extend([None, Some(self.path.clone())]);
                }
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                let change = change_of(event.events(), event.cookie());
                if let (Some(name), Some(change)) = (name, change) {
                    self.on(change, self.folder.join(name));
                }
            }
        }
    }

    fn begin(folder: &Path) -> io::Result<OwnedFd> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let moves = WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, folder, moves | WatchFlags::CREATE | WatchFlags::DELETE)?;
        Ok(events)
    }

    fn change_of(events: ReadFlags, cookie: u32) -> Option<Change> {
        let changes = [
            (ReadFlags::CREATE, Change::Created),
            (ReadFlags::DELETE, Change::Deleted),
            (ReadFlags::MOVED_FROM, Change::MovedFrom(cookie)),
            (ReadFlags::MOVED_TO, Change::MovedTo(cookie)),
        ];
        changes.into_iter().find(|(flag, _)| events.contains(*flag)).map(|(_, change)| change)
    }
}
