//! The style of the house, as tests: what a reviewer would otherwise say again and again.
//!
//! Each check is a function from texts to offenders, and lists every one of them at once. `the_checks_can_fail`
//! proves on small bad inputs that it does. Read with the standard library alone: comments and strings are blanked
//! out, and what remains is matched by words and braces, which is as much of Rust as these rules need.

#![expect(clippy::format_collect, reason = "a list of offenders is short and read by a person")]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_LINES: usize = 400;
/// Where metrics are described.
const TELEMETRY: &str = "src/telemetry/mod.rs";

/// Rooms from the ground up. A room imports from rows above its own in this list, never from a room beside it.
const LAYERS: &[&[&str]] = &[
    &["domain"],
    &["tls_files"],
    &["db", "redis", "traces"],
    &["admission", "agents", "control", "nodes", "sessions", "tenants", "webhooks"],
    &["calls"],
    &["proto"],
    &["client"],
    &["grpc", "node_sim", "top"],
    &["config"],
    &["telemetry"],
    &["server"],
    &["cli"],
    &["main"],
];

/// Where the wire may be spoken of.
const TONIC_ROOMS: &[&str] = &["client", "grpc", "node_sim", "proto", "server", "telemetry", "top"];

/// How concrete back-ends are named.
const BACKEND_PREFIXES: &[&str] = &["Memory", "Redis", "Sql"];

/// A text and where it came from, relative to the root of the repository.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The code without comments, strings and test modules.
    fn code(&self) -> String {
        without_tests(&blank(&self.text))
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The module's path below the crate: `src/a/b.rs` and `src/a/b/mod.rs` are both `a`, `b`.
    fn module(&self) -> Vec<&str> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').filter(|name| *name != "mod").collect()
    }

    fn room(&self) -> &str {
        self.module().first().copied().unwrap_or_default()
    }
}

// ---------------------------------------------------------------- reading

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` with the extension, in order of path. None at all is a mistake of the check's own.
fn sources(folder: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root().join(folder), &mut |path| {
        if path.extension().is_some_and(|it| it == extension) {
            let relative = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            found.push(Source { path: relative, text: fs::read_to_string(path).expect("a readable text") });
        }
    });
    assert!(!found.is_empty(), "{folder}/ holds no .{extension} file, so nothing was checked");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            walk(&path, visit);
        } else {
            visit(&path);
        }
    }
}

fn source(path: &str) -> Source {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Source { path: path.to_owned(), text }
}

/// Rust with comments, strings and characters turned into spaces, line for line.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        match end {
            Some(end) => {
                out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the comment or literal that starts at `at`, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment_length(rest));
    }
    if rest[0] == b'"' {
        return Some(at + quoted_length(rest));
    }
    if rest[0] == b'r' && (at == 0 || !is_word(bytes[at - 1]) || bytes[at - 1] == b'b') {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = 2 + hashes;
            return Some(find(&rest[body..], close.as_bytes()).map_or(bytes.len(), |it| at + body + it + close.len()));
        }
    }
    if rest[0] == b'\'' && rest.len() > 2 {
        // A character ends with a quote; a lifetime does not.
        if rest[1] == b'\\' {
            return find(&rest[3..], b"'").map(|it| at + 3 + it + 1);
        }
        let width = rest[1..].iter().skip(1).take_while(|byte| **byte & 0xC0 == 0x80).count() + 1;
        return (rest.get(1 + width) == Some(&b'\'')).then_some(at + width + 2);
    }
    None
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Blanks out every item that is behind `#[cfg(test)]`. Takes blanked code.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let end = item_end(&out, start + "#[cfg(test)]".len());
        let blanked: String = out[start..end].chars().map(|it| if it == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blanked);
    }
    out
}

/// The end of the item that starts at `at`: its closing brace, or its semicolon.
fn item_end(code: &str, at: usize) -> usize {
    match body(code, at) {
        Some((_, end)) => end,
        None => code[at..].find(';').map_or(code.len(), |it| at + it + 1),
    }
}

