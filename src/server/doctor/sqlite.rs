//! The database of `voxgate dev`: the data folder and the file in it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    postgres::schema_of,
    report::{Finding, Outcome, in_words},
};
use crate::db::examine;

const FOLDER: &str = "data_dir";
const FILE: &str = "database";

/// What was found, and the file where there is one. Blocks.
pub(super) fn examine(folder: &Path) -> (Vec<Finding>, Option<PathBuf>) {
    let of_folder = match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = format!("{} is not there yet: `voxgate dev` makes it", folder.display());
            return (vec![Finding::ok(FOLDER, found)], None);
        }
        Err(error) => {
            let found = format!("{} cannot be looked at: {error}", folder.display());
            return (vec![Finding::fault(FOLDER, found, "give the service's user the right to it")], None);
        }
        Ok(found) if !found.is_dir() => {
            let found = format!("{} is no folder", folder.display());
            return (
                vec![Finding::fault(FOLDER, found, "set VOXGATE_DATA_DIR to a folder, or to where none is yet")],
                None,
            );
        }
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            let mode = found.permissions().mode() & 0o777;
            let found = format!("{} has mode {mode:04o}: others than its owner may look into it", folder.display());
            Finding::warning(FOLDER, found, format!("chmod 700 {}", folder.display()))
        }
        Ok(_) => Finding::ok(FOLDER, format!("{} is its owner's alone", folder.display())),
    };
    let file = folder.join("voxgate.db");
    let Ok(found) = fs::metadata(&file) else {
        let found = Finding::ok(FILE, format!("{} is not there yet: `voxgate dev` makes it", file.display()));
        return (vec![of_folder, found], None);
    };
    let mut findings = vec![of_folder];
    let opened = match fs::OpenOptions::new().append(true).open(&file) {
        Ok(_) => examine::sqlite(&file).map_err(|error| in_words(&error)),
        Err(error) => Err(error.to_string()),
    };
    match opened {
        Ok(opened) => {
            findings.push(mode_of(&file, found.permissions().mode(), &opened.version));
            let migrate = "run `voxgate migrate`; `voxgate dev` does so when it starts";
            findings.push(schema_of(&opened.schema, Outcome::Warning, migrate));
            (findings, Some(file))
        }
        Err(why) => {
            let found =
                format!("{} cannot be opened: {why}; its schema and what it holds were not looked at", file.display());
            findings.push(Finding::fault(
                FILE,
                found,
                "give the service's user the right to write it, or restore it from a backup",
            ));
            (findings, None)
        }
    }
}

fn mode_of(file: &Path, mode: u32, version: &str) -> Finding {
    let found = format!("{} opens (SQLite {version})", file.display());
    let of_others = mode & 0o077;
    if of_others == 0 {
        return Finding::ok(FILE, found);
    }
    let found = format!("{found} and has mode {:04o}: it holds the key that signs tokens", mode & 0o777);
    Finding::warning(FILE, found, format!("chmod 600 {}; the next start does so", file.display()))
}

/// Whether the file is whole. Blocks for as long as the file is large.
pub(super) fn integrity(file: &Path) -> Finding {
    const CHECK: &str = "database.integrity";
    let restore = "stop the service, keep a copy of the file, and restore it from a backup";
    match examine::sqlite_damage(file) {
        Ok(damage) if damage.is_empty() => Finding::ok(CHECK, "quick_check finds the file whole"),
        Ok(damage) => Finding::fault(CHECK, format!("quick_check finds damage: {}", damage.join("; ")), restore),
        Err(error) => Finding::fault(CHECK, format!("quick_check cannot be done: {}", in_words(&error)), restore),
    }
}
