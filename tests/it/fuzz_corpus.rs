//! The corpus of the fuzz targets, held against the same properties without a fuzzer: what was found once stays found.

#[expect(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../fuzz/properties/mod.rs"]
mod properties;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// What lies in a folder of `fuzz/`, in order of name.
fn entries(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let read = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut entries: Vec<_> = read.map(|entry| entry.expect("a readable entry").path()).collect();
    entries.sort();
    entries
}

fn names(folder: &str) -> Vec<String> {
    let name = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    entries(folder).into_iter().map(name).collect()
}

/// Replays one corpus, and names every file for which the property does not hold.
fn replay(target: &str) {
    let files = entries(&format!("corpus/{target}"));
    assert!(!files.is_empty(), "fuzz/corpus/{target} is empty, so nothing was replayed");
    let fails = |file: &PathBuf| {
        let input = fs::read(file).expect("a readable input");
        catch_unwind(AssertUnwindSafe(|| properties::check(target, &input))).is_err()
    };
    let failing: Vec<_> = files.iter().filter(|file| fails(file)).collect();
    assert!(failing.is_empty(), "{} of {} inputs fail: {failing:#?}", failing.len(), files.len());
}

#[test]
fn every_target_has_its_property_and_its_corpus_and_no_other_is_there() {
    let known: Vec<_> = properties::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), known, "fuzz/fuzz_targets");
    assert_eq!(names("corpus"), known, "fuzz/corpus");
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml"));
    let manifest = manifest.expect("the targets' manifest");
    for target in known {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "fuzz/Cargo.toml lacks {target}");
    }
}

#[test]
fn destinations_that_were_tried_once_are_judged_by_what_they_reach() {
    replay("destination");
}

#[test]
fn touch_tones_that_were_tried_once_are_keys_or_refused() {
    replay("dtmf");
}

#[test]
fn schemas_that_were_tried_once_are_schemas_or_refused() {
    replay("json_schema");
}

#[test]
fn objects_that_were_tried_once_are_read_within_their_limits() {
    replay("struct_value");
}

#[test]
fn tokens_that_were_tried_once_prove_nothing_but_what_was_minted() {
    replay("token");
}

#[test]
fn trace_contexts_that_were_tried_once_go_on_in_the_standards_form() {
    replay("trace");
}