/// The braces of the item that starts at `at`; none if a semicolon comes first.
fn body(code: &str, at: usize) -> Option<(usize, usize)> {
    let mut nesting = 0_i32;
    let mut open = None;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' if open.is_none() => nesting += 1,
            b')' | b']' if open.is_none() => nesting -= 1,
            b';' if open.is_none() && nesting == 0 => return None,
            b'{' if open.is_none() && nesting == 0 => (open, nesting) = (Some(offset), 1),
            b'{' if open.is_some() => nesting += 1,
            b'}' if open.is_some() => {
                nesting -= 1;
                if nesting == 0 {
                    return open.map(|start| (start, offset + 1));
                }
            }
            _ => {}
        }
    }
    None
}

/// Words with their offsets.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = code.as_bytes();
        let start = at + bytes[at..].iter().position(|byte| is_word(*byte))?;
        at = start + bytes[start..].iter().take_while(|byte| is_word(**byte)).count();
        Some((start, &code[start..at]))
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Fails with all offenders, or passes with none.
fn none(rule: &str, offenders: &[String]) {
    let list: String = offenders.iter().map(|it| format!("\n  {it}")).collect();
    assert!(offenders.is_empty(), "{rule}; {} do not:{list}\n", offenders.len());
}

// ---------------------------------------------------------------- the checks

fn long_functions(sources: &[Source]) -> Vec<String> {
    let mut offenders = Vec::new();
    for source in sources.iter().filter(|it| !it.is_test()) {
        let code = source.code();
        let all: Vec<_> = words(&code).collect();
        for pair in all.windows(2).filter(|pair| pair[0].1 == "fn") {
            // `fn(…)` is a type: its next word is not beside it.
            let ((start, _), (name_at, name)) = (pair[0], pair[1]);
            if !code[start + 2..name_at].trim().is_empty() {
                continue;
            }
            let Some((_, end)) = body(&code, start) else { continue };
            let lines = line_of(&code, end - 1) - line_of(&code, start) + 1;
            if lines > MAX_FUNCTION_LINES {
                offenders.push(format!("{}:{} {name}: {lines} lines", source.path, line_of(&code, start)));
            }
        }
    }
    offenders
}

fn long_files(sources: &[Source]) -> Vec<String> {
    let mut offenders = Vec::new();
    for source in sources.iter().filter(|it| !it.is_test()) {
        let blanked = blank(&source.text);
        let tests: usize = {
            let kept = without_tests(&blanked);
            let gone = blanked.lines().zip(kept.lines()).filter(|(before, after)| before != after);
            let spans = gone.count();
            // Empty lines and comments inside a test module count as the module's.
            spans + silent_test_lines(&blanked)
        };
        let lines = source.text.lines().count() - tests;
        if lines > MAX_FILE_LINES {
            offenders.push(format!("{}: {lines} lines", source.path));
        }
    }
    offenders
}

/// Lines of test items that hold no code.
fn silent_test_lines(blanked: &str) -> usize {
    let mut count = 0;
    let mut from = 0;
    while let Some(start) = blanked[from..].find("#[cfg(test)]").map(|it| from + it) {
        let end = item_end(blanked, start + "#[cfg(test)]".len());
        count += blanked[start..end].lines().filter(|line| line.trim().is_empty()).count();
        from = end;
    }
    count
}

fn files_without_docs(sources: &[Source]) -> Vec<String> {
    sources.iter().filter(|it| !it.text.starts_with("//! ")).map(|it| it.path.clone()).collect()
}

