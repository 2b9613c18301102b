//! The file of `--resume`: the position of each topic.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use bellwire::{Delivery, Gap, Notification, protocol::Position};
use tempfile::NamedTempFile;

use crate::failed::{Failed, of_file};

/// For each topic, the position after the last message that was written.
pub(crate) struct Resume {
    path: PathBuf,
    positions: BTreeMap<String, Position>,
    /// Whether they differ from the file.
    is_new: bool,
}

impl Resume {
    /// Reads the file, if there is one.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Failed> {
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => b"{}".into(),
            Err(error) => return Err(of_file("read the positions in", &path, error)),
        };
        let positions = parse(&text).map_err(|error| {
            of_file("read the positions in", &path, error)
                .hint("correct the file, or remove it to begin with new messages")
        })?;
        // The file is stored at once, so that one that cannot be written is reported at the start.
        Ok(Self { path, positions, is_new: true })
    }

    pub(crate) fn position(&self, topic: &str) -> Option<Position> {
        self.positions.get(topic).copied()
    }

    /// Takes the position where a subscription has begun, unless there is one.
    pub(crate) fn begin(&mut self, topic: &str, position: Position) {
        self.positions.entry(topic.into()).or_insert(position);
    }

    /// Moves the position after this delivery. A message that is redelivered does not move it back.
    pub(crate) fn advance(&mut self, delivery: &Delivery) {
        let (topic, position) = match delivery {
            Delivery::Notification(Notification { topic, epoch, sequence: last, .. })
            | Delivery::Gap(Gap { topic, epoch, last, .. }) => {
                (topic, Position { epoch: *epoch, next: last + 1 })
            }
            Delivery::Reset { topic, position } => (topic, *position),
            _ => return,
        };
        let before = self.position(topic.as_str());
        if before.is_none_or(|before| before.epoch != position.epoch || before.next < position.next)
        {
            self.positions.insert(topic.to_string(), position);
            self.is_new = true;
        }
    }

    /// Replaces the file, if a position has changed. A kill leaves the old one or the new one.
    pub(crate) fn store(&mut self) -> Result<(), Failed> {
        if std::mem::take(&mut self.is_new) {
            let written = self.write();
            return written.map_err(|error| of_file("write the positions to", &self.path, error));
        }
        Ok(())
    }

    fn write(&self) -> std::io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        let texts = self.positions.iter().map(|(topic, at)| (topic, at.to_string()));
        serde_json::to_writer_pretty(&mut file, &texts.collect::<BTreeMap<_, _>>())?;
        file.write_all(b"\n")?;
        file.as_file().sync_data()?;
        file.persist(&self.path)?;
        Ok(())
    }
}

fn parse(text: &[u8]) -> Result<BTreeMap<String, Position>, String> {
    let texts: BTreeMap<String, String> =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let position = |text: String| text.parse().map_err(|_| format!("{text:?} is no position"));
    texts.into_iter().map(|(topic, text)| Ok((topic, position(text)?))).collect()
}

#[cfg(test)]
mod tests {
    use bellwire::protocol::{Epoch, Topic};

    use super::*;

    fn message(epoch: &str, number: u64) -> Delivery {
        let (topic, epoch) = (Topic::new("news").unwrap(), Epoch::new(epoch).unwrap());
        Delivery::Notification(Notification::new(topic, epoch, number, ""))
    }

    #[test]
    fn positions_are_stored_and_never_go_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("positions");
        let mut resume = Resume::open(path.clone()).unwrap();
        for (epoch, number) in [("a", 1), ("a", 3), ("a", 2)] {
            resume.advance(&message(epoch, number));
        }
        resume.store().unwrap();
        let mut resume = Resume::open(path.clone()).unwrap();
        assert_eq!(resume.position("news").unwrap().to_string(), "a:4");
        resume.advance(&message("b", 1));
        resume.store().unwrap();
        assert_eq!(Resume::open(path).unwrap().position("news").unwrap().to_string(), "b:2");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no other file is left");
    }
}
