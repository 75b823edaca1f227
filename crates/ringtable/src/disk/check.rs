//! Looks whether the files of a table are whole, and changes nothing.

use std::path::{Path, PathBuf};

use super::data_folder::snapshots_in;
use super::error::Error;
use super::log::{FOLDER, Manifest, base_path, before, changes_path, survey_log};
use super::survey::survey;

/// What was found of a file.
#[derive(Debug)]
pub struct Finding {
    /// Its path.
    pub path: PathBuf,
    /// How many entries of a snapshot, or changes of a log, are whole.
    pub count: u64,
    /// Whether these are changes.
    pub is_log: bool,
    /// Bytes at its end that were never durable: a server that begins with the log cuts them off.
    pub torn: u64,
    /// What is wrong with it, if something is.
    pub damage: Option<Error>,
}

/// Looks at a file with entries, or at the folder of a server: at all files that it would begin with, and at its older
/// snapshots. `goes_on` is told now and then how many bytes were read, and how many there are, and says whether to go
/// on; `None` if not.
///
/// # Errors
/// If there is no such file or folder, or nothing in it that is a server's.
pub fn check(path: &Path, mut goes_on: impl FnMut(u64, u64) -> bool) -> Result<Option<Vec<Finding>>, Error> {
    let mut findings = Vec::new();
    let mut todo = Vec::new();
    if Error::system("looking at", path, std::fs::metadata(path))?.is_dir() {
        let folder = path.join(FOLDER);
        match Manifest::read(&folder) {
            Ok(None) => {}
            Ok(Some(manifest)) => {
                todo.push((base_path(&folder, manifest.base), None));
                for (index, &number) in manifest.changes.iter().enumerate() {
                    // What is wrong with the next file is told there.
                    let synced = before(&folder, manifest.changes.get(index + 1)).unwrap_or(0);
                    todo.push((changes_path(&folder, number), Some(synced)));
                }
            }
            Err(damage) => {
                let damage = Some(damage);
                findings.push(Finding { path: folder, count: 0, is_log: true, torn: 0, damage });
            }
        }
        todo.extend(snapshots_in(path)?.into_iter().map(|path| (path, None)));
    } else {
        todo.push((path.to_owned(), None));
    }
    let sizes = todo.iter().map(|(path, _)| std::fs::metadata(path).map_or(0, |found| found.len()));
    let sizes: Vec<u64> = sizes.collect();
    let (all, mut done) = (sizes.iter().sum(), 0);
    for ((path, synced), size) in todo.into_iter().zip(sizes) {
        let goes_on = |position: u64| goes_on(done + position, all);
        let finding = match synced {
            None => snapshot(path, goes_on),
            Some(synced) => changes(path, synced, goes_on),
        };
        let Some(finding) = finding else { return Ok(None) };
        findings.push(finding);
        done += size;
    }
    if findings.is_empty() {
        let error = std::io::Error::other("there is neither a snapshot nor a log of a server in it");
        return Error::system("looking at", path, Err(error));
    }
    Ok(Some(findings))
}

fn snapshot(path: PathBuf, goes_on: impl FnMut(u64) -> bool) -> Option<Finding> {
    let (count, damage) = match survey(&path, goes_on) {
        Ok(contents) => (contents?.entries, None),
        Err(error @ Error::Damaged { whole, .. }) => (whole, Some(error)),
        Err(error) => (0, Some(error)),
    };
    Some(Finding { path, count, is_log: false, torn: 0, damage })
}

fn changes(path: PathBuf, synced: u64, goes_on: impl FnMut(u64) -> bool) -> Option<Finding> {
    let (count, torn, damage) = match survey_log(&path, synced, goes_on) {
        Ok(found) => found.map(|found| (found.records, found.size - found.whole, None))?,
        Err(error @ Error::Damaged { whole, .. }) => (whole, 0, Some(error)),
        Err(error) => (0, 0, Some(error)),
    };
    Some(Finding { path, count, is_log: true, torn, damage })
}