fn tonic_outside_the_edge(sources: &[Source]) -> Vec<String> {
    let mut offenders = Vec::new();
    for source in sources.iter().filter(|it| !TONIC_ROOMS.contains(&it.room())) {
        let code = source.code();
        for (at, _) in words(&code).filter(|(_, word)| *word == "tonic" || word.starts_with("tonic_")) {
            offenders.push(format!("{}:{}", source.path, line_of(&code, at)));
        }
    }
    offenders
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn wrong_imports(sources: &[Source]) -> Vec<String> {
    let mut offenders = Vec::new();
    for source in sources.iter().filter(|it| it.room() != "lib") {
        let room = source.room();
        let Some(own) = layer(room) else {
            offenders.push(format!("{}: the room {room} has no place in LAYERS of tests/tidy.rs", source.path));
            continue;
        };
        let code = source.code();
        for (at, named) in rooms_named(source, &code) {
            if named != room && layer(&named).is_some_and(|theirs| theirs >= own) {
                offenders.push(format!("{}:{} {room} imports {named}", source.path, line_of(&code, at)));
            }
        }
    }
    offenders
}

/// The rooms that paths from the root name: `crate::x`, `crate::{x, y::z}` and as many `super` as lead there.
fn rooms_named(source: &Source, code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let depth = source.module().len();
    for (start, word) in words(code) {
        let mut at = start + word.len();
        match word {
            "crate" => {}
            "super" if !code[..start].ends_with("super::") => {
                let mut ups = 1;
                while code[at..].starts_with("::super") {
                    (at, ups) = (at + "::super".len(), ups + 1);
                }
                if ups != depth {
                    continue;
                }
            }
            _ => continue,
        }
        let Some(path) = code[at..].strip_prefix("::") else { continue };
        at += 2;
        if path.starts_with('{') {
            found.extend(heads(path).into_iter().map(|(offset, name)| (at + offset, name)));
        } else if let Some((0, name)) = words(path).next() {
            found.push((at, name.to_owned()));
        }
    }
    found
}

/// The first words of the parts of a braced group of imports.
fn heads(group: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let (mut depth, mut expecting) = (0, false);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => (depth, expecting) = (depth + 1, depth == 0),
            b'}' if depth == 1 => break,
            b'}' => depth -= 1,
            b',' => expecting = depth == 1,
            _ if expecting && is_word(byte) => {
                let name = words(&group[at..]).next().map_or("", |(_, name)| name);
                found.push((at, name.to_owned()));
                expecting = false;
            }
            _ => {}
        }
    }
    found
}

fn is_backend(word: &str) -> bool {
    // Settings are what configuration is made of, and choose nothing.
    !word.ends_with("Settings")
        && BACKEND_PREFIXES.iter().any(|prefix| {
            word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_uppercase()))
        })
}

fn backends_named_elsewhere(sources: &[Source]) -> Vec<String> {
    // What `db` and `redis` offer is what the rooms' back-ends are made of.
    let homes: BTreeSet<(String, String)> = sources
        .iter()
        .filter(|it| !["db", "redis"].contains(&it.room()))
        .flat_map(|source| {
            let code = source.code();
            let all: Vec<_> = words(&code).map(|(_, word)| word).collect();
            let defined = all.windows(2).filter(|pair| ["struct", "enum", "type"].contains(&pair[0]));
            defined
                .filter(|pair| is_backend(pair[1]))
                .map(|pair| (pair[1].to_owned(), source.room().to_owned()))
                .collect::<Vec<_>>()
        })
        .collect();
    let mut offenders = Vec::new();
    for source in sources.iter().filter(|it| it.room() != "server" && !it.is_test()) {
        let code = source.code();
        for (at, word) in words(&code) {
            let mut rooms = homes.iter().filter(|(name, _)| name == word).map(|(_, room)| room.as_str()).peekable();
            if rooms.peek().is_some() && rooms.all(|room| room != source.room()) {
                offenders.push(format!("{}:{} {word}", source.path, line_of(&code, at)));
            }
        }
    }
    offenders
}

fn allowed_lints(sources: &[Source]) -> Vec<String> {
    let mut offenders = Vec::new();
    for source in sources {
        let code = blank(&source.text);
        for attribute in ["#[allow(", "#![allow("] {
            let found = code.match_indices(attribute);
            offenders.extend(found.map(|(at, _)| format!("{}:{}", source.path, line_of(&code, at))));
        }
    }
    offenders
}

fn unfinished(sources: &[Source]) -> Vec<String> {
    let mut offenders = Vec::new();
    for source in sources {
        let code = blank(&source.text);
        for (at, word) in words(&code) {
            if ["todo", "unimplemented", "dbg"].contains(&word) && code[at + word.len()..].starts_with('!') {
                offenders.push(format!("{}:{} {word}!", source.path, line_of(&code, at)));
            }
        }
    }
    offenders
}

fn lua_without_header(sources: &[Source]) -> Vec<String> {
    let mut offenders = Vec::new();
    for source in sources {
        let header: String = source.text.lines().take_while(|line| line.starts_with("--")).collect();
        let lower = header.to_lowercase();
        let missing: Vec<_> = [
            ("KEYS", header.contains("KEYS")),
            ("ARGV", header.contains("ARGV")),
            ("result", lower.contains("result") || lower.contains("returns")),
        ]
        .into_iter()
        .filter_map(|(what, there)| (!there).then_some(what))
        .collect();
        if !missing.is_empty() {
            offenders.push(format!("{}: {}", source.path, missing.join(", ")));
        }
    }
    offenders
}

