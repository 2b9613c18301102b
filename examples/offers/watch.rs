//! The files that stand at a path one after the other, however quickly: by inotify, on Linux.

use std::{
    io,
    path::{Path, PathBuf},
};

/// How often it is looked whether the path and what the kernel notes agree. Past it the folder is so
/// busy that the next look has to do.
const TRIES: usize = 8;

/// The files that have stood at a path since the one that is followed was opened.
///
/// The kernel notes what is created, moved and deleted in the folder; a look takes it in. A file that
/// was moved within the folder is found where it is now.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    folder: PathBuf,
    /// In their order, each where it is now, or `None` if it is gone; the last stands at the path,
    /// unless that is empty.
    passed: Vec<Option<PathBuf>>,
    /// A file that is being moved, by the number of that; what is to come is its new name.
    moving: Option<(u32, PathBuf)>,
    #[cfg(target_os = "linux")]
    events: Option<rustix::fd::OwnedFd>,
}

/// What happens to a name in the folder.
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

    /// See [`Watch`]; as of the last [`settle`](Self::settle).
    pub(crate) fn passed(&self) -> &[Option<PathBuf>] {
        &self.passed
    }

    /// So many of them are read, or known to be gone.
    pub(crate) fn take(&mut self, count: usize) {
        self.passed.drain(..count.min(self.passed.len()));
    }

    /// Takes in what has happened, and looks at the path, so that the two agree.
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
                // It went to another folder.
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

    /// What stood there does so no more, and nowhere else.
    fn gone(&mut self, name: &Path) {
        for at in self.passed.iter_mut().filter(|at| at.as_deref() == Some(name)) {
            *at = None;
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Watch {
    /// Nothing tells of what happens.
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
        /// Takes in what has happened; whether anything has, in the folder.
        pub(super) fn drain(&mut self) -> bool {
            let Some(events) = self.events.take().or_else(|| begin(&self.folder).ok()) else {
                return false;
            };
            match self.take_in(&events) {
                Ok(has_changed) => {
                    self.events = Some(events);
                    has_changed
                }
                // The folder is gone; another may come.
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
                    // Whatever stood there meanwhile is not known.
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
