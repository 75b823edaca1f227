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
/// snapshots. `goes_on` says now and then whether to go on; `None` if not.
///
/// # Errors
/// If there is no such file or folder, or nothing in it that is a server's.
pub fn check(path: &Path, mut goes_on: impl FnMut() -> bool) -> Result<Option<Vec<Finding>>, Error> {
    if !Error::system("looking at", path, std::fs::metadata(path))?.is_dir() {
        return Ok(snapshot(path, &mut goes_on).map(|finding| vec![finding]));
    }
    let folder = path.join(FOLDER);
    let mut findings = Vec::new();
    match Manifest::read(&folder) {
        Ok(None) => {}
        Ok(Some(manifest)) => {
            let Some(base) = snapshot(&base_path(&folder, manifest.base), &mut goes_on) else { return Ok(None) };
            findings.push(base);
            for (index, &number) in manifest.changes.iter().enumerate() {
                if !goes_on() {
                    return Ok(None);
                }
                let next = manifest.changes.get(index + 1);
                findings.push(changes(changes_path(&folder, number), before(&folder, next)));
            }
        }
        Err(damage) => {
            let damage = Some(damage);
            findings.push(Finding { path: folder, count: 0, is_log: true, torn: 0, damage });
        }
    }
    for path in snapshots_in(path)? {
        let Some(finding) = snapshot(&path, &mut goes_on) else { return Ok(None) };
        findings.push(finding);
    }
    if findings.is_empty() {
        let error = std::io::Error::other("there is neither a snapshot nor a log of a server in it");
        return Error::system("looking at", path, Err(error));
    }
    Ok(Some(findings))
}

fn snapshot(path: &Path, goes_on: &mut impl FnMut() -> bool) -> Option<Finding> {
    let (count, damage) = match survey(path, |_| goes_on()) {
        Ok(contents) => (contents?.entries, None),
        Err(error @ Error::Damaged { whole, .. }) => (whole, Some(error)),
        Err(error) => (0, Some(error)),
    };
    Some(Finding { path: path.to_owned(), count, is_log: false, torn: 0, damage })
}

fn changes(path: PathBuf, synced: Result<u64, Error>) -> Finding {
    // What is wrong with the next file is told there.
    match survey_log(&path, synced.unwrap_or(0)) {
        Ok(found) => Finding { path, count: found.records, is_log: true, torn: found.size - found.whole, damage: None },
        Err(error) => {
            let count = if let Error::Damaged { whole, .. } = error { whole } else { 0 };
            Finding { path, count, is_log: true, torn: 0, damage: Some(error) }
        }
    }
}