/// Every RPC of the protos as it is called on the wire: `/package.Service/Method`.
fn rpcs(protos: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for proto in protos {
        let (mut package, mut service) = ("", "");
        for line in proto.text.lines().map(str::trim) {
            let mut parts = line.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_' || it == '.'));
            match (parts.next(), parts.next()) {
                (Some("package"), Some(name)) => package = name,
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(name)) => found.push(format!("/{package}.{service}/{name}")),
                _ => {}
            }
        }
    }
    found
}

fn unregistered_rpcs(protos: &[Source], table: &Source) -> Vec<String> {
    rpcs(protos).into_iter().filter(|rpc| !table.text.contains(&format!("\"{rpc}\""))).collect()
}

fn variables(text: &str) -> BTreeSet<&str> {
    words(text)
        .map(|(_, word)| word)
        .filter(|word| {
            word.strip_prefix("VOXGATE_").is_some_and(|rest| {
                !rest.is_empty() && !rest.ends_with('_') && !rest.bytes().any(|it| it.is_ascii_lowercase())
            })
        })
        .collect()
}

fn variables_in_one_place_only(readme: &Source, config: &Source) -> Vec<String> {
    let (told, read) = (variables(&readme.text), variables(&config.text));
    let unread = told.difference(&read).map(|it| format!("{it} is in {}, not in {}", readme.path, config.path));
    let untold = read.difference(&told).map(|it| format!("{it} is in {}, not in {}", config.path, readme.path));
    unread.chain(untold).collect()
}

/// A metric as one of its places tells it: kind, name, labels.
type Metric = (String, String, Vec<String>);

/// The string literals of a piece of code, each with what follows it.
fn literals(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, from)) = rest.split_once('"') {
        let Some((literal, behind)) = from.split_once('"') else { break };
        found.push((literal, behind));
        rest = behind;
    }
    found
}

/// The end of what a parenthesis before `open` has opened.
fn closing_parenthesis(code: &str, open: usize) -> usize {
    let mut depth = 1_i32;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

/// Where the code counts: `metrics::counter!("name", "label" => value)`.
fn emitted_metrics(sources: &[Source]) -> (Vec<Metric>, Vec<String>) {
    let (mut metrics, mut nameless) = (Vec::new(), Vec::new());
    for source in sources.iter().filter(|it| !it.is_test() && it.path != TELEMETRY) {
        let code = source.code();
        for kind in ["counter", "gauge", "histogram"] {
            let call = format!("metrics::{kind}!(");
            for (at, _) in code.match_indices(&call) {
                let open = at + call.len();
                let close = closing_parenthesis(&code, open);
                let said = literals(&source.text[open..close]);
                match said.split_first() {
                    Some(((name, _), rest)) if source.text[open..].trim_start().starts_with('"') => {
                        let labels = rest.iter().filter(|(_, behind)| behind.trim_start().starts_with("=>"));
                        let labels = labels.map(|(label, _)| (*label).to_owned()).collect();
                        metrics.push((kind.to_owned(), (*name).to_owned(), labels));
                    }
                    _ => nameless.push(format!("{}:{}", source.path, line_of(&code, at))),
                }
            }
        }
    }
    (metrics, nameless)
}

/// The table of descriptions: `counter("name", &["label"], "help")`.
fn described_metrics(telemetry: &Source) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for kind in ["counter", "gauge", "histogram"] {
        for (_, row) in
            telemetry.text.match_indices(&format!("{kind}(")).map(|(at, it)| telemetry.text[at..].split_at(it.len()))
        {
            let Some(row) = row.trim_start().strip_prefix('"') else { continue };
            let Some((name, row)) = row.split_once('"') else { continue };
            let Some((labels, _)) = row.split_once("&[").and_then(|(_, row)| row.split_once(']')) else { continue };
            let labels = literals(labels).into_iter().map(|(label, _)| label.to_owned()).collect();
            metrics.push((kind.to_owned(), name.to_owned(), labels));
        }
    }
    metrics
}

