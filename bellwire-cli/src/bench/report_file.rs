//! The file of `--report`: complete, or not there.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    process,
};

use crate::failed::without_number;

/// A file that gets its name when it is complete. Until then it has another name in the same
/// folder.
#[derive(Debug)]
pub(crate) struct ReportFile {
    path: PathBuf,
    /// Removed when this is dropped; empty after the file has got its name.
    unfinished: PathBuf,
    file: File,
}

impl ReportFile {
    pub(crate) fn create(path: PathBuf) -> Result<Self, String> {
        if path.is_dir() {
            return Err(format!("cannot write the report: {} is a directory", path.display()));
        }
        let unfinished = beside(&path);
        match File::create_new(&unfinished) {
            Ok(file) => Ok(Self { path, unfinished, file }),
            Err(error) => Err(explain(&path, &error)),
        }
    }

    /// Writes the whole file, and replaces the one that had its name.
    pub(crate) fn write(mut self, text: &str) -> Result<(), String> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| explain(&self.unfinished, &error))?;
        fs::rename(&self.unfinished, &self.path).map_err(|error| explain(&self.path, &error))?;
        mem::take(&mut self.unfinished);
        Ok(())
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if !self.unfinished.as_os_str().is_empty() {
            // A failure to remove the file loses nothing, and the first error is reported already.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(format!(".{}.unfinished", process::id()));
    path.with_file_name(name)
}

fn explain(path: &Path, error: &io::Error) -> String {
    let error = error.to_string();
    format!("cannot write the report to {}: {}", path.display(), without_number(&error))
}