/// README's table: `` | `name` | kind | `label`, `label`: values; `label` | what | ``.
fn told_metrics(readme: &Source) -> Vec<Metric> {
    let rows = readme.text.lines().filter(|line| line.starts_with("| `voxgate_"));
    let read = |row: &str| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let labels = cells.get(3)?.split(';').filter_map(|part| part.split(':').next());
        let labels = labels.flat_map(|part| part.split(',').map(|label| label.trim().trim_matches('`').to_owned()));
        Some((cells[2].to_owned(), cells[1].trim_matches('`').to_owned(), labels.filter(|it| !it.is_empty()).collect()))
    };
    rows.filter_map(read).collect()
}

fn metrics_that_differ(sources: &[Source], telemetry: &Source, readme: &Source) -> Vec<String> {
    let (emitted, mut offenders) = emitted_metrics(sources);
    let set = |metrics: Vec<Metric>| metrics.into_iter().collect::<BTreeSet<_>>();
    let places = [
        ("the code".to_owned(), set(emitted)),
        (telemetry.path.clone(), set(described_metrics(telemetry))),
        (readme.path.clone(), set(told_metrics(readme))),
    ];
    let all: BTreeSet<_> = places.iter().flat_map(|(_, metrics)| metrics).collect();
    for metric @ (kind, name, labels) in all {
        let lacking = places.iter().filter(|(_, metrics)| !metrics.contains(metric));
        offenders.extend(lacking.map(|(place, _)| format!("{place} has no {kind} {name} of {labels:?}")));
    }
    offenders
}

// ---------------------------------------------------------------- the rules

fn all_rust() -> Vec<Source> {
    let fuzz = ["fuzz/fuzz_targets", "fuzz/properties"].into_iter().flat_map(|folder| sources(folder, "rs"));
    sources("src", "rs").into_iter().chain(sources("tests", "rs")).chain(sources("benches", "rs")).chain(fuzz).collect()
}

#[test]
fn a_function_fits_on_a_screen() {
    none("functions have at most 70 lines", &long_functions(&sources("src", "rs")));
}

#[test]
fn a_file_is_about_one_thing() {
    none("files have at most 400 lines, tests aside", &long_files(&sources("src", "rs")));
}

#[test]
fn every_file_says_what_it_is_for() {
    none("files start with their `//!`", &files_without_docs(&all_rust()));
}

#[test]
fn only_the_edge_speaks_of_the_wire() {
    none(
        "only client, grpc, node_sim, proto, server, telemetry and top name tonic",
        &tonic_outside_the_edge(&sources("src", "rs")),
    );
}

#[test]
fn rooms_import_only_what_is_below_them() {
    none("rooms import from lower layers only", &wrong_imports(&sources("src", "rs")));
}

#[test]
fn back_ends_are_chosen_in_the_server_alone() {
    none("back-ends are named at home and in server", &backends_named_elsewhere(&sources("src", "rs")));
}

#[test]
fn a_lint_is_expected_with_a_reason_and_never_allowed() {
    none("lints are silenced by #[expect] with a reason", &allowed_lints(&all_rust()));
}

#[test]
fn nothing_is_left_for_later() {
    none("code is finished before it lands", &unfinished(&all_rust()));
}

#[test]
fn every_lua_file_states_its_keys_arguments_and_result() {
    none("a .lua file starts with a header of KEYS, ARGV and result", &lua_without_header(&sources("src", "lua")));
}

#[test]
fn every_rpc_has_its_line_in_the_scope_table() {
    let protos = sources("proto", "proto");
    assert!(!rpcs(&protos).is_empty(), "the protos define no RPC, so nothing was checked");
    let table = source("src/grpc/access.rs");
    none("RPCs are in src/grpc/access.rs", &unregistered_rpcs(&protos, &table));
}

#[test]
fn the_readme_and_the_code_know_the_same_environment() {
    let offenders = variables_in_one_place_only(&source("README.md"), &source("src/config.rs"));
    none("variables are both documented and read", &offenders);
}

#[test]
fn the_code_the_descriptions_and_the_readme_know_the_same_metrics() {
    let (telemetry, readme) = (source(TELEMETRY), source("README.md"));
    assert!(!described_metrics(&telemetry).is_empty(), "{TELEMETRY} describes no metric, so nothing was checked");
    let offenders = metrics_that_differ(&sources("src", "rs"), &telemetry, &readme);
    none("a metric is counted, described and in README alike", &offenders);
}

// ---------------------------------------------------------------- the checks can fail

mod the_checks_can_fail {
    use super::*;

    fn one(path: &str, text: &str) -> Vec<Source> {
        vec![Source::new(path, text)]
    }

    fn lines(count: usize) -> String {
        (0..count).fold(String::new(), |mut out, it| {
            let _ = writeln!(out, "    let _ = {it};");
            out
        })
    }

    #[test]
    fn a_function_of_71_lines_is_found_and_one_of_70_is_not() {
        let long = format!("fn short() {{}}\nfn long(a: [u8; 2]) {{\n{}}}\n", lines(69));
        assert_eq!(long_functions(&one("src/a.rs", &long)), ["src/a.rs:2 long: 71 lines"]);
        let fits = format!("fn fits() {{\n{}}}\nfn next(it: fn(u8)) {{}}\n", lines(68));
        assert!(long_functions(&one("src/a.rs", &fits)).is_empty());
    }

    #[test]
    fn braces_in_strings_characters_and_comments_do_not_count() {
        let text = format!(
            "fn a<'a>(it: &'a str) {{ let _ = (\"}}\", '}}', '\\'', r#\"\"}}\"#); /* }} /* }} */ */ // }}\n{}}}\n",
            lines(69)
        );
        assert_eq!(long_functions(&one("src/a.rs", &text)).len(), 1);
    }

    #[test]
    fn a_file_of_401_lines_is_found_and_its_tests_do_not_count() {
        let long = "// x\n".repeat(401);
        assert_eq!(long_files(&one("src/a.rs", &long)), ["src/a.rs: 401 lines"]);
        let tests = format!("{}#[cfg(test)]\nmod tests {{\n\n    // x\n{}}}\n", "// x\n".repeat(400), lines(50));
        assert!(long_files(&one("src/a.rs", &tests)).is_empty());
    }

    #[test]
    fn a_file_without_docs_is_found() {
        assert_eq!(files_without_docs(&one("src/a.rs", "use a::b;\n//! Late.")), ["src/a.rs"]);
        assert!(files_without_docs(&one("src/a.rs", "//! In time.\n")).is_empty());
    }

    #[test]
    fn tonic_is_found_inside_and_passes_at_the_edge_and_in_comments() {
        let text = "// tonic\nuse tonic::Status;\nfn f() -> tonic_types::ErrorDetails {}\n";
        assert_eq!(tonic_outside_the_edge(&one("src/calls/a.rs", text)), ["src/calls/a.rs:2", "src/calls/a.rs:3"]);
        for edge in ["src/grpc/a.rs", "src/server.rs", "src/server/tls.rs", "src/node_sim/mod.rs", "src/proto.rs"] {
            assert!(tonic_outside_the_edge(&one(edge, text)).is_empty(), "{edge}");
        }
    }

    #[test]
    fn imports_from_beside_or_above_are_found() {
        let beside = "use crate::{\n    domain::{agents::X, TenantId},\n    sessions::Y,\n};\n";
        assert_eq!(wrong_imports(&one("src/agents/a.rs", beside)), ["src/agents/a.rs:3 agents imports sessions"]);
        let above = "fn f() { crate::server::run() }";
        assert_eq!(wrong_imports(&one("src/grpc/mod.rs", above)), ["src/grpc/mod.rs:1 grpc imports server"]);
        let upward = "use super::super::calls::X;\nuse super::own::Y;\n";
        assert_eq!(wrong_imports(&one("src/domain/a.rs", upward)), ["src/domain/a.rs:1 domain imports calls"]);
        let room = "use super::db::X;\n";
        assert_eq!(wrong_imports(&one("src/domain.rs", room)), ["src/domain.rs:1 domain imports db"]);
    }

    #[test]
    fn imports_from_below_and_those_of_tests_pass_and_an_unknown_room_is_found() {
        let below = "use crate::{domain::A, db::B};\nuse super::mod_own::C;\n#[cfg(test)]\nuse crate::server::D;\n";
        assert!(wrong_imports(&one("src/agents/a.rs", below)).is_empty());
        assert_eq!(wrong_imports(&one("src/attic.rs", "")).len(), 1);
    }

    #[test]
    fn a_back_end_named_outside_its_room_is_found() {
        let files = [
            Source::new("src/agents/sql.rs", "pub struct SqlAgents; impl SqlAgents {}"),
            Source::new("src/calls/mod.rs", "use crate::agents::sql::SqlAgents;"),
            Source::new("src/server/mod.rs", "use crate::agents::sql::SqlAgents;"),
            Source::new("src/nodes/mod.rs", "use redis::RedisError;"),
            Source::new("src/db/mod.rs", "pub struct SqlPool;"),
            Source::new("src/tenants/sql.rs", "use crate::db::SqlPool;"),
        ];
        assert_eq!(backends_named_elsewhere(&files), ["src/calls/mod.rs:1 SqlAgents"]);
    }

    #[test]
    fn an_allowed_lint_is_found_and_an_expected_one_passes() {
        let text = "#![allow(dead_code)]\n#[allow(unused)]\nfn a() {}\n#[expect(unused, reason = \"#[allow(\")]\n";
        assert_eq!(allowed_lints(&one("src/a.rs", text)), ["src/a.rs:2", "src/a.rs:1"]);
    }

    #[test]
    fn unfinished_code_is_found() {
        let text = "fn a() { todo!() }\nfn b() { unimplemented!() }\nfn c() { dbg!(1); }\nfn todo() {} // todo!\n";
        assert_eq!(unfinished(&one("src/a.rs", text)).len(), 3);
    }

    #[test]
    fn a_lua_header_that_lacks_something_is_found() {
        let text = "-- KEYS[1] the agent\n-- ARGV[1] now\nreturn 1\n-- result\n";
        assert_eq!(lua_without_header(&one("src/a.lua", text)), ["src/a.lua: result"]);
        assert!(lua_without_header(&one("src/a.lua", "-- KEYS[1]\n-- ARGV[1]\n-- Returns 1\n")).is_empty());
    }

    #[test]
    fn an_rpc_that_the_scope_table_lacks_is_found() {
        let proto = "package x.v1;\n// rpc Not(A) returns (B);\nservice S {\n  rpc Get(A) returns (B);\n  rpc GetAll(A) returns (stream B) {\n}\n";
        let table = Source::new("src/grpc/access.rs", "(\"/x.v1.S/GetAll\", Scope::Read)");
        assert_eq!(unregistered_rpcs(&one("proto/x.proto", proto), &table), ["/x.v1.S/Get"]);
    }

    #[test]
    fn a_variable_known_to_one_side_is_found() {
        let readme = Source::new("README.md", "`VOXGATE_A`, VOXGATE_TOLD and VOXGATE_*");
        let config = Source::new("src/config.rs", "prefix(\"VOXGATE_\"); // VOXGATE_A, VOXGATE_READ");
        assert_eq!(
            variables_in_one_place_only(&readme, &config),
            [
                "VOXGATE_TOLD is in README.md, not in src/config.rs",
                "VOXGATE_READ is in src/config.rs, not in README.md"
            ]
        );
    }

    #[test]
    fn a_metric_that_one_place_tells_otherwise_is_found() {
        let code = "fn f() {\n    metrics::counter!(\n        \"voxgate_a_total\",\n        \"kind\" => kind.as_str(),\n\"by\" => by()\n    );\n\
                    metrics::gauge!(\"voxgate_b\").set(1.0); }";
        let telemetry = Source::new(
            TELEMETRY,
            "counter(\"voxgate_a_total\", &[\"kind\", \"by\"], \"A's.\"),\ngauge(\"voxgate_b\", &[], \"B's.\"),",
        );
        let readme = "| `voxgate_a_total` | counter | `kind`: `x`, `y`; `by` | a |\n| `voxgate_b` | gauge | | b |\n";
        let differ = |code: &str, readme: &str| {
            metrics_that_differ(&one("src/a.rs", code), &telemetry, &Source::new("README.md", readme))
        };
        assert!(differ(code, readme).is_empty(), "{:?}", differ(code, readme));
        assert_eq!(differ(code, &readme.replace("`kind`: ", "")).len(), 3, "another label");
        assert_eq!(differ(code, &readme.replace("gauge", "counter")).len(), 3, "another kind");
        assert_eq!(differ("", readme).len(), 2, "nothing is counted");
        let nameless = format!("{code} fn g() {{ metrics::gauge!(NAME).set(1.0); }}");
        assert_eq!(differ(&nameless, readme), ["src/a.rs:7"]);
    }
}
